"""Data sets on disk, read one record after another from any position.

    path -> open_source -> Source.read(Position) -> (Sample or Flaw, next Position), ...

A position is a few whole numbers, so a run that was killed goes on with the record after the last one it used, without
parsing what came before. A record that cannot be used is not an exception but a `Flaw`: whoever reads decides what
happens to it.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from PIL import Image

from minicpmv.data.captions import CAPTION_SUFFIXES, CLIP_SUFFIXES, find_caption, need_subtitles, read_caption
from minicpmv.data.html.browser import Browser, View
from minicpmv.data.records import sample_from_record
from minicpmv.data.sample import Sample
from minicpmv.errors import MediaError, MessageError, MiniCPMVError, OptionError
from minicpmv.media.document import page_texts
from minicpmv.messages import DocumentPart, ImagePart, Message, TextPart, VideoPart

LEFT_OUT = "left_out.jsonl"
"""What `minicpmv data build` lists beside a data set; its lines are no records."""

_BLOCK = 2**20

_LEFT_BY_DATASETS = "cache-*.arrow"
"""What `datasets` keeps beside a data set of what was once computed from it."""

READING_QUESTION = "Write down the text of the page."
"""What is asked about a page of a PDF or of the web. Ours."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where to go on: number of the file, and a place in it that only its reader understands."""

    file: int = 0
    place: int = 0


@dataclass(frozen=True, slots=True)
class Flaw:
    """A record that cannot be used, and why."""

    key: str
    reason: str


class Source(Protocol):
    """A data set that can be read from any position."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def read(self, start: Position) -> Iterator[tuple[Sample | Flaw, Position]]:
        """Records from a position to the end, each with the position of the next one."""
        ...


@dataclass(frozen=True, slots=True)
class JsonLines:
    """Files with one JSON object per line; a place is a byte."""

    name: str
    files: tuple[Path, ...]

    def read(self, start: Position) -> Iterator[tuple[Sample | Flaw, Position]]:
        """See `Source`."""
        for number in range(start.file, len(self.files)):
            path = self.files[number]
            with path.open("rb") as file:
                row = _lines_before(file, start.place if number == start.file else 0)
                while line := file.readline():
                    row += 1
                    if line.strip():
                        found = _sample(partial(json.loads, line), f"{path.name}:{row}", path.parent)
                        yield found, Position(number, file.tell())


@dataclass(frozen=True, slots=True)
class Parquet:
    """Parquet files; a place is a row. Needs pyarrow."""

    name: str
    files: tuple[Path, ...]

    def read(self, start: Position) -> Iterator[tuple[Sample | Flaw, Position]]:
        """See `Source`."""
        _need_pyarrow(self.name, "a Parquet")
        yield from _rows(self.files, start, _parquet_blocks)


@dataclass(frozen=True, slots=True)
class Arrow:
    """Arrow files, as `datasets.Dataset.save_to_disk` writes them, or Feather; a place is a row. Needs pyarrow."""

    name: str
    files: tuple[Path, ...]

    def read(self, start: Position) -> Iterator[tuple[Sample | Flaw, Position]]:
        """See `Source`."""
        _need_pyarrow(self.name, "an Arrow")
        yield from _rows(self.files, start, _arrow_blocks)


@dataclass(frozen=True, slots=True)
class WebDataset:
    """Tar files as WebDataset writes them: members with one name but for the suffix form a record. A place is a byte.

    `.json` holds the record; `.jpg`, `.png`, `.webp`, `.mp4` ... its picture or clip; `.txt` a caption; `.srt` and
    `.vtt` the subtitles of a clip.
    """

    name: str
    files: tuple[Path, ...]

    def read(self, start: Position) -> Iterator[tuple[Sample | Flaw, Position]]:
        """See `Source`."""
        for number in range(start.file, len(self.files)):
            path = self.files[number]
            offset = start.place if number == start.file else 0
            try:
                for stem, members, after in _groups(path, offset):
                    if _speaks(members):
                        need_subtitles(path.name)
                    found = _sample(partial(_tar_record, members), f"{path.name}:{stem}", path.parent)
                    yield found, Position(number, after)
            except (tarfile.TarError, EOFError) as error:
                yield Flaw(path.name, f"The rest of the file is damaged: {error}"), Position(number + 1, 0)


@dataclass(frozen=True, slots=True)
class Pages:
    """PDF files, a record per page: the page as a picture, and its own text layer as what is to be written."""

    name: str
    files: tuple[Path, ...]
    question: str = READING_QUESTION

    def read(self, start: Position) -> Iterator[tuple[Sample | Flaw, Position]]:
        """See `Source`."""
        for number in range(start.file, len(self.files)):
            path = self.files[number]
            first = start.place if number == start.file else 0
            try:
                for page, text in page_texts(path, first + 1):
                    yield self._page(path, page, text), Position(number, page)
            except MediaError as error:
                yield Flaw(path.name, str(error)), Position(number + 1, 0)

    def _page(self, path: Path, page: int, text: str) -> Sample | Flaw:
        key = f"{path.name}:{page}"
        if not text:
            return Flaw(key, "The page has no text layer.")
        asked = Message("user", (DocumentPart(str(path), pages=(page,)), TextPart(self.question)))
        return Sample(key, (asked, Message("assistant", (TextPart(text),))), {"page": page})


@dataclass(frozen=True, slots=True)
class Clips:
    """Clips with what is said about them in a file of the same name: `.txt`, `.srt` or `.vtt` (see `captions`)."""

    name: str
    files: tuple[Path, ...]

    def read(self, start: Position) -> Iterator[tuple[Sample | Flaw, Position]]:
        """See `Source`."""
        root = _root(self.files)
        for number in range(start.file, len(self.files)):
            clip = self.files[number]
            caption = find_caption(clip)
            if caption is not None and caption.suffix != ".txt":
                need_subtitles(caption.name)
            yield self._clip(_key(clip, root), clip, caption), Position(number + 1, 0)

    def _clip(self, key: str, clip: Path, caption: Path | None) -> Sample | Flaw:
        if caption is None:
            *others, last = (clip.with_suffix(suffix).name for suffix in CAPTION_SUFFIXES)
            return Flaw(key, f"There is no {', '.join(others)} or {last}.")
        try:
            question, answer = read_caption(caption.read_bytes(), caption.suffix)
        except (MessageError, OSError) as error:
            return Flaw(key, str(error))
        asked = Message("user", (VideoPart(str(clip)), TextPart(question)))
        return Sample(key, (asked, Message("assistant", (TextPart(answer),))), {"caption": caption.name})


@dataclass(frozen=True, slots=True)
class WebPages:
    """HTML files, a record per file: the page as Chromium shows it, and its visible text. Needs playwright.

    Pictures and style sheets of a page may lie anywhere below the folder that holds all of them. Each record is drawn
    when it is read; `minicpmv data build` draws once and for all.
    """

    name: str
    files: tuple[Path, ...]
    question: str = READING_QUESTION
    view: View = View()

    def read(self, start: Position) -> Iterator[tuple[Sample | Flaw, Position]]:
        """See `Source`."""
        root = _root(self.files)
        with Browser(self.view) as browser:
            for number in range(start.file, len(self.files)):
                yield self._page(browser, self.files[number], root), Position(number + 1, 0)

    def _page(self, browser: Browser, path: Path, root: Path) -> Sample | Flaw:
        key = _key(path, root)
        try:
            page = browser.render(path, root=root)
        except MediaError as error:
            return Flaw(key, str(error))
        if not page.text:
            return Flaw(key, "The page shows no text.")
        drawn = io.BytesIO()
        Image.fromarray(page.image).save(drawn, "PNG")  # a block of shuffled records has to fit into memory
        asked = Message("user", (ImagePart(drawn.getvalue()), TextPart(self.question)))
        return Sample(key, (asked, Message("assistant", (TextPart(page.text),))), {"kind": page.kind})


_RECORDS: dict[str, Callable[[str, tuple[Path, ...]], Source]] = {
    ".jsonl": JsonLines,
    ".parquet": Parquet,
    ".arrow": Arrow,
    ".tar": WebDataset,
}
_MEDIA: dict[str, Callable[[str, tuple[Path, ...]], Source]] = {
    ".pdf": Pages,
    ".html": WebPages,
    ".htm": WebPages,
    **dict.fromkeys(CLIP_SUFFIXES, Clips),
}
_SUFFIXES = _RECORDS | _MEDIA


def open_source(path: Path, name: str = "") -> Source:
    """The data set in a file, or in the files of a folder that have one of the known endings.

    Where a folder has files of records, its PDFs, web pages and clips are taken for what the records name.

    Args:
        path: a `.jsonl`, `.parquet`, `.arrow`, `.tar`, `.pdf` or `.html` file, a clip, or a folder of such files of
            one kind.
        name: what it is called; by default as its file or folder.

    Raises:
        OptionError: nothing there, or files of several kinds.
    """
    if not path.exists():
        raise OptionError(f"{path} does not exist.", remedy="Check the path.")
    files = _files_of(path) if path.is_dir() else [path]
    if files and all(file.suffix.lower() == ".json" for file in files):
        raise OptionError(
            f"{path} is one JSON document, which is read only as a whole.",
            remedy="Make it one record per line: jq -c '.[]' data.json > data.jsonl",
        )
    kinds = {_SUFFIXES.get(file.suffix.lower()) for file in files}
    if len(kinds) != 1 or None in kinds:
        suffixes = sorted({file.suffix.lower() for file in files} & set(_SUFFIXES))
        found = ", ".join(suffixes) if suffixes else "nothing that can be read"
        raise OptionError(
            f"{path} holds {found}.", remedy=f"Name a file, or a folder of files of one kind: {', '.join(_SUFFIXES)}."
        )
    return _SUFFIXES[files[0].suffix.lower()](name or path.stem, tuple(files))


def _files_of(folder: Path) -> list[Path]:
    """Files of records below a folder, or else media; without hidden ones, and without what a data set lacks."""
    visible = [
        file
        for file in folder.rglob("*")
        if file.name != LEFT_OUT and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    records = sorted(
        file for file in visible if file.suffix.lower() in _RECORDS and not fnmatch(file.name, _LEFT_BY_DATASETS)
    )
    return records or sorted(file for file in visible if file.suffix.lower() in _MEDIA)


def _lines_before(file: BinaryIO, place: int) -> int:
    """Go to a place, and count the lines before it: people look for records by their line."""
    lines = 0
    while place > file.tell() and (block := file.read(min(_BLOCK, place - file.tell()))):
        lines += block.count(b"\n")
    return lines


def _root(files: Sequence[Path]) -> Path:
    """The folder that holds all files."""
    return Path(os.path.commonpath([file.parent.absolute() for file in files]))


def _key(path: Path, root: Path) -> str:
    """A file's name below the folder that holds all of them."""
    return path.absolute().relative_to(root).as_posix()


def _sample(read: Callable[[], Any], key: str, folder: Path) -> Sample | Flaw:
    try:
        return sample_from_record(read(), key, folder)
    except json.JSONDecodeError as error:
        return Flaw(key, f"This is not JSON: {error}")
    except UnicodeDecodeError:
        return Flaw(key, "This is not text in UTF-8.")
    except (MiniCPMVError, ValueError) as error:
        return Flaw(key, str(error).removeprefix(f"{key}: "))
    except (TypeError, LookupError) as error:  # a stranger's record may have any type anywhere
        return Flaw(key, f"It has a value of another type than it should: {error!r}")
    except RecursionError:
        return Flaw(key, "It is nested too deep to be read.")


def _need_pyarrow(name: str, kind: str) -> None:
    try:
        import pyarrow  # noqa: F401  (only whether it is there)
    except ImportError:
        raise OptionError(
            f"{name} is {kind} file, and pyarrow is not installed.", remedy="Install it: pip install 'minicpmv[data]'"
        ) from None


Block = tuple[int, Callable[[], Any]]
"""Rows of a part of a table, and what reads them."""


def _rows(
    files: Sequence[Path], start: Position, blocks: Callable[[Path], Iterator[Block]]
) -> Iterator[tuple[Sample | Flaw, Position]]:
    """The records of tables from a position on; blocks before it are not read."""
    from pyarrow.lib import ArrowException

    for number in range(start.file, len(files)):
        path = files[number]
        wanted = start.place if number == start.file else 0
        first = 0
        try:
            for size, load in blocks(path):
                if first + size > wanted:
                    skipped = max(0, wanted - first)
                    for row, record in enumerate(load().slice(skipped).to_pylist(), first + skipped):
                        found = _sample(partial(dict, record), f"{path.name}:{row}", path.parent)
                        yield found, Position(number, row + 1)
                first += size
        except (ArrowException, OSError) as error:
            yield Flaw(path.name, f"The rest of the file is damaged: {error}"), Position(number + 1, 0)


def _parquet_blocks(path: Path) -> Iterator[Block]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as table:
        for group in range(table.num_row_groups):
            yield table.metadata.row_group(group).num_rows, partial(table.read_row_group, group)


def _arrow_blocks(path: Path) -> Iterator[Block]:
    """Of a stream, which `datasets` writes, or of a file with an index at its end."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            with pyarrow.ipc.open_file(file) as table:
                batches = (table.get_batch(number) for number in range(table.num_record_batches))
                yield from ((batch.num_rows, partial(batch.slice, 0)) for batch in batches)
        else:
            file.seek(0)
            with pyarrow.ipc.open_stream(file) as stream:
                yield from ((batch.num_rows, partial(batch.slice, 0)) for batch in stream)


def _groups(path: Path, offset: int) -> Iterator[tuple[str, dict[str, bytes], int]]:
    """Members with one name but for the suffix, from a byte on, with the byte at which the next group begins."""
    with path.open("rb") as file:
        file.seek(offset)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            stem: str | None = None
            members: dict[str, bytes] = {}
            for member in archive:
                if not member.isfile():
                    continue
                place = PurePosixPath(member.name)
                name, _, suffix = place.name.partition(".")
                base = (place.parent / name).as_posix()  # a name may come again in another folder
                if stem is not None and base != stem:
                    yield stem, members, member.offset
                    members = {}
                stem = base
                content = archive.extractfile(member)
                members[suffix.lower()] = content.read() if content is not None else b""
            if stem is not None:
                yield stem, members, path.stat().st_size


_PICTURES, _CLIPS = ("jpg", "jpeg", "png", "webp"), tuple(suffix.removeprefix(".") for suffix in CLIP_SUFFIXES)


def _speaks(members: Mapping[str, bytes]) -> bool:
    """Whether the subtitles of a clip are all that is said about it."""
    return "txt" not in members and bool({"srt", "vtt"} & set(members))


def _tar_record(members: dict[str, bytes]) -> dict[str, Any]:
    """The record of one group of members."""
    record: dict[str, Any] = json.loads(members["json"]) if "json" in members else {}
    if not isinstance(record, dict):
        raise MessageError("its json is no object.", remedy="Write a record, as in a line of JSON.")
    for kind, suffixes in (("image", _PICTURES), ("video", _CLIPS)):
        held: Sequence[bytes] = [members[suffix] for suffix in suffixes if suffix in members]
        if held:
            record[f"{kind}s"] = list(held)
            record.pop(kind, None)
    if "videos" in record and not record.keys() & _SAID:
        said = next((suffix for suffix in CAPTION_SUFFIXES if suffix.removeprefix(".") in members), None)
        if said is not None:
            question, caption = read_caption(members[said.removeprefix(".")], said)
            record |= {"question": question, "caption": caption}
    elif "txt" in members:
        record.setdefault("caption", members["txt"].decode("utf-8"))
    if not record:
        raise MessageError("the group has neither json nor txt.", remedy="Write one of them beside the media.")
    return record


_SAID = {"messages", "conversations", "prompt", "question", "completion", "answer", "caption", "text"}
