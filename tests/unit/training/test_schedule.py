"""Schedules have golden values."""

import pytest

from minicpmv.errors import SettingsError
from minicpmv.training.schedule import Schedule


def factors(schedule: Schedule) -> list[float]:
    return [schedule.factor(step) for step in range(schedule.steps)]


def test_wsd_warms_up_stays_and_comes_down_in_a_line() -> None:
    wsd = Schedule(steps=10, warmup=2, decay=4)
    assert factors(wsd) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert wsd.decay_begins == 6


def test_exponential_wsd_loses_the_same_share_in_every_step_and_ends_at_the_floor() -> None:
    """5e-5 held, then down to 1e-5: the pre-training rates of the paper."""
    wsd = Schedule(steps=8, decay=4, shape="exponential", floor=0.2)
    values = factors(wsd)
    assert values[:5] == [1.0] * 5
    assert [later / earlier for earlier, later in zip(values[4:], values[5:], strict=False)] == pytest.approx(
        [0.2**0.25] * 3
    )
    assert wsd.factor(8) == pytest.approx(0.2)


def test_cosine_comes_down_from_the_end_of_the_warm_up() -> None:
    """1e-5 to 1e-6: the fine-tuning rates of the paper."""
    cosine = Schedule(steps=5, warmup=1, decay=4, shape="cosine", floor=0.1)
    assert factors(cosine) == pytest.approx([1.0, 1.0, 0.868198, 0.55, 0.231802], abs=1e-6)
    assert cosine.factor(5) == pytest.approx(0.1)


def test_without_decay_the_rate_stays() -> None:
    assert factors(Schedule(steps=3)) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"warmup": -1},
        {"warmup": 6, "decay": 5},
        {"floor": 1.5},
        {"shape": "exponential", "decay": 2, "floor": 0.0},
    ],
)
def test_impossible_schedules_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Schedule(**{"steps": 10, **changes})  # type: ignore[arg-type]
