"""`minicpmv eval [MODEL]`: scores with confidence intervals, time and memory."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.console import refuse_folder, say, working

if TYPE_CHECKING:
    from rich.table import Table

    from minicpmv.evaluation.answering import Answered
    from minicpmv.evaluation.intervals import Estimate
    from minicpmv.evaluation.perplexity import PerplexityScore
    from minicpmv.evaluation.report import EvaluationReport
    from minicpmv.evaluation.scoring import TaskScore
    from minicpmv.evaluation.tasks import Task


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A local folder or a hub id. Without it: the bundled nano model."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Groups (lines, clips, clips_apart, clips_other, scenes, pages, ask, restore, reason, facts, "
            "perplexity), or single ones such as clips.direction; separated by commas. Default: all of "
            "them, or none beside --data."
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Ask the questions of this file or folder (as for `train --data`); repeatable."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Questions per task. Default: 400 lines, 300 texts for perplexity, 100 of each other kind.",
            metavar="N",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which series of questions to ask.", metavar="N")] = 0,
    batch: Annotated[int, typer.Option(help="Questions answered at a time.", metavar="N")] = 32,
    answers: Annotated[
        Path | None, typer.Option(help="Write every question, true answer and given answer here, as JSON lines.")
    ] = None,
    tesseract: Annotated[
        bool, typer.Option("--tesseract", help="Let Tesseract read the same pictures in the same run.")
    ] = False,
    device: shared.Device = "auto",
    dtype: shared.Dtype = "auto",
    quantization: shared.Quantization = None,
    as_json: shared.Json = False,
) -> None:
    """Score a model on questions with known answers: on all tasks, some of them, or data of your own."""
    with working(f"loading {model or 'the bundled nano model'}"):
        from minicpmv.cli.answering import hush_libraries
        from minicpmv.evaluation.own_data import own_tasks
        from minicpmv.evaluation.run import choose
        from minicpmv.evaluation.run import evaluate as run
        from minicpmv.evaluation.tasks import ALL, AnswerTask
        from minicpmv.generation.loading import load

        named = ("" if data else ALL) if tasks is None else tasks
        asked: list[str | AnswerTask] = [name.strip() for name in named.split(",") if name.strip()]
        asked += own_tasks(data or ())
        hush_libraries(progress=model is not None and sys.stderr.isatty())
        loaded = load(model, device=device, dtype=dtype, quantization=quantization)
    with _record(answers) as file, Observer(len(choose(asked)), file) as observer:
        report = run(
            loaded, asked, num_samples=samples, seed=seed, batch_size=batch, tesseract=tesseract, watcher=observer
        )
    if as_json:
        print(json.dumps(report.to_dict(), ensure_ascii=False))
    else:
        show(report)


@contextmanager
def _record(path: Path | None) -> Iterator[TextIO | None]:
    """The file for the answers, if there is to be one; it appears only when it is complete."""
    if path is None:
        yield None
        return
    refuse_folder("--answers", path)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Observer:
    """Shows an evaluation on stderr, as bars on a terminal and as a line per task elsewhere, and records the answers.

    Args:
        num_tasks: how many tasks there will be.
        file: where answers are recorded.
    """

    def __init__(self, num_tasks: int, file: "TextIO | None" = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._file = file
        self._is_terminal = sys.stderr.isatty()
        self._num_tasks = num_tasks
        self._num_begun = 0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._is_terminal,
        )

    def __enter__(self) -> "Observer":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def task(self, task: "Task", num_samples: int) -> None:
        """A task begins: it gets a bar."""
        self._num_begun += 1
        self._bar = self._bars.add_task(f"{self._num_begun}/{self._num_tasks} {task.name}", total=num_samples)

    def answered(self, task: "Task", answers: "Sequence[Answered]") -> None:
        """A batch is done: the bar moves."""
        self._bars.advance(self._bar, len(answers))
        if self._file is None:
            return
        from minicpmv.evaluation.answering import SureAnswer

        for answered in answers:
            line = {
                "task": task.name,
                "question": answered.question.messages[-1].text,
                "truth": answered.question.answer,
                "answer": answered.answer,
                "was_cut": answered.was_cut,
                **({"probability": answered.probability} if isinstance(answered, SureAnswer) else {}),
            }
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def weighed(self, task: "Task", num_samples: int) -> None:
        """A batch of true answers was weighed: the bar moves."""
        self._bars.advance(self._bar, num_samples)

    def scored(self, score: "TaskScore | PerplexityScore") -> None:
        """A task is done: without a terminal, say so."""
        if not self._is_terminal:
            say(f"{self._num_begun}/{self._num_tasks} {score.task}: {_in_short(score)}")


def _in_short(score: "TaskScore | PerplexityScore") -> str:
    from minicpmv.evaluation.perplexity import PerplexityScore
    from minicpmv.evaluation.scoring import InventionScore

    if isinstance(score, PerplexityScore):
        return f"{score.perplexity.value:.2f} per token"
    figure = f"{100 * score.right.value:.1f} % right"
    if score.cer is not None:
        figure += f", {100 * score.cer.value:.1f} % of characters wrong"
    if isinstance(score, InventionScore):
        figure += f", {100 * score.invented.value:.1f} % confidently invented"
    return figure


def show(report: "EvaluationReport") -> None:
    """Print the figures as a table, and under it what they were measured with."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)
    if report.scores:
        console.print(table(report))
        console.print(
            "In brackets: 95 % confidence. Blind: what the best constant answer would get right.", soft_wrap=True
        )
    if report.perplexities:
        console.print(perplexity_table(report.perplexities))
        console.print("In brackets: 95 % confidence. Perplexity: per token of the true answers; 1 is certainty.")
    memory = report.peak_memory_bytes
    facts = [
        f"{report.model}, {report.num_parameters / 1e6:.1f} M parameters, {report.dtype} on {report.device}",
        f"seed {report.seed}",
        f"{report.seconds:.0f} s",
        *([] if memory is None else [f"peak memory {memory / 2**30:.2f} GiB"]),
    ]
    console.print("; ".join(facts), soft_wrap=True)


def table(report: "EvaluationReport") -> "Table":
    """The figures of what was answered, one task a row."""
    from rich import box
    from rich.table import Table

    from minicpmv.evaluation.scoring import InventionScore

    counts_inventions = any(isinstance(score, InventionScore) for score in report.scores)
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows.add_column("task")
    invented = ("invented, %",) if counts_inventions else ()
    for heading in ("asked", "right, %", "CER, %", *invented, "blind, %", "tokens", "cut off", "s"):
        rows.add_column(heading, justify="right")
    named = [(score.task, score) for score in report.scores]
    for score in report.tesseract:
        place = next(index for index, (_, other) in enumerate(named) if other.task == score.task)
        named.insert(place + 1, ("  Tesseract", score))
    for name, score in named:
        rows.add_row(
            name,
            str(score.num_samples),
            _estimate(score.right),
            "" if score.cer is None else _estimate(score.cer),
            *([_estimate(score.invented) if isinstance(score, InventionScore) else ""] if counts_inventions else []),
            f"{100 * score.one_answer:.1f}" if score.cer is None else "",
            f"{score.mean_tokens:.0f}",
            str(score.num_cut),
            f"{score.seconds:.1f}",
        )
    return rows


def perplexity_table(scores: "Sequence[PerplexityScore]") -> "Table":
    """The figures of what was weighed, one task a row."""
    from rich import box
    from rich.table import Table

    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows.add_column("task")
    for heading in ("texts", "tokens", "perplexity", "s"):
        rows.add_column(heading, justify="right")
    for score in scores:
        found = score.perplexity
        figure = f"{found.value:.2f} ({found.low:.2f}-{found.high:.2f})"
        rows.add_row(score.task, str(score.num_samples), str(score.num_tokens), figure, f"{score.seconds:.1f}")
    return rows


def _estimate(estimate: "Estimate") -> str:
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f}-{100 * estimate.high:.1f})"
