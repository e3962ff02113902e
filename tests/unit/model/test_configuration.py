"""Configurations: the official flat file goes in and comes out again, and sizes are those of the releases."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Qwen3Config

from minicpmv.errors import ConfigurationError
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.model.presets import PRESETS

WRITTEN_ANEW = {"transformers_version", "_name_or_path"}


def on_meta(config: MiniCPMVConfig) -> MiniCPMVForConditionalGeneration:
    with torch.device("meta"):
        return MiniCPMVForConditionalGeneration(config)


def saved(config: MiniCPMVConfig, folder: Path) -> dict[str, Any]:
    config.save_pretrained(folder)
    written: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return written


def test_the_official_file_loses_nothing_on_its_way_through(official_folder: Path, tmp_path: Path) -> None:
    official = json.loads((official_folder / "config.json").read_text())
    written = saved(MiniCPMVConfig.from_pretrained(official_folder), tmp_path)
    for key, value in official.items():
        if key not in WRITTEN_ANEW:
            assert key in written, key
            kept = {k: written[key][k] for k in value} if isinstance(value, dict) else written[key]
            assert kept == value, key


def test_a_second_round_trip_changes_nothing(official_folder: Path, tmp_path: Path) -> None:
    first = saved(MiniCPMVConfig.from_pretrained(official_folder), tmp_path / "first")
    second = saved(MiniCPMVConfig.from_pretrained(tmp_path / "first"), tmp_path / "second")
    assert first == second


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_written_in_the_official_flat_layout_and_read_back(name: str, tmp_path: Path) -> None:
    config = MiniCPMVConfig.preset(name)
    written = saved(config, tmp_path)
    assert written["model_type"] == "minicpmv"
    assert written["hidden_size"] == config.text_config.hidden_size
    assert "text_config" not in written
    for key, value in PRESETS[name].items():
        kept = {k: written[key][k] for k in value} if key == "vision_config" else written.get(key)
        assert kept == value, key
    again = MiniCPMVConfig.from_pretrained(tmp_path)
    assert again.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}
    assert again.text_config.to_dict() == config.text_config.to_dict()


def test_the_preset_of_the_release_is_the_releases_own_file(official_folder: Path) -> None:
    official = json.loads((official_folder / "config.json").read_text())
    assert {key: value for key, value in official.items() if key in PRESETS["4.5"]} == PRESETS["4.5"]
    assert set(official) - set(PRESETS["4.5"]) <= WRITTEN_ANEW | {"model_type", "auto_map"}


def test_presets_are_not_shared_between_configurations() -> None:
    MiniCPMVConfig.preset("toy").slice_config["max_slice_nums"] = 1
    assert MiniCPMVConfig.preset("toy").slice_config["max_slice_nums"] == 9


def test_4_5_speaks_qwen3_and_4_0_speaks_llama_with_its_longrope() -> None:
    assert isinstance(MiniCPMVConfig.preset("4.5").text_config, Qwen3Config)
    older = MiniCPMVConfig.preset("4.0").text_config
    assert isinstance(older, LlamaConfig)
    assert older.rope_parameters["rope_type"] == "longrope"
    assert len(older.rope_parameters["long_factor"]) == 64


def test_longrope_of_4_0_is_a_fixed_rescale_of_each_frequency() -> None:
    """Factor 1 and equal short and long lists: no dependence on length, no change of attention's temperature."""
    config = MiniCPMVConfig.preset("4.0")
    config.text_config.num_hidden_layers = 1
    config.vision_config.num_hidden_layers = 1
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rotary = LlamaRotaryEmbedding(config.text_config)
    factors = torch.tensor(PRESETS["4.0"]["rope_scaling"]["long_factor"])
    expected = 1 / (factors * 10000 ** (torch.arange(0, 128, 2).float() / 128))
    torch.testing.assert_close(rotary.inv_freq, expected, atol=0, rtol=2e-6)
    assert rotary.attention_scaling == 1.0
    short, long = (rotary(torch.zeros(1), torch.arange(n)[None])[0][0, :16] for n in (16, 32_700))
    assert torch.equal(short, long)


def test_class_defaults_are_the_official_ones_where_the_file_is_silent() -> None:
    bare = MiniCPMVConfig()
    assert bare.drop_vision_last_layer is True
    assert bare.slice_config == {"max_slice_nums": 1}
    assert bare.use_image_id is True
    assert bare.vision_batch_size == 16
    assert bare.scale_resolution == 448
    assert bare.num_vision_layers == 26


def test_language_settings_are_readable_on_the_whole() -> None:
    config = MiniCPMVConfig.preset("4.5")
    assert (config.hidden_size, config.num_key_value_heads, config.vocab_size) == (4096, 8, 151748)
    assert not hasattr(config, "no_such_setting")


def test_the_attention_choice_reaches_all_parts() -> None:
    config = MiniCPMVConfig.preset("toy")
    config._attn_implementation = "eager"
    assert config.text_config._attn_implementation == config.vision_config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hidden_size": 192}, "192 is not a multiple of 128"),
        ({"query_num": 0}, "query_num is 0"),
        ({"version": "newest"}, "version is 'newest'"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        MiniCPMVConfig(**{**PRESETS["toy"], **change})


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"Known: toy, nano, 4\.0, 4\.5"):
        MiniCPMVConfig.preset("5.0")


def test_the_released_4_5_has_the_published_tensors_and_bytes(official_folder: Path) -> None:
    state = on_meta(MiniCPMVConfig.preset("4.5")).state_dict()
    index = json.loads((official_folder / "model.safetensors.index.json").read_text())
    assert set(state) == set(index["weight_map"])
    assert len(state) == 849
    assert 2 * sum(tensor.numel() for tensor in state.values()) == 17_391_790_560 == index["metadata"]["total_size"]
    parts = dict.fromkeys(("llm", "vpm", "resampler"), 0)
    for name, tensor in state.items():
        parts[name.split(".")[0]] += tensor.numel()
    assert parts == {"llm": 8_189_195_264, "vpm": 417_792_240, "resampler": 88_907_776}


def test_4_0_has_the_published_size() -> None:
    state = on_meta(MiniCPMVConfig.preset("4.0")).state_dict()
    assert len(state) == 741
    assert sum(tensor.numel() for tensor in state.values()) == 4_059_533_040


def test_nano_keeps_to_its_budget() -> None:
    assert sum(p.numel() for p in on_meta(MiniCPMVConfig.preset("nano")).parameters()) <= 12_000_000
