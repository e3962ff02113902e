"""A question with its true answer, and the only source of randomness of evaluation.

Question number `index` of a task is a pure function of (seed, task, index): asking fewer questions asks the first ones.
"""

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.random import Generator

from minicpmv.messages import Message, Part, TextPart

EVALUATION_STREAM = 2_718_281_828
"""First word of every evaluation seed. Training seeds its batches with (seed of the recipe, stage, step), so evaluation
never repeats a training picture as long as no recipe is given this number as its seed."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the answer that is right."""

    messages: tuple[Message, ...]
    answer: str
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    """Left, top, right and bottom, in px, of the regions whose text is asked for, in order; none for all of it."""

    key: str = ""
    """The record that it comes from; empty for questions that are drawn."""


def question(media: Part, text: str, answer: str) -> Question:
    """One user turn: a picture or clip, then words."""
    return Question((Message("user", (media, TextPart(text))),), answer)


def question_generator(seed: int, task: str, index: int) -> Generator:
    """The randomness of one question.

    Args:
        seed: chosen by whoever evaluates.
        task: full name of the task.
        index: number of the question, from 0.
    """
    return np.random.default_rng([EVALUATION_STREAM, seed, crc32(task.encode()), index])
