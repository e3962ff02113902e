"""Towers that go on from a model: what they take over, and what stays new."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from minicpmv.errors import CheckpointError, CheckpointNotFoundError
from minicpmv.generation.loading import bundled_folder, load, read_processor
from minicpmv.recipes.loader import load_stage, load_towers
from minicpmv.training.stage import open_stage
from minicpmv.training.towers.recipe import StageRecipe
from minicpmv.training.towers.run import build_model, prepare_tokenizer, train
from minicpmv.training.towers.taking_over import take_over

TOY = Path(__file__).parents[3] / "toy_recipe.yaml"


class Silent:
    """A reporter that says nothing."""

    def stage(self, stage: StageRecipe, start: int) -> None: ...

    def step(self, step: int, numbers: Mapping[str, float]) -> None: ...


def test_tower_and_language_model_go_on_and_the_resampler_is_new(tmp_path: Path) -> None:
    recipe = load_towers("nano_towers", ["tokenizer.texts=500"])
    blank, model = build_model(recipe).state_dict(), build_model(recipe)
    tokenizer = prepare_tokenizer(recipe, tmp_path)
    take_over(model, bundled_folder(), tokenizer)
    taken, bundled = model.state_dict(), load(bundled_folder()).model.state_dict()
    words = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")
    for name, tensor in taken.items():
        source = blank if name.startswith("resampler.") else bundled
        if name not in words:
            assert torch.equal(tensor, source[name].float()), name
    theirs, mine = read_processor(bundled_folder()).tokenizer.get_vocab(), tokenizer.get_vocab()
    assert mine["<think>"] != theirs["<think>"]
    for token in ("a", "Z", "<think>", "<image>", "<|im_end|>"):
        for name in words:
            assert torch.equal(taken[name][mine[token]], bundled[name][theirs[token]].float()), token


def test_what_no_stage_trains_is_the_start_s_at_the_end_of_a_run(tmp_path: Path) -> None:
    recipe = replace(load_towers("nano_towers", ["tokenizer.texts=500"]), start="nano", precision="fp32")
    stage = replace(recipe.stages[-1], steps=1, warmup=0, batch=1)
    train(replace(recipe, stages=(stage,)), tmp_path, reporter=Silent(), device="cpu")
    weights = load_file(tmp_path / "checkpoint" / "weights.safetensors")
    bundled = load(bundled_folder()).model.state_dict()
    norm, matrix = "llm.model.norm.weight", "vpm.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(weights[norm], bundled[norm].float())
    moved = (weights[matrix] - bundled[matrix].float()).abs().max()
    assert 0 < moved < 0.1, "it has learned, from there"


@pytest.mark.parametrize(
    ("start", "error", "told"),
    [
        ("nano", CheckpointError, "hidden_size 256 instead of"),
        ("nano_sft_9", CheckpointNotFoundError, "goes on from nano_sft_9"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(start: str, error: type[Exception], told: str, tmp_path: Path) -> None:
    recipe = replace(load_towers(str(TOY)), start=start)
    with pytest.raises(error, match=told):
        train(recipe, tmp_path / "toy", reporter=Silent(), device="cpu")


def test_a_damaged_start_is_told_as_one(tmp_path: Path) -> None:
    shutil.copytree(bundled_folder(), tmp_path / "broken")
    with (tmp_path / "broken" / "model.safetensors").open("r+b") as file:
        file.truncate(3_000_000)
    recipe = load_towers("nano_towers", ["tokenizer.texts=500", "precision=fp32"])
    recipe = replace(recipe, start=str(tmp_path / "broken"))
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        train(recipe, tmp_path / "run", reporter=Silent(), device="cpu")
    stage = load_stage("nano_sft", [f"start={tmp_path / 'broken'}"])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        open_stage(stage, tmp_path / "sft", Accelerator(cpu=True))
