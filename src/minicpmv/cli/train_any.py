"""`minicpmv train` for a recipe of any kind, and for several in a row."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from minicpmv.cli.console import say, working

if TYPE_CHECKING:
    from minicpmv.recipes.loader import SingleRecipe
    from minicpmv.training.recipe import TrainingRecipe
    from minicpmv.training.towers.recipe import TowersRecipe


@dataclass(frozen=True, slots=True)
class Run:
    """How recipes are carried out.

    Attributes:
        device: as the user said it.
        place: the torch device that this means.
        max_seconds: save and stop after this time.
        tiny: only two small steps of everything.
        gpus: how many would train together, for a dry run.
        processes: that train together on this machine.
        threads: of each of them; None for what torch chooses.
    """

    device: str
    place: str
    max_seconds: float
    tiny: bool
    gpus: int
    processes: int
    threads: int | None


def carry_out(recipe: "SingleRecipe", folder: Path, run: Run) -> None:
    """Carry out one recipe, or go on with it."""
    from minicpmv.training.joining import join_parts
    from minicpmv.training.recipe import JoinRecipe
    from minicpmv.training.towers.recipe import TowersRecipe

    if isinstance(recipe, JoinRecipe):
        with working(f"joining {recipe.llm} and {recipe.vpm}"):
            home = join_parts(recipe, folder)
        print(home)
        return
    recipe = _as_run(recipe, run)
    if run.processes > 1:
        _carry_out_together(recipe, folder, run)
    elif isinstance(recipe, TowersRecipe):
        from minicpmv.cli.train_towers import run_towers

        run_towers(recipe, folder, run.place, run.max_seconds)
    else:
        from minicpmv.cli.train_stage import run_stage

        run_stage(recipe, folder, run.device, run.max_seconds)


def _as_run(recipe: "TowersRecipe | TrainingRecipe", run: Run) -> "TowersRecipe | TrainingRecipe":
    """A recipe, or two small steps of it."""
    from minicpmv.training.towers.recipe import TowersRecipe

    if not run.tiny:
        return recipe
    if isinstance(recipe, TowersRecipe):
        from minicpmv.cli.train_towers import tiny_towers

        return tiny_towers(recipe)
    from minicpmv.cli.train_stage import tiny_stage

    return tiny_stage(recipe)


def _carry_out_together(recipe: "TowersRecipe | TrainingRecipe", folder: Path, run: Run) -> None:
    """Towers or a stage by several processes, which read the recipe as it is now."""
    import math

    from minicpmv.cli.local_processes import train_together
    from minicpmv.settings import dump_settings
    from minicpmv.training.run_folder import write_text

    folder.mkdir(parents=True, exist_ok=True)
    settled = folder / "asked.yaml"  # recipe.yaml is the engine's, which first makes sure that it fits the run
    write_text(settled, dump_settings(recipe))
    threads = run.threads or max(1, (os.cpu_count() or 1) // run.processes)
    words = [str(settled), "--out", str(folder), "--device", run.device, "--threads", str(threads)]
    if math.isfinite(run.max_seconds):
        words += ["--max-minutes", str(max(run.max_seconds, 1e-3) / 60)]
    train_together(words, folder, run.processes, threads=threads)


def describe(recipe: "SingleRecipe", folder: Path, run: Run) -> str:
    """What a recipe does, on how much, and what it costs.

    Args:
        recipe: any but a chain.
        folder: where its run would be; beside it lie those it goes on from.
        run: how it would be carried out.
    """
    from minicpmv.training.recipe import JoinRecipe
    from minicpmv.training.towers.recipe import TowersRecipe

    if isinstance(recipe, JoinRecipe):
        return (
            f"{recipe.name}: language model {recipe.llm}, tower {recipe.vpm}, tokenizer of {recipe.processor}, a blank "
            f"resampler; sizes of {recipe.preset}"
        )
    recipe = _as_run(recipe, run)
    if isinstance(recipe, TowersRecipe):
        from minicpmv.cli.train_towers import describe_towers

        return describe_towers(recipe)
    from minicpmv.cli.train_stage import describe_stage

    return describe_stage(recipe, folder, run.gpus)


def run_chain(name: str, members: "Sequence[SingleRecipe]", folder: Path, run: Run) -> None:
    """Carry out recipes one after another; those that have left a model are done.

    Args:
        name: of the chain.
        members: its recipes.
        folder: where each has a folder of its name.
        run: how; its time is for all of them.
    """
    ends = time.monotonic() + run.max_seconds
    for number, recipe in enumerate(members, 1):
        home = folder / recipe.name
        title = f"{name}, {number} of {len(members)}: {recipe.name}"
        if (home / "model").is_dir():
            other = "" if _as_asked(recipe, home, run) else " with other settings"
            say(f"{title} is done{other}; remove {home} to do it again.")
            continue
        say(title)
        carry_out(recipe, home, replace(run, max_seconds=ends - time.monotonic()))
        if not (home / "model").is_dir():
            return  # its time was up, and it has said so


def _as_asked(recipe: "SingleRecipe", home: Path, run: Run) -> bool:
    """Whether a finished run was carried out by this very recipe."""
    from minicpmv.settings import dump_settings
    from minicpmv.training.recipe import JoinRecipe

    if not isinstance(recipe, JoinRecipe):
        recipe = _as_run(recipe, run)
    kept = home / "recipe.yaml"
    return not kept.is_file() or kept.read_text(encoding="utf-8") == dump_settings(recipe)


def describe_chain(members: "Sequence[SingleRecipe]", runs: Path, run: Run) -> None:
    """Print what every recipe of a chain does."""
    for recipe in members:
        print(describe(recipe, runs / recipe.name, run), end="\n\n" if recipe is not members[-1] else "\n")
