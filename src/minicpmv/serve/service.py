"""From a request's body to its events: messages are read, media fetched and counted, and the engine asked.

ChatRequest -> Service.submit -> Answers: (number of the answer, event), ... until all have ended
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpmv.errors import MessageError, OptionError
from minicpmv.generation.engine.loop import Engine, Handle
from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.requests import Event, RequestOptions, Wrote
from minicpmv.generation.engine.structured import AnswerForm, Grammars
from minicpmv.generation.running import context_length, fit_answer
from minicpmv.media.fetch import FetchPolicy
from minicpmv.messages import DocumentPart, ImagePart, Message, Part, TextPart, VideoPart, parse_messages
from minicpmv.serve.errors import refuse
from minicpmv.serve.schema import Asked
from minicpmv.serve.uploads import Uploads, names_upload

if TYPE_CHECKING:
    from minicpmv.generation.loading import Loaded

MOST_MEDIA: Mapping[str, int] = {"image": 64, "video": 4, "document": 8}
"""Pictures, clips and documents of one request, unless told otherwise. Ours."""
MOST_TURNS = 1024
"""Messages of one request. Ours."""

_KINDS = {ImagePart: "image", VideoPart: "video", DocumentPart: "document"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """What the server allows."""

    names: tuple[str, ...] = ()
    """What the model is called; the first is told. Empty: the checkpoint's own name."""

    api_key: str | None = None
    """What clients have to send as `Authorization: Bearer ...`; None asks for nothing."""

    context: int | None = None
    """Most tokens of prompt and answer; None is what the model has."""

    media_domains: tuple[str, ...] = ()
    """Hosts whose pictures may be fetched; none by default."""

    most_media: Mapping[str, int] = field(default_factory=lambda: dict(MOST_MEDIA))
    """Pictures, clips and documents of one request."""

    most_body_bytes: int = 256 * 2**20
    """Largest request."""

    upload_bytes: int = 4 * 2**30
    """All files together that clients have sent to /v1/files."""

    longest_answer: int = 2048
    """Tokens of an answer for which no length is asked."""

    timeout_s: float = 600.0
    """Longest time for one request."""

    def __post_init__(self) -> None:
        unknown = set(self.most_media) - set(MOST_MEDIA)
        if unknown or any(number < 0 for number in self.most_media.values()):
            raise OptionError(
                f"The limits of media are {dict(self.most_media)}.", remedy='Give for example {"image": 4, "video": 1}.'
            )
        if self.most_body_bytes < 1 or self.upload_bytes < 0 or self.longest_answer < 1 or self.timeout_s <= 0:
            raise OptionError("A limit of the server is not positive.", remedy="Use positive limits.")

    @property
    def policy(self) -> FetchPolicy:
        """What may be read: what comes with the request, and hosts that are listed."""
        return FetchPolicy(
            allow_remote=bool(self.media_domains),
            allow_local=False,
            allowed_domains=tuple(domain for domain in self.media_domains if domain != "*"),
            max_bytes=self.most_body_bytes,
        )


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to one request while they are written.

    Attributes:
        prompt: what was read.
        handles: of the engine, one per answer.
        events: filled from the engine's thread.
    """

    prompt: EnginePrompt
    handles: Sequence[Handle]
    events: "asyncio.Queue[tuple[int, Event]]"

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        """Events of all answers, until each has ended."""
        left = len(self.handles)
        while left:
            number, event = await self.events.get()
            left -= not isinstance(event, Wrote)
            yield number, event

    def cancel(self) -> None:
        """End all that have not."""
        for handle in self.handles:
            handle.cancel()


def served_names(options: ServeOptions, loaded: str) -> tuple[str, ...]:
    """What requests may call the model: as asked for, or the folder's name or the hub id that was loaded."""
    return options.names or (Path(loaded).name if Path(loaded).is_dir() else loaded,)


class Service:
    """Everything between HTTP and the engine.

    Args:
        loaded: model and processor.
        engine: answers.
        options: what is allowed.
    """

    def __init__(self, loaded: "Loaded", engine: Engine, options: ServeOptions) -> None:
        self.loaded, self.engine, self.options = loaded, engine, options
        self.names = served_names(options, loaded.name)
        self.uploads = Uploads(options.upload_bytes)
        self._grammars = Grammars(engine.model, loaded.processor.tokenizer, engine.terminators)

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer."""
        most = context_length(self.engine.model)
        return most if self.options.context is None else min(most, self.options.context)

    def prepare(self, raw: Any, *, think: bool, media: Mapping[str, Any]) -> EnginePrompt:
        """Read a conversation and its media. Blocks; runs in a thread.

        Args:
            raw: messages as they came.
            think: whether the model reasons first.
            media: options of pictures and clips.

        Raises:
            MiniCPMVError: it cannot be read, or does not fit.
            ProblemError: more media or messages than are allowed.
        """
        if len(raw) > MOST_TURNS:
            raise refuse(f"There are {len(raw)} messages; at most {MOST_TURNS} are read.", param="messages")
        messages = parse_messages(self._with_uploads(raw))
        parts = [part for message in messages for part in message.parts]
        self._check_number(parts)
        if messages[-1].role == "assistant":
            raise MessageError("The last message is an assistant's.", remedy="End with a message of the user.")
        inputs = self.loaded.processor.apply_chat_template(
            [_without_paths(message) for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            enable_thinking=think,
            fetch_policy=self.options.policy,
            # Pages beyond the context are not drawn at all.
            max_length=self.context if any(not isinstance(part, TextPart) for part in parts) else None,
            **media,
        )
        return EnginePrompt.from_inputs(inputs, int(self.engine.model.config.query_num))

    def request_options(self, asked: Asked, prompt: EnginePrompt, **given: Any) -> RequestOptions:
        """What the engine is asked for.

        Args:
            asked: by the client.
            prompt: what is read.
            **given: `wanted` (longest answer or None), `think`, `logprobs`, `answer`.
        """
        default = self.engine.model.generation_config.max_new_tokens or self.options.longest_answer
        longest = fit_answer(
            prompt=len(prompt.ids),
            visual=prompt.num_visual_tokens,
            context=self.context,
            wanted=given["wanted"],
            default=default,
        )
        return RequestOptions(
            max_new_tokens=longest,
            min_new_tokens=min(asked.min_tokens, longest),
            sampling=asked.sampling(logprobs=given["logprobs"], answer=given["answer"]),
            stop=asked.stops,
            think=given["think"],
            thinking_budget=asked.thinking_budget,
            guard=asked.repetition_guard,
            deadline_s=min(asked.timeout_s or self.options.timeout_s, self.options.timeout_s),
        )

    def submit(
        self,
        prompt: EnginePrompt,
        options: Sequence[RequestOptions],
        form: AnswerForm | None,
        loop: asyncio.AbstractEventLoop,
    ) -> Answers:
        """Ask the engine for one answer per options. Blocks for a moment if the answer has a form; runs in a thread.

        Args:
            prompt: what is read.
            options: of every answer.
            form: what the answers look like.
            loop: where the events are waited for.
        """
        events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        handles: list[Handle] = []
        grammars = [None if form is None else self._grammars.compile(form) for _ in options]
        try:
            for number, (one, grammar) in enumerate(zip(options, grammars, strict=True)):

                def listen(event: Event, number: int = number) -> None:
                    loop.call_soon_threadsafe(events.put_nowait, (number, event))

                first = handles[0].request if handles else None
                handles.append(self.engine.submit(prompt, one, listener=listen, grammar=grammar, waits_for=first))
        except BaseException:
            for handle in handles:
                handle.cancel()
            raise
        return Answers(prompt, handles, events)

    def _with_uploads(self, raw: Sequence[Any]) -> list[Any]:
        """The same messages; parts that name an uploaded file hold it, read once however often it is named."""
        named = [part for message in raw for part in _parts_of(message) if names_upload(part)]
        if len(named) > sum(self._most_media.values()):
            raise refuse(f"The request names {len(named)} uploaded files, more than it may have.", param="messages")
        uploads = {upload.id: upload for upload in map(self.uploads.named_by, named)}
        size = sum(upload.num_bytes for upload in uploads.values())
        if len(uploads) > 1 and size > self.options.most_body_bytes:
            raise refuse(f"The uploaded files have {size} bytes together.", status=413, param="messages")
        held = {identity: self.uploads.read(upload) for identity, upload in uploads.items()}
        messages = []
        for message in raw:
            parts = _parts_of(message)
            if any(map(names_upload, parts)):
                content = [self.uploads.as_part(part, held) if names_upload(part) else part for part in parts]
                message = {**message, "content": content}
            messages.append(message)
        return messages

    @property
    def _most_media(self) -> dict[str, int]:
        return {**MOST_MEDIA, **self.options.most_media}

    def _check_number(self, parts: Sequence[Part]) -> None:
        """Count media before anything is decoded or fetched."""
        counts: Counter[str] = Counter()
        for part in parts:
            if isinstance(part, VideoPart):
                counts["video"] += 1
                counts["image"] += len(part.frames or ())
            elif not isinstance(part, TextPart):
                counts["document" if isinstance(part, DocumentPart) else "image"] += 1
        for kind, most in self._most_media.items():
            if counts[kind] > most:
                raise refuse(
                    f"The request has {counts[kind]} parts of type {kind}; at most {most} are read. "
                    "The server's --limit-mm-per-prompt says how many.",
                    param="messages",
                )


def _parts_of(message: Any) -> list[Any]:
    """What a raw message consists of, where it is a list."""
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, list) else [content] if isinstance(content, Mapping) else []


def _without_paths(message: Message) -> Message:
    """The same message; a source that is neither an address nor contents is refused before anything is opened."""
    for part in message.parts:
        sources = [getattr(part, "source", None), *(getattr(part, "frames", None) or ())]
        for source in sources:
            if isinstance(source, str) and not source.lower().startswith(("data:", "http://", "https://")):
                raise MessageError(
                    "A part names a file of the server.", remedy="Send the contents, as a data: URI, or a URL."
                )
    return message
