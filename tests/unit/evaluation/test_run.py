import gc
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from minicpmv.errors import ContextLengthError, OptionError
from minicpmv.evaluation.answering import Answered, answer_all, answer_batch
from minicpmv.evaluation.own_data import own_task
from minicpmv.evaluation.perplexity import PerplexityScore
from minicpmv.evaluation.question import Question
from minicpmv.evaluation.run import evaluate
from minicpmv.evaluation.scoring import InventionScore, TaskScore, score
from minicpmv.evaluation.tasks import AnswerTask, Task, select_tasks
from minicpmv.generation.chat import Assistant
from minicpmv.generation.loading import Loaded, load
from minicpmv.generation.options import GenerationOptions


@pytest.fixture(scope="module")
def toy(toy_folder: Path) -> Loaded:
    return load(toy_folder, device="cpu")


class Notes:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []

    def task(self, task: Task, num_samples: int) -> None:
        self.said.append((task.name, num_samples))

    def answered(self, task: Task, answers: Sequence[Answered]) -> None:
        self.said.append((task.name, len(answers)))

    def weighed(self, task: Task, num_samples: int) -> None:
        self.said.append((task.name, num_samples))

    def scored(self, score: TaskScore | PerplexityScore) -> None:
        self.said.append((score.task, score.num_samples))


def test_a_batch_gets_the_answers_that_ask_gives_one_by_one(toy: Loaded) -> None:
    questions = [question for task in select_tasks(["lines", "clips.direction"]) for question in task.questions(0, 2)]
    together = answer_batch(toy, questions, max_new_tokens=6)
    assistant = Assistant(toy.model, toy.processor)
    alone = [assistant.ask(question.messages, GenerationOptions(max_new_tokens=6)).text for question in questions]
    assert [answered.answer for answered in together] == alone
    assert len({answered.answer for answered in together}) > 1


def test_questions_are_drawn_only_when_their_batch_is_due(toy: Loaded) -> None:
    drawn = 0

    def questions() -> object:
        nonlocal drawn
        for question in select_tasks(["clips.colour"])[0].questions(0, 5):
            drawn += 1
            yield question

    batches = answer_all(toy, questions(), batch_size=2, max_new_tokens=1)  # type: ignore[arg-type]
    assert [len(next(batches)), drawn] == [2, 2]
    assert [len(batch) for batch in batches] == [2, 1]


def test_a_report_says_what_was_asked_how_it_went_and_what_it_cost(toy: Loaded) -> None:
    notes = Notes()
    report = evaluate(
        toy, ["lines.held_out_font", "clips.flashes"], num_samples=3, batch_size=2, max_new_tokens=4, watcher=notes
    )
    assert notes.said == [(name, num) for name in ("lines.held_out_font", "clips.flashes") for num in (3, 2, 1, 3)]
    line, clip = report.scores
    assert (line.num_samples, clip.num_samples) == (3, 3)
    assert line.cer is not None
    assert line.cer.value > 0.5  # weights are random
    assert clip.cer is None
    assert report.score("clips.flashes") is clip
    assert report.seconds >= line.seconds > 0
    assert report.num_parameters == toy.model.num_parameters()
    assert report.peak_memory_bytes is None or report.peak_memory_bytes > 50e6
    assert json.loads(json.dumps(report.to_dict()))["scores"][0]["task"] == "lines.held_out_font"


def test_perplexity_and_inventions_are_figures_of_the_same_report(toy: Loaded) -> None:
    notes = Notes()
    tasks = ["perplexity", "restore.context", "restore.nothing"]
    report = evaluate(toy, tasks, num_samples=3, batch_size=2, max_new_tokens=4, watcher=notes)
    assert notes.said == [(name, num) for name in (*tasks[1:], tasks[0]) for num in (3, 2, 1, 3)]
    known, unknown = report.scores
    assert not isinstance(known, InventionScore)
    assert isinstance(unknown, InventionScore)
    (perplexity,) = report.perplexities
    assert (perplexity.task, perplexity.num_samples) == ("perplexity", 3)
    assert perplexity.num_tokens > 3
    assert perplexity.perplexity.value > 100  # weights are random, and there are 256 bytes
    written = json.loads(json.dumps(report.to_dict()))
    assert written["perplexities"][0]["perplexity"]["value"] == perplexity.perplexity.value
    assert written["scores"][1]["invented"]["value"] == unknown.invented.value
    assert "invented" not in written["scores"][0]


def test_the_same_seed_gives_the_same_figures_in_any_batch_size(toy: Loaded) -> None:
    first, second = (
        evaluate(toy, ["lines.training_fonts"], num_samples=4, batch_size=size, max_new_tokens=4, seed=3).scores[0]
        for size in (1, 4)
    )
    assert (first.cer, first.right, first.num_cut) == (second.cer, second.right, second.num_cut)


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"batch_size": 0}, {"seed": -1}, {"tasks": ["nothing"]}])
def test_values_that_make_no_sense_are_refused(toy: Loaded, wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        evaluate(toy, **wrong)  # type: ignore[arg-type]


def test_an_answer_that_cannot_fit_is_refused_with_counts(toy: Loaded) -> None:
    questions = list(select_tasks(["lines"])[0].questions(0, 1))
    with pytest.raises(ContextLengthError, match="4096"):
        answer_batch(toy, questions, max_new_tokens=5000)


def test_media_of_questions_are_let_go_once_they_are_answered(
    toy: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (112, 56), "white").save(tmp_path / "a.png")
    lines = [{"image": "a.png", "question": f"What is {number}?", "answer": str(number)} for number in range(3)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    task = own_task(tmp_path / "mine.jsonl", "mine")
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is Question and one.key]
    kept: list[Answered] = []

    def look(scored: AnswerTask, answers: list[Answered], seconds: float) -> TaskScore:
        kept.extend(answers)
        return score(scored, answers, seconds)

    monkeypatch.setattr("minicpmv.evaluation.run.score", look)
    evaluate(toy, [task], batch_size=2, max_new_tokens=2)
    assert [(one.question.answer, one.question.messages) for one in kept] == [("0", ()), ("1", ()), ("2", ())]
