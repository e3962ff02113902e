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

UNASKED = -2
"""In the place of a letter: nothing lies there, and nobody asks; it still belongs to what the slot says."""

_SAME_ROW_PX = 9
"""Centres of two letters of one row lie within this height; rows of the smallest print are further apart."""

TOKEN_RMS = 0.05
"""Root mean square of a trained nano's word embeddings; measured, see docs/log.md."""

MOST_DOUBTS = 0.4
"""Share of the letters that are in doubt in the worst picture. Half of the doubts are wrong."""

BLANKS_DOUBTED = 0.1
"""How often an empty place is in doubt, beside a letter."""

NEARNESS = 2.0
"""Weight of the distance from the wanted codes beside the cross-entropy."""

SHARPNESS = 8.0
"""Logit of a feature that is exactly the wanted code; with 96 classes, 97 % of the probability."""


class SlotCodes(nn.Module):
    """A vector for every letter in every place of a slot.

    Those of one letter in several places have nothing in common at first. Where they were half alike, the order of the
    letters of a token was the first thing to drown in the doubts of the eyes (docs/log.md).

    Args:
        width: d_llm.
        rms: loudness of a feature, that of word embeddings.
    """

    def __init__(self, width: int, rms: float) -> None:
        super().__init__()
        self.codes = nn.Embedding(PLACES * NUM_CHARACTERS, width)
        nn.init.normal_(self.codes.weight, std=rms * THIRDS**-0.5)

    def forward(self, letters: Tensor, others: Tensor | None = None, shares: Tensor | None = None) -> Tensor:
        """What is said about letters; what is unclear is left empty.

        Args:
            letters: int64 [packs, queries, places].
            others: likewise, what each might be instead; None if nothing is in doubt.
            shares: float [packs, queries, places], how far each is believed to be what it is.

        Returns:
            [packs, queries, d_llm].
        """
        features = self._codes_of(letters)
        if others is not None and shares is not None:
            features = features * shares[..., None] + self._codes_of(others) * (1 - shares[..., None])
        return features.sum(-2)

    def _codes_of(self, letters: Tensor) -> Tensor:
        offsets = torch.arange(PLACES, device=letters.device) * NUM_CHARACTERS
        codes: Tensor = self.codes(letters.clamp(min=0) + offsets)
        return codes


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


def doubted(letters: NDArray[np.int64], generator: Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Doubts as eyes have them: a letter might be another one, or lie in the next place, or not be there at all.

    A language model that was told the truth only, and with certainty, does not survive its first misread letter.

    Args:
        letters: int64 [queries, places] of one picture.
        generator: draws how bad the picture is, and every doubt.

    Returns:
        What each might be instead, int64 [queries, places], and how far it is believed to be what it is, float32.
    """
    flat = letters.clip(min=0).ravel()
    draws = generator.random((3, flat.size))
    doubt = draws[0] < generator.random() * MOST_DOUBTS
    doubt &= (flat > 0) | (draws[1] < BLANKS_DOUBTED)
    others = np.where(doubt, generator.integers(0, NUM_CHARACTERS, flat.size), flat)
    shares = np.where(doubt, draws[2], 1.0)
    # Some of the letters in doubt lie in the next place instead, if it is free.
    free = np.append(flat[1:] == 0, False) & (flat > 0) & doubt & (draws[1] < 0.5)
    at = np.flatnonzero(free)
    others[at], others[at + 1] = 0, flat[at]
    shares[at + 1] = shares[at]
    return others.reshape(letters.shape), shares.reshape(letters.shape).astype(np.float32)


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


def slot_distances(features: Tensor, codes: Tensor, letters: Tensor) -> Tensor:
    """How far features are from what they should say, squared; 1 is the length of a whole set of codes.

    Args:
        features: [packs, queries, d_llm].
        codes: [places * letters, d_llm].
        letters: int64 [packs, queries, places].

    Returns:
        float32 [packs, queries]; 0 where anything is not known or unclear.
    """
    table = codes.float()
    known = ((letters >= 0) | (letters == UNASKED)).all(-1)
    offsets = torch.arange(PLACES, device=letters.device) * NUM_CHARACTERS
    wanted = F.embedding(letters.clamp(min=0) + offsets, table).sum(-2)
    scale = PLACES * table.detach().pow(2).sum(-1).mean()
    return (features.float() - wanted).pow(2).sum(-1) / scale * known


def slot_loss(features: Tensor, codes: Tensor, letters: Tensor, counted: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Which letters a feature is closest to, and how close: cross-entropy over the codes of each place, and distance.

    Without the distance, features are closer to the right codes than to others and far from all of them, in a language
    that the language model has never heard: it then forgets how to read.

    Args:
        features: [packs, queries, d_llm] from the resampler.
        codes: [places * letters, d_llm], the table of `SlotCodes`; it learns nothing here.
        letters: int64 [packs, queries, places].
        counted: bool like `letters`, which of them enter the loss.

    Returns:
        The loss; and by name the loss, the distance in it, and the share of letters that are right.
    """
    by_place = slot_scores(features, codes.detach())
    distance = slot_distances(features, codes.detach(), letters)[counted.any(-1)].mean()
    loss = F.cross_entropy(by_place[counted], letters[counted]) + NEARNESS * distance
    present = letters > 0
    right = (by_place.argmax(-1) == letters)[present].float().mean().item()
    return loss, {"slot_loss": loss.item(), "slot_distance": distance.item(), "slot_letters": right}
