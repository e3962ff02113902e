import numpy as np
import pytest

from minicpmv.errors import OptionError
from minicpmv.evaluation.intervals import ratio, share


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"), [(90, 100, 0.8256, 0.9448), (0, 10, 0.0, 0.2775), (1, 2, 0.0945, 0.9055)]
)
def test_a_share_has_wilsons_interval(right: int, asked: int, low: float, high: float) -> None:
    """Expected values: worked out by hand from the formula with z = 1.96."""
    estimate = share(right, asked)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((right / asked, low, high), abs=5e-4)


def test_everything_right_is_no_proof_of_perfection() -> None:
    assert share(100, 100).low < 0.97
    assert share(100, 100).high == 1.0


def test_a_ratio_is_sum_over_sum_and_not_the_mean_of_ratios() -> None:
    assert ratio([0, 9], [1, 9]).value == pytest.approx(0.9)


def test_a_ratio_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(60):
        draw = np.random.default_rng(trial)
        lengths = draw.integers(5, 30, size=80)
        estimate = ratio(draw.binomial(lengths, 0.1).tolist(), lengths.tolist(), num_resamples=300)
        covered += estimate.low <= 0.1 <= estimate.high
    assert covered >= 51  # fewer than 85 % has a probability below 0.2 % if the interval covers 95 %


def test_the_same_data_give_the_same_interval() -> None:
    assert ratio([1, 0, 2], [5, 6, 7]) == ratio([1, 0, 2], [5, 6, 7])


def test_nothing_is_no_figure() -> None:
    for call in (lambda: share(0, 0), lambda: share(3, 2), lambda: ratio([], []), lambda: ratio([1], [1, 2])):
        with pytest.raises(OptionError):
            call()
