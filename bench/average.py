"""How good is an average of two models, and where is it best?

    python bench/average.py one/model other/model --recipe nano_sft_2 --samples 144
    python bench/average.py one/model other/model --write 0.65 --out average

A model and one that was trained on from it often lie in the same valley: on the straight line between them, some losses
are lower than at either end. What is measured are losses on fresh samples of a recipe's mixture, by source; nothing
that is kept for evaluation is looked at. Weights are rounded to bfloat16, as they are stored.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from minicpmv.generation.loading import load, read_processor
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.recipes.loader import load_stage
from minicpmv.training.feeding import Share, StepBatch, load_step, recipe_mixture
from minicpmv.training.model_folder import write_model_folder
from minicpmv.training.stage import set_attention
from minicpmv.training.token_loss import TokenLoss


def average(one: Mapping[str, Tensor], other: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights on the line between two models: those of the first at 0, of the other at 1."""
    return {name: torch.lerp(one[name].float(), other[name].float(), share).bfloat16().float() for name in one}


def weights_of(folder: str) -> dict[str, Tensor]:
    """A model's weights in float32."""
    model = load(folder, dtype="float32", device="cpu").model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@torch.inference_mode()
def losses_of(model: MiniCPMVForConditionalGeneration, batches: list[StepBatch]) -> dict[str, float]:
    """Mean loss of the targets of every source, and of all."""
    loss = TokenLoss(model)
    sums: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for batch in batches:
        for inputs, sources in zip(batch.passes, batch.sources, strict=True):
            told, _ = loss(**inputs)
            for (source, number), part in zip(sources, told.split([number for _, number in sources]), strict=True):
                for name in (source, "all"):
                    sums[name] += float(part.sum())
                    counts[name] += number
    return {name: sums[name] / counts[name] for name in sorted(counts)}


def main() -> None:
    """Ask along the line, or write one point of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one")
    parser.add_argument("other")
    parser.add_argument("--recipe", default="nano_sft_2", help="whose mixture is asked")
    parser.add_argument("--samples", type=int, default=144)
    parser.add_argument("--seed", type=int, default=991, help="of the samples; not one that was trained with")
    parser.add_argument("--shares", default="0,0.25,0.5,0.75,1", help="of the other model")
    parser.add_argument("--write", type=float, help="write the average with this share instead")
    parser.add_argument("--out", type=Path, default=Path("average"))
    given = parser.parse_args()
    one, other = weights_of(given.one), weights_of(given.other)
    loaded = load(given.other, dtype="float32", device="cpu")
    if given.write is not None:
        weights = average(one, other, given.write)
        generation = loaded.model.generation_config
        write_model_folder(
            given.out, loaded.model, loaded.processor, dtype=torch.bfloat16, generation=generation, weights=weights
        )
        print(given.out)
        return
    recipe = load_stage(given.recipe, [f"seed={given.seed}"])
    recipe = replace(recipe, batch=24, dense=None)
    mixture, processor = recipe_mixture(recipe), read_processor(given.other)
    batches = [load_step(recipe, processor, mixture, step, Share()) for step in range(max(1, given.samples // 24))]
    set_attention(loaded.model, recipe.attention)
    for share in map(float, given.shares.split(",")):
        loaded.model.load_state_dict(average(one, other, share))
        told = losses_of(loaded.model, batches)
        print(f"{share:4.2f}  " + "  ".join(f"{name} {value:.3f}" for name, value in told.items()), flush=True)


if __name__ == "__main__":
    main()
