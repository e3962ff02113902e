"""Pages of somebody's own text, in any script that Pillow's layout engine shapes.

    lines of a text, a font that has their characters -> wrapped and shaped -> PageSample, a region per printed line

The other worlds print ASCII from copied glyphs, which is fast and knows the box of every letter. Here letters join,
stack and run from right to left (Raqm: HarfBuzz and FriBidi), so a box is known for a printed line only.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import regex
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from minicpmv.data.worlds.canvas import paint
from minicpmv.data.worlds.glyphs import CharacterBox
from minicpmv.data.worlds.paper import PageSample, Region, TextLine
from minicpmv.errors import OptionError

_MARGIN_PX = 6
_LEADING = 1.45
"""Distance of baselines as a multiple of the font size; stacked marks need more room than Latin."""

_RIGHT_TO_LEFT = ("R", "AL")


@dataclass(frozen=True, slots=True)
class Font:
    """A font file, and the characters it has."""

    path: Path
    characters: frozenset[str]

    @classmethod
    def open(cls, path: Path) -> "Font":
        """Read what a font can print.

        Args:
            path: a TrueType or OpenType file.

        Raises:
            OptionError: it cannot be read, or a package to read it with is missing.
        """
        try:
            from fontTools.ttLib import TTFont, TTLibError
        except ImportError:
            raise OptionError(
                "Reading a font's table of characters needs fontTools, which is not installed.",
                remedy="Install it: pip install 'minicpmv[train]'",
            ) from None
        try:
            with path.open("rb") as file, TTFont(file, fontNumber=0) as font:
                return cls(path, frozenset(map(chr, font.getBestCmap() or {})))
        except (OSError, TTLibError) as error:
            raise OptionError(
                f"{path} is not a font that can be read: {error}", remedy="Name a .ttf or .otf."
            ) from None

    def lacks(self, text: str) -> set[str]:
        """Visible characters of a text that this font does not have."""
        wanted = {char for char in text if unicodedata.category(char) not in ("Cc", "Cf", "Zs")}
        return wanted - self.characters


def read_text(path: Path, fonts: Sequence[Font]) -> list[str]:
    """The lines of a text that one of the fonts can print.

    Args:
        path: UTF-8.
        fonts: to print with.

    Raises:
        OptionError: the file cannot be read, or no line can be printed; some of the missing characters are named.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not a text that can be read: {error}", remedy="Name a file in UTF-8.") from None
    lines = [unicodedata.normalize("NFC", line) for line in lines if line]
    printable = [line for line in lines if any(not font.lacks(line) for font in fonts)]
    if not printable:
        lacking = sorted((font.lacks("".join(lines)) for font in fonts), key=len)
        missing = sorted(lacking[0]) if lacking else []
        raise OptionError(
            f"No line of {path} can be printed" + (f"; no font has {' '.join(missing[:8])}" if missing else "") + ".",
            remedy="Name fonts that have the characters of the text.",
        )
    return printable


def render_text_page(
    generator: Generator,
    lines: Sequence[str],
    *,
    fonts: Sequence[Font],
    width: int = 448,
    size_px: int = 18,
    most_rows: int = 20,
) -> PageSample:
    """A page with lines of a text one after another, wrapped where they are too long.

    Args:
        generator: source of randomness.
        lines: of one language, each in the order in which it is spoken.
        fonts: one that has all characters is chosen.
        width: of the page in px; it is as high as it needs to be.
        size_px: font size.
        most_rows: printed lines at most; what follows is left out.

    Raises:
        OptionError: no font has all characters, or Pillow was built without Raqm.
    """
    if not features.check("raqm"):
        raise OptionError("This Pillow cannot shape text.", remedy="Install a Pillow wheel, which has Raqm built in.")
    able = [font for font in fonts if not any(font.lacks(line) for line in lines)]
    if not able:
        raise OptionError("No font has all characters of these lines.", remedy="Choose other lines or more fonts.")
    font = open_shaped(able[int(generator.random() * len(able))].path, size_px)
    rows = [row for line in lines for row in wrap_shaped(font, line, width - 2 * _MARGIN_PX)][:most_rows]
    step = round(size_px * _LEADING)
    sheet = Image.new("L", (width, step * len(rows) + 2 * _MARGIN_PX + size_px // 2))
    draw = ImageDraw.Draw(sheet)
    regions = []
    for number, row in enumerate(rows):
        place = (width - _MARGIN_PX, "rs") if is_right_to_left(row) else (_MARGIN_PX, "ls")
        at = (place[0], _MARGIN_PX + size_px + number * step)
        before = np.asarray(sheet).copy()
        draw.text(at, row, font=font, fill=255, anchor=place[1])
        regions.append(Region("text", (TextLine(row, (_ink_box(row, np.asarray(sheet) != before),)),)))
    return PageSample(paint(generator, np.asarray(sheet)), tuple(regions), (), "text")


@lru_cache(maxsize=256)
def open_shaped(path: Path, size_px: int) -> ImageFont.FreeTypeFont:
    """A font that shapes what it prints."""
    return ImageFont.truetype(str(path), size_px, layout_engine=ImageFont.Layout.RAQM)


def is_right_to_left(text: str) -> bool:
    """Whether the first letter with a direction runs to the left."""
    directions = (unicodedata.bidirectional(char) for char in text)
    return next((direction in _RIGHT_TO_LEFT for direction in directions if direction in ("L", *_RIGHT_TO_LEFT)), False)


def wrap_shaped(font: ImageFont.FreeTypeFont, text: str, width: int) -> Iterator[str]:
    """A text in rows that fit into `width` px: broken between words, and inside a word that is longer than a row."""
    row = ""
    for word in text.split():
        longer = f"{row} {word}" if row else word
        if font.getlength(longer) <= width:
            row = longer
            continue
        if row:
            yield row
        *full, row = _pieces(font, regex.findall(r"\X", word), width)
        yield from full
    if row:
        yield row


def _pieces(font: ImageFont.FreeTypeFont, clusters: Iterable[str], width: int) -> Iterator[str]:
    """A long word in pieces that fit; a letter stays with its marks."""
    piece = ""
    for cluster in clusters:
        if piece and font.getlength(piece + cluster) > width:
            yield piece
            piece = ""
        piece += cluster
    yield piece


def _ink_box(row: str, is_new: NDArray[np.bool_]) -> CharacterBox:
    """The box of what a row has added to the sheet."""
    down, across = np.flatnonzero(is_new.any(1)), np.flatnonzero(is_new.any(0))
    if not len(down):  # nothing visible: a row of blank symbols
        return CharacterBox(row, 0, 0, 0, 0)
    return CharacterBox(row, int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1)
