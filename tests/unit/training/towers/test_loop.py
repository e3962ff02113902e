"""A checkpoint that the first process cannot write stops all of them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from minicpmv.recipes.loader import load_towers
from minicpmv.training.feeding import Share
from minicpmv.training.optim import build_optimiser
from minicpmv.training.run_folder import SavingError
from minicpmv.training.towers import company, loop, runstate
from minicpmv.training.towers.company import Company
from minicpmv.training.towers.loop import Run
from minicpmv.training.towers.runstate import Position

RECIPE = Path(__file__).parents[3] / "toy_recipe.yaml"


class Parts:
    """A learner with nothing to save."""

    parts: dict[str, nn.Module] = {}


def save_as(rank: int, folder: Path) -> None:
    recipe = load_towers(str(RECIPE))
    together = Company(Share(rank, 2), torch.device("cpu"))
    run = Run(recipe, folder, Parts(), {}, together, None, math.inf)  # type: ignore[arg-type]
    trainable = {"llm.norm": nn.Parameter(torch.ones(1))}
    optimiser = build_optimiser(trainable, {"llm": 1e-3}, recipe.optimiser)
    loop._save(run, recipe.stages[0], Position(0, 1), trainable, optimiser)


def test_the_first_tells_the_others_that_it_could_not_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runstate, "save_file", full)
    monkeypatch.setattr(company, "broadcast_object_list", told.extend)
    with pytest.raises(SavingError, match="No space left"):
        save_as(0, tmp_path)
    assert [type(one) for one in told] == [SavingError]


def test_the_others_stop_with_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told_by_the_first(objects: list[Any]) -> None:
        objects[:] = [SavingError("It could not be written.")]

    monkeypatch.setattr(company, "broadcast_object_list", told_by_the_first)
    with pytest.raises(SavingError, match="could not be written"):
        save_as(1, tmp_path)
    assert not (tmp_path / "checkpoint.new").exists()
