"""Losses on what is in every patch and every slot, and on where that is, beside the answers.

    characters of a picture -> letters in patches [patches, 3] and in slots [packs, queries, 6]
    things of a picture     -> colours and kinds in patches [patches, 2]        -> sums of losses
    any picture             -> places of patches and of what queries looked at

A small model learns to read several times faster if its tower and its resampler are told letter by letter what they
should have seen. The heads that say so come from a run before, or begin blank; they learn beside the model where the
recipe gives them a rate, and are no part of it.

Source: ours; how far it helps is measured in docs/log.md. Nothing like it is published for the released model.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minicpmv.data.sample import Sample
from minicpmv.data.worlds.glyphs import CharacterBox
from minicpmv.data.worlds.strips import NUM_CHARACTERS, patch_targets
from minicpmv.errors import CheckpointError, ShapeContractError
from minicpmv.messages import Part
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.collate import EncodedSample
from minicpmv.processing.slicing import Size, SlicePlan, slice_boxes
from minicpmv.training.places import PlaceHeads, places_looked_at, places_of_patches
from minicpmv.training.towers.patch_reading import NUM_COLOURS, NUM_KINDS, SLOTS, UNKNOWN, PatchReader, counted_slots
from minicpmv.training.towers.reading_slots import PLACES, TOKEN_RMS, SlotCodes, letters_in_slots, slot_scores

FILE = "dense_heads.safetensors"
"""In the folder of a run, beside `model`."""

ASKED = ("letters", "slot_letters", "things", "patch_places", "slot_places")
"""What the dense losses are about, in the order of their sums."""

LABELS = ASKED[:3]
"""What only a world can know."""


@dataclass(slots=True)
class Watched:
    """What went through a model in one pass, call by call of its tower and resampler."""

    features: list[Tensor] = field(default_factory=list)
    """From the tower, [patches, d_vision] each."""

    tokens: list[Tensor] = field(default_factory=list)
    """From the resampler, [packs, queries, d_llm] each."""

    shapes: list[tuple[int, int]] = field(default_factory=list)
    """(rows, columns) of all items."""

    looked_at: list[Tensor] = field(default_factory=list)
    """Where the heads of each query looked, [packs, queries, heads, 2] each."""


class DenseHeads(nn.Module):
    """The heads, fixed until somebody calls `learn`.

    Args:
        vision_width: d_vision.
        width: d_llm.
    """

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.reader: PatchReader = PatchReader(vision_width)
        self.codes: SlotCodes = SlotCodes(width, TOKEN_RMS)
        self.places: PlaceHeads = PlaceHeads(vision_width, width)
        self.requires_grad_(False)

    def learn(self, *, things: bool = False, places: bool = False) -> None:
        """Let the heads learn that the losses ask.

        Args:
            things: the head of colours and kinds is asked.
            places: the heads of places are asked.
        """
        self.reader.letters.requires_grad_(True)
        self.codes.requires_grad_(True)
        self.reader.things.requires_grad_(things)
        self.places.requires_grad_(places)

    def no_loss(self) -> Tensor:
        """0, which depends on whatever learns here: every process takes part in every backward pass."""
        return sum((one.sum() * 0 for one in self.parameters() if one.requires_grad), torch.zeros(()))

    def losses(self, seen: Watched, letters: Tensor, slot_letters: Tensor, things: Tensor) -> Tensor:
        """float32 [5], the sums of the losses in the order of `ASKED`.

        Args:
            seen: what the tower and the resampler made of the pictures.
            letters: int64 [patches, 3], `UNKNOWN` where nothing is asked of the tower.
            slot_letters: int64 [packs, queries, 6], likewise of the resampler.
            things: int64 [patches, 2], likewise of the tower.
        """
        features, tokens = torch.cat(seen.features), torch.cat(seen.tokens)
        places = places_of_patches(seen.shapes, features.device)
        sums = [
            self.patch_loss(features, letters),
            self.slot_loss(tokens, slot_letters),
            self.thing_loss(features, things),
            self.places.patch_loss(features, places),
            self.places.slot_loss(tokens, torch.cat(seen.looked_at)),
        ]
        return torch.stack(sums)

    def thing_loss(self, features: Tensor, things: Tensor) -> Tensor:
        """Sum of the cross-entropy of the colours and kinds of things in patches.

        Args:
            features: [patches, d_vision].
            things: int64 [patches, 2], `UNKNOWN` where nothing is asked.
        """
        colours, kinds = self.reader.things(features).float().split([NUM_COLOURS, NUM_KINDS], dim=-1)
        loss = nn.functional.cross_entropy(colours, things[:, 0], ignore_index=UNKNOWN, reduction="sum")
        return loss + nn.functional.cross_entropy(kinds, things[:, 1], ignore_index=UNKNOWN, reduction="sum")

    def patch_loss(self, features: Tensor, letters: Tensor) -> Tensor:
        """Sum of the cross-entropy of the letters in patches.

        Args:
            features: [patches, d_vision].
            letters: int64 [patches, 3], `UNKNOWN` where nothing is asked.
        """
        logits = self.reader.letters(features).float().unflatten(-1, (SLOTS, NUM_CHARACTERS))
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), letters.flatten(), ignore_index=UNKNOWN, reduction="sum"
        )

    def slot_loss(self, tokens: Tensor, letters: Tensor) -> Tensor:
        """Sum of the cross-entropy of the letters in slots, over the codes that a token is closest to.

        Args:
            tokens: [packs, queries, d_llm].
            letters: int64 [packs, queries, 6], `UNKNOWN` where nothing is asked.
        """
        by_place = slot_scores(tokens, self.codes.codes.weight)
        return nn.functional.cross_entropy(
            by_place.flatten(0, 2), letters.flatten(), ignore_index=UNKNOWN, reduction="sum"
        )


def blank_heads(vision_width: int, width: int, seed: int) -> DenseHeads:
    """Heads that know nothing yet, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DenseHeads(vision_width, width)


@contextlib.contextmanager
def watching(model: MiniCPMVForConditionalGeneration) -> Iterator[Watched]:
    """What goes through a model's tower and resampler while it is watched."""
    seen = Watched()

    def resampled(_module: nn.Module, inputs: tuple[Any, ...], tokens: Tensor) -> None:
        features, shapes, *_ = inputs
        seen.features.append(features)
        seen.shapes.extend(shapes)
        seen.tokens.append(tokens)
        places = places_of_patches(shapes, features.device)
        queries, keys, lengths = attended.pop()
        seen.looked_at.append(places_looked_at(attention, queries, keys, lengths, places))

    def attends(_module: nn.Module, inputs: tuple[Any, ...], _mixed: Tensor) -> None:
        queries, keys, _, lengths, *_ = inputs
        attended.append((queries, keys, lengths))

    attention = model.resampler.attn
    attended: list[tuple[Tensor, Tensor, Sequence[int]]] = []
    hooks = model.resampler.register_forward_hook(resampled), attention.register_forward_hook(attends)
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def save_heads(reader: PatchReader, codes: SlotCodes, folder: Path, places: PlaceHeads | None = None) -> None:
    """Keep the heads of a finished run; the towers have none of places."""
    parts: dict[str, nn.Module | None] = {"reader": reader, "codes": codes, "places": places}
    weights = {
        f"{part}.{name}": tensor for part, head in parts.items() if head for name, tensor in head.state_dict().items()
    }
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / FILE)


def load_heads(run: Path, vision_width: int, width: int, seed: int = 0) -> DenseHeads:
    """The heads that a run has left; those of places are blank where it has none.

    Args:
        run: its folder.
        vision_width: d_vision.
        width: d_llm.
        seed: of blank heads.

    Raises:
        CheckpointError: there are none, or they belong to another model.
    """
    heads = blank_heads(vision_width, width, seed)
    try:
        weights = load_file(run / FILE)
        blank = {f"places.{name}": weight for name, weight in heads.places.state_dict().items()}
        heads.load_state_dict(blank | weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"There are no dense heads for this model in {run}: {reason}",
            remedy=f"Run `minicpmv train {run.name}` before, begin with blank heads (dense.heads: null and a "
            "dense.rate), or leave the dense losses out with --set dense=null.",
        ) from error
    return heads


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
        `UNKNOWN` where nothing is asked.
    """
    patches = sum(int(rows.item_shapes.prod(-1).sum()) for rows in encoded.visuals)
    packs = sum(rows.num_packs for rows in encoded.visuals)
    letters = np.full((patches, SLOTS), UNKNOWN, dtype=np.int64)
    slots = np.full((packs, encoded.slot_length, PLACES), UNKNOWN, dtype=np.int64)
    labels = {"letters": letters, "slot_letters": slots, "things": things_in_patches(sample, encoded, generator)}
    if plan is None:
        return labels
    starts = np.concatenate([[0], np.cumsum(encoded.visuals[0].item_shapes.prod(-1))])
    items = list(characters_of_items(sample.characters, picture_size(sample.media[0]), plan))
    if len(items) != packs or len(encoded.visuals) != 1:
        raise ShapeContractError(
            f"{sample.key} has {packs} packs, and its letters lie in {len(items)}.",
            remedy="Letters are known of samples with one picture only.",
        )
    for item, (size, characters) in enumerate(items):
        if item == 0 and plan.refined is not None:
            continue
        in_patches = patch_targets(characters, size.height, size.width)
        in_slots = letters_in_slots(characters, encoded.slot_length)
        letters[starts[item] : starts[item + 1]] = np.where(counted_slots(generator, in_patches), in_patches, UNKNOWN)
        slots[item] = np.where(counted_slots(generator, in_slots), in_slots, UNKNOWN)
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
    counts = Counter({name: sum(int((label[name] != UNKNOWN).sum()) for label in labels) for name in LABELS})
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
