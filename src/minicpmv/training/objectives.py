"""What a stage learns: batches drawn from the worlds, and the loss on them.

An objective is a pair of pure functions. `batch(step)` makes the batch of one step from nothing but the seed, in a data
worker without torch state; `loss(learner, batch)` turns it into a scalar and named numbers for the log.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn

from minicpmv.data.worlds.fonts import Face
from minicpmv.data.worlds.lines import LINE_SIZES, render_line
from minicpmv.data.worlds.strips import NUM_CHARACTERS, STRIP_SIZES, patch_targets, render_strip
from minicpmv.processing.patches import patchify_all
from minicpmv.training.learner import Learner
from minicpmv.training.recipe import StageRecipe

Batch = dict[str, Any]
Pictures = list[tuple[NDArray[np.uint8], NDArray[np.int64]]]
SLOTS = 3
BLANKS_KEPT = 0.12
"""Share of empty slots that count in the dense loss; with all of them a tower learns to say "blank"."""


class Objective(Protocol):
    """One stage's data and loss."""

    def batch(self, step: int) -> Batch:
        """The batch of one step, a pure function of seed, stage and step."""
        ...

    def loss(self, learner: Learner, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss, and numbers for the log."""
        ...


def step_generator(seed: int, stage: int, step: int) -> Generator:
    """The only source of randomness of a batch."""
    return np.random.default_rng([seed, stage, step])


def split_counts(generator: Generator, weights: Mapping[str, float], total: int) -> dict[str, int]:
    """How many of `total` samples each world gives, drawn by weight."""
    names = list(weights)
    shares = np.array([weights[name] for name in names], dtype=np.float64)
    counts = generator.multinomial(total, shares / shares.sum())
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def patch_reader(vision_width: int) -> nn.Linear:
    """The dense head: characters of the three slots of a patch from its features."""
    return nn.Linear(vision_width, SLOTS * NUM_CHARACTERS)


def patch_reading_loss(logits: Tensor, targets: Tensor, counted: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the counted slots, and the accuracy on letters.

    Args:
        logits: [patches, slots * characters].
        targets: int64 [patches, slots], 0 = blank.
        counted: bool [patches, slots], which slots enter the loss.
    """
    by_slot = logits.float().unflatten(-1, (SLOTS, NUM_CHARACTERS))
    loss = F.cross_entropy(by_slot[counted], targets[counted])
    letters = targets > 0
    correct = (by_slot.argmax(-1) == targets)[letters].float().mean()
    return loss, {"patch_loss": loss.item(), "letters": correct.item()}


def counted_slots(generator: Generator, targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """All letters and a few of the blanks."""
    kept: NDArray[np.bool_] = (targets > 0) | (generator.random(targets.shape) < BLANKS_KEPT)
    return kept


@dataclass(frozen=True, slots=True)
class ReadPatches:
    """Name the character in every third of every patch: a stand-in for the pre-training of a vision tower."""

    stage: StageRecipe
    seed: int
    index: int
    faces: Sequence[Face]

    def batch(self, step: int) -> Batch:
        """Pictures as patch rows, and the label of every slot."""
        generator = step_generator(self.seed, self.index, step)
        pictures: Pictures = []
        for world, count in split_counts(generator, self.stage.worlds, self.stage.batch).items():
            pictures += _READABLE[world](generator, self.faces, count)
        rows, shapes = patchify_all([image for image, _ in pictures])
        targets = np.concatenate([target for _, target in pictures])
        return {
            "pixel_values": torch.from_numpy(rows),
            "item_shapes": torch.from_numpy(shapes),
            "targets": torch.from_numpy(targets),
            "counted": torch.from_numpy(counted_slots(generator, targets)),
        }

    def loss(self, learner: Learner, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Dense reading loss."""
        features = learner.model.vpm(batch["pixel_values"], batch["item_shapes"])
        return patch_reading_loss(learner.patch_reader(features), batch["targets"], batch["counted"])


def _strips(generator: Generator, faces: Sequence[Face], count: int) -> Pictures:
    size = STRIP_SIZES[int(generator.integers(len(STRIP_SIZES)))]
    strips = [render_strip(generator, faces=faces, split="train", size=size) for _ in range(count)]
    return [(strip.image, strip.targets) for strip in strips]


def _lines(generator: Generator, faces: Sequence[Face], count: int) -> Pictures:
    size = LINE_SIZES[int(generator.integers(len(LINE_SIZES)))]
    lines = [render_line(generator, faces=faces, split="train", size=size) for _ in range(count)]
    return [(line.image, patch_targets(line.characters, *size)) for line in lines]


_READABLE: dict[str, Callable[[Generator, Sequence[Face], int], Pictures]] = {"strips": _strips, "lines": _lines}
