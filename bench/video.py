"""What does a clip cost, by how densely it is looked at and how many frames share a pack?

One clip, 1 to 10 frames a second, packs of 1 to 6 frames: visual tokens, memory for their keys and values in the
released model, and on a smaller model of random weights the seconds to encode the frames and to read the prompt. Packs
of 1 are the peer: it is how everybody reads clips who does not pack.

Fairness: the same clip, frames and weights; each cell is the best of its rounds, and rounds go through the whole table.
`--plot FILE.svg` draws the table.

Goal: at 10 frames a second packs of 6 are read in at most a sixth of the time of packs of 1, and 1.1 times that.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import Report, argument_parser
from preprocess import write_clip
from serve import build

from minicpmv.generation.loading import bundled_folder, read_processor
from minicpmv.messages import Message, TextPart, VideoPart
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.budget import numbers_of
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.processor import MiniCPMVProcessor

RATES = (1, 2, 3, 5, 7, 10)
PACKINGS = (1, 2, 3, 4, 5, 6)
DURATION_S = 6
QUESTION = "What happens in this clip, and in which order?"
Cell = tuple[float, int]


def inputs_for(processor: MiniCPMVProcessor, clip: Path, fps: float, packing: int) -> dict[str, Any]:
    """A question about the clip as tensors."""
    part = VideoPart(clip, fps=fps, packing=packing, max_frames=10_000)
    inputs: dict[str, Any] = processor.apply_chat_template(
        [Message("user", (part, TextPart(QUESTION)))],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return inputs


@torch.inference_mode()
def timed(model: MiniCPMVForConditionalGeneration, inputs: dict[str, Any]) -> tuple[float, float]:
    """Seconds to encode the frames, and to read the prompt up to its first answer token."""
    visual = (inputs[name] for name in ("pixel_values", "item_shapes", "item_packs", "item_times"))
    start = time.perf_counter()
    features = model.get_visual_features(*visual)
    encoded = time.perf_counter()
    text = {name: inputs[name] for name in ("input_ids", "attention_mask", "visual_slots")}
    model.generate(**text, visual_features=features, max_new_tokens=1, do_sample=False, pad_token_id=0)
    return encoded - start, time.perf_counter() - encoded


def draw(path: Path, packs: dict[Cell, int], reading: dict[Cell, float], queries: int) -> None:
    """Tokens and seconds by rate, a line per packing."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for packing in sorted({packing for _fps, packing in packs}):
        rates = sorted({fps for fps, other in packs if other == packing})
        label = f"{packing} frame{'s' * (packing > 1)} a pack"
        left.plot(rates, [packs[fps, packing] * queries for fps in rates], marker="o", label=label)
        right.plot(rates, [reading[fps, packing] for fps in rates], marker="o", label=label)
    left.set(xlabel="frames per second", ylabel="visual tokens")
    right.set(xlabel="frames per second", ylabel="seconds to read the prompt")
    left.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Fill the table."""
    parser = argument_parser(__doc__)
    parser.add_argument("--plot", type=Path, help="draw the table here")
    arguments = parser.parse_args()
    report = Report("video: the cost of a clip by rate and packing")
    small = arguments.small
    rates, packings = ((2, 10), (1, 6)) if small else (RATES, PACKINGS)
    model = build(torch.float32, small=small)
    side = 112 if small else 224
    bundled = read_processor(bundled_folder())
    processor = MiniCPMVProcessor(MiniCPMVImageProcessor(scale_resolution=side), bundled.tokenizer)
    numbers = numbers_of(MiniCPMVConfig.preset("4.5"))
    encoding: dict[Cell, float] = {}
    reading: dict[Cell, float] = {}
    packs: dict[Cell, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, width=448, height=448, duration_s=2 if small else DURATION_S, fps=30)
        cells = {(fps, packing): inputs_for(processor, clip, fps, packing) for fps in rates for packing in packings}
        for _ in range(1 if small else arguments.rounds):
            for cell, inputs in cells.items():
                seconds = timed(model, inputs)
                encoding[cell] = min(encoding.get(cell, float("inf")), seconds[0])
                reading[cell] = min(reading.get(cell, float("inf")), seconds[1])
                packs[cell] = len(inputs["visual_slots"])
    report.figure("parameters of the language model", sum(p.numel() for p in model.llm.parameters()))
    for (fps, packing), number in packs.items():
        tokens = number * numbers.num_queries
        where = f"{fps} frames/s, packs of {packing}"
        report.figure(f"{where}: visual tokens", tokens)
        report.figure(
            f"{where}: keys and values in the released model", tokens * numbers.kv_bytes_per_token / 2**20, "MiB"
        )
        report.figure(f"{where}: encoding", encoding[fps, packing], "s")
        report.figure(f"{where}: reading the prompt", reading[fps, packing], "s")
    report.goal("10 frames/s: reading packs of 6 to packs of 1", reading[10, 6] / reading[10, 1], at_most=1.1 / 6)
    report.figure("10 frames/s: encoding packs of 6 to packs of 1", encoding[10, 6] / encoding[10, 1])
    if arguments.plot:
        draw(arguments.plot, packs, reading, numbers.num_queries)
    report.write(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
