"""A start for the resampler that already knows where and when each query looks.

    the place code of two patches + the code of a moment -> query        kv_proj leaves the code's channels to the code

A random resampler begins by averaging the whole picture, and a small model can spend most of its training getting out
of that. Here every query begins as the codes of two neighbouring patches, one per attention head, and of a moment. The
query and key projections begin by comparing only the channels in which neighbours differ (the high frequencies of the
place code, the middle ones of the time code), and `kv_proj` writes nothing into those channels, so that positions are
compared and not contents. Only initial values differ from a random start; module and forward pass are as released.

Source: ours, measured in docs/log.md.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from minicpmv.model.positions import sinusoid, time_codes
from minicpmv.model.resampler import HEAD_WIDTH, Resampler

_PLACE_FREQUENCIES = range(8)  # of width / 4; periods of 6 to 23 patches
_TIME_CENTRES = (0, 3, 7, 12, 18, 26, 36, 48)  # in units of 0.1 s
_PLACE_GAIN, _TIME_GAIN = 20.0, 8.0
_CONTENT_STD = 0.02


def place_channels(width: int) -> Tensor:
    """Channels of the place code that tell neighbours apart: sines and cosines of column and row.

    Returns:
        int64 [32].
    """
    quarter = width // 4
    starts = [0, quarter, 2 * quarter, 3 * quarter]
    return torch.tensor([start + index for start in starts for index in _PLACE_FREQUENCIES])


def time_channels(width: int) -> Tensor:
    """Channels of the time code that tell moments of a few seconds apart, and that the place code leaves quiet.

    Returns:
        int64 [24].
    """
    # A quarter of the way down the spectrum: periods of 3 to 8 seconds at any width.
    first = 3 * width // 32
    return torch.tensor([start + first + index for start in (0, width // 2) for index in range(12)])


def looking_places(num_queries: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Pairs of (row, column) that the two halves of the heads of each query begin with.

    A pair is two patches side by side. Queries follow each other from left to right and from top to bottom, so that the
    letters of every printed row arrive in reading order, and no token holds letters of two rows. The first 52 cover
    every picture of about 64 patches from 4 x 16 to 8 x 8; the rest reach into longer strips.
    """
    columns_by_row = (16, 16, 16, 16, 12, 10, 10, 8)
    places = [(row, at) for row, columns in enumerate(columns_by_row) for at in range(0, columns, 2)]
    places += [(row, at) for at in range(16, 28, 2) for row in range(2)]
    pairs = [((row, at), (row, at + 1)) for row, at in places]
    for index in range(num_queries):
        yield pairs[index % len(pairs)]


@torch.no_grad()
def initialise_resampler(resampler: Resampler, *, output_rms: float) -> None:
    """Set all weights but the value rows of `in_proj_weight` of a freshly built module.

    Args:
        resampler: with random parameters.
        output_rms: root mean square of the tokens it gives, so that they enter the language model as loud as words.
    """
    num_queries, width = resampler.query.shape
    generator = torch.Generator().manual_seed(num_queries * width)
    place, time = place_channels(width), time_channels(width)
    num_place, num_time = len(place), len(time)
    # The query keeps the codes of its two places and of its moment side by side in its first channels.
    first, second = torch.arange(num_place), num_place + torch.arange(num_place)
    moment = 2 * num_place + torch.arange(num_time)
    query = _CONTENT_STD * torch.randn(num_queries, width, generator=generator)
    centres = torch.tensor(_TIME_CENTRES)[torch.arange(num_queries) * 3 % len(_TIME_CENTRES)]
    query[:, moment] = time_codes(centres, width)[:, time]
    for index, pair in enumerate(looking_places(num_queries)):
        for channels, (row, column) in zip((first, second), pair, strict=True):
            query[index, channels] = _code_at(row, column, width)[place]
    spare = slice(2 * num_place + num_time, None)
    query[:, spare] -= query.sum(-1, keepdim=True) / query[:, spare].shape[1]  # ln_q would take the mean off the codes
    resampler.query.copy_(query)
    loudness = query.pow(2).mean(-1).mean().sqrt()  # ln_q divides by it
    query_rows = _CONTENT_STD * torch.randn(width, width, generator=generator)
    key_rows = _CONTENT_STD * torch.randn(width, width, generator=generator)
    for head in range(width // HEAD_WIDTH):
        rows = head * HEAD_WIDTH + torch.arange(num_place + num_time)
        query_rows[rows] = 0
        key_rows[rows] = 0
        key_rows[rows, torch.cat([place, time])] = 1
        query_rows[rows[:num_place], first if head % 2 == 0 else second] = _PLACE_GAIN * loudness
        query_rows[rows[num_place:], moment] = _TIME_GAIN * loudness
    resampler.attn.in_proj_weight[:width].copy_(query_rows)
    resampler.attn.in_proj_weight[width : 2 * width].copy_(key_rows)
    vision_width = resampler.kv_proj.weight.shape[1]
    resampler.kv_proj.weight.normal_(std=vision_width**-0.5, generator=generator)
    content = torch.ones(width, dtype=torch.bool)
    content[torch.cat([place, time])] = False
    # Every output has mean zero, so that ln_kv leaves the silent channels silent.
    resampler.kv_proj.weight[content] -= resampler.kv_proj.weight[content].mean(0)
    resampler.kv_proj.weight[~content] = 0
    resampler.attn.out_proj.weight.normal_(std=width**-0.5, generator=generator)
    # The loudness sits in the norm's gain: a `proj` this small would be overwritten by the first few Adam steps.
    resampler.ln_post.weight.fill_(output_rms)
    resampler.proj.normal_(std=width**-0.5, generator=generator)


def _code_at(row: int, column: int, width: int) -> Tensor:
    """The place code of one patch: column half first, as in `sinusoid_2d`."""
    return torch.cat([sinusoid(torch.tensor([place]), width // 2)[0] for place in (column, row)])
