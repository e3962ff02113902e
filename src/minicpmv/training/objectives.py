"""What a stage learns: batches drawn from the worlds, and the loss on them.

An objective is a pair of pure functions. `batch(step)` makes the batch of one step from nothing but the seed, in a data
worker without torch state; `loss(learner, batch)` turns it into a scalar and named numbers for the log.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from minicpmv.data.worlds.fonts import Face
from minicpmv.data.worlds.lines import LINE_SIZES, render_line
from minicpmv.data.worlds.scenes import SCENE_TASKS, render_scene
from minicpmv.data.worlds.strips import STRIP_SIZES, patch_targets, render_strip
from minicpmv.processing.patches import patchify_all
from minicpmv.training.learner import Learner
from minicpmv.training.patch_reading import PatchLabels, label_tensors, patch_reading_loss
from minicpmv.training.recipe import StageRecipe

Batch = dict[str, Any]


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
        pictures: Labelled = []
        for world, count in split_counts(generator, self.stage.worlds, self.stage.batch).items():
            pictures += READABLE[world](generator, self.faces, count)
        rows, shapes = patchify_all([image for image, _ in pictures])
        tensors = {"pixel_values": torch.from_numpy(rows), "item_shapes": torch.from_numpy(shapes)}
        return tensors | label_tensors([labels for _, labels in pictures], generator)

    def loss(self, learner: Learner, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Dense reading loss."""
        features = learner.model.vpm(batch["pixel_values"], batch["item_shapes"])
        return patch_reading_loss(learner.patch_reader, features, batch)


Labelled = list[tuple[NDArray[np.uint8], PatchLabels]]


def _strips(generator: Generator, faces: Sequence[Face], count: int) -> Labelled:
    size = STRIP_SIZES[int(generator.integers(len(STRIP_SIZES)))]
    strips = [render_strip(generator, faces=faces, split="train", size=size) for _ in range(count)]
    return [(strip.image, PatchLabels.of_text(strip.targets)) for strip in strips]


def _lines(generator: Generator, faces: Sequence[Face], count: int) -> Labelled:
    size = LINE_SIZES[int(generator.integers(len(LINE_SIZES)))]
    lines = [render_line(generator, faces=faces, split="train", size=size) for _ in range(count)]
    return [(line.image, PatchLabels.of_text(patch_targets(line.characters, *size))) for line in lines]


def _scenes(generator: Generator, faces: Sequence[Face], count: int) -> Labelled:
    tasks = [SCENE_TASKS[int(generator.integers(len(SCENE_TASKS)))] for _ in range(count)]
    scenes = [render_scene(generator, task=task, faces=faces) for task in tasks]
    return [(scene.image, PatchLabels.of_things(scene.targets)) for scene in scenes]


READABLE: dict[str, Callable[[Generator, Sequence[Face], int], Labelled]] = {
    "strips": _strips,
    "lines": _lines,
    "scenes": _scenes,
}
"""Sources of labelled pictures by the name that recipes use."""
