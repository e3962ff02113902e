"""The loop: batch, loss, backward, step, report, save.

    for stage: select parameters -> optimiser -> for step: batch(step) -> loss -> backward -> clip -> step

Batches are made ahead by one worker process. Nothing is drawn from a global random state while training, so a run that
was killed goes on from its checkpoint to the same weights (tests/invariants/test_resume.py).
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from minicpmv.training.optim import Optimisers, build_optimiser, select_trainable, set_rates
from minicpmv.training.precision import autocast
from minicpmv.training.run_folder import add_note, find_checkpoint, not_finite
from minicpmv.training.stopping import Stop, leave_stopping_to_others, stopping
from minicpmv.training.towers import runstate
from minicpmv.training.towers.company import Company
from minicpmv.training.towers.learner import Learner
from minicpmv.training.towers.objectives import Batch, Objective
from minicpmv.training.towers.recipe import StageRecipe, TowersRecipe
from minicpmv.training.towers.runstate import Position


class Reporter(Protocol):
    """Whoever shows progress."""

    def stage(self, stage: StageRecipe, start: int) -> None:
        """A stage begins (or goes on) at step `start`."""
        ...

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        """`step` updates of the stage are done."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """All that a stage needs, made by `minicpmv.training.towers.run`."""

    recipe: TowersRecipe
    folder: Path
    learner: Learner
    objectives: Mapping[str, Objective]
    company: Company
    reporter: Reporter
    deadline: float = math.inf
    """`time.monotonic()` value at which to save and stop."""


class _Batches(Dataset[Batch]):
    """Batches by step, for a data worker."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Batch:
        return self.make(step)


def run_stages(run: Run, position: Position) -> Position:
    """Train from `position` to the end of the recipe or to the deadline.

    Returns:
        Where the run stands; finished if its stage is the number of stages.

    Raises:
        TrainingError: the loss became infinite or not a number; the checkpoint before it is intact.
        SavingError: a checkpoint could not be written, by this process or the first, or another file of the run.
    """
    while position.stage < len(run.recipe.stages):
        stage = run.recipe.stages[position.stage]
        with stopping() as stop:
            position = _run_stage(run, stage, position, stop)
        if position.step < stage.steps:
            return position
        position = Position(position.stage + 1, 0, position.seconds)
    return position


def _run_stage(run: Run, stage: StageRecipe, position: Position, stop: Stop) -> Position:
    trainable = select_trainable(run.learner.parts, stage.rates)
    optimiser = build_optimiser(trainable, stage.rates, run.recipe.optimiser, stage.muon)
    checkpoint = find_checkpoint(run.folder)
    if position.step and checkpoint is not None:
        runstate.load_optimiser(checkpoint, trainable, optimiser)
    for part, module in run.learner.parts.items():
        module.train(part in stage.rates)
    if run.company.is_first:
        run.reporter.stage(stage, position.step)
    objective, schedule = run.objectives[stage.name], stage.schedule
    began = saved = time.monotonic()
    spent = position.seconds
    for step, batch in _batches(objective, range(position.step, stage.steps), run.company.device):
        factor = schedule.factor(step)
        set_rates(optimiser, factor)
        numbers = _update(run, objective, batch, trainable, optimiser, step)
        now = time.monotonic()
        position = replace(position, step=step + 1, seconds=spent + now - began)
        _report(run, stage, position, {**numbers, "rate": factor})
        is_last = step + 1 == stage.steps
        due = is_last or now - saved > run.recipe.save_every_s
        due, over = run.company.agreed(due, stop.asked or now > run.deadline)
        if due or over:
            _save(run, stage, position, trainable, optimiser)
            saved = now
        if over and not is_last:
            break
    return position


def _save(
    run: Run, stage: StageRecipe, position: Position, trainable: Mapping[str, nn.Parameter], optimiser: Optimisers
) -> None:
    """The first process writes a checkpoint; if it cannot, all fail with it and none waits for it in the next step."""
    is_last = position.step == stage.steps
    done = Position(position.stage + 1, 0, position.seconds) if is_last else position
    failure: OSError | None = None
    if run.company.is_first:
        try:
            runstate.save_checkpoint(run.folder, done, run.learner.parts, trainable, optimiser)
            if is_last:
                runstate.keep_stage(run.folder, stage.name)
        except OSError as error:
            failure = error
    (failure,) = run.company.agreed(failure)
    if failure is not None:
        raise failure


def _update(
    run: Run,
    objective: Objective,
    batch: Batch,
    trainable: Mapping[str, nn.Parameter],
    optimiser: Optimisers,
    step: int,
) -> dict[str, float]:
    """One optimiser step."""
    with autocast(run.company.device, run.recipe.precision):
        loss, numbers = objective.loss(run.learner, batch)
    loss.backward()
    run.company.average(trainable.values())
    norm = torch.nn.utils.clip_grad_norm_(list(trainable.values()), run.recipe.optimiser.clip_norm)
    if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        kept = run.folder / f"step-{step}-rank-{run.company.share.rank}.safetensors"
        raise not_finite(kept, step, loss.item(), norm.item(), tensors)
    optimiser.step()
    optimiser.zero_grad()
    return {"loss": loss.item(), "norm": norm.item(), **numbers}


def _batches(objective: Objective, steps: range, device: torch.device) -> Iterator[tuple[int, Batch]]:
    """Batches of the given steps, made ahead in one worker process."""
    loader = DataLoader(
        _Batches(objective.batch),
        batch_size=None,
        sampler=list(steps),
        num_workers=1,
        prefetch_factor=4,
        worker_init_fn=leave_stopping_to_others,
    )
    for step, batch in zip(steps, loader, strict=True):
        yield step, {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def _report(run: Run, stage: StageRecipe, position: Position, numbers: Mapping[str, float]) -> None:
    if not run.company.is_first:
        return
    run.reporter.step(position.step, numbers)
    if position.step % 20 and position.step != stage.steps:
        return
    line = {"stage": stage.name, "step": position.step, "seconds": round(position.seconds, 1), **numbers}
    add_note(run.folder / "metrics.jsonl", line)
