"""Pages of a PDF as RGB pictures on white paper.

    source -> read_source -> PDFium -> Page(number, image, dpi), one at a time

PDFium mends a truncated file by guessing, and then shows empty pages; a file without its end mark is therefore refused.
PDFium may be entered by one thread at a time, so every call holds one lock.
"""

import ctypes
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pypdfium2
import pypdfium2.raw as pdfium_c
from PIL import Image

from minicpmv.errors import MediaError, OptionError
from minicpmv.media.fetch import FetchPolicy, read_source
from minicpmv.media.kinds import sniff, wrong_kind
from minicpmv.media.sources import MediaSource, source_name

POINTS_PER_INCH = 72.0

DEFAULT_DPI = 144.0
"""Dots per inch: an A4 page then has 1191 x 1684 px, about what nine slices of 448 x 448 px can show. Ours."""

MAX_DPI = 1200.0
"""Above this nothing more can be seen. Ours."""

MAX_PAGE_PIXELS = 32 * 2**20
"""A page that would have more pixels is rendered at a lower resolution, which `Page.dpi` tells. Ours."""

_END_MARK_WITHIN = 4096
_HYPHEN_AT_END = "\x02"
_PARTS = 16
"""Of a px, to which places of letters are known."""
_PDFIUM = threading.RLock()


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """How many pages a document has, and their widths and heights in points (1/72 inch)."""

    num_pages: int
    page_sizes_pt: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """One rendered page: its number, counted from 1, its pixels, and the dots per inch they were rendered at."""

    number: int
    image: Image.Image
    dpi: float


@dataclass(frozen=True, slots=True)
class Letter:
    """A visible character of a text layer, its box in px: left, top, right, bottom; a space may stand before it."""

    char: str
    box: tuple[float, float, float, float]
    is_after_space: bool


@dataclass(frozen=True, slots=True)
class PrintedPage:
    """A rendered page, and the lines of its text layer in their order; a scanned page has none."""

    page: Page
    lines: tuple[tuple[Letter, ...], ...]


def probe_document(source: MediaSource, *, policy: FetchPolicy | None = None) -> DocumentInfo:
    """The number and sizes of the pages; nothing is rendered.

    Raises:
        MediaError: not a PDF, encrypted, truncated, or without pages.
    """
    name = source_name(source)
    with _opened(read_source(source, policy), name) as document, _PDFIUM:
        sizes = tuple(_page_size(document, number, name) for number in range(1, len(document) + 1))
    return DocumentInfo(len(sizes), sizes)


def render_pages(
    source: MediaSource,
    pages: Sequence[int] | None = None,
    *,
    dpi: float = DEFAULT_DPI,
    policy: FetchPolicy | None = None,
) -> Iterator[Page]:
    """Pages as pictures, in the order asked for; one is in memory at a time.

    Args:
        source: a path, URL, data: URI, bytes or open file.
        pages: page numbers counted from 1; every page when None.
        dpi: dots per inch, more than 0 and at most 1200.
        policy: what may be read.

    Raises:
        OptionError: `dpi` is out of range.
        MediaError: not a PDF, encrypted, truncated, a page that does not exist or cannot be rendered.
    """
    if not 0 < dpi <= MAX_DPI:
        raise OptionError(f"dpi is {dpi:g}.", remedy=f"Use more than 0 and at most {MAX_DPI:g}.")
    return _rendered(read_source(source, policy), source_name(source), pages, dpi)


def page_texts(source: MediaSource, first: int = 1, *, policy: FetchPolicy | None = None) -> Iterator[tuple[int, str]]:
    """What the text layer of each page says, from a page on; that of a scanned page is empty.

    Args:
        source: a path, URL, data: URI, bytes or open file.
        first: the page to begin with, counted from 1.
        policy: what may be read.

    Raises:
        MediaError: not a PDF, encrypted, truncated, or a page that cannot be read.
    """
    name = source_name(source)
    with _opened(read_source(source, policy), name) as document:
        for number in range(first, len(document) + 1):
            yield number, _text(document, number, name)


def printed_page(
    source: MediaSource, number: int, *, longest_side_px: int, policy: FetchPolicy | None = None
) -> PrintedPage:
    """A page as a picture, with every character of its text layer and where it stands in that picture.

    Args:
        source: a path, URL, data: URI, bytes or open file.
        number: of the page, counted from 1.
        longest_side_px: of the picture.
        policy: what may be read.

    Raises:
        MediaError: not a PDF, encrypted, truncated, a page that does not exist or cannot be rendered or read.
    """
    name = source_name(source)
    with _opened(read_source(source, policy), name) as document:
        _check_number(number, len(document), name)
        with _PDFIUM:
            longest_pt = max(_page_size(document, number, name))
        page = _render(document, number, name, min(MAX_DPI, longest_side_px / longest_pt * POINTS_PER_INCH))
        with _PDFIUM, _named_text_errors(number, name):
            opened = document[number - 1]
            try:
                layer = opened.get_textpage()
                try:
                    return PrintedPage(page, tuple(_lines(opened, layer, page.image.size)))
                finally:
                    layer.close()
            finally:
                opened.close()


def _lines(
    page: pypdfium2.PdfPage, layer: pypdfium2.PdfTextPage, size: tuple[int, int]
) -> Iterator[tuple[Letter, ...]]:
    """The lines of a text layer; PDFium marks their ends by characters of its own."""
    letters: list[Letter] = []
    is_after_space = False
    for index in range(layer.count_chars()):
        char = chr(pdfium_c.FPDFText_GetUnicode(layer.raw, index))
        if char == _HYPHEN_AT_END:
            char = "-"
        if char in "\r\n":
            if letters:
                yield tuple(letters)
            letters, is_after_space = [], False
        elif char.isspace():
            is_after_space = bool(letters)
        elif char.isprintable():
            box = _in_pixels(page, layer.get_charbox(index), size)
            letters.append(Letter(char, box, is_after_space))
            is_after_space = False
    if letters:
        yield tuple(letters)


def _in_pixels(
    page: pypdfium2.PdfPage, box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box in points (left, bottom, right, top, on the page as it was made) on the picture of it as it is shown."""
    left, bottom, right, top = box
    corners = []
    for x, y in ((left, bottom), (right, top)):
        across, down = ctypes.c_int(), ctypes.c_int()
        width, height = (side * _PARTS for side in size)  # PDFium answers in whole numbers
        pdfium_c.FPDF_PageToDevice(page.raw, 0, 0, width, height, 0, x, y, across, down)
        corners.append((across.value / _PARTS, down.value / _PARTS))
    (x0, y0), (x1, y1) = corners
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


@contextmanager
def _named_text_errors(number: int, name: str) -> Iterator[None]:
    try:
        yield
    except (pypdfium2.PdfiumError, ValueError, RuntimeError) as error:
        raise MediaError(
            f"The text of page {number} of {name} cannot be read ({error}).", remedy="Leave this page out."
        ) from error


def _text(document: pypdfium2.PdfDocument, number: int, name: str) -> str:
    with _PDFIUM, _named_text_errors(number, name):
        page = document[number - 1]
        try:
            layer = page.get_textpage()
            try:
                return str(layer.get_text_bounded()).replace("\r\n", "\n").strip()
            finally:
                layer.close()
        finally:
            page.close()


def _rendered(file: Path | bytes, name: str, pages: Sequence[int] | None, dpi: float) -> Iterator[Page]:
    with _opened(file, name) as document:
        num_pages = len(document)
        numbers = range(1, num_pages + 1) if pages is None else pages
        for number in numbers:
            _check_number(number, num_pages, name)
        for number in numbers:
            yield _render(document, number, name, dpi)


def _check_number(number: int, num_pages: int, name: str) -> None:
    if not 1 <= number <= num_pages:
        raise MediaError(
            f"{name} has {num_pages} page{'s' * (num_pages != 1)}; page {number} was asked for.",
            remedy="Pages are counted from 1.",
        )


def _render(document: pypdfium2.PdfDocument, number: int, name: str, dpi: float) -> Page:
    """One page; the document stays open."""
    with _PDFIUM:
        width_pt, height_pt = _page_size(document, number, name)
        scale = _scale(width_pt, height_pt, dpi)
        try:
            page = document[number - 1]
            try:
                bitmap = page.render(scale=scale, fill_color=(255, 255, 255, 255), rev_byteorder=True)
                try:
                    image = bitmap.to_pil().convert("RGB").copy()
                finally:
                    bitmap.close()
            finally:
                page.close()
        except (pypdfium2.PdfiumError, ValueError, RuntimeError, MemoryError) as error:
            raise MediaError(
                f"Page {number} of {name} cannot be rendered ({error}).", remedy="Leave this page out."
            ) from error
    return Page(number, image, scale * POINTS_PER_INCH)


def _scale(width_pt: float, height_pt: float, dpi: float) -> float:
    """Pixels per point: what `dpi` asks for, or less where the page would have too many pixels.

    >>> _scale(612, 792, 144.0)
    2.0
    """
    scale = dpi / POINTS_PER_INCH
    num_pixels = math.ceil(width_pt * scale) * math.ceil(height_pt * scale)
    return scale if num_pixels <= MAX_PAGE_PIXELS else scale * math.sqrt(MAX_PAGE_PIXELS / num_pixels)


def _page_size(document: pypdfium2.PdfDocument, number: int, name: str) -> tuple[float, float]:
    """Width and height of a page in points."""
    try:
        width, height = document.get_page_size(number - 1)
    except pypdfium2.PdfiumError as error:
        raise MediaError(f"Page {number} of {name} is damaged ({error}).", remedy="Print the PDF anew.") from error
    return float(width), float(height)


@contextmanager
def _opened(file: Path | bytes, name: str) -> Iterator[pypdfium2.PdfDocument]:
    """The document, closed afterwards in whatever way the caller leaves."""
    found = sniff(file)
    if found is None or found.kind != "document":
        raise wrong_kind(file, name, "document")
    complete = b"%%EOF" in _tail(file)
    with _PDFIUM:
        try:
            document = pypdfium2.PdfDocument(file)
        except pypdfium2.PdfiumError as error:
            raise _open_error(error, name) from None
    try:
        if not complete:
            raise MediaError(
                f"{name} is truncated: the end mark of a PDF is missing.", remedy="Copy or download it again."
            )
        with _PDFIUM:
            document.init_forms()  # so that filled-in fields are drawn; PDFium wants it before anything else
            if len(document) < 1:
                raise MediaError(f"{name} has no pages.", remedy="Check how the PDF was made.")
        yield document
    finally:
        with _PDFIUM:
            document.close()


def _tail(file: Path | bytes) -> bytes:
    """The last bytes of a file."""
    if isinstance(file, bytes):
        return file[-_END_MARK_WITHIN:]
    with file.open("rb") as stream:
        stream.seek(max(file.stat().st_size - _END_MARK_WITHIN, 0))
        return stream.read()


def _open_error(error: pypdfium2.PdfiumError, name: str) -> MediaError:
    """PDFium's reason, in words with a remedy."""
    code = getattr(error, "err_code", None)
    if code in {pdfium_c.FPDF_ERR_PASSWORD, pdfium_c.FPDF_ERR_SECURITY}:
        return MediaError(
            f"{name} is encrypted and needs a password.",
            remedy="Save a copy without the password, for one with: qpdf --password=... --decrypt IN.pdf OUT.pdf",
        )
    return MediaError(
        f"{name} is a damaged or truncated PDF ({error}).",
        remedy="Copy or download it again, or print it to a new PDF.",
    )
