"""Files on the command line to the parts of a message.

A file is what its content says, not its name. Pictures are read here, so that a bad one fails before a model is loaded;
clips and documents are looked into and handed on as paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minicpmv.cli.console import say
from minicpmv.errors import MediaError, OptionError

if TYPE_CHECKING:
    from minicpmv.messages import DocumentPart, ImagePart, Part, VideoPart
    from minicpmv.processing.options import MediaOptions


class MisuseError(Exception):
    """The command line itself makes no sense; the command exits with 2."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the files of one command are read.

    Args:
        options: what is chosen for pictures and clips; None in it leaves the choice to the checkpoint.
        pages: which pages of a PDF; None means all.
        allow_urls: whether a file may be an http(s) address.
    """

    options: "MediaOptions"
    pages: tuple[int, ...] | None = None
    allow_urls: bool = False


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file of the command line: its name there, what it holds, and the part of the message it becomes."""

    name: str
    kind: str
    part: "Part"


def read_files(names: Sequence[str], how: Reading) -> list[MediaFile]:
    """Look at every file; notes about them (an animation's first frame, say) go to stderr.

    Raises:
        MediaError: a file is missing, unreadable, or neither picture, clip nor PDF.
        OptionError: a page that the document does not have.
    """
    files = [read_file(name, how) for name in names]
    kinds = {file.kind for file in files}
    clip = {"--fps": how.options.fps, "--packing": how.options.packing, "--max-frames": how.options.max_frames}
    for kind, given in (("document", {"--pages": how.pages}), ("video", clip)):
        useless = [option for option, value in given.items() if value is not None]
        if files and useless and kind not in kinds:
            say(f"note: {', '.join(useless)} changes nothing, because no file is a {kind}.")
    return files


def read_file(name: str, how: Reading) -> MediaFile:
    """One file as a part of a message; see `read_files`. Every error names the file."""
    try:
        return _read_file(name, how)
    except MediaError as error:
        if name in error.what:
            raise
        raise type(error)(f"{name}: {error.what}", remedy=error.remedy) from error


def _read_file(name: str, how: Reading) -> MediaFile:
    from minicpmv.media.fetch import FetchPolicy, read_source
    from minicpmv.media.kinds import media_kind

    source = read_source(name, FetchPolicy(allow_remote=how.allow_urls))
    kind = media_kind(source)
    part: ImagePart | DocumentPart | VideoPart
    if kind == "image":
        part = _picture(name, source, how.options)
    elif kind == "document":
        part = _document(name, source, how)
    else:
        part = _clip(source, how.options)
    return MediaFile(name, kind, part)


def _picture(name: str, source: Path | bytes, options: "MediaOptions") -> "ImagePart":
    from minicpmv.media.image import load_image
    from minicpmv.messages import ImagePart
    from minicpmv.processing.geometry import Geometry
    from minicpmv.processing.slicing import Size

    loaded = load_image(source)
    Geometry().plan(Size(*loaded.image.size))  # refuses a shape that no checkpoint can look at
    for note in loaded.notes:
        say(f"note: {name}: {note}")
    return ImagePart(loaded.image, max_slices=options.max_slices)


def _clip(source: Path | bytes, options: "MediaOptions") -> "VideoPart":
    from minicpmv.media.video import probe_video
    from minicpmv.messages import VideoPart

    probe_video(source)
    return VideoPart(
        source,
        fps=options.fps,
        packing=options.packing,
        max_frames=options.max_frames,
        max_slices=options.max_slices,
    )


def _document(name: str, source: Path | bytes, how: Reading) -> "DocumentPart":
    from minicpmv.media.document import probe_document
    from minicpmv.messages import DocumentPart

    num_pages = probe_document(source).num_pages
    beyond = [page for page in how.pages or () if page > num_pages]
    if beyond:
        raise OptionError(
            f"{name} has {num_pages} pages, but page {beyond[0]} is asked for.", remedy="Correct --pages."
        )
    return DocumentPart(source, pages=how.pages, max_slices=how.options.max_slices)


def parse_pages(text: str) -> tuple[int, ...]:
    """Page numbers from a list of numbers and ranges, in the order given, each once.

    Raises:
        OptionError: it is no such list.

    >>> parse_pages("1-3,7")
    (1, 2, 3, 7)
    """
    pages: list[int] = []
    for piece in text.split(","):
        first, dash, last = piece.strip().partition("-")
        if not (first.isdecimal() and int(first) >= 1 and (not dash or (last.isdecimal() and int(last) >= int(first)))):
            raise OptionError(
                f"'{text}' is no list of pages.", remedy="Write numbers from 1 and ranges, such as 1-3,7."
            )
        # A range is bounded by the longest documents there are, so that a slip of the key cannot fill the memory.
        if dash and int(last) - int(first) >= 100_000:
            raise OptionError(f"'{piece.strip()}' is too many pages.", remedy="Name at most 100000.")
        pages += range(int(first), int(last if dash else first) + 1)
    return tuple(dict.fromkeys(pages))


def files_and_question(words: Sequence[str]) -> tuple[list[str], str]:
    """The files and the question of `ask FILE... "QUESTION"`.

    Raises:
        MisuseError: the last word is a file, so the question is missing, or it is empty.
    """
    *names, question = words
    if not question.strip():
        raise MisuseError("The question is empty.")
    if "\n" not in question and len(question) < 1024 and Path(question).exists():
        raise MisuseError(
            f"The last argument is the question, but '{question}' is a file. "
            'Put the question at the end: minicpmv ask FILE... "QUESTION"'
        )
    return names, question
