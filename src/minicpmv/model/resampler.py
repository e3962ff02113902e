"""The unified 3D-Resampler: the patches of one slice, or of one frame pack, become `query_num` tokens.

    features [patches, d_vision] -> keys = features + position (+ time), values = features
                                 -> learned queries attend once per pack -> tokens [packs, queries, d_llm]

A picture slice is a pack of one frame without a time, so pictures and clips share every weight. The third dimension has
no parameters at all: a fixed sinusoid of the frame's time is added to the keys, and the frames of a pack are simply
concatenated. Frames of one pack may differ in shape.

Source: resampler.py of MiniCPM-V 4.5 (arXiv 2509.18154, unified 3D-Resampler). Deviation: patches are concatenated
instead of padded and masked; outputs agree (tests/parity/test_resampler_vectors.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minicpmv.errors import ShapeContractError
from minicpmv.model.positions import sinusoid_2d, time_codes
from minicpmv.model.ragged import query_attention

HEAD_WIDTH = 128


class ResamplerAttention(nn.Module):
    """The parameters of a multi-head attention with one fused input projection, under the checkpoint's names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int], implementation: str
    ) -> Tensor:
        """Shared queries read each pack.

        Args:
            queries: [queries, d].
            keys: [patches, d].
            values: [patches, d].
            lengths: patches of each pack.
            implementation: attention path.

        Returns:
            [packs, queries, d].
        """
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (-1, HEAD_WIDTH))
            for x, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        mixed = query_attention(q, k, v, lengths, implementation=implementation, scale=HEAD_WIDTH**-0.5)
        return self.out_proj(mixed.flatten(-2))


class Resampler(nn.Module):
    """Compress each slice or frame pack into a fixed number of language-model tokens.

    Args:
        num_queries: tokens per pack.
        width: d_llm; a multiple of 128.
        vision_width: d_vision.
        eps: of the three layer norms.
    """

    def __init__(self, num_queries: int, width: int, vision_width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(num_queries, width))
        self.proj = nn.Parameter(torch.empty(width, width))
        self.kv_proj = nn.Linear(vision_width, width, bias=False)
        self.attn = ResamplerAttention(width)
        self.ln_q = nn.LayerNorm(width, eps=eps)
        self.ln_kv = nn.LayerNorm(width, eps=eps)
        self.ln_post = nn.LayerNorm(width, eps=eps)

    def forward(
        self,
        features: Tensor,
        shapes: Sequence[tuple[int, int]],
        packs: Sequence[int],
        times: Tensor,
        implementation: str = "sdpa",
    ) -> Tensor:
        """Resample every pack.

        Args:
            features: [patches, d_vision], items one after another.
            shapes: (rows, columns) of each item.
            packs: pack index of each item, non-decreasing.
            times: int64 [items], time id of each item, -1 for none.
            implementation: attention path, `eager`, `sdpa` or `flash_attention_2`.

        Returns:
            [packs, queries, d_llm].

        Raises:
            ShapeContractError: pack indices decrease or skip.
        """
        values = self.ln_kv(self.kv_proj(features))
        keys = self._add_positions(values, shapes, times)
        lengths = _pack_lengths(shapes, packs)
        mixed = self.attn(self.ln_q(self.query), keys, values, lengths, implementation)
        return self.ln_post(mixed) @ self.proj

    def _add_positions(self, values: Tensor, shapes: Sequence[tuple[int, int]], times: Tensor) -> Tensor:
        """Values plus place and time; two separate additions in the values' dtype, as the checkpoint was trained."""
        width = values.shape[-1]
        codes = time_codes(times.to(values.device), width).to(values.dtype)
        pieces, start, item = [], 0, 0
        for (rows, columns), group in groupby(shapes):
            count, area = len(list(group)), rows * columns
            place = sinusoid_2d(rows, columns, width, values.device).to(values.dtype)
            block = values[start : start + count * area].unflatten(0, (count, area))
            pieces.append((block + place[None] + codes[item : item + count, None]).flatten(0, 1))
            start, item = start + count * area, item + count
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _pack_lengths(shapes: Sequence[tuple[int, int]], packs: Sequence[int]) -> list[int]:
    """Patches of each pack."""
    lengths: list[int] = []
    for (rows, columns), pack in zip(shapes, packs, strict=True):
        if pack == len(lengths):
            lengths.append(0)
        elif pack != len(lengths) - 1:
            raise ShapeContractError(
                f"item_packs goes to {pack} after {len(lengths) - 1}.",
                remedy="Number packs 0, 1, 2, ... with the items of a pack together.",
            )
        lengths[pack] += rows * columns
    return lengths
