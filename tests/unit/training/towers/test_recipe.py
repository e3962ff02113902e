"""Stages that cannot be carried out are refused when they are read."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from minicpmv.cli.train_towers import describe_towers
from minicpmv.errors import SettingsError
from minicpmv.recipes.loader import load_towers
from minicpmv.training.towers.recipe import ClipRecipe, StageRecipe
from minicpmv.training.towers.run import train

TOY = str(Path(__file__).parents[3] / "toy_recipe.yaml")
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
        {"name": "../s"},
        {"name": ""},
        {"rates": {"place_heads": 1e-3}},
        {"rates": {"patch_reader": 1e-3}},
        {"objective": "patches", "rates": {"llm": 1e-3}},
        {"objective": "patches", "rates": {"resampler": 1e-3}},
    ],
)
def test_impossible_stages_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        stage(**changes)


@pytest.mark.parametrize("fps", [0.0, NAN, INFINITE])
def test_clips_are_sampled_at_a_rate_that_is_a_number(fps: float) -> None:
    with pytest.raises(SettingsError, match="choose_fps"):
        ClipRecipe(choose_fps=fps, packing=6, max_frames=6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("clips.packing=7", "packing 7"),
        ("clips.max_frames=0", "max_frames 0"),
        ("seed=-1", "seed -1"),
        ("tokenizer.texts=0", "0 texts"),
        ("name=a/b", "'a/b' is no name"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_when_it_is_read(change: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        load_towers(TOY, [change])


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("stages.2.worlds={nope: 1.0}", r"'all' \(answers\) draws from nope\. Worlds are lines, "),
        ("stages.0.worlds={slots: 1.0}", r"'vision' \(patches\) draws from slots\. Worlds are strips, "),
        ("tokenizer.vocabulary=100000", "embeds 640 tokens"),
    ],
)
def test_what_would_fail_in_a_later_stage_is_refused_before_the_first(
    change: str, reason: str, dry: bool, tmp_path: Path
) -> None:
    recipe = load_towers(TOY, [change])
    begin = partial(train, folder=tmp_path, reporter=Silent(), device="cpu")
    with pytest.raises(SettingsError, match=reason):
        describe_towers(recipe) if dry else begin(recipe)
    assert not (tmp_path / "metrics.jsonl").exists()


class Silent:
    """A reporter that is never called."""

    def stage(self, stage: StageRecipe, start: int) -> None:
        raise AssertionError

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        raise AssertionError


@pytest.mark.parametrize("seconds", [-1.0, NAN])
def test_a_run_is_saved_after_a_number_of_seconds(seconds: float) -> None:
    recipe = load_towers(TOY)
    with pytest.raises(SettingsError, match="save_every_s"):
        replace(recipe, save_every_s=seconds)
