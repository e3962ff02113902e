"""Stages that cannot be carried out are refused when they are read."""

from dataclasses import replace
from pathlib import Path

import pytest

from minicpmv.errors import SettingsError
from minicpmv.recipes.loader import load_towers
from minicpmv.training.towers.recipe import ClipRecipe, StageRecipe

NAN, INFINITE = float("nan"), float("inf")


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
        {"muon": NAN},
        {"rates": {"llm": NAN}},
        {"rates": {"llm": INFINITE}},
        {"rates": {"llm": 0.0}},
        {"worlds": {"lines": NAN}},
        {"worlds": {"lines": INFINITE}},
        {"patch_loss": NAN},
        {"slot_loss": -1.0},
        {"objective": "patches", "place_loss": NAN},
        {"decay": NAN},
    ],
)
def test_impossible_stages_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        stage(**changes)


@pytest.mark.parametrize("fps", [0.0, NAN, INFINITE])
def test_clips_are_sampled_at_a_rate_that_is_a_number(fps: float) -> None:
    with pytest.raises(SettingsError, match="choose_fps"):
        ClipRecipe(choose_fps=fps, packing=6, max_frames=6)


@pytest.mark.parametrize("seconds", [-1.0, NAN])
def test_a_run_is_saved_after_a_number_of_seconds(seconds: float) -> None:
    recipe = load_towers(str(Path(__file__).parents[3] / "toy_recipe.yaml"))
    with pytest.raises(SettingsError, match="save_every_s"):
        replace(recipe, save_every_s=seconds)
