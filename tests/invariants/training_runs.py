"""Runs of training for the tests: carried out here, or in processes that can be killed, and what they leave."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from minicpmv.training.checkpoint import Progress
from minicpmv.training.engine import train_stage
from minicpmv.training.recipe import TrainingRecipe
from minicpmv.training.run_folder import find_checkpoint

ROOT = Path(__file__).resolve().parents[2]
STAGE = ROOT / "tests" / "toy_stage.yaml"
TOWERS = ROOT / "tests" / "toy_recipe.yaml"

LOSS = 2.7e-7
"""Measured: at most 8.9e-8, between rows of other lengths; one process to two 8.0e-8 (FSDP2) and 4.0e-8 (DDP)."""

OTHER_ATTENTION = 1.1e-6
"""Measured: at most 3.6e-7, one kernel over a masked row to products of single samples, in float32."""

WEIGHT = 1.5e-3
"""Measured: at most 4.9e-4 in a stored bfloat16 weight, where rounding falls the other way."""


@dataclass
class Diary:
    """A reporter that remembers every number of every step."""

    steps: dict[int, dict[str, float]] = field(default_factory=dict)

    def begin(self, recipe: TrainingRecipe, model: nn.Module, progress: Progress) -> None:
        """Nothing to remember."""

    def step(self, progress: Progress, numbers: Mapping[str, float]) -> None:
        assert progress.step not in self.steps, "no step is done twice"
        self.steps[progress.step] = dict(numbers)


class Filling(Diary):
    """A reporter in whose presence the disk is full for one file of the run."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def begin(self, recipe: TrainingRecipe, model: nn.Module, progress: Progress) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to("/dev/full")


def carried_out(recipe: TrainingRecipe, folder: Path, **options: float) -> Diary:
    diary = Diary()
    train_stage(recipe, folder, reporter=diary, device="cpu", **options)  # type: ignore[arg-type]
    return diary


def learned(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "checkpoint" / "rank-0-of-1.safetensors")


def finished(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def losses(folder: Path) -> dict[int, float]:
    """What was reported of each step, once: a killed run does the steps behind its checkpoint again."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["step"] for entry in entries] == list(range(1, len(entries) + 1))
    return {entry["step"]: entry["loss"] for entry in entries}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


PROCESSES = """
import os, sys, time
from pathlib import Path
import torch
from minicpmv.recipes.loader import load_recipe
from minicpmv.training.engine import train_stage
from minicpmv.training.recipe import TrainingRecipe
from minicpmv.training.towers.run import train

class Reporter:
    steps = 0
    def begin(self, *_): pass
    def stage(self, *_): pass
    def step(self, *_):
        self.steps += 1
        with open(sys.argv[2] + ".told", "a") as file:
            file.write(os.environ.get("WORLD_SIZE", "1"))
        if self.steps == int(os.environ["HOLD"]):
            time.sleep(600)

recipe = load_recipe(sys.argv[1], sys.argv[3:])
carry_out = train_stage if isinstance(recipe, TrainingRecipe) else train
carry_out(recipe, Path(sys.argv[2]), reporter=Reporter(), device="auto")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def saved_state(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint says of itself; nothing if there is none yet."""
    checkpoint = find_checkpoint(folder)
    return {} if checkpoint is None else json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node")
ACCELERATE = (
    "accelerate.commands.launch", "--multi_gpu", "--mixed_precision", "no", "--num_machines", "1", "--num_processes",
)  # fmt: skip
"""Modules that start processes; their number follows. accelerate knows several processes on a CPU as GPUs only."""


def start(
    number: int,
    folder: Path,
    *changes: str,
    recipe: Path = STAGE,
    hold_in: int | None = None,
    launcher: tuple[str, ...] = TORCHRUN,
) -> subprocess.Popen[str]:
    """Training in processes of its own; if asked for, they wait in a step to be killed."""
    script = folder.with_name(folder.name + ".py")
    script.write_text(PROCESSES, encoding="utf-8")
    words = [sys.executable]
    if number > 1:
        words += ["-m", *launcher, str(number)]
    words += [str(script), str(recipe), str(folder), *changes]
    paths = {"PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}  # as on a machine without a GPU
    environment = {**os.environ, **paths, "OMP_NUM_THREADS": "1", "HOLD": str(hold_in or 0)}
    return subprocess.Popen(
        words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told[-3000:]


def kill_after(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    """SIGKILL to all of its processes as soon as a step is reported.

    The workers of `torchrun` have sessions of their own and outlive it. One that lived on would keep the pipe open.
    """
    told = Path(f"{folder}.told")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if told.exists() and len(told.read_text(encoding="utf-8")) >= step:
            break
        time.sleep(0.02)
    starter = psutil.Process(process.pid)
    for one in (starter, *starter.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, said[-3000:]
