"""Every bundled recipe is valid, says what it trains, and runs."""

import json

import pytest

from minicpmv.cli.main import main
from minicpmv.cli.train_stage import RELEASED, with_own_data
from minicpmv.data.sources import open_mixture
from minicpmv.errors import SettingsError
from minicpmv.generation.loading import BUNDLED
from minicpmv.model.presets import PRESETS
from minicpmv.recipes.loader import bundled_recipes, load_recipe, load_stage, load_towers
from minicpmv.training.recipe import TrainingRecipe
from minicpmv.training.towers.answers import WORLDS
from minicpmv.training.towers.objectives import READABLE
from minicpmv.training.towers.recipe import TowersRecipe


@pytest.mark.parametrize("name", sorted(bundled_recipes()))
def test_bundled_recipes_name_known_models_and_worlds(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    if isinstance(recipe, TowersRecipe):
        assert recipe.model in PRESETS
        for stage in recipe.stages:
            known = set(READABLE) if stage.objective == "patches" else set(WORLDS)
            assert set(stage.worlds) <= known
    else:
        assert recipe.start in {*RELEASED, BUNDLED}
        assert open_mixture(recipe.data, recipe.seed).next()


def test_overrides_change_a_recipe() -> None:
    assert load_towers("nano_first", ["stages.0.steps=200", "seed=7"]).stages[0].steps == 200
    assert load_stage("sft", ["schedule.floor=0.5"]).schedule.floor == 0.5


def test_an_unknown_name_lists_the_known_ones_and_suggests_the_nearest() -> None:
    with pytest.raises(SettingsError, match="Did you mean nano_first"):
        load_recipe("nano_frist")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("rates={llm: 1e-4}", "YAML reads 1e-4 as text"),
        ("rates={lm: 1.0e-4}", "rates to lm"),
        ("rate={llm: 1.0}", "Did you mean 'rates'"),
        ("batch=0", "batch of 0"),
        ("schedule.steps=5", "warm-up"),
        ("data={}", "no data"),
        ("data={a: {world: ask, path: b.jsonl}}", "world and path"),
        ("media={packing: [6, 1]}", "packing"),
        ("sharding=some", "Choose one of"),
    ],
)
def test_a_stage_that_cannot_be_carried_out_is_refused_when_it_is_read(change: str, reason: str) -> None:
    with pytest.raises(Exception, match=reason) as caught:
        load_stage("nano_sft", [change])
    assert hasattr(caught.value, "remedy")


def test_adapters_and_sharding_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="sharding"):
        load_stage("nano_sft", ["sharding=full", "lora={rank: 2, alpha: 4}"])


def test_tiny_keeps_the_shape_of_a_schedule() -> None:
    recipe = with_own_data(load_stage("sft"), model=None, data=[], epochs=None, lora=False, tiny=True)
    assert isinstance(recipe, TrainingRecipe)
    assert (recipe.schedule.steps, recipe.schedule.warmup, recipe.schedule.decay) == (2, 0, 2)
    assert recipe.batch == 4


def test_adapters_learn_faster_and_leave_the_resampler_whole() -> None:
    recipe = with_own_data(load_stage("sft"), model=None, data=[], epochs=None, lora=True, tiny=False)
    assert recipe.lora is not None
    assert recipe.lora.whole == ("resampler",)
    assert recipe.rates == pytest.approx({"llm": 1e-4, "resampler": 1e-5, "vpm": 1e-4})


def test_recipes_are_compared_setting_by_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "diff", "sft", "nano_sft", "--json"]) == 0
    changes = json.loads(capsys.readouterr().out)
    assert changes["start"] == {"first": "openbmb/MiniCPM-V-4_5", "second": "nano"}
    assert changes["rates.llm"] == {"first": 1e-5, "second": 5e-4}
    assert "seed" not in changes
    assert main(["recipes", "diff", "nano_first", "sft"]) == 0
    assert "stages.vision.objective" in capsys.readouterr().out
    assert main(["recipes", "diff", "sft", "sft"]) == 0
    assert capsys.readouterr().out == ""
