"""Where patches lie and where queries have looked, and the heads that learn to say so.

    item shapes -> places_of_patches -> [patches, 2]
    attention of the resampler + what it was given -> places_looked_at -> [packs, queries, heads, 2]

The resampler's positions are in its keys and not in its values: a token says what its query has found, and where only
if the tower's features do. From answers alone a small tower gives up what it does not need for the next letter, and
then nothing behind it can tell left from right.

Source: ours, measured in docs/log.md.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minicpmv.model.ragged import query_attention
from minicpmv.model.resampler import HEAD_WIDTH, ResamplerAttention


class PlaceHeads(nn.Module):
    """Where a patch lies, from its features, and where each head of a query has looked, from its token.

    Args:
        vision_width: d_vision.
        width: d_llm.
    """

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Linear(vision_width, 2)
        self.slots = nn.Linear(width, width // HEAD_WIDTH * 2)

    def patch_loss(self, features: Tensor, places: Tensor) -> Tensor:
        """Sum of the squared distances between the told and the true places.

        Args:
            features: [patches, d_vision].
            places: [patches, 2].
        """
        return (self.patches(features).float() - places).square().sum()

    def slot_loss(self, tokens: Tensor, looked_at: Tensor) -> Tensor:
        """The same for queries, the mean over their heads.

        Args:
            tokens: [packs, queries, d_llm].
            looked_at: [packs, queries, heads, 2].
        """
        told = self.slots(tokens).float().unflatten(-1, (-1, 2))
        return (told - looked_at.float()).square().sum() / looked_at.shape[-2]


def places_of_patches(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Row and column of the middle of each patch, from -1 to 1 across its item, as the tower's own positions are.

    Args:
        shapes: (rows, columns) of each item.
        device: where the places are wanted.

    Returns:
        float32 [patches, 2].

    >>> places_of_patches([(1, 2)], torch.device("cpu")).tolist()
    [[0.0, -0.5], [0.0, 0.5]]
    """
    pieces = []
    for (rows, columns), group in groupby(shapes):
        down = (torch.arange(rows, device=device) * 2 + 1) / rows - 1
        across = (torch.arange(columns, device=device) * 2 + 1) / columns - 1
        pieces.append(torch.cartesian_prod(down, across).repeat(len(list(group)), 1))
    return torch.cat(pieces)


@torch.no_grad()
def places_looked_at(
    attention: ResamplerAttention, queries: Tensor, keys: Tensor, lengths: Sequence[int], places: Tensor
) -> Tensor:
    """The mean place that each head of each query attends to.

    Args:
        attention: of the resampler.
        queries: [queries, d], as the attention was given them.
        keys: [patches, d], likewise.
        lengths: patches of each pack.
        places: [patches, 2].

    Returns:
        [packs, queries, heads, 2].
    """
    to_query, to_key, _ = attention.in_proj_weight.chunk(3)
    query_bias, key_bias, _ = attention.in_proj_bias.chunk(3)
    q = F.linear(queries, to_query, query_bias).unflatten(-1, (-1, HEAD_WIDTH))
    k = F.linear(keys, to_key, key_bias).unflatten(-1, (-1, HEAD_WIDTH))
    values = places[:, None].expand(-1, k.shape[1], -1).to(k.dtype)
    return query_attention(q, k, values, lengths, implementation="eager", scale=HEAD_WIDTH**-0.5)
