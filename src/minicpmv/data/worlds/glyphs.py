"""Letters as small ink pictures, and the placing of text with the exact box of every character.

    Face, size -> glyph_sheet -> 95 Glyphs -> draw_text -> ink on a mask, CharacterBox per visible character

Glyphs are drawn once per face and size and then only copied, which is about ten times faster than asking FreeType
for each line, and makes boxes exact: a box is where the copied ink is. There is no kerning; random letter spacing in
training covers what kerning would change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from minicpmv.data.worlds.fonts import PRINTABLE, Face, open_font

_UNIT_PX = 100  # size at which relative widths are measured
_ROW_REACH = 0.9  # times the tallest ink of a row: how far above or below its middle another letter of it may lie


class CharacterBox(NamedTuple):
    """A visible character and the box of its ink in px: left, top, right, bottom, the last two exclusive."""

    char: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Glyph:
    """The ink of one character: uint8 [height, width], where it lies from the pen on the baseline, and the advance."""

    ink: NDArray[np.uint8]
    left: int
    top: int
    advance: float


@lru_cache(maxsize=2048)
def glyph_sheet(face: Face, size_px: int) -> tuple[Glyph, ...]:
    """All 95 printable ASCII glyphs of a face at a size, in the order of `PRINTABLE`.

    A sheet takes about 50 KB; 2048 of them (100 faces at 20 sizes) bound the cache to about 100 MB.
    """
    font = open_font(face, size_px)
    margin = size_px
    sheet = []
    for character in PRINTABLE:
        advance = font.getlength(character)
        picture = Image.new("L", (int(advance) + 2 * margin, 3 * size_px))
        ImageDraw.Draw(picture).text((margin, 2 * size_px), character, font=font, fill=255, anchor="ls")
        box = picture.getbbox() or (margin, 2 * size_px, margin, 2 * size_px)
        ink = np.ascontiguousarray(np.asarray(picture)[box[1] : box[3], box[0] : box[2]])
        sheet.append(Glyph(ink, box[0] - margin, box[1] - 2 * size_px, advance))
    return tuple(sheet)


@lru_cache(maxsize=512)
def unit_advances(face: Face) -> tuple[float, ...]:
    """Advance of each printable character as a share of the font size, in the order of `PRINTABLE`."""
    font = open_font(face, _UNIT_PX)
    return tuple(font.getlength(character) / _UNIT_PX for character in PRINTABLE)


def unit_width(face: Face, text: str) -> float:
    """Width of a text as a multiple of the font size."""
    advances = unit_advances(face)
    return sum(advances[ord(character) - 32] for character in text)


def text_extent(sheet: Sequence[Glyph], text: str, tracking_px: float = 0.0) -> tuple[int, int, int, int]:
    """Box of a text's ink relative to its pen start on the baseline: left, top, right, bottom in px.

    Args:
        sheet: glyphs of one face and size.
        text: printable ASCII.
        tracking_px: extra space after each character.
    """
    left, top, right, bottom = 10**6, 10**6, -(10**6), -(10**6)
    pen = 0.0
    for character in text:
        glyph = sheet[ord(character) - 32]
        height, width = glyph.ink.shape
        if width:
            start = round(pen) + glyph.left
            left, right = min(left, start), max(right, start + width)
            top, bottom = min(top, glyph.top), max(bottom, glyph.top + height)
        pen += glyph.advance + tracking_px
    return (left, top, right, bottom) if left <= right else (0, 0, 0, 0)


def draw_text(
    mask: NDArray[np.uint8],
    sheet: Sequence[Glyph],
    text: str,
    x: int,
    baseline: int,
    *,
    tracking_px: float = 0.0,
) -> list[CharacterBox]:
    """Put a text's ink on a mask and return the box of every visible character.

    Args:
        mask: uint8 [height, width], 0 = paper, 255 = ink; changed in place. Ink outside is cut off.
        sheet: glyphs of one face and size.
        text: printable ASCII.
        x: pen start in px, may be outside the mask.
        baseline: y of the baseline in px.
        tracking_px: extra space after each character.

    Returns:
        Boxes in px of the mask, not clipped; characters without ink (the space) have none.
    """
    rows, columns = mask.shape
    boxes = []
    pen = float(x)
    for character in text:
        glyph = sheet[ord(character) - 32]
        height, width = glyph.ink.shape
        if width:
            x0, y0 = round(pen) + glyph.left, baseline + glyph.top
            boxes.append(CharacterBox(character, x0, y0, x0 + width, y0 + height))
            top, bottom, left, right = max(y0, 0), min(y0 + height, rows), max(x0, 0), min(x0 + width, columns)
            if top < bottom and left < right:
                target = mask[top:bottom, left:right]
                np.maximum(target, glyph.ink[top - y0 : bottom - y0, left - x0 : right - x0], out=target)
        pen += glyph.advance + tracking_px
    return boxes


def with_gaps(text: str, characters: Sequence[CharacterBox]) -> list[CharacterBox]:
    """The letters of printed text, and between the words of a line the gaps, each as the box of a space.

    Args:
        text: what is printed, lines joined by newlines.
        characters: the boxes of its visible characters, in order. If they are not those of the text, as where only
            the box of a whole line is known, none are added.
    """
    if [character for character in text if not character.isspace()] != [box.char for box in characters]:
        return list(characters)
    spaced: list[CharacterBox] = []
    remaining = iter(characters)
    is_gap = False
    for character in text:
        if character.isspace():
            is_gap = character == " " and bool(spaced)
            continue
        box = next(remaining)
        if is_gap:
            before = spaced[-1]
            spaced.append(CharacterBox(" ", before.x1, before.y0, max(before.x1, box.x0), before.y1))
            is_gap = False
        spaced.append(box)
    return spaced


def on_rows(characters: Sequence[CharacterBox]) -> list[CharacterBox]:
    """The same letters, those of a printed row all at one height: the median of the middles of their ink.

    The ink of a comma lies lower than that of a quotation mark. Whoever cuts pictures into rows of patches wants all
    letters of a line in the same one.

    Args:
        characters: in reading order; a row ends where the next letter lies to the left, or far above or below.
    """
    placed: list[CharacterBox] = []
    row: list[CharacterBox] = []
    total = tallest = 0.0
    for box in characters:
        middle, height = (box.y0 + box.y1) / 2, box.y1 - box.y0
        if row:
            goes_back = (box.x0 + box.x1) / 2 < row[-1].x0
            reach = _ROW_REACH * max(tallest, height)
            if goes_back or abs(middle - total / len(row)) > reach:
                placed += _at_one_height(row)
                row, total, tallest = [], 0.0, 0.0
        row.append(box)
        total, tallest = total + middle, max(tallest, height)
    return placed + _at_one_height(row)


def _at_one_height(row: Sequence[CharacterBox]) -> list[CharacterBox]:
    middles = sorted((box.y0 + box.y1) / 2 for box in row)
    moved = []
    for box in row:
        by = middles[len(middles) // 2] - (box.y0 + box.y1) / 2
        moved.append(CharacterBox(box.char, box.x0, box.y0 + by, box.x1, box.y1 + by))
    return moved


def scale_boxes(boxes: Sequence[CharacterBox], factor_x: float, factor_y: float) -> list[CharacterBox]:
    """The same boxes on a canvas that was resized by these factors."""
    return [
        CharacterBox(box.char, box.x0 * factor_x, box.y0 * factor_y, box.x1 * factor_x, box.y1 * factor_y)
        for box in boxes
    ]
