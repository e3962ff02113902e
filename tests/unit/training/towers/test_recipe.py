"""Stages that cannot be carried out are refused when they are read."""

import pytest

from minicpmv.errors import SettingsError
from minicpmv.training.towers.recipe import StageRecipe


def stage(**changes: object) -> StageRecipe:
    settings: dict[str, object] = {
        "name": "s",
        "objective": "answers",
        "rates": {"llm": 1e-3},
        "worlds": {"lines": 1.0},
        "steps": 10,
        "batch": 1,
        "warmup": 2,
        "decay": 0.4,
    }
    return StageRecipe(**{**settings, **changes})  # type: ignore[arg-type]


def test_the_decay_is_a_share_of_the_steps() -> None:
    factors = [stage().schedule.factor(step) for step in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert stage(decay=1.0).schedule.decay == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"rates": {"tower": 1.0}},
        {"rates": {}},
        {"steps": 0},
        {"warmup": 11},
        {"decay": 1.5},
        {"worlds": {}},
        {"muon": -1.0},
    ],
)
def test_impossible_stages_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        stage(**changes)
