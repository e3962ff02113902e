"""Optimiser groups and the warmup-stable-decay schedule."""

from collections.abc import Mapping

import torch
from torch import nn

from minicpmv.training.recipe import OptimiserRecipe, StageRecipe

# Tables and queries are lookups, not maps: pulling them towards zero only erases rarely used rows.
_UNDECAYED = ("position_embedding", "embed_tokens", "resampler.query", "slot_codes")


def rate_factor(step: int, stage: StageRecipe) -> float:
    """Share of the peak rate at `step` (counted from 0): linear warm-up, plateau, linear decay to zero.

    >>> stage = StageRecipe(name="s", objective="answers", rates={"llm": 1.0}, worlds={"lines": 1.0}, steps=10, batch=1,
    ...                     warmup=2, decay=0.4)
    >>> [round(rate_factor(step, stage), 2) for step in range(10)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    decay_steps = round(stage.steps * stage.decay)
    remaining = stage.steps - step
    return min(1.0, remaining / decay_steps) if decay_steps else 1.0


def part_of(name: str) -> str:
    """The part that a parameter belongs to."""
    return name.split(".", 1)[0]


def select_trainable(parts: Mapping[str, nn.Module], stage: StageRecipe) -> dict[str, nn.Parameter]:
    """Freeze what the stage does not name, and return the rest by name.

    Args:
        parts: modules by part name.
        stage: whose `rates` name the parts that train.

    Returns:
        Trainable parameters by full name, in a stable order.
    """
    trainable: dict[str, nn.Parameter] = {}
    for part, module in parts.items():
        module.requires_grad_(part in stage.rates)
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                trainable[f"{part}.{name}"] = parameter
    return trainable


def build_optimiser(
    trainable: Mapping[str, nn.Parameter], stage: StageRecipe, recipe: OptimiserRecipe
) -> torch.optim.AdamW:
    """AdamW with one group per (part, decayed or not); each group remembers its `peak` rate."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        decayed = parameter.ndim >= 2 and not any(word in name for word in _UNDECAYED)
        groups.setdefault((part_of(name), decayed), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": stage.rates[part],
            "peak": stage.rates[part],
            "weight_decay": recipe.weight_decay if decayed else 0.0,
        }
        for (part, decayed), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, betas=recipe.betas, fused=True)


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its share of its peak rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
