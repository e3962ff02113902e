"""`minicpmv data build | preview | stats | calibrate`: make, look at and count a corpus; how much damage is much."""

import difflib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.console import refuse_folder, say, working
from minicpmv.errors import OptionError

if TYPE_CHECKING:
    from minicpmv.data.filters import Check
    from minicpmv.data.readers import Flaw
    from minicpmv.data.sample import Sample

data = typer.Typer(help="Make training data, look at it, and count it.", no_args_is_help=True)

DRAWN = (
    "read",
    "ask",
    "reason",
    "restore",
    "lines",
    "scenes",
    "clips",
    "facts",
    "texts",
    "described",
    "own_text",
    "own_pages",
)
"""Worlds by name; a test compares them with `data.sources.WORLDS`, which is not loaded for a help text."""

MOST_TOLD = 20
"""Records that are left out, one by one."""

FILES = "A .jsonl, .parquet, .arrow, .tar, .pdf or .html file, or a folder of them or of clips"
SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help=f"{FILES}; or a world: {', '.join(DRAWN)}.")]
FileName = Annotated[str, typer.Argument(metavar="SOURCE", help=f"{FILES}.")]
WorldOptions = Annotated[
    str | None, typer.Option("--options", help="Of a world, in YAML: '{kinds: [receipt]}'.", metavar="YAML")
]

SeriesSeed = Annotated[
    int, typer.Option(min=0, help="Which series of samples a world draws; the same gives the same.", metavar="N")
]


@data.command()
def build(
    source: SourceName,
    out: Annotated[Path, typer.Option(help="The folder to make.", metavar="DIR")],
    number: Annotated[
        int | None, typer.Option("--number", "-n", help="Most samples to write; a world needs it.", metavar="N")
    ] = None,
    options: WorldOptions = None,
    smallest_px: Annotated[int, typer.Option(help="Leave out pictures with a shorter side.", metavar="PX")] = 28,
    languages: Annotated[
        str | None, typer.Option(help="Leave out longer texts in other languages than these, such as en,de.")
    ] = None,
    most_media: Annotated[
        float | None,
        typer.Option(help="Leave out samples with more media than this per 1,000 characters of text.", metavar="N"),
    ] = None,
    least_knowledge: Annotated[
        float | None,
        typer.Option(
            help="Leave out texts with a smaller share of names, numbers and long words, such as 0.05.", metavar="SHARE"
        ),
    ] = None,
    duplicates: Annotated[
        bool,
        typer.Option("--duplicates/--no-duplicates", help="Keep those with the same media and nearly the same words."),
    ] = True,
    clips: Annotated[
        str, typer.Option(help="How drawn clips are written: png, a picture per frame, or mp4.", metavar="FORM")
    ] = "png",
    seed: SeriesSeed = 0,
) -> None:
    """Write samples as a data set of its own: data.jsonl with media beside it, broken ones listed with reasons."""
    from minicpmv.data import filters
    from minicpmv.data.build import with_clip_files, write_dataset
    from minicpmv.data.readers import LEFT_OUT

    if number is None and source in DRAWN:
        raise OptionError(f"'{source}' is a world, which has no end.", remedy="Say how many samples with --number.")
    if number is not None and number < 1:
        raise OptionError(f"--number is {number}.", remedy="Write at least one.")
    if clips not in ("png", "mp4"):
        raise OptionError(f"--clips is '{clips}'.", remedy="Choose png or mp4.")
    checks = _checks(smallest_px, languages, most_media, least_knowledge, duplicates=duplicates)
    sieve = filters.Sieve(checks)
    samples: Iterator[Sample | Flaw] = islice(_samples(source, seed, parse_options(options)), number)
    if clips == "mp4":
        samples = map(with_clip_files, samples)
    written, left_out = write_dataset(_counted(samples, number), out, sieve)
    reasons = {"unreadable": left_out - sum(sieve.dropped.values()), **sieve.dropped}
    told = ": " + ", ".join(f"{number} {name}" for name, number in reasons.items() if number) if left_out else ""
    say(f"{written} samples, {left_out} left out{told}" + (f"; see {out / LEFT_OUT}" if left_out else ""))
    if not written:
        raise OptionError(
            f"{source} has no sample that can be used.", remedy=f"Mend it and remove {out}, or name another."
        )
    print(out)


def _checks(
    smallest_px: int,
    languages: str | None,
    most_media: float | None,
    least_knowledge: float | None,
    *,
    duplicates: bool,
) -> "dict[str, Check]":
    """What a sample has to pass, by the names under which it is counted.

    Raises:
        OptionError: a number out of its range.
    """
    from minicpmv.data import filters
    from minicpmv.data.options import checked_share

    checks: dict[str, Check] = {
        "media": filters.media_open(smallest_px),
        "answer": filters.answer_length(),
        "repetition": filters.repetition(),
    }
    if languages:
        checks["language"] = filters.language([code.strip() for code in languages.split(",")])
    if most_media is not None:
        if not most_media > 0:
            raise OptionError(f"--most-media is {most_media}.", remedy="Give a number above 0, such as 10.")
        checks["balance"] = filters.balance(most_media)
    if least_knowledge is not None:
        checks["knowledge"] = filters.knowledge_density(checked_share("--least-knowledge", least_knowledge))
    if not duplicates:
        checks["duplicates"] = filters.NearDuplicates()
    return checks


def parse_options(text: str | None) -> dict[str, Any]:
    """The options of a world as a mapping.

    Raises:
        OptionError: it is none.
    """
    import yaml

    try:
        options = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise OptionError(f"--options cannot be read: {error}", remedy="Write '{kinds: [receipt]}'.") from None
    if not isinstance(options, dict):
        raise OptionError(f"--options is {text!r}.", remedy="Write '{kinds: [receipt]}'.")
    return options


def _counted(samples: "Iterator[Sample | Flaw]", number: int | None) -> "Iterator[Sample | Flaw]":
    """Samples with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    yield from track(
        samples, description="writing", total=number, console=Console(stderr=True), disable=not sys.stderr.isatty()
    )


@data.command()
def preview(
    source: SourceName,
    out: Annotated[Path, typer.Option(help="The page to write.", metavar="FILE")] = Path("preview.html"),
    number: Annotated[int, typer.Option("--number", "-n", help="How many samples to show.", metavar="N")] = 24,
    options: WorldOptions = None,
    seed: SeriesSeed = 0,
) -> None:
    """Write samples as one HTML page: pictures, questions, answers, boxes."""
    from minicpmv.data.preview import write_preview

    if number < 1:
        raise OptionError(f"--number is {number}.", remedy="Show at least one.")
    refuse_folder("--out", out)
    samples = islice(_samples(source, seed, parse_options(options)), number)
    shown = write_preview(((source, sample) for sample in samples), out, title=source)
    say(f"{shown} samples of {source}")
    print(out)


@data.command()
def stats(source: FileName, as_json: shared.Json = False) -> None:
    """Count the records of a file or folder: kept and left out, media, turns, characters. Media are not opened."""
    from minicpmv.data.filters import media_there
    from minicpmv.data.readers import Flaw

    if source in DRAWN:
        raise OptionError(f"'{source}' is a world, which has no end.", remedy="Name a file or folder.")
    counts: Counter[str] = Counter({"samples": 0})
    flaws: list[Flaw] = []
    for sample in _samples(source, 0):
        if isinstance(sample, Flaw):
            flaws.append(sample)
            continue
        if (reason := media_there(sample)) is not None:
            flaws.append(Flaw(sample.key, reason))
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
    for flaw in flaws[:MOST_TOLD]:
        say(f"left out: {flaw.key}: {flaw.reason}")
    if len(flaws) > MOST_TOLD:
        say(f"and {len(flaws) - MOST_TOLD} more; --json lists all")


@data.command()
def calibrate(
    out: Annotated[Path, typer.Option(help="The file to write.", metavar="FILE")] = Path("calibration.json"),
    reader: Annotated[
        str, typer.Option(help="Who reads: tesseract, nano, or a model's folder or hub id.", metavar="READER")
    ] = "tesseract",
    crops: Annotated[int, typer.Option(help="Lines to read at every strength.", metavar="N")] = 200,
    seed: SeriesSeed = 0,
) -> None:
    """Measure what a reader still reads at every strength of every damage, for the world `restore`."""
    import numpy as np

    from minicpmv.data.corruption.calibration import LEVELS, measure

    if crops < 1:
        raise OptionError(f"--crops is {crops}.", remedy="Read at least one.")
    refuse_folder("--out", out)
    with working("loading torch"):
        from minicpmv.evaluation.readers import line_crops, model_reader, tesseract_reader
        from minicpmv.generation.loading import BUNDLED, load

        read = (
            tesseract_reader() if reader == "tesseract" else model_reader(load(None if reader == BUNDLED else reader))
        )
    with working(f"{reader} reads damaged lines"):
        found = measure(np.random.default_rng(seed), line_crops(crops, seed), read, name=reader)
    found.save(out)
    say(f"{reader} gets {100 * found.clean_error_rate:.1f} % of the characters of {crops} clean lines wrong")
    for level in LEVELS[:2]:
        for operator in found.operators(level):
            weakest, strongest = found.band(operator, level) or (0.0, 0.0)
            say(f"{level:<9} {operator:<11} from {weakest:.2f} to {strongest:.2f}")
    print(out)


def _samples(source: str, seed: int, options: "dict[str, Any] | None" = None) -> "Iterator[Sample | Flaw]":
    """A source's samples; those of a world never end."""
    if source in DRAWN:
        yield from _drawn(source, seed, options or {})
        return
    if options:
        raise OptionError(f"'{source}' is no world and has no options.", remedy="Leave out --options.")
    from minicpmv.data.readers import Position, open_source

    if not Path(source).exists():
        near = difflib.get_close_matches(source, DRAWN, n=1)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Check the path, or name a world: {', '.join(DRAWN)}."
        raise OptionError(f"{source} does not exist.", remedy=remedy)
    for sample, _ in open_source(Path(source)).read(Position()):
        yield sample


def _drawn(name: str, seed: int, options: "dict[str, Any]") -> "Iterator[Sample | Flaw]":
    from minicpmv.data.mixture import DrawnFeed
    from minicpmv.data.sources import open_world

    feed = DrawnFeed(name, open_world(name, options), seed)
    while True:
        yield feed.next()
