"""Optimiser groups and the warmup-stable-decay schedule."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from minicpmv.training.recipe import OptimiserRecipe, StageRecipe

# Tables and queries are lookups, not maps: pulling them towards zero only erases rarely used rows.
_UNDECAYED = ("position_embedding", "embed_tokens", "resampler.query", "slot_codes")


_MUON_MOMENTUM = 0.95
"""Source: Muon as published (github.com/KellerJordan/Muon), also the default of `torch.optim.Muon`."""


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


class Optimisers:
    """Optimisers that share the parameters of a stage between them and step as one.

    Args:
        *members: each with groups that remember their `peak` rate; no parameter is in two of them.
    """

    def __init__(self, *members: torch.optim.Optimizer) -> None:
        self.members = members
        self._owners = {
            parameter: member for member in members for group in member.param_groups for parameter in group["params"]
        }

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All groups of all members."""
        return [group for member in self.members for group in member.param_groups]

    def state_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The moments of a parameter; empty before its first step. Changes are kept."""
        state: dict[str, Any] = self._owners[parameter].state[parameter]
        return state

    def step(self) -> None:
        """One step of every member."""
        for member in self.members:
            member.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for member in self.members:
            member.zero_grad(set_to_none=True)


def build_optimiser(trainable: Mapping[str, nn.Parameter], stage: StageRecipe, recipe: OptimiserRecipe) -> Optimisers:
    """AdamW with one group per (part, decayed or not); if the stage asks for it, Muon for the matrices of layers.

    Every group remembers its `peak` rate.
    """
    muon = {
        name: parameter for name, parameter in trainable.items() if stage.muon and is_hidden_matrix(name, parameter)
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        if name not in muon:
            decayed = parameter.ndim >= 2 and not any(word in name for word in _UNDECAYED)
            groups.setdefault((part_of(name), decayed), []).append(parameter)
    settings = [
        _group(parameters, stage.rates[part], recipe.weight_decay if decayed else 0.0)
        for (part, decayed), parameters in groups.items()
    ]
    members: list[torch.optim.Optimizer] = []
    if settings:
        members.append(torch.optim.AdamW(settings, betas=recipe.betas, fused=True))
    if muon:
        by_part: dict[str, list[nn.Parameter]] = {}
        for name, parameter in muon.items():
            by_part.setdefault(part_of(name), []).append(parameter)
        matrices = [
            _group(parameters, stage.muon * stage.rates[part], recipe.weight_decay)
            for part, parameters in by_part.items()
        ]
        # "match_rms_adamw": a rate means about the same length of step as with AdamW.
        members.append(torch.optim.Muon(matrices, momentum=_MUON_MOMENTUM, adjust_lr_fn="match_rms_adamw"))
    return Optimisers(*members)


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter maps features to features inside a layer: what Muon is made for."""
    return parameter.ndim == 2 and ".layers." in name


def _group(parameters: list[nn.Parameter], rate: float, weight_decay: float) -> dict[str, Any]:
    return {"params": parameters, "lr": rate, "peak": rate, "weight_decay": weight_decay}


def set_rates(optimiser: Optimisers, factor: float) -> None:
    """Give every group its share of its peak rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
