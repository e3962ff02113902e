"""`minicpmv train` for one stage that goes on from a model: fine-tuning, pre-training."""

import json
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from minicpmv.cli.console import say, working
from minicpmv.cli.local_processes import is_first, leave_the_others
from minicpmv.errors import OptionError

if TYPE_CHECKING:
    from minicpmv.data.mixture import Mixture
    from minicpmv.model.configuration import MiniCPMVConfig
    from minicpmv.processing.processor import MiniCPMVProcessor
    from minicpmv.training.estimate import Memory
    from minicpmv.training.feeding import StepBatch
    from minicpmv.training.recipe import TrainingRecipe

DEFAULT_EPOCHS = 3.0
LORA_RANK = 16
LORA_SPEED = 10
"""Adapters learn best at about ten times the rate of whole matrices; ours, as a start. The resampler, a hundredth of
the model and the part that saves lose elsewhere, learns whole."""
RELEASED = {"openbmb/MiniCPM-V-4_5": "4.5", "openbmb/MiniCPM-V-4": "4.0"}
"""Hub ids whose configuration is known without asking the hub."""
ASSUMED_PEAK = 989e12
"""Operations per second of an H100 or H200 SXM in bfloat16 without sparsity. Source: NVIDIA's data sheets."""
ASSUMED_UTILISATION = 0.35
"""Of it that a dry run counts on; ours."""
TINY_STEPS, TINY_BATCH = 2, 4
MOST_DRAWN = 32
"""Samples that a dry run draws; larger steps are scaled from these."""


def with_own_data(
    recipe: "TrainingRecipe",
    *,
    model: str | None,
    data: Sequence[Path],
    epochs: float | None,
) -> "TrainingRecipe":
    """A recipe with what a person gave on the command line.

    Args:
        recipe: as it stands in its file.
        model: where to start instead.
        data: files and folders that replace its mixture, each as likely as it has records.
        epochs: how often each record is seen; the schedule keeps its proportions.

    Raises:
        OptionError: a file that cannot be read, or without records.
    """
    from minicpmv.data.sources import SourceRecipe

    if model is not None:
        recipe = replace(recipe, start=model)
    if data:
        numbers = {path: count_records(path) for path in data}
        names = [path.stem for path in data]
        sources = {
            name if names.count(name) == 1 else str(path): SourceRecipe(weight=float(numbers[path]), path=str(path))
            for name, path in zip(names, data, strict=True)
        }
        batch = min(recipe.batch, sum(numbers.values()))
        steps = max(1, math.ceil((epochs or DEFAULT_EPOCHS) * sum(numbers.values()) / batch))
        recipe = replace(recipe, data=sources, decay_data=None, batch=batch, schedule=recipe.schedule.stretched(steps))
    return recipe


def lora_changes(recipe: "TrainingRecipe", *, bits: Literal[4, 16] = 16) -> list[str]:
    """What `--lora` and `--qlora` change in a recipe, as `--set` would; what a person sets comes after and wins.

    Adapters of rank 16 in every part that learns, at ten times its rate; the resampler learns whole. A recipe that has
    adapters keeps its own.

    Args:
        recipe: as it stands in its file.
        bits: of the language model's frozen weights.
    """
    changes = []
    if recipe.lora is None:
        whole = [part for part in ("resampler",) if part in recipe.rates]
        changes = [f"lora={{rank: {LORA_RANK}, alpha: {2 * LORA_RANK}, whole: {json.dumps(whole)}}}"]
        changes += [f"rates.{part}={LORA_SPEED * rate}" for part, rate in recipe.rates.items() if part not in whole]
    return [*changes, f"lora.bits={bits}"]


def tiny_stage(recipe: "TrainingRecipe") -> "TrainingRecipe":
    """Two steps of four samples."""
    return replace(
        recipe,
        batch=min(recipe.batch, TINY_BATCH),
        schedule=recipe.schedule.stretched(TINY_STEPS),
        sheet_samples=min(recipe.sheet_samples, 1),
    )


def count_records(path: Path) -> int:
    """Records of a file or folder that can be used.

    Raises:
        OptionError: there is none, or nothing that can be read.
    """
    from minicpmv.data.readers import Flaw, Position, open_source

    with working(f"counting {path.name}"):
        number = sum(not isinstance(sample, Flaw) for sample, _ in open_source(path).read(Position()))
    if not number:
        raise OptionError(f"{path} has no record that can be used.", remedy=f"See: minicpmv data stats {path}")
    return number


def run_stage(recipe: "TrainingRecipe", folder: Path, device: str, max_seconds: float) -> None:
    """Train, and say at every end what the run has become."""
    from minicpmv.cli.training_progress import StageProgress
    from minicpmv.training.checkpoint import load_progress
    from minicpmv.training.engine import train_stage
    from minicpmv.training.run_folder import find_checkpoint

    hint = "The same command goes on from there."
    speaks = is_first()
    try:
        with StageProgress(recipe) as progress:
            done = train_stage(recipe, folder, reporter=progress, device=device, max_seconds=max_seconds)
    except KeyboardInterrupt:
        if not speaks:
            raise
        saved = find_checkpoint(folder)
        step = load_progress(saved).step if saved else 0
        say(f"Interrupted. {folder} holds step {step} of {recipe.schedule.steps}. {hint}")
        raise
    leave_the_others()
    if not speaks:
        return
    if done.step < recipe.schedule.steps:
        say(f"Time is up. {folder} holds step {done.step} of {recipe.schedule.steps}. {hint}")
        return
    if flawed := done.counts.get("flawed", 0):
        say(f"{flawed} samples could not be used; {folder / 'flaws.jsonl'} says which and why.")
    home = folder / "model"
    asked = f"minicpmv ask FILE QUESTION --model {shlex.quote(str(home))}"
    say(f"Done after {done.seconds / 60:.1f} minutes of training. Try it: {asked}")
    print(home)


def in_hours(hours: float) -> str:
    """To two digits, or whole where there are more.

    >>> in_hours(1.8e-7), in_hours(0.0213), in_hours(2.44), in_hours(109.7)
    ('less than 0.01 hours', 'about 0.021 hours', 'about 2.4 hours', 'about 110 hours')
    """
    if hours < 0.01:
        return "less than 0.01 hours"
    return f"about {hours:.0f} hours" if hours >= 99.5 else f"about {hours:.2g} hours"


def describe_stage(recipe: "TrainingRecipe", folder: Path, gpus: int) -> str:
    """What a stage trains, on how much, and what that costs; not a weight is loaded.

    Args:
        recipe: the stage; the samples of its first step are drawn and counted.
        folder: where its run would be.
        gpus: processes that would train together.

    Raises:
        OptionError: no sample of the first step can be used.
    """
    import torch

    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
    from minicpmv.processing.budget import numbers_of
    from minicpmv.training.estimate import hours_of, memory_of, step_flops
    from minicpmv.training.feeding import Share, load_step, recipe_mixture
    from minicpmv.training.trainable import choose_trainable, counts_by_part

    config, processor, note = _known_start(recipe, folder)
    with torch.device("meta"):
        model = MiniCPMVForConditionalGeneration(config)
    choose_trainable(model, recipe, torch.device("cuda"))  # what it costs is told for GPUs
    schedule, lines = recipe.schedule, _intent(recipe)
    by_part = counts_by_part(model, recipe.rates)
    lines += [_part_line(part, *numbers) for part, numbers in by_part.items()]
    drawn = replace(recipe, batch=min(recipe.batch, MOST_DRAWN))
    mixture = recipe_mixture(drawn)
    with working("drawing samples"):
        batch = load_step(drawn, processor, mixture, 0, Share())
    _refuse_nothing(batch)
    scale, numbers = recipe.batch / drawn.batch, numbers_of(config)
    counts = Counter({name: round(number * scale) for name, number in batch.counts.items()})
    adapted = set(recipe.rates) - set(recipe.lora.whole) if recipe.lora else set()
    flops = step_flops(numbers, counts, set(recipe.rates), adapted=adapted)
    widest = max(batch.passes, key=lambda inputs: inputs["input_ids"].numel())
    memory = memory_of(
        numbers,
        recipe,
        learning=sum(learning for _, learning, _ in by_part.values()),
        tokens=widest["input_ids"].numel(),
        patches=max(len(inputs.get("pixel_values", ())) for inputs in batch.passes),
        processes=gpus,
    )
    hours = hours_of(flops * schedule.steps, processes=gpus, peak=ASSUMED_PEAK, utilisation=ASSUMED_UTILISATION)
    lines += [
        f"one step: {counts['samples']} samples, {counts['tokens']:,} tokens ({counts['targets']:,} learned), "
        f"{counts['patches']:,} patches, {math.ceil(len(batch.passes) * scale):,} passes, {flops:.3g} operations"
        + (f" (from {drawn.batch} samples)" if scale > 1 else ""),
        _memory_line(memory, gpus),
        f"all steps: {flops * schedule.steps:.3g} operations, {in_hours(hours)} at "
        f"{ASSUMED_UTILISATION:.0%} of {ASSUMED_PEAK / 1e12:.0f} TFLOP/s (an H100 or H200 in bfloat16)",
    ]
    if note:
        lines.append(note)
    if batch.flaws:
        _, key, reason = batch.flaws[0]
        lines.append(f"{len(batch.flaws)} of {drawn.batch} samples cannot be used and are not counted: {key}: {reason}")
    if len(mixture.names) > 1:
        lines += _drawn_tree(mixture, batch)
    return "\n".join(lines)


def _memory_line(memory: "Memory", gpus: int) -> str:
    """What every GPU has to hold."""
    gib = 2**30
    parts = {name: getattr(memory, name) / gib for name in ("weights", "gradients", "moments", "activations")}
    if memory.gathered > memory.activations:
        del parts["activations"]
        parts["the whole model while a sheet is made"] = memory.gathered / gib
    told = " + ".join(f"{name} {size:.1f}" for name, size in parts.items())
    return f"memory of each of {gpus} GPU{'s' * (gpus > 1)}, about: {told} = {memory.total / gib:.1f} GiB"


def _part_line(part: str, whole: int, learning: int, rate: float | None) -> str:
    """A part with its parameters, those that learn, and how fast."""
    speed = "frozen" if rate is None else f"at {rate:g}"
    return f"  {part:<10}{whole:>14,} parameters{learning:>15,} learn  {speed}"


def _drawn_tree(mixture: "Mixture", batch: "StepBatch") -> list[str]:
    """The shares of the sources, and the tokens that were learned from each in the samples that were drawn."""
    import io

    from rich.console import Console

    tokens: Counter[str] = Counter()
    for sources in batch.sources:
        for name, number in sources:
            tokens[name] += number
    told = io.StringIO()
    Console(file=told, width=100).print(mixture.tree(tokens))
    return [line.rstrip() for line in told.getvalue().splitlines()]


def _intent(recipe: "TrainingRecipe") -> list[str]:
    """What a recipe says about steps and arithmetic, in two lines."""
    from minicpmv.training.precision import IN_WORDS

    schedule = recipe.schedule
    falls = f"{schedule.decay:,} of {schedule.shape} decay to {schedule.floor:g} of the peak"
    return [
        f"{recipe.name}: from {recipe.start}, {schedule.steps:,} steps of {recipe.batch:,} samples, "
        f"{schedule.warmup:,} of warm-up, " + (falls if schedule.decay else "then held"),
        f"rows of {recipe.rows.tokens:,} tokens, {recipe.rows.per_pass} per pass, {IN_WORDS[recipe.precision]}, "
        + ("sharded" if recipe.sharding == "full" else "not sharded")
        + (", activations recomputed" if recipe.recompute else ""),
    ]


def _refuse_nothing(batch: "StepBatch") -> None:
    """A step from which nothing can be learned has no costs to count."""
    if not batch.passes:
        _, key, reason = batch.flaws[0]
        raise OptionError(f"No sample can be used. {key}: {reason}", remedy="See: minicpmv data stats.")


def _known_start(recipe: "TrainingRecipe", folder: Path) -> "tuple[MiniCPMVConfig, MiniCPMVProcessor, str]":
    """Configuration and processor of a start, and what is only assumed about it."""
    from minicpmv.generation.loading import (
        bundled_folder,
        find_checkpoint,
        is_bundled_name,
        read_config,
        read_processor,
    )
    from minicpmv.model.configuration import MiniCPMVConfig
    from minicpmv.processing.image_processor import MiniCPMVImageProcessor
    from minicpmv.processing.processor import MiniCPMVProcessor
    from minicpmv.processing.video_processor import MiniCPMVVideoProcessor
    from minicpmv.recipes.loader import root_of
    from minicpmv.training.towers.recipe import TowersRecipe

    before = folder.absolute().parent / recipe.start / "model"
    if (before / "config.json").is_file() and not is_bundled_name(recipe.start):
        return read_config(before), read_processor(before), ""
    root = root_of(recipe)
    if isinstance(root, TowersRecipe):
        return MiniCPMVConfig.preset(root.model), read_processor(bundled_folder()), ""
    if isinstance(root, str) and root not in RELEASED:
        source = find_checkpoint(root)
        return read_config(source), read_processor(source), ""
    tokenizer = read_processor(bundled_folder()).tokenizer
    processor = MiniCPMVProcessor(MiniCPMVImageProcessor(), tokenizer, MiniCPMVVideoProcessor())
    note = "text is counted with the tokenizer of nano, which needs more tokens than the released one"
    return MiniCPMVConfig.preset(RELEASED[root] if isinstance(root, str) else root.preset), processor, note
