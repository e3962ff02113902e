"""Pages with damaged regions, and the text that was there: one objective for reading, guessing from context, and both.

    page, calibration -> choose regions and levels -> damage or cover them -> CorruptedPage(image, targets)

The target of a region is always its original text. Slightly damaged, that is reading; with single characters lost,
pixels and context have to be weighed; covered, only context is left. Which of the three a target is travels with it,
together with the operator, its strength, and the error rate a reader without context is expected to have.

Targets have a red frame, outside of what is damaged: a slight damage does not say by itself that it is asked for.

Source: arXiv 2509.18154, section 2.2.3 (unified paradigm; levels chosen per region, several in one page). Shares of
levels and regions are ours: the report gives none, and it does not say how the targets are told to the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from minicpmv.data.corruption.calibration import LEVELS, Calibration, Level
from minicpmv.data.corruption.operators import FILLS, OPERATORS, cover
from minicpmv.data.worlds.paper import Box, Region
from minicpmv.errors import OptionError

LEVEL_SHARES: Mapping[Level, float] = {"low": 0.4, "moderate": 0.3, "high": 0.3}
"""How often a region gets each level. Ours."""

REGION_SHARE = (0.15, 0.40)
"""Smallest and largest share of a page's regions that become targets. Ours."""

MAX_TARGETS = 8
"""Most targets of one page. Ours."""

FRAME = (220, 30, 30)
"""Colour of the frame around a target, RGB. Ours."""

_MARGIN = 2  # px of paper around the ink that are damaged too
_THINNEST_FRAME_PX = 2
_SIDE_PER_FRAME = 450  # a frame is a px broader for every so many px of the page


@dataclass(frozen=True, slots=True)
class Target:
    """A damaged region: its place among the page's regions, its text, and what was done to it.

    `operator` is one of `OPERATORS`, or a fill for a covered region. `expected_cer` is what the reference reader would
    get wrong on the bare crop.
    """

    region: int
    text: str
    box: tuple[int, int, int, int]
    level: Level
    operator: str
    strength: float
    expected_cer: float

    def to_dict(self) -> dict[str, Any]:
        """For the metadata of a sample."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CorruptedPage:
    """A page uint8 [height, width, 3] with damaged regions in red frames, and these in reading order."""

    image: NDArray[np.uint8]
    targets: tuple[Target, ...]


def corrupt(
    generator: Generator,
    image: NDArray[np.uint8],
    regions: Sequence[Region],
    calibration: Calibration,
    *,
    shares: Mapping[Level, float] = LEVEL_SHARES,
    region_share: tuple[float, float] = REGION_SHARE,
    most: int = MAX_TARGETS,
) -> CorruptedPage:
    """Damage and frame some regions of a page: a rendered one, one of a PDF, or a user's picture with known text.

    Args:
        generator: source of randomness.
        image: uint8 [height, width, 3]; not changed.
        regions: what is written where, in reading order; at least one.
        calibration: which strengths of which operators belong to which level.
        shares: how often each level is drawn.
        region_share: smallest and largest share of the regions that become targets; at least one does.
        most: most targets.

    Raises:
        OptionError: no regions that can be seen, or shares that do not name the levels.
    """
    inked = [index for index, region in enumerate(regions) if _can_be_seen(region.box, image.shape[0], image.shape[1])]
    if not inked or set(shares) - set(LEVELS) or sum(shares.values()) <= 0:
        raise OptionError(
            f"A page with {len(inked)} regions to be seen and level shares {dict(shares)} cannot be corrupted.",
            remedy=f"Give regions, and shares of {', '.join(LEVELS)}.",
        )
    low, high = region_share
    share = low + generator.random() * (high - low)
    num = min(most, len(inked), max(1, round(share * len(regions))))
    chosen = sorted(inked[int(index)] for index in generator.permutation(len(inked))[:num])
    levels = [level for level in LEVELS if shares.get(level, 0) > 0]
    weights = np.array([shares[level] for level in levels])
    damaged = image.copy()
    targets = []
    for index in chosen:
        level = levels[int(generator.choice(len(levels), p=weights / weights.sum()))]
        targets.append(_damage(generator, damaged, regions[index], index, level, calibration))
    return CorruptedPage(_framed(damaged, [target.box for target in targets]), tuple(targets))


def _damage(
    generator: Generator, image: NDArray[np.uint8], region: Region, index: int, level: Level, calibration: Calibration
) -> Target:
    """Damage one region in place and say how."""
    left, top, right, bottom = _pixel_box(region.box, image.shape[0], image.shape[1])
    area = image[top:bottom, left:right]
    text_px = _text_height(region)
    if level == "high":
        operator, strength, expected = FILLS[int(generator.random() * len(FILLS))], 1.0, 1.0
        area[:] = cover(generator, area, operator)
    else:
        names = calibration.operators(level)
        operator = names[int(generator.random() * len(names))]
        weakest, strongest = calibration.band(operator, level) or (0.0, 0.0)
        strength = weakest + generator.random() * (strongest - weakest)
        expected = calibration.curves[operator].error_rate(strength)
        area[:] = OPERATORS[operator](generator, np.ascontiguousarray(area), strength, text_px)
    return Target(
        index, region.text, (left, top, right, bottom), level, operator, round(strength, 4), round(expected, 4)
    )


def _framed(image: NDArray[np.uint8], boxes: Sequence[tuple[int, int, int, int]]) -> NDArray[np.uint8]:
    """The picture with a frame around every box; what is inside of a box stays as it is, even where boxes are close."""
    broad = max(_THINNEST_FRAME_PX, round(max(image.shape[:2]) / _SIDE_PER_FRAME))
    framed = image.copy()
    for left, top, right, bottom in boxes:
        framed[max(0, top - broad) : bottom + broad, max(0, left - broad) : right + broad] = FRAME
    for left, top, right, bottom in boxes:
        framed[top:bottom, left:right] = image[top:bottom, left:right]
    return framed


def _pixel_box(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """Whole pixels around a box, inside the picture."""
    return (
        max(0, int(box.left) - _MARGIN),
        max(0, int(box.top) - _MARGIN),
        min(width, int(np.ceil(box.right)) + _MARGIN),
        min(height, int(np.ceil(box.bottom)) + _MARGIN),
    )


def _can_be_seen(box: Box, height: int, width: int) -> bool:
    return box.left < width and box.top < height and box.right > 0 and box.bottom > 0


def _text_height(region: Region) -> float:
    """Height of a line of the region, in px."""
    heights = [
        max(character.y1 for character in line.characters) - min(character.y0 for character in line.characters)
        for line in region.lines
        if line.characters
    ]
    return float(np.median(heights)) if heights else 1.0
