"""Positions: which row of the learned table a patch takes, and the fixed sinusoids of the resampler.

Three codes meet in this family. The vision tower looks up a learned 70 x 70 table by *bucket*; the resampler adds a
2-D sinusoid of (row, column) and, for frames with a time, a 1-D sinusoid of the time id. All are computed on demand
from the sizes at hand: the official code stores a 72000-row time table of 1.18 GB for the same numbers.

Source: modeling_navit_siglip.py and resampler.py of MiniCPM-V 4.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=4096)
def bucket_ids(num_patches: int, num_buckets: int = 70) -> tuple[int, ...]:
    """Table coordinate of each patch along a side of `num_patches`.

    The side is laid over the table proportionally. The rule is float32 arithmetic, not exact fractions: for 25 patches
    the fifth falls into bucket 13 and not 14. Checkpoints were trained with that rounding, so it is reproduced by the
    same operations on the CPU.

    >>> bucket_ids(25)[:7]
    (0, 2, 5, 8, 11, 13, 16)
    """
    count = torch.tensor(num_patches, dtype=torch.int32, device="cpu")
    step = (1 / count).item()
    with torch.device("cpu"):
        fractions = torch.arange(0, 1 - 1e-6, step, dtype=torch.float32)
        edges = torch.arange(1 / num_buckets, 1.0, 1 / num_buckets, dtype=torch.float32)
        ids = torch.bucketize(fractions, edges, right=True)
    return tuple(ids.tolist())


@lru_cache(maxsize=1024)
def _item_position_ids(rows: int, columns: int, num_buckets: int) -> Tensor:
    row_ids = torch.tensor(bucket_ids(rows, num_buckets), device="cpu")
    column_ids = torch.tensor(bucket_ids(columns, num_buckets), device="cpu")
    return (row_ids[:, None] * num_buckets + column_ids[None, :]).flatten()


def patch_position_ids(shapes: Sequence[tuple[int, int]], num_buckets: int = 70) -> Tensor:
    """Row of the learned position table for every patch of a ragged batch.

    Args:
        shapes: (rows, columns) of each item, in order.
        num_buckets: rows and columns of the learned table.

    Returns:
        int64 [patches], on the CPU.
    """
    return torch.cat([_item_position_ids(rows, columns, num_buckets) for rows, columns in shapes])


@lru_cache(maxsize=16)
def _frequencies(count: int) -> np.ndarray:
    """float32 [count]: 10000 ** (-j / count).

    numpy's float32 power is part of the contract: at time id 71999 one unit in the last place turns the angle by 0.004.
    """
    exponents = np.arange(count, dtype=np.float32) / np.float32(count)
    return np.asarray(1.0 / 10000**exponents, dtype=np.float32)


def sinusoid(positions: Tensor, width: int) -> Tensor:
    """Sine and cosine code of scalar positions.

    Args:
        positions: [n], any real dtype.
        width: even number of channels; the first half are sines, the second half cosines.

    Returns:
        float32 [n, width] on the device of `positions`.
    """
    frequencies = torch.from_numpy(_frequencies(width // 2)).to(positions.device)
    angles = positions.to(torch.float32)[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def sinusoid_2d(rows: int, columns: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """2-D sine table of an item, row-major: the first half of the channels codes the column, the second the row.

    Returns:
        float32 [rows * columns, width].
    """
    by_column = sinusoid(torch.arange(columns, device=device), width // 2)
    by_row = sinusoid(torch.arange(rows, device=device), width // 2)
    table = torch.cat([by_column[None, :, :].expand(rows, -1, -1), by_row[:, None, :].expand(-1, columns, -1)], dim=-1)
    return table.flatten(0, 1)


def time_codes(time_ids: Tensor, width: int) -> Tensor:
    """Time sinusoid of each frame; id -1 means "no time" and gives zeros.

    Args:
        time_ids: int64 [frames], in units of 0.1 s.
        width: channels.

    Returns:
        float32 [frames, width].
    """
    codes = sinusoid(time_ids.clamp_min(0), width)
    return codes * (time_ids >= 0)[:, None]
