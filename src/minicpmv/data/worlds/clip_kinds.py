"""What happens in each kind of clip: one thing, or nothing, per frame, and the answer that follows from it.

    kind, number of frames -> plan_... -> [Thing or None, ...], answer

The answer is drawn first, each as likely as the next; what it does not depend on is drawn afterwards.
"""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from minicpmv.data.worlds.scenes import pick, pick_several
from minicpmv.data.worlds.shapes import COLOURS, DIGITS, SHAPES, Thing

DIRECTIONS = ("left", "right", "up", "down")
PACES = ("faster", "slower")
RISES = ("up", "down")

_LARGEST_NUMBER = 99
_PACE_RATIO = (5.0, 8.0)
"""How many times as long the longest step of a thing that changes pace is as its shortest. Ours: below 5 the places,
rounded to a tenth of the picture, would no longer tell."""

Planned = tuple[list[Thing | None], str]


def plan_still(generator: Generator, task: str, num_frames: int) -> Planned:
    """One thing in all frames; asked for its `shape` or its `colour`."""
    thing = _any_thing(generator)
    return _wander(generator, [thing] * num_frames), thing.kind if task == "shape" else thing.colour


def plan_sequence(generator: Generator, task: str, num_frames: int) -> Planned:
    """One thing after another, told apart by colour or digit; asked for the first, the last or their number."""
    most = min(num_frames, 4 if task == "num_colours" else 3)
    fewest = 1 if task == "num_colours" else 2
    num = fewest + int(generator.random() * (most - fewest + 1))
    thing = _any_thing(generator)
    if task.startswith("digit"):
        names = pick_several(generator, DIGITS, num)
        things = [Thing(name, thing.colour, 0, 0) for name in names]
    else:
        names = pick_several(generator, tuple(COLOURS), num)
        things = [Thing(thing.kind, name, 0, 0) for name in names]
    lengths = _split_frames(generator, num_frames, num)
    shown = [thing for thing, length in zip(things, lengths, strict=True) for _ in range(length)]
    answer = str(num) if task == "num_colours" else names[0] if task.endswith("first") else names[-1]
    return _wander(generator, shown), answer


def plan_direction(generator: Generator, num_frames: int) -> Planned:
    """A thing that crosses at least half of the picture in one of four directions, at a slightly uneven pace."""
    answer = pick(generator, DIRECTIONS)
    start, end = generator.random() * 0.25, 1 - generator.random() * 0.25
    pace = np.cumsum(0.7 + 0.6 * generator.random(num_frames - 1))
    along = np.array([start, *(start + (end - start) * pace / pace[-1])])
    return _cross(generator, answer, along), answer


def plan_speed(generator: Generator, num_frames: int) -> Planned:
    """A thing that crosses most of the picture in any direction, every step longer than the last, or shorter."""
    answer = pick(generator, PACES)
    way = pick(generator, DIRECTIONS)
    start, end = generator.random() * 0.1, 1 - generator.random() * 0.1
    low, high = _PACE_RATIO
    steps = np.linspace(1, low + (high - low) * generator.random(), num_frames - 1)
    if answer == "slower":
        steps = steps[::-1]
    covered = np.array([0, *(np.cumsum(steps) / steps.sum())])
    return _cross(generator, way, start + (end - start) * covered), answer


def plan_rising(generator: Generator, num_frames: int) -> Planned:
    """A number that grows or shrinks by 1 or 2 from frame to frame.

    Both answers show the same numbers in opposite order, anywhere from 0 to 99, so one frame tells next to nothing.
    """
    answer = pick(generator, RISES)
    grown = np.cumsum([0, *(1 + (2 * generator.random(num_frames - 1)).astype(np.int64))])
    lowest = int(generator.random() * (_LARGEST_NUMBER + 1 - grown[-1]))
    numbers = [str(lowest + int(more)) for more in grown]
    if answer == "down":
        numbers.reverse()
    colour = pick(generator, tuple(COLOURS))
    return _wander(generator, [Thing(number, colour, 0, 0) for number in numbers]), answer


def plan_flashes(generator: Generator, num_frames: int) -> Planned:
    """A thing that appears one to three times with empty frames between."""
    num = 1 + int(generator.random() * min(3, (num_frames + 1) // 2))
    lengths = [0] + [1] * (2 * num - 1) + [0]  # gap, shown, gap, shown, ..., gap; only the outer gaps may be empty
    for _ in range(num_frames - (2 * num - 1)):
        lengths[int(generator.random() * len(lengths))] += 1
    frames = _wander(generator, [_any_thing(generator)] * num_frames)
    shown = [index % 2 == 1 for index, length in enumerate(lengths) for _ in range(length)]
    return [thing if visible else None for thing, visible in zip(frames, shown, strict=True)], str(num)


def _any_thing(generator: Generator) -> Thing:
    return Thing(pick(generator, SHAPES), pick(generator, tuple(COLOURS)), generator.random(), generator.random())


def _wander(generator: Generator, things: Sequence[Thing]) -> list[Thing | None]:
    """The things at one place that trembles, or drifting slowly: movement that no question is about."""
    x, y = generator.random(2)
    step_x, step_y = (generator.random(2) - 0.5) * (0.12 if generator.random() < 0.4 else 0.02)
    wandering: list[Thing | None] = []
    for index, thing in enumerate(things):
        place_x = min(1.0, max(0.0, float(x + index * step_x)))
        place_y = min(1.0, max(0.0, float(y + index * step_y)))
        wandering.append(Thing(thing.kind, thing.colour, place_x, place_y))
    return wandering


def _cross(generator: Generator, way: str, along: NDArray[np.float64]) -> list[Thing | None]:
    """A thing at these places (0 to 1) along its way, drifting a little to the side."""
    if way in ("left", "up"):
        along = 1 - along
    drift = (generator.random() - 0.5) * 0.15
    across = 0.1 + 0.8 * generator.random()
    kind, colour = pick(generator, SHAPES), pick(generator, tuple(COLOURS))
    frames: list[Thing | None] = []
    for index, place in enumerate(along):
        other = min(1.0, max(0.0, across + drift * index / (len(along) - 1)))
        x, y = (float(place), other) if way in ("left", "right") else (other, float(place))
        frames.append(Thing(kind, colour, x, y))
    return frames


def _split_frames(generator: Generator, num_frames: int, num_parts: int) -> list[int]:
    """Lengths of `num_parts` runs, each at least 1, that add up to `num_frames`."""
    cuts = np.sort(generator.permutation(num_frames - 1)[: num_parts - 1]) + 1
    edges = [0, *(int(cut) for cut in cuts), num_frames]
    return [end - start for start, end in zip(edges[:-1], edges[1:], strict=True)]
