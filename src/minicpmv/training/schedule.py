"""How the learning rate moves: warm up, stay, come down.

Both schedules of the paper are this one. Warmup-stable-decay (WSD) comes down at the end only; cosine comes down from
the first step after the warm-up. A schedule gives shares of the peak, so parts with different peaks move together.

Source: MiniCPM (arXiv 2404.06395) for WSD and its exponential decay; shares and lengths stand in the recipes.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from minicpmv.errors import SettingsError

Shape = Literal["linear", "exponential", "cosine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Shares of the peak rate, step by step.

    >>> schedule = Schedule(steps=10, warmup=2, decay=4)
    >>> [round(schedule.factor(step), 2) for step in range(10)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """

    steps: int
    """Optimiser steps in all."""

    warmup: int = 0
    """Steps of linear warm-up."""

    decay: int = 0
    """Steps, at the end, in which the rate comes down: all after the warm-up make the usual cosine."""

    shape: Shape = "linear"
    """How it comes down; `exponential` halves in equal times and needs a floor above 0."""

    floor: float = 0.0
    """Share of the peak at which the decay would end one step after the last."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup < 0 or self.decay < 0 or self.warmup + self.decay > self.steps:
            raise SettingsError(
                f"A schedule has {self.steps} steps, {self.warmup} of warm-up and {self.decay} of decay.",
                remedy="There is at least one step, and warm-up and decay fit into them.",
            )
        if not 0 <= self.floor <= 1 or (self.shape == "exponential" and self.decay and not self.floor):
            raise SettingsError(
                f"A schedule with the shape {self.shape} has the floor {self.floor}.",
                remedy="A floor is a share of the peak; an exponential decay never reaches 0.",
            )

    def stretched(self, steps: int) -> "Schedule":
        """The same schedule over another number of steps, warm-up and decay in proportion."""
        warmup = round(self.warmup * steps / self.steps)
        all_of_it = self.warmup + self.decay == self.steps
        decay = steps - warmup if all_of_it else round(self.decay * steps / self.steps)
        return replace(self, steps=steps, warmup=warmup, decay=min(decay, steps - warmup))

    @property
    def decay_begins(self) -> int:
        """First step of the decay."""
        return self.steps - self.decay

    def factor(self, step: int) -> float:
        """Share of the peak rate at `step`, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if step < self.decay_begins or not self.decay:
            return 1.0
        progress = min(1.0, (step - self.decay_begins) / self.decay)
        if self.shape == "exponential":
            return float(self.floor**progress)
        fall = progress if self.shape == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return 1 - (1 - self.floor) * fall
