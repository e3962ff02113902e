"""What a file is, by its first bytes alone."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minicpmv.errors import MediaError
from minicpmv.media.kinds import Format, content_guess, media_kind, sniff


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO"])
def test_pictures_are_pictures_whatever_they_are_called(form: str, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    Image.new("RGB", (16, 16)).save(path, form)
    assert media_kind(path) == "image"


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.avi", "mpeg4")]
    + [("a.ts", "libx264"), ("a.mpg", "mpeg1video"), ("a.flv", "libx264"), ("a.h264", "libx264")],
)
def test_clips_are_clips_whatever_they_are_called(name: str, codec: str, write_clip, tmp_path: Path) -> None:
    contents = write_clip(name, 6, codec=codec).read_bytes()
    (tmp_path / "picture.png").write_bytes(contents)
    assert media_kind(tmp_path / "picture.png") == "video"


def test_documents_images_and_open_files(write_pdf) -> None:
    path = write_pdf("a.pdf", [(72, 72)])
    assert media_kind(path) == "document"
    assert media_kind(b"junk before the header\n" + path.read_bytes()) == "document"
    assert media_kind(Image.new("RGB", (1, 1))) == "image"
    assert media_kind(io.BytesIO(path.read_bytes())) == "document"


def test_text_is_nothing_that_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("not a picture")
    with pytest.raises(MediaError, match=r"page\.png is not a picture, clip or PDF: it contains text"):
        media_kind(tmp_path / "page.png")


@given(st.binary(max_size=600))
def test_any_bytes_are_sniffed_without_failing(contents: bytes) -> None:
    found = sniff(contents)
    assert found is None or isinstance(found, Format)
    assert content_guess(contents)
