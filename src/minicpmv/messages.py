"""What a person says: a message and its parts, read from every form people already have.

    anything with roles -> parse_messages -> [Message(role, parts)]

One conversation is a list of messages; a message is a tuple of text, pictures, clips and documents in the order they
were said. `parse_messages` reads our own classes, the dictionaries of transformers and of the OpenAI API, plain
strings, and the lists of pictures and strings that the official `chat` takes. It only sorts: no file is opened here,
and this module imports neither torch nor transformers.
"""

from __future__ import annotations

import base64
import binascii
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image

from minicpmv.errors import MessageError

Source: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image
"""Where pixels come from: a path, a URL or data URI, the bytes of a file, an open file, or a picture in memory."""

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class TextPart:
    """Words."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture. `source` None stands for a picture that is handed over beside the messages."""

    source: Source | None
    max_slices: int | None = None
    use_image_id: bool | None = None


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A clip: a file, or its frames as pictures with their moments.

    With frames, `timestamps` (seconds) or `temporal_ids` (official groups of time codes, one group per pack) say when
    they happened; without either they have no time. Neither `source` nor `frames` stands for a clip that is handed
    over beside the messages.

    Raises:
        MessageError: both a source and frames, or times that do not fit the frames.
    """

    source: Source | None = None
    frames: tuple[Source, ...] | None = None
    timestamps: tuple[float, ...] | None = None
    temporal_ids: tuple[tuple[int, ...], ...] | None = None
    fps: float | None = None
    packing: int | None = None
    max_frames: int | None = None
    max_slices: int | None = None
    use_image_id: bool | None = None

    def __post_init__(self) -> None:
        if self.source is not None and self.frames is not None:
            raise MessageError("A video part has both a source and frames.", remedy="Give one of them.")
        if self.frames is None:
            if self.timestamps is not None or self.temporal_ids is not None:
                raise MessageError(
                    "timestamps and temporal_ids describe frames, but the video part has none.",
                    remedy="Give frames=[...], or leave the sampling of a file to fps, packing and max_frames.",
                )
            return
        if not self.frames:
            raise MessageError("A video part has an empty list of frames.", remedy="Give at least one picture.")
        if self.timestamps is not None and self.temporal_ids is not None:
            raise MessageError("A video part has both timestamps and temporal_ids.", remedy="Give one of them.")
        if self.timestamps is not None and len(self.timestamps) != len(self.frames):
            raise MessageError(
                f"A video part has {len(self.frames)} frames and {len(self.timestamps)} timestamps.",
                remedy="Give one timestamp, in seconds, per frame.",
            )


@dataclass(frozen=True, slots=True)
class DocumentPart:
    """A PDF; each page becomes a picture. `pages` count from 1; None means all. `dpi` is the resolution of a page."""

    source: Source
    pages: tuple[int, ...] | None = None
    dpi: float | None = None
    max_slices: int | None = None
    use_image_id: bool | None = None


Part: TypeAlias = TextPart | ImagePart | VideoPart | DocumentPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `reasoning` is what the assistant thought before it answered; `tool_calls` are the functions it asked for, each
    with a name and arguments.
    """

    role: str
    parts: tuple[Part, ...]
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()

    @property
    def text(self) -> str:
        """The words of the message, parts joined by newlines; pictures leave no trace."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))


def parse_conversations(raw: Any) -> tuple[list[list[Message]], bool]:
    """One conversation or a batch of them, and whether it was a batch.

    Raises:
        MessageError: as `parse_messages`; for a batch the message names the conversation.
    """
    is_batch = (
        isinstance(raw, Sequence)
        and not isinstance(raw, str)
        and bool(raw)
        and all(isinstance(item, Sequence) and not isinstance(item, str | bytes) for item in raw)
    )
    if not is_batch:
        return [parse_messages(raw)], False
    parsed = []
    for position, conversation in enumerate(raw):
        try:
            parsed.append(parse_messages(conversation))
        except MessageError as error:
            raise MessageError(f"conversation {position}: {error.what}", remedy=error.remedy) from None
    return parsed, True


def parse_messages(raw: Any) -> list[Message]:
    r"""A conversation in any accepted form as a list of messages.

    Args:
        raw: a string (one user message), or a list of messages: `Message` objects or dictionaries with `role` and
            `content`, whose content is a string, a picture, or a list of parts.

    Raises:
        MessageError: something cannot be read; the error names the message and the part.

    >>> parse_messages([{"role": "user", "content": ["page.png", {"type": "text", "text": "Hi"}]}])[0].text
    'page.png\nHi'
    """
    if isinstance(raw, str):
        return [Message("user", (TextPart(raw),))]
    if isinstance(raw, Message | Mapping):
        raw = [raw]
    if not isinstance(raw, Sequence) or not raw:
        raise MessageError(
            f"A conversation is a non-empty list of messages, not {_short(raw)}.",
            remedy='Give [{"role": "user", "content": "..."}].',
        )
    return [_message(item, f"messages[{position}]") for position, item in enumerate(raw)]


def _message(raw: Any, where: str) -> Message:
    if isinstance(raw, Message):
        _check_role(raw.role, where)
        return raw
    if not isinstance(raw, Mapping):
        raise MessageError(f"{where} is {_short(raw)}.", remedy="Each message needs a role and content.")
    role = "system" if raw.get("role") == "developer" else raw.get("role")
    _check_role(role, where)
    content = raw.get("content")
    calls = raw.get("tool_calls") or ()
    if not isinstance(calls, list | tuple) or not all(_is_call(call) for call in calls):
        raise MessageError(f"{where} has the tool_calls {_short(calls)}.", remedy="Give a list of objects.")
    if content is None and not calls:
        raise MessageError(f"{where} has no content.", remedy="Give a string or a list of parts.")
    reasoning = raw.get("reasoning_content", raw.get("reasoning"))
    if reasoning is not None and (role != "assistant" or not isinstance(reasoning, str)):
        raise MessageError(f"{where} has reasoning that is not an assistant's text.", remedy="Remove it.")
    items = content if isinstance(content, list | tuple) else [] if content is None else [content]
    parts = tuple(_part(item, f"{where}.content[{position}]") for position, item in enumerate(items))
    if role == "assistant" and not all(isinstance(part, TextPart) for part in parts):
        raise MessageError(f"{where} is an assistant's and has media.", remedy="Only text can be answered.")
    for text in (*(part.text for part in parts if isinstance(part, TextPart)), reasoning or ""):
        if not is_whole(text):
            raise MessageError(f"{where} has half a character in its text.", remedy="Write it in UTF-8.")
    return Message(str(role), parts, reasoning, tuple(calls))


def is_whole(text: str) -> bool:
    r"""Whether a text can be written in UTF-8, that is, has no half of a character that takes two in UTF-16.

    >>> is_whole("tea \U0001f375"), is_whole("tea \ud83c")
    (True, False)
    """
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _is_call(call: Any) -> bool:
    """Whether a call says what is called: `{"function": {"name": ...}}`, or the function itself."""
    return isinstance(call, Mapping) and isinstance(call.get("function") or call, Mapping)


def _check_role(role: Any, where: str) -> None:
    if role not in ROLES:
        raise MessageError(f"{where} has the role {role!r}.", remedy=f"Use one of {', '.join(ROLES)}.")


def _part(raw: Any, where: str) -> Part:
    if isinstance(raw, TextPart | ImagePart | VideoPart | DocumentPart):
        return raw
    if isinstance(raw, str):
        return TextPart(raw)
    if isinstance(raw, Image.Image | np.ndarray):
        return ImagePart(_picture(raw, where))
    if not isinstance(raw, Mapping):
        raise MessageError(f"{where} is {_short(raw)}.", remedy="Give text, a picture, or a dictionary with a type.")
    given = {key: value for key, value in raw.items() if value is not None}
    kind = given.pop("type", None) or next((key for key in ("text", "image", "video", "document") if key in given), "")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise MessageError(
            f"{where} has the type {raw.get('type')!r}.", remedy=f"Use one of {', '.join(sorted(_READERS))}."
        )
    try:
        part = reader(given, where)
    except MessageError as error:
        what = error.what if error.what.startswith(where) else f"{where}: {error.what}"
        raise MessageError(what, remedy=error.remedy) from None
    given.pop("detail", None)
    if given:
        raise MessageError(
            f"{where} has unknown keys: {', '.join(sorted(map(str, given)))}.",
            remedy=f"A part of type {kind} takes {', '.join(_KNOWN_OPTIONS.get(kind.split('_')[-1], ('text',)))}.",
        )
    return part


def _read_text(given: dict[str, Any], where: str) -> Part:
    text = given.pop("text", None)
    if not isinstance(text, str):
        raise MessageError(f"{where} has the text {_short(text)}.", remedy="Give a string.")
    return TextPart(text)


def _read_image(given: dict[str, Any], where: str) -> Part:
    return ImagePart(
        _take_source(given, ("image", "image_url"), where),
        given.pop("max_slices", None),
        given.pop("use_image_id", None),
    )


def _read_video(given: dict[str, Any], where: str) -> Part:
    if isinstance(given.get("video"), list | tuple) or (
        isinstance(given.get("video"), np.ndarray) and given["video"].ndim == 4
    ):
        given["frames"] = given.pop("video")
    frames = given.pop("frames", None)
    if frames is not None:
        if not isinstance(frames, list | tuple | np.ndarray):
            raise MessageError(f"{where} has the frames {_short(frames)}.", remedy="Give a list of pictures.")
        frames = tuple(_picture(frame, f"{where}.frames[{position}]") for position, frame in enumerate(frames))
    timestamps = given.pop("timestamps", None)
    groups = given.pop("temporal_ids", None)
    try:
        timestamps = None if timestamps is None else tuple(float(moment) for moment in timestamps)
        groups = None if groups is None else tuple(tuple(group) for group in groups)
    except (TypeError, ValueError):
        raise MessageError(
            f"{where} has timestamps or temporal_ids of another form.",
            remedy="timestamps are seconds, one per frame; temporal_ids are groups of ids such as [[-1], [3, 5]].",
        ) from None
    options = {name: given.pop(name) for name in _VIDEO_OPTIONS if name in given}
    source = _take_source(given, ("video", "video_url"), where)
    return VideoPart(source, frames, timestamps, groups, **options)


def _read_document(given: dict[str, Any], where: str) -> Part:
    source = _take_source(given, ("document", "file", "file_data", "file_url", "pdf"), where)
    if source is None:
        raise MessageError(f"{where} names no document.", remedy="Give a path, a url or bytes.")
    given.pop("filename", None)
    pages = given.pop("pages", None)
    if isinstance(pages, int):
        pages = [pages]
    try:
        pages = None if pages is None else tuple(operator.index(page) for page in pages)
    except TypeError:
        raise MessageError(
            f"{where} has the pages {_short(pages)}.", remedy="Give numbers from 1, such as [1, 3]."
        ) from None
    options = {name: given.pop(name) for name in ("dpi", "max_slices", "use_image_id") if name in given}
    return DocumentPart(source, pages, **options)


_VIDEO_OPTIONS = ("fps", "packing", "max_frames", "max_slices", "use_image_id")
_KNOWN_OPTIONS = {
    "image": ("image", "path", "url", "bytes", "base64", "max_slices", "use_image_id"),
    "video": ("video", "path", "url", "bytes", "base64", "frames", "timestamps", "temporal_ids", *_VIDEO_OPTIONS),
    "document": ("path", "url", "bytes", "base64", "pages", "dpi", "max_slices", "use_image_id"),
}
_READERS = {
    "text": _read_text,
    "input_text": _read_text,
    "output_text": _read_text,
    "image": _read_image,
    "image_url": _read_image,
    "input_image": _read_image,
    "video": _read_video,
    "video_url": _read_video,
    "input_video": _read_video,
    "document": _read_document,
    "file": _read_document,
    "input_file": _read_document,
}


def _take_source(given: dict[str, Any], names: tuple[str, ...], where: str) -> Source | None:
    """Remove and return the one source a part names, under its own names or the general ones; None if it has none."""
    general = ("path", "url", "bytes", "base64", "source")
    present = [name for name in (*names, *general) if name in given]
    if len(present) > 1:
        raise MessageError(f"{where} names more than one source: {', '.join(present)}.", remedy="Keep one.")
    if not present:
        return None
    name = present[0]
    value = given.pop(name)
    if isinstance(value, Mapping):  # {"url": ...} of the OpenAI API, {"bytes": ..., "path": ...} of datasets
        inner = {key: item for key, item in value.items() if item is not None and key not in ("detail", "filename")}
        if inner.get("bytes") is not None:
            inner.pop("path", None)
        if misplaced := [key for key in ("pages", "dpi", *_VIDEO_OPTIONS) if key in inner]:
            raise MessageError(
                f"{where} has {', '.join(misplaced)} inside of its source.", remedy="Write it beside the source."
            )
        return _take_source(inner, ("file_data", "file_url"), where)
    if name == "base64":
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise MessageError(f"{where} has base64 that cannot be decoded.", remedy="Check the encoding.") from None
    return _picture(value, where)


def _picture(value: Any, where: str) -> Source:
    """A source as it is, and an array of pixels as a picture."""
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim not in (2, 3):
            raise MessageError(
                f"{where} is an array of {value.dtype} with shape {list(value.shape)}.",
                remedy="Give uint8 pixels [height, width, 3].",
            )
        return Image.fromarray(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str | os.PathLike | bytes | Image.Image) or hasattr(value, "read"):
        return value  # type: ignore[no-any-return]  # one of the members of Source, checked just above
    raise MessageError(f"{where} is {_short(value)}, not a source.", remedy="Give a path, a URL, bytes or a picture.")


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def group_frames(messages: Sequence[Message], temporal_ids: Sequence[Sequence[int]]) -> list[Message]:
    """The conversation with its pictures regrouped by official time codes, as `chat(temporal_ids=...)` means it.

    The groups run over all pictures of the conversation in order. A group [-1] leaves a picture as it is;
    neighbouring groups with times, or of several pictures, become one clip.

    Raises:
        MessageError: another number of ids than pictures, a clip among the parts, or a group that spans text.
    """
    pending = [tuple(group) for group in temporal_ids]
    total = sum(len(group) for group in pending)
    pictures = sum(isinstance(part, ImagePart) for message in messages for part in message.parts)
    if any(isinstance(part, VideoPart | DocumentPart) for message in messages for part in message.parts):
        raise MessageError("temporal_ids cannot be combined with video or document parts.", remedy="Give pictures.")
    if total != pictures:
        raise MessageError(
            f"temporal_ids name {total} pictures, but the conversation has {pictures}.", remedy="Give one id each."
        )
    return [replace(message, parts=_regrouped(message.parts, pending)) for message in messages]


def _regrouped(parts: tuple[Part, ...], pending: list[tuple[int, ...]]) -> tuple[Part, ...]:
    """One message's parts, taking its groups from the front of `pending`."""
    result: list[Part] = []
    position = 0
    while position < len(parts):
        part = parts[position]
        if not isinstance(part, ImagePart):
            result.append(part)
            position += 1
            continue
        group = pending.pop(0)
        members = [item for item in parts[position : position + len(group)] if isinstance(item, ImagePart)]
        if len(members) != len(group) or not group:
            raise MessageError(f"temporal_ids group {list(group)} spans text or is empty.", remedy="Regroup the ids.")
        position += len(group)
        if group == (-1,):
            result.append(part)
            continue
        frames = tuple(member.source for member in members if member.source is not None)
        last = result[-1] if result else None
        if isinstance(last, VideoPart) and last.frames is not None and last.temporal_ids is not None:
            result[-1] = replace(last, frames=last.frames + frames, temporal_ids=(*last.temporal_ids, group))
        else:
            clip = VideoPart(frames=frames, temporal_ids=(group,), max_slices=part.max_slices)
            result.append(replace(clip, use_image_id=part.use_image_id))
    return tuple(result)
