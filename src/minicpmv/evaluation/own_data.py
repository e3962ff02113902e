"""A person's own questions with known answers, from any data set that training can read.

files -> open_source -> Sample -> Question ; own_tasks -> AnswerTask
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from numpy.random import Generator

from minicpmv.data.filters import media_there
from minicpmv.data.readers import Flaw, Position, open_source
from minicpmv.data.sample import Sample
from minicpmv.errors import OptionError
from minicpmv.evaluation.question import Question
from minicpmv.evaluation.tasks import TASKS, AnswerTask

FEWEST_TOKENS, MOST_TOKENS = 96, 8192
"""Bounds of an answer's length."""


@dataclass(frozen=True, slots=True)
class OwnDataTask(AnswerTask):
    """Questions that are given and not drawn.

    Attributes:
        given: all of them, in the order of the file.
    """

    given: tuple[Question, ...] = ()

    def questions(self, seed: int, num_samples: int | None = None) -> Iterator[Question]:
        """The first questions of the file, whatever the seed."""
        return iter(self.given[: self.num_samples if num_samples is None else num_samples])


def own_tasks(paths: Sequence[Path]) -> list[OwnDataTask]:
    """A task per data set, called after its file; by its path where that name is another's.

    Raises:
        OptionError: as of `own_task`.
    """
    stems = [path.stem for path in paths]
    taken = {task.name for task in TASKS}
    return [
        own_task(path, stem if stems.count(stem) == 1 and stem not in taken else str(path))
        for path, stem in zip(paths, stems, strict=True)
    ]


def own_task(path: Path, name: str) -> OwnDataTask:
    """The last turn of every sample of a data set as a question, those before it as what was said already.

    Args:
        path: a `.jsonl`, `.parquet`, `.arrow`, `.tar`, `.pdf` or `.html` file, or a folder of them or of clips.
        name: of the task.

    Raises:
        OptionError: nothing there, or a record that cannot be asked; its key and reason are named.
    """
    given = []
    for sample, _ in open_source(path).read(Position()):
        if isinstance(sample, Flaw) or sample.messages[-1].role != "assistant" or len(sample.messages) < 2:
            reason = sample.reason if isinstance(sample, Flaw) else "it does not end with an answer"
            raise OptionError(f"{path}, {sample.key}: {reason}", remedy="Evaluate on records that are complete.")
        if (missing := media_there(sample)) is not None:
            raise OptionError(f"{path}, {sample.key}: {missing}", remedy="Evaluate on records that are complete.")
        given.append(_question(sample, f"{path}, {sample.key}"))
    if not given:
        raise OptionError(f"{path} holds no record.", remedy="Name a data set; see `minicpmv data stats`.")
    # No tokenizer needs more tokens than a text has bytes; a model that does not end is cut at twice the longest.
    longest = min(MOST_TOKENS, max(FEWEST_TOKENS, 2 * max(len(question.answer.encode()) for question in given)))
    draw = partial(_any_of, tuple(given))
    is_page = any("\n" in question.answer.strip() for question in given)
    return OwnDataTask(name, draw, len(given), is_reading=True, is_page=is_page, longest=longest, given=tuple(given))


def _question(sample: Sample, key: str) -> Question:
    return Question(sample.messages[:-1], sample.messages[-1].text, key=key)


def _any_of(given: tuple[Question, ...], generator: Generator) -> Question:
    return given[int(generator.random() * len(given))]
