"""What a step runs with: memory for keys and values, attention in blocks, and products that suit its number of rows."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from minicpmv.generation.engine.attention import IN_BLOCKS, KVMemory
from minicpmv.generation.engine.blocks import BlockPool

if TYPE_CHECKING:
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration


def products_for(model: "MiniCPMVForConditionalGeneration", num_rows: int) -> AbstractContextManager[None]:
    """Matrix products for a step of so many tokens.

    On a CPU oneDNN is the fastest way to multiply many rows of bfloat16, and the slowest for a single one: without it a
    weight is read at the full bandwidth of the memory, which is all that a product with one row can hope for.
    `bench/products.py` measures it. The switch is the whole process's, so it is thrown for the step alone.

    Args:
        model: whose number type and device decide.
        num_rows: tokens of the step.
    """
    if num_rows == 1 and model.device.type == "cpu" and model.llm.dtype == torch.bfloat16:
        return without_onednn()
    return nullcontext()


@contextmanager
def without_onednn() -> Iterator[None]:
    """Products inside are torch's own."""
    onednn: Any = torch.backends.mkldnn  # its `flags` would change other switches too
    before, onednn.enabled = onednn.enabled, False
    try:
        yield
    finally:
        onednn.enabled = before


@contextmanager
def attending_in_blocks(model: "MiniCPMVForConditionalGeneration") -> Iterator[None]:
    """The language model attends to blocks of KV memory inside."""
    config: Any = model.llm.config
    before = config._attn_implementation
    config._attn_implementation = IN_BLOCKS
    try:
        yield
    finally:
        config._attn_implementation = before


def kv_memory(
    model: "MiniCPMVForConditionalGeneration",
    *,
    block_tokens: int,
    tokens: int | None,
    most_bytes: int,
    most_tokens: int,
) -> tuple[KVMemory, BlockPool]:
    """Memory for keys and values, and the blocks of it.

    Args:
        model: whose keys and values they are.
        block_tokens: tokens of a block.
        tokens: how many there should be room for; None: as many as `most_bytes` hold.
        most_bytes: counts only without `tokens`.
        most_tokens: what requests could ever fill; more is not taken.
    """
    text: Any = model.config.get_text_config()
    heads, width = text.num_key_value_heads, getattr(text, "head_dim", None)
    width = width or text.hidden_size // text.num_attention_heads
    dtype = model.llm.dtype
    token_bytes = 2 * text.num_hidden_layers * heads * width * dtype.itemsize
    pool = BlockPool(min(tokens or most_bytes // token_bytes, most_tokens) // block_tokens, block_tokens)
    shape = (pool.num_blocks, block_tokens, heads, width)
    return KVMemory(text.num_hidden_layers, shape, dtype, model.device), pool
