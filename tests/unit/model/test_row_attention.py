"""Samples of a row attend by themselves: the same as under a mask, and as alone."""

import pytest
import torch
from torch import nn

from minicpmv.errors import ShapeContractError
from minicpmv.generation.loading import bundled_folder, read_processor
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.model.row_attention import attend_by_sample, sample_lengths
from minicpmv.recipes.loader import load_stage
from minicpmv.training.feeding import Share, load_step, recipe_mixture
from minicpmv.training.stage import set_attention
from minicpmv.training.token_loss import TokenLoss

LOSS = 8e-6
"""Measured: 2.4e-6 per token."""

GRADIENT = 9e-6
"""Largest difference over the largest gradient; measured 2.9e-6 in float32, by_sample against a mask."""


def test_rows_in_samples_are_the_samples_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 7, 8, generator=generator)
    key, value = (torch.randn(2, 2, 7, 8, generator=generator) for _ in range(2))
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 1]])
    lengths = sample_lengths(positions)
    assert lengths == [3, 4, 5, 2]
    mixed, _ = attend_by_sample(nn.Module(), query, key, value, None, scaling=0.3, sample_lengths=lengths)
    for row, start, end in ((0, 0, 3), (0, 3, 7), (1, 0, 5), (1, 5, 7)):
        alone = torch.nn.functional.scaled_dot_product_attention(
            *(part[row : row + 1, :, start:end] for part in (query, key, value)),
            is_causal=True,
            scale=0.3,
            enable_gqa=True,
        )
        assert torch.allclose(mixed[row, start:end], alone[0].transpose(0, 1), atol=1e-6)


def test_losses_and_gradients_are_those_under_a_mask() -> None:
    recipe = load_stage("nano_sft", ["batch=5"])
    model = MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder(), dtype=torch.float32).train()
    batch = load_step(recipe, read_processor(bundled_folder()), recipe_mixture(recipe), 0, Share())
    found = {}
    for attention in ("eager", "by_sample"):
        set_attention(model, attention)
        model.zero_grad()
        losses = torch.cat([TokenLoss(model)(**inputs)[0] for inputs in batch.passes])
        losses.sum().backward()
        found[attention] = losses.detach(), [parameter.grad for parameter in model.parameters()]
    assert torch.allclose(found["eager"][0], found["by_sample"][0], rtol=0, atol=LOSS)
    one, other = (torch.cat([part.flatten() for part in found[name][1] if part is not None]) for name in found)
    assert float((one - other).abs().max() / one.abs().max()) < GRADIENT


def test_what_is_no_row_is_refused() -> None:
    model = MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder(), dtype=torch.float32)
    set_attention(model, "by_sample")
    with pytest.raises(ShapeContractError, match="no lengths of samples"):
        model(torch.tensor([[3, 4, 5]]))
    set_attention(model, "sdpa")
    model(torch.tensor([[3, 4, 5]]))
