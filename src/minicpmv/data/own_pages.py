"""Pages of one's own with known text as training samples: to restore where they are damaged, or to read.

    PDFs with a text layer, or pictures with boxes -> own_pages -> PageSample -> damaged | read -> Sample

The text layer of a PDF says what stands where, to the letter; no parser and no reader comes between. A picture needs
somebody who has written it down: `{"image": "a.png", "regions": [{"text": "Total", "box": [12, 30, 58, 44]}]}` a line,
boxes in px: left, top, right, bottom. A region of several printed lines has their breaks in its text, because damage is
as strong as a line is high.

Source: arXiv 2509.18154, section 2.2.3 (document knowledge and OCR from damaged regions, without external parsers).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from minicpmv.data.corruption.calibration import Calibration
from minicpmv.data.corruption.corrupt import LEVEL_SHARES
from minicpmv.data.drawn import READ, Draw, damaged_sample, levels_of, page_sample
from minicpmv.data.options import checked_path, checked_range, checked_share
from minicpmv.data.sample import Sample
from minicpmv.data.studio import LARGEST_SIDE_PX, SMALLEST_SIDE_PX, Studio
from minicpmv.data.worlds.glyphs import CharacterBox, scale_boxes
from minicpmv.data.worlds.paper import Box, PageSample, Region, TextLine
from minicpmv.errors import MediaError, OptionError
from minicpmv.media.document import Letter, printed_page, probe_document
from minicpmv.media.image import load_image

_LONGEST_SIDE_PX = 1344
"""What nine slices show at full size: three of 448 px. Ours."""
_GAP = 1.5
"""Letters farther apart than this many of their heights are in different regions. Ours: cells of a table are."""
_CONTRAST = 40
"""A region whose brightest and darkest px differ less shows nothing, such as white text on white. Ours."""
_INK_SHARE = 0.8
"""Height of the letters of a printed line, as a share of its distance to the next. Ours."""
_TRIES = 20


@dataclass(frozen=True, slots=True)
class PdfPage:
    """A page of a PDF."""

    file: Path
    number: int

    def open(self, longest_side_px: int) -> PageSample:
        """Rendered, with the lines of its text layer as regions.

        Raises:
            MediaError: it cannot be rendered or read, or shows no text.
        """
        printed = printed_page(self.file, self.number, longest_side_px=longest_side_px)
        regions = [_region_of(part) for line in printed.lines for part in _parts(line)]
        return _visible(np.asarray(printed.page.image), regions, f"page {self.number} of {self.file.name}")


@dataclass(frozen=True, slots=True)
class WrittenDown:
    """A picture whose text somebody has written down."""

    file: Path
    regions: tuple[Region, ...]

    def open(self, longest_side_px: int) -> PageSample:
        """The picture, made smaller where it is too large, and its regions.

        Raises:
            MediaError: it cannot be read, or shows nothing where text should be.
        """
        image = load_image(self.file).image
        scale = min(1.0, longest_side_px / max(image.size))
        size = (max(1, round(image.size[0] * scale)), max(1, round(image.size[1] * scale)))
        x, y = size[0] / image.size[0], size[1] / image.size[1]
        regions = [_scaled(region, x, y) for region in self.regions]
        return _visible(np.asarray(image.resize(size, Image.Resampling.BICUBIC)), regions, self.file.name)


KnownPage = PdfPage | WrittenDown


def own_pages(
    studio: Studio,
    *,
    pages: str,
    damaged: float = 1.0,
    calibration: Calibration | str = "",
    longest_side_px: int | Sequence[int] = _LONGEST_SIDE_PX,
) -> Draw:
    """Pages of one's own, drawn at random: damaged ones to restore, the others to read.

    Args:
        studio: not used; these pages bring what they show.
        pages: a PDF, a `.jsonl` of pictures with regions, or a folder of either.
        damaged: share of pages with damaged regions to restore.
        calibration: how strong each level is, or the file that says so; the bundled one if empty.
        longest_side_px: of a page's picture; smallest and largest, of which every sample draws one.

    Raises:
        OptionError: there are no such pages, or none of them shows text that is known; or there is no such calibration.
    """
    del studio
    damaged = checked_share("damaged", damaged)
    bounds = checked_range("longest_side_px", longest_side_px, SMALLEST_SIDE_PX, LARGEST_SIDE_PX)
    levels = levels_of(calibration)
    known = find_pages(checked_path("pages", pages))
    _first_that_opens(known, np.random.default_rng(0), bounds[1], pages)

    def draw(generator: Generator, key: str) -> Sample:
        side = int(generator.integers(bounds[0], bounds[1] + 1))
        page = _first_that_opens(known, generator, side, pages)
        if generator.random() < damaged:
            return damaged_sample(generator, key, page, levels, LEVEL_SHARES)
        return page_sample(key, page, READ[int(generator.integers(len(READ)))], page.text, task="read")

    return draw


def find_pages(path: Path) -> list[KnownPage]:
    """Every page of a PDF, of a file of pictures with regions, or of a folder of such files.

    Raises:
        OptionError: there are none, or a file is not as it should be.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    found: list[KnownPage] = []
    others = f" Or take it out of {path}." if path.is_dir() else ""
    for file in files:
        if file.suffix.lower() == ".pdf":
            try:
                found += [PdfPage(file, number) for number in range(1, probe_document(file).num_pages + 1)]
            except MediaError as error:
                raise OptionError(error.what, remedy=f"{error.remedy}{others}") from None
        elif file.suffix.lower() == ".jsonl":
            found += _written_down(file)
    if not found:
        raise OptionError(f"{path} has no pages.", remedy="Name a PDF, a .jsonl with regions, or a folder of them.")
    return found


def _written_down(file: Path) -> list[WrittenDown]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{file} cannot be read: {error}", remedy="Write it in UTF-8.") from None
    pictures = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = json.loads(line)
                regions = tuple(_region_from(region) for region in record["regions"])
                pictures.append(WrittenDown(file.parent / record["image"], regions))
            except (ValueError, TypeError, KeyError) as error:
                raise OptionError(
                    f"Line {number} of {file} is no picture with regions: {error!r}.",
                    remedy='Write {"image": "a.png", "regions": [{"text": "Total", "box": [12, 30, 58, 44]}]}.',
                ) from None
    return pictures


def _region_from(record: Any) -> Region:
    """A region as somebody wrote it down; its lines are known as wholes, not by letters."""
    text = record["text"]
    x0, y0, x1, y1 = (float(number) for number in record["box"])
    if not isinstance(text, str) or not text.strip() or not (x0 < x1 and y0 < y1):
        raise ValueError(f"{record}")
    texts = [line for line in text.splitlines() if line.strip()]
    step = (y1 - y0) / (len(texts) - 1 + _INK_SHARE)
    tops = [y0 + number * step for number in range(len(texts))]
    boxes = [CharacterBox(line, x0, top, x1, top + _INK_SHARE * step) for line, top in zip(texts, tops, strict=True)]
    return Region("text", tuple(TextLine(box.char, (box,)) for box in boxes))


def _first_that_opens(known: Sequence[KnownPage], generator: Generator, side: int, source: str) -> PageSample:
    """A page at random; another one if it is broken or shows no text."""
    reason = ""
    for _ in range(_TRIES):
        try:
            return known[int(generator.integers(len(known)))].open(side)
        except MediaError as error:
            reason = error.what
    raise OptionError(
        f"None of {_TRIES} pages of {source} shows text that is known; the last: {reason}",
        remedy="Take PDFs that have a text layer; scans alone have none.",
    )


def _parts(line: Sequence[Letter]) -> list[list[Letter]]:
    """A line, cut where there is a wide gap: cells of a table stand in one line of the text layer."""
    height = max(letter.box[3] - letter.box[1] for letter in line)
    parts = [[line[0]]]
    for before, letter in zip(line, line[1:], strict=False):
        if letter.box[0] - before.box[2] > _GAP * height:
            parts.append([])
        parts[-1].append(letter)
    return parts


def _region_of(letters: Sequence[Letter]) -> Region:
    spaced = [" " * (letter.is_after_space and index > 0) + letter.char for index, letter in enumerate(letters)]
    boxes = tuple(CharacterBox(letter.char, *letter.box) for letter in letters)
    return Region("text", (TextLine("".join(spaced), boxes),))


def _scaled(region: Region, x: float, y: float) -> Region:
    lines = (replace(line, characters=tuple(scale_boxes(line.characters, x, y))) for line in region.lines)
    return replace(region, lines=tuple(lines))


def _visible(image: NDArray[np.uint8], regions: Sequence[Region], name: str) -> PageSample:
    """A page with the regions that can be seen."""
    grey = image.mean(axis=2)
    seen = tuple(region for region in regions if _shows(grey, region.box))
    if not seen:
        raise MediaError(f"{name} shows no text that is known.", remedy="Leave it out.")
    return PageSample(image, seen, (), "page")


def _shows(grey: NDArray[np.float64], box: Box) -> bool:
    """Whether something is printed in a box, and all of it lies in the picture."""
    height, width = grey.shape
    if box.left < -1 or box.top < -1 or box.right > width + 1 or box.bottom > height + 1:
        return False
    inside = grey[max(0, int(box.top)) : int(box.bottom) + 1, max(0, int(box.left)) : int(box.right) + 1]
    return bool(inside.size) and float(inside.max() - inside.min()) >= _CONTRAST
