"""Dense labels of patches: which letters, which colours, which shapes, and the heads that learn them.

    features [patches, d_vision] -> letters of three thirds, colour, kind -> loss

A tower that must say what is in every patch learns from far fewer pictures than one that is only told whether an answer
at the far end of the model was right. The heads are no part of the model; they are kept beside it for later stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn

from minicpmv.data.worlds.shapes import COLOURS, DIGITS, SHAPES
from minicpmv.data.worlds.strips import NUM_CHARACTERS

SLOTS = 3
NUM_COLOURS, NUM_KINDS = 1 + len(COLOURS), 1 + len(SHAPES) + len(DIGITS)
UNKNOWN = -100
BLANKS_KEPT = 0.12
"""Share of empty slots that count in the dense loss; with all of them a tower learns to say "blank"."""


FEW_LABELS = 64
"""With fewer labels of a sort than this in a batch they weigh less, so that three patches cannot outvote the rest."""


THINGS_WEIGHT = 0.15
"""Of the loss on colours and kinds beside that on letters. With equal weights its gradients are five times as long, and
letters are learned four times more slowly (docs/log.md)."""


class PatchReader(nn.Module):
    """The dense heads: what is in a patch, from its features.

    Args:
        vision_width: d_vision.
    """

    def __init__(self, vision_width: int) -> None:
        super().__init__()
        self.letters = nn.Linear(vision_width, SLOTS * NUM_CHARACTERS)
        self.things = nn.Linear(vision_width, NUM_COLOURS + NUM_KINDS)


@dataclass(frozen=True, slots=True)
class PatchLabels:
    """What is in the patches of some pictures.

    Attributes:
        letters: int64 [patches, slots], 0 = blank, -100 = not known.
        things: int64 [patches, 2], colour and kind, 0 = none, -100 = not known.
    """

    letters: NDArray[np.int64]
    things: NDArray[np.int64]

    @classmethod
    def of_text(cls, letters: NDArray[np.int64]) -> "PatchLabels":
        """A picture of text; nobody asks what things it shows."""
        return cls(letters, np.full((len(letters), 2), UNKNOWN))

    @classmethod
    def of_things(cls, things: NDArray[np.int64]) -> "PatchLabels":
        """A picture of things; nobody asks for its letters."""
        return cls(np.full((len(things), SLOTS), UNKNOWN), things)


def label_tensors(labels: Sequence[PatchLabels], generator: Generator) -> dict[str, Tensor]:
    """The labels of all pictures of a batch, with most blanks taken out of the loss."""
    letters = np.concatenate([one.letters for one in labels])
    things = np.concatenate([one.things for one in labels])
    letters = np.where(counted_slots(generator, letters), letters, UNKNOWN)
    things = np.where(counted_slots(generator, things[:, :1]), things, UNKNOWN)
    return {"letter_targets": torch.from_numpy(letters), "thing_targets": torch.from_numpy(things)}


def patch_reading_loss(reader: PatchReader, features: Tensor, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of everything that is known about the patches, and the accuracies on letters and things.

    Args:
        reader: the dense heads.
        features: [patches, d_vision].
        batch: with `letter_targets` and `thing_targets` of the same patches.
    """
    letters, things = batch["letter_targets"], batch["thing_targets"]
    numbers: dict[str, float] = {}
    loss = features.new_zeros((), dtype=torch.float32)
    if bool((letters > 0).any()):
        by_slot = reader.letters(features).float().unflatten(-1, (SLOTS, NUM_CHARACTERS))
        loss = loss + _mean_loss(by_slot.flatten(0, 1), letters.flatten())
        numbers["letters"] = _share_right(by_slot, letters)
    if bool((things > 0).any()):
        colour, kind = reader.things(features).float().split([NUM_COLOURS, NUM_KINDS], dim=-1)
        of_things = _mean_loss(colour, things[:, 0]) + _mean_loss(kind, things[:, 1])
        loss = loss + THINGS_WEIGHT * of_things
        numbers |= {"colours": _share_right(colour, things[:, 0]), "kinds": _share_right(kind, things[:, 1])}
    return loss, {"patch_loss": loss.item(), **numbers}


def _mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the known labels."""
    total = F.cross_entropy(logits, targets, ignore_index=UNKNOWN, reduction="sum")
    return total / (targets != UNKNOWN).sum().clamp(min=FEW_LABELS)


def _share_right(logits: Tensor, targets: Tensor) -> float:
    """Accuracy where there is something to be seen."""
    present = targets > 0
    return (logits.argmax(-1) == targets)[present].float().mean().item()


def counted_slots(generator: Generator, targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """All letters, a few of the blanks, and nothing that is not known."""
    kept: NDArray[np.bool_] = (targets > 0) | ((targets == 0) & (generator.random(targets.shape) < BLANKS_KEPT))
    return kept
