"""A sheet of paper that remembers what was written on it: every region with its text, its role and its exact box.

    Paper -> write, rule, fill ... in reading order -> finish(look) -> PageSample(image, regions, questions)

Pages, receipts, forms, tables, charts and screenshots all draw on one of these, so that whoever reads them, corrupts
them or asks about them needs to know one kind of ground truth only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from minicpmv.data.worlds.canvas import paint
from minicpmv.data.worlds.fonts import Face
from minicpmv.data.worlds.glyphs import CharacterBox, draw_text, glyph_sheet, scale_boxes, text_extent

Role = Literal["title", "text", "caption", "key", "value", "header", "cell", "label", "code", "button"]
"""What a region is for. A key names the value beside it, a header the cells below it, a label a part of a chart."""

_SHORT: tuple[Role, ...] = ("key", "value", "header", "cell", "label", "button")
"""What may share a line with what stands beside it; paragraphs of two columns do not."""

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in px: left and top inclusive, right and bottom exclusive."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Right minus left."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Bottom minus top."""
        return self.bottom - self.top

    def scaled(self, x: float, y: float) -> "Box":
        """The same rectangle on a picture that was resized by these factors."""
        return Box(self.left * x, self.top * y, self.right * x, self.bottom * y)

    def overlaps(self, other: "Box") -> bool:
        """Whether the two have a pixel in common."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.bottom <= other.top or other.bottom <= self.top)


@dataclass(frozen=True, slots=True)
class TextLine:
    """A printed line and the box of the ink of every character but spaces."""

    text: str
    characters: tuple[CharacterBox, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """Text that belongs together, such as a paragraph or a cell, line by line."""

    role: Role
    lines: tuple[TextLine, ...]

    @property
    def text(self) -> str:
        """Its lines, joined by spaces; the lines of code keep their breaks."""
        return ("\n" if self.role == "code" else " ").join(line.text for line in self.lines)

    @property
    def box(self) -> Box:
        """The smallest rectangle around all of its ink."""
        inked = [character for line in self.lines for character in line.characters]
        return Box(
            min(character.x0 for character in inked),
            min(character.y0 for character in inked),
            max(character.x1 for character in inked),
            max(character.y1 for character in inked),
        )


@dataclass(frozen=True, slots=True)
class Question:
    """Something to ask about a page, and the one right answer; `task` says what kind of question it is."""

    task: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class PageSample:
    """A picture uint8 [height, width, 3], what is written on it in reading order, and questions about it."""

    image: NDArray[np.uint8]
    regions: tuple[Region, ...]
    questions: tuple[Question, ...]
    kind: str

    @property
    def text(self) -> str:
        """Everything that is written, a line per printed line: a key and its value, the cells of a row share one."""
        written: list[str] = []
        for before, region in zip((None, *self.regions), self.regions, strict=False):
            lines = [line.text for line in region.lines]
            if before is not None and _continues(before, region):
                written[-1] += f" {lines.pop(0)}"
            written += lines
        return "\n".join(written)


class Paper:
    """An empty sheet, which grows to the right and downwards where what is written would not fit.

    So all that a page is said to say can be seen on it; whoever draws keeps to the right of 0 and below it.

    Args:
        size: height and width in px.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.height, self.width = size
        self._ink = np.zeros(size, dtype=np.uint8)
        self._fills: list[tuple[Box, Colour]] = []
        self._regions: list[Region] = []

    def write(self, role: Role, lines: Sequence[tuple[str, int, int]], face: Face, size_px: int) -> Region:
        """Write a region; call it in reading order.

        Args:
            role: what the region is for.
            lines: text, pen start and baseline in px, line by line. Text is printable ASCII with some ink.
            face: face to print with.
            size_px: font size.
        """
        sheet = glyph_sheet(face, size_px)
        for text, x, y in lines:
            _, _, right, bottom = text_extent(sheet, text)
            self.grow(y + bottom, x + right)
        written = [TextLine(text, tuple(draw_text(self._ink, sheet, text, x, y))) for text, x, y in lines]
        region = Region(role, tuple(written))
        self._regions.append(region)
        return region

    def grow(self, height: int, width: int) -> None:
        """Make the sheet at least so large."""
        if height > self.height or width > self.width:
            more = (max(0, height - self.height), max(0, width - self.width))
            self._ink = np.pad(self._ink, ((0, more[0]), (0, more[1])))
            self.height, self.width = self._ink.shape

    def rule(self, box: Box, strength: int = 255) -> None:
        """A filled rectangle of ink, such as a line of a table.

        Args:
            box: where; whole pixels.
            strength: 255 is full ink.
        """
        area = self._ink[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]
        np.maximum(area, np.uint8(strength), out=area)

    def frame(self, box: Box, thickness: int = 1, strength: int = 255) -> None:
        """The outline of a rectangle."""
        left, top, right, bottom = box.left, box.top, box.right, box.bottom
        for side in (
            Box(left, top, right, top + thickness),
            Box(left, bottom - thickness, right, bottom),
            Box(left, top, left + thickness, bottom),
            Box(right - thickness, top, right, bottom),
        ):
            self.rule(side, strength)

    def fill(self, box: Box, colour: Colour) -> None:
        """A coloured area, below all ink."""
        self._fills.append((box, colour))

    def finish(
        self, generator: Generator, kind: str, questions: Sequence[Question] = (), *, scale: float = 1.0
    ) -> PageSample:
        """Choose ink and paper, and give the page.

        Args:
            generator: decides the look.
            kind: what kind of page it is.
            questions: what can be asked about it.
            scale: resize the sheet by this factor, as a scanner or a screen would.
        """
        image = paint(generator, self._ink).copy()
        for box, colour in self._fills:
            rows, columns = slice(int(box.top), int(box.bottom)), slice(int(box.left), int(box.right))
            share = self._ink[rows, columns, None].astype(np.float32) / 255
            tone = np.array(colour, dtype=np.float32)
            image[rows, columns] = (image[rows, columns] * share + tone * (1 - share)).astype(np.uint8)
        regions = tuple(self._regions)
        if scale != 1.0:
            height, width = round(self.height * scale), round(self.width * scale)
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
            regions = tuple(_scaled(region, width / self.width, height / self.height) for region in regions)
        return PageSample(image, regions, tuple(questions), kind)


def _scaled(region: Region, x: float, y: float) -> Region:
    lines = (TextLine(line.text, tuple(scale_boxes(line.characters, x, y))) for line in region.lines)
    return Region(region.role, tuple(lines))


def _continues(before: Region, region: Region) -> bool:
    """Whether a short region stands on the line of the one before, to its right."""
    if region.role not in _SHORT or before.role not in _SHORT or len(before.lines) > 1:
        return False
    one, other = before.box, region.box
    middle = (other.top + other.bottom) / 2
    return other.left > one.right and (
        one.top <= middle <= one.bottom or other.top <= (one.top + one.bottom) / 2 <= other.bottom
    )


def text_width(face: Face, size_px: int, text: str) -> int:
    """Width in px that a text takes when it is written, rounded up."""
    sheet = glyph_sheet(
        face, size_px
    )  # its advances are those of the pen; a share of the font size is not, when hinted
    return int(np.ceil(sum(sheet[ord(character) - 32].advance for character in text)))


def wrap(face: Face, size_px: int, text: str, width: int) -> list[str]:
    """A text in lines that fit into `width` px; a word that is wider than that has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(face, size_px, longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
