"""From characters with boxes to printed lines: what stands together on a page that a browser has drawn.

    blocks, glyphs (printed.js) -> read_glyphs -> cut_height -> printed_lines -> a Region per line

A new line begins where the next character of a block stands below the one before, or in another column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.worlds.glyphs import CharacterBox
from minicpmv.data.worlds.paper import Region, Role, TextLine

_LEAST_OVERLAP = 0.5  # of the lower of two characters that share a line
_WORD_GAP = 0.25  # of a character's height: wider gaps between boxes are read as spaces, without one in the document
_LEAST_CONTRAST = 12  # levels of grey within a word that can be seen
_ROUNDING_PX = 1  # a browser sets letters on whole pixels, which may lie outside of where it lays them out
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class Block:
    """What begins a new line: its role, whether white space counts, and whether lines run from top to bottom."""

    role: Role
    spaced: bool = False
    vertical: bool = False


@dataclass(frozen=True, slots=True)
class Glyph:
    """A character of a block with its box in px, or white space without one."""

    block: int
    text: str
    box: tuple[float, float, float, float] | None = None


def read_glyphs(found: Mapping[str, Any]) -> tuple[list[Block], list[Glyph]]:
    """What `measure` in `printed.js` returns."""
    blocks = [Block(block["role"], block["spaced"], block["vertical"]) for block in found["blocks"]]
    glyphs = [
        Glyph(block, text, (float(box[0]), float(box[1]), float(box[2]), float(box[3])) if box else None)
        for block, text, *box in found["glyphs"]
    ]
    return blocks, glyphs


def cut_height(glyphs: Sequence[Glyph], height: int) -> int:
    """Where a picture can end without a cut through a character, in px, at most `height`.

    >>> cut_height([Glyph(0, "a", (0, 90, 9, 105)), Glyph(0, "b", (0, 60, 9, 75))], 100)
    90
    """
    boxes = [glyph.box for glyph in glyphs if glyph.box is not None]
    bottom = height
    while crossing := [top for _, top, _, end in boxes if top < bottom < end]:
        bottom = int(min(crossing))
    return bottom if bottom > height / 2 else height


def printed_lines(blocks: Sequence[Block], glyphs: Sequence[Glyph], image: NDArray[np.uint8]) -> tuple[Region, ...]:
    """The printed lines of a page, a region each, in the order of the document.

    Args:
        blocks: what glyphs belong to.
        glyphs: in the order of the document.
        image: uint8 [height, width, 3]; words that leave no trace on it (white on white) are left out, and so is what
            crosses its edge by more than half.
    """
    lines: list[_Line] = []
    last: dict[int, _Line] = {}
    for glyph in glyphs:
        line = last.get(glyph.block)
        if glyph.box is None:
            if line is not None:
                line.white += glyph.text
            elif blocks[glyph.block].spaced:
                last[glyph.block] = _Line(blocks[glyph.block], [], glyph.text)  # it may be an indented first line
            continue
        if line is None or (line.parts and not line.takes(glyph.box)):
            indent = line.white.rpartition("\n")[2] if line is not None and line.block.spaced else ""
            line = last[glyph.block] = _Line(blocks[glyph.block], [], indent)
        if not line.parts:
            lines.append(line)
        line.add(glyph.text, glyph.box)
    regions = (line.region(image) for line in lines)
    return tuple(region for region in regions if region is not None)


_Box = tuple[float, float, float, float]


@dataclass(slots=True)
class _Line:
    """A line that grows; `parts` are its characters, a space without a box between words."""

    block: Block
    parts: list[tuple[str, _Box | None]]
    white: str = ""  # white space since the last character

    def takes(self, box: _Box) -> bool:
        """Whether a character stands on this line."""
        before = self.parts[-1][1] or box
        low, high = (0, 2) if self.block.vertical else (1, 3)
        shared = min(before[high], box[high]) - max(before[low], box[low])
        return shared >= _LEAST_OVERLAP * min(before[high] - before[low], box[high] - box[low])

    def add(self, text: str, box: _Box) -> None:
        """The next character, with a space before it if one is seen there."""
        if self.block.spaced:
            self.parts += [(white, None) for white in self.white.rpartition("\n")[2]]
        elif self.parts and (self.white or self._is_apart(box)):
            self.parts.append((" ", None))
        self.parts.append((text, box))
        self.white = ""

    def _is_apart(self, box: _Box) -> bool:
        before = self.parts[-1][1] or box
        if self.block.vertical:
            return box[1] - before[3] > _WORD_GAP * (box[2] - box[0])
        gap = max(box[0] - before[2], before[0] - box[2])  # to the right, or to the left where it is read so
        return gap > _WORD_GAP * (box[3] - box[1])

    def region(self, image: NDArray[np.uint8]) -> Region | None:
        """The line as a region, without words that cannot be seen; None if nothing is left."""
        kept: list[tuple[str, _Box | None]] = []
        word: list[tuple[str, _Box]] = []
        for text, box in (*self.parts, (" ", None)):
            if box is not None:
                word.append((text, box))
                continue
            kept += word if _leaves_a_trace([inner for _, inner in word], image) else []
            word = []
            kept.append((text, None))
        written = "".join(text for text, _ in kept)
        written = written.rstrip() if self.block.spaced else " ".join(written.split())
        height, width = image.shape[:2]
        boxes = tuple(
            CharacterBox(
                text,
                max(box[0], 0.0),
                max(box[1] - _ROUNDING_PX, 0.0),
                min(box[2], width),
                min(box[3] + _ROUNDING_PX, height),
            )
            for text, box in kept
            if box is not None
        )
        return Region(self.block.role, (TextLine(written, boxes),)) if boxes else None


def _leaves_a_trace(boxes: Sequence[_Box], image: NDArray[np.uint8]) -> bool:
    """Whether the pixels of a word differ from each other, and its middle is on the picture."""
    if not boxes:
        return False
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    height, width = image.shape[:2]
    if not (0 <= (top + bottom) / 2 < height and left < width and right > 0):
        return False
    area = image[max(0, int(top)) : int(np.ceil(bottom)), max(0, int(left)) : int(np.ceil(right))]
    grey = area @ _LUMA
    return bool(grey.size and np.ptp(grey) >= _LEAST_CONTRAST)
