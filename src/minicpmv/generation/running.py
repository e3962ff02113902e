"""Run `generate`, in the foreground or behind an iterator, and keep the time.

    inputs + arguments -> complete() -> Completed            inputs + arguments -> TokenStream -> ids as they come

Sampling with a seed runs on a copy of the random state, so that asking a question changes nothing for the caller. The
stream runs `generate` in a thread of its own: an exception there is raised again where the stream is read, and leaving
the loop early stops the thread, so a reader can neither hang nor leave work behind.
"""

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from minicpmv.errors import ContextLengthError
from minicpmv.generation.engine.kernels import alone_with

if TYPE_CHECKING:
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

TERMINATOR_NAMES = ("<|im_end|>", "<|endoftext|>", "</s>")
"""Tokens that end an answer, where the tokenizer has them: the first two in 4.5, the first and the last in 4.0."""


@dataclass(frozen=True, slots=True)
class Completed:
    """New ids of every row of the batch, and the time they took."""

    ids: list[list[int]]
    first_token_s: float | None
    seconds: float


def terminator_ids(model: "MiniCPMVForConditionalGeneration", tokenizer: Any) -> list[int]:
    """Ids that end an answer: the checkpoint's own and those the official `chat` adds by name."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = [configured] if isinstance(configured, int) else list(configured or [])
    vocabulary = tokenizer.get_vocab()
    ids += [vocabulary[name] for name in TERMINATOR_NAMES if name in vocabulary]
    return sorted({int(token) for token in ids})


def context_length(model: "MiniCPMVForConditionalGeneration") -> int:
    """Tokens that prompt and answer may have together."""
    return int(model.config.get_text_config().max_position_embeddings)


def count_visual_tokens(model: "MiniCPMVForConditionalGeneration", inputs: Mapping[str, Any]) -> int:
    """Placeholder tokens of the whole batch that pictures and clips fill."""
    slots = inputs.get("visual_slots")
    return 0 if slots is None else len(slots) * int(model.config.query_num)


def fit_answer(*, prompt: int, visual: int, context: int, wanted: int | None, default: int) -> int:
    """How many tokens the answer may have.

    Args:
        prompt: tokens of the prompt, the visual ones included.
        visual: tokens among them that stand for pictures and clips.
        context: tokens that prompt and answer may have together.
        wanted: the length asked for, or None for `default` or whatever less is left.
        default: length if none is asked for.

    Raises:
        ContextLengthError: prompt and answer do not fit. Nothing is ever cut from a prompt.
    """
    left = context - prompt
    if left < (wanted or 1):
        answer = "" if wanted is None else f" and the answer may take {wanted}"
        raise ContextLengthError(
            f"The prompt has {prompt} tokens, {visual} of them for pictures and clips{answer}; "
            f"the model's context holds {context}.",
            remedy="Give fewer media, or fewer slices, frames or pages of them, or ask for a shorter answer.",
        )
    return min(default, left) if wanted is None else wanted


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Random numbers from `seed` inside the block; the state of the process is as before afterwards."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _run(
    model: "MiniCPMVForConditionalGeneration", inputs: Mapping[str, Any], arguments: Mapping[str, Any], seed: int | None
) -> torch.Tensor:
    """Call `generate`; new ids only, [batch, new tokens]."""
    inputs = {name: value.to(model.device) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    length = inputs["input_ids"].shape[1]
    arguments = dict(arguments)
    penalty = float(arguments.pop("repetition_penalty", 1.0))
    processors = LogitsProcessorList(arguments.pop("logits_processor", None) or [])
    if penalty != 1.0:
        # transformers' own argument would count the prompt too, 64 placeholders per slice among it.
        processors.append(RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=length))
    with torch.inference_mode(), seeded(seed), alone_with(model):
        out = cast("Any", model).generate(**inputs, **arguments, logits_processor=processors)
    sequences: torch.Tensor = out if isinstance(out, torch.Tensor) else out.sequences
    return sequences[:, length:]


def complete(
    model: "MiniCPMVForConditionalGeneration",
    inputs: Mapping[str, Any],
    arguments: Mapping[str, Any],
    *,
    seed: int | None = None,
) -> Completed:
    """Generate to the end.

    Args:
        model: takes the tensors of `inputs` in its `generate`.
        inputs: what the processor returned, on any device.
        arguments: further arguments of `generate`; `repetition_penalty` counts the answer only.
        seed: makes sampling repeatable.
    """
    clock = _Clock()
    # transformers refuses a streamer with beam search: no token is certain before the last.
    if arguments.get("num_beams", 1) == 1:
        arguments = {**arguments, "streamer": clock}
    new = _run(model, inputs, arguments, seed)
    return Completed([[int(token) for token in row] for row in new.tolist()], clock.first_token_s, clock.elapsed_s())


class _Clock(BaseStreamer):
    """Notes when the first new token comes; the first thing `generate` puts is the prompt."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._num_puts = 0
        self.first_token_s: float | None = None

    def put(self, value: torch.Tensor) -> None:
        self._num_puts += 1
        if self._num_puts == 2:
            self.first_token_s = self.elapsed_s()

    def end(self) -> None:
        pass

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._start


class _StopWhen(StoppingCriteria):
    """Ends every row as soon as an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._event.is_set(), dtype=torch.bool, device=input_ids.device)


class TokenStream(BaseStreamer):
    """The ids of one answer, one after another, while the model is still writing.

    Iterate once. Leaving the loop, an exception in it, or `close()` stops the model at the next token.

    Args:
        model: takes the tensors of `inputs` in its `generate`.
        inputs: what the processor returned for one conversation.
        arguments: further arguments of `generate`, without beams.
        seed: makes sampling repeatable, as long as no other thread draws random numbers meanwhile.
    """

    def __init__(
        self,
        model: "MiniCPMVForConditionalGeneration",
        inputs: Mapping[str, Any],
        arguments: Mapping[str, Any],
        *,
        seed: int | None = None,
    ) -> None:
        self._items: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._prompt_seen = False
        self._clock = _Clock()
        arguments = {**arguments, "streamer": self, "stopping_criteria": StoppingCriteriaList([_StopWhen(self._stop)])}
        self._thread = threading.Thread(
            target=self._work, args=(model, inputs, arguments, seed), name="minicpmv-generate", daemon=True
        )
        self._thread.start()

    @property
    def first_token_s(self) -> float | None:
        """Seconds until the first token, once there is one."""
        return self._clock.first_token_s

    def elapsed_s(self) -> float:
        """Seconds since the stream began."""
        return self._clock.elapsed_s()

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate`, first with the prompt and then with every new token."""
        self._clock.put(value)
        if self._prompt_seen:
            for token in value.reshape(-1).tolist():
                self._items.put(int(token))
        self._prompt_seen = True

    def end(self) -> None:
        """Called by `generate` after the last token; the thread says so itself, also when `generate` fails."""

    def __iter__(self) -> Iterator[int]:
        finished = False
        try:
            while (item := self._items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
            finished = True
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """Stop the model and wait until it has."""
        self._stop.set()
        self._thread.join()

    def _work(self, model: Any, inputs: Mapping[str, Any], arguments: Mapping[str, Any], seed: int | None) -> None:
        try:
            _run(model, inputs, arguments, seed)
        except BaseException as error:  # whatever it is, the reader gets it
            self._items.put(error)
        finally:
            self._items.put(None)
