"""What the dense losses ask: which letters and things are in which patches and slots of a sample.

    characters of a picture -> letters in patches [patches, 3] and in slots [packs, queries, 6]
    things of a picture     -> their colours and kinds in patches [patches, 2]

Only worlds know them; of a user's picture nothing is asked here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from minicpmv.data.sample import Sample
from minicpmv.data.worlds.glyphs import CharacterBox, on_rows
from minicpmv.data.worlds.strips import patch_targets
from minicpmv.errors import ShapeContractError
from minicpmv.messages import Part
from minicpmv.processing.collate import EncodedSample
from minicpmv.processing.slicing import Size, SlicePlan, slice_boxes
from minicpmv.training.towers.patch_reading import SLOTS, UNKNOWN, counted_slots
from minicpmv.training.towers.reading_slots import PLACES, UNASKED, letters_in_slots

LABELS = ("letters", "slot_letters", "things")


def picture_size(part: Part) -> Size:
    """Of a picture that was drawn."""
    image = getattr(part, "source", None)
    if not isinstance(image, Image.Image):
        raise ShapeContractError(
            "Letters are known of a picture that was not drawn here.", remedy="Leave `characters` empty."
        )
    return Size(*image.size)


def dense_labels(
    sample: Sample, encoded: EncodedSample, plan: SlicePlan | None, generator: Generator
) -> dict[str, NDArray[np.int64]]:
    """What the tower and the resampler should say about a sample's picture.

    The overview of a picture that is cut into slices shows its letters too small to be read; nothing is asked of it.

    Args:
        sample: with one picture, whose `characters` are known; otherwise nothing is asked.
        encoded: the same sample.
        plan: what the encoder sees of the picture; None where nothing is asked.
        generator: decides which of the empty places count.

    Returns:
        `letters` int64 [patches, 3], `slot_letters` int64 [packs, queries, 6] and `things` int64 [patches, 2],
        `UNKNOWN` where nothing is asked, and `UNASKED` in a slot where nothing lies.
    """
    patches = sum(int(rows.item_shapes.prod(-1).sum()) for rows in encoded.visuals)
    packs = sum(rows.num_packs for rows in encoded.visuals)
    letters = np.full((patches, SLOTS), UNKNOWN, dtype=np.int64)
    slots = np.full((packs, encoded.slot_length, PLACES), UNKNOWN, dtype=np.int64)
    labels = {"letters": letters, "slot_letters": slots, "things": things_in_patches(sample, encoded, generator)}
    if plan is None:
        return labels
    starts = np.concatenate([[0], np.cumsum(encoded.visuals[0].item_shapes.prod(-1))])
    items = list(characters_of_items(on_rows(sample.characters), picture_size(sample.media[0]), plan))
    if len(items) != packs or len(encoded.visuals) != 1:
        raise ShapeContractError(
            f"{sample.key} has {packs} packs, and its letters lie in {len(items)}.",
            remedy="Letters are known of samples with one picture only.",
        )
    for item, (size, characters) in enumerate(items):
        if item == 0 and plan.refined is not None:
            continue
        in_patches = patch_targets(characters, size.height, size.width)
        in_slots = letters_in_slots(characters, size.height, size.width, encoded.slot_length)
        letters[starts[item] : starts[item + 1]] = np.where(counted_slots(generator, in_patches), in_patches, UNKNOWN)
        asked = counted_slots(generator, in_slots)
        slots[item] = np.where(asked, in_slots, np.where(in_slots == 0, UNASKED, UNKNOWN))
    return labels


def things_in_patches(sample: Sample, encoded: EncodedSample, generator: Generator) -> NDArray[np.int64]:
    """The colours and kinds of a sample's things where the encoder cuts its pictures as its world did.

    Args:
        sample: whose `things` are known; otherwise nothing is asked.
        encoded: the same sample.
        generator: decides which of the empty patches count.

    Returns:
        int64 [patches, 2], `UNKNOWN` where nothing is asked.
    """
    shapes = [tuple(shape) for rows in encoded.visuals for shape in rows.item_shapes.tolist()]
    things = sample.things
    if things is None or shapes != [things.shape[1:3]] * len(things):
        return np.full((sum(rows * columns for rows, columns in shapes), 2), UNKNOWN, dtype=np.int64)
    known = things.reshape(-1, 2)
    return np.where(counted_slots(generator, known[:, :1]), known, UNKNOWN)


def characters_of_items(
    characters: Sequence[CharacterBox], size: Size, plan: SlicePlan
) -> Iterator[tuple[Size, list[CharacterBox]]]:
    """The boxes of a picture in px of its overview and of each of its slices; others lie outside.

    Args:
        characters: boxes in px of the picture.
        size: of the picture.
        plan: what the encoder sees of it.
    """
    yield plan.overview, _moved(characters, size, plan.overview, 0, 0)
    if plan.refined is None or plan.slice_size is None:
        return
    for left, top, _, _ in slice_boxes(plan):
        yield plan.slice_size, _moved(characters, size, plan.refined, left, top)


def _moved(characters: Sequence[CharacterBox], size: Size, refined: Size, left: int, top: int) -> list[CharacterBox]:
    x, y = refined.width / size.width, refined.height / size.height
    return [
        CharacterBox(char, x0 * x - left, y0 * y - top, x1 * x - left, y1 * y - top)
        for char, x0, y0, x1, y1 in characters
    ]


def counts_of(labels: Sequence[Mapping[str, NDArray[np.int64]]]) -> Counter[str]:
    """How many letters and things are asked of the tower and of the resampler, and how many places."""
    counts = Counter({name: sum(int((label[name] >= 0).sum()) for label in labels) for name in LABELS})
    counts["patch_places"] = sum(len(label["letters"]) for label in labels)
    counts["slot_places"] = sum(label["slot_letters"][..., 0].size for label in labels)
    return counts


def collate_labels(labels: Sequence[Mapping[str, NDArray[np.int64]]]) -> dict[str, Tensor]:
    """Labels of several samples in the order of their patches and packs; empty without any."""
    return {
        name: torch.from_numpy(np.concatenate([label[name] for label in labels]))
        for name in LABELS
        if sum(len(label[name]) for label in labels)
    }
