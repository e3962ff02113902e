"""How many letters the tower and the resampler hand on: the upper bound of what the language model can read.

    python bench/letters.py runs/nano_towers/model --heads runs/nano_towers

Pictures are drawn here and seen by no stage: lines, paragraphs, and sheets full of text, in faces of the training and
in the family that is held out. The heads were grown with the towers; a model of a later stage can be asked as well, and
loses where it has moved away from them. A letter is right when the head names it at the place where it stands.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from minicpmv.data.worlds.fonts import find_faces
from minicpmv.data.worlds.strips import GAP
from minicpmv.evaluation.intervals import share
from minicpmv.generation.loading import load
from minicpmv.processing.patches import patchify_all
from minicpmv.training.dense import DenseHeads, load_heads
from minicpmv.training.towers.objectives import READABLE, LabelledPicture
from minicpmv.training.towers.patch_reading import SLOTS
from minicpmv.training.towers.reading_slots import slot_scores

WORLDS = ("lines", "paragraphs", "sheets")
BATCH = 32


def is_letter(classes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which places hold a letter: neither nothing nor a gap between words."""
    return (classes > 0) & (classes != GAP)


@torch.inference_mode()
def right_letters(model: torch.nn.Module, heads: DenseHeads, pictures: list[LabelledPicture]) -> dict[str, np.ndarray]:
    """Right and asked letters, [2], of the tower and of the resampler."""
    rows, sizes = patchify_all([picture.image for picture in pictures])
    shapes = [tuple(shape) for shape in sizes.tolist()]
    features = model.vpm(torch.from_numpy(rows), shapes)
    no_times = torch.full((len(shapes),), -1)
    attention = model.config.vision_config._attn_implementation
    tokens = model.resampler(features, shapes, range(len(shapes)), no_times, attention)
    named = {
        "tower": heads.reader.letters(features).unflatten(-1, (SLOTS, -1)).argmax(-1).numpy(),
        "resampler": slot_scores(tokens, heads.codes.codes.weight).argmax(-1).numpy(),
    }
    asked = {
        "tower": np.concatenate([picture.labels.letters for picture in pictures]),
        "resampler": np.stack([picture.letters for picture in pictures if picture.letters is not None]),
    }
    return {
        part: np.array([int(((named[part] == letters) & is_letter(letters)).sum()), int(is_letter(letters).sum())])
        for part, letters in asked.items()
    }


def main() -> int:
    """Ask, print, write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model")
    parser.add_argument("--heads", type=Path, required=True, help="run of the towers, where the heads lie")
    parser.add_argument("--pictures", type=int, default=160, help="of each kind")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model = load(arguments.model, device="cpu", dtype="float32").model
    heads = load_heads(arguments.heads, model.config.vision_config.hidden_size, model.config.text_config.hidden_size)
    figures = []
    print(f"{'pictures':<12}{'faces':<12}{'part':<12}letters right, %")
    for world in WORLDS:
        for split in ("train", "held_out"):
            faces = find_faces(split, system=False)
            generator = np.random.default_rng([arguments.seed, 0])
            total = {"tower": np.zeros(2, int), "resampler": np.zeros(2, int)}
            for start in range(0, arguments.pictures, BATCH):
                count = min(BATCH, arguments.pictures - start)
                drawn = READABLE[world](generator, faces, count, model.resampler.query.shape[0])
                for part, counts in right_letters(model, heads, drawn).items():
                    total[part] += counts
            for part, (right, asked) in total.items():
                found = share(int(right), int(asked))
                value, low, high = (100 * number for number in (found.value, found.low, found.high))
                print(f"{world:<12}{split:<12}{part:<12}{value:5.1f} ({low:.1f} to {high:.1f}) of {asked:,}")
                row = {"pictures": world, "faces": split, "part": part, "right": int(right), "asked": int(asked)}
                figures.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
