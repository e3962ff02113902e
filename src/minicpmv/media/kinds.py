"""Picture, clip or document: told by the first bytes of the contents, never by the name.

    first 4096 bytes -> Format(kind, name)

A wrong name is common (a text file called page.png, a JPEG called scan.pdf) and a name from a stranger proves nothing.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from minicpmv.errors import MediaError
from minicpmv.media.fetch import FetchPolicy, read_source
from minicpmv.media.sources import MediaSource, source_name

MediaKind = Literal["image", "video", "document"]

HEAD_BYTES = 4096
"""Bytes from the beginning of a file that tell what it is."""

_PDF_HEADER_WITHIN = 1024
_ANIMATION_MARK_WITHIN = 128
_TS_PACKET_BYTES = 188

_PICTURE_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

_PREFIXES: tuple[tuple[bytes, MediaKind, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image", "PNG"),
    (b"\xff\xd8\xff", "image", "JPEG"),
    (b"GIF87a", "image", "GIF"),
    (b"GIF89a", "image", "GIF"),
    (b"II*\x00", "image", "TIFF"),
    (b"MM\x00*", "image", "TIFF"),
    (b"II+\x00", "image", "TIFF"),
    (b"MM\x00+", "image", "TIFF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "image", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "image", "JPEG 2000"),
    (b"qoif", "image", "QOI"),
    (b"\x00\x00\x01\x00", "image", "ICO"),
    (b"\x1aE\xdf\xa3", "video", "Matroska or WebM"),
    (b"FLV\x01", "video", "FLV"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video", "ASF"),
    (b"OggS", "video", "Ogg"),
    (b"\x00\x00\x01\xba", "video", "MPEG program stream"),
    (b"\x00\x00\x01\xb3", "video", "MPEG video"),
    (b"\x00\x00\x00\x01\x67", "video", "H.264"),
    (b"\x00\x00\x00\x01\x09", "video", "H.264"),
    (b"\x00\x00\x00\x01\x40", "video", "H.265"),
    (b"\x00\x00\x00\x01\x46", "video", "H.265"),
    (b"DKIF", "video", "IVF"),
)

_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot", b"styp", b"moof"}


@dataclass(frozen=True, slots=True)
class Format:
    """What the contents are, and what people call that format."""

    kind: MediaKind
    name: str
    is_animation: bool = False
    """A picture that may hold several frames and can be read as a clip too."""


def media_kind(source: MediaSource, *, policy: FetchPolicy | None = None) -> MediaKind:
    """Whether a source is a picture, a clip or a document. An animated GIF is a picture.

    Args:
        source: anything `read_source` accepts, or a PIL image.
        policy: what may be read.

    Raises:
        MediaError: it cannot be read, or is none of the three.
    """
    if isinstance(source, Image.Image):
        return "image"
    found = sniff(read_source(source, policy))
    if found is None:
        raise MediaError(
            f"{source_name(source)} is not a picture, clip or PDF: {content_guess(read_source(source, policy))}.",
            remedy="Use PNG, JPEG, WebP, GIF, TIFF, MP4, WebM, MKV or PDF.",
        )
    return found.kind


def sniff(file: Path | bytes) -> Format | None:
    """The format of a file, or None if it is none that we know.

    >>> sniff(b"%PDF-1.7 ...").kind, sniff(b"just text") is None
    ('document', True)
    """
    head = _head(file)
    for prefix, kind, name in _PREFIXES:
        if head.startswith(prefix):
            return Format(kind, name, name == "GIF" or (name == "PNG" and b"acTL" in head[:_ANIMATION_MARK_WITHIN]))
    if head[:4] == b"RIFF":
        return _riff(head[8:12])
    if head[4:8] in _MP4_BOXES:
        return _iso_file(head)
    if head[:2] == b"BM" and len(head) > 26 and int.from_bytes(head[14:18], "little") in {12, 40, 52, 56, 64, 108, 124}:
        return Format("image", "BMP")
    if re.match(rb"P[1-6][\s#]", head):
        return Format("image", "PNM")
    if b"%PDF-" in head[:_PDF_HEADER_WITHIN]:
        return Format("document", "PDF")
    if _is_transport_stream(head):
        return Format("video", "MPEG transport stream")
    return None


def wrong_kind(file: Path | bytes, name: str, wanted: MediaKind) -> MediaError:
    """The error for contents that are not what they were handed over as."""
    called = {"image": "a picture", "video": "a clip", "document": "a PDF"}
    found = sniff(file)
    if found is None:
        return MediaError(
            f"{name} is not {called[wanted]}: {content_guess(file)}.",
            remedy="Check the file; its name says nothing about its contents.",
        )
    if found.kind == wanted:
        return MediaError(
            f"{name} starts like {found.name}, but cannot be read as that.",
            remedy="The file is damaged or incomplete: copy or download it again.",
        )
    return MediaError(
        f"{name} is {called[found.kind]} ({found.name}), not {called[wanted]}.",
        remedy=f"Pass it as a part of type {found.kind!r}.",
    )


def content_guess(file: Path | bytes) -> str:
    """What unknown contents look like, in words for an error message."""
    head = _head(file)
    start = head.lstrip()[:300].lower()
    if b"<svg" in start:
        return "it is an SVG drawing, which has to be converted to PNG first"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    if head[:4] == b"PK\x03\x04":
        return "it is a ZIP archive or an office document"
    if b"\x00" not in head:
        try:
            head[: HEAD_BYTES - 4].decode("utf-8", "strict" if len(head) < HEAD_BYTES - 4 else "ignore")
        except UnicodeDecodeError:
            return "its contents are of no format known here"
        if all(byte >= 32 or byte in b"\t\n\r\f\x1b" for byte in head):
            return "it contains text"
    return "its contents are of no format known here"


def _head(file: Path | bytes) -> bytes:
    if isinstance(file, bytes):
        return file[:HEAD_BYTES]
    try:
        with file.open("rb") as opened:
            return opened.read(HEAD_BYTES)
    except OSError as error:
        raise MediaError(f"{source_name(file)} cannot be read ({error}).", remedy="Check the file.") from error


def _riff(form: bytes) -> Format | None:
    if form == b"WEBP":
        return Format("image", "WebP")
    if form in {b"AVI ", b"AVIX", b"AVI\x19"}:
        return Format("video", "AVI")
    return None


def _iso_file(head: bytes) -> Format:
    """MP4 and its relatives share one structure; the brands in `ftyp` tell pictures from films."""
    if head[4:8] == b"ftyp":
        length = min(int.from_bytes(head[:4], "big"), len(head))
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, length - 3, 4))]
        for brand in brands:
            if brand in _PICTURE_BRANDS:
                return Format("image", _PICTURE_BRANDS[brand])
        if brands[0] in _HEIF_BRANDS:
            return Format("image", "HEIC")
    return Format("video", "MP4 or MOV")


def _is_transport_stream(head: bytes) -> bool:
    """Sync bytes at equal distances: 188 bytes per packet, or 192 with a time stamp before each."""
    return any(
        len(head) >= 3 * size and all(head[at] == 0x47 for at in range(offset, min(len(head), 5 * size), size))
        for size, offset in ((_TS_PACKET_BYTES, 0), (_TS_PACKET_BYTES + 4, 4))
    )
