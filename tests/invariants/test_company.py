"""Towers grown by two processes: the mean of the gradients of both shares, and stopped or not the same to the bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import minicpmv
from minicpmv.errors import OptionError
from minicpmv.recipes.loader import load_towers
from minicpmv.training.feeding import Share
from minicpmv.training.optim import build_optimiser, select_trainable, set_rates
from minicpmv.training.towers.company import Company
from minicpmv.training.towers.run import build_learner, build_objectives, prepare_tokenizer, train
from tests.invariants.test_resume import Diary

RECIPE = Path(__file__).parents[1] / "toy_recipe.yaml"

pytestmark = [pytest.mark.usefixtures("one_thread")]


def grown(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "minicpmv", "train", str(RECIPE), "--out", str(folder), "--device", "cpu"]
    command += ["--processes", "2", "--threads", "1", *words]
    environment = {
        "PYTHONPATH": str(Path(minicpmv.__file__).parents[1]),
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)


def kept(folder: Path, stage: str) -> dict[str, Tensor]:
    return load_file(folder / "stages" / stage / "weights.safetensors")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    done = grown(folder)
    assert done.stdout.strip() == str(folder / "model")
    assert "stage 3/3 all: step 3 of 3  loss" in done.stderr
    assert (folder / "model" / "model.safetensors").is_file()
    return folder


def test_two_processes_take_the_mean_of_the_gradients_of_their_shares(together: Path, tmp_path: Path) -> None:
    recipe = load_towers(str(RECIPE))
    learner, stage = build_learner(recipe), recipe.stages[0]
    tokenizer = prepare_tokenizer(recipe, tmp_path)
    objectives = [build_objectives(recipe, learner, tokenizer, Share(rank, 2))[stage.name] for rank in (0, 1)]
    trainable = select_trainable(learner.parts, stage.rates)
    optimiser = build_optimiser(trainable, stage.rates, recipe.optimiser, stage.muon)
    sizes = set()
    for step in range(stage.steps):
        set_rates(optimiser, stage.schedule.factor(step))
        for objective in objectives:
            batch = objective.batch(step)
            sizes.add(len(batch["item_shapes"]))
            (objective.loss(learner, batch)[0] / 2).backward()
        torch.nn.utils.clip_grad_norm_(list(trainable.values()), recipe.optimiser.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
    assert sizes == {3, 2}  # of a batch of five
    weights = kept(together, stage.name)
    blank = build_learner(recipe)
    start = {
        f"{part}.{name}": weight for part, module in blank.parts.items() for name, weight in module.state_dict().items()
    }
    for name, weight in trainable.items():
        assert torch.equal(weights[name], weight), name  # half of a sum is the sum of halves
    assert max((weights[name] - start[name]).abs().max() for name in trainable) > 1e-3


def test_stopped_and_continued_they_end_at_the_same_weights(together: Path, tmp_path: Path) -> None:
    stopped = grown(tmp_path, "--max-minutes", "1e-6")
    assert "step 1 of 3 of stage 'vision'" in stopped.stderr
    assert stopped.stdout == ""
    grown(tmp_path)
    for stage in ("vision", "language", "all"):
        one, other = kept(together, stage), kept(tmp_path, stage)
        assert all(torch.equal(one[name], other[name]) for name in one), stage


def test_more_processes_than_samples_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicpmv.training.towers.run.join", lambda device: Company(Share(0, 8), torch.device(device)))
    with pytest.raises(OptionError, match="8 processes cannot share a batch of 4") as caught:
        train(load_towers(str(RECIPE)), tmp_path, reporter=Diary(), device="cpu")
    assert "at most 4" in str(caught.value.remedy)


def test_what_nobody_has_reached_stays_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise weight decay would wear down what a stage does not use."""
    met, unmet = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    met.grad = torch.tensor([2.0, 4.0])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor)  # the other has nothing at all
    Company(Share(0, 2), torch.device("cpu")).average([met, unmet])
    assert met.grad.tolist() == [1.0, 2.0]
    assert unmet.grad is None
