"""Do generators keep up? Samples per second of every world on one core, and how long training waits for them.

Drawn and encoded: what a data worker does for a sample, from the generator to ids and patch rows. Waiting: the share of
the time of training steps in which the trainer had nothing to do, with the bundled model and the recipe `nano_sft`,
one data worker beside it; the first steps, before anything is prepared, are left out.

There is no peer for the first: nobody else draws these pages. The figure to compare with is what a step consumes, in
samples per second, printed last. Goal: less than 3 per cent of the time is waiting.

`--run RUN`: the same share of each stage of a run that is there, such as a finished `minicpmv train nano`, and no more.

Workers: how many samples a second arrive when nobody trains, from one data worker, two, and as many as there are cores.
Every worker walks the whole stream and passes over what is not its own, which for drawn samples costs nearly nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

from measure import Report, argument_parser

from minicpmv.data.sources import WORLDS, SourceRecipe, needs_of, open_mixture
from minicpmv.generation.loading import bundled_folder, read_processor
from minicpmv.recipes.loader import load_stage
from minicpmv.training.engine import train_stage
from minicpmv.training.feeding import step_loader

WARM_UP = 5
"""Steps that are left out."""


class Silent:
    """A reporter without words."""

    def begin(self, *_: object) -> None:
        """Nothing."""

    def step(self, *_: object) -> None:
        """Nothing."""


def speed(world: str, seconds: float) -> tuple[float, float]:
    """Samples per second of a world: drawn alone, and drawn and encoded."""
    processor = read_processor(bundled_folder())
    feed = open_mixture({world: SourceRecipe(world=world)}, 0)
    feed.next()  # typefaces are opened with the first
    speeds = []
    for encode in (False, True):
        number, ends = 0, time.perf_counter() + seconds
        began = time.perf_counter()
        while time.perf_counter() < ends:
            _, sample = feed.next()
            if encode:
                processor.encode_conversation(sample.messages)
            number += 1
        speeds.append(number / (time.perf_counter() - began))
    return speeds[0], speeds[1]


def arriving(workers: int, steps: int) -> float:
    """Samples per second of a loader with so many workers, its first steps left out."""
    recipe = load_stage("nano_sft", [f"schedule={{steps: {WARM_UP + steps}}}", f"workers={workers}"])
    processor = read_processor(bundled_folder())
    began = 0.0
    for batch in step_loader(recipe, processor, first=0):
        if batch.step == WARM_UP - 1:
            began = time.perf_counter()
    return recipe.batch * steps / (time.perf_counter() - began)


def waiting(folder: Path) -> tuple[float, float]:
    """Of a stage's run, the steps per second and the share of their time that was spent waiting."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    taken = lines[-1]["seconds"] - lines[WARM_UP - 1]["seconds"]
    waited = sum(
        line["waiting"] * (line["seconds"] - before["seconds"])
        for before, line in zip(lines[WARM_UP - 1 :], lines[WARM_UP:], strict=False)
    )
    return (len(lines) - WARM_UP) / taken, waited / taken


def main() -> None:
    """All worlds, then a short training; or a run that is there."""
    parser = argument_parser(__doc__)
    parser.add_argument("--run", type=Path, metavar="RUN", help="the folder of a run, or one with a folder per stage")
    arguments = parser.parse_args()
    if arguments.run is not None:
        told = Report("data: waiting of a run")
        for metrics in sorted(arguments.run.glob("**/metrics.jsonl")):
            if '"waiting"' in metrics.read_text(encoding="utf-8"):  # towers do not note it
                _, share = waiting(metrics.parent)
                told.goal(f"{metrics.parent.name}: share of the time spent waiting", share, at_most=0.03)
        told.write(arguments.json)
        return
    report = Report("data: worlds and waiting")
    for world in sorted(world for world in WORLDS if not needs_of(world)):
        drawn, encoded = speed(world, 0.2 if arguments.small else 4.0)
        report.figure(f"{world}: drawn", drawn, "samples/s")
        report.figure(f"{world}: drawn and encoded", encoded, "samples/s")
    one = arriving(1, 4 if arguments.small else 60)
    report.figure("one data worker", one, "samples/s")
    for workers in sorted({2, os.cpu_count() or 1}):
        more = arriving(workers, 4 if arguments.small else 60)
        report.figure(f"{workers} data workers", more, f"samples/s, {more / one:.2f} times as many")
    steps = WARM_UP + (2 if arguments.small else 25)
    recipe = load_stage("nano_sft", [f"schedule={{steps: {steps}}}", "sheet_samples=0"])
    with tempfile.TemporaryDirectory() as folder:
        train_stage(recipe, Path(folder), reporter=Silent(), device="cpu")
        speed_of_steps, share = waiting(Path(folder))
    report.figure("training consumes", recipe.batch * speed_of_steps, "samples/s")
    report.goal("share of the time spent waiting", share, at_most=0.03)
    report.write(arguments.json)


if __name__ == "__main__":
    main()
