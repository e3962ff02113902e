"""The next token of one request, from its logits: penalties, what a grammar allows, temperature, top-k, top-p.

    logits [vocabulary] + SamplingParams + ids so far -> choose -> Choice(token, logprob, top)

Each request draws from a generator of its own, so its answer does not depend on who else is being served.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minicpmv.errors import OptionError

_LEAST_TEMPERATURE = 1e-6
"""Below it the most probable token has all the probability there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How the tokens of a request are chosen. The defaults give the most probable one."""

    temperature: float = 0.0
    """0 takes the most probable token."""

    top_p: float = 1.0
    """Draw from the most probable tokens that together have this probability."""

    top_k: int = 0
    """Draw from this many most probable tokens; 0 means all."""

    min_p: float = 0.0
    """Draw from tokens with at least this share of the probability of the most probable one."""

    repetition_penalty: float = 1.0
    """Above 1, tokens that the answer already holds become less probable. The prompt does not count."""

    presence_penalty: float = 0.0
    """Taken from the logits of tokens that the answer holds."""

    frequency_penalty: float = 0.0
    """Taken from the logits of tokens, once for each time the answer holds them."""

    seed: int | None = None
    """Makes sampling repeatable."""

    logprobs: int | None = None
    """Also say how probable the chosen token was, and so many of the most probable ones."""

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("temperature", 0.0, 100.0),
            ("top_k", 0, 2**31),
            ("min_p", 0.0, 1.0),
            ("repetition_penalty", 0.01, 100.0),
            ("presence_penalty", -2.0, 2.0),
            ("frequency_penalty", -2.0, 2.0),
            ("logprobs", 0, 20),
        ):
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise OptionError(f"{name} is {value}.", remedy=f"It must be from {lowest:g} to {highest:g}.")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top_p is {self.top_p}.", remedy="It must be above 0 and at most 1.")

    @property
    def penalises(self) -> bool:
        """Whether what the answer holds already matters."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def generator(self) -> torch.Generator | None:
        """A source of randomness of its own; None where nothing is drawn."""
        if self.temperature == 0:
            return None
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed % 2**63)
        return generator


@dataclass(frozen=True, slots=True)
class Choice:
    """A token, and if it was asked for, how probable it and the most probable ones were (natural logarithms)."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choose(
    logits: Tensor,
    params: SamplingParams,
    written: Sequence[int],
    generator: torch.Generator | None,
    *,
    allowed: Tensor | None = None,
) -> Choice:
    """The next token.

    Args:
        logits: [vocabulary], changed in place.
        params: how to choose.
        written: ids of the answer so far.
        generator: of the request.
        allowed: bool [vocabulary], what may come next; None for everything.
    """
    logits = logits.float()
    if params.penalises and written:
        _penalise(logits, params, written)
    if allowed is not None:
        logits[: len(allowed)].masked_fill_(~allowed, float("-inf"))
        logits[len(allowed) :] = float("-inf")
    token = _drawn(logits, params, generator) if params.temperature > 0 else int(logits.argmax())
    if params.logprobs is None:
        return Choice(token)
    logprobs = torch.log_softmax(logits, -1)
    values, ids = logprobs.topk(params.logprobs) if params.logprobs else (logprobs[:0], logprobs[:0])
    top = tuple((int(index), float(value)) for index, value in zip(ids.tolist(), values.tolist(), strict=True))
    return Choice(token, float(logprobs[token]), top)


def _penalise(logits: Tensor, params: SamplingParams, written: Sequence[int]) -> None:
    ids, counts = torch.tensor(written, device=logits.device).unique(return_counts=True)
    held = logits[ids]
    penalty = params.repetition_penalty
    held = torch.where(held > 0, held / penalty, held * penalty)
    logits[ids] = held - params.presence_penalty - params.frequency_penalty * counts


def _drawn(logits: Tensor, params: SamplingParams, generator: torch.Generator | None) -> int:
    """A token at random. With top-k only those are sorted, which is what makes a large vocabulary cheap."""
    num = params.top_k if 0 < params.top_k < len(logits) else len(logits)
    needs_order = num < len(logits) or params.top_p < 1 or params.min_p > 0
    scores, ids = logits.topk(num) if needs_order else (logits, torch.arange(len(logits), device=logits.device))
    # From the best one down, and by no less than one can divide by: a tiny temperature must not make 0 / 0.
    probabilities = torch.softmax((scores - scores.max()) / max(params.temperature, _LEAST_TEMPERATURE), -1)
    if params.top_p < 1:
        is_beyond = probabilities.cumsum(-1) - probabilities >= params.top_p
        is_beyond[0] = False  # whatever the sums are rounded to
        probabilities = probabilities.masked_fill(is_beyond, 0.0)
    if params.min_p > 0:
        probabilities = probabilities.masked_fill(probabilities < params.min_p * probabilities[0], 0.0)
    place = torch.multinomial(probabilities.cpu(), 1, generator=generator)
    return int(ids[int(place)])
