"""How sure a figure is: 95 % confidence intervals for shares and for ratios of sums.

    right, asked        -> share  -> Estimate(value, low, high)      Wilson's score interval
    errors, characters  -> ratio  -> Estimate(value, low, high)      percentile bootstrap over samples

A share of 100 % out of 100 is no proof of perfection; Wilson's interval says 96 to 100 %, where a bootstrap would say
100 to 100 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from minicpmv.errors import OptionError

_Z_95 = 1.959963984540054
"""The 97.5th percentile of the normal distribution."""

NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def share(num_right: int, num_asked: int) -> Estimate:
    """A share with Wilson's score interval.

    Args:
        num_right: how often it was right.
        num_asked: how often it was tried, at least once.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927).

    >>> estimate = share(100, 100)
    >>> round(estimate.low, 3), estimate.high
    (0.963, 1.0)
    """
    if not 0 <= num_right <= num_asked or num_asked < 1:
        raise OptionError(f"{num_right} of {num_asked} is no share.", remedy="Score at least one answer.")
    value = num_right / num_asked
    widening = _Z_95**2 / num_asked
    middle = (value + widening / 2) / (1 + widening)
    half = _Z_95 * sqrt(value * (1 - value) / num_asked + widening / (4 * num_asked)) / (1 + widening)
    return Estimate(value, min(value, max(0.0, middle - half)), max(value, min(1.0, middle + half)))


def ratio(numerators: Sequence[float], denominators: Sequence[int], *, num_resamples: int = NUM_RESAMPLES) -> Estimate:
    """Sum over sum, with the interval in which resampled data would put it.

    Samples are drawn with replacement, numerator and denominator together, from a generator of fixed seed, so the same
    data always give the same interval.

    Args:
        numerators: one per sample, for instance character errors or nats.
        denominators: one per sample, for instance characters or tokens; their sum is positive.
        num_resamples: how often the data are resampled.
    """
    if len(numerators) != len(denominators) or sum(denominators) <= 0:
        raise OptionError(
            f"{len(numerators)} numerators over {len(denominators)} denominators are no ratio.",
            remedy="Give one of each per sample, and at least one positive denominator.",
        )
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(num_resamples):  # one at a time: all at once, a hundred thousand samples would take gigabytes
        chosen = generator.integers(len(top), size=len(top))
        if (total := bottom[chosen].sum()) > 0:
            ratios.append(top[chosen].sum() / total)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))
