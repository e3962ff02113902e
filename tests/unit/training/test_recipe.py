"""Stages that cannot be carried out are refused when they are read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import SettingsError
from minicpmv.recipes.loader import load_stage
from minicpmv.training.recipe import DenseRecipe, LoraRecipe, MediaRecipe, TrainingRecipe

NAN, INFINITE = float("nan"), float("inf")


@pytest.fixture(scope="module")
def recipe() -> TrainingRecipe:
    return load_stage(str(Path(__file__).parents[2] / "toy_stage.yaml"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rates": {"llm": NAN}}, "rates"),
        ({"rates": {"resampler": 1e-4, "llm": NAN}}, "rates"),
        ({"rates": {"llm": INFINITE}}, "rates"),
        ({"rates": {"llm": 0.0}}, "rates"),
        ({"rates": {"tower": 1.0}}, "rates to tower"),
        ({"rates": {}}, "nothing that can learn"),
        ({"muon": NAN}, "muon nan"),
        ({"muon": -1.0}, "muon -1"),
        ({"muon": INFINITE}, "muon inf"),
        ({"most_flawed": -0.1}, "most_flawed"),
        ({"most_flawed": 5.0}, "most_flawed"),
        ({"most_flawed": NAN}, "most_flawed"),
        ({"save_every_s": NAN}, "save_every_s"),
        ({"save_every_s": -1.0}, "save_every_s"),
        ({"batch": 0}, "batch of 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_numbers_out_of_their_ranges_are_refused(changes: dict[str, Any], says: str, recipe: TrainingRecipe) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        replace(recipe, **changes)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_norm": 0.0},
        {"clip_norm": -1.0},
        {"clip_norm": NAN},
        {"weight_decay": NAN},
        {"weight_decay": -0.1},
        {"weight_decay": INFINITE},
        {"betas": (0.9, 1.0)},
        {"betas": (NAN, 0.95)},
    ],
)
def test_optimisers_that_cannot_learn_are_refused(changes: dict[str, Any], recipe: TrainingRecipe) -> None:
    with pytest.raises(SettingsError, match=next(iter(changes))):
        replace(recipe.optimiser, **changes)


def test_gradients_need_not_be_clipped(recipe: TrainingRecipe) -> None:
    assert replace(recipe.optimiser, clip_norm=INFINITE).clip_norm == INFINITE


@pytest.mark.parametrize("weight", ["patches", "slots", "things", "places"])
@pytest.mark.parametrize("value", [-1.0, NAN, INFINITE])
def test_weights_of_dense_losses_are_numbers(weight: str, value: float) -> None:
    with pytest.raises(SettingsError, match="Dense losses weigh"):
        DenseRecipe(**{"rate": 1e-3, weight: value})


@pytest.mark.parametrize("rate", [-1.0, NAN, INFINITE, 0.0])
def test_heads_learn_at_a_rate_that_is_a_number(rate: float) -> None:
    with pytest.raises(SettingsError, match="at a rate of"):
        DenseRecipe(rate=rate)


@pytest.mark.parametrize("fps", [(NAN, 2.0), (1.0, NAN), (1.0, INFINITE), (2.0, 1.0), (0.0, 1.0)])
def test_frames_are_sampled_at_rates_that_are_numbers(fps: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match="fps"):
        MediaRecipe(fps=fps)


@pytest.mark.parametrize("whole", [("resampler",), ("resampler", "llm")])
def test_adapters_with_nothing_to_adapt_are_refused(whole: tuple[str, ...], recipe: TrainingRecipe) -> None:
    """As where only the resampler learns, which is small enough to learn whole."""
    rates = dict.fromkeys(whole, 1e-4)
    with pytest.raises(SettingsError, match=f"all that learns does so whole: {', '.join(whole)}"):
        replace(recipe, rates=rates, lora=LoraRecipe(rank=2, alpha=4, whole=whole))
    replace(recipe, rates={**rates, "vpm": 1e-4}, lora=LoraRecipe(rank=2, alpha=4, whole=whole))
