"""What does our class cost over the plain language model, when both generate the same tokens?

Peer: `Qwen3ForCausalLM.generate` of transformers on the finished embeddings of the prompt, pictures already in place:
the very module that our class holds as `llm`, so not even the weights lie elsewhere.

Fairness: ours gets the token ids, the encoded picture and its slot, and must embed and place them itself at the first
step and prepare its inputs at each; encoding the picture is timed apart, since the peer has no eyes. Both stop after
the same number of tokens and must produce the same ones, or the script stops. Rounds alternate.

Goal: time to the first token and time per further token at most 1.05 times the peer's.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from measure import Report, Times, argument_parser, processor_seconds
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.model.visual_inputs import place_in_slots

MIDDLE_SIZE = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "max_window_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "bos_token_id": None,
    "eos_token_id": None,
}
SMALL_SIZE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 1000}
PICTURE = (32, 32)
NUM_SLOTS = 4


class Clock(BaseStreamer):
    """Notes when each token arrives."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.cpu_moments: list[float] = []

    def put(self, value: Tensor) -> None:
        """Called with the prompt, then with every token."""
        self.moments.append(time.perf_counter())
        self.cpu_moments.append(processor_seconds())

    def end(self) -> None:
        """Nothing is left to do."""


def build(dtype: torch.dtype, *, small: bool) -> MiniCPMVForConditionalGeneration:
    """A random model between nano and the release; its tower has two layers of the released width."""
    released = MiniCPMVConfig.preset("4.5").to_dict()
    vision = {**released["vision_config"], "num_hidden_layers": 2}
    sizes: dict[str, Any] = {**released, **MIDDLE_SIZE, "vision_config": vision}
    if small:
        sizes |= SMALL_SIZE | {"vision_config": MiniCPMVConfig.preset("toy").vision_config.to_dict()}
    torch.manual_seed(0)
    with torch.device("cpu"):
        model = MiniCPMVForConditionalGeneration(MiniCPMVConfig(**sizes))
    return model.to(dtype).eval()


def prompt(model: MiniCPMVForConditionalGeneration, num_text: int) -> dict[str, Tensor]:
    """Token ids with `NUM_SLOTS` pictures in front of the text, and the pictures encoded."""
    num_queries = model.config.query_num
    tokens = NUM_SLOTS * (num_queries + 2) + num_text
    ids = torch.randint(0, model.config.vocab_size - 200, (1, tokens), generator=torch.Generator().manual_seed(1))
    rows = torch.rand(NUM_SLOTS * PICTURE[0] * PICTURE[1], 588, generator=torch.Generator().manual_seed(2)) * 2 - 1
    slots = torch.tensor([(0, 1 + index * (num_queries + 2)) for index in range(NUM_SLOTS)])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": rows,
        "item_shapes": torch.tensor([PICTURE] * NUM_SLOTS),
        "visual_slots": slots,
    }


Pair = tuple[float, float]


def timed(generate: Any, inputs: dict[str, Tensor], num_new: int) -> tuple[Pair, Pair, list[int]]:
    """Seconds to the first token and per further token, each by the clock and of the processor, and the tokens."""
    clock = Clock()
    start, cpu_start = time.perf_counter(), processor_seconds()
    out = generate(
        **inputs, max_new_tokens=num_new, min_new_tokens=num_new, do_sample=False, pad_token_id=0, streamer=clock
    )
    first, *_, last = clock.moments[1:]
    cpu_first, *_, cpu_last = clock.cpu_moments[1:]
    further = ((last - first) / (num_new - 1), (cpu_last - cpu_first) / (num_new - 1))
    return (first - start, cpu_first - cpu_start), further, out[0, -num_new:].tolist()


@torch.no_grad()
def race(report: Report, dtype: torch.dtype, rounds: int, num_new: int, *, small: bool) -> None:
    """Time both, round by round."""
    model = build(dtype, small=small)
    raw = prompt(model, 16 if small else 100)
    start = time.perf_counter()
    features = model.get_visual_features(raw["pixel_values"], raw["item_shapes"])
    encoding = time.perf_counter() - start
    text = {key: raw[key] for key in ("input_ids", "attention_mask")}
    ours = {**text, "visual_features": features, "visual_slots": raw["visual_slots"]}
    embeddings = place_in_slots(model.get_input_embeddings()(raw["input_ids"]), features, raw["visual_slots"])
    peer = {"inputs_embeds": embeddings, "attention_mask": raw["attention_mask"]}
    rivals = {"ours": (model.generate, ours), "plain": (model.llm.generate, peer)}
    first = {name: Times() for name in rivals}
    further = {name: Times() for name in rivals}
    answers: dict[str, list[int]] = {}
    for turn in range(rounds + 1):
        for name, (generate, inputs) in rivals.items():
            to_first, per_token, answers[name] = timed(generate, inputs, num_new)
            if turn:
                first[name].add(*to_first)
                further[name].add(*per_token)
    if answers["ours"] != answers["plain"]:
        raise SystemExit("The two ways gave different tokens; nothing was measured.")
    short = str(dtype).removeprefix("torch.")
    report.figure(f"{short}: parameters of the language model", sum(p.numel() for p in model.llm.parameters()))
    report.figure(f"{short}: prompt", raw["input_ids"].shape[1], "tokens")
    report.figure(f"{short}: encoding {NUM_SLOTS} pictures, 2 layers, once", encoding, "s")
    report.figure(f"{short}: ours", 1 / further["ours"].best, "tokens/s")
    report.figure(f"{short}: plain", 1 / further["plain"].best, "tokens/s")
    report.race(f"{short}: time to first token", first, "ours", "plain", at_most=1.05)
    report.race(f"{short}: time per token", further, "ours", "plain", at_most=1.05)


def main() -> None:
    """One number type or both."""
    parser = argument_parser(__doc__)
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens to generate")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="one number type of the two")
    arguments = parser.parse_args()
    report = Report("decode: our class against the plain language model")
    for name in [arguments.dtype] if arguments.dtype else ["float32", "bfloat16"]:
        race(report, getattr(torch, name), arguments.rounds, arguments.new_tokens, small=arguments.small)
    report.write(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
