"""A start for the resampler that already knows where and when it looks.

Queries begin as the place and time codes they should attend to, and the query and key projections begin as the same
(scaled) permutation, so that a fresh query reads its own corner of the picture and its own part of a clip. Only initial
values differ from a random start: the module and its forward pass are the released ones.

Source: ours, measured in docs/log.md. A random start learns single lines as well, but not the order of events.
"""

import torch
from torch import Tensor

from minicpmv.model.positions import sinusoid_2d, time_codes
from minicpmv.model.resampler import HEAD_WIDTH, Resampler

_GRID = (8, 8)
_TIME_CENTRES = (0, 2, 5, 9, 14, 20, 27)
_GAIN = 4.0
_NOISE = 0.02


def head_interleaving(width: int) -> Tensor:
    """A permutation that deals the channels out to the heads like cards, so that each head sees every code.

    Returns:
        int64 [width]: input channel of each output channel.
    """
    heads = width // HEAD_WIDTH
    return torch.arange(width).unflatten(0, (HEAD_WIDTH, heads)).transpose(0, 1).flatten()


@torch.no_grad()
def initialise_resampler(resampler: Resampler, *, grid: tuple[int, int] = _GRID, gain: float = _GAIN) -> None:
    """Set `query` and the query and key rows of `in_proj_weight`; everything else keeps its random start.

    Args:
        resampler: a freshly built module.
        grid: rows and columns of places that the queries are laid over, repeated if there are more queries.
        gain: sharpness of the first attention.
    """
    num_queries, width = resampler.query.shape
    places = sinusoid_2d(*grid, width)
    picked = places[torch.arange(num_queries) % places.shape[0]]
    centres = torch.tensor(_TIME_CENTRES)[torch.arange(num_queries) * 3 % len(_TIME_CENTRES)]
    generator = torch.Generator().manual_seed(num_queries * width)
    noise = _NOISE * torch.randn(num_queries, width, generator=generator)
    resampler.query.copy_(picked + time_codes(centres, width) + noise)
    identity = torch.eye(width)[head_interleaving(width)]
    resampler.attn.in_proj_weight[:width].copy_(identity * gain)
    resampler.attn.in_proj_weight[width : 2 * width].copy_(identity)
