"""Single pictures with a few shapes, a digit or a sign, and a question with a one-word answer.

    task -> plan_scene (answer first, then what it needs) -> draw_things -> SceneSample
    "sign" -> signs.render_sign -> SceneSample

A model sees these before clips: names of colours, shapes, digits and places are learned on stills.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from minicpmv.data.worlds.fonts import Face, Split
from minicpmv.data.worlds.questions import ask
from minicpmv.data.worlds.shapes import COLOURS, DIGITS, SHAPES, Thing, choose_style, draw_things, thing_targets
from minicpmv.data.worlds.signs import SIGN, render_sign
from minicpmv.errors import OptionError

THING_TASKS = ("colour", "shape", "digit", "place", "colour_of", "count_of")
"""Pictures of which every patch is labelled, and which the towers learn from."""
SCENE_TASKS = (*THING_TASKS, "relation", SIGN)
RELATIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Where a shape is, seen from another one: columns and rows."""
PLACES = {"left": (0.0, 0.5), "right": (1.0, 0.5), "top": (0.5, 0.0), "bottom": (0.5, 1.0)}
NEAR = 0.18
"""What is at a place lies within this of its middle, across and down."""
MAX_COUNT = 4
PATCH_PX = 14
"""Side of the patches that `targets` tell about."""


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """What a picture will show, the question and its answer; `symbolic` says in words what is to be seen."""

    task: str
    things: tuple[Thing, ...]
    question: str
    answer: str
    symbolic: str


@dataclass(frozen=True, slots=True)
class SceneSample:
    """A picture uint8 [height, width, 3] with its question and answer, and `targets` as `shapes.thing_targets` says.

    `things` are what it shows; a sign shows none.
    """

    image: NDArray[np.uint8]
    question: str
    answer: str
    task: str
    symbolic: str
    targets: NDArray[np.int64]
    things: tuple[Thing, ...] = ()


def pick(generator: Generator, names: Sequence[str]) -> str:
    """One of the names, each as likely as the next."""
    return names[int(generator.random() * len(names))]


def pick_several(generator: Generator, names: Sequence[str], num: int) -> list[str]:
    """`num` different names in random order."""
    return [names[int(index)] for index in generator.permutation(len(names))[:num]]


def describe(thing: Thing) -> str:
    """A thing in words, its place as two digits (left to right, top to bottom, 0 to 9).

    >>> describe(Thing("circle", "red", 0.5, 1.0))
    'red circle 4 9'
    """
    return f"{thing.colour} {thing.kind} {round(thing.x * 9)} {round(thing.y * 9)}"


def describe_things(things: Sequence[Thing]) -> str:
    """Things in words, row by row, separated by commas."""
    return ", ".join(describe(thing) for thing in sorted(things, key=lambda thing: (round(thing.y * 2), thing.x)))


def plan_scene(generator: Generator, task: str) -> ScenePlan:
    """Decide a picture: the answer first, each as likely as the next, then the rest at random.

    Raises:
        OptionError: the task is not one of `SCENE_TASKS`.
    """
    if task not in SCENE_TASKS:
        raise OptionError(f"'{task}' is not a picture task.", remedy=f"Choose one of {', '.join(SCENE_TASKS)}.")
    if task == SIGN:
        raise OptionError("A sign has no plan in words.", remedy="Use render_scene.")
    if task == "relation":
        return _plan_of_relation(generator)
    if task in ("colour_of", "count_of"):
        return _plan_of_several(generator, task)
    kind = pick(generator, DIGITS if task == "digit" else SHAPES)
    colour = pick(generator, tuple(COLOURS))
    x, y = generator.random(), generator.random()
    answer = {"colour": colour, "shape": kind, "digit": kind}.get(task, "")
    if task == "place":
        answer = pick(generator, tuple(PLACES))
        x, y = (min(1.0, max(0.0, middle + (generator.random() - 0.5) * 2 * NEAR)) for middle in PLACES[answer])
    thing = Thing(kind, colour, x, y)
    return ScenePlan(task, (thing,), ask(generator, task), answer, describe(thing))


def _plan_of_several(generator: Generator, task: str) -> ScenePlan:
    """Several shapes in the cells of a 3 x 3 grid; the question is about one kind of them."""
    kinds = pick_several(generator, SHAPES, 3)
    target = kinds[0]
    if task == "count_of":
        num = 1 + int(generator.random() * MAX_COUNT)
        others = [pick(generator, kinds[1:]) for _ in range(int(generator.random() * 3))]
        chosen = [target] * num + others
    else:
        num = 1
        chosen = kinds[: 2 + int(generator.random() * 2)]
    colours = pick_several(generator, tuple(COLOURS)[:-2], len(chosen))
    cells = generator.permutation(9)[: len(chosen)]
    things = tuple(
        Thing(kind, colour, *_in_cell(generator, int(cell)))
        for kind, colour, cell in zip(chosen, colours, cells, strict=True)
    )
    answer = str(num) if task == "count_of" else colours[0]
    return ScenePlan(task, things, ask(generator, task, shape=target), answer, describe_things(things))


def _plan_of_relation(generator: Generator) -> ScenePlan:
    """Two shapes beside or above each other, and often a third one elsewhere that nobody asks about."""
    answer = pick(generator, tuple(RELATIONS))
    kinds = pick_several(generator, SHAPES, 2 + int(generator.random() * 2))
    colours = pick_several(generator, tuple(COLOURS)[:-2], len(kinds))
    near, far = (int(place) for place in sorted(generator.permutation(3)[:2]))
    across, down = RELATIONS[answer]
    one, other = (near, far) if across + down < 0 else (far, near)
    along = int(generator.random() * 3)
    cells = [along * 3 + one, along * 3 + other] if across else [one * 3 + along, other * 3 + along]
    left_over = [cell for cell in range(9) if cell not in cells]
    cells.append(left_over[int(generator.random() * len(left_over))])
    things = tuple(
        Thing(kind, colour, *_in_cell(generator, cell))
        for kind, colour, cell in zip(kinds, colours, cells, strict=False)
    )
    question = ask(generator, "relation", shape=kinds[0], other=kinds[1])
    return ScenePlan("relation", things, question, answer, describe_things(things))


def _in_cell(generator: Generator, cell: int) -> tuple[float, float]:
    """A place near the middle of a cell; things of up to a quarter of the side do not touch."""
    jitter = (generator.random(2) - 0.5) * 0.1
    x, y = cell % 3 / 2 + jitter[0], cell // 3 / 2 + jitter[1]
    return min(1.0, max(0.0, float(x))), min(1.0, max(0.0, float(y)))


def render_scene(
    generator: Generator,
    *,
    task: str,
    size: tuple[int, int] = (112, 112),
    faces: Sequence[Face] = (),
    split: Split = "train",
) -> SceneSample:
    """A picture, its question and its answer.

    Args:
        generator: source of randomness.
        task: one of `SCENE_TASKS`.
        size: height and width in px, multiples of 14; at least 112 for tasks with several shapes, at least 42 for
            the others.
        faces: faces for digits and signs; Pillow's own if empty.
        split: whose words signs show.

    Raises:
        OptionError: unknown task.
    """
    if task == SIGN:
        sign = render_sign(generator, size=size, faces=faces, split=split)
        nothing = np.zeros((size[0] // PATCH_PX * (size[1] // PATCH_PX), 2), dtype=np.int64)
        return SceneSample(sign.image, sign.question, sign.word, task, f"sign {sign.word}", nothing)
    plan = plan_scene(generator, task)
    shorter = min(size)
    largest = min(shorter // 8 if len(plan.things) > 1 else shorter // 4, 28)
    colours = [thing.colour for thing in plan.things]
    style = choose_style(generator, colours, size, radii_px=(min(10, largest), largest), faces=faces)
    image = draw_things(generator, plan.things, style)
    targets = thing_targets(plan.things, style, size, (size[0] // PATCH_PX, size[1] // PATCH_PX))
    return SceneSample(image, plan.question, plan.answer, task, plan.symbolic, targets, plan.things)
