"""Ask a model about pictures, documents and clips: the Python interface of the package.

    assistant = Assistant.load()                                      # or Assistant.load("openbmb/MiniCPM-V-4_5")
    answer = assistant.ask([{"role": "user", "content": [picture, "What does the sign say?"]}])

    messages -> parse -> processor -> inputs -> engine -> ids -> text -> Split(reasoning, answer) -> Answer

`ask` waits for the whole answer, `stream` gives it piece by piece, and a `Conversation` remembers what was said.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from minicpmv.generation.decoding import IncrementalDecoder, cut_at_terminator, decode
from minicpmv.generation.engine import (
    TokenStream,
    complete,
    context_length,
    count_visual_tokens,
    fit_answer,
    terminator_ids,
)
from minicpmv.generation.loading import load
from minicpmv.generation.options import DEFAULT_MAX_NEW_TOKENS, GenerationOptions
from minicpmv.generation.thinking import Channel, ReasoningSplitter, split_reasoning
from minicpmv.messages import Message, Part, TextPart, parse_messages

if TYPE_CHECKING:
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
    from minicpmv.processing.processor import MiniCPMVProcessor

FinishReason = Literal["stop", "length", "cancelled"]

DEFAULT_OPTIONS = GenerationOptions()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote, and what it cost.

    `reasoning` is None in the short mode. `visual_tokens` are part of `prompt_tokens`; `new_tokens` counts reasoning
    and answer. `finish_reason` is "stop" when the model ended by itself, "length" when it was cut off.
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
class Delta:
    """The next piece of a streamed answer, and which part of it this is."""

    text: str
    channel: Channel


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation, rendered and counted; ready for the model."""

    inputs: Mapping[str, Any]
    arguments: Mapping[str, Any]
    prompt_tokens: int
    visual_tokens: int


class Assistant:
    """A model and its processor, ready to be asked.

    Args:
        model: the model, in eval mode and on its device.
        processor: the processor of the same checkpoint.
        name: how to call the model in messages to people.
        is_bundled: whether this is the small model inside the package.
    """

    def __init__(
        self,
        model: "MiniCPMVForConditionalGeneration",
        processor: "MiniCPMVProcessor",
        *,
        name: str = "",
        is_bundled: bool = False,
    ) -> None:
        self.model = model
        self.processor = processor
        self.name = name
        self.is_bundled = is_bundled
        self._terminators = terminator_ids(model, self._tokenizer)

    @classmethod
    def load(cls, model: str | Path | None = None, *, device: str = "auto", dtype: str = "auto") -> "Assistant":
        """The assistant for a folder, a hub id, or (None) the bundled nano; see `minicpmv.generation.loading.load`."""
        loaded = load(model, device=device, dtype=dtype)
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
        inputs = self.processor.apply_chat_template(
            parse_messages(messages),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            enable_thinking=options.think,
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
        arguments = {
            **options.resolve(self.model.generation_config),
            "max_new_tokens": num_new,
            "repetition_penalty": options.repetition_penalty,
            "eos_token_id": self._terminators,
            "pad_token_id": self._terminators[0],
        }
        return Prompt(inputs, arguments, num_tokens, num_visual)

    def ask(self, messages: Any, options: GenerationOptions = DEFAULT_OPTIONS) -> Answer:
        """The whole answer to the last turn of a conversation.

        Args:
            messages: as for `prepare`.
            options: how to answer.

        Raises:
            MiniCPMVError: see `prepare`.
        """
        prompt = self.prepare(messages, options)
        done = complete(self.model, prompt.inputs, prompt.arguments, seed=options.seed)
        ids, ended = cut_at_terminator(done.ids[0], self._terminators)
        split = split_reasoning(decode(self._tokenizer, ids), thinking=options.think)
        return Answer(
            text=split.answer,
            reasoning=split.reasoning,
            prompt_tokens=prompt.prompt_tokens,
            visual_tokens=prompt.visual_tokens,
            new_tokens=len(ids) + ended,
            seconds_to_first_token=done.first_token_s,
            seconds=done.seconds,
            finish_reason="stop" if ended else "length",
        )

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
        prompt, assistant = self.prompt, self._assistant
        done = complete(assistant.model, prompt.inputs, prompt.arguments, seed=self._options.seed)
        self._finish(done.ids[0], None, done.seconds, cancelled=False)
        if self.answer.reasoning:
            yield Delta(self.answer.reasoning, "reasoning")
        yield Delta(self.answer.text, "answer")

    def _piecewise(self) -> Iterator[Delta]:
        assistant, options = self._assistant, self._options
        decoder = IncrementalDecoder(assistant._tokenizer)
        splitter = ReasoningSplitter(thinking=options.think)
        tokens = TokenStream(assistant.model, self.prompt.inputs, self.prompt.arguments, seed=options.seed)
        ids: list[int] = []
        try:
            for token in tokens:
                ids.append(token)
                if token not in assistant._terminators:
                    yield from self._deltas(splitter.feed(decoder.feed([token])))
            yield from self._deltas(splitter.feed(decoder.finish()) + splitter.finish())
        except (GeneratorExit, KeyboardInterrupt):
            tokens.close()
            self._finish(ids, tokens.first_token_s, tokens.elapsed_s(), cancelled=True)
            raise
        self._finish(ids, tokens.first_token_s, tokens.elapsed_s(), cancelled=False)

    def _deltas(self, pieces: list[tuple[Channel, str]]) -> Iterator[Delta]:
        for channel, text in pieces:
            yield Delta(text, channel)

    def _finish(self, ids: Sequence[int], first_token_s: float | None, seconds: float, *, cancelled: bool) -> None:
        assistant = self._assistant
        kept, ended = cut_at_terminator(ids, assistant._terminators)
        split = split_reasoning(decode(assistant._tokenizer, kept), thinking=self._options.think)
        reason: FinishReason = "stop" if ended else "cancelled" if cancelled else "length"
        self._answer = Answer(
            text=split.answer,
            reasoning=split.reasoning,
            prompt_tokens=self.prompt.prompt_tokens,
            visual_tokens=self.prompt.visual_tokens,
            new_tokens=len(kept) + ended,
            seconds_to_first_token=first_token_s,
            seconds=seconds,
            finish_reason=reason,
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
