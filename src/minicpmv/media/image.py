"""One picture: a path, URL, bytes, file or PIL image in, upright RGB pixels out.

    source -> read_source -> Pillow (listed formats only) -> limits -> decode -> EXIF orientation -> RGB

The size is known and checked before a single pixel is decoded. A truncated file is an error, never a picture with a
grey half. Only formats whose decoders run inside Pillow are tried: PostScript, for one, would start another program.
"""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from minicpmv.errors import MediaError, MediaLimitError, OptionError
from minicpmv.media.fetch import FetchPolicy, read_source
from minicpmv.media.kinds import sniff, wrong_kind
from minicpmv.media.pixels import to_rgb
from minicpmv.media.sources import MediaSource, source_name

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI")
"""Pillow's names of the formats that are read; its JPEG reader also opens MPO, which has no reader of its own."""

_EXIF_ORIENTATION = 0x0112

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the way back. Source: EXIF 2.32, 4.6.4 A."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What protects memory and time from a hostile or mistaken picture."""

    max_pixels: int = 64 * 2**20
    """Largest width * height, 8192 x 8192 for one; RGB pixels then take 192 MiB. Ours. Pillow itself refuses more than
    twice `PIL.Image.MAX_IMAGE_PIXELS`, whatever is said here."""

    max_bytes: int = 512 * 2**20
    """Largest file. Ours."""

    def __post_init__(self) -> None:
        if self.max_pixels < 1 or self.max_bytes < 1:
            raise OptionError("A limit for pictures is smaller than 1.", remedy="Use positive limits.")


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """Upright RGB pixels, and what a reader should know about how they were read."""

    image: Image.Image
    notes: tuple[str, ...] = ()


def load_image(
    source: MediaSource, *, limits: ImageLimits | None = None, policy: FetchPolicy | None = None
) -> LoadedImage:
    """A picture in RGB.

    A file is turned upright by its EXIF orientation, and its transparent parts are laid on white. A PIL image is only
    converted to RGB: whoever opened it has decided about the rest.

    Args:
        source: a path, URL, data: URI, bytes, open file, or PIL image.
        limits: sizes that are refused.
        policy: what may be read.

    Raises:
        MediaNotFoundError: the path does not exist.
        MediaLimitError: too many pixels or bytes.
        FetchError: the policy refuses the address.
        MediaError: empty, truncated, damaged, or not a picture.
    """
    limits = limits or ImageLimits()
    name = source_name(source)
    if isinstance(source, Image.Image):
        with _named_errors(name):
            _check_size(source.size, limits, name)
            image, notes = to_rgb(source, flatten=False)
            return LoadedImage(image, notes)
    file = read_source(source, policy)
    num_bytes = len(file) if isinstance(file, bytes) else file.stat().st_size
    if num_bytes > limits.max_bytes:
        raise MediaLimitError(
            f"{name} has {num_bytes} bytes, more than the limit of {limits.max_bytes}.",
            remedy="Save it smaller, or raise ImageLimits(max_bytes=...).",
        )
    return _load_file(file, limits, name)


def _load_file(file: Path | bytes, limits: ImageLimits, name: str) -> LoadedImage:
    with _opened(file, name) as image, _named_errors(name):
        _check_size(image.size, limits, name)
        notes = _sequence_notes(image)
        image.load()
        turn, exif_notes = _turn(image)
        pixels, conversion_notes = to_rgb(image, flatten=True)
        if turn is not None:
            pixels = pixels.transpose(turn)
        elif pixels is image and notes:
            pixels = image.copy()  # a sequence would go back to its closed file for the next picture
        return LoadedImage(pixels, notes + exif_notes + conversion_notes)


def _turn(image: Image.Image) -> tuple[Image.Transpose | None, tuple[str, ...]]:
    """How to turn a picture upright. One with damaged EXIF data is shown as it is stored, and that is said."""
    damaged = None, ("the EXIF data is damaged: the picture was not turned",)
    try:
        with _warnings_kept() as kept:
            turn = _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # the parser raises nearly every built-in type, and the pixels are not to blame
        return damaged
    return damaged if any(Path(warning.filename).parent.name == "PIL" for warning in kept) else (turn, ())


_filters = threading.Lock()


@contextmanager
def _warnings_kept() -> Iterator[list[warnings.WarningMessage]]:
    """Warnings given inside, which nobody else sees.

    Filters belong to the whole process: of two threads that change them at a time, one would leave its own for good.
    """
    with _filters, warnings.catch_warnings(record=True) as kept:
        warnings.simplefilter("always")
        yield kept


@contextmanager
def _opened(file: Path | bytes, name: str) -> Iterator[Image.Image]:
    """The picture with its header read and no pixel decoded; the file is closed afterwards."""
    found = sniff(file)
    if found is not None and found.name == "HEIC":
        raise MediaError(f"{name} is a HEIC picture, which is not read here.", remedy="Convert it to JPEG or PNG.")
    with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream:
        with _named_errors(name):
            try:
                with _warnings_kept():  # our own limit is checked next, and damaged EXIF data gets a note
                    image = Image.open(stream, formats=FORMATS)
            except UnidentifiedImageError:
                raise wrong_kind(file, name, "image") from None
        with image:
            yield image


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Whatever a decoder raises, as one error that names the picture."""
    try:
        yield
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaLimitError(f"{name} is too large: {error}", remedy="Scale the picture down.") from None
    except MemoryError:
        raise MediaLimitError(f"{name} does not fit in memory.", remedy="Scale the picture down.") from None
    except Exception as error:  # Pillow's decoders raise nearly every built-in type on damaged files
        raise MediaError(
            f"{name} is a damaged or truncated picture ({str(error) or type(error).__name__}).",
            remedy="Copy or download it again, or save it anew with another program.",
        ) from error


def _check_size(size: tuple[int, int], limits: ImageLimits, name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise MediaError(f"{name} has no pixels ({width}x{height}).", remedy="Check how it was made.")
    if width * height > limits.max_pixels:
        raise MediaLimitError(
            f"{name} has {width}x{height} px, more than the limit of {limits.max_pixels} pixels.",
            remedy="Scale it down or cut it, or raise ImageLimits(max_pixels=...).",
        )


def _sequence_notes(image: Image.Image) -> tuple[str, ...]:
    """Said when a file holds more pictures than the one that is used."""
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return ()  # MPO: a photograph whose further pictures are previews or depth maps
    if image.format == "TIFF":
        return ("only the first page of the file was used",)
    return ("animated: only the first frame was used",)
