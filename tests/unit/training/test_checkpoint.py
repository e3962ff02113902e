"""A checkpoint fits what it is given back to or is refused, and if it cannot be written everybody knows."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from minicpmv.errors import CheckpointError
from minicpmv.training import checkpoint
from minicpmv.training.checkpoint import Checkpoints, Progress, restore
from minicpmv.training.optim import Optimisers, build_optimiser
from minicpmv.training.recipe import OptimiserRecipe
from minicpmv.training.run_folder import SavingError

RECIPE = OptimiserRecipe(betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0)


def learning(width: int = 4, muon: float = 0.0) -> tuple[dict[str, nn.Parameter], Optimisers]:
    """A matrix of a layer, which Muon takes if there is one, and a bias."""
    matrix, bias = nn.Parameter(torch.ones(width, width)), nn.Parameter(torch.ones(width))
    trainable = {"llm.layers.0.weight": matrix, "llm.layers.0.bias": bias}
    return trainable, build_optimiser(trainable, {"llm": 1e-3}, RECIPE, muon)


def stepped(trainable: dict[str, nn.Parameter], optimiser: Optimisers) -> None:
    for parameter in trainable.values():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()


@contextmanager
def checkpoints(folder: Path) -> Iterator[Checkpoints]:
    kept = Checkpoints(folder)
    yield kept
    kept.close()


def save(folder: Path, trainable: dict[str, nn.Parameter], optimiser: Optimisers) -> Path:
    with checkpoints(folder) as kept:
        kept.begin(Progress(step=1), trainable, optimiser)
        kept.finish()
    return folder / "checkpoint"


@pytest.mark.parametrize("muon", [0.0, 3.0])
def test_weights_and_moments_come_back(muon: float, tmp_path: Path) -> None:
    trainable, optimiser = learning(muon=muon)
    stepped(trainable, optimiser)
    saved = save(tmp_path, trainable, optimiser)
    again, other = learning(muon=muon)
    restore(saved, again, other, rank=0, shards=1)
    for one in (0, 1):
        for name, parameter in trainable.items():
            assert torch.equal(parameter, again[name]), (one, name)
        stepped(trainable, optimiser)
        stepped(again, other)


def test_a_checkpoint_before_the_first_step_of_a_parameter_has_no_moments_of_it(tmp_path: Path) -> None:
    trainable, optimiser = learning()
    saved = save(tmp_path, trainable, optimiser)
    again, other = learning(muon=3.0)
    restore(saved, again, other, rank=0, shards=1)
    stepped(again, other)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    saved = save(tmp_path, *learning(width=4))
    trainable, optimiser = learning(width=6)
    with pytest.raises(
        CheckpointError, match=r"does not fit .*: llm\.layers\.0\.weight, llm\.layers\.0\.bias"
    ) as caught:
        restore(saved, trainable, optimiser, rank=0, shards=1)
    assert "another --out" in caught.value.remedy
    assert torch.equal(trainable["llm.layers.0.weight"], torch.ones(6, 6))


@pytest.mark.parametrize(("before", "now"), [(3.0, 0.0), (0.0, 3.0)])
def test_moments_of_another_optimiser_are_refused(before: float, now: float, tmp_path: Path) -> None:
    """AdamW would fail in the first step, and Muon begin anew without a word."""
    trainable, optimiser = learning(muon=before)
    stepped(trainable, optimiser)
    saved = save(tmp_path, trainable, optimiser)
    again, other = learning(muon=now)
    with pytest.raises(CheckpointError, match=r"moments of another optimiser .*: llm\.layers\.0\.weight\.") as caught:
        restore(saved, again, other, rank=0, shards=1)
    assert "muon" in caught.value.remedy
    assert torch.equal(again["llm.layers.0.weight"], torch.ones(4, 4))


class Two:
    """Two processes that tell each other what went wrong, as threads."""

    def __init__(self) -> None:
        self._all_are_here = threading.Barrier(2)
        self._told: dict[int, object] = {}
        self._own = threading.local()

    def run_as(self, rank: int, work: Callable[[int], str]) -> str:
        self._own.rank = rank
        return work(rank)

    def all_gather_object(self, told: list[object], mine: object) -> None:
        self._all_are_here.wait(timeout=20)  # whoever comes alone fails
        self._told[self._own.rank] = mine
        self._all_are_here.wait(timeout=20)
        told[:] = [self._told[rank] for rank in (0, 1)]


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Two:
    both = Two()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", both.all_gather_object)
    return both


def saved_by(both: Two, folder: Path, shards: int) -> list[str]:
    """What each of two processes says of a checkpoint."""
    kept = [Checkpoints(folder, rank=rank, shards=shards) for rank in (0, 1)]
    trainable, optimiser = learning()

    def work(rank: int) -> str:
        try:
            kept[rank].begin(Progress(step=1), trainable, optimiser)
            kept[rank].finish()
        except (SavingError, threading.BrokenBarrierError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            kept[rank].close()
        return "saved" if (folder / "checkpoint" / "state.json").is_file() else "nothing there"

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(both.run_as, (0, 1), (work, work)))


@pytest.mark.parametrize(
    ("shards", "broken", "file"),
    [
        (1, "save_file", "rank-0-of-1.safetensors"),
        (1, "replace_checkpoint", ""),
        (2, "save_file", "rank-0-of-2.safetensors"),
        (2, "save_file", "rank-1-of-2.safetensors"),
        (2, "replace_checkpoint", ""),
    ],
)
def test_a_checkpoint_that_cannot_be_written_stops_all_processes(
    shards: int, broken: str, file: str, two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the whole model in each, or a share each: who did not know would wait for the other for good."""
    original = getattr(checkpoint, broken)

    def full(first: Any, second: Any) -> None:
        if broken == "save_file" and second.name != file:
            return original(first, second)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, broken, full)
    told = saved_by(two, tmp_path, shards)
    assert all(one.startswith("SavingError: ") and "No space left" in one for one in told), told


@pytest.mark.parametrize("shards", [1, 2])
def test_a_checkpoint_is_in_its_place_when_any_process_goes_on(shards: int, two: Two, tmp_path: Path) -> None:
    assert saved_by(two, tmp_path, shards) == ["saved", "saved"]
