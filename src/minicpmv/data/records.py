"""A record of a data set, in any of the usual forms, to a sample.

    {"messages": [{"role", "content"}], maybe "images" | "videos" beside}  our own form, and OpenAI's and transformers'
    {"conversations": [{"from", "value"}], "image" | "images" | "video"}   LLaVA's form, with <image> marks in the text;
                                                                           MiniCPM-V's has role and content
    {"prompt" | "question", "completion" | "answer", "image" | "document" ...}    one question and its answer
    {"caption" | "text", "image" | "video"}                                a picture or clip and what is said about it

Beside media, `fps`, `packing`, `max_frames`, `max_slices`, `pages` and `dpi` say how they are looked at. Names of media
files are taken relative to the folder of the file that names them.
"""

import math
import re
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minicpmv.data.sample import Sample
from minicpmv.errors import MessageError, OptionError
from minicpmv.messages import ROLES, Part, TextPart, VideoPart, parse_messages
from minicpmv.processing.options import part_options

_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_MARK = re.compile(r"<(image|video)>\n?|\n?<(image|video)>$")
_MEDIA_KEYS = ("document", "documents", "image", "images", "video", "videos")
_MISNAMED = {
    **dict.fromkeys(("img", "imgs", "image_path", "picture", "pictures", "photo"), "image"),
    **dict.fromkeys(("clip", "clips", "video_path"), "video"),
    **dict.fromkeys(("pdf", "pdfs"), "document"),
}
"""Keys that would be passed over, and a question about a picture learned without it."""
_OPTIONS = {
    "image": ("max_slices",),
    "video": ("fps", "packing", "max_frames", "max_slices"),
    "document": ("pages", "dpi", "max_slices"),
}
"""How media that stand beside the text are looked at, if the record says so beside them."""
_SOURCE_KEYS = ("path", "image", "video", "document")
CAPTION_QUESTION = "Describe what you see."
"""What is asked about a picture or clip that comes with a caption and no question. Ours."""


def sample_from_record(record: Any, key: str, folder: Path) -> Sample:
    """A record as a sample.

    Args:
        record: a mapping in one of the forms above; `metadata` in it is kept, and so is `id`.
        key: where the record comes from; part of every error.
        folder: what names of media files are relative to.

    Raises:
        MessageError: none of the forms, marks without media or media without marks, or no assistant's turn.
    """
    try:
        if not isinstance(record, Mapping):
            raise MessageError(
                f"a record is {reprlib.repr(record)}, not an object.", remedy="Write one object per record."
            )
        messages = parse_messages(_turns(record, folder))
        for part in (part for message in messages for part in message.parts):
            _refuse_unusable(part)
        if not any(message.role == "assistant" and message.text.strip() for message in messages):
            raise MessageError("no assistant's turn says anything.", remedy="A sample needs an answer to learn.")
    except (MessageError, OptionError) as error:
        raise MessageError(f"{key}: {error.what}", remedy=error.remedy) from None
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise MessageError(f"{key}: metadata is {reprlib.repr(metadata)}.", remedy="Give an object.")
    metadata = dict(metadata)
    if "id" in record:
        metadata.setdefault("id", record["id"])
    return Sample(key, tuple(messages), metadata)


def _turns(record: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The turns of a record as dictionaries that `parse_messages` takes."""
    if record.get("messages") is not None:
        turns = record["messages"]
        if not isinstance(turns, Sequence) or isinstance(turns, str):
            raise MessageError("messages is not a list.", remedy='Give [{"role": ..., "content": ...}].')
        said = [_resolved_turn(turn, folder) for turn in turns]
        media = _media(record, folder)
        if not media and all(_kind(part) == "text" for turn in said for part in _parts(turn)):
            _refuse_misnamed(record)
        return _with_media(said, media) if media else said
    media = _media(record, folder)
    if not media:
        _refuse_misnamed(record)
    if record.get("conversations") is not None:  # a table gives every record every column
        if not isinstance(record["conversations"], list | tuple) or not record["conversations"]:
            raise MessageError("conversations is no list of turns.", remedy='Give [{"from": ..., "value": ...}].')
        turns = [_llava_turn(turn) for turn in record["conversations"]]
    else:
        question, answer = _question_and_answer(record)
        turns = [("user", question), ("assistant", answer)]
    return _with_media([{"role": role, "content": text} for role, text in turns], media)


def _with_media(turns: Sequence[Any], media: Sequence[dict[str, Any]]) -> list[Any]:
    """Turns with the media that stand beside them: in the parts that wait for them, at marks, or before everything."""
    opened = [{**turn, "content": _parts(turn)} if _asks(turn) else turn for turn in turns]
    asking = [turn for turn in opened if _asks(turn)]
    if not any(_waits(part) for turn in asking for part in turn["content"]):
        for turn in asking:
            turn["content"] = [piece for part in turn["content"] for piece in _cut(part)]
    parts = [part for turn in asking for part in turn["content"]]
    places = Counter(_kind(part) for part in parts if _waits(part))
    beside = [part for part in media if part["type"] != "document"]
    given = Counter(part["type"] for part in beside)
    if places and places != given:
        raise MessageError(
            f"{places['image']} <image> and {places['video']} <video> marks stand in the text, but "
            f"{given['image']} pictures and {given['video']} clips are given.",
            remedy="Write one for each, or none at all.",
        )
    if beside and not places and any(_kind(part) in ("image", "video") for part in parts):
        raise MessageError(
            "a record has pictures or clips in its messages, and others beside them.",
            remedy="Give all of them in the messages, or all beside.",
        )
    pending = {kind: iter([part for part in beside if part["type"] == kind]) for kind in ("image", "video")}
    for turn in asking:
        turn["content"] = [next(pending[part["type"]]) if _waits(part) else part for part in turn["content"]]
    before = [part for part in media if part["type"] == "document"] + ([] if places else beside)
    if before and not asking:
        raise MessageError("a record has media and nobody who asks.", remedy="Write a user's turn.")
    if before:
        asking[0]["content"] = [*before, *asking[0]["content"]]
    return opened


def _refuse_unusable(part: Part) -> None:
    """A picture or clip is there, and can be looked at as the record says.

    Raises:
        MessageError: nothing is there.
        OptionError: an option of the wrong type or out of its range.
    """
    if isinstance(part, TextPart):
        return
    if part.source is None and not (isinstance(part, VideoPart) and part.frames):
        raise MessageError("a picture or clip has no source.", remedy="Give its path, url or bytes.")
    part_options(part)
    times = (part.timestamps if isinstance(part, VideoPart) else None) or ()
    if any(not 0 <= moment < math.inf for moment in times) or list(times) != sorted(times):
        raise MessageError("the timestamps of a clip do not rise from 0 up.", remedy="Sort the frames by time.")


def _refuse_misnamed(record: Mapping[str, Any]) -> None:
    wrong = next((key for key in _MISNAMED if record.get(key) is not None), None)
    if wrong is not None:
        raise MessageError(f"a record has the key {wrong}.", remedy=f"Call it {_MISNAMED[wrong]}.")


def _parts(turn: Any) -> list[Any]:
    """The parts of a turn; a text alone is one of them."""
    content = turn.get("content") if isinstance(turn, Mapping) else None
    parts = content if isinstance(content, list | tuple) else [] if content is None else [content]
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


def _asks(turn: Any) -> bool:
    return isinstance(turn, Mapping) and turn.get("role") == "user"


def _kind(part: Any) -> Any:
    """What a part says that it is; of a text without a text nothing."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    return None if kind == "text" and not isinstance(part.get("text"), str) else kind


def _waits(part: Any) -> bool:
    """Whether a part is the place of a picture or clip that is given elsewhere; tables give every part every key."""
    return _kind(part) in ("image", "video") and all(value is None for name, value in part.items() if name != "type")


def _llava_turn(turn: Any) -> tuple[str, str]:
    told = turn if isinstance(turn, Mapping) else {}
    # A table gives every turn every key.
    speaker, said = (
        next((told[name] for name in names if told.get(name) is not None), None)
        for names in (("from", "role"), ("value", "content"))
    )
    if not isinstance(speaker, str) or speaker not in _SPEAKERS or not isinstance(said, str):
        raise MessageError(
            "a turn of conversations lacks from or value.", remedy=f"from is one of {', '.join(_SPEAKERS)}."
        )
    return _SPEAKERS[speaker], said


def _question_and_answer(record: Mapping[str, Any]) -> tuple[str, str]:
    question, answer = (
        next((record[name] for name in names if record.get(name) is not None), None)
        for names in (("prompt", "question"), ("completion", "answer", "caption", "text"))
    )
    if isinstance(answer, str) and (isinstance(question, str) or question is None):
        return question if question is not None else CAPTION_QUESTION, answer
    wrong = answer if answer is not None and not isinstance(answer, str) else question
    if wrong is not None and not isinstance(wrong, str):
        raise MessageError(f"{reprlib.repr(wrong)} is no text.", remedy='Write it as one: "5", not 5.')
    keys = ", ".join(sorted(map(str, record)))
    raise MessageError(
        f"a record has the keys {keys}." if keys else "a record is empty.",
        remedy="Give messages, conversations, question and answer, prompt and completion, or a caption.",
    )


def _media(record: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The documents, pictures and clips that stand beside the text, in order."""
    found = []
    for name in _MEDIA_KEYS:
        value = record.get(name)
        if value is None:
            continue
        kind = name.removesuffix("s")
        if kind == "document" and isinstance(record.get("pages"), int):  # of many tables the number of pages
            raise MessageError(f"pages is {record['pages']}.", remedy="List the pages to look at, such as [1, 2].")
        looked_at = {option: record[option] for option in _OPTIONS[kind] if record.get(option) is not None}
        for item in value if isinstance(value, list | tuple) else [value]:
            found.append({"type": kind, kind: _resolved(item, folder), **looked_at})
    return found


def _cut(part: Any) -> list[Any]:
    """A text cut at its marks, which become parts that wait; anything else as it is."""
    if _kind(part) != "text" or not _MARK.search(part["text"]):
        return [part]
    content: list[Any] = []
    position = 0
    for mark in _MARK.finditer(part["text"]):
        if before := part["text"][position : mark.start()].strip("\n"):
            content.append({"type": "text", "text": before})
        content.append({"type": mark[1] or mark[2]})
        position = mark.end()
    if rest := part["text"][position:].strip("\n"):
        content.append({"type": "text", "text": rest})
    return content


def _resolved_turn(turn: Any, folder: Path) -> Any:
    if not isinstance(turn, Mapping) or turn.get("role") not in (*ROLES, "developer"):
        return turn  # parse_messages says what is wrong
    content = turn.get("content")
    if not isinstance(content, list | tuple):
        return dict(turn)
    parts = [_resolved_part(part, folder) if isinstance(part, Mapping) else part for part in content]
    return {**turn, "content": parts}


def _resolved_part(part: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    changed = dict(part)
    for name in _SOURCE_KEYS:
        if name in changed:
            changed[name] = _resolved(changed[name], folder)
    for name in ("frames", "video"):
        if isinstance(changed.get(name), list | tuple):
            changed[name] = [_resolved(frame, folder) for frame in changed[name]]
    return changed


def _resolved(source: Any, folder: Path) -> Any:
    """A relative file name below the folder; anything else as it is."""
    if isinstance(source, Mapping) and isinstance(source.get("path"), str) and source.get("bytes") is None:
        return {**source, "path": _resolved(source["path"], folder)}
    if isinstance(source, str) and "://" not in source and not source.startswith("data:"):
        return str(folder / source)
    return source
