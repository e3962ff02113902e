"""Who learns and how fast: parts, optimiser groups, AdamW and Muon.

parts + rates -> select_trainable -> build_optimiser -> set_rates(factor) -> step
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from minicpmv.errors import CheckpointError
from minicpmv.training.muon import Muon
from minicpmv.training.recipe import OptimiserRecipe

# Tables and queries are lookups, not maps: pulling them towards zero only erases rarely used rows.
_UNDECAYED = ("position_embedding", "embed_tokens", "resampler.query", "slot_codes", "heads.codes")

_WRAPPED = re.compile(r"\.(modules_to_save\.\w+|base_layer)(?=\.)")
"""What peft puts between a part and its parameter."""

_MUON_MOMENTUM = 0.95
"""Source: Muon as published (github.com/KellerJordan/Muon), also the default of `torch.optim.Muon`."""

_MOMENTS: Mapping[type[torch.optim.Optimizer], frozenset[str]] = {
    torch.optim.AdamW: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    Muon: frozenset({"momentum_buffer"}),
}
"""What each kind of optimiser remembers of a parameter after its first step."""


def part_of(name: str) -> str:
    """The part that a parameter belongs to."""
    return name.split(".", 1)[0]


def select_trainable(parts: Mapping[str, nn.Module], rates: Mapping[str, float]) -> dict[str, nn.Parameter]:
    """Freeze the parts that have no rate, and return the rest by name.

    Args:
        parts: modules by part name.
        rates: peak rate of every part that trains.

    Returns:
        Trainable parameters by full name, in a stable order.
    """
    trainable: dict[str, nn.Parameter] = {}
    for part, module in parts.items():
        module.requires_grad_(part in rates)
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

    def moments_of(self, parameter: nn.Parameter) -> frozenset[str]:
        """Names of the moments that a parameter has from its first step on."""
        return _MOMENTS[type(self._owners[parameter])]

    def step(self) -> None:
        """One step of every member."""
        for member in self.members:
            member.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for member in self.members:
            member.zero_grad(set_to_none=True)


def build_optimiser(
    trainable: Mapping[str, nn.Parameter], rates: Mapping[str, float], recipe: OptimiserRecipe, muon_factor: float = 0.0
) -> Optimisers:
    """AdamW with one group per (part, decayed or not); if asked for, Muon for the matrices of layers.

    Args:
        trainable: parameters by full name, as `select_trainable` gives them.
        rates: peak rate of every part.
        recipe: settings of AdamW; weight decay also holds for what learns with Muon.
        muon_factor: matrices of layers learn with Muon at this multiple of their part's rate; 0 leaves them to AdamW.

    Returns:
        Optimisers whose groups remember their `peak` rate.
    """
    muon = {
        name: parameter for name, parameter in trainable.items() if muon_factor and is_hidden_matrix(name, parameter)
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        if name not in muon:
            plain = _WRAPPED.sub("", name)  # learning whole beside adapters, it has another name
            decayed = parameter.ndim >= 2 and not any(word in plain for word in _UNDECAYED)
            groups.setdefault((part_of(name), decayed), []).append(parameter)
    settings = [
        _group(parameters, rates[part], recipe.weight_decay if decayed else 0.0)
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
            _group(parameters, muon_factor * rates[part], recipe.weight_decay) for part, parameters in by_part.items()
        ]
        members.append(Muon(matrices, momentum=_MUON_MOMENTUM, are_shared=_held_alike(muon.values())))
    return Optimisers(*members)


def refuse_other_moments(
    checkpoint: Path, stored: Iterable[str], trainable: Mapping[str, nn.Parameter], optimiser: Optimisers
) -> None:
    """Make sure that a checkpoint's moments are of the kinds with which an optimiser goes on.

    Args:
        checkpoint: where it lies.
        stored: names of all its moments, such as `exp_avg.llm.norm.weight`.
        trainable: parameters by full name. One that has not made a step yet has no moments.
        optimiser: of these parameters.

    Raises:
        CheckpointError: a parameter has moments of another kind of optimiser.
    """
    held: dict[str, set[str]] = {}
    for key in stored:
        moment, _, name = key.partition(".")
        held.setdefault(name, set()).add(moment)
    wrong = [name for name, one in trainable.items() if name in held and held[name] != optimiser.moments_of(one)]
    if wrong:
        raise CheckpointError(
            f"{checkpoint} holds moments of another optimiser than the recipe has: {', '.join(wrong[:8])}.",
            remedy="Go on with the muon that the run began with, or use another --out folder.",
        )


def _held_alike(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether several processes hold the whole of these parameters each."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not together or torch.distributed.get_world_size() == 1:
        return False
    return not any(isinstance(one, DTensor) for one in parameters)


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter maps features to features inside a layer: what Muon is made for."""
    return parameter.ndim == 2 and ".layers." in name


def _group(parameters: list[nn.Parameter], rate: float, weight_decay: float) -> dict[str, Any]:
    return {"params": parameters, "lr": rate, "peak": rate, "weight_decay": weight_decay}


def set_rates(optimiser: Optimisers, factor: float) -> None:
    """Give every group its share of its peak rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
