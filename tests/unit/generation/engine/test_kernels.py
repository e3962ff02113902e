"""Products by phase: only a single row of bfloat16 on a CPU does without oneDNN, and only for as long as it takes."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [2, 16, 200])
def test_large_products_in_float32_go_through_onednn_and_come_out_the_same(bias: bool, rows: int) -> None:
    """Worst relative difference over 30 seeds: 4e-7, sums in another order; the tolerance is three times that."""
    with torch.random.fork_rng():
        torch.manual_seed(rows)
        large, small = nn.Linear(1024, 512, bias=bias), nn.Linear(64, 64, bias=bias)
        inputs, narrow = torch.randn(1, rows, 1024), torch.randn(rows, 64)
    called = []
    with torch.inference_mode():
        true, exact = large(inputs), small(narrow)
        with products_for(model(torch.float32), rows), torch.profiler.profile() as profile:
            found, same = large(inputs), small(narrow)
        called = [event.key for event in profile.key_averages()]
    assert any("_linear_pointwise" in key for key in called)
    assert found.shape == true.shape
    assert float((found - true).norm() / true.norm()) < 1.2e-6
    assert torch.equal(same, exact)


def test_other_threads_are_left_alone() -> None:
    seen: list[bool] = []
    with products_for(model(torch.float32), 4):
        thread = threading.Thread(target=lambda: seen.append(bool(torch.overrides._get_current_function_mode_stack())))
        thread.start()
        thread.join()
        assert torch.overrides._get_current_function_mode_stack()
    assert seen == [False]
