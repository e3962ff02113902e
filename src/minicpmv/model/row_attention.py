"""Attention for rows of several samples: each sample by itself, instead of the whole row under a mask.

    position_ids -> sample_lengths ; queries, keys, values of rows + lengths -> attend_by_sample -> mixed

A mask that separates the samples of a row still multiplies every pair of tokens of the row and throws most of it away:
seven rows of 1,022 tokens cost 7.3 million pairs, their 32 samples one million. Variable-length kernels do without;
where there is none, on a CPU, samples are taken one by one. It registers itself with transformers' attention functions
under the name `by_sample`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from minicpmv.errors import ShapeContractError
from minicpmv.model.ragged import runs, scaled_scores, softmax

BY_SAMPLE = "by_sample"


def sample_lengths(position_ids: Tensor) -> list[int]:
    """Tokens of every sample of some rows, in order; what fills a row at its end counts as one.

    Args:
        position_ids: int64 [rows, tokens]; 0 where a sample begins.

    >>> sample_lengths(torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]))
    [3, 2, 1, 4]
    """
    begins = (position_ids.flatten() == 0).nonzero().flatten().tolist()
    ends = [*begins[1:], position_ids.numel()]
    return [end - begin for begin, end in zip(begins, ends, strict=True)]


def attend_by_sample(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    sample_lengths: Sequence[int] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sample.

    Args:
        module: the layer; not used.
        query: [rows, heads, tokens, d_head].
        key: [rows, key heads, tokens, d_head].
        value: like `key`.
        attention_mask: not used; there is none.
        scaling: factor on the scores.
        sample_lengths: tokens of every sample, over all rows.

    Returns:
        [rows, tokens, heads, d_head], and no weights.

    Raises:
        ShapeContractError: no lengths were given, so this is no row of samples.
    """
    rows, heads, tokens, _width = query.shape
    if sample_lengths is None or sum(sample_lengths) != rows * tokens:
        raise ShapeContractError(
            "Attention by sample got no lengths of samples.",
            remedy="It is for training in rows; for anything else call model.set_attn_implementation('sdpa').",
        )
    repeats = heads // key.shape[1]
    groups = list(runs(sample_lengths))
    # One split and not many slices: the gradient of a slice is as large as what it was cut from.
    sizes = [group.num_items * group.length for group in groups]
    spans = [part.transpose(1, 2).flatten(0, 1).split(sizes) for part in (query, key, value)]
    mixed = []
    for run, *parts in zip(groups, *spans, strict=True):
        q, k, v = (part.unflatten(0, (run.num_items, run.length)).transpose(1, 2) for part in parts)
        # The query heads of a key head lie one below another: keys and values are not copied for each of them.
        q, k, v = q.reshape(-1, repeats * run.length, q.shape[-1]), k.flatten(0, 1), v.flatten(0, 1)
        later = q.new_full((run.length, run.length), float("-inf")).triu(1).repeat(repeats, 1)
        weights = softmax(scaled_scores(q, k, scaling, later))
        mixed.append(torch.bmm(weights, v).reshape(run.num_items, heads, run.length, -1).transpose(1, 2).flatten(0, 1))
    return torch.cat(mixed).unflatten(0, (rows, tokens)), None


AttentionInterface.register(BY_SAMPLE, attend_by_sample)
