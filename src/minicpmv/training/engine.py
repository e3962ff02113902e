"""One stage carried out: the loop, and everything around it that has to survive a kill.

    recipe + folder -> train_stage -> Progress        (call it again to go on)

    for batch of the step: rates -> passes forward and backward -> clip -> update -> report -> save

The loss of a step is a sum over tokens divided by the number of targets of the whole step, in all rows, passes and
processes. The same samples give the same update however they are packed, accumulated or spread.
"""

import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from minicpmv.errors import OptionError
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.settings import dump_settings
from minicpmv.training.allocator import keep_freed_memory
from minicpmv.training.checkpoint import Progress
from minicpmv.training.dense import ASKED
from minicpmv.training.feeding import Share, StepBatch, recipe_mixture, step_loader
from minicpmv.training.optim import set_rates
from minicpmv.training.precision import autocast
from minicpmv.training.recipe import TrainingRecipe
from minicpmv.training.run_folder import TrainingError, add_note, keep_notes, not_finite, only_one, write_text
from minicpmv.training.spreading import accumulating
from minicpmv.training.stage import Stage, open_stage, write_results, write_stage_sheet
from minicpmv.training.stopping import Stop, stopping
from minicpmv.training.towers.patch_reading import FEW_LABELS

_JUDGED = 50
"""A run of as many samples must not have more flawed ones than its recipe allows, however many follow; a shorter run as
a whole."""


class StageReporter(Protocol):
    """Whoever shows progress."""

    def begin(self, recipe: TrainingRecipe, model: nn.Module, progress: Progress) -> None:
        """A stage begins, or goes on."""
        ...

    def step(self, progress: Progress, numbers: Mapping[str, float]) -> None:
        """A step is done."""
        ...


def train_stage(
    recipe: TrainingRecipe,
    folder: Path,
    *,
    reporter: StageReporter,
    device: str = "auto",
    max_seconds: float = math.inf,
) -> Progress:
    """Carry out a stage, or go on with it where its folder stands.

    Started by `accelerate launch` or `torchrun`, every process calls this.

    Args:
        recipe: what to do.
        folder: the run's folder; made if absent. At the end `folder/model` holds the model, and with adapters
            `folder/adapter` holds them.
        reporter: shows progress.
        device: `auto`, `cpu` or `cuda`; several GPUs belong to several processes.
        max_seconds: save and stop after this time.

    Returns:
        Where the stage stands.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; the step that ran then is done and saved.
        OptionError: a device or tracker that is not there.
        TrainingError: the loss is not finite, too many samples cannot be used, or another process trains here.
        CheckpointError: the start or the checkpoint does not fit the recipe.
        SavingError: a checkpoint, or another file of the run, could not be written.
    """
    deadline = time.monotonic() + max_seconds
    if device not in ("auto", "cpu", "cuda"):
        raise OptionError(
            f"Training cannot be told to use {device!r}.",
            remedy="Use auto or cpu; choose GPUs with CUDA_VISIBLE_DEVICES and several with torchrun.",
        )
    # Several processes without a GPU find each other only if accelerate is told that they use the CPU.
    on_cpu = device == "cpu" or (int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available())
    known = {str(getattr(one, "value", one)) for one in get_available_trackers()}
    if missing := sorted(set(recipe.trackers) - known):
        raise OptionError(
            f"{', '.join(missing)} cannot be logged to.", remedy="Install the package of that name, or leave it out."
        )
    accelerator = Accelerator(cpu=on_cpu, log_with=list(recipe.trackers) or None, project_dir=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder) if accelerator.is_main_process else contextlib.nullcontext(), _settled(recipe):
        stage = open_stage(recipe, folder, accelerator)
        with contextlib.closing(stage.checkpoints), stopping() as stop:
            return _run(stage, reporter, deadline, stop)


def _run(stage: Stage, reporter: StageReporter, deadline: float, stop: Stop) -> Progress:
    recipe, accelerator = stage.recipe, stage.accelerator
    progress = stage.restore()
    mixture = recipe_mixture(recipe)
    if progress.stream is not None:
        mixture.check(progress.stream)
    if accelerator.is_main_process:
        _begin_notes(stage, progress)
        reporter.begin(recipe, stage.model, progress)
    accelerator.init_trackers(recipe.name)
    share = Share(accelerator.process_index, accelerator.num_processes)
    sources = mixture.names
    began = saved_at = time.monotonic()
    for batch in step_loader(recipe, stage.processor, first=progress.step, stream=progress.stream, share=share):
        waited = time.monotonic() - began
        factor = recipe.schedule.factor(batch.step)
        set_rates(stage.optimiser, factor)
        numbers, counts = _step(stage, batch, sources)
        now = time.monotonic()
        progress = progress.after(batch.step + 1, batch.stream, now - began, counts)
        stage.checkpoints.poll()
        _report(stage, reporter, progress, {**numbers, "rate": factor}, waiting=waited / (now - began))
        is_last = progress.step == recipe.schedule.steps
        due = is_last or now - saved_at > recipe.save_every_s
        due, over = _agreed(accelerator, due, stop.asked or now > deadline)
        if due or over:
            stage.checkpoints.begin(progress, stage.trainable.parameters, stage.optimiser)
            write_stage_sheet(stage, progress)
            saved_at = time.monotonic()
        began = time.monotonic()
        if over and not is_last:
            break
    stage.checkpoints.finish()
    for tracker in accelerator.trackers:
        tracker.finish()
    if progress.step == recipe.schedule.steps:
        write_results(stage)
    accelerator.wait_for_everyone()
    return progress


def _begin_notes(stage: Stage, progress: Progress) -> None:
    """Keep the recipe, and of steps that a killed run did behind its checkpoint no lines: they are done again."""
    write_text(stage.folder / "recipe.yaml", dump_settings(stage.recipe))
    for name, beyond in (("metrics.jsonl", progress.step + 1), ("flaws.jsonl", progress.step)):
        keep_notes(stage.folder / name, partial(_is_before, beyond))


def _is_before(step: int, note: Mapping[str, Any]) -> bool:
    return bool(note["step"] < step)


def _step(stage: Stage, batch: StepBatch, sources: list[str]) -> tuple[dict[str, float], Counter[str]]:
    """One update. Returns its numbers and its counts, over all processes."""
    recipe, accelerator = stage.recipe, stage.accelerator
    counts, most_passes = _counted(accelerator, batch)
    sums = torch.zeros(2, len(sources), dtype=torch.float64)
    # Dropout of adapters is the only thing that draws while training: from the step's own number.
    torch.manual_seed(recipe.seed * 1_000_003 + batch.step * accelerator.num_processes + accelerator.process_index)
    scale = accelerator.num_processes / max(counts["targets"], 1)  # DDP and FSDP take the mean over processes
    asked = torch.tensor([counts[name] for name in ASKED], device=accelerator.device).clamp(min=FEW_LABELS)
    weights = torch.tensor(recipe.dense.weights if recipe.dense else [0.0] * len(ASKED))
    weights = weights.to(accelerator.device) * accelerator.num_processes / asked
    dense_sums = torch.zeros(len(ASKED), device=accelerator.device)
    for number in range(most_passes):
        inputs = batch.passes[number] if number < len(batch.passes) else _nothing(stage.processor)
        is_last = number + 1 == most_passes
        with accumulating(stage.losses, accelerator, is_last=is_last):
            with autocast(accelerator.device, recipe.precision):
                losses, dense = stage.losses(**_moved(inputs, accelerator.device))
            total = losses.sum() * scale + (dense * weights).sum()
            if total.requires_grad:  # text alone teaches nothing where the language model is frozen
                total.backward()
        dense_sums += dense.detach()
        if number < len(batch.passes):
            _add_by_source(sums, losses.detach(), batch.sources[number], sources)
    norm = _norm(stage, recipe.optimiser.clip_norm)
    sums = accelerator.reduce(sums.to(accelerator.device, torch.float32), "sum").cpu()
    loss = float(sums[0].sum()) / max(counts["targets"], 1)
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise _not_finite(stage, batch, loss, norm)
    if counts["targets"]:
        stage.optimiser.step()
    stage.optimiser.zero_grad()
    _note_flaws(stage, batch)
    told = {}
    if recipe.dense is not None:
        means = (accelerator.reduce(dense_sums, "sum") / asked).tolist()
        told = dict(zip(ASKED.values(), means, strict=True))
    by_source = {
        f"loss/{name}": float(sums[0, index] / sums[1, index]) for index, name in enumerate(sources) if sums[1, index]
    }
    return {"loss": loss, "norm": norm, **told, **by_source}, counts


def _counted(accelerator: Accelerator, batch: StepBatch) -> tuple[Counter[str], int]:
    """Counts of the step over all processes, and the most passes that any of them makes."""
    sizes = ("samples", "flawed", "targets", "tokens", "token_pairs", "patches", "patch_pairs", "packs")
    names = (*sizes, *ASKED)
    mine = {**batch.counts, "flawed": len(batch.flaws)}
    row = torch.tensor([[mine.get(name, 0) for name in names] + [len(batch.passes)]], device=accelerator.device)
    rows = accelerator.gather(row).cpu()
    totals = rows.sum(0).tolist()
    return Counter({name: int(total) for name, total in zip(names, totals, strict=False)}), max(
        int(rows[:, -1].max()), 1
    )


def _nothing(processor: MiniCPMVProcessor) -> dict[str, Tensor]:
    """A pass without samples, for a process that has fewer of them than another."""
    ids = torch.full((1, 2), int(processor.tokenizer.pad_token_id or 0))
    return {"input_ids": ids, "position_ids": torch.arange(2)[None], "labels": torch.full((1, 2), -100)}


def _moved(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


def _add_by_source(sums: Tensor, losses: Tensor, counts: list[tuple[str, int]], sources: list[str]) -> None:
    """Add losses and numbers of targets to the columns of their sources."""
    if not any(count for _, count in counts):
        return
    columns = np.repeat([sources.index(name) for name, _ in counts], [count for _, count in counts])
    where = torch.from_numpy(columns)
    sums[0].index_add_(0, where, losses.double().cpu())
    sums[1].index_add_(0, where, torch.ones(len(where), dtype=torch.float64))


def _norm(stage: Stage, largest: float) -> float:
    """Clip the gradients; returns their norm before."""
    norm = torch.nn.utils.clip_grad_norm_(list(stage.trainable.parameters.values()), largest)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _not_finite(stage: Stage, batch: StepBatch, loss: float, norm: float) -> TrainingError:
    """Keep what this process was fed, so that it can be looked at."""
    path = stage.folder / f"step-{batch.step}-rank-{stage.accelerator.process_index}.safetensors"
    tensors = {
        f"{number}.{name}": value
        for number, inputs in enumerate(batch.passes)
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    }
    return not_finite(path, batch.step, loss, norm, tensors)


def _note_flaws(stage: Stage, batch: StepBatch) -> None:
    """Write down every sample that could not be used."""
    for source, key, reason in batch.flaws:
        note = {"step": batch.step, "source": source, "key": key, "reason": reason}
        add_note(stage.folder / "flaws.jsonl", note)


def _report(
    stage: Stage, reporter: StageReporter, progress: Progress, numbers: dict[str, float], waiting: float
) -> None:
    """Tell whoever listens, and stop if too much of the data is unusable."""
    if stage.accelerator.is_main_process:
        reporter.step(progress, numbers)
        line = {"step": progress.step, "seconds": round(progress.seconds, 2), "waiting": round(waiting, 4)}
        add_note(stage.folder / "metrics.jsonl", {**line, **numbers, **progress.counts})
    stage.accelerator.log(numbers, step=progress.step)
    flawed, seen = (
        progress.counts.get("flawed", 0),
        progress.counts.get("flawed", 0) + progress.counts.get("samples", 0),
    )
    least = min(_JUDGED, stage.recipe.batch * stage.recipe.schedule.steps)
    if flawed > math.ceil(stage.recipe.most_flawed * max(seen, least)):  # one in a few is no share to go by
        raise TrainingError(
            f"{flawed} of the first {seen} samples cannot be used; most_flawed allows {stage.recipe.most_flawed:.0%}.",
            remedy=f"{stage.folder / 'flaws.jsonl'} says which and why. Mend the data, or allow more.",
        )


def _agreed(accelerator: Accelerator, *flags: bool) -> tuple[bool, ...]:
    """What the main process decided, for all; clocks of processes differ."""
    if accelerator.num_processes == 1:
        return flags
    told = list(flags)
    broadcast_object_list(told)
    return tuple(told)


@contextlib.contextmanager
def _settled(recipe: TrainingRecipe) -> Iterator[None]:
    """Memory that is kept, and random states that are given back."""
    keep_freed_memory()
    with torch.random.fork_rng():
        yield
