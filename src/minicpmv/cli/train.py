"""`minicpmv train RECIPE`: carry out a recipe; the same command again goes on where it stopped."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.console import say, working
from minicpmv.errors import OptionError

if TYPE_CHECKING:
    from minicpmv.training.towers.recipe import Recipe
    from minicpmv.training.towers.runstate import Position


def train(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A bundled recipe (see `minicpmv recipes list`), or a YAML file.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/RECIPE.", metavar="DIR")] = None,
    changes: shared.Changes = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of torch. Default: what torch chooses.", metavar="N")
    ] = None,
    device: shared.Device = "auto",
    max_minutes: Annotated[
        float | None, typer.Option(help="Save and stop after this time; run again to go on.", metavar="M")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show stages, parameters and samples.")] = False,
) -> None:
    """Train a model by a recipe. The same command again goes on where it stopped."""
    from minicpmv.recipes.loader import load_recipe

    recipe = load_recipe(name, changes or ())
    for option, value in (("--threads", threads), ("--max-minutes", max_minutes)):
        if value is not None and not value > 0:
            raise OptionError(f"{option} is {value}.", remedy="It must be more than 0.")
    folder = out or Path("runs") / recipe.name
    with working("loading torch"):
        import torch

        from minicpmv.cli.answering import hush_libraries
        from minicpmv.generation.loading import checked_device

        hush_libraries(progress=False)
        if threads is not None:
            torch.set_num_threads(threads)
        place = str(checked_device(device))
    if dry_run:
        print(describe(recipe))
        return
    _run(recipe, folder, place, math.inf if max_minutes is None else max_minutes * 60)


def _run(recipe: "Recipe", folder: Path, device: str, max_seconds: float) -> None:
    """Train, and say at every end what the run has become."""
    from minicpmv.cli.training_progress import TrainingProgress
    from minicpmv.training.towers.run import train as carry_out

    _tell_start(recipe, folder)
    try:
        with TrainingProgress(recipe) as progress:
            position = carry_out(recipe, folder, reporter=progress, device=device, max_seconds=max_seconds)
    except KeyboardInterrupt:
        say(f"Interrupted. {_resume_hint(recipe, folder)}")
        raise
    if position.stage < len(recipe.stages):
        say(f"Time is up. {_resume_hint(recipe, folder)}")
        return
    home = folder / "model"
    say(
        f"Done after {position.seconds / 60:.1f} minutes of training. Try it: minicpmv ask FILE QUESTION --model {home}"
    )
    print(home)


def _tell_start(recipe: "Recipe", folder: Path) -> None:
    """Whether this is a new run or an old one, and which of an old run's settings have changed since."""
    from minicpmv.settings import dump_settings
    from minicpmv.training.towers import runstate

    checkpoint = runstate.find_checkpoint(folder)
    if checkpoint is None:
        say(f"Training {recipe.name} in {folder}. Ctrl-C stops it; the same command goes on.")
        return
    say(f"Going on in {folder}: {where(recipe, runstate.load_position(checkpoint))}.")
    kept = folder / "recipe.yaml"
    if kept.is_file():
        before = kept.read_text(encoding="utf-8").splitlines()
        for line in dump_settings(recipe).splitlines():
            if line not in before:
                say(f"note: changed since the run began: {line.strip()}")


def _resume_hint(recipe: "Recipe", folder: Path) -> str:
    from minicpmv.training.towers import runstate

    checkpoint = runstate.find_checkpoint(folder)
    if checkpoint is None:
        return "Nothing was saved yet; the same command starts again."
    return f"{folder} holds {where(recipe, runstate.load_position(checkpoint))}. The same command goes on from there."


def where(recipe: "Recipe", position: "Position") -> str:
    """A position in words."""
    minutes = f"{position.seconds / 60:.1f} minutes of training"
    if position.stage >= len(recipe.stages):
        return f"all {len(recipe.stages)} stages, {minutes}"
    stage = recipe.stages[position.stage]
    return f"step {position.step} of {stage.steps} of stage {stage.name!r}, {minutes}"


def describe(recipe: "Recipe") -> str:
    """The stages of a recipe with what each trains, on how much."""
    from minicpmv.training.towers.run import build_learner

    sizes = {
        part: sum(parameter.numel() for parameter in module.parameters())
        for part, module in build_learner(recipe).parts.items()
    }
    model_size = sum(sizes[part] for part in ("llm", "resampler", "vpm"))
    lines = [f"{recipe.name}: model {recipe.model}, {model_size:,} parameters, seed {recipe.seed}, {recipe.precision}"]
    for number, stage in enumerate(recipe.stages, 1):
        trained = sum(sizes[part] for part in stage.rates)
        worlds = ", ".join(f"{world} {weight:g}" for world, weight in stage.worlds.items())
        lines += [
            f"{number}. {stage.name} ({stage.objective}): {stage.steps:,} steps of {stage.batch}, "
            f"{stage.steps * stage.batch:,} samples",
            f"   trains {trained:,} parameters: "
            + ", ".join(f"{part} {sizes[part]:,} at {rate:g}" for part, rate in stage.rates.items()),
            f"   worlds: {worlds}",
        ]
    samples = sum(stage.steps * stage.batch for stage in recipe.stages)
    lines.append(f"in all {sum(stage.steps for stage in recipe.stages):,} steps, {samples:,} samples")
    return "\n".join(lines)
