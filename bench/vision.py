"""What does it bring to leave out the padding? The vision tower on the slices of a mixed batch.

Peer: the padded and masked way of the official code, written here after its published description: every item
zero-padded to the longest of the batch, a convolution over the strip of patches, chunks of 16 items
(`vision_batch_size`), and eager attention over all positions with an additive mask and a float32 softmax. It runs with
our modules' own weights.

Fairness: same weights, same patches, same number type, same threads, rounds in turn. The outputs of the peer, with the
padding taken out, must equal ours in the same run, or the script stops. The sizes are those of the released tower
(width 1152, 16 heads of 72, MLP 4304) with fewer layers; all layers are alike, so the ratio is the tower's.

Goal: at least 1.5 times faster than the peer in float32. Beside it: bfloat16, our own eager path, and the share of the
machine's matrix-product peak (measured in the same run, at the shape of the MLP) that our useful operations reach.
Useful are those on real patches; the peer's work on padding counts as nothing.

What to expect: officially cut items all have nearly the same area, so little of the gain is padding itself (its share
is printed). The mask that padding brings is what makes the peer write out all scores, and attention without a mask is
what a fused kernel does best.
"""

from __future__ import annotations

import sys
import time

import torch
import torch.nn.functional as F
from measure import Report, argument_parser, interleaved
from torch import Tensor

from minicpmv.model.configuration import MiniCPMVVisionConfig
from minicpmv.model.positions import bucket_ids
from minicpmv.model.vision import MiniCPMVVisionModel, VisionLayer
from minicpmv.processing.slicing import Size, plan_slices

PICTURES = (Size(1280, 720), Size(800, 1200), Size(300, 1400), Size(400, 300))
"""A screen, a page, a strip of a chat, a thumbnail."""
VISION_BATCH_SIZE = 16
TOLERANCE = {torch.float32: 5e-4, torch.bfloat16: 0.25}
"""Largest difference of outputs, which are of size 1 to 5; in bfloat16 both ways round at other places."""


def item_shapes(pictures: tuple[Size, ...], resolution: int) -> list[tuple[int, int]]:
    """(rows, columns) of patches of every overview and slice, by the official plan."""
    plans = [plan_slices(size, resolution=resolution) for size in pictures]
    return [(item.height // 14, item.width // 14) for plan in plans for item in plan.items]


def num_flops(config: MiniCPMVVisionConfig, num_layers: int, shapes: list[tuple[int, int]]) -> int:
    """Multiplications and additions on real patches."""
    width, mlp = config.hidden_size, config.intermediate_size
    areas = [rows * columns for rows, columns in shapes]
    linear = 2 * sum(areas) * (4 * width**2 + 2 * width * mlp)
    attention = 4 * width * sum(area**2 for area in areas)
    return num_layers * (linear + attention) + 2 * sum(areas) * 588 * width


class PaddedTower:
    """The official way of running the tower, on the weights of ours."""

    def __init__(self, tower: MiniCPMVVisionModel) -> None:
        self.tower = tower

    def __call__(self, strips: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        """Padded strips to padded features, chunk by chunk.

        Args:
            strips: [items, 3, 14, 14 * longest], zero where an item has no patch.
            shapes: (rows, columns) of each item.

        Returns:
            [items, longest, d_vision].
        """
        pieces = [
            self._chunk(strips[start : start + VISION_BATCH_SIZE], shapes[start : start + VISION_BATCH_SIZE])
            for start in range(0, len(shapes), VISION_BATCH_SIZE)
        ]
        return torch.cat(pieces)

    def _chunk(self, strips: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        longest = strips.shape[-1] // 14
        areas = torch.tensor([rows * columns for rows, columns in shapes])
        real = torch.arange(longest) < areas[:, None]
        ids = torch.zeros(len(shapes), longest, dtype=torch.long)
        for row, (rows, columns) in enumerate(shapes):
            across = torch.tensor(bucket_ids(columns))
            ids[row, : rows * columns] = (torch.tensor(bucket_ids(rows))[:, None] * 70 + across).flatten()
        embeddings = self.tower.embeddings
        stored = embeddings.patch_embedding
        patches = F.conv2d(strips.to(stored.weight.dtype), stored.weight, stored.bias, stride=14)
        hidden = patches.flatten(2).transpose(1, 2) + embeddings.position_embedding(ids)
        mask = None
        if not bool(real.all()):
            lowest = torch.finfo(hidden.dtype).min
            mask = torch.zeros(real.shape, dtype=hidden.dtype).masked_fill(~real, lowest)
            mask = mask[:, None, None, :].expand(-1, 1, longest, -1)
        for layer in self.tower.encoder.layers:
            hidden = self._layer(layer, hidden, mask)
        return self.tower.post_layernorm(hidden)

    def _layer(self, layer: VisionLayer, hidden: Tensor, mask: Tensor | None) -> Tensor:
        attention = layer.self_attn
        normed = layer.layer_norm1(hidden)
        queries, keys, values = (
            projection(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        scores = torch.matmul(queries, keys.transpose(2, 3)) * attention.scale
        if mask is not None:
            scores = scores + mask
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(queries.dtype)
        mixed = torch.matmul(weights, values).transpose(1, 2).flatten(-2)
        hidden = hidden + attention.out_proj(mixed)
        return hidden + layer.mlp(layer.layer_norm2(hidden))


def padded_strips(rows: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
    """Patch rows as the official processor stores them, padded to the longest item."""
    areas = [r * c for r, c in shapes]
    strips = torch.zeros(len(shapes), 3, 14, 14 * max(areas))
    for item, part in zip(strips, rows.split(areas), strict=True):
        item[..., : 14 * len(part)] = part.view(-1, 3, 14, 14).permute(1, 2, 0, 3).flatten(2)
    return strips


def peak_flops(dtype: torch.dtype, config: MiniCPMVVisionConfig, *, small: bool) -> float:
    """Operations per second of the MLP's matrix product, best of several."""
    a = torch.randn(256 if small else 4096, config.hidden_size, dtype=dtype)
    b = torch.randn(config.intermediate_size, config.hidden_size, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        F.linear(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * a.shape[0] * a.shape[1] * b.shape[0] / best


def check(ours: Tensor, padded: Tensor, shapes: list[tuple[int, int]]) -> float:
    """Largest difference on real patches; stops the script where the two ways do not agree."""
    real = torch.cat([item[: r * c] for item, (r, c) in zip(padded, shapes, strict=True)])
    difference = (ours - real).abs().max().item()
    if difference > TOLERANCE[ours.dtype]:
        raise SystemExit(f"The two ways differ by {difference} in {ours.dtype}; nothing was measured.")
    return difference


@torch.no_grad()
def race(report: Report, dtype: torch.dtype, num_layers: int, rounds: int, *, small: bool) -> None:
    """Check that both agree, then time them in one number type."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128} if small else {}
    config = MiniCPMVVisionConfig(num_hidden_layers=num_layers, **sizes)
    torch.manual_seed(0)
    tower = MiniCPMVVisionModel(config).to(dtype).eval()
    shapes = item_shapes(PICTURES, 112 if small else 448)
    areas = [rows * columns for rows, columns in shapes]
    rows = torch.rand(sum(areas), 588) * 2 - 1
    strips, padded = padded_strips(rows, shapes), PaddedTower(tower)

    def run(implementation: str) -> Tensor:
        tower.config._attn_implementation = implementation
        return tower(rows, shapes)

    short = str(dtype).removeprefix("torch.")
    report.figure(f"{short}: largest difference to the peer", check(run("sdpa"), padded(strips, shapes), shapes))
    peak = peak_flops(dtype, config, small=small)
    names = ("padded, masked", "ragged, eager", "ragged, sdpa")
    times = interleaved(
        {
            names[0]: lambda: padded(strips, shapes),
            names[1]: lambda: run("eager"),
            names[2]: lambda: run("sdpa"),
        },
        rounds=rounds,
        warmups=0,  # the comparison above has already run both
    )
    peak = max(peak, peak_flops(dtype, config, small=small))
    flops = num_flops(config, num_layers, shapes)
    report.figure(f"{short}: items", len(shapes))
    report.figure(f"{short}: positions that are padding", 1 - sum(areas) / (len(areas) * max(areas)))
    report.figure(f"{short}: useful work", flops / 1e9, "GFLOP")
    report.figure(f"{short}: matrix-product peak", peak / 1e9, "GFLOP/s")
    for name in names:
        speed = flops / times[name].best
        report.figure(f"{short}: {name}", speed / 1e9, "GFLOP/s")
        report.figure(f"{short}: {name}, share of peak", speed / peak)
    report.race(f"{short}: padded / ragged eager", times, names[1], names[0], at_least=1.0)
    report.race(f"{short}: padded / ragged", times, names[2], names[0], at_least=1.5)


def main() -> None:
    """Both number types, or the one that was asked for."""
    parser = argument_parser(__doc__)
    parser.add_argument("--layers", type=int, default=3, help="blocks of the tower")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="one number type of the two")
    arguments = parser.parse_args()
    report = Report("vision: ragged against padded and masked, released width")
    for name in [arguments.dtype] if arguments.dtype else ["float32", "bfloat16"]:
        race(report, getattr(torch, name), arguments.layers, arguments.rounds, small=arguments.small)
    report.write(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
