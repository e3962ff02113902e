"""A word that runs through a clip from right to left, wider than the picture: only all frames together tell it.

    word -> plan_passing -> [Passing, ...]                 in words: every letter counts as equally wide
    word, face, size -> set_ticker -> Ticker -> draw_ticker -> frames, [Passing, ...]        in pixels

No frame shows the whole word, and every letter is wholly inside at least one frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from minicpmv.data.worlds.fonts import Face, Split
from minicpmv.data.worlds.glyphs import Glyph, draw_text, glyph_sheet, text_extent, unit_advances, unit_width
from minicpmv.data.worlds.scenes import pick
from minicpmv.data.worlds.shapes import Style, with_grain
from minicpmv.data.worlds.words import dictionary

LETTERS = (4, 8)
"""Shortest and longest word."""

FEWEST_FRAMES = 3
"""With two frames, broad letters could not all be shown whole."""

_WIDENING = (1.2, 2.1)
"""Smallest and largest width of a word as a multiple of the window's. Ours."""

_SIZES_PX = tuple(sorted({round(10 * 1.1**power) for power in range(44)}))
"""Font sizes, 10 to 602 px. Few, to keep the glyph cache small; a tenth apart, so that one fits every word."""


@dataclass(frozen=True, slots=True)
class Passing:
    """What a frame shows of a word: its letters from `first` up to but not including `end` are wholly seen."""

    word: str
    colour: str
    first: int
    end: int

    @property
    def seen(self) -> str:
        """Place in the word (from 1) and the letters there; `none` if no letter is wholly seen.

        >>> Passing("window", "red", 2, 5).seen
        '3,ndo'
        """
        return f"{self.first + 1},{self.word[self.first : self.end]}" if self.first < self.end else "none"


@dataclass(frozen=True, slots=True)
class Ticker:
    """A word set in type, and where it is in each frame.

    Attributes:
        word: what is written.
        sheet: glyphs it is written with.
        pens: pen start in px of the window, frame by frame.
        baseline: in px from the top of the picture.
        left: first column of the window in the picture.
        width: of the window, in px.
    """

    word: str
    sheet: Sequence[Glyph]
    pens: tuple[int, ...]
    baseline: int
    left: int
    width: int


def draw_word(generator: Generator, split: Split) -> str:
    """A word of a split that is long enough to run."""
    return pick(generator, _words(split))


@lru_cache(maxsize=2)
def _words(split: Split) -> tuple[str, ...]:
    """Words of the right length; those of training hold no held-out word, which a frame might show alone."""
    unseen = dictionary("held_out") if split == "train" else ()
    return tuple(
        word
        for word in dictionary(split)
        if LETTERS[0] <= len(word) <= LETTERS[1] and not any(other in word for other in unseen)
    )


def plan_passing(generator: Generator, word: str, colour: str, num_frames: int) -> list[Passing]:
    """A word passing a window of a few letters, at least `FEWEST_FRAMES` times seen."""
    fewest = max(2, -(-len(word) // num_frames))
    width = fewest + int(generator.random() * (len(word) - fewest))
    before, after = _leads(generator, len(word), width, width - 1, width - 1, (num_frames - 1) * width)
    starts = np.linspace(-before, len(word) - width + after, num_frames).round().astype(int)
    return [Passing(word, colour, max(0, int(start)), min(len(word), int(start) + width)) for start in starts]


def _leads(
    generator: Generator, length: int, window: int, most_before: int, most_after: int, most_way: int
) -> tuple[int, int]:
    """How far the word's begin still is from the window's at first, and its end from the window's at last.

    Args:
        generator: source of randomness.
        length: of the word.
        window: its width.
        most_before: largest distance at which the first letter is still wholly seen.
        most_after: the same for the last letter.
        most_way: longest way from the first frame to the last.
    """
    slack = most_way - (length - window)
    before = int(generator.random() * (min(most_before, slack) + 1))
    return before, int(generator.random() * (min(most_after, slack - before) + 1))


def set_ticker(generator: Generator, word: str, face: Face, size: tuple[int, int], num_frames: int) -> Ticker:
    """A word in type that is too wide for the picture, with a steady pace at which every letter is seen.

    Args:
        generator: source of randomness.
        word: printable ASCII without spaces, at least four letters.
        face: to print with.
        size: height and width of the picture in px. The word passes a window no wider than the picture is high: it
            must be wider than its window, and letters of that size would not fit into a low one.
        num_frames: at least `FEWEST_FRAMES`.
    """
    height, width = size
    window = min(height, width)
    sheet = glyph_sheet(face, _choose_size(generator, word, face, window, num_frames))
    left, top, right, bottom = text_extent(sheet, word)
    widths = [sheet[ord(letter) - 32].ink.shape[1] for letter in word]
    # A letter is wholly seen while the pen moves by window - its width, so steps no longer than that never miss it.
    most_way = (num_frames - 1) * (window - max(widths))
    before, after = _leads(generator, right - left, window, window - widths[0], window - widths[-1], most_way)
    pens = np.linspace(before - left, window - right - after, num_frames).round().astype(int)
    baseline = int(generator.random() * (max(0, height - (bottom - top)) + 1)) - top
    place = int(generator.random() * (width - window + 1))
    return Ticker(word, sheet, tuple(int(pen) for pen in pens), baseline, place, window)


def _choose_size(generator: Generator, word: str, face: Face, window: int, num_frames: int) -> int:
    """A font size at which the word is wider than the window, but not too wide to pass it in so many frames."""
    low, high = _WIDENING
    whole, widest = unit_width(face, word), max(unit_advances(face)[ord(letter) - 32] for letter in word)
    wide_enough = [px for px in _SIZES_PX if whole * px >= low * window]
    good = [
        px
        for px in wide_enough
        if px < window
        and whole * px <= high * window
        and whole * px - window <= 0.9 * (num_frames - 1) * (window - widest * px)
    ]
    sizes = good or wide_enough[:1]
    return sizes[int(generator.random() * len(sizes))]


def draw_ticker(
    generator: Generator, ticker: Ticker, colour: str, style: Style
) -> tuple[list[NDArray[np.uint8]], list[Passing]]:
    """Frames uint8 [height, width, 3] of a word that runs by, and which letters are wholly seen in each.

    Args:
        generator: grain.
        ticker: the word and its places.
        colour: its name, one of the style's.
        style: the look.
    """
    height = style.background.shape[0]
    frames, shown = [], []
    for pen in ticker.pens:
        mask = np.zeros((height, ticker.width), dtype=np.uint8)
        boxes = draw_text(mask, ticker.sheet, ticker.word, pen, ticker.baseline)
        levels = style.background.copy()
        region = levels[:, ticker.left : ticker.left + ticker.width]
        region += (style.colours[colour] - region) * (mask[:, :, None] / np.float32(255))
        frames.append(with_grain(generator, levels, style))
        whole = [index for index, box in enumerate(boxes) if box.x0 >= 0 and box.x1 <= ticker.width]
        shown.append(Passing(ticker.word, colour, min(whole, default=0), max(whole, default=-1) + 1))
    return frames, shown
