"""Letters in slots: what the resampler should say about printed text, and how a language model learns to listen.

    character boxes -> which letters lie where each query looks -> codes -> features [queries, d_llm]

A fresh query looks at two patches side by side, each of which has three places for letters: six places in reading
order, with codes of their own.

A blank resampler and a blank language model have to find a common language, and from the answers alone that takes
long: each sees only the other's noise. So the language is fixed first. `SlotCodes` holds one vector per letter and
place; the language model learns to read *made-up* features, sums of such vectors, laid out as the
resampler's queries are. Then the resampler has a target of its own: the sum for the letters where its query looks.

Source: ours; the idea that a small model should read symbols before pixels is measured in docs/log.md.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn

from minicpmv.data.worlds.glyphs import CharacterBox
from minicpmv.data.worlds.strips import NUM_CHARACTERS, class_of
from minicpmv.training.towers.initialisation import looking_places
from minicpmv.training.towers.patch_reading import counted_slots

THIRDS = 3
"""Places for letters in the width of a patch."""

PLACES = 2 * THIRDS
"""Of a slot: the thirds of the left patch, then those of the right one."""

UNCLEAR = -1
"""In the place of a letter: letters of two rows of text share the place, and nobody says which one is meant."""

_SAME_ROW_PX = 9
"""Centres of two letters of one row lie within this height; rows of the smallest print are further apart."""

TOKEN_RMS = 0.05
"""Root mean square of a trained nano's word embeddings; measured, see docs/log.md."""

SHARPNESS = 8.0
"""Logit of a feature that is exactly the wanted code; with 96 classes, 97 % of the probability."""


class SlotCodes(nn.Module):
    """A vector for every letter in every place of a slot.

    Args:
        width: d_llm.
        rms: loudness of a feature, that of word embeddings.
    """

    def __init__(self, width: int, rms: float) -> None:
        super().__init__()
        self.codes = nn.Embedding(PLACES * NUM_CHARACTERS, width)
        nn.init.normal_(self.codes.weight, std=rms * THIRDS**-0.5)
        # A letter sounds half alike in all places at first: which letters there are is easier to hear than where.
        first, *others = self.codes.weight.data.chunk(PLACES)
        for other in others:
            other.add_(first).mul_(0.5**0.5)

    def forward(self, letters: Tensor) -> Tensor:
        """int64 [packs, queries, places] to features [packs, queries, d_llm]; what is unclear is left empty."""
        offsets = torch.arange(PLACES, device=letters.device) * NUM_CHARACTERS
        features: Tensor = self.codes(letters.clamp(min=0) + offsets).sum(-2)
        return features


def letters_in_slots(
    characters: Sequence[CharacterBox], height: int, width: int, num_queries: int, *, patch: int = 14
) -> NDArray[np.int64]:
    """Which letter lies in each place where each query begins to look.

    Args:
        characters: boxes in px of the picture as the tower sees it; those with a centre outside are ignored.
        height: of that picture, in px.
        width: likewise.
        num_queries: queries of the resampler.
        patch: side of a patch, in px.

    Returns:
        int64 [queries, places]; 0 = none, `UNCLEAR`, else `strips.class_of`. A letter or gap belongs where its centre
        lies; of two of one row of text in the same place the later one stays, and any letter over a gap.
    """
    pairs = reversed(list(enumerate(looking_places(num_queries))))
    owner = {patch: (index, half) for index, pair in pairs for half, patch in enumerate(pair)}
    letters = np.zeros((num_queries, PLACES), dtype=np.int64)
    heights: dict[tuple[int, int], float] = {}
    for char, x0, y0, x1, y1 in sorted(characters, key=lambda box: box.char != " "):
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        if not (0 <= x < width and 0 <= y < height):
            continue
        slot = owner.get((int(y // patch), int(x // patch)))
        if slot is None:
            continue
        place = slot[0], slot[1] * THIRDS + int(x % patch * THIRDS / patch)
        is_clear = abs(heights.setdefault(place, y) - y) <= _SAME_ROW_PX
        letters[place] = class_of(char) if is_clear and letters[place] != UNCLEAR else UNCLEAR
    return letters


def slot_tensors(letters: Sequence[NDArray[np.int64]], packs: Sequence[int], generator: Generator) -> dict[str, Tensor]:
    """What the resampler should say about some of the pictures of a batch.

    Args:
        letters: int64 [queries, places] of each of them.
        packs: which packs of the batch they are.
        generator: decides which empty slots count.
    """
    stacked = np.stack(letters)
    counted = counted_slots(generator, stacked)
    tensors = {"lettered": np.asarray(packs), "letters": stacked, "counted_letters": counted}
    return {name: torch.from_numpy(array) for name, array in tensors.items()}


def slot_scores(features: Tensor, codes: Tensor) -> Tensor:
    """How close features are to each letter in each place.

    Args:
        features: [packs, queries, d_llm].
        codes: [places * letters, d_llm].

    Returns:
        Logits float32 [packs, queries, places, letters]: `SHARPNESS` for the very code, about zero for another one.
    """
    table = codes.float()
    scores = features.float() @ table.T * (SHARPNESS / table.pow(2).sum(-1).mean())
    return scores.unflatten(-1, (PLACES, NUM_CHARACTERS))


def slot_loss(features: Tensor, codes: Tensor, letters: Tensor, counted: Tensor) -> tuple[Tensor, float]:
    """Which letters a feature is closest to: cross-entropy over the codes of each place.

    A squared distance was tried first: a tower that was trained to classify gives logits, and no linear map of logits
    is near a code. Being closer to the right code than to the others is what the language model needs, and can be had.

    Args:
        features: [packs, queries, d_llm] from the resampler.
        codes: [places * letters, d_llm], the table of `SlotCodes`; it learns nothing here.
        letters: int64 [packs, queries, places].
        counted: bool like `letters`, which of them enter the loss.

    Returns:
        The loss, and the share of letters that are right.
    """
    by_place = slot_scores(features, codes.detach())
    loss = F.cross_entropy(by_place[counted], letters[counted])
    present = letters > 0
    right = (by_place.argmax(-1) == letters)[present].float().mean().item()
    return loss, right
