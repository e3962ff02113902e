import sys

import jiwer
import pytest

from minicpmv.errors import OptionError
from minicpmv.evaluation.answering import Answered, SureAnswer
from minicpmv.evaluation.question import Question
from minicpmv.evaluation.scoring import character_errors, is_invented, is_right, require_jiwer, score, score_inventions
from minicpmv.evaluation.tasks import AnswerTask, select_tasks


def task_named(name: str) -> AnswerTask:
    (task,) = select_tasks([name])
    assert isinstance(task, AnswerTask)
    return task


READING, CHOOSING, UNKNOWN = map(task_named, ("lines.held_out_font", "clips.direction", "restore.nothing"))


def answered(truth: str, answer: str, *, was_cut: bool = False) -> Answered:
    return Answered(Question((), truth), answer, was_cut)


def test_the_error_rate_is_jiwers_of_the_whole_corpus() -> None:
    pairs = [("Open 9-5", "Open 9-5"), ("flour", "floor"), ("$7.50", ""), ("a", "aaaaaaaaaaaa"), ("Guest", "guest")]
    result = score(READING, [answered(*pair) for pair in pairs], 1.0)
    assert result.cer is not None
    assert result.cer.value == pytest.approx(jiwer.cer([a for a, _ in pairs], [b for _, b in pairs]))
    assert result.cer.low <= result.cer.value <= result.cer.high


def test_an_answer_that_runs_away_costs_all_its_characters() -> None:
    result = score(READING, [answered("abc", "abc" + "x" * 30, was_cut=True)], 1.0)
    assert result.cer is not None
    assert result.cer.value == pytest.approx(10.0)
    assert result.num_cut == 1


@pytest.mark.parametrize(
    ("truth", "answer", "errors"),
    [("abc", " abc\n", 0), ("abc", "ABC", 3), ("a b", "ab", 1), ("abc", "", 3), ("kitten", "sitting", 3)],
)
def test_only_whitespace_at_the_ends_is_forgiven(truth: str, answer: str, errors: int) -> None:
    assert character_errors(truth, answer) == errors
    assert is_right(answered(truth, answer)) is (errors == 0)


def test_leaders_are_no_text_on_pages_whoever_writes_them() -> None:
    truth, page = "Tea 2.50\nTotal 7.5", task_named("pages.receipt")
    for answer in ("Tea......2.50\nTotal · · · · 7.5", "Tea 2.50\nTotal 7.5", "Tea …… . 2.50\nTotal ... 7.5"):
        result = score(page, [answered(truth, answer)], 1.0)
        assert result.cer is not None
        assert result.cer.value == 0
    dots = score(READING, [answered("Wait...", "Wait")], 1.0)
    assert dots.cer is not None
    assert dots.cer.value > 0.4


def test_a_choice_has_no_error_rate_but_tells_what_a_blind_answer_reaches() -> None:
    answers = [answered("left", "left"), answered("left", "right"), answered("up", "left"), answered("down", "down ")]
    result = score(CHOOSING, answers, 1.0)
    assert result.cer is None
    assert (result.num_samples, result.right.value, result.one_answer) == (4, 0.5, 0.5)


def sure(truth: str, answer: str, probability: float) -> SureAnswer:
    return SureAnswer(Question((), truth), answer, was_cut=False, num_tokens=3, probability=probability)


@pytest.mark.parametrize(
    ("answer", "probability", "invented"),
    [("12-3", 0.9, True), ("12-3", 0.5, False), ("12-3", 0.2, False), ("640-36", 0.9, False), (" \n", 0.9, False)],
)
def test_an_invention_is_there_wrong_and_confident(answer: str, probability: float, invented: bool) -> None:
    assert is_invented(sure("640-36", answer, probability)) is invented


def test_inventions_are_a_share_of_all_that_was_asked_beside_the_usual_figures() -> None:
    answers = [sure("a1b2", "c3", 0.8), sure("d4e5", "", 0.0), sure("f6g7", "h8", 0.1), sure("i9j0", "i9j0", 0.9)]
    result = score_inventions(UNKNOWN, answers, 1.0)
    assert (result.task, result.num_samples, result.right.value) == ("restore.nothing", 4, 0.25)
    assert result.cer == score(UNKNOWN, answers, 1.0).cer
    assert result.invented.value == 0.25
    assert result.invented.low < 0.25 < result.invented.high


def test_a_missing_jiwer_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(OptionError, match=r"minicpmv\[eval\]"):
        require_jiwer()
