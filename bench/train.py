"""What do rows and ragged pictures bring to a training step? Forward, backward and update on mixed samples.

Peer: the usual way of fine-tuning scripts. The samples of a step form one batch, padded to the longest, with an
attention mask; pictures are padded and masked as the official code does (see `vision.py`); logits of every position are
computed, and the loss is taken where labels are.

Ours: `minicpmv.training`: rows of several samples, ragged pictures, logits of targets alone. Beside it the same with a
mask over the row instead of attention by sample, and the same by one process per core with one thread each, which share
the samples of a step (DDP over gloo; `minicpmv train --processes`).

Fairness: same model and weights, the same samples in every step, same optimiser, same number type, data prepared
beforehand for both, freed memory kept for all (`training/allocator.py`). The losses of both ways must agree in the same
run, or the script stops. Samples are mixed as in pre-training: pages, lines, clips and text, of 60 to 500 tokens.

A second peer, if a checkout of huggingface/nanoVLM is given with --nanovlm: its model in the same widths and depths,
fed with the same rows, every slice a square tile of 64 tokens. It has no clips, so both leave them out; its rows are
not isolated from each other, its pictures are squares of one size, it has no resampler, and it computes logits of every
position.

Goal: at least 1.8 times the samples per second of the padded way, 1.2 times those of nanoVLM's loop as it is, which is
one process with all threads; both are raced against ours in one process and in several. Beside it: useful
operations per second as a share of the machine's matrix-product peak (MFU), and the highest resident memory of each way
in a process of its own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from measure import Report, argument_parser, in_fresh_process, interleaved, memory_status
from torch import Tensor
from vision import PaddedTower, padded_strips

from minicpmv.data.rows import collate_rows, fill_rows
from minicpmv.data.sources import SourceRecipe, open_mixture
from minicpmv.generation.loading import bundled_folder, read_processor
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.model.visual_inputs import place_in_slots
from minicpmv.processing.budget import numbers_of
from minicpmv.processing.collate import EncodedSample, Padding, collate
from minicpmv.training.allocator import keep_freed_memory
from minicpmv.training.estimate import measured_peak, step_flops
from minicpmv.training.feeding import costs_of
from minicpmv.training.precision import autocast, dtype_of
from minicpmv.training.stage import set_attention
from minicpmv.training.token_loss import TokenLoss

MIXTURE = {
    "pages": SourceRecipe(weight=0.4, world="read", options={"longest_side_px": 224}),
    "lines": SourceRecipe(weight=0.2, world="lines"),
    "clips": SourceRecipe(weight=0.2, world="clips"),
    "facts": SourceRecipe(weight=0.2, world="facts"),
}
MID = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
MID_VISION = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6}
TOLERANCE = 2e-2
"""Largest relative difference of the two losses, in bfloat16 arithmetic."""

CPU = torch.device("cpu")


@dataclass
class Step:
    """The samples of a step in both forms, with their visual rows."""

    samples: list[EncodedSample]
    passes: list[dict[str, Any]]
    padded: dict[str, Any]


def draw_steps(number: int, batch: int, row_tokens: int, *, clips: bool = True) -> list[Step]:
    """Steps of mixed samples, prepared for both ways."""
    processor = read_processor(bundled_folder())
    chosen = {name: source for name, source in MIXTURE.items() if clips or name != "clips"}
    mixture, steps = open_mixture(chosen, 0), []
    pad_id = int(processor.tokenizer.pad_token_id)
    for _ in range(number):
        samples = [processor.encode_conversation(mixture.next()[1].messages) for _ in range(batch)]
        padded = collate(samples, Padding(side="right"), pad_id=pad_id, labels=True)
        steps.append(Step(samples, [rows_of(samples, row_tokens, pad_id)], padded))
    return steps


def rows_of(samples: list[EncodedSample], row_tokens: int, pad_id: int) -> dict[str, Any]:
    """Samples packed into rows, all of them in one pass."""
    rows = fill_rows([len(sample.ids) for sample in samples], row_tokens)
    members = [[samples[index] for index in row] for row in rows]
    inputs = collate_rows(members, max(sum(len(sample.ids) for sample in row) for row in members), pad_id=pad_id)
    inputs.pop("num_targets")
    return inputs


def build(size: str) -> MiniCPMVForConditionalGeneration:
    """The nano model, or one of about thirty million parameters with random weights."""
    if size == "nano":
        return MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder(), dtype=torch.float32)
    config = MiniCPMVConfig.preset("nano").to_dict()
    config |= MID | {"num_key_value_heads": 4, "vision_config": config["vision_config"] | MID_VISION}
    torch.manual_seed(0)
    return MiniCPMVForConditionalGeneration(MiniCPMVConfig(**config))


def rows_with(attention: str) -> Callable[[MiniCPMVForConditionalGeneration], Callable[[Step], Tensor]]:
    """Loss of a step in rows, with the attention of this name."""

    def way(model: MiniCPMVForConditionalGeneration) -> Callable[[Step], Tensor]:
        losses = TokenLoss(model)

        def loss(step: Step) -> Tensor:
            set_attention(model, attention)
            return torch.cat([losses(**inputs)[0] for inputs in step.passes]).mean()

        return loss

    return way


def padded_way(model: MiniCPMVForConditionalGeneration) -> Callable[[Step], Tensor]:
    """Loss of a step as one padded batch."""
    tower = PaddedTower(model.vpm)

    def loss(step: Step) -> Tensor:
        model.set_attn_implementation("sdpa")
        batch = step.padded
        embeddings = model.get_input_embeddings()(batch["input_ids"])
        if "pixel_values" in batch:
            shapes = [tuple(shape) for shape in batch["item_shapes"].tolist()]
            features = tower(padded_strips(batch["pixel_values"], shapes), shapes)
            real = torch.cat([item[: r * c] for item, (r, c) in zip(features, shapes, strict=True)])
            tokens = model.resampler(real, shapes, batch["item_packs"].tolist(), batch["item_times"], "eager")
            embeddings = place_in_slots(embeddings, tokens, batch["visual_slots"])
        return model.llm(
            inputs_embeds=embeddings, attention_mask=batch["attention_mask"], labels=batch["labels"], use_cache=False
        ).loss

    return loss


WAYS = {"padded": padded_way, "rows, masked": rows_with("sdpa"), "rows": rows_with("by_sample")}


def trainer(model: MiniCPMVForConditionalGeneration, way: str, steps: list[Step]) -> Callable[[], float]:
    """All steps once: forward, backward, update."""
    loss_of = WAYS[way](model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def run() -> float:
        total = 0.0
        for step in steps:
            with autocast(CPU, "auto"):
                loss = loss_of(step)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            total += loss.item()
        return total / len(steps)

    return run


@dataclass
class Together:
    """Processes that train the same steps together; between rounds they wait for a word on their standard input.

    Attributes:
        words: of this script, after `--together`: size, batch, steps, and whether there are clips.
        cpu_seconds: processor time of every call, all processes together.
    """

    words: tuple[str, ...]
    cpu_seconds: list[float] = field(default_factory=list)

    def __enter__(self) -> Together:
        number = os.cpu_count() or 1
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        group = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(number),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, sys.argv[0], "--together", *self.words]
        self._processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **group, "RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(number)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.communicate("end\n")

    def __call__(self) -> float:
        """All steps once."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [json.loads(process.stdout.readline()) for process in self._processes if process.stdout is not None]
        self.cpu_seconds.append(sum(one["cpu_seconds"] for one in told))
        return float(told[0]["loss"])


def train_together(size: str, batch: int, number: int, *, clips: bool) -> None:
    """What one of the processes does."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    model = build(size).train()
    set_attention(model, "by_sample")
    pad_id = int(read_processor(bundled_folder()).tokenizer.pad_token_id)
    steps = draw_steps(number, batch, 1024, clips=clips)
    fed = [(rows_of(step.samples[rank::world], 1024, pad_id), targets(step)) for step in steps]
    losses = torch.nn.parallel.DistributedDataParallel(TokenLoss(model))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    while sys.stdin.readline().strip() == "go":
        total, spent = 0.0, time.process_time()
        for rows, count in fed:
            with autocast(CPU, "auto"):
                loss = losses(**rows)[0].sum() * world / count
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            total += loss.item()
        print(json.dumps({"loss": total / len(fed), "cpu_seconds": time.process_time() - spent}), flush=True)
    torch.distributed.destroy_process_group()


def nanovlm(path: Path, model: MiniCPMVForConditionalGeneration, steps: list[Step]) -> Callable[[], float]:
    """NanoVLM's forward, backward and update over the same rows, in the sizes of a model of ours."""
    placeholder = int(steps[0].passes[0]["input_ids"][tuple(steps[0].passes[0]["visual_slots"][0])])
    processors = types.ModuleType("data.processors")  # its own would load torchvision and a tokenizer from the hub
    processors.get_tokenizer = lambda *_: types.SimpleNamespace(image_token_id=placeholder)  # type: ignore[attr-defined]
    sys.modules["data"], sys.modules["data.processors"] = types.ModuleType("data"), processors
    sys.path.insert(0, str(path))
    from models.config import VLMConfig
    from models.vision_language_model import VisionLanguageModel

    n = numbers_of(model.config)
    side = 8 * n.patch
    peer = VisionLanguageModel(
        VLMConfig(
            vit_hidden_dim=n.vision_width,
            vit_inter_dim=n.vision_mlp,
            vit_patch_size=n.patch,
            vit_img_size=side,
            vit_n_heads=model.config.vision_config.num_attention_heads,
            vit_n_blocks=n.vision_layers,
            lm_hidden_dim=n.width,
            lm_inter_dim=n.mlp,
            lm_base_vocab_size=n.vocabulary - 66,
            lm_vocab_size=n.vocabulary,
            lm_n_heads=n.heads,
            lm_n_kv_heads=n.kv_heads,
            lm_n_blocks=n.layers,
            lm_tie_weights=False,
            mp_pixel_shuffle_factor=1,
            mp_image_token_length=n.num_queries,
        ),
        load_backbone=False,
    ).train()
    optimiser = torch.optim.AdamW(peer.parameters(), lr=1e-6)
    fed = []
    for step in steps:
        rows = step.passes[0]
        tiles = torch.rand(len(rows["visual_slots"]), 3, side, side)
        targets = torch.full_like(rows["labels"], -100)
        targets[:, :-1] = rows["labels"][:, 1:]
        fed.append((rows["input_ids"], [tiles], torch.ones_like(rows["input_ids"]), targets))

    def run() -> float:
        total = 0.0
        for ids, tiles, mask, targets in fed:
            with autocast(CPU, "auto"):
                _, loss = peer(ids, tiles, attention_mask=mask, targets=targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), max_norm=1.0)
            optimiser.step()
            optimiser.zero_grad()
            total += loss.item()
        return total / len(fed)

    return run


def check(model: MiniCPMVForConditionalGeneration, steps: list[Step]) -> float:
    """Relative difference of the losses of all ways; stops the script where they do not agree."""
    with torch.no_grad(), autocast(CPU, "auto"):
        losses = [sum(float(WAYS[way](model)(step)) for step in steps) for way in WAYS]
    difference = (max(losses) - min(losses)) / max(abs(losses[0]), 1e-9)
    if difference > TOLERANCE:
        raise SystemExit(f"The losses differ by {difference:.1%}: {losses}; nothing was measured.")
    return difference


def main() -> None:
    """Both sizes; called with --memory-of by itself, one way in a fresh process."""
    parser = argument_parser(__doc__)
    parser.add_argument("--memory-of", nargs=2, metavar=("SIZE", "WAY"), help="used by the script itself")
    parser.add_argument(
        "--together", nargs=4, metavar=("SIZE", "BATCH", "STEPS", "CLIPS"), help="used by the script itself"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sizes", nargs="+", choices=("nano", "mid"), default=["nano", "mid"])
    parser.add_argument("--nanovlm", type=Path, metavar="DIR", help="a checkout of huggingface/nanoVLM")
    arguments = parser.parse_args()
    batch = 4 if arguments.small else arguments.batch
    keep_freed_memory()
    if arguments.memory_of:
        size, way = arguments.memory_of
        trainer(build(size).train(), way, draw_steps(1, batch, 1024))()
        print(json.dumps({"bytes": memory_status()["VmHWM"]}))
        return
    if arguments.together:
        size, batch, number, clips = arguments.together
        train_together(size, int(batch), int(number), clips=clips == "clips")
        return
    report = Report("train: rows and ragged pictures against padding and masking, mixed samples")
    for size in ["nano"] if arguments.small else arguments.sizes:
        steps = draw_steps(1 if arguments.small else 3, batch, 1024)
        model = build(size).train()
        report.figure(f"{size}: parameters", sum(parameter.numel() for parameter in model.parameters()) / 1e6, "M")
        report.figure(f"{size}: relative difference of the losses", check(model, steps))
        rounds = 1 if arguments.small else arguments.rounds
        with Together((size, str(batch), str(len(steps)), "clips")) as together:
            rivals = {**{way: trainer(model, way, steps) for way in WAYS}, "processes": together}
            times = interleaved(rivals, rounds=rounds)
            times["processes"].cpu_seconds = together.cpu_seconds[-rounds:]
        flops = sum(
            step_flops(numbers_of(model.config), costs_of(step.samples) | {"targets": targets(step)}, model_parts())
            for step in steps
        )
        peak = measured_peak(CPU, dtype_of("auto", CPU))
        for way in WAYS:
            speed = sum(len(step.samples) for step in steps) / times[way].best
            report.figure(f"{size}: {way}", speed, "samples/s")
            report.figure(f"{size}: {way}, MFU", flops / times[way].best / peak)
            memory = in_fresh_process(sys.argv[0], "--memory-of", size, way, "--batch", str(batch))
            report.figure(f"{size}: {way}, memory", memory["bytes"] / 2**20, "MiB")
        report.race(f"{size}: padded / rows", times, "rows", "padded", at_least=1.8)
        speed = sum(len(step.samples) for step in steps) / times["processes"].best
        report.figure(f"{size}: rows, a process per core", speed, "samples/s")
        report.race(f"{size}: padded / rows, a process per core", times, "processes", "padded", at_least=1.8)
        report.race(f"{size}: rows, masked / rows", times, "rows", "rows, masked", at_least=1.0)
        if arguments.nanovlm is None:
            report.note(f"{size}: nanoVLM", "absent; give a checkout with --nanovlm")
            continue
        still = draw_steps(len(steps), batch, 1024, clips=False)
        with Together((size, str(batch), str(len(steps)), "still")) as together:
            ours = {"rows, no clips": trainer(model, "rows", still), "processes": together}
            times = interleaved({**ours, "nanoVLM": nanovlm(arguments.nanovlm, model, still)}, rounds=rounds)
            times["processes"].cpu_seconds = together.cpu_seconds[-rounds:]
        report.race(f"{size}: nanoVLM / rows", times, "rows, no clips", "nanoVLM", at_least=1.2)
        report.race(f"{size}: nanoVLM / rows, a process per core", times, "processes", "nanoVLM", at_least=1.2)
    report.write(arguments.json)


def targets(step: Step) -> int:
    """Tokens of a step that count in the loss."""
    return sum(sum(sample.trained[1:]) for sample in step.samples)


def model_parts() -> tuple[str, ...]:
    """All of them learn."""
    return ("llm", "resampler", "vpm")


if __name__ == "__main__":
    main()
