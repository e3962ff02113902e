"""Ask a model many questions at once, through the processor and `generate`, as a user would.

questions -> apply_chat_template (left padded) -> generate (greedy) -> ids -> the text that `ask` would print

`answer_...` gives answers, `answer_surely_...` also how sure of them the model was.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from math import exp
from typing import Any

from minicpmv.errors import ContextLengthError
from minicpmv.evaluation.likelihood import log_probabilities, with_answers
from minicpmv.evaluation.question import Question
from minicpmv.generation.decoding import cut_at_terminator, decode
from minicpmv.generation.loading import Loaded
from minicpmv.generation.options import GenerationOptions
from minicpmv.generation.running import complete, context_length, count_visual_tokens, fit_answer, terminator_ids
from minicpmv.generation.thinking import split_reasoning

MAX_NEW_TOKENS = 96
"""Longest answer in tokens: about twice the longest line there is, so that a runaway answer is counted as one."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A question, the answer it got, and whether that answer was cut off at the length limit."""

    question: Question
    answer: str
    was_cut: bool
    num_tokens: int = 0
    """New tokens, reasoning included."""


@dataclass(frozen=True, slots=True)
class SureAnswer(Answered):
    """An answer, and the mean probability that the model gave its tokens (without the one that ends it).

    An empty answer has none; its probability is 0.
    """

    probability: float = field(kw_only=True)


def answer_all(
    loaded: Loaded,
    questions: Iterable[Question],
    *,
    batch_size: int = 32,
    max_new_tokens: int = MAX_NEW_TOKENS,
    think: bool = False,
) -> Iterator[list[Answered]]:
    """Answers batch by batch, in order.

    Args:
        loaded: the model and its processor.
        questions: drawn only when their batch is due.
        batch_size: conversations per call of `generate`.
        max_new_tokens: longest answer, reasoning included.
        think: reason before answering.

    Raises:
        ContextLengthError: a question does not fit the model's context.
    """
    waiting = iter(questions)
    while batch := list(islice(waiting, batch_size)):
        yield answer_batch(loaded, batch, max_new_tokens=max_new_tokens, think=think)


def answer_surely_all(
    loaded: Loaded, questions: Iterable[Question], *, batch_size: int = 32, max_new_tokens: int = MAX_NEW_TOKENS
) -> Iterator[list[SureAnswer]]:
    """Answers in the short mode with their probabilities, batch by batch, in order; see `answer_all`."""
    waiting = iter(questions)
    while batch := list(islice(waiting, batch_size)):
        yield answer_surely_batch(loaded, batch, max_new_tokens=max_new_tokens)


def answer_batch(
    loaded: Loaded, questions: list[Question], *, max_new_tokens: int = MAX_NEW_TOKENS, think: bool = False
) -> list[Answered]:
    """Greedy answers to several questions in one call of `generate`.

    Args:
        loaded: the model and its processor.
        questions: asked together.
        max_new_tokens: longest answer, reasoning included.
        think: reason before answering.

    Raises:
        ContextLengthError: a question does not fit the model's context.
    """
    written = _write(loaded, questions, max_new_tokens, think)
    return [
        Answered(question, _answer_of(loaded, ids, think), not ended, len(ids))
        for question, ids, ended in zip(questions, written.ids, written.ended, strict=True)
    ]


def answer_surely_batch(
    loaded: Loaded, questions: list[Question], *, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[SureAnswer]:
    """Greedy answers in the short mode, and with one more pass how probable they were.

    Args:
        loaded: the model and its processor.
        questions: asked together.
        max_new_tokens: longest answer.

    Raises:
        ContextLengthError: a question does not fit the model's context.
    """
    written = _write(loaded, questions, max_new_tokens, think=False)
    weighed = log_probabilities(loaded.model, with_answers(written.inputs, written.ids))
    return [
        SureAnswer(
            question,
            _answer_of(loaded, ids, think=False),
            not ended,
            len(ids),
            probability=sum(exp(value) for value in row) / max(1, len(row)),
        )
        for question, ids, ended, row in zip(questions, written.ids, written.ended, weighed, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Written:
    """The prompts of a batch, left padded; new ids without what ends them; and whether something did."""

    inputs: dict[str, Any]
    ids: list[list[int]]
    ended: list[bool]


def _write(loaded: Loaded, questions: list[Question], max_new_tokens: int, think: bool) -> _Written:
    model, processor = loaded.model, loaded.processor
    inputs = _prompts(loaded, questions, think)
    try:
        _fit(loaded, inputs, max_new_tokens)
    except ContextLengthError as error:
        longest = int(inputs["attention_mask"].sum(-1).argmax())
        if len(questions) > 1:
            return _write(loaded, [questions[longest]], max_new_tokens, think)  # fails, with numbers of its own
        if not questions[0].key:
            raise
        raise ContextLengthError(f"{questions[0].key}: {error.what}", remedy=error.remedy) from None
    terminators = terminator_ids(model, processor.tokenizer)
    arguments = {
        **GenerationOptions().resolve(model.generation_config),
        "max_new_tokens": max_new_tokens,
        "eos_token_id": terminators,
        "pad_token_id": terminators[0],
    }
    cut = [cut_at_terminator(row, terminators) for row in complete(model, inputs, arguments).ids]
    return _Written(dict(inputs), [ids for ids, _ in cut], [ended for _, ended in cut])


def _prompts(loaded: Loaded, questions: list[Question], think: bool) -> Any:
    return loaded.processor.apply_chat_template(
        [list(question.messages) for question in questions],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        enable_thinking=think,
    )


def _fit(loaded: Loaded, inputs: Any, max_new_tokens: int) -> None:
    fit_answer(
        prompt=int(inputs["input_ids"].shape[1]),
        visual=count_visual_tokens(loaded.model, inputs),
        context=context_length(loaded.model),
        wanted=max_new_tokens,
        default=max_new_tokens,
    )


def _answer_of(loaded: Loaded, ids: list[int], think: bool) -> str:
    return split_reasoning(decode(loaded.processor.tokenizer, ids), thinking=think).answer
