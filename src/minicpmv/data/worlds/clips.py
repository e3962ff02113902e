"""Short clips whose question can only be answered by looking at several frames.

    task -> plan_clip (answer first) -> a thing, letters or nothing per frame -> pixels -> ClipSample(frames, ...)

A plan knows nothing about pixels, so the same plan also gives the text version (`symbolic`) from which a language
model learns what "first" and "move" mean before it ever sees a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from minicpmv.data.worlds.clip_kinds import (
    plan_direction,
    plan_flashes,
    plan_rising,
    plan_sequence,
    plan_speed,
    plan_still,
)
from minicpmv.data.worlds.fonts import Face, Split
from minicpmv.data.worlds.questions import ask
from minicpmv.data.worlds.scenes import pick
from minicpmv.data.worlds.scrolling import FEWEST_FRAMES, Passing, draw_ticker, draw_word, plan_passing, set_ticker
from minicpmv.data.worlds.shapes import COLOURS, Thing, choose_style, draw_things, thing_targets
from minicpmv.data.worlds.shown import NOTHING, describe_frames
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
    "speed",
    "rising",
    "scroll",
)
CLIP_GRID = (8, 8)
"""Rows and columns of patches per frame. The nano model, like the released one, enlarges small pictures to the area of
one slice: a small square becomes 8 x 8 patches."""

MOST_FRAMES = 36
"""Frames of the longest clip: six full packs. A number that grows by up to 2 a frame stays below 100 so long."""

_MIN_FRAMES = {
    "direction": 2,
    "colour_first": 2,
    "colour_last": 2,
    "digit_first": 2,
    "digit_last": 2,
    "speed": 4,
    "rising": 2,
    "scroll": FEWEST_FRAMES,
}


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """What each frame will show (None: an empty frame), the question and its answer.

    `symbolic` names per frame only what the question is about; `description` says everything.
    """

    task: str
    frames: tuple[Thing | Passing | None, ...]
    question: str
    answer: str
    symbolic: str

    @property
    def description(self) -> str:
        """Every frame in words, separated by commas."""
        return describe_frames(self.frames)


@dataclass(frozen=True, slots=True)
class ClipSample:
    """Frames uint8 [height, width, 3] with their times in seconds (multiples of 0.1), a question and its answer.

    `targets` are int64 [frames, patches, 2] as `shapes.thing_targets` says, and 0 where a word runs by. `shown` is what
    each frame shows.
    """

    frames: list[NDArray[np.uint8]]
    times_s: tuple[float, ...]
    question: str
    answer: str
    task: str
    symbolic: str
    targets: NDArray[np.int64]
    shown: tuple[Thing | Passing | None, ...]


def fewest_frames(task: str) -> int:
    """Frames that a question needs at least.

    Raises:
        OptionError: unknown task.
    """
    if task not in CLIP_TASKS:
        raise OptionError(f"'{task}' is not a clip task.", remedy=f"Choose one of {', '.join(CLIP_TASKS)}.")
    return _MIN_FRAMES.get(task, 1)


def plan_clip(generator: Generator, task: str, num_frames: int = 6, split: Split = "train") -> ClipPlan:
    """Decide a clip: the answer first, each as likely as the next, then everything else at random.

    Args:
        generator: source of randomness.
        task: one of `CLIP_TASKS`.
        num_frames: frames shown, at most `MOST_FRAMES`.
        split: whose words run by.

    Raises:
        OptionError: unknown task, fewer frames than the question needs, or too many.
    """
    fewest = fewest_frames(task)
    if num_frames < fewest:
        raise OptionError(f"'{task}' needs at least {fewest} frames, not {num_frames}.", remedy="Ask for more frames.")
    if num_frames > MOST_FRAMES:
        raise OptionError(f"A clip of {num_frames} frames is too long.", remedy=f"Ask for at most {MOST_FRAMES}.")
    frames, answer = _plan_frames(generator, task, num_frames, split)
    symbolic = " ".join(_relevant(task, shown) for shown in frames)
    return ClipPlan(task, tuple(frames), ask(generator, task), answer, symbolic)


def _plan_frames(
    generator: Generator, task: str, num_frames: int, split: Split
) -> tuple[Sequence[Thing | Passing | None], str]:
    if task == "scroll":
        word = draw_word(generator, split)
        return plan_passing(generator, word, pick(generator, tuple(COLOURS)), num_frames), word
    if task in ("shape", "colour"):
        return plan_still(generator, task, num_frames)
    plan = {
        "direction": plan_direction,
        "flashes": plan_flashes,
        "speed": plan_speed,
        "rising": plan_rising,
    }.get(task)
    return plan(generator, num_frames) if plan else plan_sequence(generator, task, num_frames)


def _relevant(task: str, shown: Thing | Passing | None) -> str:
    """The words of a frame that matter for the question."""
    if shown is None:
        return NOTHING
    if isinstance(shown, Passing):
        return shown.seen
    if task in ("direction", "speed"):
        steps = 9 if task == "direction" else 99  # a change of pace shows in smaller steps than a direction
        return f"{round(shown.x * steps)},{round(shown.y * steps)}"
    return shown.colour if task in ("colour", "colour_first", "colour_last", "num_colours") else shown.kind


def render_clip(
    generator: Generator,
    *,
    task: str,
    num_frames: int = 6,
    size: tuple[int, int] | None = None,
    grid: tuple[int, int] = CLIP_GRID,
    faces: Sequence[Face] = (),
    split: Split = "train",
) -> ClipSample:
    """A clip with times between 10 and 1 frames per second, its question and its answer.

    Args:
        generator: source of randomness.
        task: one of `CLIP_TASKS`.
        num_frames: frames shown, at most `MOST_FRAMES`.
        size: height and width in px; by default a square of 56, 70 or 84 px.
        grid: rows and columns of patches per frame that `targets` tell about.
        faces: faces for numbers and words; Pillow's own if empty.
        split: whose words run by.

    Raises:
        OptionError: unknown task, fewer frames than the question needs, or too many.
    """
    plan = plan_clip(generator, task, num_frames, split)
    if size is None:
        side = 56 + 14 * int(generator.random() * 3)
        size = (side, side)
    tenths = 1 + int(generator.random() * 10)
    times_s = tuple(round(index * tenths / 10, 1) for index in range(num_frames))
    colours = [shown.colour for shown in plan.frames if shown]
    style = choose_style(generator, colours, size, radii_px=_radii_px(task, size), faces=faces)
    if task == "scroll":
        ticker = set_ticker(generator, plan.answer, style.face, size, num_frames)
        frames, passing = draw_ticker(generator, ticker, colours[0], style)
        symbolic = " ".join(shown.seen for shown in passing)
        targets = np.zeros((num_frames, grid[0] * grid[1], 2), dtype=np.int64)  # letters are none of the kinds
        return ClipSample(frames, times_s, plan.question, plan.answer, task, symbolic, targets, tuple(passing))
    things = [[shown] if isinstance(shown, Thing) else [] for shown in plan.frames]
    targets = np.stack([thing_targets(shown, style, size, grid) for shown in things])
    # Background, size and colour values are the same in all frames.
    frames = [draw_things(generator, shown, style) for shown in things]
    return ClipSample(frames, times_s, plan.question, plan.answer, task, plan.symbolic, targets, plan.frames)


def _radii_px(task: str, size: tuple[int, int]) -> tuple[int, int]:
    """Smallest and largest radius of things; small where they need room to change their pace."""
    if task == "speed":
        return (8, max(8, min(size) // 7))
    return (10, max(10, min(size) // 4))
