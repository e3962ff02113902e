"""accelerate may spread the model over devices, memory and disk: the answer stays the same.

There is one device on a test machine, so layers are kept on disk or in memory and brought in as they are needed; the
hooks that carry tensors between places are the same ones that carry them between accelerators.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model, infer_auto_device_map, init_empty_weights, load_checkpoint_and_dispatch

from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

from .samples import MIXED, collate, lively_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:accelerate", "ignore::FutureWarning:accelerate")


def answer(model: MiniCPMVForConditionalGeneration) -> torch.Tensor:
    out: torch.Tensor = model.generate(**collate(*MIXED), max_new_tokens=5, do_sample=False, pad_token_id=0)
    return out


def test_a_device_map_to_one_device_loads_the_same_model(tmp_path: Path) -> None:
    model = lively_model()
    model.save_pretrained(tmp_path)
    again = MiniCPMVForConditionalGeneration.from_pretrained(tmp_path, device_map={"": "cpu"})
    assert torch.equal(answer(again), answer(model))


def test_layers_on_disk_give_the_same_answer(tmp_path: Path) -> None:
    """Every part is split: half of the tower, the resampler, and one layer of the language model are on disk."""
    model = lively_model()
    model.save_pretrained(tmp_path / "model", max_shard_size="200KB")
    device_map: dict[str, Any] = {
        "llm.model.embed_tokens": "cpu",
        "llm.model.layers.0": "cpu",
        "llm.model.layers.1": "disk",
        "llm.model.norm": "cpu",
        "llm.model.rotary_emb": "cpu",
        "llm.lm_head": "cpu",
        "vpm.embeddings": "disk",
        "vpm.encoder.layers.0": "cpu",
        "vpm.encoder.layers.1": "disk",
        "vpm.post_layernorm": "cpu",
        "resampler": "disk",
    }
    split = MiniCPMVForConditionalGeneration.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    assert split.resampler.query.device.type == "meta", "the resampler should be on disk"
    assert torch.equal(answer(split), answer(model))


def test_a_model_in_memory_can_be_dispatched_to_disk(tmp_path: Path) -> None:
    expected = answer(lively_model())
    model = lively_model()
    device_map = {"llm": "cpu", "vpm": "disk", "resampler": "cpu"}
    split = dispatch_model(model, device_map, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    assert torch.equal(answer(split), expected)


@pytest.mark.parametrize("name", ["4.5", "4.0"])
def test_a_map_inferred_for_little_memory_splits_no_block(name: str) -> None:
    config = MiniCPMVConfig.preset(name)
    with init_empty_weights():
        model = MiniCPMVForConditionalGeneration(config)
    sizes = sum(p.numel() * 4 for p in model.parameters())
    device_map = infer_auto_device_map(
        model,
        max_memory={0: sizes // 3, "cpu": sizes // 3, "disk": sizes},
        no_split_module_classes=list(model._no_split_modules),
    )
    assert {str(place) for place in device_map.values()} >= {"0", "cpu"}
    inside = [key for key in device_map if key.startswith("resampler.")]
    inside += [key for key in device_map if "layers." in key and not key.split("layers.")[1].isdigit()]
    assert inside == []


def test_accelerates_own_loader_reads_the_folder(tmp_path: Path) -> None:
    model = lively_model()
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    with init_empty_weights(include_buffers=False):
        empty = MiniCPMVForConditionalGeneration(MiniCPMVConfig.preset("toy"))
    loaded = load_checkpoint_and_dispatch(empty, tmp_path, device_map={"": "cpu"}).eval()
    assert torch.equal(answer(loaded), answer(model))
