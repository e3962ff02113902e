"""Strips filled with running text, with one label per third of a patch: dense food for a vision tower.

    words -> rows of text over the whole strip -> StripSample(image, targets)

A tower that must name the character in every slot of every patch learns letters from two to three times fewer
pictures than one that sees a single short line, because nearly every patch carries a label.

    a patch of 14 px has 3 slots; the target of a slot is the character whose centre lies in it, or the gap between two
    words, else 0
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from minicpmv.data.worlds.canvas import paint
from minicpmv.data.worlds.fonts import Face, Split
from minicpmv.data.worlds.glyphs import (
    CharacterBox,
    draw_text,
    glyph_sheet,
    on_rows,
    scale_boxes,
    unit_width,
    with_gaps,
)
from minicpmv.data.worlds.lines import SHEET_SIZES_PX
from minicpmv.data.worlds.words import random_word

NUM_CHARACTERS = 96
"""Classes of a slot: 0 is blank, a visible character's class is its code minus 32, and the last is `GAP`."""

GAP = 95
"""Class of the middle of the gap between two words of a line: whether letters that stand apart belong to two words is
hard to tell from letters alone."""

STRIP_SIZES = ((28, 112), (56, 56), (42, 112), (42, 70), (56, 112))
"""Useful strip sizes (height, width) in px, multiples of 14: a blank tower learns its first letters fastest from small
pictures of few shapes (docs/log.md)."""

_MIN_PX, _MAX_PX = 12.0, 34.0
_RESIZED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class StripSample:
    """A strip uint8 [height, width, 3], its targets int64 [patches, 3] row by row, and boxes, of cut letters too."""

    image: NDArray[np.uint8]
    targets: NDArray[np.int64]
    characters: list[CharacterBox]


def class_of(char: str) -> int:
    """The class of a printable character, or of the gap that a space is."""
    return GAP if char == " " else ord(char) - 32


def patch_targets(
    characters: Sequence[CharacterBox], height: int, width: int, *, patch: int = 14, slots: int = 3
) -> NDArray[np.int64]:
    """Which character's centre lies in each slot of each patch.

    Args:
        characters: boxes in px, a space for a gap; those with a centre outside the picture are ignored.
        height: picture height in px, a multiple of `patch`.
        width: picture width in px, a multiple of `patch`.
        patch: side of a patch in px.
        slots: slots per patch, side by side.

    Returns:
        int64 [patches, slots], patches row by row; 0 = blank, `GAP`, else the code minus 32. If two centres fall into
        one slot, the one nearer to the slot's middle wins, and any letter over a gap.
    """
    columns = width // patch
    slot_px = patch / slots
    targets = np.zeros((height // patch) * columns * slots, dtype=np.int64)
    nearest: dict[int, float] = {}
    for char, x0, y0, x1, y1 in characters:
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        if not (0 <= x < width and 0 <= y < height):
            continue
        slot = int(x / slot_px)
        place = int(y / patch) * columns * slots + slot
        distance = abs(x - (slot + 0.5) * slot_px) + (patch / 2 if char == " " else 0)
        if distance < nearest.get(place, patch):
            nearest[place] = distance
            targets[place] = class_of(char)
    return targets.reshape(-1, slots)


def render_strip(
    generator: Generator, *, faces: Sequence[Face], split: Split, size: tuple[int, int] = (28, 112)
) -> StripSample:
    """A strip filled with running text at a random offset, so that letters are cut off at every edge.

    Args:
        generator: source of randomness.
        faces: faces to choose from, each as likely as the next.
        split: which half of the vocabulary to print.
        size: height and width in px, multiples of 14.
    """
    height, width = size
    face = faces[int(generator.random() * len(faces))]
    wanted_px = _MIN_PX * (_MAX_PX / _MIN_PX) ** generator.random()
    factor = 0.7 * (1.5 / 0.7) ** generator.random() if generator.random() < _RESIZED_SHARE else 1.0
    drawn_px = max((px for px in SHEET_SIZES_PX if px <= wanted_px * factor), default=SHEET_SIZES_PX[0])
    mask = np.zeros((round(height * factor), round(width * factor)), dtype=np.uint8)
    boxes = _fill(generator, mask, face, split, drawn_px)
    if factor != 1.0:
        boxes = scale_boxes(boxes, width / mask.shape[1], height / mask.shape[0])
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BICUBIC))
    return StripSample(paint(generator, mask), patch_targets(on_rows(boxes), height, width), boxes)


def _fill(generator: Generator, mask: NDArray[np.uint8], face: Face, split: Split, drawn_px: int) -> list[CharacterBox]:
    """Write rows of words over the whole mask, the first of them starting somewhere outside."""
    sheet = glyph_sheet(face, drawn_px)
    height, width = mask.shape
    step = round(drawn_px * (0.95 + 0.35 * generator.random()))
    baseline = round(drawn_px * (0.4 + 0.6 * generator.random()))
    tracking_px = max(0.0, generator.random() - 0.6) * drawn_px * 0.15
    boxes: list[CharacterBox] = []
    while baseline - drawn_px * 0.6 < height:
        x = -int(generator.random() * drawn_px * 2.5)
        needed = (width - x) / drawn_px
        words = [random_word(generator, split)]
        length = unit_width(face, words[0])
        while length < needed:
            words.append(random_word(generator, split))
            length += 0.25 + unit_width(face, words[-1])
        text = " ".join(words)
        boxes += with_gaps(text, draw_text(mask, sheet, text, x, baseline, tracking_px=tracking_px))
        baseline += step
    return boxes
