"""Answers to figures: right or wrong, and for reading the character error rate.

Only whitespace at both ends of an answer is forgiven; case and punctuation count. The character error rate (CER) is
that of the whole task: all edits over all true characters. It is not capped, so one answer that does not end costs as
many errors as it has characters too many. Where nothing tells the answer, confident inventions are counted as well.
On pages, leaders are no text: three dots or more in a row count as a space, whoever writes them.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

from minicpmv.errors import OptionError
from minicpmv.evaluation.answering import Answered, SureAnswer
from minicpmv.evaluation.intervals import Estimate, ratio, share
from minicpmv.evaluation.tasks import AnswerTask

CONFIDENT = 0.5
"""Mean probability of its tokens above which an answer is confident. Ours."""


@dataclass(frozen=True, slots=True)
class TaskScore:
    """How a model did on one task.

    Attributes:
        task: full name of the task.
        num_samples: questions asked.
        right: share of answers that are right to the last character.
        cer: character errors per true character; None where the answer is one word to choose.
        one_answer: share that the best constant answer would get right; what a blind model can reach.
        num_cut: answers cut off at the length limit.
        mean_tokens: new tokens per answer, reasoning included.
        seconds: time for drawing the questions and answering them.
    """

    task: str
    num_samples: int
    right: Estimate
    cer: Estimate | None
    one_answer: float
    num_cut: int
    mean_tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class InventionScore(TaskScore):
    """How a model did where nothing tells the answer.

    Attributes:
        invented: share of answers that are not empty, not right, and confident (`CONFIDENT`).
    """

    invented: Estimate


_LEADERS = re.compile(r"[ \t]*[.…·](?:[ \t]*[.…·]){2,}[ \t]*")


def without_leaders(text: str) -> str:
    """A text whose dots between a word and its number are a space.

    >>> without_leaders("Tea ..... 2.50")
    'Tea 2.50'
    """
    return _LEADERS.sub(" ", text)


def score(task: AnswerTask, answers: Sequence[Answered], seconds: float) -> TaskScore:
    """The figures of one task.

    Args:
        task: what was asked.
        answers: all answers to it.
        seconds: how long they took.

    Raises:
        OptionError: no answers, or reading without jiwer installed.
    """
    truths = Counter(answered.question.answer for answered in answers)
    cer = None
    if task.is_reading and answers:
        pairs = [(answered.question.answer, answered.answer) for answered in answers]
        if task.is_page:
            pairs = [(without_leaders(truth), without_leaders(answer)) for truth, answer in pairs]
        cer = ratio([character_errors(*pair) for pair in pairs], [len(truth.strip()) for truth, _ in pairs])
    return TaskScore(
        task=task.name,
        num_samples=len(answers),
        right=share(sum(is_right(answered) for answered in answers), len(answers)),
        cer=cer,
        one_answer=max(truths.values()) / len(answers),
        num_cut=sum(answered.was_cut for answered in answers),
        mean_tokens=sum(answered.num_tokens for answered in answers) / len(answers),
        seconds=seconds,
    )


def score_inventions(task: AnswerTask, answers: Sequence[SureAnswer], seconds: float) -> InventionScore:
    """The figures of a task whose answers cannot be known.

    Args:
        task: what was asked.
        answers: all answers to it.
        seconds: how long they took.

    Raises:
        OptionError: no answers, or reading without jiwer installed.
    """
    usual = score(task, answers, seconds)
    invented = share(sum(is_invented(answered) for answered in answers), len(answers))
    return InventionScore(**{item.name: getattr(usual, item.name) for item in fields(usual)}, invented=invented)


def is_invented(answered: SureAnswer) -> bool:
    """Whether an answer is there, wrong, and confident."""
    return bool(answered.answer.strip()) and not is_right(answered) and answered.probability > CONFIDENT


def is_right(answered: Answered) -> bool:
    """Whether an answer is the true one, whitespace at its ends aside."""
    return answered.answer.strip() == answered.question.answer.strip()


def character_errors(truth: str, answer: str) -> int:
    """Fewest insertions, deletions and substitutions of characters that turn the truth into the answer.

    Whitespace at both ends does not count.

    Args:
        truth: not empty.
        answer: anything.

    Raises:
        OptionError: jiwer is not installed.
    """
    require_jiwer()
    import jiwer

    found = jiwer.process_characters(truth, answer)
    return found.substitutions + found.deletions + found.insertions


def require_jiwer() -> None:
    """Fail early where character errors cannot be counted.

    Raises:
        OptionError: jiwer is not installed.
    """
    try:
        import jiwer  # noqa: F401
    except ImportError:
        raise OptionError(
            "Counting character errors needs jiwer.", remedy="Install it: pip install 'minicpmv[eval]'."
        ) from None
