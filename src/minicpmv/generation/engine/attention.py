"""Attention of a step in which many requests take part, over KV memory that lies in blocks.

    queries, keys, values of a step's tokens [1, heads, tokens, d_head] + StepLayout -> attend_in_blocks -> mixed

Keys and values of the step are written into their blocks first. Then requests with equally many new tokens attend
together: those that write an answer have one each, those that read a prompt a piece of it.
It registers itself with transformers' attention functions under the name `blocks`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from minicpmv.errors import ShapeContractError

IN_BLOCKS = "blocks"

_MOST_PADDING = 1.5
"""Requests attend together while the longest has at most this many times the tokens of the shortest. Ours."""
_MOST_SCORES = 2**24
"""Scores of a group that are kept at once; larger groups attend in parts, which bounds memory. Ours: 32 MiB of bool."""


class KVMemory:
    """Keys and values of all layers, [blocks, block tokens, heads, d_head] each.

    Args:
        num_layers: of the language model.
        shape: blocks, block tokens, key heads, d_head.
        dtype: of keys and values.
        device: where they are.
    """

    def __init__(
        self, num_layers: int, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.keys = [_zeros(shape, dtype, device) for _ in range(num_layers)]
        self.values = [_zeros(shape, dtype, device) for _ in range(num_layers)]

    @property
    def num_bytes(self) -> int:
        """Of everything."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def clear(self, blocks: Sequence[int]) -> None:
        """Set blocks to zero. What nobody may look at is multiplied by zero, which does not help against a NaN."""
        index = torch.tensor(blocks, dtype=torch.long, device=self.keys[0].device)
        for tensor in (*self.keys, *self.values):
            tensor.index_fill_(0, index, 0)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros whose memory is taken when it is first written to, on a CPU."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)


@dataclass(frozen=True, slots=True)
class Group:
    """Requests with equally many new tokens.

    Attributes:
        rows: int64 [requests, new tokens], places among the step's tokens.
        blocks: int64 [requests, blocks], block tables; short ones are filled with any block.
        seen: bool [requests, 1, new tokens, blocks * block tokens], what each token may look at; None for everything.
    """

    rows: Tensor
    blocks: Tensor
    seen: Tensor | None


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Where the tokens of a step belong.

    Attributes:
        memory: keys and values.
        places: int64 [tokens], block * block tokens + offset of every token.
        groups: cover all tokens.
    """

    memory: KVMemory
    places: Tensor
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A request's part of a step: `length` tokens from `start` on, and the blocks of everything up to their end."""

    start: int
    length: int
    blocks: Sequence[int]


def lay_out(runs: Sequence[Run], memory: KVMemory) -> StepLayout:
    """The layout of a step.

    Args:
        runs: of every request that takes part, in the order of the step's tokens.
        memory: keys and values.
    """
    block_tokens = memory.keys[0].shape[1]
    device = memory.keys[0].device
    firsts, places, first = [], [], 0
    for run in runs:
        firsts.append(first)
        first += run.length
        table = torch.tensor(run.blocks)
        positions = torch.arange(run.start, run.start + run.length)
        places.append(table[positions // block_tokens] * block_tokens + positions % block_tokens)
    groups = [
        _group(part, [runs[index] for index in part], firsts, block_tokens, device)
        for part in _grouped(runs, block_tokens)
    ]
    return StepLayout(memory, torch.cat(places).to(device), tuple(groups))


def _grouped(runs: Sequence[Run], block_tokens: int) -> list[list[int]]:
    """Places of runs that attend together: of one length, and with about as much to look at."""
    order = sorted(range(len(runs)), key=lambda index: (runs[index].length, runs[index].start))
    groups: list[list[int]] = []
    for index in order:
        run = runs[index]
        if groups:
            shortest = runs[groups[-1][0]]
            wide = run.start + run.length > _MOST_PADDING * (shortest.start + shortest.length) + 4 * block_tokens
            scores = (len(groups[-1]) + 1) * run.length * (run.start + run.length)
            if run.length == shortest.length and not wide and scores <= _MOST_SCORES:
                groups[-1].append(index)
                continue
        groups.append([index])
    return groups


def _group(
    part: Sequence[int], runs: Sequence[Run], firsts: Sequence[int], block_tokens: int, device: torch.device
) -> Group:
    length = runs[0].length
    ends = [run.start + length for run in runs]
    num_blocks = -(-max(ends) // block_tokens)
    tables = torch.zeros(len(runs), num_blocks, dtype=torch.long)
    for row, run in enumerate(runs):
        used = run.blocks[: -(-ends[row] // block_tokens)]
        tables[row, : len(used)] = torch.tensor(used)
    rows = torch.tensor([firsts[index] for index in part])[:, None] + torch.arange(length)
    last_seen = torch.tensor([run.start for run in runs])[:, None] + torch.arange(length)
    seen = torch.arange(num_blocks * block_tokens) <= last_seen[:, :, None]
    mask = None if bool(seen.all()) else seen[:, None].to(device)
    return Group(rows.to(device), tables.to(device), mask)


def attend_in_blocks(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: StepLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of every token of a step to everything before it in its own request.

    Args:
        module: the layer; its `layer_idx` says whose keys and values these are.
        query: [1, heads, tokens, d_head].
        key: [1, key heads, tokens, d_head].
        value: like `key`.
        attention_mask: not used; there is none.
        scaling: factor on the scores.
        layout: where the tokens belong.

    Returns:
        [1, tokens, heads, d_head], and no weights.

    Raises:
        ShapeContractError: there is no layout, so this is no step of the engine.
    """
    if layout is None:
        raise ShapeContractError(
            "Attention in blocks got no layout.",
            remedy="It is the engine's; call model.set_attn_implementation('sdpa').",
        )
    layer: Any = module.layer_idx
    keys, values = layout.memory.keys[layer], layout.memory.values[layer]
    keys.flatten(0, 1).index_copy_(0, layout.places, key[0].transpose(0, 1).to(keys.dtype))
    values.flatten(0, 1).index_copy_(0, layout.places, value[0].transpose(0, 1).to(values.dtype))
    mixed = torch.empty_like(query[0].transpose(0, 1))
    for group in layout.groups:
        seen = _attend(query[0][:, group.rows].transpose(0, 1), keys, values, group, scaling)
        mixed[group.rows] = seen.to(mixed.dtype)  # under autocast it is another
    return mixed[None], None


def _attend(query: Tensor, keys: Tensor, values: Tensor, group: Group, scaling: float) -> Tensor:
    """What the tokens of a group see, [requests, new tokens, heads, d_head].

    Args:
        query: [requests, heads, new tokens, d_head].
        keys: of all blocks, [blocks, block tokens, key heads, d_head].
        values: like `keys`.
        group: whose tokens they are.
        scaling: factor on the scores.
    """
    k, v = (_gathered(stored, group.blocks).to(query.dtype) for stored in (keys, values))
    num_heads, num_key_heads = query.shape[1], k.shape[1]
    if query.shape[2] > 1 or num_heads == num_key_heads:
        shared = num_heads != num_key_heads
        out = F.scaled_dot_product_attention(query, k, v, attn_mask=group.seen, scale=scaling, enable_gqa=shared)
        return out.transpose(1, 2)
    # Query heads that share a key head are as good as more tokens that see the same. On a CPU this is up to ten times
    # as fast as letting torch share: every key is read once, and by whole products.
    folded = query.squeeze(2).unflatten(1, (num_key_heads, -1))
    out = F.scaled_dot_product_attention(folded, k, v, attn_mask=group.seen, scale=scaling)
    return out.flatten(1, 2)[:, None]


def _gathered(stored: Tensor, blocks: Tensor) -> Tensor:
    """Keys or values of a group's blocks, [requests, heads, blocks * block tokens, d_head]."""
    found = stored.index_select(0, blocks.flatten())
    return found.view(len(blocks), -1, *stored.shape[2:]).transpose(1, 2)


AttentionInterface.register(IN_BLOCKS, attend_in_blocks)
