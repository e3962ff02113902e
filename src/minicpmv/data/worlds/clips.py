"""Short clips whose question can only be answered by looking at several frames.

    task -> plan_clip (answer first) -> one Thing or nothing per frame -> draw_clip -> ClipSample(frames, times, ...)

A plan knows nothing about pixels, so the same plan also gives the text version (`symbolic`) from which a language
model learns what "first" and "move" mean before it ever sees a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from minicpmv.data.worlds.fonts import Face
from minicpmv.data.worlds.questions import ask
from minicpmv.data.worlds.scenes import describe, pick, pick_several
from minicpmv.data.worlds.shapes import COLOURS, DIGITS, SHAPES, Style, Thing, choose_style, draw_things, thing_targets
from minicpmv.errors import OptionError

CLIP_TASKS = (
    "colour_first",
    "colour_last",
    "direction",
    "shape",
    "colour",
    "flashes",
    "num_colours",
    "digit_first",
    "digit_last",
)
DIRECTIONS = ("left", "right", "up", "down")
NOTHING = "none"
"""How an empty frame is written in a symbolic text."""

_MIN_FRAMES = {"direction": 2, "colour_first": 2, "colour_last": 2, "digit_first": 2, "digit_last": 2}


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """What each frame will show (None: an empty frame), the question and its answer.

    `symbolic` names per frame only what the question is about; `description` says everything.
    """

    task: str
    frames: tuple[Thing | None, ...]
    question: str
    answer: str
    symbolic: str

    @property
    def description(self) -> str:
        """Every frame in words, separated by commas."""
        return ", ".join(describe(thing) if thing else NOTHING for thing in self.frames)


@dataclass(frozen=True, slots=True)
class ClipSample:
    """Frames uint8 [height, width, 3] with their times in seconds (multiples of 0.1), a question and its answer.

    `targets` are int64 [frames, patches, 2] as `shapes.thing_targets` says.
    """

    frames: list[NDArray[np.uint8]]
    times_s: tuple[float, ...]
    question: str
    answer: str
    task: str
    symbolic: str
    targets: NDArray[np.int64]


def plan_clip(generator: Generator, task: str, num_frames: int = 6) -> ClipPlan:
    """Decide a clip: the answer first, each as likely as the next, then everything else at random.

    Raises:
        OptionError: unknown task, or fewer frames than the question needs.
    """
    if task not in CLIP_TASKS:
        raise OptionError(f"'{task}' is not a clip task.", remedy=f"Choose one of {', '.join(CLIP_TASKS)}.")
    fewest = _MIN_FRAMES.get(task, 1)
    if num_frames < fewest:
        raise OptionError(f"'{task}' needs at least {fewest} frames, not {num_frames}.", remedy="Ask for more frames.")
    if task == "direction":
        frames, answer = _plan_direction(generator, num_frames)
    elif task == "flashes":
        frames, answer = _plan_flashes(generator, num_frames)
    elif task in ("shape", "colour"):
        thing = _any_thing(generator)
        answer = thing.kind if task == "shape" else thing.colour
        frames = _wander(generator, [thing] * num_frames)
    else:
        frames, answer = _plan_sequence(generator, task, num_frames)
    symbolic = " ".join(_relevant(task, thing) for thing in frames)
    return ClipPlan(task, tuple(frames), ask(generator, task), answer, symbolic)


def _any_thing(generator: Generator) -> Thing:
    return Thing(pick(generator, SHAPES), pick(generator, tuple(COLOURS)), generator.random(), generator.random())


def _relevant(task: str, thing: Thing | None) -> str:
    """The words of a frame that matter for the question."""
    if thing is None:
        return NOTHING
    if task == "direction":
        return f"{round(thing.x * 9)},{round(thing.y * 9)}"
    return thing.colour if task in ("colour", "colour_first", "colour_last", "num_colours") else thing.kind


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


def _split_frames(generator: Generator, num_frames: int, num_parts: int) -> list[int]:
    """Lengths of `num_parts` runs, each at least 1, that add up to `num_frames`."""
    cuts = np.sort(generator.permutation(num_frames - 1)[: num_parts - 1]) + 1
    edges = [0, *(int(cut) for cut in cuts), num_frames]
    return [end - start for start, end in zip(edges[:-1], edges[1:], strict=True)]


def _plan_sequence(generator: Generator, task: str, num_frames: int) -> tuple[list[Thing | None], str]:
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


def _plan_direction(generator: Generator, num_frames: int) -> tuple[list[Thing | None], str]:
    """A thing that crosses at least half of the picture in one of four directions, at a slightly uneven pace."""
    answer = pick(generator, DIRECTIONS)
    start, end = generator.random() * 0.25, 1 - generator.random() * 0.25
    pace = np.cumsum(0.7 + 0.6 * generator.random(num_frames - 1))
    along = [start, *(start + (end - start) * pace / pace[-1])]
    if answer in ("left", "up"):
        along = [1 - place for place in along]
    drift = (generator.random() - 0.5) * 0.15
    across = 0.1 + 0.8 * generator.random()
    kind, colour = pick(generator, SHAPES), pick(generator, tuple(COLOURS))
    frames: list[Thing | None] = []
    for index, place in enumerate(along):
        other = min(1.0, max(0.0, across + drift * index / (num_frames - 1)))
        x, y = (float(place), other) if answer in ("left", "right") else (other, float(place))
        frames.append(Thing(kind, colour, x, y))
    return frames, answer


def _plan_flashes(generator: Generator, num_frames: int) -> tuple[list[Thing | None], str]:
    """A thing that appears one to three times with empty frames between."""
    num = 1 + int(generator.random() * min(3, (num_frames + 1) // 2))
    lengths = [0] + [1] * (2 * num - 1) + [0]  # gap, shown, gap, shown, ..., gap; only the outer gaps may be empty
    for _ in range(num_frames - (2 * num - 1)):
        lengths[int(generator.random() * len(lengths))] += 1
    frames = _wander(generator, [_any_thing(generator)] * num_frames)
    shown = [index % 2 == 1 for index, length in enumerate(lengths) for _ in range(length)]
    return [thing if visible else None for thing, visible in zip(frames, shown, strict=True)], str(num)


def draw_clip(generator: Generator, plan: ClipPlan, style: Style) -> list[NDArray[np.uint8]]:
    """Frames uint8 [height, width, 3] of a plan; background, size and colour values are the same in all of them."""
    return [draw_things(generator, [thing] if thing else [], style) for thing in plan.frames]


def render_clip(
    generator: Generator,
    *,
    task: str,
    num_frames: int = 6,
    size: tuple[int, int] | None = None,
    grid: tuple[int, int] = (8, 8),
    faces: Sequence[Face] = (),
) -> ClipSample:
    """A clip with times between 10 and 1 frames per second, its question and its answer.

    Args:
        generator: source of randomness.
        task: one of `CLIP_TASKS`.
        num_frames: frames shown.
        size: height and width in px; by default a square of 56, 70 or 84 px.
        grid: rows and columns of patches per frame that `targets` tell about. The nano model, like the released one,
            enlarges small pictures to the area of one slice: a small square becomes 8 x 8 patches.
        faces: faces for digits; Pillow's own if empty.

    Raises:
        OptionError: unknown task, or fewer frames than the question needs.
    """
    plan = plan_clip(generator, task, num_frames)
    if size is None:
        side = 56 + 14 * int(generator.random() * 3)
        size = (side, side)
    tenths = 1 + int(generator.random() * 10)
    times_s = tuple(round(index * tenths / 10, 1) for index in range(num_frames))
    colours = [thing.colour for thing in plan.frames if thing]
    style = choose_style(generator, colours, size, radii_px=(10, max(10, min(size) // 4)), faces=faces)
    targets = np.stack([thing_targets([thing] if thing else [], style, size, grid) for thing in plan.frames])
    frames = draw_clip(generator, plan, style)
    return ClipSample(frames, times_s, plan.question, plan.answer, task, plan.symbolic, targets)
