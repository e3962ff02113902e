import sys

import jiwer
import pytest

from minicpmv.errors import OptionError
from minicpmv.evaluation.answering import Answered
from minicpmv.evaluation.question import Question
from minicpmv.evaluation.scoring import character_errors, is_right, require_jiwer, score
from minicpmv.evaluation.tasks import select_tasks

(READING,) = select_tasks(["lines.held_out_font"])
(CHOOSING,) = select_tasks(["clips.direction"])


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


def test_a_choice_has_no_error_rate_but_tells_what_a_blind_answer_reaches() -> None:
    answers = [answered("left", "left"), answered("left", "right"), answered("up", "left"), answered("down", "down ")]
    result = score(CHOOSING, answers, 1.0)
    assert result.cer is None
    assert (result.num_samples, result.right.value, result.one_answer) == (4, 0.5, 0.5)


def test_a_missing_jiwer_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(OptionError, match=r"minicpmv\[eval\]"):
        require_jiwer()
