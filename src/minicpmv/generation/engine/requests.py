"""A request from its submission to its end, and what whoever submitted it gets to see.

EnginePrompt + RequestOptions -> Request -> Wrote, Wrote, ..., Finished or Failed
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from minicpmv.errors import OptionError
from minicpmv.generation.engine.blocks import Key, block_keys, extend_key
from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.sampling import Choice, SamplingParams
from minicpmv.generation.engine.writing import Delta, Writer

EndReason = Literal["stop", "length", "cancelled", "deadline", "repetition"]

_NUMBERS = itertools.count()


class Grammar(Protocol):
    """What an answer may consist of; one object per request, which follows what is written."""

    def allowed(self) -> Tensor | None:
        """Bool [vocabulary], what may come next; None for everything."""

    def accept(self, token: int) -> bool:
        """Follow a token; whether the answer is complete and nothing may come after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestOptions:
    """What is asked of the engine beside the prompt."""

    max_new_tokens: int
    """Longest answer, reasoning included."""

    min_new_tokens: int = 0
    """Before so many tokens the answer does not end by itself."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    """How tokens are chosen."""

    stop: tuple[str, ...] = ()
    """Strings that end the answer and are no part of it."""

    think: bool = False
    """Whether the prompt ends inside an open thinking block."""

    thinking_budget: int | None = None
    """Longest reasoning in tokens; then the block is closed, and the answer follows."""

    guard: bool = True
    """End an answer that says the same thing over and over."""

    deadline_s: float | None = None
    """Seconds after submission at which the answer ends wherever it is."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise OptionError(f"max_new_tokens is {self.max_new_tokens}.", remedy="It must be at least 1.")
        if self.thinking_budget is not None and self.thinking_budget < 0:
            raise OptionError(f"thinking_budget is {self.thinking_budget}.", remedy="It must be at least 0.")
        if self.deadline_s is not None and self.deadline_s <= 0:
            raise OptionError(f"deadline_s is {self.deadline_s}.", remedy="It must be more than 0.")


@dataclass(frozen=True, slots=True)
class Wrote:
    """A token, and the text that has become certain with it; that may be none."""

    choice: Choice
    deltas: tuple[Delta, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took.

    Attributes:
        prompt_tokens: all of them.
        visual_tokens: those that stand for pictures and clips.
        cached_tokens: those that another request had read before.
        new_tokens: reasoning and answer, the closing token included.
        reasoning_tokens: those before the end of the thinking block.
        queued_s: seconds before the first step.
        first_token_s: seconds from submission to the first token; None without one.
        seconds: from submission to the end.
    """

    prompt_tokens: int
    visual_tokens: int
    cached_tokens: int
    new_tokens: int
    reasoning_tokens: int
    queued_s: float
    first_token_s: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The end: text that was held back, the reason, the stop string if that was it, and what it took."""

    deltas: tuple[Delta, ...]
    reason: EndReason
    stopped_by: str | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """The end by an error; nothing more comes."""

    error: BaseException


Event = Wrote | Finished | Failed
Listener = Callable[[Event], None]


class Request:
    """A prompt on its way through the engine. Only the engine's thread changes it.

    Args:
        prompt: what is read.
        options: how it is answered.
        writer: turns tokens into text.
        listener: called with every event, in the engine's thread; it must not block.
        grammar: what the answer may consist of.
        waits_for: a request with the same prompt that reads it first.
    """

    def __init__(
        self,
        prompt: EnginePrompt,
        options: RequestOptions,
        writer: Writer,
        listener: Listener,
        *,
        grammar: Grammar | None = None,
        waits_for: "Request | None" = None,
    ) -> None:
        self.number = next(_NUMBERS)
        self.prompt, self.options, self.writer, self.listener = prompt, options, writer, listener
        self.grammar, self.waits_for = grammar, waits_for
        self.generator = options.sampling.generator()
        self.ids: list[int] = list(prompt.ids)
        self.forced: deque[int] = deque()
        self.blocks: list[int] = []
        self.num_read = 0
        """Tokens whose keys and values are in memory."""
        self.num_cached = 0
        self.num_published = 0
        """Of its blocks, those that others can find."""
        self.num_reasoning = 0
        self.features: dict[int, Tensor] = {}
        """Features of packs that have been encoded and not been read yet."""
        self.is_over = False
        self.is_cancelled = False
        self.submitted_at = time.monotonic()
        self.began_at: float | None = None
        self.first_token_at: float | None = None
        self._content = prompt.content()
        self._keys: list[Key] | None = None

    @property
    def num_new(self) -> int:
        """Tokens written so far."""
        return len(self.ids) - len(self.prompt.ids)

    @property
    def written(self) -> list[int]:
        """Ids of reasoning and answer so far."""
        return self.ids[len(self.prompt.ids) :]

    @property
    def is_reading(self) -> bool:
        """Whether more than the newest token is still to be read."""
        return len(self.ids) - self.num_read > 1

    @property
    def is_late(self) -> bool:
        """Whether its time is up."""
        deadline = self.options.deadline_s
        return deadline is not None and time.monotonic() - self.submitted_at >= deadline

    @property
    def most_tokens(self) -> int:
        """Prompt and longest answer together."""
        return len(self.prompt.ids) + self.options.max_new_tokens

    def keys(self, block_tokens: int) -> list[Key]:
        """Keys of all full blocks of what has been said so far."""
        if self._keys is None:
            self._keys = block_keys(self._content, block_tokens)
        prompt = len(self.prompt.ids)
        while len(self.ids) >= (len(self._keys) + 1) * block_tokens:
            start = len(self._keys) * block_tokens
            said = np.array(self.ids[max(start, prompt) : start + block_tokens], dtype=np.int64)
            content = np.concatenate([self._content[start:], said]) if start < prompt else said
            self._keys.append(extend_key(self._keys[-1] if self._keys else b"", content))
        return self._keys

    def usage(self) -> Usage:
        """What it has taken so far."""
        now = time.monotonic()
        return Usage(
            prompt_tokens=len(self.prompt.ids),
            visual_tokens=self.prompt.num_visual_tokens,
            cached_tokens=self.num_cached,
            new_tokens=self.num_new,
            reasoning_tokens=self.num_reasoning,
            queued_s=(self.began_at or now) - self.submitted_at,
            first_token_s=None if self.first_token_at is None else self.first_token_at - self.submitted_at,
            seconds=now - self.submitted_at,
        )

    def end(self, reason: EndReason) -> None:
        """Tell the listener that it is over."""
        self.is_over = True
        deltas = tuple(self.writer.finish())
        self.tell(Finished(deltas, reason, self.writer.stopped_by, self.usage()))

    def fail(self, error: BaseException) -> None:
        """Tell the listener that something went wrong."""
        self.is_over = True
        self.tell(Failed(error))

    def tell(self, event: Event) -> None:
        """Call the listener; one that fails has nobody left who wants an answer."""
        try:
            self.listener(event)
        except Exception:  # whatever a caller's code raises, the engine's thread goes on
            self.is_cancelled = True


def ended_text(events: Sequence[Event]) -> tuple[str, str]:
    """Reasoning and answer of all events together."""
    deltas = [delta for event in events if not isinstance(event, Failed) for delta in event.deltas]
    parts: dict[Any, str] = {"reasoning": "", "answer": ""}
    for delta in deltas:
        parts[delta.channel] += delta.text
    return parts["reasoning"], parts["answer"]
