"""What the language model of a towers' run reads from perfect tokens, and what it knows in words.

    python bench/words.py RUN/nano_towers --stage words

Lines of held-out words in the held-out family are laid out and not seen: every slot says its letters exactly, as in the
stage `letters`. What is misread here is not the eyes' fault. Then the questions about pictures and clips, told in
words. With `--seen` the same lines are looked at as well, by tower and resampler as they are then; with the language
model of another stage (`--reader`) this tells whether the resampler speaks its language. An answer is right when every
token of it is the likeliest after what comes before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator

from minicpmv.data.worlds.clips import CLIP_TASKS
from minicpmv.data.worlds.fonts import Face, find_faces
from minicpmv.data.worlds.glyphs import on_rows, with_gaps
from minicpmv.data.worlds.lines import LEAST_STEP_PX, LINE_SIZES, render_line
from minicpmv.data.worlds.questions import READING, ask
from minicpmv.data.worlds.text import DESCRIBED_SCENES, TextPair, copy_pair, symbolic_clip, symbolic_scene
from minicpmv.evaluation.intervals import share
from minicpmv.processing.text_encoding import PieceEncoder
from minicpmv.processing.tokenizer import load_tokenizer
from minicpmv.recipes.loader import load_towers
from minicpmv.training.towers import runstate
from minicpmv.training.towers.answers import STILL, Exchange, answer_loss, collate
from minicpmv.training.towers.learner import Learner
from minicpmv.training.towers.reading_slots import letters_in_slots
from minicpmv.training.towers.run import build_learner
from minicpmv.training.towers.tokenizer import PLACEHOLDER

BATCH = 20
PAGES = {"a line": (1, 3), "full picture": (5, 8)}
"""Most lines and most words of a line."""


def told(pair: TextPair) -> Exchange:
    """A question in words."""
    return Exchange("asked", (), (), pair.prompt, pair.answer)


def laid_out(
    generator: Generator, faces: Sequence[Face], most_lines: int, max_words: int, num_queries: int, *, is_seen: bool
) -> Exchange:
    """Held-out lines as perfect tokens or as a picture, as many as fit."""
    size = LINE_SIZES[int(generator.random() * len(LINE_SIZES))]
    num_lines = max(1, min(most_lines, size[0] // LEAST_STEP_PX))
    drawn = render_line(generator, faces=faces, split="held_out", size=size, num_lines=num_lines, max_words=max_words)
    letters = letters_in_slots(on_rows(with_gaps(drawn.text, drawn.characters)), *size, num_queries)
    return Exchange("asked", (drawn.image,), STILL, ask(generator, READING), drawn.text, None, letters, not is_seen)


def tasks(num_queries: int, *, seen: bool) -> dict[str, Callable[[Generator], Exchange]]:
    """Everything that is asked, by name."""
    faces = find_faces("held_out", system=False)
    asked: dict[str, Callable[[Generator], Exchange]] = {}
    for name, bounds in PAGES.items():
        for is_seen in (False, True)[: 1 + seen]:
            asked[f"{name}, seen" if is_seen else name] = lambda generator, bounds=bounds, is_seen=is_seen: laid_out(
                generator, faces, *bounds, num_queries, is_seen=is_seen
            )
    for task in CLIP_TASKS:
        for full in (False, True):
            asked[f"{task}, in full" if full else task] = lambda generator, task=task, full=full: told(
                symbolic_clip(generator, task, full=full, split="held_out")
            )
    for task in DESCRIBED_SCENES:
        asked[f"picture: {task}"] = lambda generator, task=task: told(symbolic_scene(generator, task))
    asked["copy"] = lambda generator: told(copy_pair(generator, "held_out"))
    return asked


@torch.inference_mode()
def score(learner: Learner, encoder: PieceEncoder, pad_id: int, exchanges: list[Exchange]) -> tuple[float, float]:
    """Share of right answers and nats per token."""
    batch = collate(exchanges, encoder, pad_id, learner.model.config.scale_resolution, np.random.default_rng(0))
    features = None
    if "symbols" in batch:
        features = learner.slot_codes(batch["symbols"])
    elif "pixel_values" in batch:
        shapes = [tuple(shape) for shape in batch["item_shapes"].tolist()]
        seen = learner.model.vpm(batch["pixel_values"], shapes)
        attention = learner.model.config.vision_config._attn_implementation
        features = learner.model.resampler(seen, shapes, batch["item_packs"].tolist(), batch["item_times"], attention)
    logits = learner.model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        visual_features=features,
        visual_slots=batch.get("visual_slots"),
        use_cache=False,
    ).logits
    _, numbers = answer_loss(logits, batch["labels"], batch["worlds"])
    return numbers["asked"], numbers["asked_loss"]


def main() -> int:
    """Ask, print, write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of the towers")
    parser.add_argument("--stage", help="as it was after this stage; without it: the newest checkpoint")
    parser.add_argument("--reader", help="with the language model as it was after this stage")
    parser.add_argument("--seen", action="store_true", help="lines as pictures, too; from the stage `see` on")
    parser.add_argument("--samples", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    learner = build_learner(load_towers("nano_towers"))
    weights = arguments.run / ("checkpoint" if arguments.stage is None else f"stages/{arguments.stage}")
    runstate.load_weights(weights, learner.parts)
    if arguments.reader is not None:
        parts = {name: learner.parts[name] for name in ("llm", "slot_codes")}
        runstate.load_weights(arguments.run / "stages" / arguments.reader, parts)
    learner.eval()
    tokenizer = load_tokenizer(arguments.run / "tokenizer")
    num_queries = learner.model.config.query_num
    encoder = PieceEncoder(tokenizer, placeholder=PLACEHOLDER, slot_length=num_queries)
    figures = []
    print(f"{'asked':<24}right, %                 nats per token")
    for name, make in tasks(num_queries, seen=arguments.seen).items():
        right, nats, batches = 0, 0.0, range(0, arguments.samples, BATCH)
        for start in batches:
            numbers = range(start, min(start + BATCH, arguments.samples))
            exchanges = [make(np.random.default_rng([arguments.seed, number])) for number in numbers]
            found, loss = score(learner, encoder, tokenizer.pad_token_id, exchanges)
            right += round(found * len(exchanges))
            nats += loss * len(exchanges) / arguments.samples
        found = share(right, arguments.samples)
        value, low, high = (100 * number for number in (found.value, found.low, found.high))
        print(f"{name:<24}{value:5.1f} ({low:5.1f} to {high:5.1f})   {nats:.3f}", flush=True)
        figures.append({"asked": name, "right": right, "of": arguments.samples, "nats": nats})
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
