"""Perplexity: among how many equally likely tokens a model seems to choose when it is given the true answer.

    questions -> prompt and true answer as ids -> log probabilities -> Loss per answer -> PerplexityScore

Counted is what the model itself would write in the short mode: the answer and the token that ends it. The empty think
block before it is part of the prompt there, and four tokens that are never in doubt would make every model look better.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import exp

from minicpmv.evaluation.intervals import Estimate, ratio
from minicpmv.evaluation.likelihood import log_probabilities
from minicpmv.evaluation.question import Question
from minicpmv.generation.loading import Loaded
from minicpmv.generation.running import context_length
from minicpmv.messages import Message, TextPart
from minicpmv.processing.collate import IGNORED


@dataclass(frozen=True, slots=True)
class Loss:
    """Negative log likelihood of one true answer in nats, all its tokens together, and their number."""

    nats: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class PerplexityScore:
    """How well a model foresees true answers.

    Attributes:
        task: full name of the task.
        num_samples: answers that were weighed.
        num_tokens: tokens of all of them.
        perplexity: exp of the mean negative log likelihood per token; 1 is certainty.
        seconds: time for drawing the questions and weighing the answers.
    """

    task: str
    num_samples: int
    num_tokens: int
    perplexity: Estimate
    seconds: float


def weigh_all(loaded: Loaded, questions: Iterable[Question], *, batch_size: int = 32) -> Iterator[list[Loss]]:
    """Losses of true answers batch by batch, in order.

    Args:
        loaded: the model and its processor.
        questions: drawn only when their batch is due.
        batch_size: conversations per pass.

    Raises:
        ContextLengthError: a conversation does not fit the model's context.
    """
    waiting = iter(questions)
    while batch := list(islice(waiting, batch_size)):
        yield weigh_batch(loaded, batch)


def weigh_batch(loaded: Loaded, questions: Sequence[Question]) -> list[Loss]:
    """Losses of the true answers to several questions, in one pass.

    Args:
        loaded: the model and its processor.
        questions: with their true answers.

    Raises:
        ContextLengthError: a conversation does not fit the model's context.
    """
    render = loaded.processor.apply_chat_template
    told = [[*question.messages, Message("assistant", (TextPart(question.answer),))] for question in questions]
    inputs = render(
        told,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_labels=True,
        padding_side="right",
        max_length=context_length(loaded.model),
    )
    for row, question in zip(inputs["labels"], questions, strict=True):
        opening = render(
            list(question.messages),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            enable_thinking=False,
        )
        row[: opening["input_ids"].shape[1]] = IGNORED
    return [Loss(-sum(row), len(row)) for row in log_probabilities(loaded.model, inputs)]


def score_perplexity(task: str, losses: Sequence[Loss], seconds: float) -> PerplexityScore:
    """The figure of one task, with the interval in which resampled answers would put it.

    Args:
        task: its full name.
        losses: one per answer.
        seconds: how long they took.

    Raises:
        OptionError: there are none.
    """
    mean = ratio([loss.nats for loss in losses], [loss.num_tokens for loss in losses])
    perplexity = Estimate(exp(mean.value), exp(mean.low), exp(mean.high))
    return PerplexityScore(task, len(losses), sum(loss.num_tokens for loss in losses), perplexity, seconds)
