"""How the bundled model came about: loss by stage and source over time, and how well the model of each stage reads.

    python bench/nano_run.py runs --out docs/nano-run.svg

`runs` is what `minicpmv train nano` leaves, or some of its stages. Losses come from the `metrics.jsonl` of every stage,
smoothed over a fortieth of the stage. Reading is measured here, by the model at the end of every stage, on lines and
pages that no stage has seen: a small sample, for the shape of the curve; `minicpmv eval` gives figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from minicpmv.evaluation.run import evaluate
from minicpmv.generation.loading import load
from minicpmv.recipes.loader import ChainRecipe, load_recipe

READ = ("lines.held_out_font", "pages.receipt", "pages.form", "pages.table")
SHOWN = ("lines", "pages", "questions", "damaged", "scenes", "clips", "order", "moving", "reasoning", "text")
"""Sources whose losses are shown, by the first part of their names."""

POINTS = 200
"""Of a curve in a stage, about; a chart of every step weighs half a megabyte."""

PAUSE = 10.0
"""Minutes without a sample that a curve does not bridge."""


@dataclass(frozen=True)
class Curve:
    """Losses of a source over minutes since the beginning of the chain."""

    name: str
    minutes: np.ndarray
    losses: np.ndarray


def records_of(folder: Path) -> list[dict[str, float]]:
    """What a stage has written, step by step."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    # Steps behind the last checkpoint of a killed run are there twice; the later ones count.
    return list({(record.get("stage"), record["step"]): record for record in records}.values())


def losses_of(record: dict[str, float]) -> dict[str, float]:
    """Losses of a step by source; towers write theirs in another way."""
    found = {key.removeprefix("loss/").split("/")[0]: value for key, value in record.items() if key.startswith("loss/")}
    return found or {key.removesuffix("_loss"): value for key, value in record.items() if key == "lines_loss"}


def curves_of(folder: Path, begins: float) -> list[Curve]:
    """Smoothed losses of a stage."""
    records = records_of(folder)
    window = max(1, len(records) // 40)
    curves = []
    for name in SHOWN:
        points = [
            (entry["seconds"] / 60 + begins, losses_of(entry)[name]) for entry in records if name in losses_of(entry)
        ]
        if len(points) < 2 * window:
            continue
        minutes, losses = np.array(points).T
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        thin = max(1, len(smooth) // POINTS)
        minutes, smooth = minutes[window - 1 :: thin], smooth[::thin]
        pauses = np.flatnonzero(np.diff(minutes) > PAUSE) + 1  # the source was not in the mixture
        curves.append(Curve(name, np.insert(minutes, pauses, np.nan), np.insert(smooth, pauses, np.nan)))
    return curves


def wrong_characters(model: Path, samples: int) -> tuple[float, float]:
    """Share of wrong characters on lines and on pages."""
    report = evaluate(load(model, dtype="float32"), READ, seed=1, num_samples=samples)
    lines, *pages = [cer.value for name in READ if (cer := report.score(name).cer)]
    return lines, sum(pages) / len(pages)


def bundled_chain() -> Sequence[str]:
    """The stages of `minicpmv train nano`."""
    chain = load_recipe("nano")
    assert isinstance(chain, ChainRecipe)
    return chain.chain


def main() -> None:
    """Draw the chart and keep its numbers beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/nano-run.svg"))
    parser.add_argument("--samples", type=int, default=60, help="questions per task and stage")
    parser.add_argument("--stages", help="folders in the order of the run, with commas; those of `nano` without it")
    arguments = parser.parse_args()
    stages = arguments.stages.split(",") if arguments.stages else bundled_chain()
    begins, table = 0.0, []
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6.5), sharex=True, height_ratios=(2, 1))
    colours = dict(zip(SHOWN, mpl.colormaps["tab10"].colors, strict=False))
    for name in stages:
        folder = arguments.runs / name
        if not (folder / "model").is_dir():
            print(f"{name:<16}not in {arguments.runs}")
            continue
        for curve in curves_of(folder, begins):
            label = curve.name if curve.name not in above.get_legend_handles_labels()[1] else None
            above.plot(curve.minutes, curve.losses, color=colours[curve.name], label=label, linewidth=1)
        ends = begins + records_of(folder)[-1]["seconds"] / 60
        lines, pages = wrong_characters(folder / "model", arguments.samples)
        table.append(
            {"stage": name, "minutes": round(ends - begins, 1), "ends": round(ends, 1), "lines": lines, "pages": pages}
        )
        print(f"{name:<16}{ends - begins:7.1f} min   lines {lines:6.1%}   pages {pages:6.1%} of characters wrong")
        for axis in (above, below):
            axis.axvline(ends, color="0.8", linewidth=0.8)
        above.text(
            (begins + ends) / 2,
            1.01,
            name.removeprefix("nano_"),
            transform=above.get_xaxis_transform(),
            rotation=30,
            fontsize=7,
        )
        begins = ends
    above.set_yscale("log")
    above.set_ylabel("loss per token")
    above.legend(fontsize=8, ncols=4)
    ends = [entry["ends"] for entry in table]
    for key, marker in (("lines", "o"), ("pages", "s")):
        below.plot(ends, [100 * min(entry[key], 1.0) for entry in table], marker=marker, label=f"{key}, held out")
    below.set_yscale("log")
    below.set_ylabel("characters wrong, %")
    below.set_xlabel("minutes of training on two CPU cores")
    below.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(arguments.out)
    arguments.out.with_suffix(".json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
