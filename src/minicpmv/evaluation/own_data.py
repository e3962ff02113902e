"""A person's own questions with known answers, from any data set that training can read.

files -> open_source -> Sample -> Question ; own_tasks -> AnswerTask
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from numpy.random import Generator

from minicpmv.data.filters import media_there
from minicpmv.data.readers import Flaw, Position, open_source
from minicpmv.errors import OptionError
from minicpmv.evaluation.question import Question
from minicpmv.evaluation.readers import picture_of
from minicpmv.evaluation.tasks import TASKS, AnswerTask

FEWEST_TOKENS, MOST_TOKENS = 96, 8192
"""Bounds of an answer's length."""


@dataclass(frozen=True, slots=True)
class OwnDataTask(AnswerTask):
    """Questions that are given and not drawn, read when their batch is due.

    Attributes:
        path: the data set.
        has_pictures: there is a picture in every question.
    """

    path: Path = Path()
    has_pictures: bool = False

    def questions(self, seed: int, num_samples: int | None = None) -> Iterator[Question]:
        """The first questions of the data set, whatever the seed."""
        return islice(_questions(self.path), self.num_samples if num_samples is None else num_samples)


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
    # Read once before the first answer, which may be hours before the last, and forgotten again.
    number, longest_bytes, is_page, has_pictures = 0, 0, False, True
    for question in _questions(path):
        number += 1
        longest_bytes = max(longest_bytes, len(question.answer.encode()))
        is_page |= "\n" in question.answer.strip()
        has_pictures &= picture_of(question) is not None
    if not number:
        raise OptionError(f"{path} holds no record.", remedy="Name a data set; see `minicpmv data stats`.")
    return OwnDataTask(
        name,
        _not_drawn,
        number,
        is_reading=True,
        is_page=is_page,
        # No tokenizer needs more tokens than a text has bytes; a model that does not end is cut at twice the longest.
        longest=min(MOST_TOKENS, max(FEWEST_TOKENS, 2 * longest_bytes)),
        path=path,
        has_pictures=has_pictures,
    )


def _questions(path: Path) -> Iterator[Question]:
    for sample, _ in open_source(path).read(Position()):
        if isinstance(sample, Flaw) or sample.messages[-1].role != "assistant" or len(sample.messages) < 2:
            reason = sample.reason if isinstance(sample, Flaw) else "it does not end with an answer"
            raise OptionError(f"{path}, {sample.key}: {reason}", remedy="Evaluate on records that are complete.")
        if (missing := media_there(sample)) is not None:
            raise OptionError(f"{path}, {sample.key}: {missing}", remedy="Evaluate on records that are complete.")
        yield Question(sample.messages[:-1], sample.messages[-1].text, key=f"{path}, {sample.key}")


def _not_drawn(_generator: Generator) -> Question:
    raise NotImplementedError("Questions of a data set come in its order.")
