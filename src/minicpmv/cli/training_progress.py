"""Training as a person sees it, on stderr: a bar per stage on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from minicpmv.cli.console import say

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import nn

    from minicpmv.training.checkpoint import Progress as StageState
    from minicpmv.training.recipe import TrainingRecipe
    from minicpmv.training.towers.recipe import StageRecipe, TowersRecipe

LINE_EVERY_S = 30.0
"""Without a terminal, one line of progress in this time."""

_MEMORY = 0.95
"""Share of the old value in a running mean."""

_NOT_ACCURACIES = ("loss", "norm", "rate", "_loss", "_places")
"""Ends of names of numbers that are no shares."""


class RunningMeans:
    """Means that forget: each new number counts one in twenty."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def add(self, numbers: Mapping[str, float]) -> None:
        """Take the numbers of one step; a world that is absent from a batch keeps its mean."""
        for name, value in numbers.items():
            old = self._means.get(name, value)
            if value == value:  # a share of nothing is not a number
                self._means[name] = value if old != old else _MEMORY * old + (1 - _MEMORY) * value

    def describe(self) -> str:
        """The loss, then how much of each world is answered rightly."""
        shares = [
            f"{name} {100 * value:.0f} %" for name, value in self._means.items() if not name.endswith(_NOT_ACCURACIES)
        ]
        return "  ".join([f"loss {self._means.get('loss', 0.0):.3f}", *shares])


def _bars(*, show: bool) -> "Progress":
    """A bar per stage on stderr, with its numbers."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=Console(stderr=True),
        disable=not show,
    )


class TrainingProgress:
    """The `Reporter` of the command line.

    Args:
        recipe: what is trained; its stages are counted.
    """

    def __init__(self, recipe: "TowersRecipe") -> None:
        self._names = [stage.name for stage in recipe.stages]
        self._is_terminal = sys.stderr.isatty()
        self._bars = _bars(show=self._is_terminal)

    def __enter__(self) -> "TrainingProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage(self, stage: "StageRecipe", start: int) -> None:
        """A stage begins, or goes on."""
        self._stage, self._start, self._means = stage, start, RunningMeans()
        self._title = f"stage {self._names.index(stage.name) + 1}/{len(self._names)} {stage.name}"
        self._began = self._told = time.monotonic()
        self._bar = self._bars.add_task(self._title, total=stage.steps, completed=start, numbers="")
        if not self._is_terminal:
            say(f"{self._title}: from step {start} of {stage.steps}")

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        """One more step is done."""
        self._means.add(numbers)
        now = time.monotonic()
        rate = (step - self._start) * self._stage.batch / max(now - self._began, 1e-9)
        text = f"{self._means.describe()}  {rate:.0f} samples/s"
        self._bars.update(self._bar, completed=step, numbers=text)
        if not self._is_terminal and (now - self._told > LINE_EVERY_S or step == self._stage.steps):
            self._told = now
            left_s = (self._stage.steps - step) * self._stage.batch / max(rate, 1e-9)
            left = f"  {left_s / 60:.0f} min left in this stage" if left_s else ""
            say(f"{self._title}: step {step} of {self._stage.steps}  {text}{left}")


class StageProgress:
    """The `StageReporter` of the command line.

    Args:
        recipe: what is trained.
    """

    def __init__(self, recipe: "TrainingRecipe") -> None:
        self._steps, self._name = recipe.schedule.steps, recipe.name
        self._is_terminal = sys.stderr.isatty()
        self._bars = _bars(show=self._is_terminal)

    def __enter__(self) -> "StageProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, recipe: "TrainingRecipe", model: "nn.Module", progress: "StageState") -> None:
        """A stage begins, or goes on."""
        import torch

        from minicpmv.processing.budget import numbers_of
        from minicpmv.training.estimate import measured_peak
        from minicpmv.training.precision import dtype_of
        from minicpmv.training.trainable import trainable_table

        self._bars.console.print(trainable_table(model, recipe.rates))
        verb = f"goes on from step {progress.step}" if progress.step else "begins"
        say(f"{self._name} {verb}, {self._steps} steps. Ctrl-C saves and stops it; the same command goes on.")
        self._means = RunningMeans()
        self._began = self._told = time.monotonic()
        self._first, self._counts = progress.step, progress.counts
        self._numbers = numbers_of(model.config)
        device = next(model.parameters()).device
        processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        self._peak = processes * measured_peak(device, dtype_of(recipe.precision, device))
        self._recipe = recipe
        self._bar = self._bars.add_task(self._name, total=self._steps, completed=progress.step, numbers="")

    def step(self, progress: "StageState", numbers: Mapping[str, float]) -> None:
        """One more step is done."""
        self._means.add({"loss": numbers["loss"]})
        now = time.monotonic()
        text = f"{self._means.describe()}  {self._speed(progress, max(now - self._began, 1e-9))}"
        if flawed := progress.counts.get("flawed", 0):
            text += f"  {flawed} left out"
        self._bars.update(self._bar, completed=progress.step, numbers=text)
        if not self._is_terminal and (now - self._told > LINE_EVERY_S or progress.step == self._steps):
            self._told = now
            left_s = (self._steps - progress.step) * (now - self._began) / max(progress.step - self._first, 1)
            left = f"  {left_s / 60:.0f} min left" if left_s else ""
            say(f"{self._name}: step {progress.step} of {self._steps}  {text}{left}")

    def _speed(self, progress: "StageState", seconds: float) -> str:
        """Tokens per second, and how much of what the machine could multiply is multiplied."""
        from minicpmv.training.estimate import step_flops

        counts = {name: number - self._counts.get(name, 0) for name, number in progress.counts.items()}
        lora = self._recipe.lora
        adapted = set(self._recipe.rates) - set(lora.whole) if lora else set()
        flops = step_flops(self._numbers, counts, set(self._recipe.rates), adapted=adapted)
        return f"{counts['tokens'] / seconds:,.0f} tokens/s  MFU {flops / seconds / self._peak:.0%}"
