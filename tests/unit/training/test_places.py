"""Places are where patches lie, and what a query looked at is their mean under its attention."""

import pytest
import torch

from minicpmv.model.resampler import Resampler
from minicpmv.training.places import PlaceHeads, places_looked_at, places_of_patches

CPU = torch.device("cpu")


def test_places_run_across_every_item_row_by_row() -> None:
    places = places_of_patches([(2, 2), (2, 2), (1, 4)], CPU)
    square = [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    assert places.tolist() == [*square, *square, [0, -0.75], [0, -0.25], [0, 0.25], [0, 0.75]]


def test_what_queries_looked_at_is_the_attention_of_the_pass() -> None:
    """The values of the attention are replaced by places, so that its own output says where it looked."""
    torch.manual_seed(0)
    width = 256
    resampler = Resampler(6, width, 32)
    torch.nn.init.normal_(resampler.attn.in_proj_weight, std=0.2)
    shapes, lengths = [(3, 5), (3, 5), (4, 2)], [30, 8]
    places = places_of_patches(shapes, CPU)
    queries, keys = torch.randn(6, width), torch.randn(38, width)
    found = places_looked_at(resampler.attn, queries, keys, lengths, places)
    assert found.shape == (2, 6, 2, 2)
    with torch.no_grad():  # values that are the places themselves, kept as they are by the projections
        resampler.attn.in_proj_weight[2 * width :] = torch.eye(width)
        resampler.attn.out_proj.weight.copy_(torch.eye(width))
        resampler.attn.out_proj.bias.zero_()
        values = torch.zeros(38, width)
        values[:, 0:2] = values[:, 128:130] = places
        mixed = resampler.attn(queries, keys, values, lengths, "eager").unflatten(-1, (2, 128))[..., :2]
    # Measured: at most 6e-8; the attention is far from even, so that the places are not all in the middle.
    assert (found - mixed).abs().max() < 2e-7
    assert found.abs().max() > 0.3


def test_a_head_that_knows_the_places_has_no_loss() -> None:
    heads = PlaceHeads(2, 128)
    with torch.no_grad():
        heads.patches.weight.copy_(torch.eye(2))
        heads.patches.bias.zero_()
    places = places_of_patches([(3, 3)], CPU)
    assert heads.patch_loss(places, places) == 0
    assert heads.patch_loss(places + 0.5, places).item() == pytest.approx(9 * 2 * 0.25)
