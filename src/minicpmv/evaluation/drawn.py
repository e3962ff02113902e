"""Questions about drawn pages, tables and facts: the samples that training draws, of the other split.

Words, names, typefaces and one layout of every kind of page are kept out of training; only what is to be *known*, the
facts of the closed world without a text beside them, is asked about entities of the training.
"""

from functools import lru_cache

from numpy.random import Generator

from minicpmv.data import drawn
from minicpmv.data.corruption.calibration import Level
from minicpmv.data.sample import Sample
from minicpmv.data.worlds.fonts import Split
from minicpmv.evaluation.question import Question

LONGEST_SIDE_PX = 224
"""Of pages, as in training."""


@lru_cache(maxsize=2)
def studio(split: Split) -> drawn.Studio:
    """What pages of a split are drawn with."""
    return drawn.Studio.open(split, longest_side_px=LONGEST_SIDE_PX)


def page_question(generator: Generator, kind: str) -> Question:
    """A page of a kind, to be written down line by line."""
    return question_of(drawn.read(studio("held_out"), kinds=[kind])(generator, ""))


def ask_question(generator: Generator, kind: str) -> Question:
    """A page of a kind with one of its questions."""
    return question_of(drawn.ask(studio("held_out"), kinds=[kind])(generator, ""))


def restore_question(generator: Generator, level: Level) -> Question:
    """A page with regions damaged at one level, whose text is to be written, a line per region."""
    sample = drawn.restore(studio("held_out"), shares={level: 1.0})(generator, "")
    boxes = tuple(tuple(target["box"]) for target in sample.metadata["targets"])
    return Question(sample.messages[:-1], sample.messages[-1].text, boxes)


def reasoning_question(generator: Generator) -> Question:
    """A table and a question that takes several steps."""
    return question_of(drawn.reason(studio("held_out"), think=False)(generator, ""))


def fact_question(generator: Generator, open_book: bool) -> Question:
    """A question about the closed world.

    Args:
        generator: source of randomness.
        open_book: beside a text about a held-out entity; otherwise about one that training told of.
    """
    draw = drawn.facts(studio("held_out" if open_book else "train"), open_book=float(open_book))
    return question_of(draw(generator, ""))


def question_of(sample: Sample) -> Question:
    """A sample's last turn as the answer that is right."""
    return Question(sample.messages[:-1], sample.messages[-1].text)
