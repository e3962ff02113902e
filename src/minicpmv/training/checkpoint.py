"""What a stage keeps on disk: everything a killed run needs to go on as if nothing had happened.

    run/checkpoint/
      state.json                    step, position in the data, counts, number of shards
      rank-0-of-1.safetensors       what learns and its moments; one file per process if everything is sharded

Saving copies the tensors to memory and goes on; a thread writes them, flushes the disk and renames the folder into its
place, so a checkpoint is complete or not there, and a full disk leaves the one before. Only what learns is kept:
frozen weights are those of the start. Nothing random needs keeping either, since every step draws from its own number.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from minicpmv.data.mixture import State
from minicpmv.errors import CheckpointError
from minicpmv.training.optim import Optimisers, refuse_other_moments
from minicpmv.training.run_folder import not_saved, read_state, replace_checkpoint


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

    origin: Mapping[str, Any] = field(default_factory=dict)
    """What may not change on the way: see `minicpmv.training.recipe.origin_of`."""

    def after(self, step: int, stream: State, seconds: float, counts: Mapping[str, int]) -> "Progress":
        """The same, one step later."""
        added = {name: self.counts.get(name, 0) + number for name, number in counts.items()}
        return Progress(step, stream, self.seconds + seconds, added, self.origin)


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
        """Wait until what was begun is on the disk and in its place, whoever writes it.

        Every process calls this at the same step: one that did not know of a failure would wait for those that do.

        Raises:
            SavingError: it could not be written, here or by another process; the checkpoint before it is intact.
        """
        state, pending = self._state, self._pending
        self._state, self._pending = {}, None
        if not state:
            return
        failure = _any_failure("" if pending is None else _failure_of(pending.result))
        if not failure and self._shards > 1:
            put_in_place = partial(replace_checkpoint, self._folder, state)
            failure = _any_failure("" if self._rank else _failure_of(put_in_place))
        if failure:
            raise not_saved(self._folder, failure)

    def _write(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        fresh = self._folder / "checkpoint.new"
        fresh.mkdir(parents=True, exist_ok=True)
        path = fresh / _shard_name(self._rank, self._shards)
        save_file(dict(tensors), path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        if self._shards == 1:
            replace_checkpoint(self._folder, state)


def load_progress(checkpoint: Path) -> Progress:
    """Where the stage stood when a checkpoint was written.

    Raises:
        CheckpointError: it is damaged, or of another kind of run.
    """
    state = read_state(checkpoint, ("step", "stream", "seconds", "counts", "shards"))
    return Progress(state["step"], state["stream"], state["seconds"], state["counts"], state.get("origin", {}))


def refuse_another_run(progress: Progress, origin: Mapping[str, Any], steps: int, checkpoint: Path) -> None:
    """Make sure that a checkpoint is one of this recipe's run.

    Args:
        progress: of the checkpoint.
        origin: of the recipe. What only one of both names is left to the mixture.
        steps: of the recipe.
        checkpoint: where it lies.

    Raises:
        CheckpointError: the run began elsewhere or learns from something else, or has gone farther.
    """
    changed = [name for name, said in progress.origin.items() if origin.get(name, said) != said]
    if changed:
        name = changed[0]
        raise CheckpointError(
            f"{checkpoint.parent} holds a run with {name} {progress.origin[name]!r}, not {origin[name]!r}.",
            remedy="Name another --out folder, or go on with what it began with.",
        )
    if progress.step > steps:
        raise CheckpointError(
            f"{checkpoint.parent} holds step {progress.step}, and the recipe has {steps}.",
            remedy="Name another --out folder, or give the recipe more steps.",
        )


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
        CheckpointError: another architecture, other parts that learn, another optimiser, or another number of shards.
    """
    kept = read_state(checkpoint, ["shards"])["shards"]
    if kept != shards:
        raise CheckpointError(
            f"{checkpoint} was written by {kept} process{'es' * (kept > 1)} that shared the model, not {shards}.",
            remedy=f"Go on with {kept}, or start another stage from the model it wrote.",
        )
    stored = load_file(checkpoint / _shard_name(rank if shards > 1 else 0, shards))
    moments = [name for name in stored if not name.startswith("weight.")]
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
    refuse_other_moments(checkpoint, moments, trainable, optimiser)
    with torch.no_grad():
        for name, parameter in trainable.items():
            _held(parameter).copy_(stored.pop(f"weight.{name}"))
    for key in moments:
        value = stored[key]
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


def _failure_of(saving: Callable[[], None]) -> str:
    """What went wrong when something was written, or nothing."""
    try:
        saving()
    except (OSError, SafetensorError) as error:
        return str(error) or type(error).__name__
    return ""


def _any_failure(failure: str) -> str:
    """What went wrong in this or any other process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return failure
    told: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(told, failure)
    return next((one for one in told if one), "")
