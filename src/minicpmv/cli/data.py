"""`minicpmv data preview | stats`: look at a corpus, and count it."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.console import say
from minicpmv.errors import OptionError

if TYPE_CHECKING:
    from minicpmv.data.readers import Flaw
    from minicpmv.data.sample import Sample

data = typer.Typer(help="Look at training data, and count it.", no_args_is_help=True)

DRAWN = ("read", "ask", "reason", "lines", "scenes", "clips", "facts")

SourceName = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A .jsonl, .parquet, .tar or .pdf file, a folder of them, or a world: " + ", ".join(DRAWN),
    ),
]


@data.command()
def preview(
    source: SourceName,
    out: Annotated[Path, typer.Option(help="The page to write.", metavar="FILE")] = Path("preview.html"),
    number: Annotated[int, typer.Option("--number", "-n", help="How many samples to show.", metavar="N")] = 24,
    seed: shared.Seed = None,
) -> None:
    """Write samples as one HTML page: pictures, questions, answers, boxes."""
    from minicpmv.data.preview import write_preview

    if number < 1:
        raise OptionError(f"--number is {number}.", remedy="Show at least one.")
    shown = write_preview(
        ((source, sample) for sample in islice(_samples(source, seed or 0), number)), out, title=source
    )
    say(f"{shown} samples of {source}")
    print(out)


@data.command()
def stats(source: SourceName, as_json: shared.Json = False) -> None:
    """Count the records of a file or folder: kept and left out, media, turns, characters."""
    from minicpmv.data.readers import Flaw

    if source in DRAWN:
        raise OptionError(f"'{source}' is a world, which has no end.", remedy="Name a file or folder.")
    counts: Counter[str] = Counter()
    flaws: list[Flaw] = []
    for sample in _samples(source, 0):
        if isinstance(sample, Flaw):
            flaws.append(sample)
            continue
        counts["samples"] += 1
        counts["turns"] += len(sample.messages)
        counts["characters"] += len(sample.text)
        for part in sample.media:
            counts[type(part).__name__.removesuffix("Part").lower() + "s"] += 1
    if as_json:
        print(json.dumps({**counts, "left_out": [{"key": flaw.key, "reason": flaw.reason} for flaw in flaws]}))
        return
    for name, number in counts.items():
        print(f"{name:<12}{number:>12,}")
    print(f"{'left out':<12}{len(flaws):>12,}")
    for flaw in flaws[:20]:
        say(f"left out: {flaw.key}: {flaw.reason}")


def _samples(source: str, seed: int) -> "Iterator[Sample | Flaw]":
    """A source's samples; those of a world never end."""
    if source in DRAWN:
        yield from _drawn(source, seed)
        return
    from minicpmv.data.readers import Position, open_source

    for sample, _ in open_source(Path(source)).read(Position()):
        yield sample


def _drawn(name: str, seed: int) -> "Iterator[Sample | Flaw]":
    from minicpmv.data.mixture import DrawnFeed
    from minicpmv.data.sources import open_world

    feed = DrawnFeed(name, open_world(name, {}), seed)
    while True:
        yield feed.next()
