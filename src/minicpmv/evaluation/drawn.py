"""Questions about drawn pages, tables and facts: the samples that training draws, of the other split.

Words, names, typefaces and one layout of every kind of page are kept out of training; only what is to be *known*, the
facts of the closed world without a text beside them, is asked about entities of the training.
"""

from functools import lru_cache

from numpy.random import Generator

from minicpmv.data import drawn
from minicpmv.data.sample import Sample
from minicpmv.data.studio import PAGE_KINDS, Studio
from minicpmv.data.worlds.fonts import Split
from minicpmv.evaluation.question import Question

LONGEST_SIDE_PX = 224
"""Of pages, as in training."""

TEXT_LINES = 6
"""Most lines of what is to be repeated, where text alone is asked about."""

TOLD_KINDS = tuple(kind for kind in PAGE_KINDS if kind != "chart")
"""Kinds of pages that can be told in text."""


@lru_cache(maxsize=2)
def studio(split: Split) -> Studio:
    """What pages of a split are drawn with."""
    return Studio.open(split, longest_side_px=LONGEST_SIDE_PX)


def page_question(generator: Generator, kind: str) -> Question:
    """A page of a kind, to be written down line by line."""
    return question_of(drawn.read(studio("held_out"), kinds=[kind])(generator, ""))


def ask_question(generator: Generator, kind: str) -> Question:
    """A page of a kind with one of its questions."""
    return question_of(drawn.ask(studio("held_out"), kinds=[kind])(generator, ""))


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


def text_question(generator: Generator) -> Question:
    """Text alone: something to repeat or a scene in words, a told fact, or a page's text with a question about it."""
    held_out = studio("held_out")
    draws = (
        drawn.texts(held_out, most_lines=TEXT_LINES),
        drawn.facts(held_out, open_book=1.0),
        drawn.ask(held_out, kinds=TOLD_KINDS, told=1.0),
    )
    return question_of(draws[int(generator.random() * len(draws))](generator, ""))


def question_of(sample: Sample) -> Question:
    """A sample's last turn as the answer that is right."""
    return Question(sample.messages[:-1], sample.messages[-1].text)
