"""Ragged attention: items of different lengths in one tensor, each attending only within itself.

    queries, keys, values [tokens, heads, d_head] + lengths per item  ->  mixed [tokens, heads, d_head]

Nothing is padded. Consecutive items of the same length form a *run* that one batched kernel call serves, and slices of
one picture, or frames of one clip, always form runs. Where a variable-length kernel exists (FlashAttention, or
PyTorch's own on recent GPUs) one call serves them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Run(NamedTuple):
    """`num_items` consecutive items of `length` tokens, the first at token `start` and item `first`."""

    start: int
    first: int
    num_items: int
    length: int


def runs(lengths: Sequence[int]) -> Iterator[Run]:
    """Group neighbours of equal length.

    >>> [tuple(run) for run in runs([4, 4, 6])]
    [(0, 0, 2, 4), (8, 2, 1, 6)]
    """
    start = first = 0
    while first < len(lengths):
        length = lengths[first]
        last = first
        while last < len(lengths) and lengths[last] == length:
            last += 1
        yield Run(start, first, last - first, length)
        start += (last - first) * length
        first = last


def eager_attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Plain attention with a float32 softmax, the official arithmetic.

    Args:
        queries: [batch, heads, m, d_head].
        keys: [batch, heads, n, d_head].
        values: [batch, heads, n, d_head].
        scale: factor on the scores.
    """
    batch, heads = queries.shape[:2]
    q, k, v = (part.flatten(0, 1) for part in (queries, keys, values))
    return torch.bmm(softmax(scaled_scores(q, k, scale)), v).unflatten(0, (batch, heads))


def scaled_scores(queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Scores of attention; scaled, and with a bias added, inside of the product instead of in passes of their own.

    Args:
        queries: [batch, m, d].
        keys: [batch, n, d].
        scale: factor on the products.
        bias: [m, n], added behind it.

    Returns:
        [batch, m, n].
    """
    beta = 0 if bias is None else 1
    return torch.baddbmm(queries.new_zeros(()) if bias is None else bias, queries, keys.mT, beta=beta, alpha=scale)


def softmax(scores: Tensor) -> Tensor:
    """Over the last axis, computed in float32, in the type of the scores.

    A CPU widens half-precision numbers inside of the kernel; a float32 copy of the scores is twice the memory traffic.
    """
    if scores.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            return torch.softmax(scores, dim=-1)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)


def attend(queries: Tensor, keys: Tensor, values: Tensor, implementation: str, scale: float) -> Tensor:
    """Attention of one batch of equally long items by the chosen kernel; shapes as in `eager_attention`."""
    if implementation == "eager":
        return eager_attention(queries, keys, values, scale)
    return F.scaled_dot_product_attention(queries, keys, values, scale=scale)


def varlen_kernel(implementation: str, sample: Tensor) -> str | None:
    """Which variable-length kernel can serve this tensor: `flash`, `torch`, or none.

    `flash_attention_2` asks for the flash-attn package. `sdpa` takes PyTorch's own varlen kernel on CUDA in half
    precision, where it exists.
    """
    if implementation.startswith("flash_attention"):
        return "flash"
    half = sample.dtype in (torch.float16, torch.bfloat16)
    if implementation != "sdpa" or sample.device.type != "cuda" or not half or sample.shape[-1] % 8:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401  (PyTorch 2.10 and later)
    except ImportError:
        return None
    return "torch"


def varlen_attention(
    kernel: str,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: tuple[Sequence[int], Sequence[int]],
    scale: float,
) -> Tensor:
    """One kernel call for all items.

    Args:
        kernel: from `varlen_kernel`.
        queries: [sum of query lengths, heads, d_head].
        keys: [sum of key lengths, heads, d_head].
        values: as keys.
        lengths: query lengths and key lengths, one number per item.
        scale: factor on the scores.
    """
    query_lengths, key_lengths = lengths
    query_offsets = _offsets(query_lengths, queries.device)
    key_offsets = _offsets(key_lengths, queries.device)
    longest = (max(query_lengths), max(key_lengths))
    if kernel == "flash":
        from flash_attn import flash_attn_varlen_func

        mixed = flash_attn_varlen_func(
            queries, keys, values, query_offsets, key_offsets, *longest, softmax_scale=scale, causal=False
        )
        return torch.as_tensor(mixed)
    from torch.nn.attention.varlen import varlen_attn

    # The kernel has no scale argument before PyTorch 2.11; folding ours into the queries is the same product.
    adjusted = queries * (scale * queries.shape[-1] ** 0.5)
    return torch.as_tensor(varlen_attn(adjusted, keys, values, query_offsets, key_offsets, *longest))


def _offsets(lengths: Sequence[int], device: torch.device) -> Tensor:
    totals = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    totals[1:] = torch.cumsum(torch.tensor(list(lengths), dtype=torch.int32), 0)
    return totals.to(device)


def self_attention(
    queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int], *, implementation: str, scale: float
) -> Tensor:
    """Every item attends to itself only.

    Args:
        queries: [tokens, heads, d_head]; keys and values alike.
        keys: see `queries`.
        values: see `queries`.
        lengths: tokens of each item; they sum to `tokens`.
        implementation: `eager`, `sdpa` or `flash_attention_2`.
        scale: factor on the scores.

    Returns:
        [tokens, heads, d_head].
    """
    kernel = varlen_kernel(implementation, queries) if len(set(lengths)) > 1 else None
    if implementation.startswith("flash_attention"):
        kernel = "flash"
    if kernel is not None:
        return varlen_attention(kernel, queries, keys, values, (lengths, lengths), scale)
    pieces = []
    for run in runs(lengths):
        end = run.start + run.num_items * run.length
        q, k, v = (
            x[run.start : end].unflatten(0, (run.num_items, run.length)).transpose(1, 2)
            for x in (queries, keys, values)
        )
        pieces.append(attend(q, k, v, implementation, scale).transpose(1, 2).flatten(0, 1))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def query_attention(
    queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int], *, implementation: str, scale: float
) -> Tensor:
    """The same few queries read every group of keys.

    Args:
        queries: [queries, heads, d_head], shared by all groups.
        keys: [tokens, heads, d_head].
        values: as keys.
        lengths: keys of each group; they sum to `tokens`.
        implementation: `eager`, `sdpa` or `flash_attention_2`.
        scale: factor on the scores.

    Returns:
        [groups, queries, heads, d_head].
    """
    kernel = varlen_kernel(implementation, keys)
    if kernel is not None and (kernel == "flash" or len(set(lengths)) > 1):
        groups = len(lengths)
        many = queries[None].expand(groups, -1, -1, -1).flatten(0, 1).contiguous()
        query_lengths = [queries.shape[0]] * groups
        return varlen_attention(kernel, many, keys, values, (query_lengths, lengths), scale).unflatten(0, (groups, -1))
    pieces = []
    for run in runs(lengths):
        end = run.start + run.num_items * run.length
        k, v = (x[run.start : end].unflatten(0, (run.num_items, run.length)).transpose(1, 2) for x in (keys, values))
        q = queries.transpose(0, 1)[None].expand(run.num_items, -1, -1, -1)
        pieces.append(attend(q, k, v, implementation, scale).transpose(1, 2))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
