"""Pictures of one to five printed lines, with the text and the box of every character.

    words -> face and size that fit -> ink mask -> sometimes resized -> paint -> LineSample

Half of the pictures are drawn at another scale and resized, as the processor does with real files; without these a
reader only knows letters on whole pixels.

Source: spec of a small experiment of ours (docs/log.md); sizes 13 to 32 px are what patches of 14 px can resolve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from minicpmv.data.worlds.canvas import paint
from minicpmv.data.worlds.fonts import Face, Split
from minicpmv.data.worlds.glyphs import CharacterBox, draw_text, glyph_sheet, scale_boxes, text_extent, unit_width
from minicpmv.data.worlds.words import is_held_out, random_line

LINE_SIZES = ((56, 224), (70, 168), (84, 140), (98, 126), (112, 112))
"""Canvas sizes (height, width) that a model with `scale_resolution` 112 and patch 14 sees as they are, in one item."""

MIN_SIZE_PX, MAX_SIZE_PX = 13, 32
LEAST_STEP_PX = 19
"""Height that a line needs at the smallest size."""
SHEET_SIZES_PX = (9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24, 26, 28, 30, 32, 36, 40)
"""Font sizes that are really drawn; all others come from these by resizing. Few sizes keep the glyph cache small."""

PARAGRAPH_LINES = 5
"""Most lines of a paragraph in the towers' stages; fewer where the picture is low."""

_RESIZED_SHARE = 0.5
_LINE_HEIGHT = 1.35  # times the font size, ascenders and descenders included


@dataclass(frozen=True, slots=True)
class LineSample:
    """A picture uint8 [height, width, 3], its text (lines joined by a newline) and its character boxes in px."""

    image: NDArray[np.uint8]
    text: str
    characters: list[CharacterBox]


def render_line(
    generator: Generator,
    *,
    faces: Sequence[Face],
    split: Split,
    size: tuple[int, int] = (56, 224),
    num_lines: int = 1,
    max_words: int = 3,
) -> LineSample:
    """A picture with `num_lines` printed lines of a few words each.

    Args:
        generator: source of randomness.
        faces: faces to choose from, each as likely as the next.
        split: which half of the vocabulary to print.
        size: height and width of the picture in px.
        num_lines: lines below each other; all in one face and size.
        max_words: most words on a line; fewer are printed where they do not fit at 13 px.
    """
    height, width = size
    face = faces[int(generator.random() * len(faces))]
    lines = [_line_that_fits(generator, face, split, width, max_words) for _ in range(num_lines)]
    widest = max(unit_width(face, line) for line in lines)
    largest = min(MAX_SIZE_PX, (width - 4) / widest, (height - 2) / (_LINE_HEIGHT * num_lines))
    largest = max(MIN_SIZE_PX, largest)
    wanted = MIN_SIZE_PX + generator.random() * (largest - MIN_SIZE_PX)
    return print_lines(generator, lines, face=face, size_px=wanted, size=size)


def lines_that_fit(generator: Generator, size: tuple[int, int], most: int) -> int:
    """A number of lines, each as likely as the next, at most so many and no more than fit at the smallest size."""
    fitting = min(most, size[0] // LEAST_STEP_PX)
    return 1 if fitting <= 1 else 1 + int(generator.random() * fitting)


def print_lines(
    generator: Generator, lines: Sequence[str], *, face: Face, size_px: float, size: tuple[int, int] = (56, 224)
) -> LineSample:
    """A picture of given lines, for examples and for evaluation on texts of one's own.

    Args:
        generator: source of randomness for place and look.
        lines: printable ASCII, one entry per line.
        face: face to print with.
        size_px: wanted font size in px; made smaller where the lines would not fit.
        size: height and width of the picture in px.
    """
    mask, boxes = _typeset(generator, face, lines, size_px, *size)
    return LineSample(paint(generator, mask), "\n".join(lines), boxes)


def _line_that_fits(generator: Generator, face: Face, split: Split, width: int, max_words: int) -> str:
    """A line of the split that is no wider than the canvas at the smallest size."""
    widest = (width - 6) / (MIN_SIZE_PX + 1)
    while True:
        words = random_line(generator, split, max_words=max_words).split(" ")
        while words:
            line = " ".join(words)
            if unit_width(face, line) <= widest:
                if is_held_out(line) == (split == "held_out"):
                    return line
                break
            words.pop()


def _typeset(
    generator: Generator, face: Face, lines: Sequence[str], wanted_px: float, height: int, width: int
) -> tuple[NDArray[np.uint8], list[CharacterBox]]:
    """Ink of the lines at a random place, drawn at a size that we keep and resized to about the wanted one."""
    resized = generator.random() < _RESIZED_SHARE
    factor = 0.65 * (1.6 / 0.65) ** generator.random() if resized else 1.0
    drawn_px = max((size for size in SHEET_SIZES_PX if size <= wanted_px * factor), default=SHEET_SIZES_PX[0])
    sheet = glyph_sheet(face, drawn_px)
    tracking_px = max(0.0, generator.random() - 0.6) * drawn_px * 0.15
    extents = [text_extent(sheet, line, tracking_px) for line in lines]
    widest = max(right - left for left, _, right, _ in extents)
    if widest + 2 > width * factor and tracking_px:
        tracking_px = 0.0
        extents = [text_extent(sheet, line) for line in lines]
        widest = max(right - left for left, _, right, _ in extents)
    step = round(drawn_px * (1.1 + 0.25 * generator.random()))
    tallest = step * (len(lines) - 1) - extents[0][1] + extents[-1][3]
    canvas_height, canvas_width = round(height * factor), round(width * factor)
    if widest + 2 > canvas_width or tallest + 2 > canvas_height:
        grow = max((widest + 2) / canvas_width, (tallest + 2) / canvas_height)
        canvas_height, canvas_width = int(np.ceil(canvas_height * grow)), int(np.ceil(canvas_width * grow))
    mask = np.zeros((canvas_height, canvas_width), dtype=np.uint8)
    baseline = 1 - extents[0][1] + int(generator.random() * (canvas_height - tallest - 1))
    same_left = 1 + int(generator.random() * (canvas_width - widest - 1))
    boxes: list[CharacterBox] = []
    for line, (left, _, _, _) in zip(lines, extents, strict=True):
        boxes += draw_text(mask, sheet, line, same_left - left, baseline, tracking_px=tracking_px)
        baseline += step
    if (canvas_height, canvas_width) == (height, width):
        return mask, boxes
    method = Image.Resampling.BICUBIC if generator.random() < 0.7 else Image.Resampling.BILINEAR
    small = np.asarray(Image.fromarray(mask).resize((width, height), method))
    return small, scale_boxes(boxes, width / canvas_width, height / canvas_height)
