"""A data set as a folder that explains itself: one JSON object per sample, and its media beside it.

    samples -> Sieve -> write_dataset -> folder/data.jsonl, folder/media/, folder/left_out.jsonl

What is drawn is frozen, what is scattered is collected, what cannot be used is listed with its reason. The folder is
read back by `minicpmv.data.readers`, and by anyone who knows the messages form.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from minicpmv.data.filters import Sieve
from minicpmv.data.readers import LEFT_OUT, Flaw
from minicpmv.data.sample import Sample
from minicpmv.data.worlds.clip_files import write_clip
from minicpmv.errors import OptionError
from minicpmv.messages import DocumentPart, ImagePart, Message, Part, Source, TextPart, VideoPart
from minicpmv.processing.sampling import MAX_FRAMES_PER_SECOND

_SUFFIXES = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8", ".jpg"),
    (b"%PDF", ".pdf"),
    (b"GIF8", ".gif"),
    (b"RIFF", ".webp"),
    (b"\x1aE\xdf\xa3", ".webm"),
)


def with_clip_files(sample: Sample | Flaw) -> Sample | Flaw:
    """The sample with a video file in the place of every clip that is held as pictures with times.

    The file is looked at as often as the pictures were taken. What else is given stays as it is.

    Raises:
        OptionError: sides are odd, or times do not grow from 0 in steps of at least 1/30 s.
    """
    if isinstance(sample, Flaw):
        return sample
    turns = [replace(message, parts=tuple(_as_file(part) for part in message.parts)) for message in sample.messages]
    return replace(sample, messages=tuple(turns))


def _as_file(part: Part) -> Part:
    if not isinstance(part, VideoPart) or part.frames is None or part.timestamps is None:
        return part
    pictures = [np.asarray(frame.convert("RGB")) for frame in part.frames if isinstance(frame, Image.Image)]
    if len(pictures) < len(part.frames):
        return part
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, pictures, part.timestamps)
        steps = part.timestamps[-1] / max(1, len(pictures) - 1)
        fps = min(MAX_FRAMES_PER_SECOND, 1 / steps) if steps else part.fps
        return replace(part, source=path.read_bytes(), frames=None, timestamps=None, fps=fps)


def write_dataset(samples: Iterable[Sample | Flaw], folder: Path, sieve: Sieve) -> tuple[int, int]:
    """Write samples as a data set; the folder appears when everything is in it.

    Args:
        samples: as many as are wanted.
        folder: must not exist yet.
        sieve: decides what is kept, and counts.

    Returns:
        How many samples were written, and how many were left out.

    Raises:
        OptionError: the folder exists already.
    """
    if folder.exists():
        raise OptionError(f"{folder} exists already.", remedy="Name another folder, or remove it first.")
    fresh = folder.with_name(folder.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        (fresh / "media").mkdir(parents=True)
        counts = _write(samples, fresh, sieve)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # nothing half done stays
    return counts


def _write(samples: Iterable[Sample | Flaw], fresh: Path, sieve: Sieve) -> tuple[int, int]:
    """Samples into a folder that is there; how many were written, and how many were left out."""
    written = left_out = 0
    with (
        _json_lines(fresh / "data.jsonl") as kept,
        _json_lines(fresh / LEFT_OUT) as dropped,
    ):
        for sample in samples:
            judged = sample if isinstance(sample, Flaw) else sieve(sample)
            if isinstance(judged, Flaw):
                dropped.write(json.dumps({"key": judged.key, "reason": judged.reason}, ensure_ascii=False) + "\n")
                left_out += 1
                continue
            # Tables bring dates and times among what is known about a sample; they are kept as text.
            kept.write(json.dumps(_record(judged, fresh, written), ensure_ascii=False, default=str) + "\n")
            written += 1
    if not left_out:
        (fresh / LEFT_OUT).unlink()
    return written, left_out


def _json_lines(path: Path) -> TextIO:
    """A file to write JSON to. Of a name that is no UTF-8 it keeps what Python makes of it, by the escapes of JSON."""
    return path.open("w", encoding="utf-8", errors="backslashreplace")


def _record(sample: Sample, folder: Path, number: int) -> dict[str, Any]:
    media = iter(range(1_000_000))
    messages = [_turn(message, folder, f"{number:06d}", media) for message in sample.messages]
    record: dict[str, Any] = {"id": sample.key, "messages": messages}
    return record | ({"metadata": dict(sample.metadata)} if sample.metadata else {})


def _turn(message: Message, folder: Path, stem: str, media: Any) -> dict[str, Any]:
    turn: dict[str, Any] = {
        "role": message.role,
        "content": [_part(part, folder, stem, media) for part in message.parts],
    }
    if message.reasoning is not None:
        turn["reasoning"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [dict(call) for call in message.tool_calls]
    return turn


def _part(part: Part, folder: Path, stem: str, media: Any) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    kind = {ImagePart: "image", VideoPart: "video", DocumentPart: "document"}[type(part)]
    given: dict[str, Any] = {"type": kind}
    for name in (field.name for field in fields(part)):
        value = getattr(part, name)
        if value is None:
            continue
        if name == "source":
            given["path"] = _kept(value, folder, f"{stem}-{next(media)}")
        elif name == "frames":
            given["frames"] = [_kept(frame, folder, f"{stem}-{next(media)}") for frame in value]
        else:
            given[name] = value
    return given


def _kept(source: Source, folder: Path, name: str) -> str:
    """Put a picture, file or bytes into the media folder; returns its name below the data set. A URL stays one."""
    if isinstance(source, Image.Image):
        place = f"media/{name}.png"
        source.save(folder / place)
        return place
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if "://" in text or text.startswith("data:"):
            return text
        place = f"media/{name}{Path(text).suffix.lower()}"
        shutil.copyfile(text, folder / place)
        return place
    content = source if isinstance(source, bytes) else source.read()
    suffix = next((suffix for mark, suffix in _SUFFIXES if content.startswith(mark)), ".mp4")
    place = f"media/{name}{suffix}"
    (folder / place).write_bytes(content)
    return place
