"""How much does a model's picture of a scene say about places?

    python bench/places.py nano runs/nano_places/model

Shares of variance (R squared, on scenes that the fit has not seen) that a linear map finds: of a patch's row and column
in the tower's features, and of the rows and columns that the heads of a query have looked at in its token. Only what is
in the tokens can reach the language model: the resampler adds positions to its keys and not to its values.
"""

from __future__ import annotations

import argparse
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from minicpmv.data.rows import collate_rows
from minicpmv.data.worlds.scenes import render_scene
from minicpmv.generation.loading import Loaded, load
from minicpmv.messages import ImagePart, Message, TextPart
from minicpmv.training.dense import watching
from minicpmv.training.places import places_of_patches

Pairs = tuple[NDArray[np.float64], NDArray[np.float64]]
RIDGE = 1e-3
"""Of the mean variance of an input."""


@torch.inference_mode()
def looked(loaded: Loaded, samples: int) -> tuple[Pairs, Pairs]:
    """Features with their places, and tokens with what their queries looked at."""
    features, places, tokens, looked_at = [], [], [], []
    for seed in range(samples):
        scene = render_scene(np.random.default_rng([17, seed]), task="place")
        turn = Message("user", (ImagePart(Image.fromarray(scene.image)), TextPart(scene.question)))
        encoded = loaded.processor.encode_conversation([turn, Message("assistant", (TextPart(scene.answer),))])
        inputs = collate_rows([[encoded]], len(encoded.ids), pad_id=0)
        del inputs["labels"], inputs["num_targets"]
        with watching(loaded.model) as seen:
            loaded.model.base_model(**inputs)
        features += seen.features
        places.append(places_of_patches(list(chain.from_iterable(seen.shapes)), torch.device("cpu")))
        tokens += [one.flatten(0, 1) for one in seen.tokens]
        looked_at += [one.flatten(0, 1).flatten(1) for one in seen.looked_at]
    told = [torch.cat(parts).double().numpy() for parts in (features, places, tokens, looked_at)]
    return (told[0], told[1]), (told[2], told[3])


def explained(pairs: Pairs) -> NDArray[np.float64]:
    """R squared of every output of a ridge regression, fitted to two thirds and measured on the rest."""
    inputs = np.column_stack([pairs[0], np.ones(len(pairs[0]))])
    outputs, cut = pairs[1], 2 * len(inputs) // 3
    gram = inputs[:cut].T @ inputs[:cut]
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    told = inputs[cut:] @ np.linalg.solve(gram, inputs[:cut].T @ outputs[:cut])
    return 1 - ((told - outputs[cut:]) ** 2).mean(0) / outputs[cut:].var(0)


def main() -> None:
    """Ask every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--samples", type=int, default=120, help="scenes")
    given = parser.parse_args()
    for name in given.models:
        of_patches, of_tokens = looked(load(name, dtype="float32", device="cpu"), given.samples)
        row, column = explained(of_patches)
        heads = explained(of_tokens).reshape(-1, 2).mean(0)
        print(
            f"{name}: of a patch, row {row:.0%} and column {column:.0%}; "
            f"of a look, row {heads[0]:.0%} and column {heads[1]:.0%}"
        )


if __name__ == "__main__":
    main()
