r"""Split what the model wrote into its reasoning and its answer.

The model has two modes. In the *short* mode the prompt already holds an empty block, `<think>\n\n</think>\n\n`, and
everything the model writes is the answer. In the *long* mode the prompt ends with `<think>\n`: the model starts in the
middle of its reasoning and closes the block itself, so the opening tag never appears in what it writes.

    text -> split_reasoning -> Split(reasoning, answer)          pieces -> ReasoningSplitter -> pieces with a channel

The streaming form gives the same result as the whole text for any way of cutting it into pieces.
"""

from dataclasses import dataclass
from typing import Literal

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"

Channel = Literal["reasoning", "answer"]


@dataclass(frozen=True, slots=True)
class Split:
    """What the model wrote, in two parts.

    `reasoning` is None when there was none to expect; it is a string, perhaps empty, when the model was thinking. An
    answer that was cut off while the model still reasoned is empty.
    """

    reasoning: str | None
    answer: str


def split_reasoning(text: str, *, thinking: bool) -> Split:
    r"""The reasoning and the answer in a complete text.

    Args:
        text: what the model wrote after the prompt; an opening `<think>` at its start is accepted and dropped.
        thinking: whether the prompt ended inside an open thinking block.

    >>> split_reasoning("two and two\n</think>\n\n4", thinking=True)
    Split(reasoning='two and two', answer='4')
    >>> split_reasoning("4", thinking=False)
    Split(reasoning=None, answer='4')
    >>> split_reasoning("two and", thinking=True)
    Split(reasoning='two and', answer='')
    """
    splitter = ReasoningSplitter(thinking=thinking)
    pieces = splitter.feed(text) + splitter.finish()
    reasoning = "".join(piece for channel, piece in pieces if channel == "reasoning").strip()
    answer = "".join(piece for channel, piece in pieces if channel == "answer").strip()
    return Split(reasoning if splitter.reasoned else None, answer)


class ReasoningSplitter:
    """Sort streamed pieces of text into reasoning and answer.

    Text that could be the beginning of a tag, and white space around a tag, is held back until it is clear what it is;
    so what was handed out never has to be taken back.

    Args:
        thinking: whether the prompt ended inside an open thinking block.
    """

    def __init__(self, *, thinking: bool) -> None:
        self.reasoned = thinking
        self._channel: Channel = "reasoning" if thinking else "answer"
        self._held = ""
        self._at_start = True
        self._opened = False

    @property
    def channel(self) -> Channel:
        """Where the text that is being written belongs."""
        return self._channel

    def feed(self, piece: str) -> list[tuple[Channel, str]]:
        """The text that has become certain with this piece, in order; empty pieces are left out."""
        self._held += piece
        out: list[tuple[Channel, str]] = []
        if self._at_start and not self._pass_start():
            return out
        if self._channel == "reasoning":
            before, tag, after = self._held.partition(THINK_CLOSE)
            if tag:
                self._emit(out, before.rstrip())
                self._channel, self._held, self._at_start = "answer", after.lstrip(), not after.strip()
            else:
                certain = len(before) - _held_length(before)
                self._emit(out, before[:certain])
                self._held = before[certain:]
                return out
        self._emit(out, self._held)
        self._held = ""
        return out

    def finish(self) -> list[tuple[Channel, str]]:
        """The text that was still held back when the model stopped."""
        out: list[tuple[Channel, str]] = []
        self._emit(out, self._held.rstrip() if self._channel == "reasoning" else self._held)
        self._held = ""
        return out

    def _pass_start(self) -> bool:
        """Drop white space and an opening tag at the start of a channel; False while more text is needed to tell."""
        self._held = self._held.lstrip()
        if not self._held or (THINK_OPEN.startswith(self._held) and self._held != THINK_OPEN and self._may_open):
            return False
        if self._held.startswith(THINK_OPEN) and self._may_open:
            self._opened = True
            self._held = self._held[len(THINK_OPEN) :].lstrip()
            self._channel, self.reasoned = "reasoning", True
            self._at_start = not self._held
            return bool(self._held)
        self._at_start = False
        return True

    @property
    def _may_open(self) -> bool:
        """Whether a tag may open the block; inside of one and behind it, another opening tag is ordinary text."""
        return not self._opened and not (self.reasoned and self._channel == "answer")

    def _emit(self, out: list[tuple[Channel, str]], text: str) -> None:
        if text:
            out.append((self._channel, text))


def _held_length(text: str) -> int:
    """How many characters at the end of `text` may still belong to a closing tag or to the white space before it."""
    stripped = text.rstrip()
    for length in range(min(len(THINK_CLOSE) - 1, len(stripped)), 0, -1):
        if THINK_CLOSE.startswith(stripped[-length:]) and text == stripped:
            before = stripped[:-length]
            return len(text) - len(before.rstrip())
    return len(text) - len(stripped)
