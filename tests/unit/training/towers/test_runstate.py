"""A checkpoint of towers fits the recipe or is refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from minicpmv.errors import CheckpointError
from minicpmv.training.optim import Optimisers, build_optimiser, select_trainable
from minicpmv.training.recipe import OptimiserRecipe
from minicpmv.training.towers.runstate import Position, load_optimiser, load_weights, save_checkpoint

RATES = {"llm": 1e-3}
RECIPE = OptimiserRecipe(betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0)


class Layers(nn.Module):
    """A part with a layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width)])


def made(width: int = 4, muon: float = 0.0) -> tuple[dict[str, nn.Module], dict[str, nn.Parameter], Optimisers]:
    part = nn.Module()
    part.model = Layers(width)
    parts: dict[str, nn.Module] = {"llm": part}
    trainable = select_trainable(parts, RATES)
    return parts, trainable, build_optimiser(trainable, RATES, RECIPE, muon)


def saved(folder: Path, width: int = 4, muon: float = 0.0) -> Path:
    parts, trainable, optimiser = made(width, muon)
    for parameter in trainable.values():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    save_checkpoint(folder, Position(0, 1), parts, trainable, optimiser)
    return folder / "checkpoint"


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, width=4)
    load_weights(checkpoint, made(width=4)[0])
    names = r"llm\.model\.layers\.0\.weight, llm\.model\.layers\.0\.bias"
    with pytest.raises(CheckpointError, match=f"does not fit the recipe's model: {names}") as caught:
        load_weights(checkpoint, made(width=6)[0])
    assert "another --out" in caught.value.remedy


@pytest.mark.parametrize(("before", "now"), [(3.0, 0.0), (0.0, 3.0)])
def test_moments_of_another_optimiser_are_refused(before: float, now: float, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, muon=before)
    _, trainable, optimiser = made(muon=before)
    load_optimiser(checkpoint, trainable, optimiser)
    _, trainable, optimiser = made(muon=now)
    with pytest.raises(CheckpointError, match=r"moments of another optimiser .*: llm\.model\.layers\.0\.weight\."):
        load_optimiser(checkpoint, trainable, optimiser)
