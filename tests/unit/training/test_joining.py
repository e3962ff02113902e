"""A model out of somebody's language model and somebody's vision tower."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from minicpmv.errors import CheckpointError
from minicpmv.generation.loading import bundled_folder, load, read_processor
from minicpmv.model.presets import PRESETS
from minicpmv.training.joining import join_parts, resized_table, rows_by_token
from minicpmv.training.recipe import JoinRecipe

NANO = PRESETS["nano"]
PATCHES_A_SIDE = 5


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random parts of nano's sizes, as transformers saves them: more rows than tokens, a small position table."""
    folder = tmp_path_factory.mktemp("parts")
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    sizes = {name: NANO[name] for name in (*names, "head_dim")}
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(vocab_size=600, tie_word_embeddings=False, **sizes)).save_pretrained(folder / "llm")
    read_processor(bundled_folder()).tokenizer.save_pretrained(folder / "llm")
    vision = {name: NANO["vision_config"][name] for name in names[:4]}
    side = 14 * PATCHES_A_SIDE
    SiglipVisionModel(SiglipVisionConfig(image_size=side, patch_size=14, **vision)).save_pretrained(folder / "vpm")
    return folder


def recipe(parts: Path, **changes: str) -> JoinRecipe:
    names = {"llm": str(parts / "llm"), "vpm": str(parts / "vpm"), "processor": str(bundled_folder())}
    return JoinRecipe(name="mine", preset="nano", **{**names, **changes})


def test_both_parts_are_taken_over_and_the_resampler_is_blank(parts: Path, tmp_path: Path) -> None:
    joined = load(join_parts(recipe(parts), tmp_path)).model.state_dict()
    llm = Qwen3ForCausalLM.from_pretrained(parts / "llm", dtype=torch.bfloat16).state_dict()
    vpm = SiglipVisionModel.from_pretrained(parts / "vpm", dtype=torch.bfloat16).state_dict()
    for name, tensor in llm.items():
        mine = joined[f"llm.{name}"]
        assert torch.equal(mine, tensor[: len(mine)]), name
    for name, tensor in vpm.items():
        short = name.removeprefix("vision_model.")
        if not short.startswith("head.") and "position_embedding" not in short:
            assert torch.equal(joined[f"vpm.{short}"], tensor), name
    assert torch.isfinite(joined["resampler.query"]).all()
    assert 0.01 < joined["resampler.query"].float().std() < 0.03
    assert (joined["resampler.ln_q.weight"] == 1).all()
    assert (joined["resampler.ln_q.bias"] == 0).all()


def test_the_same_seed_gives_the_same_model(parts: Path, tmp_path: Path) -> None:
    one, other = (load(join_parts(recipe(parts), tmp_path / name)).model.resampler for name in ("one", "other"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_rows_follow_their_tokens_and_new_tokens_are_the_mean() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]])
    moved = rows_by_token(rows, {"a": 0, "b": 1, "old": 2}, {"b": 0, "new": 1, "a": 2}, 4)
    assert moved.tolist() == [[3.0, 4.0], [2.0, 3.0], [1.0, 2.0], [2.0, 3.0]]
    with pytest.raises(CheckpointError, match="share no token"):
        rows_by_token(rows, {"a": 0}, {"b": 0}, 2)


def test_a_position_table_keeps_its_directions() -> None:
    down, across = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    table = torch.stack([down, across], -1).reshape(16, 2)
    larger = resized_table(table, 8).reshape(8, 8, 2)
    assert (larger[2:6].diff(dim=0)[..., 0] > 0.3).all()
    assert (larger[:, 2:6].diff(dim=1)[..., 1] > 0.3).all()
    assert torch.allclose(larger[:, 0, 1], larger[0, 0, 1].expand(8), atol=1e-5)
    assert resized_table(table, 4) is table


def test_parts_of_other_sizes_are_refused_with_the_sizes(parts: Path, tmp_path: Path) -> None:
    small = SiglipVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    SiglipVisionModel(small).save_pretrained(tmp_path / "small")
    with pytest.raises(CheckpointError, match="hidden_size 32 instead of 192") as caught:
        join_parts(recipe(parts, vpm=str(tmp_path / "small")), tmp_path / "run")
    assert "patch_size 16 instead of 14" in str(caught.value)
    with pytest.raises(CheckpointError, match="neither a folder nor in the hub cache"):
        join_parts(recipe(parts, llm="nobody/nothing"), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
