import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv.errors import CheckpointError, CheckpointNotFoundError, OptionError
from minicpmv.generation import loading
from minicpmv.generation.loading import bundled_folder, find_checkpoint, load, read_config


@pytest.fixture
def broken(toy_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_folder, tmp_path / "broken"))


def test_a_folder_becomes_a_model_in_eval_mode_with_its_processor(toy_folder: Path) -> None:
    loaded = load(toy_folder, device="cpu", dtype="bfloat16")
    assert not loaded.model.training
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.name == str(toy_folder)
    assert not loaded.is_bundled
    assert loaded.processor.image_processor.scale_resolution == 112


def test_a_cpu_holds_small_models_in_float32_and_large_ones_as_they_are(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(toy_folder, tmp_path / "half"))
    load(toy_folder, device="cpu", dtype="bfloat16").model.save_pretrained(folder)
    assert load(folder, device="cpu").model.dtype == torch.float32
    monkeypatch.setattr(loading, "_SMALL", 0)
    assert load(folder, device="cpu").model.dtype == torch.bfloat16


def test_the_bundled_model_has_a_name_unless_a_folder_is_called_so(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("nano") == find_checkpoint(None) == bundled_folder()
    shutil.copytree(toy_folder, tmp_path / "nano")
    assert find_checkpoint("nano") == Path("nano")
    assert not load("nano", device="cpu").is_bundled


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "a/b/c", "~/nowhere", Path("nowhere")])
def test_a_folder_that_is_not_there_is_said_so(
    name: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="no folder") as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_a_hub_id_without_the_hub_is_one_line() -> None:
    with pytest.raises(CheckpointNotFoundError, match="nobody/nothing") as caught:
        load("nobody/nothing", device="cpu")
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"config\.json"):
        load(tmp_path)


def test_a_folder_without_weights_is_one_line(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        load(broken, device="cpu")
    assert "\n" not in str(caught.value)


def test_missing_extra_and_misshaped_tensors_are_all_named(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    del tensors["resampler.query"]
    tensors["resampler.surplus"] = torch.zeros(2)
    tensors["vpm.post_layernorm.weight"] = torch.zeros(7)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        load(broken, device="cpu")
    for name in ("resampler.query", "resampler.surplus", "vpm.post_layernorm.weight"):
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_weight_file_is_one_line(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"damaged|cannot be read") as caught:
        load(broken, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_config_that_is_no_json_is_one_line(broken: Path) -> None:
    (broken / "config.json").write_text("{")
    with pytest.raises(CheckpointError) as caught:
        load(broken, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_missing_tokenizer_is_one_line(broken: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (broken / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError) as caught:
        load(broken, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta:x"])
def test_a_device_that_cannot_be_used_is_named(toy_folder: Path, device: str) -> None:
    with pytest.raises(OptionError, match=device):
        load(toy_folder, device=device)


def test_a_dtype_that_is_none_is_refused_with_the_choices(toy_folder: Path) -> None:
    with pytest.raises(OptionError, match=r"float128.*bfloat16"):
        load(toy_folder, dtype="float128")


def test_the_official_configuration_is_read_without_weights(official_folder: Path) -> None:
    assert read_config(official_folder).text_config.num_hidden_layers == 36


def test_without_a_name_the_bundled_model_is_meant() -> None:
    try:
        folder = bundled_folder()
    except CheckpointNotFoundError:
        pytest.skip("this checkout bundles no model")
    assert find_checkpoint(None) == folder
    assert json.loads((folder / "config.json").read_text())["model_type"] == "minicpmv"
