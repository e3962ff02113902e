"""The engine: one thread that carries requests forward step by step, as many at once as there is room for.

    submit(prompt, options) -> Handle          thread: sweep -> admit -> encode a few packs -> plan -> forward -> choose

A request gets the answer it would get alone, up to the rounding of sums that run over more rows. What goes wrong with
one request ends that request; what goes wrong in a step ends those that run, and the next step goes on without them.
"""

import atexit
import queue
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minicpmv.errors import EngineError, OptionError
from minicpmv.generation.engine.attention import Run, lay_out
from minicpmv.generation.engine.kernels import attending_in_blocks, kv_memory, products_for
from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.requests import (
    EndReason,
    Event,
    Failed,
    Finished,
    Grammar,
    Request,
    RequestOptions,
    Wrote,
)
from minicpmv.generation.engine.sampling import Choice, choose
from minicpmv.generation.engine.scheduler import Scheduler
from minicpmv.generation.engine.vision import FeatureCache
from minicpmv.generation.engine.writing import LONGEST_LOOP, Writer, loops
from minicpmv.generation.running import context_length, terminator_ids
from minicpmv.generation.thinking import THINK_CLOSE
from minicpmv.model.visual_inputs import VisualInputs
from minicpmv.processing.text_encoding import Control, Words

if TYPE_CHECKING:
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
    from minicpmv.processing.processor import MiniCPMVProcessor

BLOCK_TOKENS = 32
"""Tokens of a block of KV memory: a pack has two. Ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """How much at once, and how much memory for it."""

    kv_tokens: int | None = None
    """Tokens whose keys and values are kept. None: what `kv_bytes` has room for."""

    kv_bytes: int = 4 * 2**30
    """Memory for keys and values."""

    most_running: int = 64
    """Requests that take part in steps at a time."""

    most_waiting: int = 1024
    """Requests that may wait."""

    step_tokens: int | None = None
    """Most tokens of a step. None: 512 on a CPU, 4,096 on a GPU."""

    step_patches: int | None = None
    """Patches that are encoded between two steps, at least one pack. None: 1,024 on a CPU, 16,384 on a GPU."""

    feature_bytes: int = 2**30
    """Memory for what was found out about pictures."""

    def __post_init__(self) -> None:
        for name in ("kv_tokens", "kv_bytes", "most_running", "most_waiting", "step_tokens", "step_patches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}.", remedy="It must be at least 1.")
        if self.feature_bytes < 0:
            raise OptionError(f"feature_bytes is {self.feature_bytes}.", remedy="It must be at least 0.")


DEFAULTS = EngineOptions()


class Handle:
    """A request from outside: its events in order, and a way to end it.

    Args:
        engine: which carries it out.
        request: what was submitted.
        events: filled by the engine.
    """

    def __init__(self, engine: "Engine", request: Request, events: "queue.SimpleQueue[Event]") -> None:
        self.request = request
        self._engine, self._events = engine, events
        self._is_over = False

    def __iter__(self) -> Iterator[Wrote | Finished]:
        """Events up to the last, which is `Finished`; those that were read already are not repeated.

        Leaving early cancels the request.

        Raises:
            MiniCPMVError: the request failed.
        """
        try:
            while not self._is_over:
                event = self._events.get()
                self._is_over = not isinstance(event, Wrote)
                if isinstance(event, Failed):
                    raise event.error
                yield event
        finally:
            if not self._is_over:
                self.cancel()

    def wait(self) -> list[Wrote | Finished]:
        """All events, once the request has ended.

        Raises:
            MiniCPMVError: the request failed.
        """
        return list(self)

    def cancel(self) -> None:
        """End the request before the next step."""
        self._engine.cancel(self.request)


class Engine:
    """Answers many requests with one model.

    Args:
        model: in eval mode and on its device.
        processor: of the same checkpoint.
        options: how much at once.
    """

    def __init__(
        self,
        model: "MiniCPMVForConditionalGeneration",
        processor: "MiniCPMVProcessor",
        options: EngineOptions = DEFAULTS,
    ) -> None:
        self.model, self.processor, self.options = model, processor, options
        self.memory, pool = kv_memory(
            model,
            block_tokens=BLOCK_TOKENS,
            tokens=options.kv_tokens,
            most_bytes=options.kv_bytes,
            most_tokens=options.most_running * (context_length(model) + BLOCK_TOKENS),
        )
        on_cpu = model.device.type == "cpu"
        self.scheduler = Scheduler(
            pool,
            most_running=options.most_running,
            most_waiting=options.most_waiting,
            step_tokens=options.step_tokens or (512 if on_cpu else 4096),
        )
        self.step_patches = options.step_patches or (1024 if on_cpu else 16_384)
        self.features = FeatureCache(options.feature_bytes)
        self.counts: Counter[str] = Counter()
        self.terminators = frozenset(terminator_ids(model, processor.tokenizer))
        encoder = processor.piece_encoder()
        self._close_ids: tuple[int, ...] = ()
        self._gap_ids: tuple[int, ...] = ()
        if encoder.knows(THINK_CLOSE):
            self._close_ids = tuple(encoder.encode([Words("\n"), Control(THINK_CLOSE), Words("\n\n")]).ids)
            self._gap_ids = tuple(encoder.encode([Words("\n\n")]).ids)
        self._changed = threading.Condition()
        # Threads have an autocast of their own; the engine's is that of whoever makes it, such as a training run.
        kind = model.device.type
        self._autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        self._is_stopping = False
        self._is_draining = False
        self._thread: threading.Thread | None = None

    # --- from any thread

    def submit(
        self,
        prompt: EnginePrompt,
        options: RequestOptions,
        *,
        listener: Callable[[Event], None] | None = None,
        grammar: Grammar | None = None,
        waits_for: Request | None = None,
    ) -> Handle:
        """Hand in a request.

        Args:
            prompt: what is read.
            options: how it is answered.
            listener: called with every event in the engine's thread, instead of a handle's queue; must not block.
            grammar: what the answer may consist of.
            waits_for: a request with the same prompt, whose memory it shares once that has been read.

        Raises:
            ContextLengthError: it can never fit.
            QueueFullError: too many wait.
            EngineError: the engine takes no more requests.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        writer = Writer(self.processor.tokenizer, thinking=options.think, stop=options.stop)
        request = Request(prompt, options, writer, listener or events.put, grammar=grammar, waits_for=waits_for)
        if options.think and options.thinking_budget == 0:
            request.forced.extend(self._close_ids)
        with self._changed:
            if self._is_stopping or self._is_draining:
                raise EngineError("The engine takes no more requests.", remedy="Start it again.")
            self.scheduler.check(request, context_length(self.model))
            self.scheduler.waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="minicpmv-engine", daemon=True)
                self._thread.start()
                # A thread that is still inside of torch when the interpreter ends takes the process down with it.
                atexit.register(self.close)
            self._changed.notify()
        return Handle(self, request, events)

    def cancel(self, request: Request) -> None:
        """End a request before the next step; one that is over stays as it is."""
        with self._changed:
            request.is_cancelled = True
            self._changed.notify()

    def close(self, *, drain_s: float = 0.0) -> None:
        """Take no more requests, finish what was begun for so many seconds, end the rest, and stop.

        Args:
            drain_s: how long requests may go on.
        """
        with self._changed:
            self._is_draining = True
            thread = self._thread
            deadline = time.monotonic() + drain_s
            while thread is not None and self._has_work and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, 0.1))
            self._is_stopping = True
            self._changed.notify()
        if thread is not None:
            thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests."""
        return not self._is_stopping and not self._is_draining

    @property
    def _has_work(self) -> bool:
        return bool(self.scheduler.running or self.scheduler.waiting)

    # --- the engine's thread

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._has_work and not self._is_stopping:
                    self._changed.wait()
                if self._is_stopping:
                    self._end_all()
                    return
                for request in self.scheduler.sweep():
                    self._tell_end(request, "cancelled" if request.is_cancelled else "deadline")
                for request in self.scheduler.admit():
                    request.began_at = request.began_at or time.monotonic()
                    self.counts["cached_tokens"] += request.num_cached
            try:
                self._step()
            except Exception as error:  # the requests that took part get it; the engine goes on
                self._fail_running(error)

    def _step(self) -> None:
        kind, dtype, is_on = self._autocast
        with torch.inference_mode(), torch.autocast(kind, dtype, enabled=is_on):
            self._encode()
            with self._changed:
                parts = self.scheduler.plan(self._ready)
            if not parts:
                return
            logits = self._forward(parts)
            finished = [request for request, run in parts if run.start + run.length == len(request.ids)]
            with self._changed:
                for request, run in parts:
                    request.num_read = run.start + run.length
                    self.scheduler.published(request)
                self.counts["steps"] += 1
                self.counts["prompt_tokens"] += sum(run.length for _request, run in parts) - len(finished)
                for request, row in zip(finished, logits, strict=True):
                    self._choose(request, row)

    def _encode(self) -> None:
        """Encode packs that are needed next, of as many requests as the patches of one step have room for."""
        chosen: dict[bytes, VisualInputs] = {}
        wanted: list[tuple[Request, int]] = []
        left = self.step_patches
        for request in self.scheduler.running:
            end = request.num_read + self.scheduler.step_tokens
            for pack in self._packs(request, end):
                digest = request.prompt.digests[pack]
                if self._find(request, pack):
                    continue
                if digest not in chosen:
                    part = request.prompt.packs[pack]
                    if chosen and len(part.pixel_values) > left:
                        break
                    chosen[digest] = part
                    left -= len(part.pixel_values)
                wanted.append((request, pack))
            if left <= 0:
                break
        if chosen:
            self._encode_packs(chosen, wanted)

    def _packs(self, request: Request, end: int) -> range:
        """Packs with a token that has not been read and stands before `end`."""
        slots = request.prompt.slots
        return range(bisect_right(slots, request.num_read - request.prompt.slot_length), bisect_left(slots, end))

    def _find(self, request: Request, pack: int) -> bool:
        """Whether a pack's features are at hand."""
        if pack in request.features:
            return True
        features = self.features.get(request.prompt.digests[pack])
        if features is not None:
            request.features[pack] = features
        return features is not None

    def _encode_packs(self, chosen: dict[bytes, VisualInputs], wanted: list[tuple[Request, int]]) -> None:
        features = self.model.encode_packs(VisualInputs.join(list(chosen.values())))
        by_digest = dict(zip(chosen, features, strict=True))
        for request, pack in wanted:
            request.features[pack] = by_digest[request.prompt.digests[pack]]
        self.features.put(list(chosen), features)
        self.counts["packs"] += len(chosen)

    def _ready(self, request: Request) -> int:
        """Up to which token a request can be read."""
        for pack in self._packs(request, len(request.prompt.ids)):
            if pack not in request.features:
                return request.prompt.slots[pack]
        return len(request.ids)

    def _forward(self, parts: list[tuple[Request, Run]]) -> Tensor:
        """Logits [requests, vocabulary] of those whose last token takes part."""
        device = self.model.device
        ids = [token for request, run in parts for token in request.ids[run.start : run.start + run.length]]
        embeddings = self.model.embed_tokens(torch.tensor([ids], device=device))
        first, last = 0, []
        positions: list[int] = []
        for request, run in parts:
            self._place(embeddings[0, first : first + run.length], request, run)
            first += run.length
            positions += range(run.start, run.start + run.length)
            if run.start + run.length == len(request.ids):
                last.append(first - 1)
        with attending_in_blocks(self.model), products_for(self.model, len(ids)):
            out: Any = self.model.llm(
                inputs_embeds=embeddings,
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(last, dtype=torch.long, device=device),
                layout=lay_out([run for _request, run in parts], self.memory),
            )
        logits: Tensor = out.logits[0]
        return logits

    def _place(self, embeddings: Tensor, request: Request, run: Run) -> None:
        """Put features where pictures are among a request's embeddings; what has been read is let go."""
        end, length = run.start + run.length, request.prompt.slot_length
        for pack in self._packs(request, end):
            slot = request.prompt.slots[pack]
            low, high = max(slot, run.start), min(slot + length, end)
            features = request.features[pack]
            embeddings[low - run.start : high - run.start] = features[low - slot : high - slot].to(embeddings.dtype)
            if high == slot + length:
                del request.features[pack]

    def _choose(self, request: Request, logits: Tensor) -> None:
        """The next token of a request, and what follows from it."""
        is_forced = bool(request.forced)
        if is_forced:
            choice = Choice(request.forced.popleft())
        else:
            try:
                choice = self._drawn(request, logits)
            except Exception as error:  # of one request's options or grammar; the others go on
                self._fail(request, error)
                return
        request.first_token_at = request.first_token_at or time.monotonic()
        request.ids.append(choice.token)
        self.counts["new_tokens"] += 1
        self._follow(request, choice, is_forced=is_forced)

    def _drawn(self, request: Request, logits: Tensor) -> Choice:
        options = request.options
        if not bool(torch.isfinite(logits).all()):
            self.memory.clear(self.scheduler.pool.spoil(request.blocks))
            raise EngineError(
                "The model's output is not a number.", remedy="Use bfloat16 or float32, and check the checkpoint."
            )
        logits = logits.clone()
        if request.num_new < options.min_new_tokens:
            logits[list(self.terminators)] = float("-inf")
        allowed = None
        if request.grammar is not None and not request.writer.is_reasoning:
            allowed = request.grammar.allowed()
        written = request.written if options.sampling.penalises else ()
        return choose(logits, options.sampling, written, request.generator, allowed=allowed)

    def _follow(self, request: Request, choice: Choice, *, is_forced: bool) -> None:
        """Write a token down and see whether it was the last."""
        options, writer = request.options, request.writer
        was_reasoning = writer.is_reasoning
        if choice.token in self.terminators:
            self._end(request, "stop")
            return
        deltas = writer.feed(choice.token)
        request.tell(Wrote(choice, tuple(deltas)))
        if was_reasoning:
            request.num_reasoning += 1
            if options.thinking_budget is not None and request.num_reasoning >= options.thinking_budget:
                self._close_thinking(request)
        is_complete = False
        if request.grammar is not None and not is_forced:
            if was_reasoning and not writer.is_reasoning:
                request.forced.extend(self._gap_ids)  # a form describes the answer, which begins after them
            elif not was_reasoning:
                is_complete = request.grammar.accept(choice.token)
        if writer.stopped_by is not None or is_complete:
            self._end(request, "stop")
        elif request.num_new >= options.max_new_tokens:
            self._end(request, "length")
        elif options.guard and loops(request.ids[max(len(request.prompt.ids), len(request.ids) - LONGEST_LOOP) :]):
            self._end(request, "repetition")

    def _close_thinking(self, request: Request) -> None:
        """End the thinking block in the next tokens, once."""
        if request.writer.is_reasoning and not request.forced:
            request.forced.extend(self._close_ids)

    def _end(self, request: Request, reason: EndReason) -> None:
        self.scheduler.drop(request)
        self._tell_end(request, reason)

    def _tell_end(self, request: Request, reason: EndReason) -> None:
        self.counts[f"ended_{reason}"] += 1
        request.end(reason)

    def _end_all(self) -> None:
        for request in (*self.scheduler.running, *self.scheduler.waiting):
            self._end(request, "cancelled")

    def _fail_running(self, error: Exception) -> None:
        with self._changed:
            for request in list(self.scheduler.running):
                self._fail(request, error)

    def _fail(self, request: Request, error: BaseException) -> None:
        self.scheduler.drop(request)
        self.counts["ended_failed"] += 1
        request.fail(error)
