"""Counted operations are those that torch counts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minicpmv.data.sources import SourceRecipe
from minicpmv.generation.loading import bundled_folder, read_processor
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.budget import numbers_of
from minicpmv.recipes.loader import load_stage
from minicpmv.training.estimate import forward_flops, hours_of, measured_peak, memory_of, step_flops
from minicpmv.training.feeding import Share, StepBatch, load_step, recipe_mixture
from minicpmv.training.optim import select_trainable
from minicpmv.training.recipe import PARTS, RowsRecipe
from minicpmv.training.token_loss import TokenLoss

STAGE = Path(__file__).parents[2] / "toy_stage.yaml"


@pytest.fixture(scope="module")
def batch() -> StepBatch:
    """Every sample in a row of its own: within a row of several, attention also multiplies what is then masked.

    And each with a picture, since text alone needs no gradient where the language model is frozen.
    """
    pictures = {"lines": SourceRecipe(world="lines"), "scenes": SourceRecipe(world="scenes")}
    recipe = replace(load_stage(str(STAGE)), data=pictures, rows=RowsRecipe(tokens=160, per_pass=1))
    batches = [load_step(recipe, read_processor(bundled_folder()), recipe_mixture(recipe), 0, Share())]
    return batches[0]


@pytest.mark.parametrize("learning", [("llm", "resampler", "vpm"), ("llm", "resampler"), ("resampler",), ("vpm",)])
def test_operations_are_those_that_torch_counts(learning: tuple[str, ...], batch: StepBatch) -> None:
    model = MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder(), dtype=torch.float32)
    model.set_attn_implementation("eager")
    select_trainable({part: getattr(model, part) for part in PARTS}, dict.fromkeys(learning, 1.0))
    losses = TokenLoss(model)
    with FlopCounterMode(display=False) as counter:
        for inputs in batch.passes:
            losses(**inputs)[0].sum().backward()
    counts = dict(batch.counts)
    # Rows hold several samples; torch multiplies all pairs of a row.
    counts["token_pairs"] = sum(inputs["input_ids"].numel() * inputs["input_ids"].shape[1] for inputs in batch.passes)
    counted = step_flops(numbers_of(model.config), counts, learning)
    # Measured: 0.4 to 0.9 per cent more, as pixels and queries need no gradient of their own.
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_adapters_save_the_gradient_of_the_weights(batch: StepBatch) -> None:
    numbers = numbers_of(MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder()).config)
    whole = step_flops(numbers, batch.counts, PARTS)
    adapted = step_flops(numbers, batch.counts, PARTS, adapted=PARTS)
    weights = sum(products.weights for products in forward_flops(numbers, batch.counts).values())
    assert whole - adapted == weights
    assert step_flops(numbers, batch.counts, ()) == pytest.approx(whole / 3)


def test_sharding_divides_what_learns_and_recomputing_what_is_kept() -> None:
    recipe = load_stage("sft")
    numbers = numbers_of(MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder()).config)
    sizes = {"learning": numbers.parameters, "tokens": 4096, "patches": 4096}
    alone = memory_of(numbers, recipe, processes=1, **sizes)
    shared = memory_of(numbers, replace(recipe, sharding="full"), processes=8, **sizes)
    kept = memory_of(numbers, replace(recipe, recompute=False), processes=1, **sizes)
    assert alone.weights + alone.gradients + alone.moments == 16 * numbers.parameters
    assert shared.gradients == alone.gradients // 8
    assert kept.activations > 1.5 * alone.activations
    assert alone.total == alone.weights + alone.gradients + alone.moments + alone.activations


def test_a_sheet_of_a_sharded_run_needs_the_whole_model() -> None:
    recipe = replace(load_stage("sft"), sharding="full")
    numbers = numbers_of(MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder()).config)
    sizes = {"learning": 0, "tokens": 8, "patches": 8, "processes": 8}
    with_sheets = memory_of(numbers, recipe, **sizes)
    without = memory_of(numbers, replace(recipe, sheet_samples=0), **sizes)
    assert with_sheets.gathered == 2 * numbers.parameters
    assert with_sheets.total - without.total == with_sheets.gathered - without.activations > 0


def test_the_peak_is_a_speed() -> None:
    assert 1e9 < measured_peak(torch.device("cpu"), torch.float32, seconds=0.02) < 1e15


def test_hours_are_operations_over_speed() -> None:
    assert hours_of(3600 * 10**15, processes=2, peak=1e15, utilisation=0.5) == pytest.approx(1.0)
