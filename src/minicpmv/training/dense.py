"""Losses on what is in every patch and every slot, and on where that is, beside the answers.

    model -> watching -> features, tokens, where queries looked
    those + labels (letters in patches and slots, things in patches) + heads -> sums of losses

A small model learns to read several times faster if its tower and its resampler are told letter by letter what they
should have seen. The heads that say so come from a run before, or begin blank; they learn beside the model where the
recipe gives them a rate, and are no part of it. Tokens are drawn to the codes in which a language model has learned to
read; where the codes begin blank, they follow the tokens instead.

Source: ours; how far it helps is measured in docs/log.md. Nothing like it is published for the released model.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minicpmv.data.worlds.strips import NUM_CHARACTERS
from minicpmv.errors import CheckpointError
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.model.resampler import ResamplerAttention
from minicpmv.training.places import PlaceHeads, places_looked_at, places_of_patches
from minicpmv.training.towers.patch_reading import NUM_COLOURS, NUM_KINDS, SLOTS, UNKNOWN, PatchReader
from minicpmv.training.towers.reading_slots import NEARNESS, TOKEN_RMS, SlotCodes, slot_distances, slot_scores

FILE = "dense_heads.safetensors"
"""In the folder of a run, beside `model`."""

ASKED = {
    "letters": "letters_in_patches",
    "slot_letters": "letters_in_slots",
    "things": "things_in_patches",
    "patch_places": "places_of_patches",
    "slot_places": "places_of_slots",
}
"""What the dense losses are about, in the order of their sums, and the names of these in the metrics."""


@dataclass(slots=True)
class Watched:
    """What went through a model in one pass, call by call of its tower and resampler."""

    features: list[Tensor] = field(default_factory=list)
    """From the tower, [patches, d_vision] each."""

    tokens: list[Tensor] = field(default_factory=list)
    """From the resampler, [packs, queries, d_llm] each."""

    shapes: list[Sequence[tuple[int, int]]] = field(default_factory=list)
    """(rows, columns) of the items of each call."""

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
        self.are_blank = False
        """Codes follow the tokens then, whatever language these speak; otherwise tokens are drawn to the codes."""
        self.requires_grad_(False)

    def learn(self, *, things: bool = False, places: bool = False) -> None:
        """Let the heads learn that the losses ask; but codes only if blank, for others are what a language model reads.

        Args:
            things: the head of colours and kinds is asked.
            places: the heads of places are asked.
        """
        self.reader.letters.requires_grad_(True)
        self.codes.requires_grad_(self.are_blank)
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
            slot_letters: int64 [packs, queries, 6], likewise of the resampler, or `UNASKED`.
            things: int64 [patches, 2], likewise of the tower.
        """
        features, tokens = torch.cat(seen.features), torch.cat(seen.tokens)
        places = places_of_patches(list(chain.from_iterable(seen.shapes)), features.device)
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
        """Sum of the cross-entropy of the letters in slots, over the codes that a token is near, and of its distance.

        Args:
            tokens: [packs, queries, d_llm].
            letters: int64 [packs, queries, 6], negative where nothing is asked.
        """
        codes = self.codes.codes.weight
        by_place = slot_scores(tokens, codes)
        asked = letters >= 0
        missed = nn.functional.cross_entropy(by_place[asked], letters[asked], reduction="sum")
        drawn, to = (tokens.detach(), codes) if self.are_blank else (tokens, codes.detach())
        return missed + NEARNESS * (slot_distances(drawn, to, letters) * asked.sum(-1)).sum()


def blank_heads(vision_width: int, width: int, seed: int) -> DenseHeads:
    """Heads that know nothing yet, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = DenseHeads(vision_width, width)
    heads.are_blank = True
    return heads


@contextlib.contextmanager
def watching(model: MiniCPMVForConditionalGeneration) -> Iterator[Watched]:
    """What goes through a model's tower and resampler while it is watched."""
    seen = Watched()
    resampler = model.resampler

    def begins(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        features, shapes, *_ = inputs
        seen.features.append(features)
        seen.shapes.append(shapes)

    def attends(attention: ResamplerAttention, inputs: tuple[Any, ...], _mixed: Tensor) -> None:
        # In here, while sharded weights are whole.
        queries, keys, _, lengths, *_ = inputs
        places = places_of_patches(seen.shapes[-1], keys.device)
        seen.looked_at.append(places_looked_at(attention, queries, keys, lengths, places))

    hooks = (
        resampler.register_forward_pre_hook(begins),
        resampler.attn.register_forward_hook(attends),
        resampler.register_forward_hook(lambda _module, _inputs, tokens: seen.tokens.append(tokens)),
    )
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def save_heads(reader: PatchReader, codes: SlotCodes, places: PlaceHeads, folder: Path) -> None:
    """Keep the heads of a finished run.

    Args:
        reader: the tower's heads.
        codes: the resampler's.
        places: of both.
        folder: of the run.
    """
    parts: dict[str, nn.Module] = {"reader": reader, "codes": codes, "places": places}
    weights = {f"{part}.{name}": tensor for part, head in parts.items() for name, tensor in head.state_dict().items()}
    write_heads(weights, folder)


def write_heads(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Keep heads whose weights are whole, under the names that they have in `DenseHeads`."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / FILE)


def load_heads(run: Path, vision_width: int, width: int) -> DenseHeads:
    """The heads that a run has left.

    Args:
        run: its folder.
        vision_width: d_vision.
        width: d_llm.

    Raises:
        CheckpointError: there are none, or they belong to another model.
    """
    heads = blank_heads(vision_width, width, seed=0)
    heads.are_blank = False
    try:
        heads.load_state_dict(load_file(run / FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"There are no dense heads for this model in {run}: {reason}",
            remedy=f"Run `minicpmv train {run.name}` before, begin with blank heads (dense.heads: null and a "
            "dense.rate), or leave the dense losses out with --set dense=null.",
        ) from error
    return heads
