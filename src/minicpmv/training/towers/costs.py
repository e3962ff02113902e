"""What the stages of towers cost: the first batch of each is drawn and counted, and nothing learns.

TowersRecipe -> StageCosts (samples, tokens, patches, operations, bytes) per stage
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from minicpmv.processing.budget import ModelNumbers, numbers_of
from minicpmv.processing.collate import IGNORED
from minicpmv.training.estimate import Memory, activations_of, step_flops
from minicpmv.training.towers.learner import Learner
from minicpmv.training.towers.objectives import Batch
from minicpmv.training.towers.recipe import StageRecipe, TowersRecipe
from minicpmv.training.towers.run import build_objectives, prepare_tokenizer

FEW_TEXTS = 500
"""For a tokenizer that only counts: the recipe's own is trained on more."""


@dataclass(frozen=True, slots=True)
class StageCosts:
    """Of one step; padding counts in operations, not in tokens; `memory` is that of the only process."""

    samples: int
    tokens: int
    targets: int
    patches: int
    flops: int
    memory: Memory


def costs_of_stages(recipe: TowersRecipe, learner: Learner) -> Mapping[str, StageCosts]:
    """What a step of each stage costs, by name.

    Args:
        recipe: the stages.
        learner: the model that would learn, and its helpers.
    """
    counting = replace(recipe, tokenizer=replace(recipe.tokenizer, texts=FEW_TEXTS))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = prepare_tokenizer(counting, Path(folder))
    objectives = build_objectives(recipe, learner, tokenizer)
    numbers = numbers_of(learner.model.config)
    return {stage.name: _costs(stage, objectives[stage.name].batch(0), learner, numbers) for stage in recipe.stages}


def _costs(stage: StageRecipe, batch: Batch, learner: Learner, numbers: ModelNumbers) -> StageCosts:
    counts = _counted(batch)
    asleep = {"llm"} if not counts["tokens"] else set()
    if not counts["packs"]:
        asleep.add("resampler")
    sizes = {name: sum(one.numel() for one in part.parameters()) for name, part in learner.parts.items()}
    learning = sum(sizes[part] for part in stage.rates)
    kept = activations_of(numbers, tokens=counts["tokens"], patches=counts["patches"], number=4, recompute=False)
    memory = Memory(weights=4 * sum(sizes.values()), gradients=4 * learning, moments=8 * learning, activations=kept)
    flops = step_flops(numbers, counts, set(stage.rates), asleep=asleep)
    tokens = int(batch["attention_mask"].sum()) if "input_ids" in batch else 0
    targets = int((batch["labels"] != IGNORED).sum()) if "input_ids" in batch else 0
    return StageCosts(stage.batch, tokens, targets, counts["patches"], flops, memory)


def _counted(batch: Batch) -> dict[str, int]:
    """What `minicpmv.training.estimate.forward_flops` asks for."""
    counts = dict.fromkeys(("tokens", "token_pairs", "targets", "patches", "patch_pairs", "packs"), 0)
    if "input_ids" in batch:
        rows, length = batch["input_ids"].shape  # with their padding, and every token gets its logits
        counts |= {"tokens": rows * length, "token_pairs": rows * length**2, "targets": rows * length}
    if "pixel_values" in batch:
        patches = batch["item_shapes"].prod(1)
        counts["patches"], counts["patch_pairs"] = int(patches.sum()), int((patches**2).sum())
        if "item_packs" in batch:
            counts["packs"] = int(batch["item_packs"].max()) + 1
        elif "letters" in batch:  # without letters to say, the resampler is not called
            counts["packs"] = len(batch["item_shapes"])
    return counts
