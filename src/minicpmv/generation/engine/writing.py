"""What a request has written, as text: sorted into reasoning and answer, ended by stop strings, watched for loops.

token -> Writer.feed -> [Delta, ...]        tokens -> loops -> bool
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minicpmv.generation.decoding import IncrementalDecoder
from minicpmv.generation.thinking import Channel, ReasoningSplitter

LONGEST_PERIOD = 64
"""Longest piece, in tokens, whose repetition is noticed. Ours."""
FEWEST_REPEATS = 8
"""A piece that follows itself fewer times than this is no loop. Ours."""
SHORTEST_LOOP = 96
"""A loop has at least this many tokens, so that a dotted line or a row of zeros is none. Ours."""
LONGEST_LOOP = max(SHORTEST_LOOP, FEWEST_REPEATS * LONGEST_PERIOD)
"""Tokens at the end of an answer that tell whether it loops."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of a streamed answer, and which part of it this is."""

    text: str
    channel: Channel


class Writer:
    """Turns the tokens of one answer into pieces of text that are certain.

    Args:
        tokenizer: anything with transformers' `decode`.
        thinking: whether the prompt ended inside an open thinking block.
        stop: strings that end the answer and are no part of it; in the reasoning they mean nothing.

    Attributes:
        stopped_by: the stop string that came, if one did.
    """

    def __init__(self, tokenizer: Any, *, thinking: bool, stop: Sequence[str] = ()) -> None:
        self.stopped_by: str | None = None
        self._decoder = IncrementalDecoder(tokenizer)
        self._splitter = ReasoningSplitter(thinking=thinking)
        self._stop = [text for text in stop if text]
        self._held = ""

    @property
    def is_reasoning(self) -> bool:
        """Whether the thinking block is still open."""
        return self._splitter.channel == "reasoning"

    @property
    def reasoned(self) -> bool:
        """Whether there was a thinking block."""
        return self._splitter.reasoned

    def feed(self, token: int) -> list[Delta]:
        """The text that has become certain with this token."""
        return self._sorted(self._splitter.feed(self._decoder.feed([token])), final=False)

    def finish(self) -> list[Delta]:
        """The text that was still held back when the answer ended."""
        if self.stopped_by is not None:
            return []
        pieces = self._splitter.feed(self._decoder.finish()) + self._splitter.finish()
        return self._sorted(pieces, final=True)

    def _sorted(self, pieces: Sequence[tuple[Channel, str]], *, final: bool) -> list[Delta]:
        out = [Delta(text, channel) for channel, text in pieces if channel == "reasoning"]
        self._held += "".join(text for channel, text in pieces if channel == "answer")
        if self.stopped_by is not None:
            return out
        found = [(place, stop) for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            place, self.stopped_by = min(found)
            self._held = self._held[:place]
            final = True
        certain = len(self._held) if final else len(self._held) - self._perhaps_stop()
        if certain:
            out.append(Delta(self._held[:certain], "answer"))
            self._held = self._held[certain:]
        return out

    def _perhaps_stop(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        for length in range(min(max(map(len, self._stop), default=1) - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0


def loops(written: Sequence[int]) -> bool:
    """Whether an answer has begun to say the same thing over and over, as readers of pages sometimes do.

    Args:
        written: ids so far.

    >>> loops([5, 6, 7] * 40), loops(list(range(200))), loops([0] * 50)
    (True, False, False)
    """
    num = len(written)
    if num < SHORTEST_LOOP:
        return False
    for period in range(1, LONGEST_PERIOD + 1):
        length = max(SHORTEST_LOOP, FEWEST_REPEATS * period)
        if length > num:
            return False
        if written[-1] != written[-1 - period]:
            continue
        tail = written[-length:]
        if list(tail[period:]) == list(tail[:-period]):
            return True
    return False
