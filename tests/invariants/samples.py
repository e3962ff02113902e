"""Conversations of made-up token ids with made-up pictures and clips, as the tensors that a processor would return.

A sample is written as its parts in order: a number is that many text tokens, a list is one pack of frames. So

    make_sample(1, 5, [((3, 4), -1)], 4)

is five text tokens, one picture of 3 x 4 patches, and four text tokens. `collate` lays samples side by side, padded on
the left, exactly as `minicpmv.processing` promises to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

Pack = Sequence[tuple[tuple[int, int], int]]

TEXT_IDS = (2, 600)
PLACEHOLDER = 1
QUERIES = 64


@dataclass(frozen=True)
class Sample:
    """One conversation: token ids, where its slots start, and the rows, shapes, packs and times of its items."""

    ids: Tensor
    starts: list[int]
    pixels: Tensor
    shapes: list[tuple[int, int]]
    packs: list[int]
    times: list[int]


def make_sample(seed: int, *parts: int | Pack) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    ids: list[Tensor] = []
    starts: list[int] = []
    shapes: list[tuple[int, int]] = []
    packs: list[int] = []
    times: list[int] = []
    for part in parts:
        if isinstance(part, int):
            ids.append(torch.randint(*TEXT_IDS, (part,), generator=generator))
            continue
        for shape, time in part:
            shapes.append(shape)
            packs.append(len(starts))
            times.append(time)
        starts.append(sum(len(run) for run in ids))
        ids.append(torch.full((QUERIES,), PLACEHOLDER))
    patches = sum(rows * columns for rows, columns in shapes)
    pixels = torch.rand(patches, 588, generator=generator) * 2 - 1
    return Sample(torch.cat(ids), starts, pixels, shapes, packs, times)


def collate(*samples: Sample) -> dict[str, Tensor]:
    longest = max(len(sample.ids) for sample in samples)
    ids, mask, slots, packs = [], [], [], []
    for row, sample in enumerate(samples):
        padding = longest - len(sample.ids)
        ids.append(torch.cat([torch.zeros(padding, dtype=torch.long), sample.ids]))
        mask.append(torch.cat([torch.zeros(padding, dtype=torch.long), torch.ones(len(sample.ids), dtype=torch.long)]))
        packs += [len(slots) + pack for pack in sample.packs]
        slots += [(row, start + padding) for start in sample.starts]
    inputs = {"input_ids": torch.stack(ids), "attention_mask": torch.stack(mask)}
    if slots:
        inputs |= {
            "pixel_values": torch.cat([sample.pixels for sample in samples]),
            "item_shapes": torch.tensor([shape for sample in samples for shape in sample.shapes]),
            "item_packs": torch.tensor(packs),
            "item_times": torch.tensor([time for sample in samples for time in sample.times]),
            "visual_slots": torch.tensor(slots),
        }
    return inputs


PICTURE = make_sample(1, 5, [((3, 4), -1)], [((4, 2), -1)], [((4, 2), -1)], 6)
"""An overview and two slices."""
CLIPS = make_sample(2, 3, [((2, 3), 0), ((2, 3), 4), ((2, 3), 9)], 2, [((3, 3), 12), ((2, 3), 15)], 9)
"""Two packs of frames; the second mixes two shapes."""
TEXT = make_sample(3, 23)
BOTH = make_sample(4, 2, [((5, 3), -1)], 4, [((2, 2), 1), ((2, 2), 3)], 5)
MIXED = (PICTURE, CLIPS, TEXT, BOTH)


def lively_model(seed: int = 0, preset: str = "toy") -> MiniCPMVForConditionalGeneration:
    """A random model whose answers depend on every token and pixel, unlike one at its initial scale."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MiniCPMVForConditionalGeneration(MiniCPMVConfig.preset(preset)).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight") or ".ln_" in name or "norm1" in name or "norm2" in name:
                parameter.data.uniform_(0.8, 1.2)
            elif parameter.ndim == 1:
                parameter.data.normal_(std=0.1)
            elif "embed" in name or name.endswith("query"):
                parameter.data.normal_()
            else:
                parameter.data.normal_(std=parameter[0].numel() ** -0.5)
    return model
