"""`minicpmv export gguf`: a checkpoint for other programs."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from minicpmv.cli import options as shared

export = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write a checkpoint in other programs' formats.")


@export.callback()
def export_group() -> None:
    """Write a checkpoint in other programs' formats."""


@export.command("gguf")
def export_to_gguf(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a hub id, or nano.")],
    out: Annotated[Path, typer.Option(help="The folder to write into.", metavar="DIR")],
    kind: Annotated[
        str, typer.Option("--type", help="Of the language model's matrices: f32, f16, bf16, q8_0 or q4_0.")
    ] = "q8_0",
    as_json: shared.Json = False,
) -> None:
    """Write the two files that llama.cpp, Ollama and their kind read: language model, and encoder of pictures."""
    from minicpmv.export.gguf import export_gguf

    with _counting() as told:
        text, vision = export_gguf(model, out, kind, told=told)
    if as_json:
        print(json.dumps({"model": str(text), "mmproj": str(vision)}))
    else:
        print(text, vision, sep="\n")


@contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """How much has been written, on a terminal."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("writing", total=None)
        yield lambda size: bar.update(task, advance=size)
