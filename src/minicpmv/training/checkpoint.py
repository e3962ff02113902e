"""What a stage keeps on disk: everything a killed run needs to go on as if nothing had happened.

    run/checkpoint/
      state.json                    step, position in the data, counts, number of shards
      rank-0-of-1.safetensors       what learns and its moments; one file per process if everything is sharded

Saving copies the tensors to memory and goes on; a thread writes them, flushes the disk and renames the folder into its
place, so a checkpoint is complete or not there, and a full disk leaves the one before. Only what learns is kept:
frozen weights are those of the start. Nothing random needs keeping either, since every step draws from its own number.
"""

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from minicpmv.data.mixture import State
from minicpmv.errors import CheckpointError, MiniCPMVError
from minicpmv.training.optim import Optimisers


class SavingError(MiniCPMVError, OSError):
    """A checkpoint could not be written; the one before it is intact."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a stage stands."""

    step: int = 0
    """Optimiser steps that are done."""

    stream: State | None = None
    """Where the mixture goes on; None before the first step."""

    seconds: float = 0.0
    """Training time over all runs."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """Over all processes: `samples`, `flawed`, and what `minicpmv.training.estimate` needs."""

    def after(self, step: int, stream: State, seconds: float, counts: Mapping[str, int]) -> "Progress":
        """The same, one step later."""
        added = {name: self.counts.get(name, 0) + number for name, number in counts.items()}
        return Progress(step, stream, self.seconds + seconds, added)


class Checkpoints:
    """The checkpoint of a stage, written in the background.

    Args:
        folder: the run's folder.
        rank: number of this process.
        shards: files a checkpoint consists of: 1, or the number of processes if each holds a share of everything.
    """

    def __init__(self, folder: Path, *, rank: int = 0, shards: int = 1) -> None:
        self._folder, self._rank, self._shards = folder, rank, shards
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._state: dict[str, Any] = {}
        if rank == 0:
            shutil.rmtree(folder / "checkpoint.new", ignore_errors=True)

    def close(self) -> None:
        """Wait for what is being written, whatever happened; no thread is left."""
        self._pool.shutdown(wait=True)

    def poll(self) -> None:
        """Put a sharded checkpoint in its place as soon as every process has written its share; call it every step.

        Raises:
            SavingError: it could not be written.
        """
        if self._state and self._shards > 1 and not _any_failure("" if self._is_written else "not yet"):
            self.finish()

    @property
    def _is_written(self) -> bool:
        return self._pending is None or self._pending.done()

    def begin(self, progress: Progress, trainable: Mapping[str, nn.Parameter], optimiser: Optimisers) -> None:
        """Copy everything and start to write it; what was being written before is waited for.

        Every process calls this at the same step.

        Raises:
            SavingError: the last checkpoint could not be written.
        """
        self.finish()
        self._state = {**asdict(progress), "shards": self._shards}
        if self._rank and self._shards == 1:
            return
        tensors = {name: _local(value) for name, value in named_state(trainable, optimiser).items()}
        self._pending = self._pool.submit(self._write, tensors, self._state)

    def finish(self) -> None:
        """Wait until what was begun is on the disk and in its place; with shards, for the other processes too.

        Raises:
            SavingError: it could not be written; the checkpoint before it is intact.
        """
        failure = ""
        if self._pending is not None:
            try:
                self._pending.result()
            except (OSError, SafetensorError) as error:
                failure = str(error)
        if self._state and self._shards > 1:
            failure = _any_failure(failure)
        state, self._state, self._pending = self._state, {}, None
        if failure:
            raise SavingError(
                f"{self._folder / 'checkpoint.new'} could not be written: {failure}",
                remedy="The checkpoint before it is intact. Free some space and run the same command again.",
            )
        if state and self._rank == 0 and self._shards > 1:
            replace_folder(self._folder / "checkpoint.new", self._folder / "checkpoint", state)

    def _write(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        fresh = self._folder / "checkpoint.new"
        fresh.mkdir(parents=True, exist_ok=True)
        path = fresh / _shard_name(self._rank, self._shards)
        save_file(dict(tensors), path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        if self._shards == 1:
            replace_folder(fresh, self._folder / "checkpoint", state)


def replace_folder(fresh: Path, place: Path, state: Mapping[str, Any]) -> None:
    """Finish a folder by its `state.json` and rename it into its place."""
    old = place.with_name(place.name + ".old")
    with (fresh / "state.json").open("w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, also after a crash between two renames."""
    for name in ("checkpoint", "checkpoint.old"):
        if (folder / name / "state.json").is_file():
            return folder / name
    return None


def load_progress(checkpoint: Path) -> Progress:
    """Where the stage stood when a checkpoint was written."""
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    return Progress(state["step"], state["stream"], state["seconds"], state["counts"])


def named_state(trainable: Mapping[str, nn.Parameter], optimiser: Optimisers) -> dict[str, Tensor]:
    """What learns as `weight.NAME`, and its moments as `exp_avg.NAME` and the like."""
    state = {f"weight.{name}": parameter.detach() for name, parameter in trainable.items()}
    for name, parameter in trainable.items():
        state |= {f"{moment}.{name}": value for moment, value in optimiser.state_of(parameter).items()}
    return state


def restore(
    checkpoint: Path, trainable: Mapping[str, nn.Parameter], optimiser: Optimisers, *, rank: int, shards: int
) -> None:
    """Give weights and moments back what a checkpoint holds.

    Raises:
        CheckpointError: another architecture, other parts that learn, or another number of shards.
    """
    kept = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["shards"]
    if kept != shards:
        raise CheckpointError(
            f"{checkpoint} was written by {kept} process{'es' * (kept > 1)} that shared the model, not {shards}.",
            remedy=f"Go on with {kept}, or start another stage from the model it wrote.",
        )
    stored = load_file(checkpoint / _shard_name(rank if shards > 1 else 0, shards))
    wrong = [
        name
        for name, parameter in trainable.items()
        if (held := stored.get(f"weight.{name}")) is None or held.shape != _held(parameter).shape
    ]
    extra = [name for name in stored if name.startswith("weight.") and name.removeprefix("weight.") not in trainable]
    if wrong or extra:
        raise CheckpointError(
            f"{checkpoint} does not fit what the recipe trains: {', '.join((wrong + extra)[:8])}.",
            remedy="Use another --out folder, or the recipe this run was started with.",
        )
    with torch.no_grad():
        for name, parameter in trainable.items():
            _held(parameter).copy_(stored.pop(f"weight.{name}"))
    for key, value in stored.items():
        moment, _, name = key.partition(".")
        parameter = trainable[name]
        kept_value = value.to(parameter.device)
        if isinstance(parameter, DTensor) and value.ndim:
            kept_value = DTensor.from_local(
                kept_value,
                parameter.device_mesh,
                parameter.placements,
                shape=parameter.shape,
                stride=parameter.stride(),
            )
        optimiser.state_of(parameter)[moment] = kept_value


def _shard_name(rank: int, shards: int) -> str:
    return f"rank-{rank}-of-{shards}.safetensors"


def _held(tensor: Tensor) -> Tensor:
    """This process's share of a sharded tensor, or the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _local(tensor: Tensor) -> Tensor:
    """A copy in memory of what this process holds of a tensor."""
    return _held(tensor.detach()).to("cpu", copy=True).contiguous()


def _any_failure(failure: str) -> str:
    """What went wrong in this or any other process."""
    told: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(told, failure)
    return next((one for one in told if one), "")
