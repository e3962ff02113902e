"""Training as a person sees it, on stderr: a bar per stage on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from minicpmv.cli.console import say

if TYPE_CHECKING:
    from minicpmv.training.towers.recipe import Recipe, StageRecipe

LINE_EVERY_S = 30.0
"""Without a terminal, one line of progress in this time."""

_MEMORY = 0.95
"""Share of the old value in a running mean."""

_NOT_ACCURACIES = ("loss", "norm", "rate", "answer_loss", "patch_loss")


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
        shares = [f"{name} {100 * value:.0f} %" for name, value in self._means.items() if name not in _NOT_ACCURACIES]
        return "  ".join([f"loss {self._means.get('loss', 0.0):.3f}", *shares])


class TrainingProgress:
    """The `Reporter` of the command line.

    Args:
        recipe: what is trained; its stages are counted.
    """

    def __init__(self, recipe: "Recipe") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._names = [stage.name for stage in recipe.stages]
        self._is_terminal = sys.stderr.isatty()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
            disable=not self._is_terminal,
        )

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
