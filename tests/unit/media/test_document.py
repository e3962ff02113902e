"""PDF pages: rendered on white, one by one, and refused where they cannot be trusted."""

import io
from pathlib import Path

import numpy as np
import pypdfium2
import pytest

from minicpmv.errors import MediaError, MediaNotFoundError, OptionError
from minicpmv.media.document import MAX_PAGE_PIXELS, probe_document, render_pages

ENCRYPTED = b"""%%PDF-1.4
1 0 obj
<< /Type /Catalog /Pages 2 0 R >>
endobj
2 0 obj
<< /Type /Pages /Kids [3 0 R] /Count 1 >>
endobj
3 0 obj
<< /Type /Page /Parent 2 0 R /MediaBox [0 0 72 72] >>
endobj
4 0 obj
<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>
endobj
trailer
<< /Root 1 0 R /Size 5 /Encrypt 4 0 R /ID [<00112233445566778899aabbccddeeff> <00112233445566778899aabbccddeeff>] >>
startxref
0
%%%%EOF
""" % (b"ab" * 32, b"cd" * 32)

WITHOUT_PAGES = b"""%PDF-1.4
1 0 obj
<< /Type /Catalog /Pages 2 0 R >>
endobj
2 0 obj
<< /Type /Pages /Kids [] /Count 0 >>
endobj
trailer
<< /Root 1 0 R /Size 3 >>
startxref
0
%%EOF
"""


def test_pages_have_the_size_and_the_ink_of_the_document(write_pdf) -> None:
    path = write_pdf("a.pdf", [(72, 144), (200, 100)])
    info = probe_document(path)
    assert (info.num_pages, info.page_sizes_pt) == (2, ((72.0, 144.0), (200.0, 100.0)))
    first, second = render_pages(path, dpi=72)
    assert (first.number, first.image.mode, first.image.size, first.dpi) == (1, "RGB", (72, 144), 72)
    assert (second.number, second.image.size) == (2, (200, 100))
    assert first.image.getpixel((10, 134)) == (0, 0, 0)
    assert first.image.getpixel((60, 10)) == (255, 255, 255)


def test_pages_come_in_the_order_asked_for_and_at_the_resolution_asked_for(write_pdf) -> None:
    path = write_pdf("a.pdf", [(72, 72), (72, 36), (36, 72)])
    pages = list(render_pages(path, [3, 1], dpi=144))
    assert [(page.number, page.image.size) for page in pages] == [(3, (72, 144)), (1, (144, 144))]


def test_paths_files_and_bytes_give_the_same(write_pdf) -> None:
    path = write_pdf("a.pdf", [(72, 72)])
    (wanted,) = render_pages(path)
    with path.open("rb") as file:
        for source in (str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file):
            (page,) = render_pages(source)
            assert np.array_equal(np.asarray(page.image), np.asarray(wanted.image))


def test_a_huge_page_is_rendered_at_a_lower_resolution(write_pdf) -> None:
    path = write_pdf("a.pdf", [(14400, 7200)])
    (page,) = render_pages(path, dpi=600)
    assert 0.9 * MAX_PAGE_PIXELS < page.image.width * page.image.height <= 1.001 * MAX_PAGE_PIXELS
    assert page.dpi < 100


@pytest.mark.parametrize("numbers", [[0], [3], [1, -1]])
def test_a_page_that_does_not_exist_is_refused(numbers, write_pdf) -> None:
    with pytest.raises(MediaError, match=r"has 2 pages; page -?\d was asked for"):
        list(render_pages(write_pdf("a.pdf", [(72, 72), (72, 72)]), numbers))


@pytest.mark.parametrize("dpi", [0, -1, 1e6, float("nan")])
def test_a_resolution_out_of_range_is_refused_at_once(dpi, write_pdf) -> None:
    path = write_pdf("a.pdf", [(72, 72)])
    with pytest.raises(OptionError, match="dpi"):
        render_pages(path, dpi=dpi)


def test_an_encrypted_document_says_so(tmp_path: Path) -> None:
    path = tmp_path / "locked.pdf"
    path.write_bytes(ENCRYPTED)
    with pytest.raises(MediaError, match=r"locked\.pdf is encrypted.*qpdf"):
        probe_document(path)


def test_a_document_without_pages_is_refused() -> None:
    with pytest.raises(MediaError, match=r"no pages|damaged"):
        probe_document(WITHOUT_PAGES)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_document_is_refused(share, write_pdf) -> None:
    contents = write_pdf("a.pdf", [(72, 72)] * 20).read_bytes()
    with pytest.raises(MediaError, match=r"truncated"):
        probe_document(contents[: int(len(contents) * share)])


def test_a_page_that_is_not_there_is_named() -> None:
    contents = WITHOUT_PAGES.replace(b"/Kids [] /Count 0", b"/Kids [9 0 R] /Count 1")
    for read in (probe_document, lambda source: list(render_pages(source))):
        with pytest.raises(MediaError, match=r"Page 1 of \d+ bytes is damaged"):
            read(contents)


def test_garbage_and_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="damaged"):
        probe_document(b"%PDF-1.7\n" + bytes(range(256)) * 9 + b"%%EOF")
    with pytest.raises(MediaError, match="contains text"):
        probe_document(b"no document at all")
    with pytest.raises(MediaError, match="is a picture"):
        probe_document(b"\x89PNG\r\n\x1a\n" + b"\0" * 30)
    with pytest.raises(MediaNotFoundError):
        probe_document(tmp_path / "nowhere.pdf")


def test_an_iterator_left_half_way_closes_its_document(write_pdf, monkeypatch) -> None:
    closed = []
    original = pypdfium2.PdfDocument.close
    monkeypatch.setattr(pypdfium2.PdfDocument, "close", lambda self: (closed.append(1), original(self))[1])
    path = write_pdf("a.pdf", [(72, 72)] * 3)
    closed.clear()
    pages = render_pages(path)
    next(pages)
    pages.close()
    assert closed
