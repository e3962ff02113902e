"""Every bundled recipe is valid, says what it trains, and runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest

from minicpmv.cli.main import main
from minicpmv.cli.train_stage import RELEASED, lora_changes, tiny_stage
from minicpmv.data.sample import Sample
from minicpmv.data.sources import SourceRecipe, open_mixture
from minicpmv.errors import SettingsError
from minicpmv.generation.loading import BUNDLED, bundled_folder
from minicpmv.messages import TextPart, VideoPart
from minicpmv.model.presets import PRESETS
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.recipes.loader import (
    ChainRecipe,
    bundled_recipes,
    load_members,
    load_recipe,
    load_stage,
    load_towers,
    root_of,
)
from minicpmv.training.feeding import encode_sample
from minicpmv.training.recipe import JoinRecipe, TrainingRecipe
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
    elif isinstance(recipe, ChainRecipe):
        members = load_members(recipe)
        drawn = [
            (member.seed, name) for member in members if isinstance(member, TrainingRecipe) for name in member.data
        ]
        assert len(set(drawn)) == len(drawn), "no stage repeats the samples of another"
        assert [member.start for member in members if isinstance(member, TrainingRecipe)] == [
            member.name for member in members[:-1]
        ]
    elif isinstance(recipe, JoinRecipe):
        assert recipe.preset in PRESETS
    else:
        assert recipe.start in {*RELEASED, BUNDLED, *bundled_recipes()}
        assert open_mixture(recipe.data, recipe.seed).next()
        assert recipe.decay_data is None or open_mixture(recipe.decay_data, recipe.seed).next()


@pytest.mark.parametrize("name", ["nano_pretrain_3", "8b_pretrain_3"])
def test_more_knowledge_is_learned_from_in_the_decay(name: str) -> None:
    recipe = load_stage(name)
    assert recipe.decay_data is not None
    dense = ("ask", "restore", "reason", "facts")
    stable, decay = (
        {world: sum(share for leaf, share in leaves if leaf == world) for world in dense}
        for leaves in (_worlds(recipe.data), _worlds(recipe.decay_data))
    )
    assert sum(decay.values()) > 1.2 * sum(stable.values())
    assert all(decay[world] >= stable[world] for world in dense), (stable, decay)


def _worlds(data: Mapping[str, SourceRecipe], share: float = 1.0) -> list[tuple[str, float]]:
    """Every leaf's world with its share of the samples."""
    total = sum(source.weight for source in data.values())
    return [
        leaf
        for source in data.values()
        for leaf in (
            _worlds(source.parts, share * source.weight / total)
            if source.parts
            else [(source.world or "", share * source.weight / total)]
        )
    ]


def test_long_clips_are_seen_whole_and_fit_into_a_row() -> None:
    """Nano looks at six frames if nobody asks for more, and in small packs a long clip would be left out."""
    recipe = load_stage("nano_sft_2")
    processor = MiniCPMVProcessor.from_pretrained(bundled_folder())
    mixture = open_mixture({"long": recipe.data["long_clips"]}, recipe.seed)
    for number in range(20):
        sample = mixture.next()[1]
        assert isinstance(sample, Sample)
        part = sample.media[0]
        assert isinstance(part, VideoPart)
        assert part.frames is not None
        assert part.packing is not None
        assert len(part.frames) > recipe.data["clips"].options["num_frames"][1]
        generator = np.random.default_rng(number)
        encoded = encode_sample(sample, processor, recipe.media, recipe.rows.tokens, generator)
        assert len(encoded.slots) == -(-len(part.frames) // part.packing)


def test_overrides_change_a_recipe() -> None:
    assert load_towers("nano_towers", ["stages.0.steps=200", "seed=7"]).stages[0].steps == 200
    assert load_stage("sft", ["schedule.floor=0.5"]).schedule.floor == 0.5


def test_an_unknown_name_lists_the_known_ones_and_suggests_the_nearest() -> None:
    with pytest.raises(SettingsError, match="Did you mean nano_towers"):
        load_recipe("nano_towesr")


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
        ("media={packing: [0, 6]}", "packing"),
        ("sharding=some", "Choose one of"),
        ("lora={rank: 0, alpha: 1}", "rank 0"),
        ("dense={heads: nano_towers, patches: -1.0}", "Dense losses weigh"),
        ("dense={heads: nano_towers, places: -1.0}", "Dense losses weigh 1, 1, 0 and -1"),
        ("dense={heads: null}", "come from nowhere and learn at a rate of 0"),
        ("dense={heads: nano_towers, rate: -1.0}", "learn at a rate of -1"),
    ],
)
def test_a_stage_that_cannot_be_carried_out_is_refused_when_it_is_read(change: str, reason: str) -> None:
    with pytest.raises(Exception, match=reason) as caught:
        load_stage("nano_sft", [change])
    assert hasattr(caught.value, "remedy")


def test_adapters_and_sharding_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="sharding"):
        load_stage("nano_sft", ["sharding=full", "lora={rank: 2, alpha: 4}"])
    with pytest.raises(SettingsError, match="heads that learn"):
        load_stage("nano_sft", ["sharding=full", "dense={rate: 1.0}"])


def test_tiny_keeps_the_shape_of_a_schedule() -> None:
    recipe = tiny_stage(load_stage("sft"))
    assert (recipe.schedule.steps, recipe.schedule.warmup, recipe.schedule.decay) == (2, 0, 2)
    assert recipe.batch == 4


def test_adapters_learn_faster_and_leave_the_resampler_whole() -> None:
    recipe = load_stage("sft", lora_changes(load_stage("sft")))
    assert recipe.lora is not None
    assert recipe.lora.whole == ("resampler",)
    assert recipe.rates == pytest.approx({"llm": 1e-4, "resampler": 1e-5, "vpm": 1e-4})


def test_recipes_are_compared_setting_by_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "diff", "sft", "nano_sft", "--json"]) == 0
    changes = json.loads(capsys.readouterr().out)
    assert changes["start"] == {"first": "openbmb/MiniCPM-V-4_5", "second": "nano"}
    assert changes["rates.llm"] == {"first": 1e-5, "second": 5e-4}
    assert "seed" not in changes
    assert main(["recipes", "diff", "nano_towers", "sft"]) == 0
    assert "stages.vision.objective" in capsys.readouterr().out
    assert main(["recipes", "diff", "sft", "sft"]) == 0
    assert capsys.readouterr().out == ""


def test_a_change_for_a_chain_names_its_recipe() -> None:
    chain = load_recipe("nano")
    assert isinstance(chain, ChainRecipe)
    members = {member.name: member for member in load_members(chain, ["nano_sft_1.batch=8", "nano_towers.seed=5"])}
    assert (members["nano_sft_1"].batch, members["nano_towers"].seed) == (8, 5)  # type: ignore[union-attr]
    for change in ("batch=8", "nano_sft.batch=8", "nano_sft_1=8"):
        with pytest.raises(SettingsError, match="changes no recipe of nano"):
            load_members(chain, [change])


def test_two_recipes_of_one_name_are_no_chain(tmp_path: Path) -> None:
    for name in ("a", "b"):
        copyfile(bundled_recipes()["nano_sft"], tmp_path / f"{name}.yaml")
    chain = ChainRecipe(name="mine", chain=(str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")))
    with pytest.raises(SettingsError, match="both say `name: nano_sft`"):
        load_members(chain)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("chain: []", "mine chains []"),
        ("chain: [nano_sft, nano_sft]", "mine chains"),
        ("chain: [nano]", "nano is a chain within a chain"),
        ("chain: [nano_sft_3]", "There is no recipe 'nano_sft_3'"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(f"name: mine\n{text}\n", encoding="utf-8")
    assert main(["train", str(tmp_path / "mine.yaml"), "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert reason in capsys.readouterr().err


def test_the_first_weights_of_a_stage_are_found_through_all_before_it() -> None:
    assert root_of(load_stage("nano_sft_2")) == load_towers("nano_towers")
    assert root_of(load_stage("8b_sft_2")) == load_recipe("8b_join")
    assert root_of(load_stage("nano_sft")) == BUNDLED


def test_full_size_recipes_have_the_published_rates_and_who_learns() -> None:
    """Section 2.2.1 and appendix A of arXiv 2509.18154."""
    everyone = {"llm", "resampler", "vpm"}
    learning = {1: {"resampler"}, 2: {"resampler", "vpm"}, 3: everyone}
    for number, parts in learning.items():
        full, nano = load_stage(f"8b_pretrain_{number}"), load_stage(f"nano_pretrain_{number}")
        assert full.rates == dict.fromkeys(parts, 5e-5)
        assert set(nano.rates) == parts
        assert nano.schedule.shape == full.schedule.shape
    assert load_stage("8b_pretrain_3").schedule.floor * 5e-5 == pytest.approx(1e-5)
    for name, peak, end in (("8b_sft_1", 1e-5, 1e-6), ("8b_sft_2", 5e-6, 1e-6), ("sft", 1e-5, 1e-6)):
        recipe = load_stage(name)
        assert recipe.rates == dict.fromkeys(everyone, peak)
        assert recipe.schedule.shape == "cosine"
        assert recipe.schedule.floor * peak == pytest.approx(end)


@pytest.mark.parametrize("name", ["nano_sft_1", "8b_sft_1"])
def test_a_tenth_of_the_instructions_is_text_alone(name: str) -> None:
    """Section 2.3.1 of arXiv 2509.18154."""
    recipe = load_stage(name)
    text = recipe.data["text"]
    assert text.weight / sum(source.weight for source in recipe.data.values()) == pytest.approx(0.1)
    mixture = open_mixture({"text": text}, seed=0)
    drawn = [mixture.next()[1] for _ in range(20)]
    parts = [part for sample in drawn if isinstance(sample, Sample) for part in sample.messages[0].parts]
    assert len(parts) >= 20
    assert all(isinstance(part, TextPart) for part in parts)
