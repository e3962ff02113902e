"""`minicpmv train` for a recipe of any kind, and for several in a row."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minicpmv.cli.console import say, working

if TYPE_CHECKING:
    from minicpmv.recipes.loader import SingleRecipe


@dataclass(frozen=True, slots=True)
class Run:
    """How recipes are carried out.

    Attributes:
        device: as the user said it.
        place: the torch device that this means.
        max_seconds: save and stop after this time.
        tiny: only two small steps of everything.
        gpus: how many would train together, for a dry run.
    """

    device: str
    place: str
    max_seconds: float
    tiny: bool
    gpus: int


def carry_out(recipe: "SingleRecipe", folder: Path, run: Run) -> None:
    """Carry out one recipe, or go on with it."""
    from minicpmv.training.joining import JoinRecipe, join_parts
    from minicpmv.training.towers.recipe import TowersRecipe

    if isinstance(recipe, JoinRecipe):
        with working(f"joining {recipe.llm} and {recipe.vpm}"):
            home = join_parts(recipe, folder)
        print(home)
    elif isinstance(recipe, TowersRecipe):
        from minicpmv.cli.train_towers import run_towers, tiny_towers

        run_towers(tiny_towers(recipe) if run.tiny else recipe, folder, run.place, run.max_seconds)
    else:
        from minicpmv.cli.train_stage import run_stage, tiny_stage

        run_stage(tiny_stage(recipe) if run.tiny else recipe, folder, run.device, run.max_seconds)


def describe(recipe: "SingleRecipe", run: Run) -> str:
    """What a recipe does, on how much, and what it costs."""
    from minicpmv.training.joining import JoinRecipe
    from minicpmv.training.towers.recipe import TowersRecipe

    if isinstance(recipe, JoinRecipe):
        return (
            f"{recipe.name}: language model {recipe.llm}, tower {recipe.vpm}, tokenizer of {recipe.processor}, a blank "
            f"resampler; sizes of {recipe.preset}"
        )
    if isinstance(recipe, TowersRecipe):
        from minicpmv.cli.train_towers import describe_towers, tiny_towers

        return describe_towers(tiny_towers(recipe) if run.tiny else recipe)
    from minicpmv.cli.train_stage import describe_stage, tiny_stage

    return describe_stage(tiny_stage(recipe) if run.tiny else recipe, run.gpus)


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
            say(f"{title} is done; remove {home} to do it again.")
            continue
        say(title)
        left = Run(run.device, run.place, ends - time.monotonic(), tiny=run.tiny, gpus=run.gpus)
        carry_out(recipe, home, left)
        if not (home / "model").is_dir():
            return  # its time was up, and it has said so


def describe_chain(members: "Sequence[SingleRecipe]", run: Run) -> None:
    """Print what every recipe of a chain does."""
    for recipe in members:
        print(describe(recipe, run), end="\n\n" if recipe is not members[-1] else "\n")
