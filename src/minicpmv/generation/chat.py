"""Ask a model about pictures, documents and clips: the Python interface of the package.

    assistant = Assistant.load()                                      # or Assistant.load("openbmb/MiniCPM-V-4_5")
    answer = assistant.ask([{"role": "user", "content": [picture, "What does the sign say?"]}])

    messages -> parse -> processor -> inputs -> engine -> Wrote, Wrote, ... Finished -> Deltas, Answer

`ask` waits for the whole answer, `stream` gives it piece by piece, and a `Conversation` remembers what was said.
"""

import math
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpmv.generation.decoding import cut_at_terminator, decode
from minicpmv.generation.engine.loop import BLOCK_TOKENS, Engine, EngineOptions, Handle
from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.requests import EndReason, Finished, Wrote
from minicpmv.generation.engine.structured import Grammars
from minicpmv.generation.engine.writing import Delta
from minicpmv.generation.loading import load
from minicpmv.generation.options import DEFAULT_MAX_NEW_TOKENS, GenerationOptions
from minicpmv.generation.running import (
    complete,
    context_length,
    count_visual_tokens,
    fit_answer,
    terminator_ids,
)
from minicpmv.generation.thinking import Channel, split_reasoning
from minicpmv.messages import Message, Part, TextPart, parse_messages

if TYPE_CHECKING:
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
    from minicpmv.processing.processor import MiniCPMVProcessor

FinishReason = EndReason

FEWEST_KV_TOKENS = 8192
"""Tokens for which the engine of an assistant has memory at least; it grows with the questions. Ours."""

DEFAULT_OPTIONS = GenerationOptions()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote, and what it cost.

    `reasoning` is None in the short mode. `visual_tokens` are part of `prompt_tokens`; `new_tokens` counts reasoning
    and answer. `finish_reason` is "stop" when the model ended by itself, "length" when it was cut off, "repetition"
    when it said the same thing over and over, "cancelled" or "deadline" when somebody or the clock ended it.
    """

    text: str
    reasoning: str | None
    prompt_tokens: int
    visual_tokens: int
    new_tokens: int
    seconds_to_first_token: float | None
    seconds: float
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation, rendered and counted; ready for the model."""

    inputs: Mapping[str, Any]
    new_tokens: int
    """Most tokens of the answer."""
    prompt_tokens: int
    visual_tokens: int


class Assistant:
    """A model and its processor, ready to be asked.

    Args:
        model: the model, in eval mode and on its device.
        processor: the processor of the same checkpoint.
        name: how to call the model in messages to people.
        is_bundled: whether this is the small model inside the package.
        engine: answers; without one the assistant makes its own, and lets it grow with the questions.
    """

    def __init__(
        self,
        model: "MiniCPMVForConditionalGeneration",
        processor: "MiniCPMVProcessor",
        *,
        name: str = "",
        is_bundled: bool = False,
        engine: Engine | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.name = name
        self.is_bundled = is_bundled
        self._terminators = terminator_ids(model, self._tokenizer)
        self._grammars = Grammars(model, self._tokenizer, self._terminators)
        self._engine = engine
        self._owns_engine = engine is None
        self._guard = weakref.finalize(self, int)
        self._making = threading.Lock()

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantization: str | None = None,
    ) -> "Assistant":
        """The assistant for a folder, a hub id, or (None) the bundled nano; see `minicpmv.generation.loading.load`."""
        loaded = load(model, device=device, dtype=dtype, quantization=quantization)
        return cls(loaded.model, loaded.processor, name=loaded.name, is_bundled=loaded.is_bundled)

    @property
    def _tokenizer(self) -> Any:
        return self.processor.tokenizer

    def prepare(self, messages: Any, options: GenerationOptions = DEFAULT_OPTIONS) -> Prompt:
        """Render a conversation and check that it fits, before anything expensive runs.

        Args:
            messages: anything `minicpmv.messages.parse_messages` reads; the last turn is the user's.
            options: how to answer.

        Raises:
            MessageError: the conversation cannot be read.
            MediaError: a picture, document or clip cannot be read.
            ContextLengthError: prompt and answer do not fit the context.
        """
        conversation = parse_messages(messages)
        has_media = any(not isinstance(part, TextPart) for message in conversation for part in message.parts)
        inputs = self.processor.apply_chat_template(
            conversation,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            enable_thinking=options.think,
            max_length=context_length(self.model) if has_media else None,  # pages beyond it are not drawn at all
        )
        num_tokens = int(inputs["input_ids"].shape[1])
        num_visual = count_visual_tokens(self.model, inputs)
        num_new = fit_answer(
            prompt=num_tokens,
            visual=num_visual,
            context=context_length(self.model),
            wanted=options.max_new_tokens,
            default=self.model.generation_config.max_new_tokens or DEFAULT_MAX_NEW_TOKENS,
        )
        return Prompt(inputs, num_new, num_tokens, num_visual)

    def ask(self, messages: Any, options: GenerationOptions = DEFAULT_OPTIONS) -> Answer:
        """The whole answer to the last turn of a conversation.

        Args:
            messages: as for `prepare`.
            options: how to answer.

        Raises:
            MiniCPMVError: see `prepare`.
        """
        stream = self.stream(messages, options)
        for _delta in stream:
            pass
        return stream.answer

    def search(self, prompt: Prompt, options: GenerationOptions) -> Answer:
        """An answer by beam search, which transformers does.

        Args:
            prompt: see `prepare`.
            options: with `num_beams` above 1.
        """
        arguments = {
            **options.resolve(self.model.generation_config),
            "max_new_tokens": prompt.new_tokens,
            "repetition_penalty": options.repetition_penalty,
            "eos_token_id": self._terminators,
            "pad_token_id": self._terminators[0],
        }
        done = complete(self.model, prompt.inputs, arguments, seed=options.seed)
        ids, ended = cut_at_terminator(done.ids[0], self._terminators)
        split = split_reasoning(decode(self._tokenizer, ids), thinking=options.think)
        return Answer(
            text=split.answer,
            reasoning=split.reasoning,
            prompt_tokens=prompt.prompt_tokens,
            visual_tokens=prompt.visual_tokens,
            new_tokens=len(ids) + ended,
            seconds_to_first_token=None,
            seconds=done.seconds,
            finish_reason="stop" if ended else "length",
        )

    def submit(self, prompt: Prompt, options: GenerationOptions) -> Handle:
        """Hand a prompt to the engine.

        Args:
            prompt: see `prepare`.
            options: how to answer, without beams.

        Raises:
            OptionError: the form of the answer cannot be read, or llguidance is missing.
        """
        asked = options.for_engine(self.model.generation_config, prompt.new_tokens)
        engine_prompt = EnginePrompt.from_inputs(prompt.inputs, int(self.model.config.query_num))
        grammar = None if options.form is None else self._grammars.compile(options.form)
        with self._making:
            engine = self._engine_for(prompt.prompt_tokens + prompt.new_tokens)
            return engine.submit(engine_prompt, asked, grammar=grammar)

    def _engine_for(self, num_tokens: int) -> Engine:
        """The engine, made when it is first needed, and again where a request needs more memory than it has."""
        if self._engine is not None and not self._owns_engine:
            return self._engine
        held = 0 if self._engine is None else self._engine.scheduler.pool.num_blocks * BLOCK_TOKENS
        if self._engine is None or num_tokens > held:
            if self._engine is not None:
                self._engine.close(drain_s=math.inf)
                self._engine = None  # its memory is free for the next, which may still not find enough
            room = max(num_tokens + BLOCK_TOKENS, 2 * held, FEWEST_KV_TOKENS)
            self._engine = Engine(self.model, self.processor, EngineOptions(kv_tokens=room, most_running=16))
            # Its thread would keep the model alive for ever. An engine that has been replaced needs no guard any more.
            self._guard.detach()
            self._guard = weakref.finalize(self, self._engine.close)
        return self._engine

    def close(self) -> None:
        """Stop the engine's thread and give its memory back; the next question starts it again.

        An engine that was handed in goes on.
        """
        with self._making:
            if self._engine is None or not self._owns_engine:
                return
            self._engine.close()
            self._engine = None
            self._guard.detach()

    def stream(self, messages: Any, options: GenerationOptions = DEFAULT_OPTIONS) -> "AnswerStream":
        """The answer piece by piece; `.answer` of the stream holds the whole once it is read.

        The prompt is checked before this returns. With beam search, which is certain of nothing before the end, the
        answer comes in one piece.

        Args:
            messages: as for `prepare`.
            options: how to answer.

        Raises:
            MiniCPMVError: see `prepare`.
        """
        return AnswerStream(self, self.prepare(messages, options), options)

    def converse(self, system: str | None = None) -> "Conversation":
        """A conversation that remembers, optionally under a system prompt."""
        return Conversation(self, system=system)


class AnswerStream:
    """An answer while it is being written: iterate over it for `Delta`s, then read `.answer`.

    Leaving the loop early stops the model; `.answer` then holds what there was, with finish reason "cancelled".
    """

    def __init__(self, assistant: Assistant, prompt: Prompt, options: GenerationOptions) -> None:
        self.prompt = prompt
        self._assistant = assistant
        self._options = options
        self._answer: Answer | None = None
        self._started = False
        self._handle: Handle | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        """End the answer from another thread; whoever reads it gets what there is, and then its end."""
        self._is_cancelled = True
        if self._handle is not None:
            self._handle.cancel()

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            RuntimeError: the stream has not been read yet.
        """
        if self._answer is None:
            raise RuntimeError("The answer is complete only after the stream has been read to its end.")
        return self._answer

    def __iter__(self) -> Iterator[Delta]:
        if self._started:
            raise RuntimeError("A stream can be read once; read .answer for the whole text.")
        self._started = True
        if self._options.num_beams > 1:
            yield from self._at_once()
            return
        yield from self._piecewise()

    def _at_once(self) -> Iterator[Delta]:
        self._answer = self._assistant.search(self.prompt, self._options)
        if self._answer.reasoning:
            yield Delta(self._answer.reasoning, "reasoning")
        yield Delta(self._answer.text, "answer")

    def _piecewise(self) -> Iterator[Delta]:
        handle = self._handle = self._assistant.submit(self.prompt, self._options)
        if self._is_cancelled:
            handle.cancel()
        said = _Said(self.prompt, thinking=self._options.think)
        try:
            for event in handle:
                yield from said.hear(event)
        except (GeneratorExit, KeyboardInterrupt):
            handle.cancel()
            for event in handle:  # the last one tells what it took, if it has not come yet
                said.hear(event)
            raise
        finally:
            self._answer = said.answer()


class _Said:
    """Gathers the events of a request into an answer."""

    def __init__(self, prompt: Prompt, *, thinking: bool) -> None:
        self._prompt = prompt
        self._text: dict[Channel, str] = {"reasoning": "", "answer": ""}
        self._reasoned = thinking
        self._end: Finished | None = None

    def hear(self, event: Wrote | Finished) -> tuple[Delta, ...]:
        """What an event adds."""
        for delta in event.deltas:
            self._text[delta.channel] += delta.text
            self._reasoned |= delta.channel == "reasoning"
        if isinstance(event, Finished):
            self._end = event
        return event.deltas

    def answer(self) -> Answer | None:
        """The answer; None if the request did not come to an end."""
        if self._end is None:
            return None
        usage = self._end.usage
        return Answer(
            text=self._text["answer"].strip(),
            reasoning=self._text["reasoning"].strip() if self._reasoned else None,
            prompt_tokens=self._prompt.prompt_tokens,
            visual_tokens=self._prompt.visual_tokens,
            new_tokens=usage.new_tokens,
            seconds_to_first_token=usage.first_token_s,
            seconds=usage.seconds,
            finish_reason=self._end.reason,
        )


class Conversation:
    """Turns so far, and the assistant that continues them.

    Args:
        assistant: answers.
        system: a system prompt, if there is one.

    Attributes:
        messages: what was said. A turn is added only when it was answered, so after an error the conversation stands
            where it was.
    """

    def __init__(self, assistant: Assistant, *, system: str | None = None) -> None:
        self._assistant = assistant
        self.messages: list[Message] = [] if system is None else [Message("system", (TextPart(system),))]

    def ask(self, content: str | Sequence[Part], options: GenerationOptions = DEFAULT_OPTIONS) -> Answer:
        """Say something and wait for the answer.

        Args:
            content: text, or parts in order.
            options: how to answer.
        """
        turn = _user_turn(content)
        answer = self._assistant.ask([*self.messages, turn], options)
        self._remember(turn, answer)
        return answer

    def stream(self, content: str | Sequence[Part], options: GenerationOptions = DEFAULT_OPTIONS) -> Iterator[Delta]:
        """Say something and read the answer piece by piece; what was read is remembered, also after leaving early.

        Args:
            content: text, or parts in order.
            options: how to answer.
        """
        turn = _user_turn(content)
        stream = self._assistant.stream([*self.messages, turn], options)
        return self._reading(turn, stream)

    def _reading(self, turn: Message, stream: AnswerStream) -> Iterator[Delta]:
        failed = False
        try:
            yield from stream
        except Exception:
            failed = True
            raise
        finally:
            if not failed:
                self._remember(turn, stream.answer)

    def _remember(self, turn: Message, answer: Answer) -> None:
        self.messages += [turn, Message("assistant", (TextPart(answer.text),), answer.reasoning)]


def _user_turn(content: str | Sequence[Part]) -> Message:
    return Message("user", (TextPart(content),) if isinstance(content, str) else tuple(content))
