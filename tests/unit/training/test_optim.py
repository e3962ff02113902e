"""A stage trains what it names and nothing else; every parameter has one optimiser."""

import pytest
import torch
from torch import nn

from minicpmv.training.optim import build_optimiser, select_trainable, set_rates
from minicpmv.training.recipe import OptimiserRecipe

RATES = {"llm": 1e-3}


def test_only_named_parts_train_and_tables_are_not_decayed() -> None:
    embedding = nn.Module()
    embedding.embed_tokens = nn.Embedding(4, 2)
    embedding.head = nn.Linear(2, 2)
    parts = {"llm": embedding, "vpm": nn.Linear(2, 2)}
    trainable = select_trainable(parts, RATES)
    assert list(trainable) == ["llm.embed_tokens.weight", "llm.head.weight", "llm.head.bias"]
    assert not any(parameter.requires_grad for parameter in parts["vpm"].parameters())
    optimiser = build_optimiser(trainable, RATES, OptimiserRecipe(betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0))
    decayed = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert decayed[id(embedding.embed_tokens.weight)] == 0.0
    assert decayed[id(embedding.head.weight)] == 0.1
    assert decayed[id(embedding.head.bias)] == 0.0
    set_rates(optimiser, 0.5)
    assert {group["lr"] for group in optimiser.param_groups} == {5e-4}


@pytest.mark.parametrize("name", ["query", "modules_to_save.default.query"])
def test_a_table_is_not_decayed_beside_adapters_either(name: str) -> None:
    """There it has another name: peft keeps a copy to learn."""
    table, matrix = nn.Parameter(torch.zeros(4, 2)), nn.Parameter(torch.zeros(2, 2))
    trainable = {f"resampler.{name}": table, "resampler.modules_to_save.default.kv_proj.weight": matrix}
    recipe = OptimiserRecipe(betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0)
    groups = build_optimiser(trainable, {"resampler": 1e-3}, recipe).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert (decay[id(table)], decay[id(matrix)]) == (0.0, 0.1)


def test_freezing_leaves_weights_alone_to_the_bit() -> None:
    parts = {"llm": nn.Linear(2, 2), "vpm": nn.Linear(2, 2)}
    before = parts["vpm"].weight.clone()
    trainable = select_trainable(parts, RATES)
    recipe = OptimiserRecipe(betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0)
    optimiser = build_optimiser(trainable, RATES, recipe)
    parts["vpm"](parts["llm"](torch.ones(1, 2))).sum().backward()
    optimiser.step()
    assert torch.equal(parts["vpm"].weight, before)


class Tower(nn.Module):
    """Shaped like a part with layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](self.embed(x))


def test_muon_takes_the_matrices_of_layers_and_nothing_else() -> None:
    encoder = nn.Module()
    encoder.encoder = Tower()
    trainable = select_trainable({"llm": encoder}, RATES)
    recipe = OptimiserRecipe(betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0)
    adam, muon = build_optimiser(trainable, RATES, recipe, muon_factor=3.0).members
    assert [p for group in muon.param_groups for p in group["params"]] == [encoder.encoder.layers[0].weight]
    assert muon.param_groups[0]["lr"] == pytest.approx(3e-3)
    assert len([p for group in adam.param_groups for p in group["params"]]) == 3
    assert len(build_optimiser(trainable, RATES, recipe).members) == 1


def test_optimisers_step_together_and_remember_each_in_its_own_place() -> None:
    encoder = nn.Module()
    encoder.encoder = Tower()
    trainable = select_trainable({"llm": encoder}, RATES)
    recipe = OptimiserRecipe(betas=(0.9, 0.98), weight_decay=0.0, clip_norm=1.0)
    optimiser = build_optimiser(trainable, RATES, recipe, muon_factor=3.0)
    before = {name: parameter.clone() for name, parameter in trainable.items()}
    encoder.encoder(torch.randn(2, 3, generator=torch.Generator().manual_seed(0))).pow(2).sum().backward()
    optimiser.step()
    assert all(not torch.equal(before[name], parameter) for name, parameter in trainable.items())
    optimiser.zero_grad()
    assert all(parameter.grad is None for parameter in trainable.values())
    assert "momentum_buffer" in optimiser.state_of(encoder.encoder.layers[0].weight)
    assert "exp_avg" in optimiser.state_of(encoder.encoder.embed.weight)
