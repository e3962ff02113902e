"""The ragged visual input as one record, and the placing of its output in the prompt.

The processor and the model meet in five tensors (`pixel_values`, `item_shapes`, `item_packs`, `item_times`,
`visual_slots`). `VisualInputs` checks that they agree, and hands them out in chunks that bound the memory
of a long clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minicpmv.errors import ShapeContractError
from minicpmv.model.vision import as_shapes

ITEM_KEYS = ("pixel_values", "item_shapes", "item_packs", "item_times")
VISUAL_KEYS = (*ITEM_KEYS, "visual_slots", "visual_features")


@dataclass(frozen=True, slots=True)
class VisualInputs:
    """What the tower and the resampler see: items in order, items of a pack together.

    Attributes:
        pixel_values: [patches, 588].
        shapes: (rows, columns) of patches of each item.
        packs: pack index of each item: 0, 1, 2, ... non-decreasing.
        times: int64 [items]; -1 for none.
    """

    pixel_values: Tensor
    shapes: list[tuple[int, int]]
    packs: list[int]
    times: Tensor

    @classmethod
    def from_tensors(
        cls, pixel_values: Tensor, item_shapes: Tensor | None, item_packs: Tensor | None, item_times: Tensor | None
    ) -> VisualInputs:
        """Check and convert the processor's tensors.

        Raises:
            ShapeContractError: one is missing, or their lengths differ.
        """
        if item_shapes is None:
            raise ShapeContractError(
                "pixel_values came without item_shapes.", remedy="Pass everything that the processor returned."
            )
        shapes = as_shapes(item_shapes)
        packs = list(range(len(shapes))) if item_packs is None else item_packs.tolist()
        times = torch.full((len(shapes),), -1) if item_times is None else item_times
        if len(packs) != len(shapes) or times.shape[0] != len(shapes):
            raise ShapeContractError(
                f"{len(shapes)} item_shapes, {len(packs)} item_packs and {times.shape[0]} item_times.",
                remedy="Each item needs one of each; pass everything that the processor returned.",
            )
        patches = sum(rows * columns for rows, columns in shapes)
        if pixel_values.ndim != 2 or pixel_values.shape[0] != patches:
            raise ShapeContractError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; item_shapes of {len(shapes)} items cover "
                f"{patches} patches.",
                remedy="Expected [patches, 588] with all items one after another.",
            )
        return cls(pixel_values, shapes, packs, times)

    @property
    def num_packs(self) -> int:
        """Number of packs, which is the number of slots they fill."""
        return self.packs[-1] + 1 if self.packs else 0

    def chunks(self, max_patches: int) -> Iterator[VisualInputs]:
        """Whole packs in order, as many as fit into `max_patches`, at least one at a time."""
        areas = [rows * columns for rows, columns in self.shapes]
        first_item = first_patch = item = patch = 0
        while item < len(self.shapes):
            last, size = _pack_end(self.packs, item), 0
            size = sum(areas[item:last])
            if item > first_item and patch + size - first_patch > max_patches:
                yield self._part(first_item, item, first_patch, patch)
                first_item, first_patch = item, patch
            item, patch = last, patch + size
        if first_item < item:
            yield self._part(first_item, item, first_patch, patch)

    def split(self) -> list[VisualInputs]:
        """One per pack; their pixels stay where they are."""
        parts = []
        item = patch = 0
        while item < len(self.shapes):
            last = _pack_end(self.packs, item)
            size = sum(rows * columns for rows, columns in self.shapes[item:last])
            parts.append(self._part(item, last, patch, patch + size))
            item, patch = last, patch + size
        return parts

    @classmethod
    def join(cls, parts: Sequence[VisualInputs]) -> VisualInputs:
        """Several as one, their packs one after another.

        Args:
            parts: at least one.
        """
        packs: list[int] = []
        for part in parts:
            first = packs[-1] + 1 if packs else 0
            packs += [first + pack for pack in part.packs]
        shapes = [shape for part in parts for shape in part.shapes]
        pixels = torch.cat([part.pixel_values for part in parts])
        return cls(pixels, shapes, packs, torch.cat([part.times for part in parts]))

    def to(self, device: torch.device) -> VisualInputs:
        """The same on another device."""
        return VisualInputs(self.pixel_values.to(device), self.shapes, self.packs, self.times.to(device))

    def _part(self, first_item: int, last_item: int, first_patch: int, last_patch: int) -> VisualInputs:
        base = self.packs[first_item]
        return VisualInputs(
            self.pixel_values[first_patch:last_patch],
            self.shapes[first_item:last_item],
            [pack - base for pack in self.packs[first_item:last_item]],
            self.times[first_item:last_item],
        )


def _pack_end(packs: Sequence[int], item: int) -> int:
    """Index after the last item of the pack that `item` belongs to."""
    end = item
    while end < len(packs) and packs[end] == packs[item]:
        end += 1
    return end


def keep_packs(visual: Mapping[str, Tensor], keep: Tensor) -> dict[str, Tensor]:
    """The visual tensors of some packs only, renumbered from 0.

    Args:
        visual: what the processor returned, or `visual_features` and `visual_slots`.
        keep: bool [packs].
    """
    kept = {"visual_slots": visual["visual_slots"][keep]}
    features = visual.get("visual_features")
    if features is not None:
        return {**kept, "visual_features": features[keep.to(features.device)]}
    shapes = visual["item_shapes"]
    packs = visual.get("item_packs")
    packs = torch.arange(shapes.shape[0], device=shapes.device) if packs is None else packs
    keep = keep.to(packs.device)
    items = keep[packs]
    patches = items.to(shapes.device).repeat_interleave(shapes.prod(dim=1))
    kept["pixel_values"] = visual["pixel_values"][patches.to(visual["pixel_values"].device)]
    kept["item_shapes"] = shapes[items.to(shapes.device)]
    kept["item_packs"] = (keep.cumsum(0) - 1)[packs[items]]
    if visual.get("item_times") is not None:
        kept["item_times"] = visual["item_times"][items.to(visual["item_times"].device)]
    return kept


def place_in_slots(embeddings: Tensor, features: Tensor, slots: Tensor, input_ids: Tensor | None = None) -> Tensor:
    """Overwrite each slot's run of placeholder embeddings with one pack's tokens.

    Args:
        embeddings: [batch, tokens, d_llm].
        features: [packs, queries, d_llm].
        slots: int64 [packs, 2]: sample row and first column of each slot.
        input_ids: int64 [batch, tokens] where known: slots hold one id over and over, or they have been moved.

    Returns:
        A new tensor like `embeddings`.

    Raises:
        ShapeContractError: as many slots as packs are needed, inside the prompt, where the placeholders are.
    """
    batch, tokens = embeddings.shape[:2]
    num_packs, num_queries = features.shape[:2]
    if slots.shape[0] != num_packs:
        raise ShapeContractError(
            f"The prompt has {slots.shape[0]} visual slots but the pictures and clips give {num_packs} packs.",
            remedy="Pass everything that the processor returned, and do not truncate input_ids.",
        )
    rows, starts = slots[:, 0].tolist(), slots[:, 1].tolist()
    for row, start in zip(rows, starts, strict=True):
        if not (0 <= row < batch and 0 <= start <= tokens - num_queries):
            raise ShapeContractError(
                f"A visual slot at sample {row}, tokens {start} to {start + num_queries} lies outside input_ids of "
                f"shape ({batch}, {tokens}).",
                remedy="Pass everything that the processor returned, and do not truncate input_ids.",
            )
    slots = slots.to(embeddings.device)
    columns = slots[:, 1, None] + torch.arange(num_queries, device=embeddings.device)
    positions = (slots[:, 0, None] * tokens + columns).flatten()
    if input_ids is not None and len(positions):
        held = input_ids.flatten().index_select(0, positions.to(input_ids.device))
        if not bool((held == held[0]).all()):
            raise ShapeContractError(
                "The visual slots do not lie on the placeholders of input_ids.",
                remedy="Pass input_ids as the processor returned them: padding must not be moved or cut afterwards. "
                "Other libraries' trainers take minicpmv.training.collator.ConversationCollator.",
            )
    flat = embeddings.flatten(0, 1)
    source = features.flatten(0, 1).to(device=flat.device, dtype=flat.dtype)
    placed = flat.index_copy(0, positions, source)
    return placed.unflatten(0, (batch, tokens))
