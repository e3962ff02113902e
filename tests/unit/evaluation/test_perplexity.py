"""What the model thinks of given tokens, against the same sum done by hand from its logits."""

from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.errors import OptionError
from minicpmv.evaluation import answering
from minicpmv.evaluation.answering import answer_batch, answer_surely_batch
from minicpmv.evaluation.intervals import ratio
from minicpmv.evaluation.likelihood import with_answers
from minicpmv.evaluation.perplexity import Loss, score_perplexity, weigh_all, weigh_batch
from minicpmv.evaluation.question import Question
from minicpmv.evaluation.tasks import select_tasks
from minicpmv.generation.loading import Loaded, load


@pytest.fixture(scope="module")
def nano() -> Loaded:
    return load(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def toy(toy_folder: Path) -> Loaded:
    return load(toy_folder, device="cpu", dtype="float32")


def by_hand(loaded: Loaded, question: Question, ids: list[int]) -> list[float]:
    """Log probabilities of tokens after a question, from the logits of the whole, unpadded."""
    inputs = loaded.processor.apply_chat_template(
        list(question.messages),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        enable_thinking=False,
    )
    start = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        logits = loaded.model(**inputs).logits[0]
    probabilities = torch.log_softmax(logits.double(), dim=-1)
    return [float(probabilities[start + place - 1, token]) for place, token in enumerate(ids)]


def tokens_of(loaded: Loaded, text: str) -> list[int]:
    return loaded.processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def texts(number: int) -> list[Question]:
    (task,) = select_tasks(["perplexity"])
    return list(task.questions(0, number))


def test_the_loss_of_the_bundled_model_is_that_of_its_logits(nano: Loaded) -> None:
    """Float32 against float64 after the same logits, and padded against alone: 1e-3 nats over up to 60 tokens."""
    questions = texts(6)
    expected = [by_hand(nano, question, tokens_of(nano, question.answer + "<|im_end|>")) for question in questions]
    losses = weigh_batch(nano, questions)
    assert [loss.num_tokens for loss in losses] == [len(row) for row in expected]
    assert [loss.nats for loss in losses] == pytest.approx([-sum(row) for row in expected], rel=1e-4, abs=1e-3)
    score = score_perplexity("perplexity", losses, 1.0)
    tokens = sum(len(row) for row in expected)
    assert score.num_tokens == tokens
    assert score.perplexity.value == pytest.approx(exp(-sum(map(sum, expected)) / tokens), rel=1e-4)


def test_a_batch_weighs_what_single_texts_weigh(nano: Loaded) -> None:
    questions = texts(5)
    together = weigh_batch(nano, questions)
    for size in (1, 2):
        alone = [loss for batch in weigh_all(nano, questions, batch_size=size) for loss in batch]
        assert [loss.nats for loss in alone] == pytest.approx([loss.nats for loss in together], rel=1e-4, abs=1e-3)


def test_the_interval_is_of_resampled_answers_and_not_of_tokens() -> None:
    losses = [Loss(2.0, 1), Loss(0.5, 5), Loss(9.0, 3)]
    score = score_perplexity("perplexity", losses, 1.0)
    mean = ratio([2.0, 0.5, 9.0], [1, 5, 3])
    assert score.perplexity.value == pytest.approx(exp(11.5 / 9))
    assert (score.perplexity.low, score.perplexity.high) == (exp(mean.low), exp(mean.high))
    assert score.perplexity.low < score.perplexity.value < score.perplexity.high
    with pytest.raises(OptionError):
        score_perplexity("perplexity", [], 1.0)


def test_how_sure_an_answer_is_follows_from_the_logits_of_its_tokens(
    nano: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of different sizes and clips in one left-padded batch, against one conversation at a time.

    Of the tokens that were written: the same text may be spelled in others.
    """
    written: list[list[int]] = []

    def watched(inputs: dict[str, Any], ids: list[list[int]]) -> dict[str, Any]:
        written.extend(ids)
        return with_answers(inputs, ids)

    monkeypatch.setattr(answering, "with_answers", watched)
    questions = [q for task in select_tasks(["clips.colour", "lines.held_out_font"]) for q in task.questions(0, 2)]
    surely = answer_surely_batch(nano, questions, max_new_tokens=16)
    plain = answer_batch(nano, questions, max_new_tokens=16)
    assert [(a.answer, a.was_cut, a.num_tokens) for a in surely] == [(a.answer, a.was_cut, a.num_tokens) for a in plain]
    assert [len(ids) for ids in written] == [answered.num_tokens for answered in surely]
    for answered, ids in zip(surely, written, strict=True):
        row = by_hand(nano, answered.question, ids)
        assert answered.probability == pytest.approx(sum(map(exp, row)) / len(row), abs=1e-4)


def test_an_empty_answer_is_not_sure(toy: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "cut_at_terminator", lambda row, terminators: ([], True))
    (question,) = select_tasks(["restore.nothing"])[0].questions(0, 1)
    (answered,) = answer_surely_batch(toy, [question], max_new_tokens=2)
    assert (answered.answer, answered.probability, answered.num_tokens) == ("", 0.0, 0)
