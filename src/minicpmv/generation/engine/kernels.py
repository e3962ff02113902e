"""What a step runs with: memory for keys and values, attention in blocks, and products that suit its number of rows."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from minicpmv.generation.engine.attention import IN_BLOCKS, KVMemory
from minicpmv.generation.engine.blocks import BlockPool

_ONEDNN_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""What torch's own compiler calls for linear layers; there is no public name for it. No gradient goes through it."""
_LARGE = 2**19
"""Numbers of a weight from which on oneDNN is worth being called. Measured."""

if TYPE_CHECKING:
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration


def products_for(model: "MiniCPMVForConditionalGeneration", num_rows: int) -> AbstractContextManager[Any]:
    """Matrix products for a step of so many tokens.

    On a CPU oneDNN is the fastest way to multiply many rows of bfloat16, and the slowest for a single one: without it a
    weight is read at the full bandwidth of the memory, which is all that a product with one row can hope for. In
    float32 it is the other way round: torch leaves products to MKL, which needs up to four times as long as oneDNN
    where two to a hundred rows meet a large weight. `bench/products.py` measures both.

    Args:
        model: whose number type and device decide.
        num_rows: tokens of the step.
    """
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return nullcontext()
    if num_rows == 1 and model.llm.dtype == torch.bfloat16:
        return without_onednn()
    if num_rows > 1 and model.llm.dtype == torch.float32 and _ONEDNN_LINEAR is not None:
        return _OneDNNProducts()
    return nullcontext()


class _OneDNNProducts(TorchFunctionMode):
    """Inside, in this thread, large linear layers in float32 are multiplied by oneDNN."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and not kwargs and args[1].numel() >= _LARGE and args[0].dtype == args[1].dtype:
            return _ONEDNN_LINEAR(args[0], args[1], args[2] if len(args) > 2 else None, "none", [], "")
        return func(*args, **(kwargs or {}))


@contextmanager
def without_onednn() -> Iterator[None]:
    """Products inside are torch's own."""
    onednn: Any = torch.backends.mkldnn  # its `flags` would change other switches too
    before, onednn.enabled = onednn.enabled, False
    try:
        yield
    finally:
        onednn.enabled = before


_locks: "WeakKeyDictionary[MiniCPMVForConditionalGeneration, threading.RLock]" = WeakKeyDictionary()
_making = threading.Lock()


def alone_with(model: "MiniCPMVForConditionalGeneration") -> "threading.RLock":
    """Held by whoever calls a model: how it attends is a switch of the model, not of a call.

    The engine holds it for a step, transformers' `generate` for a whole answer.
    """
    with _making:
        return _locks.setdefault(model, threading.RLock())


@contextmanager
def attending_in_blocks(model: "MiniCPMVForConditionalGeneration") -> Iterator[None]:
    """The language model attends to blocks of KV memory inside."""
    config: Any = model.llm.config
    with alone_with(model):
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
