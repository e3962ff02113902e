"""Products by phase: only a single row of bfloat16 on a CPU does without oneDNN, and only for as long as it takes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from minicpmv.generation.engine.kernels import kv_memory, products_for
from minicpmv.model.configuration import MiniCPMVConfig


def model(dtype: torch.dtype, device: str = "cpu") -> Any:
    return SimpleNamespace(device=torch.device(device), llm=SimpleNamespace(dtype=dtype))


def is_on() -> bool:
    return bool(torch._C._get_mkldnn_enabled())


@pytest.mark.parametrize(
    ("dtype", "device", "rows", "without"),
    [
        (torch.bfloat16, "cpu", 1, True),
        (torch.bfloat16, "cpu", 2, False),
        (torch.float32, "cpu", 1, False),
        (torch.bfloat16, "meta", 1, False),
    ],
)
def test_products(dtype: torch.dtype, device: str, rows: int, without: bool) -> None:
    before = is_on()
    with products_for(model(dtype, device), rows):
        assert is_on() == (before and not without)
    assert is_on() == before


def test_the_switch_is_thrown_back_after_an_error() -> None:
    before = is_on()
    with pytest.raises(ZeroDivisionError), products_for(model(torch.bfloat16), 1):
        raise ZeroDivisionError
    assert is_on() == before


def test_kv_memory_is_what_was_asked_for_and_no_more_than_can_be_filled() -> None:
    config = MiniCPMVConfig.preset("toy")
    text: Any = config.get_text_config()
    given: Any = SimpleNamespace(config=config, llm=SimpleNamespace(dtype=torch.bfloat16), device=torch.device("cpu"))
    width = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 2  # keys and values, two bytes each
    memory, pool = kv_memory(given, block_tokens=32, tokens=None, most_bytes=100 * width, most_tokens=10_000)
    assert pool.num_blocks == 3
    assert memory.num_bytes == 96 * width
    assert kv_memory(given, block_tokens=32, tokens=64, most_bytes=10**9, most_tokens=10_000)[1].num_blocks == 2
    assert kv_memory(given, block_tokens=32, tokens=None, most_bytes=10**9, most_tokens=320)[1].num_blocks == 10
