"""`minicpmv train RECIPE`: carry out a recipe; the same command again goes on where it stopped."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.console import working
from minicpmv.errors import OptionError

MOST = 1_000_000_000
"""More of anything is a slip."""
DEVICES = ("auto", "cpu", "cuda")


def train(  # noqa: PLR0913 - one option each
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A bundled recipe (see `minicpmv recipes list`), or a YAML file.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Start from this folder or hub id, or from nano.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Learn from this file or folder alone: .jsonl, .parquet, .arrow, .tar, .pdf, .html, clips; repeatable."
        ),
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="How often to see every record of --data. Default: 3.", metavar="E")
    ] = None,
    lora: Annotated[
        bool,
        typer.Option("--lora", help="Train adapters, at ten times the rates of the recipe, and the resampler whole."),
    ] = False,
    qlora: Annotated[
        bool, typer.Option("--qlora", help="As --lora, with the language model's frozen weights in 4 bits.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; of a chain, of its runs.", metavar="DIR", show_default="runs/RECIPE"),
    ] = None,
    changes: shared.Changes = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of torch. Default: what torch chooses.", metavar="N")
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            help="Processes on this machine that train a stage together; on a CPU one per core is faster than threads.",
            metavar="N",
        ),
    ] = 1,
    device: Annotated[str, typer.Option(help=f"{', '.join(DEVICES)}; choose GPUs with CUDA_VISIBLE_DEVICES.")] = "auto",
    max_minutes: Annotated[
        float | None, typer.Option(help="Save and stop after this time; run again to go on.", metavar="M")
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Only two small steps, to see that everything works.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be trained, on how much.")] = False,
    gpus: Annotated[int, typer.Option(help="With --dry-run: how many would train together.", metavar="N")] = 1,
) -> None:
    """Train a model by a recipe. The same command again goes on where it stopped."""
    from minicpmv.cli.train_any import Run, carry_out, describe, describe_chain, run_chain
    from minicpmv.recipes.loader import ChainRecipe, load_members, load_recipe
    from minicpmv.training.recipe import JoinRecipe, TrainingRecipe

    times = {"--max-minutes": max_minutes, "--epochs": epochs}
    _refuse_numbers({**times, "--threads": threads, "--gpus": gpus, "--processes": processes})
    _refuse_device(device)
    if epochs is not None and not data:
        raise OptionError("--epochs needs --data.", remedy="Worlds have no end: use --set schedule.steps=N.")
    if gpus > 1 and not dry_run:
        raise OptionError("--gpus is for --dry-run.", remedy="Several GPUs train under torchrun or accelerate launch.")
    changes = [*(_of_adapters(name, bits=4 if qlora else 16) if lora or qlora else ()), *(changes or ())]
    recipe = load_recipe(name, changes)
    own = {"--model": model, "--data": data, "--epochs": epochs, "--lora": lora, "--qlora": qlora}
    given = [option for option, value in own.items() if value]
    if given and not isinstance(recipe, TrainingRecipe):
        raise OptionError(
            f"{name} makes a model from the beginning; {', '.join(given)} cannot change that.",
            remedy="Choose the recipe of a single stage.",
        )
    with working("loading torch"):
        import torch

        from minicpmv.cli.answering import hush_libraries
        from minicpmv.generation.loading import checked_device

        hush_libraries(progress=False)
        if threads is not None:
            torch.set_num_threads(threads)
        place = str(checked_device(device))
    if isinstance(recipe, ChainRecipe | JoinRecipe) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise OptionError(
            f"{name} cannot be started in several processes at once.",
            remedy="Start it once, with --processes, or start its stages one by one.",
        )
    run = Run(
        device=device,
        place=place,
        max_seconds=math.inf if max_minutes is None else max_minutes * 60,
        tiny=tiny,
        gpus=max(gpus, processes),
        processes=processes,
        threads=threads,
    )
    runs = Path("runs") / "tiny" if tiny else Path("runs")  # two steps are no model for a later run to go on from
    folder = out or runs / recipe.name
    if isinstance(recipe, ChainRecipe):
        members = load_members(recipe, changes)
        describe_chain(members, out or runs, run) if dry_run else run_chain(recipe.name, members, out or runs, run)
        return
    if isinstance(recipe, TrainingRecipe):
        from minicpmv.cli.train_stage import with_own_data

        recipe = with_own_data(recipe, model=model, data=data or [], epochs=epochs)
    print(describe(recipe, folder, run)) if dry_run else carry_out(recipe, folder, run)


def _of_adapters(name: str, bits: Literal[4, 16]) -> list[str]:
    """What --lora and --qlora change, before what is --set; nothing in a recipe that is no single stage."""
    from minicpmv.cli.train_stage import lora_changes
    from minicpmv.recipes.loader import load_recipe
    from minicpmv.training.recipe import TrainingRecipe

    plain = load_recipe(name)
    return lora_changes(plain, bits=bits) if isinstance(plain, TrainingRecipe) else []


def _refuse_device(device: str) -> None:
    if device not in DEVICES:
        raise OptionError(
            f"Training cannot be told to use {device!r}.",
            remedy="Use auto, cpu or cuda; choose GPUs with CUDA_VISIBLE_DEVICES and several with torchrun.",
        )


def _refuse_numbers(given: Mapping[str, float | None]) -> None:
    """Numbers that no run can have."""
    for option, number in given.items():
        if number is not None and not 0 < number < MOST:
            raise OptionError(f"{option} is {number:g}.", remedy=f"It must be more than 0, and less than {MOST:,}.")
    processes, cores = given["--processes"] or 1, os.cpu_count() or 1
    if processes > 2 * cores:
        raise OptionError(
            f"--processes is {processes}, and this machine has {cores} cores.", remedy="Start one for each at most."
        )
