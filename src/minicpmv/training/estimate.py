"""What a step costs: operations, bytes and hours, from numbers alone.

    counts of a step + ModelNumbers + who learns -> step_flops ; + processes -> Memory, hours

Operations count matrix products as `processing.budget` does. A part that learns costs its forward pass three times: the
pass itself, the gradient of its inputs and that of its weights. A frozen part saves the weights' share, and so does one
with adapters, nearly; a frozen tower saves everything behind it. Recomputed activations do not count as useful work.
"""

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from minicpmv.processing.budget import ModelNumbers
from minicpmv.training.recipe import TrainingRecipe
from minicpmv.training.token_loss import TARGETS_PER_CHUNK

BYTES_OF_4_BITS = 0.516
"""Of a weight with its share of the scales, themselves in 8 bits. Source: arXiv 2305.14314, section 3."""


@dataclass(frozen=True, slots=True)
class Products:
    """Operations of a forward pass through one part."""

    weights: int
    """Products with weights: a frozen part needs no gradient of these."""

    attention: int
    """Products of activations with each other: both sides need a gradient, frozen or not."""


def forward_flops(numbers: ModelNumbers, counts: Mapping[str, int]) -> dict[str, Products]:
    """Operations of one pass over everything, by part.

    Args:
        numbers: the model.
        counts: `tokens`, `token_pairs` (sum of squared lengths of samples), `targets`, `patches`, `patch_pairs` (sum of
            squared patches of items) and `packs`.
    """
    n, patches = numbers, counts["patches"]
    inner, kv = n.heads * n.head_dim, n.kv_heads * n.head_dim
    layer = 2 * counts["tokens"] * (2 * n.width * inner + 2 * n.width * kv + 3 * n.width * n.mlp)
    d = n.vision_width
    tower = 2 * patches * (4 * d * d + 2 * d * n.vision_mlp)
    read = 2 * patches * (d * n.width + 2 * n.width**2) + counts["packs"] * 6 * n.num_queries * n.width**2
    return {
        "llm": Products(
            n.layers * layer + 2 * counts["targets"] * n.width * n.vocabulary,
            n.layers * 4 * counts["token_pairs"] * inner,
        ),
        "vpm": Products(
            2 * patches * 3 * n.patch**2 * d + n.vision_layers * tower, n.vision_layers * 4 * counts["patch_pairs"] * d
        ),
        "resampler": Products(read, 4 * patches * n.num_queries * n.width),
    }


def step_flops(
    numbers: ModelNumbers,
    counts: Mapping[str, int],
    learning: Collection[str],
    *,
    adapted: Collection[str] = (),
    asleep: Collection[str] = (),
) -> int:
    """Operations of a step, forward and backward.

    Args:
        numbers: the model.
        counts: as for `forward_flops`.
        learning: parts that learn.
        adapted: of them, those that learn through adapters alone.
        asleep: parts that are not called at all.
    """
    total = 0
    for part, products in forward_flops(numbers, counts).items():
        if part in asleep:
            continue
        behind = {"llm": {"llm", "resampler", "vpm"}, "resampler": {"resampler", "vpm"}, "vpm": {"vpm"}}[part]
        flows = bool(behind & set(learning))
        total += products.weights * (1 + flows + (part in learning and part not in adapted))
        total += products.attention * (1 + 2 * flows)
    return total


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that one process needs."""

    weights: int
    gradients: int
    moments: int
    activations: int

    gathered: int = 0
    """The whole model, which every process of a sharded run holds while a sheet of samples is made, when there are no
    activations."""

    @property
    def total(self) -> int:
        """At the fullest moment."""
        return self.weights + self.gradients + self.moments + max(self.activations, self.gathered)


def memory_of(
    numbers: ModelNumbers, recipe: TrainingRecipe, *, learning: int, tokens: int, patches: int, processes: int
) -> Memory:
    """About how many bytes a process needs at the fullest moment of a step.

    Weights that learn, their gradients and Adam's two moments are float32. Activations: what every layer keeps for its
    backward pass, or with recomputation its input alone and one layer in full; and a chunk of logits with its gradient.

    Args:
        numbers: the model.
        recipe: whose precision, sharding and recomputation count.
        learning: parameters that learn.
        tokens: in one pass, rows together.
        patches: in one pass.
        processes: that train together.
    """
    n, is_sharded = numbers, recipe.sharding == "full"
    number = 4 if recipe.precision == "fp32" else 2
    frozen = 4 if is_sharded else number
    share = processes if is_sharded else 1
    small = n.layers * (
        2 * n.width * n.heads * n.head_dim + 2 * n.width * n.kv_heads * n.head_dim + 3 * n.width * n.mlp
    )
    saved = small * (frozen - BYTES_OF_4_BITS) if recipe.lora is not None and recipe.lora.bits == 4 else 0
    layers = number * n.parameters // max(n.layers, 1) * 2 if is_sharded else 0  # two are whole at a time
    return Memory(
        weights=int(4 * learning + frozen * max(n.parameters - learning, 0) - saved) // share + layers,
        gradients=4 * learning // share,
        moments=8 * learning // share,
        activations=activations_of(n, tokens=tokens, patches=patches, number=number, recompute=recipe.recompute),
        gathered=number * n.parameters if is_sharded and recipe.sheet_samples else 0,
    )


def activations_of(n: ModelNumbers, *, tokens: int, patches: int, number: int, recompute: bool) -> int:
    """Bytes that every layer keeps for its backward pass, and a chunk of logits with its gradient.

    Args:
        n: the model.
        tokens: in one pass.
        patches: in one pass.
        number: bytes of one.
        recompute: whether a layer keeps its input alone, and one layer at a time everything.
    """
    language = 6 * n.width + 2 * n.kv_heads * n.head_dim + 3 * n.mlp
    vision = 8 * n.vision_width + 2 * n.vision_mlp
    if recompute:
        kept = tokens * (n.layers * n.width + language) + patches * (n.vision_layers * n.vision_width + vision)
    else:
        kept = tokens * n.layers * language + patches * n.vision_layers * vision
    return number * kept + 3 * 4 * min(tokens, TARGETS_PER_CHUNK) * n.vocabulary


def hours_of(flops: int, *, processes: int, peak: float, utilisation: float) -> float:
    """Time for so many operations.

    Args:
        flops: in all.
        processes: that train together.
        peak: operations per second that one of them could do.
        utilisation: share of the peak that is reached.
    """
    return flops / (processes * peak * utilisation) / 3600


def measured_peak(device: torch.device, dtype: torch.dtype, *, seconds: float = 0.2) -> float:
    """Operations per second of a large matrix product here and now: what utilisation is a share of.

    Args:
        device: where.
        dtype: of the factors.
        seconds: how long to measure.
    """
    side = 1024 if device.type == "cpu" else 8192
    factor = torch.ones(side, side, device=device, dtype=dtype)
    factor @ factor  # the first product of its kind also prepares its kernel
    best, ends = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < ends or best == math.inf:
        _wait(device)
        began = time.perf_counter()
        factor @ factor
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
