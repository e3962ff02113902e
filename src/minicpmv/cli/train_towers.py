"""`minicpmv train` for towers that grow from nothing: several stages in one run folder."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from minicpmv.cli.console import say, working
from minicpmv.cli.local_processes import is_first, leave_the_others
from minicpmv.cli.train_stage import ASSUMED_UTILISATION, in_hours
from minicpmv.errors import SettingsError

if TYPE_CHECKING:
    from minicpmv.training.towers.recipe import TowersRecipe
    from minicpmv.training.towers.runstate import Position


def run_towers(recipe: "TowersRecipe", folder: Path, device: str, max_seconds: float) -> None:
    """Train, and say at every end what the run has become."""
    from minicpmv.cli.training_progress import TrainingProgress
    from minicpmv.training.towers.run import train as carry_out

    speaks = is_first()
    if speaks:
        _tell_start(recipe, folder)
    try:
        with TrainingProgress(recipe) as progress:
            position = carry_out(recipe, folder, reporter=progress, device=device, max_seconds=max_seconds)
    except KeyboardInterrupt:
        if speaks:
            say(f"Interrupted. {_resume_hint(recipe, folder)}")
        raise
    leave_the_others()
    if not speaks:
        return
    if position.stage < len(recipe.stages):
        say(f"Time is up. {_resume_hint(recipe, folder)}")
        return
    home = folder / "model"
    asked = f"minicpmv ask FILE QUESTION --model {shlex.quote(str(home))}"
    say(f"Done after {position.seconds / 60:.1f} minutes of training. Try it: {asked}")
    print(home)


def _tell_start(recipe: "TowersRecipe", folder: Path) -> None:
    """Whether this is a new run or an old one, and which of an old run's settings have changed since."""
    from minicpmv.recipes.loader import compare, load_towers
    from minicpmv.training.run_folder import find_checkpoint
    from minicpmv.training.towers import runstate

    checkpoint = find_checkpoint(folder)
    if checkpoint is None:
        say(f"Training {recipe.name} in {folder}. Ctrl-C saves and stops it; the same command goes on.")
        return
    say(f"Going on in {folder}: {where(recipe, runstate.load_position(checkpoint))}.")
    kept = folder / "recipe.yaml"
    if kept.is_file():
        try:
            changes = compare(load_towers(str(kept)), recipe)
        except SettingsError:
            say("note: the run was begun by another version, so what has changed in its recipe is not known.")
            return
        for name, (before, now) in changes.items():
            say(f"note: changed since the run began: {name}, from {before} to {now}")


def _resume_hint(recipe: "TowersRecipe", folder: Path) -> str:
    from minicpmv.training.run_folder import find_checkpoint
    from minicpmv.training.towers import runstate

    checkpoint = find_checkpoint(folder)
    if checkpoint is None:
        return "Nothing was saved yet; the same command starts again."
    return f"{folder} holds {where(recipe, runstate.load_position(checkpoint))}. The same command goes on from there."


def tiny_towers(recipe: "TowersRecipe") -> "TowersRecipe":
    """Two small steps of every stage."""
    from dataclasses import replace

    stages = [replace(stage, steps=2, warmup=0, batch=min(stage.batch, 4)) for stage in recipe.stages]
    return replace(recipe, tokenizer=replace(recipe.tokenizer, texts=500), stages=tuple(stages))


def where(recipe: "TowersRecipe", position: "Position") -> str:
    """A position in words."""
    minutes = f"{position.seconds / 60:.1f} minutes of training"
    if position.stage >= len(recipe.stages):
        return f"all {len(recipe.stages)} stages, {minutes}"
    stage = recipe.stages[position.stage]
    return f"step {position.step} of {stage.steps} of stage {stage.name!r}, {minutes}"


def describe_towers(recipe: "TowersRecipe") -> str:
    """The stages of a recipe: what each trains, on how much, and what that costs; nothing learns."""
    import torch

    from minicpmv.training.estimate import hours_of, measured_peak
    from minicpmv.training.precision import IN_WORDS, dtype_of
    from minicpmv.training.towers.costs import costs_of_stages
    from minicpmv.training.towers.run import build_learner

    learner = build_learner(recipe)
    with working("drawing samples"):
        costs = costs_of_stages(recipe, learner)
    sizes = {part: sum(one.numel() for one in module.parameters()) for part, module in learner.parts.items()}
    model_size = sum(sizes[part] for part in ("llm", "resampler", "vpm"))
    lines = [
        f"{recipe.name}: model {recipe.model}, {model_size:,} parameters, seed {recipe.seed}, "
        + (f"tower and language model of {recipe.start}, " if recipe.start else "")
        + IN_WORDS[recipe.precision]
    ]
    for number, stage in enumerate(recipe.stages, 1):
        cost = costs[stage.name]
        trained = sum(sizes[part] for part in stage.rates)
        worlds = ", ".join(f"{world} {weight:g}" for world, weight in stage.worlds.items())
        lines += [
            f"{number}. {stage.name} ({stage.objective}): {stage.steps:,} steps of {stage.batch}, "
            f"{stage.steps * stage.batch:,} samples",
            f"   trains {trained:,} parameters: "
            + ", ".join(f"{part} {sizes[part]:,} at {rate:g}" for part, rate in stage.rates.items()),
            f"   worlds: {worlds}",
            f"   one step: {cost.tokens:,} tokens ({cost.targets:,} learned), {cost.patches:,} patches, "
            f"{cost.flops:.3g} operations; memory about {cost.memory.total / 2**30:.2f} GiB",
        ]
    flops = sum(stage.steps * costs[stage.name].flops for stage in recipe.stages)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = measured_peak(device, dtype_of(recipe.precision, device))
    hours = in_hours(hours_of(flops, processes=1, peak=peak, utilisation=ASSUMED_UTILISATION))
    steps, samples = sum(s.steps for s in recipe.stages), sum(s.steps * s.batch for s in recipe.stages)
    lines.append(
        f"in all {steps:,} steps, {samples:,} samples, {flops:.3g} operations: {hours} at {ASSUMED_UTILISATION:.0%} "
        f"of the {peak / 1e9:,.0f} GFLOP/s of this machine now"
    )
    return "\n".join(lines)
