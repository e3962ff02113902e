"""A prompt as the engine needs it: ids, pictures by pack, and what tells whether two prompts begin alike.

    processor's tensors of one conversation -> EnginePrompt(ids, visuals, slots, digests) -> content [tokens]

The digest of a pack stands for everything the tower and the resampler see of it: pixels, shapes and times. So a picture
is encoded once, however often it is asked about, and two different pictures never share a block of KV memory, although
their placeholders have the same ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minicpmv.errors import ShapeContractError
from minicpmv.model.visual_inputs import VisualInputs

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class EnginePrompt:
    """One conversation, ready to be read.

    Attributes:
        ids: of all tokens, placeholders included.
        packs: slices, and frames that belong together, as the tower sees them.
        slots: first token of each pack.
        slot_length: tokens of a pack.
        digests: of each pack.
    """

    ids: tuple[int, ...]
    packs: tuple[VisualInputs, ...]
    slots: tuple[int, ...]
    slot_length: int
    digests: tuple[bytes, ...]

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any], slot_length: int) -> "EnginePrompt":
        """From what the processor returned for one conversation.

        Args:
            inputs: tensors, batch size 1, without padding.
            slot_length: tokens of a pack, the model's `query_num`.

        Raises:
            ShapeContractError: more than one conversation, or visual tensors that contradict each other.
        """
        ids = inputs["input_ids"]
        if ids.shape[0] != 1:
            raise ShapeContractError(
                f"The engine got {ids.shape[0]} conversations in one prompt.", remedy="Submit each by itself."
            )
        flat = tuple(int(token) for token in ids[0].tolist())
        if inputs.get("pixel_values") is None:
            return cls(flat, (), (), slot_length, ())
        visuals = VisualInputs.from_tensors(
            inputs["pixel_values"], inputs["item_shapes"], inputs.get("item_packs"), inputs.get("item_times")
        )
        slots = tuple(int(column) for _row, column in inputs["visual_slots"].tolist())
        if len(slots) != visuals.num_packs or any(slot + slot_length > len(flat) for slot in slots):
            raise ShapeContractError(
                f"{len(slots)} visual slots for {visuals.num_packs} packs in a prompt of {len(flat)} tokens.",
                remedy="Pass everything that the processor returned.",
            )
        packs = tuple(visuals.split())
        return cls(flat, packs, slots, slot_length, tuple(map(_digest, packs)))

    @property
    def num_visual_tokens(self) -> int:
        """Tokens that stand for pictures and clips."""
        return len(self.slots) * self.slot_length

    def content(self) -> NDArray[np.int64]:
        """What the model reads at every token, int64 [tokens]: the id, or a number for this place in this pack.

        Ids are not negative and these numbers are, so they cannot be mistaken for each other.
        """
        content = np.array(self.ids, dtype=np.int64)
        for slot, digest in zip(self.slots, self.digests, strict=True):
            first = int.from_bytes(digest[:8], "little") >> 1  # 63 bits
            places = (np.arange(self.slot_length, dtype=np.uint64) + np.uint64(first)) & np.uint64(2**63 - 1)
            content[slot : slot + self.slot_length] = -1 - places.astype(np.int64)
        return content


def _digest(pack: VisualInputs) -> bytes:
    """What tells packs apart."""
    told = blake2b(repr((pack.shapes, pack.times.tolist())).encode(), digest_size=_DIGEST_BYTES)
    told.update(pack.pixel_values.cpu().contiguous().view(torch.uint8).numpy().data)
    return told.digest()
