"""Everything that can be asked about a picture or clip whose contents are known.

    things per frame -> clip_questions -> [Question, ...]
    things           -> scene_questions -> [Question, ...]

A world draws a picture for one question. Its pixels are the expensive part of learning from it, so training asks the
others too: what follows from the things alone, and what is to be seen in words.
"""

from collections.abc import Sequence

from numpy.random import Generator

from minicpmv.data.worlds.paper import Question
from minicpmv.data.worlds.questions import ask
from minicpmv.data.worlds.scenes import NEAR, PLACES, RELATIONS, describe, describe_things
from minicpmv.data.worlds.scrolling import Passing
from minicpmv.data.worlds.shapes import DIGITS, SHAPES, Thing

NOTHING = "none"
"""How an empty frame is written."""

_FAR = 0.45
"""Least way of a thing that moves, as a share of where it can be."""

_STRAIGHT = 2.0
"""Its way over how far it goes to the side; what drifts from corner to corner goes no one way."""

_CHANGE_OF_PACE = 3.0
"""Longest step over the shortest of a thing that gets faster or slower; an uneven pace stays below 2."""


def describe_frames(frames: Sequence[Thing | Passing | None]) -> str:
    """Every frame in words, separated by commas.

    >>> describe_frames([Thing("circle", "red", 0, 1), None])
    'red circle 0 9, none'
    """
    return ", ".join(_describe(shown) for shown in frames)


def _describe(shown: Thing | Passing | None) -> str:
    if isinstance(shown, Passing):
        return f"{shown.colour} {shown.seen}"
    return describe(shown) if shown else NOTHING


def clip_questions(generator: Generator, frames: Sequence[Thing | Passing | None]) -> list[Question]:
    """What can be asked about a clip and has one answer, a wording of each drawn at random.

    Args:
        generator: draws the wordings.
        frames: what every frame shows; at least one of them shows something.
    """
    answers = {"describe_clip": describe_frames(frames)}
    words = [shown for shown in frames if isinstance(shown, Passing)]
    if words:
        answers |= {"scroll": words[0].word}
    things = [shown for shown in frames if isinstance(shown, Thing)]
    if things:
        answers |= _of_looks(frames, things) | _of_movement(frames, things)
    return [Question(task, ask(generator, task), answer) for task, answer in answers.items()]


def _of_looks(frames: Sequence[Thing | Passing | None], things: Sequence[Thing]) -> dict[str, str]:
    """Colours, shapes and numbers, and how often something appears."""
    colours = [thing.colour for thing in things]
    kinds = [thing.kind for thing in things]
    num_colours = len(set(colours))
    if num_colours == 1:  # the first and the last one are asked for where they differ
        answers = {"colour": colours[0]}
    else:
        answers = {"colour_first": colours[0], "colour_last": colours[-1], "num_colours": str(num_colours)}
    if len(set(kinds)) == 1 and kinds[0] in SHAPES:
        answers["shape"] = kinds[0]
    if all(kind in DIGITS for kind in kinds):
        answers |= {"digit_first": kinds[0], "digit_last": kinds[-1]}
    numbers = [int(kind) for kind in kinds if kind.isdigit()]
    steps = [later - earlier for earlier, later in zip(numbers, numbers[1:], strict=False)]
    if len(numbers) == len(frames) and steps and (min(steps) > 0 or max(steps) < 0):
        answers["rising"] = "up" if steps[0] > 0 else "down"
    if num_colours == len(set(kinds)) == 1 and len(things) < len(frames):
        begins = [shown and not before for before, shown in zip([None, *frames], frames, strict=False)]
        answers["flashes"] = str(sum(map(bool, begins)))
    return answers


def _of_movement(frames: Sequence[Thing | Passing | None], things: Sequence[Thing]) -> dict[str, str]:
    """Where a thing that is always there goes, and whether it changes its pace."""
    if len(things) < len(frames) or len(things) < 2:
        return {}
    across, down = things[-1].x - things[0].x, things[-1].y - things[0].y
    sideways, way = sorted((abs(across), abs(down)))
    if way < max(_FAR, _STRAIGHT * sideways):
        return {}
    level = abs(across) > abs(down)
    places = [thing.x if level else thing.y for thing in things]
    direction = ("right" if across > 0 else "left") if level else ("down" if down > 0 else "up")
    steps = [abs(later - earlier) for earlier, later in zip(places, places[1:], strict=False)]
    answers = {"direction": direction}
    is_even = steps in (sorted(steps), sorted(steps, reverse=True))  # what has run into the edge is not slow
    if len(steps) >= 3 and is_even and min(steps) > 0 and max(steps) >= _CHANGE_OF_PACE * min(steps):
        answers["speed"] = "faster" if steps[-1] > steps[0] else "slower"
    return answers


def scene_questions(generator: Generator, things: Sequence[Thing]) -> list[Question]:
    """What can be asked about a picture and has one answer, a wording of each drawn at random.

    Args:
        generator: draws the wordings.
        things: what the picture shows, at least one.
    """
    questions = [Question("describe", ask(generator, "describe"), describe_things(things))]
    if len(things) == 1:
        (thing,) = things
        asked = {"colour": thing.colour, "digit" if thing.kind in DIGITS else "shape": thing.kind}
        places = [name for name, middle in PLACES.items() if thing.kind in SHAPES and _is_near(thing, middle)]
        if places:
            asked["place"] = places[0]
        return [*questions, *(Question(task, ask(generator, task), answer) for task, answer in asked.items())]
    kinds = [thing.kind for thing in things]
    for kind in dict.fromkeys(kinds):
        count = kinds.count(kind)
        questions.append(Question("count_of", ask(generator, "count_of", shape=kind), str(count)))
        if count == 1:
            colour = things[kinds.index(kind)].colour
            questions.append(Question("colour_of", ask(generator, "colour_of", shape=kind), colour))
    return questions + _relations(generator, things)


def _is_near(thing: Thing, middle: tuple[float, float]) -> bool:
    return max(abs(thing.x - middle[0]), abs(thing.y - middle[1])) <= NEAR


def _relations(generator: Generator, things: Sequence[Thing]) -> list[Question]:
    """Where a shape is seen from another, for shapes of which there is one, in the same row or column of three."""
    kinds = [thing.kind for thing in things]
    single = [thing for thing in things if kinds.count(thing.kind) == 1]
    questions = []
    for one in single:
        for other in single:
            where = _seen_from(one, other)
            if where:
                question = ask(generator, "relation", shape=one.kind, other=other.kind)
                questions.append(Question("relation", question, where))
    return questions


def _seen_from(one: Thing, other: Thing) -> str:
    """A name of `RELATIONS`, or none if the things share neither a row nor a column, or are the same."""
    column, row = (round(2 * one.x) - round(2 * other.x), round(2 * one.y) - round(2 * other.y))
    if (column == 0) == (row == 0):
        return ""
    step = ((column > 0) - (column < 0), (row > 0) - (row < 0))
    return next(name for name, towards in RELATIONS.items() if towards == step)
