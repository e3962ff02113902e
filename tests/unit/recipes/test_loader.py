"""Every bundled recipe is valid, and says what it trains."""

import pytest

from minicpmv.errors import SettingsError
from minicpmv.model.presets import PRESETS
from minicpmv.recipes.loader import bundled_recipes, load_recipe
from minicpmv.training.towers.answers import WORLDS
from minicpmv.training.towers.objectives import READABLE


@pytest.mark.parametrize("name", sorted(bundled_recipes()))
def test_bundled_recipes_name_known_models_and_worlds(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.model in PRESETS
    for stage in recipe.stages:
        known = set(READABLE) if stage.objective == "patches" else set(WORLDS)
        assert set(stage.worlds) <= known


def test_overrides_change_a_recipe() -> None:
    assert load_recipe("nano_first", ["stages.0.steps=200", "seed=7"]).stages[0].steps == 200


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="nano_first"):
        load_recipe("nano_frist")
