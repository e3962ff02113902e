"""Shapes, digits, colours and places of scenes and clips, read from the pixels without the plan.

A shape is told by how far it reaches from its middle in every direction: a triangle three times far, a square and a
cross four times, a star five times, a circle everywhere alike. A digit is told by laying all digits over it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from minicpmv.data.worlds.clips import ClipSample, render_clip
from minicpmv.data.worlds.glyphs import glyph_sheet
from minicpmv.data.worlds.scenes import SceneSample, render_scene
from minicpmv.data.worlds.shapes import BUILT_IN_FACE, COLOURS, DIGITS, SHAPES

Picture = NDArray[np.uint8]
NAMES = tuple(COLOURS)
VALUES = np.array([COLOURS[name] for name in NAMES])
CLEAR = 62
"""Distance from the background in RGB from which on a px belongs to a thing; things are at least 105 away."""


@dataclass(frozen=True)
class Seen:
    """A thing in a picture: its pixels, and the middle of them (column, row)."""

    pixels: NDArray[np.bool_]
    middle: NDArray[np.float64]
    colour: str

    @property
    def shape(self) -> str:
        """One of `SHAPES`."""
        reach = self.reach(120)
        waves = np.abs(np.fft.rfft(reach)) / reach.sum()
        if max(waves[3:6]) < 0.03:
            return "circle"
        corners = 3 + int(np.argmax(waves[3:6]))
        if corners == 4:
            return "cross" if reach.min() / reach.max() < 0.57 else "square"
        return "triangle" if corners == 3 else "star"

    def reach(self, num: int) -> NDArray[np.float64]:
        """How far it reaches from its middle in so many directions, in px."""
        steps = np.arange(0, 60, 0.25)
        angles = np.linspace(0, 2 * np.pi, num, endpoint=False)
        columns = np.rint(self.middle[0] + np.cos(angles)[:, None] * steps).astype(int)
        rows = np.rint(self.middle[1] + np.sin(angles)[:, None] * steps).astype(int)
        height, width = self.pixels.shape
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        hit = inside & self.pixels[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        return hit.sum(axis=1) / 4


def distance(picture: Picture) -> NDArray[np.float64]:
    """From the most usual colour, in RGB."""
    usual = np.median(picture.reshape(-1, 3), axis=0)
    return np.linalg.norm(picture - usual, axis=2)


def things_in(picture: Picture) -> list[Seen]:
    """Connected parts of at least 20 px, of one colour each."""
    far = distance(picture)
    left, found = {(int(row), int(column)) for row, column in np.argwhere(far > CLEAR)}, []
    while left:
        front, part = [left.pop()], []
        while front:
            row, column = front.pop()
            part.append((row, column))
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & left
            left -= near
            front += near
        if len(part) >= 20:
            found.append(_seen(picture, far, np.array(part)))
    return found


def _seen(picture: Picture, far: NDArray[np.float64], part: NDArray[np.int64]) -> Seen:
    pixels = np.zeros(far.shape, dtype=bool)
    pixels[part[:, 0], part[:, 1]] = True
    full = pixels & (far > 0.85 * np.quantile(far[pixels], 0.9))
    nearest = np.linalg.norm(VALUES - np.median(picture[full], axis=0), axis=1).argmin()
    return Seen(pixels, part.mean(axis=0)[::-1], NAMES[int(nearest)])


def digit_in(picture: Picture) -> str:
    """The digit whose ink lies best on that of the picture, in any size, moved by at most a px."""
    far = distance(picture)
    rows, columns = np.nonzero(far > CLEAR)
    ink = np.clip(far / np.quantile(far[rows, columns], 0.9), 0, 1)
    ink = np.pad(np.where(ink > 0.15, ink, 0), 80)  # the rest is grain
    top, left = (rows.min() + rows.max() + 1) // 2 + 80, (columns.min() + columns.max() + 1) // 2 + 80
    best: dict[str, float] = {}
    for size_px in (24, 28, 32, 36, 40, 48):
        for digit in DIGITS:
            glyph = np.pad(glyph_sheet(BUILT_IN_FACE, size_px)[ord(digit) - 32].ink / 255, 8)
            height, width = glyph.shape
            for down, right in np.ndindex(3, 3):
                row, column = top - height // 2 + down - 1, left - width // 2 + right - 1
                below = ink[row : row + height, column : column + width]
                off = float(np.abs(below - glyph).sum() + ink.sum() - below.sum())
                best[digit] = min(best.get(digit, off), off)
    return min(best, key=lambda digit: best[digit])


def only(picture: Picture) -> Seen:
    (thing,) = things_in(picture)
    return thing


def asked_for(question: str) -> list[str]:
    """The shapes that a question names, in its order."""
    named = [kind for kind in SHAPES if kind in question]
    return sorted(named, key=question.index)


def side_of(one: Seen, other: Seen) -> str:
    x, y = one.middle - other.middle
    return ("right" if x > 0 else "left") if abs(x) > abs(y) else ("below" if y > 0 else "above")


def relation_in(scene: SceneSample) -> str:
    seen = {thing.shape: thing for thing in things_in(scene.image)}
    first, second = asked_for(scene.question)
    one, other = (second, first) if scene.question.startswith("On which side of") else (first, second)
    return side_of(seen[one], seen[other])


SCENES: dict[str, Callable[[SceneSample], str]] = {
    "shape": lambda scene: only(scene.image).shape,
    "colour": lambda scene: only(scene.image).colour,
    "digit": lambda scene: digit_in(scene.image),
    "colour_of": lambda scene: {thing.shape: thing.colour for thing in things_in(scene.image)}[
        asked_for(scene.question)[0]
    ],
    "count_of": lambda scene: str(
        [thing.shape for thing in things_in(scene.image)].count(asked_for(scene.question)[0])
    ),
    "relation": relation_in,
}
CLIPS: dict[str, Callable[[ClipSample], str]] = {
    "shape": lambda clip: only(clip.frames[-1]).shape,
    "digit_first": lambda clip: digit_in(clip.frames[0]),
    "digit_last": lambda clip: digit_in(clip.frames[-1]),
}


@pytest.mark.parametrize("task", list(SCENES))
def test_answers_about_scenes_follow_from_their_pixels(task: str) -> None:
    generator = np.random.default_rng(21)
    for number in range(40):
        scene = render_scene(generator, task=task)
        assert SCENES[task](scene) == scene.answer, (number, scene.symbolic)


@pytest.mark.parametrize("task", list(CLIPS))
@pytest.mark.parametrize("size", [(56, 56), (84, 84), (56, 112)])
def test_answers_about_clips_follow_from_their_pixels(task: str, size: tuple[int, int]) -> None:
    generator = np.random.default_rng(22)
    for number in range(25):
        clip = render_clip(generator, task=task, size=size)
        assert CLIPS[task](clip) == clip.answer, (number, clip.symbolic)


def test_a_scene_shows_the_things_that_it_names_in_their_colours_where_it_says() -> None:
    generator = np.random.default_rng(23)
    for _ in range(30):
        scene = render_scene(generator, task="count_of")
        seen = sorted((thing.shape, thing.colour) for thing in things_in(scene.image))
        assert seen == sorted((thing.kind, thing.colour) for thing in scene.things)
        by_colour = {thing.colour: thing for thing in things_in(scene.image)}
        for thing in scene.things:
            found = by_colour[thing.colour]
            radius = found.reach(120).max()
            # Places run over the range in which a thing is whole.
            places = [radius + (112 - 2 * radius) * along for along in (thing.x, thing.y)]
            assert found.middle == pytest.approx(places, abs=3), thing
