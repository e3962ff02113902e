"""What a stage learns: batches drawn from the worlds, and the loss on them.

An objective is a pair of pure functions. `batch(step)` makes the batch of one step from nothing but the seed, in a data
worker without torch state; `loss(learner, batch)` turns it into a scalar and named numbers for the log.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from minicpmv.data.worlds.fonts import Face
from minicpmv.data.worlds.glyphs import on_rows, with_gaps
from minicpmv.data.worlds.lines import LINE_SIZES, PARAGRAPH_LINES, LineSample, lines_that_fit, render_line
from minicpmv.data.worlds.scenes import THING_TASKS, render_scene
from minicpmv.data.worlds.strips import STRIP_SIZES, patch_targets, render_strip
from minicpmv.processing.patches import patchify_all
from minicpmv.training.dense import watching
from minicpmv.training.feeding import Share
from minicpmv.training.places import places_of_patches
from minicpmv.training.towers.learner import Learner
from minicpmv.training.towers.patch_reading import PatchLabels, label_tensors, patch_reading_loss
from minicpmv.training.towers.reading_slots import letters_in_slots, slot_loss, slot_tensors
from minicpmv.training.towers.recipe import StageRecipe

Batch = dict[str, Any]

FULL_SHARE = 0.7
"""Of `paragraphs` and `slots`, how many are full of text. The others have one short line."""

SHORT_WORDS, FULL_WORDS = 3, 8
"""Most words of a line; more than eight fit at no size that can be read."""

ALONE = Share()
"""The only process draws whole batches."""


class Objective(Protocol):
    """One stage's data and loss."""

    def batch(self, step: int) -> Batch:
        """A process's share of the batch of one step, a pure function of seed, stage, step and share."""
        ...

    def loss(self, learner: Learner, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss, and numbers for the log."""
        ...


def step_generator(seed: int, stage: int, step: int, share: Share = ALONE) -> Generator:
    """The only source of randomness of a batch, or of a process's share of it."""
    # The last word is not 0: numpy takes [a, b, c, 0] for [a, b, c].
    whose = [share.rank, share.world] if share.world > 1 else []
    return np.random.default_rng([seed, stage, step, *whose])


def split_counts(generator: Generator, weights: Mapping[str, float], total: int) -> dict[str, int]:
    """How many of `total` samples each world gives, drawn by weight."""
    names = list(weights)
    shares = np.array([weights[name] for name in names], dtype=np.float64)
    counts = generator.multinomial(total, shares / shares.sum())
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture uint8 [height, width, 3] whose patches are known.

    `letters` are int64 [queries, places] as `reading_slots.letters_in_slots` says; None for a picture without text.
    """

    image: NDArray[np.uint8]
    labels: PatchLabels
    letters: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class ReadPatches:
    """Name the character in every third of every patch: a stand-in for the pre-training of a vision tower.

    With a slot loss, the resampler learns at the same time to say which letters lie where its queries look; without a
    language model in the way that costs a quarter of what it costs later.
    """

    stage: StageRecipe
    seed: int
    index: int
    faces: Sequence[Face]
    num_queries: int
    share: Share = ALONE

    def batch(self, step: int) -> Batch:
        """Pictures as patch rows, and the label of every slot."""
        generator = step_generator(self.seed, self.index, step, self.share)
        pictures: list[LabelledPicture] = []
        for world, count in split_counts(generator, self.stage.worlds, self.share.of(self.stage.batch)).items():
            pictures += READABLE[world](generator, self.faces, count, self.num_queries)
        rows, shapes = patchify_all([picture.image for picture in pictures])
        batch = {"pixel_values": torch.from_numpy(rows), "item_shapes": torch.from_numpy(shapes)}
        batch |= label_tensors([picture.labels for picture in pictures], generator)
        lettered = {index: picture.letters for index, picture in enumerate(pictures) if picture.letters is not None}
        if self.stage.slot_loss and lettered:
            batch |= slot_tensors(list(lettered.values()), list(lettered), generator)
        return batch

    def loss(self, learner: Learner, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Dense losses of the tower, and of the resampler if the stage asks for them."""
        shapes = [tuple(shape) for shape in batch["item_shapes"].tolist()]
        features = learner.model.vpm(batch["pixel_values"], shapes)
        loss, numbers = patch_reading_loss(learner.patch_reader, features, batch)
        if self.stage.place_loss:
            places = places_of_patches(shapes, features.device)
            misplaced = learner.place_heads.patch_loss(features, places) / len(places)
            loss = loss + self.stage.place_loss * misplaced
            numbers["patch_places"] = misplaced.item()
        if "letters" not in batch:
            return loss, numbers
        of_tokens, more = self._loss_of_tokens(learner, batch, features, shapes)
        return loss + of_tokens, numbers | more

    def _loss_of_tokens(
        self, learner: Learner, batch: Batch, features: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, dict[str, float]]:
        """Which letters the resampler's tokens say, and where its queries have looked."""
        attention = learner.model.config.vision_config._attn_implementation
        no_times = torch.full((len(shapes),), -1, device=features.device)
        with watching(learner.model) as seen:
            tokens = learner.model.resampler(features, shapes, range(len(shapes)), no_times, attention)
        codes = learner.slot_codes.codes.weight
        missed, numbers = slot_loss(tokens[batch["lettered"]], codes, batch["letters"], batch["counted_letters"])
        loss = self.stage.slot_loss * missed
        if self.stage.place_loss:
            misplaced = learner.place_heads.slot_loss(tokens, seen.looked_at[0]) / tokens[..., 0].numel()
            loss = loss + self.stage.place_loss * misplaced
            numbers["slot_places"] = misplaced.item()
        return loss, numbers


def strips_of(sizes: Sequence[tuple[int, int]]) -> "PictureWorld":
    """A world of pictures full of text, all of a batch in one of the sizes."""

    def draw(generator: Generator, faces: Sequence[Face], count: int, num_queries: int) -> list[LabelledPicture]:
        size = sizes[int(generator.integers(len(sizes)))]
        strips = [render_strip(generator, faces=faces, split="train", size=size) for _ in range(count)]
        return [
            LabelledPicture(
                strip.image,
                PatchLabels.of_text(strip.targets),
                letters_in_slots(on_rows(strip.characters), *size, num_queries),
            )
            for strip in strips
        ]

    return draw


def lettered_lines(
    generator: Generator, faces: Sequence[Face], count: int, num_queries: int, full: float
) -> Iterator[tuple[LineSample, PatchLabels, NDArray[np.int64]]]:
    """Pictures of one short line or full of lines, one size for all, with the labels of patches and of slots.

    One at a time: whoever draws a question to each keeps to the order of picture, question, picture.

    Args:
        generator: source of randomness.
        faces: faces to choose from.
        count: how many.
        num_queries: queries of the resampler.
        full: share of pictures with several lines, if they fit, of as many words as fit.
    """
    size = LINE_SIZES[int(generator.integers(len(LINE_SIZES)))]
    for _ in range(count):
        is_full = generator.random() < full
        num_lines = lines_that_fit(generator, size, PARAGRAPH_LINES) if is_full else 1
        words = FULL_WORDS if is_full else SHORT_WORDS
        lines = render_line(generator, faces=faces, split="train", size=size, num_lines=num_lines, max_words=words)
        characters = on_rows(with_gaps(lines.text, lines.characters))
        labels = PatchLabels.of_text(patch_targets(characters, *size))
        yield lines, labels, letters_in_slots(characters, *size, num_queries)


def lines_of(full: float) -> "PictureWorld":
    """A world of pictures of lines, such a share of them full of text, all of a batch in one of the sizes."""

    def draw(generator: Generator, faces: Sequence[Face], count: int, num_queries: int) -> list[LabelledPicture]:
        drawn = lettered_lines(generator, faces, count, num_queries, full)
        return [LabelledPicture(lines.image, labels, letters) for lines, labels, letters in drawn]

    return draw


def _scenes(generator: Generator, faces: Sequence[Face], count: int, num_queries: int) -> list[LabelledPicture]:
    tasks = [THING_TASKS[int(generator.integers(len(THING_TASKS)))] for _ in range(count)]
    scenes = [render_scene(generator, task=task, faces=faces) for task in tasks]
    return [LabelledPicture(scene.image, PatchLabels.of_things(scene.targets)) for scene in scenes]


PictureWorld = Callable[[Generator, Sequence[Face], int, int], list[LabelledPicture]]
"""Draws labelled pictures: source of randomness, faces, how many, queries of the resampler."""

READABLE: dict[str, PictureWorld] = {
    "strips": strips_of(STRIP_SIZES),
    "sheets": strips_of(LINE_SIZES),
    "lines": lines_of(0.0),
    "paragraphs": lines_of(FULL_SHARE),
    "scenes": _scenes,
}
"""Sources of labelled pictures by the name that recipes use; sheets are as large as what the tower is asked about."""
