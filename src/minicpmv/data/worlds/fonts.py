"""Find the faces we print with, in a fixed order, and keep one family out of training.

    font packages | matplotlib | system folders | Pillow's built-in face -> find_faces -> tuple[Face, ...]

Training must not depend on what a machine happens to have, so faces come first from PyPI font packages (found by
their entry points, without importing them), then from matplotlib's bundled fonts, then, if wanted, from the system.
Only families on a list of plain text families are taken: no symbols, no handwriting, no hairlines. The family
`DejaVu Serif` is never trained on; it measures whether the reader knows letters or only fonts.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from minicpmv.errors import OptionError

Split = Literal["train", "held_out"]

PRINTABLE = "".join(chr(code) for code in range(32, 127))
"""The 95 printable ASCII characters; a character's index is its position here, and the space is index 0."""

HELD_OUT_FAMILIES = ("DejaVu Serif", "Bitstream Vera Serif")
"""Never trained on. Vera is DejaVu's parent and draws the same Latin letters, so it is held out with it."""

TEXT_FAMILIES = (
    "Aileron",
    "Arial",
    "Bitstream Vera Sans",
    "Bitstream Vera Sans Mono",
    "Caladea",
    "Carlito",
    "Courier New",
    "DejaVu Sans",
    "DejaVu Sans Mono",
    "FreeMono",
    "FreeSans",
    "FreeSerif",
    "Georgia",
    "Hanken Grotesk",
    "Helvetica",
    "Liberation Mono",
    "Liberation Sans",
    "Liberation Sans Narrow",
    "Liberation Serif",
    "Manrope",
    "Noto Sans",
    "Noto Serif",
    "Open Sans",
    "Roboto",
    "STIXGeneral",
    "Source Sans Pro",
    "Source Serif Pro",
    "Tahoma",
    "Times New Roman",
    "Ubuntu",
    "Verdana",
)
"""Plain text families worth reading; anything else that a machine has is left alone."""

_HAIRLINE_STYLES = ("thin", "extralight", "hairline", "ultralight")
_ENTRY_POINT_GROUPS = ("fonts_ttf", "fonts_otf")
_MIN_DISTINCT_GLYPHS = 90  # of 94 visible characters; fonts without ASCII draw one box for all of them


@dataclass(frozen=True, slots=True, order=True)
class Face:
    """One style of one family; `path` is None for the face that is built into Pillow."""

    family: str
    style: str
    path: Path | None

    @property
    def held_out(self) -> bool:
        """Whether this face is kept out of training."""
        return self.family.startswith(HELD_OUT_FAMILIES)


@lru_cache(maxsize=64)
def open_font(face: Face, size_px: int) -> ImageFont.FreeTypeFont:
    """The face at a size, with Pillow's own plain layout, which places one glyph after another.

    At most 64 fonts stay open: each one may hold a file.
    """
    if face.path is not None:
        return ImageFont.truetype(str(face.path), size_px, layout_engine=ImageFont.Layout.BASIC)
    built_in = ImageFont.load_default(size_px)
    if not isinstance(built_in, ImageFont.FreeTypeFont) or not isinstance(built_in.path, BytesIO):
        raise OptionError(
            "Pillow was built without FreeType, so no text can be drawn.", remedy="Install a Pillow wheel."
        )
    font_file = BytesIO(built_in.path.getvalue())
    return ImageFont.truetype(font_file, size_px, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=8)
def find_faces(split: Split = "train", *, system: bool = True) -> tuple[Face, ...]:
    """All usable faces of a split, sorted by family and style.

    Args:
        split: `train` for every family but the held-out ones, `held_out` for those.
        system: also look in the font folders of the operating system. Without it the result depends on installed
            Python packages only, which a lock file can pin.

    Raises:
        OptionError: the split has no face on this machine.
    """
    found: dict[tuple[str, str], Face] = {}
    for path in _font_files(system):
        face = _read_face(path)
        if face is None or face.held_out != (split == "held_out") or (face.family, face.style) in found:
            continue
        if _draws_ascii(face):
            found[face.family, face.style] = face
    if split == "train":
        found["Aileron", "Regular"] = Face("Aileron", "Regular", None)
    if not found:
        raise OptionError(
            f"No font of the split '{split}' was found.", remedy="Install matplotlib, which brings the DejaVu fonts."
        )
    return tuple(found[name] for name in sorted(found))


def _font_files(system: bool) -> Iterator[Path]:
    """Candidate font files; the first file of a family and style wins, so the order is part of the contract."""
    for folder in _package_folders():
        yield from _files_below(folder)
    if system:
        for folder in _system_folders():
            yield from _files_below(folder)


def _package_folders() -> Iterator[Path]:
    modules = {entry.module for group in _ENTRY_POINT_GROUPS for entry in entry_points(group=group)}
    for module in sorted(modules):
        yield from _folders_of_package(module)
    for folder in _folders_of_package("matplotlib"):
        yield folder / "mpl-data" / "fonts" / "ttf"


def _folders_of_package(name: str) -> Iterator[Path]:
    """Where a package lies, without importing it."""
    spec = find_spec(name) if name.isidentifier() else None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(location)


def _system_folders() -> Iterator[Path]:
    home = Path.home()
    if sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    elif sys.platform == "win32":
        folders = [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    else:
        folders = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts"]
    yield from folders


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))


def _read_face(path: Path) -> Face | None:
    """The face in a file, or None if it is not a text family, a hairline, or not a font at all."""
    try:
        family, style = ImageFont.truetype(str(path), 16, layout_engine=ImageFont.Layout.BASIC).getname()
    except OSError:
        return None
    if family is None or style is None or any(word in style.lower().replace(" ", "") for word in _HAIRLINE_STYLES):
        return None
    if family not in TEXT_FAMILIES and family not in HELD_OUT_FAMILIES:
        return None
    return Face(family, style, path)


def _draws_ascii(face: Face) -> bool:
    font = open_font(face, 24)
    pictures = set()
    for character in PRINTABLE[1:]:
        picture = Image.new("L", (48, 48))
        ImageDraw.Draw(picture).text((12, 36), character, font=font, fill=255, anchor="ls")
        pictures.add(picture.tobytes())
    return len(pictures) >= _MIN_DISTINCT_GLYPHS
