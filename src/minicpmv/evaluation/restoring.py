"""Damaged pages: regions of one level, and covered regions whose text the page does tell, or does not.

    page -> damage -> "What do the red boxes say?" -> the text, a line per region

What is covered can only be guessed. `known_question` covers a name that the rest of the page repeats, so a guess can be
right; `unknown_question` covers a random number or code, so a model that writes one down anyway has invented it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from numpy.random import Generator
from PIL import Image

from minicpmv.data import drawn
from minicpmv.data.corruption.calibration import Calibration, Level
from minicpmv.data.corruption.corrupt import corrupt
from minicpmv.data.worlds.paper import PageSample, Region
from minicpmv.evaluation.drawn import studio
from minicpmv.evaluation.question import Question
from minicpmv.messages import ImagePart, Message, TextPart

RANDOM_FIELDS = ("Phone", "Number", "Code")
"""Fields of a form that hold random digits and letters."""

_LEAST_RANDOM = 4
"""Shortest random text; a digit or two might be guessed."""


def restore_question(generator: Generator, level: Level) -> Question:
    """A page with regions damaged at one level, whose text is to be written, a line per region."""
    sample = drawn.restore(studio("held_out"), shares={level: 1.0})(generator, "")
    boxes = tuple(tuple(target["box"]) for target in sample.metadata["targets"])
    return Question(sample.messages[:-1], sample.messages[-1].text, boxes)


def known_question(generator: Generator) -> Question:
    """An article whose title is covered: the name that more sentences than any other still tell of."""
    while True:
        page = studio("held_out").page(generator, "article")
        title, *others = page.regions
        if _is_told(title.text, [region.text for region in others]):
            return _covered(generator, page, title)


def unknown_question(generator: Generator) -> Question:
    """A form with a random number or code covered that stands nowhere else on it."""
    while True:
        page = studio("held_out").page(generator, "form")
        fields = list(zip(page.regions, page.regions[1:], strict=False))
        values = [
            value
            for key, value in fields
            if key.text.rstrip(":") in RANDOM_FIELDS
            and value.role == "value"
            and len(value.text) >= _LEAST_RANDOM
            and not any(value.text in region.text for region in page.regions if region is not value)
        ]
        if values:
            return _covered(generator, page, values[int(generator.random() * len(values))])


def _covered(generator: Generator, page: PageSample, region: Region) -> Question:
    """A page with one region covered, and the request for its text."""
    damaged = corrupt(
        generator, page.image, [region], Calibration.bundled(), shares={"high": 1.0}, region_share=(1.0, 1.0), most=1
    )
    (target,) = damaged.targets
    text = drawn.RESTORE[int(generator.random() * len(drawn.RESTORE))]
    turn = Message("user", (ImagePart(Image.fromarray(damaged.image)), TextPart(text)))
    return Question((turn,), target.text, (target.box,))


def _is_told(name: str, texts: Sequence[str]) -> bool:
    """Whether at least two texts have the name, and more than have any other name of the closed world."""
    counts = {other: sum(_mentions(text, other) for text in texts) for other in (name, *_names())}
    others = max(count for other, count in counts.items() if other != name)
    return counts[name] >= 2 and counts[name] > others


def _mentions(text: str, name: str) -> bool:
    return name in text and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    """Everyone and everything in the closed world."""
    return tuple(entity.name for split in ("train", "held_out") for entity in studio(split).entities)
