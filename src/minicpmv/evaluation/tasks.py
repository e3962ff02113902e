"""What can be asked: every task by name, alone (`clips.direction`) or as a group (`clips`).

An `AnswerTask` wants answers and a `LikelihoodTask` only weighs the true ones.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from numpy.random import Generator

from minicpmv.data.corruption.calibration import LEVELS
from minicpmv.data.studio import PAGE_KINDS
from minicpmv.data.worlds.clips import CLIP_TASKS
from minicpmv.data.worlds.scenes import SCENE_TASKS
from minicpmv.errors import OptionError
from minicpmv.evaluation.clips import OTHER_KINDS, clip_question, other_clip_question
from minicpmv.evaluation.drawn import ask_question, fact_question, page_question, reasoning_question, text_question
from minicpmv.evaluation.lines import line_question
from minicpmv.evaluation.question import Question, question_generator
from minicpmv.evaluation.restoring import known_question, restore_question, unknown_question
from minicpmv.evaluation.scenes import scene_question

ALL = "all"
"""The name of all tasks together."""

PAGE_TOKENS = 512
REASONING_TOKENS = 512
"""Longest answers, in tokens: about twice the longest true one."""


@dataclass(frozen=True, slots=True)
class Task:
    """Questions of one kind.

    Attributes:
        name: group and kind.
        draw: makes a question.
        num_samples: questions asked by default.
        series: tasks with the same series ask the same questions; the task's name if empty.
    """

    name: str
    draw: Callable[[Generator], Question]
    num_samples: int
    series: str = ""

    def questions(self, seed: int, num_samples: int | None = None) -> Iterator[Question]:
        """The first questions of this task.

        Args:
            seed: which series of questions.
            num_samples: how many; None for the default.
        """
        for index in range(self.num_samples if num_samples is None else num_samples):
            yield self.draw(question_generator(seed, self.series or self.name, index))


@dataclass(frozen=True, slots=True)
class AnswerTask(Task):
    """Questions that the model answers.

    Attributes:
        is_reading: the answer is a text to copy, so that single characters are counted.
        think: the model reasons before it answers.
        longest: new tokens of an answer, reasoning included; None for the caller's own bound.
        is_page: what is to be read is a page of several lines.
        cannot_be_known: nothing tells the answer, so that inventions are counted.
    """

    is_reading: bool = False
    think: bool = False
    longest: int | None = None
    is_page: bool = False
    cannot_be_known: bool = False


@dataclass(frozen=True, slots=True)
class LikelihoodTask(Task):
    """Questions whose true answers the model is asked to weigh; it writes nothing."""


TASKS: tuple[AnswerTask | LikelihoodTask, ...] = (
    AnswerTask("lines.held_out_font", partial(line_question, fonts="held_out"), 400, is_reading=True),
    AnswerTask("lines.training_fonts", partial(line_question, fonts="train"), 400, is_reading=True),
    *(AnswerTask(f"clips.{kind}", partial(clip_question, kind=kind), 100) for kind in CLIP_TASKS),
    *(
        AnswerTask(f"clips_apart.{kind}", partial(clip_question, kind=kind, packing=1), 100, series=f"clips.{kind}")
        for kind in CLIP_TASKS
    ),
    *(AnswerTask(f"clips_other.{kind}", partial(other_clip_question, kind=kind), 100) for kind in OTHER_KINDS),
    *(AnswerTask(f"scenes.{kind}", partial(scene_question, kind=kind), 100) for kind in SCENE_TASKS),
    *(
        AnswerTask(
            f"pages.{kind}", partial(page_question, kind=kind), 100, is_reading=True, is_page=True, longest=PAGE_TOKENS
        )
        for kind in PAGE_KINDS
    ),
    *(AnswerTask(f"ask.{kind}", partial(ask_question, kind=kind), 100) for kind in PAGE_KINDS),
    *(
        AnswerTask(
            f"restore.{level}", partial(restore_question, level=level), 100, is_reading=True, longest=PAGE_TOKENS
        )
        for level in LEVELS
    ),
    AnswerTask("restore.context", known_question, 100, is_reading=True, longest=PAGE_TOKENS),
    AnswerTask("restore.nothing", unknown_question, 100, is_reading=True, longest=PAGE_TOKENS, cannot_be_known=True),
    AnswerTask("reason.short", reasoning_question, 100, series="reason"),
    AnswerTask("reason.long", reasoning_question, 100, series="reason", think=True, longest=REASONING_TOKENS),
    AnswerTask("facts.open_book", partial(fact_question, open_book=True), 100),
    AnswerTask("facts.closed_book", partial(fact_question, open_book=False), 100),
    LikelihoodTask("perplexity", text_question, 300),
)
"""All tasks. What is asked about was kept out of training; the name of a task of lines says in which fonts they are
printed. `clips_apart` asks the questions of `clips` with every frame in a pack of its own, `reason.long` those of
`reason.short`. `restore.context` and `restore.nothing` are covered regions whose text the page still tells, or not."""


def select_tasks(names: Sequence[str] = (ALL,)) -> tuple[AnswerTask | LikelihoodTask, ...]:
    """Tasks by full name, by group or all of them, each once, in the order of `TASKS`.

    Raises:
        OptionError: an unknown name, or none at all.
    """
    groups = tuple(dict.fromkeys(task.name.split(".")[0] for task in TASKS))
    known = {ALL, *groups, *(task.name for task in TASKS)}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        asked = f"There is no task {unknown[0]!r}." if unknown else "No task is named."
        raise OptionError(asked, remedy=f"Choose from {', '.join(groups)}, or one such as {TASKS[0].name}, or {ALL}.")
    return tuple(task for task in TASKS if {ALL, task.name, task.name.split(".")[0]} & set(names))
