"""Evaluate a model on the worlds: questions in, report out.

evaluate(load("folder"), ["lines", "clips.direction"]) -> EvaluationReport
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from minicpmv.errors import OptionError
from minicpmv.evaluation.answering import MAX_NEW_TOKENS, Answered, SureAnswer, answer_all, answer_surely_all
from minicpmv.evaluation.memory import peak_gpu_memory_bytes, peak_memory_bytes
from minicpmv.evaluation.own_data import OwnDataTask
from minicpmv.evaluation.perplexity import Loss, PerplexityScore, score_perplexity, weigh_all
from minicpmv.evaluation.readers import read_beside, tesseract_reader
from minicpmv.evaluation.report import EvaluationReport
from minicpmv.evaluation.scoring import TaskScore, require_jiwer, score, score_inventions
from minicpmv.evaluation.tasks import ALL, AnswerTask, LikelihoodTask, Task, select_tasks
from minicpmv.generation.loading import Loaded

AnyAnswer = TypeVar("AnyAnswer", bound=Answered)


class Watcher(Protocol):
    """Whoever wants to see an evaluation proceed."""

    def task(self, task: Task, num_samples: int) -> None:
        """A task begins."""
        ...

    def answered(self, task: Task, answers: Sequence[Answered]) -> None:
        """A batch of answers is there."""
        ...

    def weighed(self, task: Task, num_samples: int) -> None:
        """A batch of true answers was weighed."""
        ...

    def scored(self, score: TaskScore | PerplexityScore) -> None:
        """A task is done."""
        ...


class _Nobody:
    """Watches nothing."""

    def task(self, task: Task, num_samples: int) -> None:
        pass

    def answered(self, task: Task, answers: Sequence[Answered]) -> None:
        pass

    def weighed(self, task: Task, num_samples: int) -> None:
        pass

    def scored(self, score: TaskScore | PerplexityScore) -> None:
        pass


def evaluate(
    loaded: Loaded,
    tasks: Sequence[str | AnswerTask] = (ALL,),
    *,
    num_samples: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    max_new_tokens: int = MAX_NEW_TOKENS,
    tesseract: bool = False,
    watcher: Watcher | None = None,
) -> EvaluationReport:
    """Ask a model questions whose answers are known, or let it weigh the true ones.

    Args:
        loaded: the model and its processor, from `minicpmv.generation.loading.load`.
        tasks: names or groups, see `minicpmv.evaluation.tasks`, or tasks, such as those of
            `minicpmv.evaluation.own_data`.
        num_samples: questions per task; None for each task's own number.
        seed: which series of questions; the same seed asks the same ones.
        batch_size: conversations at a time.
        max_new_tokens: longest answer.
        tesseract: Tesseract reads the same pictures of reading tasks in the same run.
        watcher: sees every task and every batch of answers.

    Raises:
        OptionError: an unknown task, a number below 1, or a package of the `eval` extra or Tesseract is missing.
    """
    chosen = choose(tasks)
    for name, value, least in (("number of samples", num_samples, 1), ("batch size", batch_size, 1), ("seed", seed, 0)):
        if value is not None and value < least:
            raise OptionError(f"The {name} of an evaluation is {value}.", remedy=f"Give {least} or more.")
    if any(isinstance(task, AnswerTask) and task.is_reading for task in chosen):
        require_jiwer()
    watcher = watcher or _Nobody()
    began = time.perf_counter()
    if tesseract:
        tesseract_reader()
        _check_pictures(chosen)
    scores: list[TaskScore] = []
    perplexities: list[PerplexityScore] = []
    beside: list[TaskScore] = []
    for task in chosen:
        watcher.task(task, task.num_samples if num_samples is None else num_samples)
        asking = _Asking(loaded, seed, num_samples, batch_size, watcher, keeps_media=tesseract)
        if isinstance(task, LikelihoodTask):
            perplexities.append(_weigh(asking, task))
            watcher.scored(perplexities[-1])
            continue
        scored, answers = _answer(asking, task, max_new_tokens)
        scores.append(scored)
        watcher.scored(scored)
        if tesseract and task.is_reading:
            started = time.perf_counter()
            beside.append(score(task, read_beside(task, answers), time.perf_counter() - started))
    return EvaluationReport(
        model=loaded.name,
        num_parameters=loaded.model.num_parameters(),
        device=str(loaded.model.device),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        seed=seed,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        scores=tuple(scores),
        perplexities=tuple(perplexities),
        tesseract=tuple(beside),
        seconds=time.perf_counter() - began,
        peak_memory_bytes=peak_memory_bytes(),
        peak_gpu_memory_bytes=peak_gpu_memory_bytes(),
    )


def _check_pictures(chosen: Sequence[Task]) -> None:
    """Refuse what Tesseract cannot read before the first answer, which may be hours before the last."""
    for task in chosen:
        if isinstance(task, OwnDataTask) and not task.has_pictures:
            raise OptionError(
                f"{task.name} has questions without a picture, which Tesseract cannot read.",
                remedy="Leave out --tesseract, or evaluate on pictures alone.",
            )


def choose(tasks: Sequence[str | AnswerTask]) -> tuple[AnswerTask | LikelihoodTask, ...]:
    """The tasks that are meant: named ones in the order of `TASKS`, then those that were given.

    Raises:
        OptionError: an unknown name, or nothing at all.
    """
    names, given = [task for task in tasks if isinstance(task, str)], [task for task in tasks if isinstance(task, Task)]
    return (*(select_tasks(names) if names or not given else ()), *given)


@dataclass(frozen=True, slots=True)
class _Asking:
    """How every task of an evaluation is asked."""

    loaded: Loaded
    seed: int
    num_samples: int | None
    batch_size: int
    watcher: Watcher
    keeps_media: bool
    """Another reader will want them."""

    def keep(self, answers: Sequence[AnyAnswer]) -> list[AnyAnswer]:
        """What scoring needs of answers: pictures and clips of thousands of questions may be more than memory."""
        if self.keeps_media:
            return list(answers)
        return [replace(one, question=replace(one.question, messages=())) for one in answers]


def _answer(asking: _Asking, task: AnswerTask, max_new_tokens: int) -> tuple[TaskScore, Sequence[Answered]]:
    """Let the model answer, and score what it says."""
    started = time.perf_counter()
    questions = task.questions(asking.seed, asking.num_samples)
    longest = task.longest or max_new_tokens
    if task.cannot_be_known:
        sure: list[SureAnswer] = []
        for some in answer_surely_all(asking.loaded, questions, batch_size=asking.batch_size, max_new_tokens=longest):
            sure += asking.keep(some)
            asking.watcher.answered(task, some)
        return score_inventions(task, sure, time.perf_counter() - started), sure
    answers: list[Answered] = []
    for batch in answer_all(
        asking.loaded, questions, batch_size=asking.batch_size, max_new_tokens=longest, think=task.think
    ):
        answers += asking.keep(batch)
        asking.watcher.answered(task, batch)
    return score(task, answers, time.perf_counter() - started), answers


def _weigh(asking: _Asking, task: LikelihoodTask) -> PerplexityScore:
    """Let the model weigh true answers."""
    started = time.perf_counter()
    losses: list[Loss] = []
    questions = task.questions(asking.seed, asking.num_samples)
    for batch in weigh_all(asking.loaded, questions, batch_size=asking.batch_size):
        losses += batch
        asking.watcher.weighed(task, len(batch))
    return score_perplexity(task.name, losses, time.perf_counter() - started)
