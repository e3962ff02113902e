"""Pictures: what people have on disk becomes upright RGB, and what is broken becomes one clear error."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicpmv.errors import MediaError, MediaLimitError, MediaNotFoundError
from minicpmv.media.image import ImageLimits, load_image


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixel(contents: bytes | Image.Image, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = load_image(contents).image
    assert image.mode == "RGB"
    return image.getpixel(at)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_every_listed_format_is_read(form: str) -> None:
    loaded = load_image(encoded(Image.new("RGB", (40, 30), (250, 10, 10)), form))
    assert (loaded.image.size, loaded.image.mode, loaded.notes) == ((40, 30), "RGB", ())
    assert np.abs(np.asarray(loaded.image, int)[15, 20] - [250, 10, 10]).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(orientation: int) -> None:
    """The stored picture is made so that the upright one has its white corner at the top left."""
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    upright = Image.new("RGB", (48, 32), "black")
    upright.paste("white", (0, 0, 16, 8))
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(encoded(stored, "PNG", exif=exif)).image
    assert np.array_equal(np.asarray(image), np.asarray(upright))


def test_damaged_exif_data_does_not_cost_the_picture() -> None:
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"):
        assert load_image(encoded(noise(), "JPEG", exif=exif)).image.size == (64, 48)


def test_pictures_read_in_many_threads_leave_the_filters_of_warnings_as_they_were() -> None:
    """Filters belong to the process. Damaged EXIF data is noted all the same, and of sound data nothing is said."""
    damaged = encoded(noise(), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(load_image, [damaged, encoded(noise(), "JPEG")] * 60))
    assert warnings.filters == before
    assert {one.notes for one in loaded[1::2]} == {()}
    assert {len(one.notes) for one in loaded[::2]} == {1}


def test_a_callers_image_is_only_converted() -> None:
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    image.getexif()[0x0112] = 6
    loaded = load_image(image)
    assert (loaded.image.mode, loaded.image.getpixel((0, 0)), loaded.notes) == ("RGB", (10, 20, 30), ())
    rgb = noise()
    assert load_image(rgb).image is rgb


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putdata([0, 1])
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    "make",
    [
        lambda: encoded(Image.new("RGBA", (2, 1), (0, 0, 0, 0)), "PNG"),
        lambda: encoded(Image.new("LA", (2, 1), (0, 0)), "PNG"),
        lambda: encoded(palette_with_transparency(), "PNG", transparency=0),
        lambda: encoded(palette_with_transparency(), "GIF", transparency=0),
        lambda: encoded(Image.new("RGB", (2, 1)), "PNG", transparency=(0, 0, 0)),
        lambda: encoded(Image.new("RGBA", (2, 1), (0, 0, 0, 0)), "WEBP", lossless=True),
    ],
    ids=["RGBA", "LA", "palette", "GIF", "colour key", "WebP"],
)
def test_transparent_parts_of_a_file_lie_on_white(make: Callable[[], bytes]) -> None:
    contents = make()
    assert pixel(contents) == (255, 255, 255)
    assert load_image(contents).notes == ("transparent parts were laid on white",)


def test_an_alpha_channel_that_hides_nothing_is_not_mentioned() -> None:
    assert load_image(encoded(Image.new("RGBA", (2, 2), (9, 8, 7, 255)), "PNG")).notes == ()


def test_half_transparent_black_is_grey() -> None:
    assert pixel(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG")) == (127, 127, 127)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
    for contents in (encoded(Image.fromarray(values), "PNG"), Image.fromarray(values)):
        assert np.asarray(load_image(contents).image)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_wide_and_floating_grey_is_scaled_by_the_range_it_shows() -> None:
    cases = [
        (np.array([[0, 65535]], np.int32), [0, 255], False),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255], True),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255], False),
        (np.array([[0.0, 255.0]], np.float32), [0, 255], False),
        (np.array([[0.0, 1000.0, np.nan]], np.float32), [0, 255, 0], True),
    ]
    for values, wanted, is_noted in cases:
        loaded = load_image(encoded(Image.fromarray(values), "TIFF"))
        assert np.asarray(loaded.image)[0, :, 0].tolist() == wanted
        assert bool(loaded.notes) is is_noted


def test_bitmaps_palettes_and_print_colours_are_converted() -> None:
    assert pixel(encoded(Image.new("1", (9, 9), 1), "PNG")) == (255, 255, 255)
    assert pixel(encoded(Image.new("L", (9, 9), 77), "PNG")) == (77, 77, 77)
    assert pixel(encoded(noise().quantize(16), "PNG"))
    red, green, blue = pixel(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert red > 240
    assert max(green, blue) < 20


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_used_and_that_is_said(form: str) -> None:
    frames = [Image.new("RGB", (30, 20), shade) for shade in ("red", "lime", "blue")]
    contents = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50)
    loaded = load_image(contents)
    assert loaded.notes == ("animated: only the first frame was used",)
    red, green, blue = loaded.image.getpixel((15, 10))
    assert red > 240
    assert max(green, blue) < 20
    loaded.image.load()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_truncated_picture_is_an_error_and_never_grey(form: str, share: float) -> None:
    contents = encoded(noise(), form)
    with pytest.raises(MediaError, match=r"damaged|truncated|not a picture"):
        load_image(contents[: int(len(contents) * share)])


def test_a_flipped_bit_in_a_png_is_an_error() -> None:
    contents = bytearray(encoded(noise(), "PNG"))
    contents[len(contents) // 2] ^= 0x10
    with pytest.raises(MediaError, match="damaged"):
        load_image(bytes(contents))


def test_a_picture_too_large_is_refused_before_it_is_decoded() -> None:
    for width, height in ((30000, 30000), (9000, 8000), (10000, 12000)):
        with pytest.raises(MediaLimitError, match="Scale"):
            load_image(png_header(width, height))
    with pytest.raises(MediaLimitError, match="64x48 px, more than the limit of 3071"):
        load_image(noise(), limits=ImageLimits(max_pixels=64 * 48 - 1))
    with pytest.raises(MediaLimitError, match="bytes"):
        load_image(encoded(noise(), "PNG"), limits=ImageLimits(max_bytes=100))


def test_a_very_thin_picture_is_a_picture() -> None:
    assert load_image(encoded(Image.new("RGB", (1, 20000), "red"), "PNG")).image.size == (1, 20000)


def test_files_that_are_no_picture_say_what_they_are(tmp_path: Path) -> None:
    contents = {
        "text.png": (b"dear reader, this is no picture\n" * 9, "contains text"),
        "drawing.png": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        "page.png": (b"<!DOCTYPE html><html></html>", "web page"),
        "report.png": (b"PK\x03\x04" + b"\0" * 60, "ZIP"),
        "document.png": (b"%PDF-1.7\n%%EOF", "a PDF"),
        "photo.png": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        "noise.png": (bytes(range(128, 256)) * 4, "no format known"),
        "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "contains text"),
    }
    for name, (data, says) in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MediaError, match=says) as caught:
            load_image(tmp_path / name)
        assert name in str(caught.value)
        assert caught.value.remedy
        assert "\n" not in str(caught.value)


def test_missing_empty_and_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(MediaNotFoundError, match=r"nowhere\.png does not exist"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(MediaError, match="empty"):
        load_image(tmp_path / "empty.png")
    with pytest.raises(MediaError, match="folder"):
        load_image(tmp_path)
    with pytest.raises(MediaError, match="empty"):
        load_image(b"")
    with pytest.raises(MediaError, match="no pixels"):
        load_image(Image.new("RGB", (0, 5)))


def test_paths_files_and_bytes_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise().save(path)
    with path.open("rb") as file:
        file.read(10)
        for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), file):
            assert np.array_equal(np.asarray(load_image(source).image), np.asarray(noise()))


def test_a_loaded_picture_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    noise().save(path)
    image = load_image(path).image
    path.unlink()
    image.load()
    assert image.resize((8, 8)).size == (8, 8)
    assert image.copy().size == (64, 48)
