"""The data of a step: samples of the mixture, encoded and packed into rows, the same however many workers there are.

    step -> its samples -> this process's share -> encoded -> rows -> StepBatch

A step is `batch` consecutive samples of the mixture, whoever loads them: process r of R encodes every R-th sample of
the step, and data worker w of W prepares every W-th step. Everybody walks the same stream and passes over what is not
theirs.
The batch carries the state of the stream behind it, so a checkpoint knows where to go on.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from minicpmv.data.mixture import Mixture, State
from minicpmv.data.readers import Flaw
from minicpmv.data.rows import collate_rows, fill_rows
from minicpmv.data.sample import Sample
from minicpmv.data.sources import open_mixture
from minicpmv.errors import MiniCPMVError, ShapeContractError
from minicpmv.messages import Message, VideoPart
from minicpmv.processing.collate import EncodedSample
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.slicing import SlicePlan
from minicpmv.training.dense_labels import collate_labels, counts_of, dense_labels, picture_size
from minicpmv.training.recipe import MediaRecipe, TrainingRecipe
from minicpmv.training.stopping import leave_stopping_to_others

LOOKING = 1
"""Last word of a seed, for how a sample is looked at: the mixture has [s, n], which numpy takes for [s, n, 0] too."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which samples of a step are this process's: number `rank` of every `world`."""

    rank: int = 0
    world: int = 1

    def of(self, number: int) -> int:
        """How many of `number` samples these are."""
        return len(range(self.rank, number, self.world))


@dataclass(frozen=True, slots=True)
class Found:
    """A sample that can be used.

    Attributes:
        source: of the mixture.
        sample: encoded.
        labels: of its patches and slots, where the recipe has dense losses.
    """

    source: str
    sample: EncodedSample
    labels: Mapping[str, NDArray[np.int64]] | None


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one process learns from in one step."""

    step: int
    passes: list[dict[str, Any]]
    """Inputs of `TokenLoss`, rows.per_pass rows each; empty if no sample of this process could be used."""

    sources: list[list[tuple[str, int]]]
    """For each pass the source of its targets in order, with how many follow from it."""

    stream: State
    """Where the mixture stands behind this step."""

    counts: Counter[str] = field(default_factory=Counter)
    """Of this process: `samples`, `targets`, and what `minicpmv.training.estimate` needs."""

    flaws: list[tuple[str, str, str]] = field(default_factory=list)
    """Source, key and reason of every sample that could not be used."""


def step_loader(
    recipe: TrainingRecipe,
    processor: MiniCPMVProcessor,
    *,
    first: int,
    stream: State | None = None,
    share: Share | None = None,
) -> Iterator[StepBatch]:
    """The batches of a recipe from a step on, in order.

    Args:
        recipe: what is learned from.
        processor: encodes samples.
        first: number of the first step.
        stream: where the mixture stands before it; None at the beginning of the recipe.
        share: of this process.

    Raises:
        MiniCPMVError: the mixture cannot be opened or read on, in a worker or here.
    """
    dataset = _Steps(recipe, processor, first, stream, share or Share())
    workers = min(recipe.workers, os.cpu_count() or 1)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=leave_stopping_to_others,
    )
    for batch in loader:
        if isinstance(batch, MiniCPMVError):
            raise batch
        yield batch


def recipe_mixture(recipe: TrainingRecipe) -> Mixture:
    """The stream of a recipe, with its second mixture from the first step of the decay on."""
    later = None
    if recipe.decay_data is not None:
        later = (recipe.schedule.decay_begins * recipe.batch, recipe.decay_data)
    return open_mixture(recipe.data, recipe.seed, later=later)


class _Steps(IterableDataset["StepBatch | MiniCPMVError"]):
    """The steps of one worker. What a person can mend is handed over; raised, it would arrive as a traceback."""

    def __init__(
        self, recipe: TrainingRecipe, processor: MiniCPMVProcessor, first: int, stream: State | None, share: Share
    ) -> None:
        self.recipe, self.processor, self.first, self.stream, self.share = recipe, processor, first, stream, share

    def __iter__(self) -> "Iterator[StepBatch | MiniCPMVError]":
        try:
            yield from self._steps()
        except MiniCPMVError as error:
            yield error

    def _steps(self) -> Iterator[StepBatch]:
        mixture = recipe_mixture(self.recipe)
        if self.stream is not None:
            mixture.restore(self.stream)
        worker = get_worker_info()
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.first, self.recipe.schedule.steps):
            if (step - self.first) % workers == mine:
                yield load_step(self.recipe, self.processor, mixture, step, self.share)
            else:
                for _ in range(self.recipe.batch):
                    mixture.skip()


def load_step(
    recipe: TrainingRecipe, processor: MiniCPMVProcessor, mixture: Mixture, step: int, share: Share
) -> StepBatch:
    """One step's batch for one process; the mixture moves on by a whole batch."""
    found: list[Found] = []
    flaws: list[tuple[str, str, str]] = []
    for place in range(recipe.batch):
        if place % share.world != share.rank:
            mixture.skip()
            continue
        source, sample = mixture.next()
        if isinstance(sample, Flaw):
            flaws.append((source, sample.key, sample.reason))
            continue
        generator = np.random.default_rng([recipe.seed, step, place, LOOKING])
        try:
            encoded = encode_sample(sample, processor, recipe.media, recipe.rows.tokens, generator)
        except MiniCPMVError as error:
            flaws.append((source, sample.key, str(error)))
            continue
        labels = None
        if recipe.dense is not None:
            labels = dense_labels(sample, encoded, _plan_of(sample, processor, recipe.media), generator)
        found.append(Found(source, encoded, labels))
    return _packed(found, flaws, recipe, int(processor.tokenizer.pad_token_id or 0), mixture.state, step)


def encode_sample(
    sample: Sample, processor: MiniCPMVProcessor, media: MediaRecipe, longest: int, generator: Generator
) -> EncodedSample:
    """A sample's ids and patches, clips looked at as the recipe draws it.

    Raises:
        MiniCPMVError: its media cannot be read, or it is longer than a row.
    """
    messages = [_with_clip_options(message, media, generator) for message in sample.messages]
    options = {name: value for name in ("max_slices", "max_frames") if (value := getattr(media, name)) is not None}
    return processor.encode_conversation(messages, max_length=longest, **options)


def _with_clip_options(message: Message, media: MediaRecipe, generator: Generator) -> Message:
    if not any(isinstance(part, VideoPart) for part in message.parts):
        return message
    parts = []
    for part in message.parts:
        if isinstance(part, VideoPart):
            if media.packing and part.packing is None and part.temporal_ids is None:
                part = replace(part, packing=media.packing[int(generator.integers(len(media.packing)))])
            if media.fps and part.fps is None and part.frames is None:
                low, high = np.log(media.fps[0]), np.log(media.fps[1])
                part = replace(part, fps=float(np.exp(generator.uniform(low, high))))
        parts.append(part)
    return replace(message, parts=tuple(parts))


def _plan_of(sample: Sample, processor: MiniCPMVProcessor, media: MediaRecipe) -> SlicePlan | None:
    """What the encoder sees of a sample's picture, if its letters are known."""
    if not sample.characters:
        return None
    if len(sample.media) != 1:
        raise ShapeContractError(
            f"{sample.key} has letters and {len(sample.media)} media.",
            remedy="Letters are known of samples with one picture only.",
        )
    part = sample.media[0]
    pictures = processor.image_processor
    most = media.max_slices if media.max_slices is not None else pictures.max_slice_nums
    return pictures.geometry.plan(picture_size(part), most)


def _packed(
    found: list[Found],
    flaws: list[tuple[str, str, str]],
    recipe: TrainingRecipe,
    pad_id: int,
    stream: State,
    step: int,
) -> StepBatch:
    rows = fill_rows([len(one.sample.ids) for one in found], recipe.rows.tokens)
    passes, sources = [], []
    counts: Counter[str] = Counter(samples=len(found))
    for start in range(0, len(rows), recipe.rows.per_pass):
        group = rows[start : start + recipe.rows.per_pass]
        members = [[found[index] for index in row] for row in group]
        longest = max(sum(len(one.sample.ids) for one in row) for row in members)
        inputs = collate_rows([[one.sample for one in row] for row in members], longest, pad_id=pad_id)
        counts["targets"] += inputs.pop("num_targets")
        together = [one for row in members for one in row]
        counts += costs_of(one.sample for one in together)
        labels = [one.labels for one in together if one.labels is not None]
        counts += counts_of(labels)
        passes.append(inputs | collate_labels(labels))
        sources.append([(one.source, sum(one.sample.trained[1:])) for one in together])
    return StepBatch(step, passes, sources, stream, counts, flaws)


def costs_of(samples: Iterable[EncodedSample]) -> Counter[str]:
    """Sizes that decide what a step costs."""
    counts: Counter[str] = Counter()
    for sample in samples:
        counts["tokens"] += len(sample.ids)
        counts["token_pairs"] += len(sample.ids) ** 2
        for rows in sample.visuals:
            patches = rows.item_shapes.prod(-1)
            counts["patches"] += int(patches.sum())
            counts["patch_pairs"] += int((patches**2).sum())
            counts["packs"] += rows.num_packs
    return counts
