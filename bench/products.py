"""How fast does a CPU write, token by token, with products chosen by the phase and with smaller weights?

Peer: `generate` of the same weights in bfloat16, which reads and writes with the same products.

Fairness: the engine with bfloat16 has the same weights in memory as its peer and must write the same tokens, up to near
ties (a random model has many): at least the first half of them. With packed weights other numbers come out; how far the
probabilities of the next token are from the unpacked model's is printed. Rounds alternate. The first part times the
products alone, over so many weights that no cache holds them.

Then the same in float32, whose products torch leaves to MKL.

Goals: tokens per second, `generate` to engine at least 1.5 in bfloat16; reading a prompt at most 1.1 times the time.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from decode import build, timed
from measure import Report, Times, argument_parser, interleaved, processor_seconds
from serve import make_engine, request
from torch import Tensor, nn

from minicpmv.generation.engine.kernels import products_for, without_onednn
from minicpmv.generation.engine.loop import Engine
from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.requests import Finished, RequestOptions, Wrote
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.model.packed_linear import Int4Linear, Int8Linear, pack_linears

ROWS = (1, 2, 4, 8, 16, 64, 256)
WEIGHT_BYTES = 200e6
FEWEST_AGREE = 0.5


@torch.inference_mode()
def products(report: Report, width: int, rounds: int, rows: tuple[int, ...]) -> None:
    """Time of a product by its number of rows and the kind of its weights."""
    number = max(1, round(WEIGHT_BYTES / (2 * width * width)))
    dense = [nn.Linear(width, width, bias=False, dtype=torch.bfloat16) for _ in range(number)]
    kinds: dict[str, list[nn.Linear] | list[Int8Linear] | list[Int4Linear]] = {
        "bfloat16": dense,
        "int8": [Int8Linear(linear) for linear in dense],
        "int4": [Int4Linear(linear) for linear in dense],
    }
    for count in rows:
        inputs = torch.randn(count, width, dtype=torch.bfloat16)

        def through(layers: Any, inputs: Tensor = inputs) -> None:
            for layer in layers:
                layer(inputs)

        def by_itself(inputs: Tensor = inputs) -> None:
            with without_onednn():
                for layer in dense:
                    F.linear(inputs, layer.weight)

        rivals: dict[str, Callable[[], object]] = {
            name: lambda layers=layers: through(layers) for name, layers in kinds.items()
        }
        if count <= ROWS[2]:
            rivals["bfloat16 without oneDNN"] = by_itself
        for name, times in interleaved(rivals, rounds=rounds).items():
            report.figure(f"{width} x {width}, {count} rows: {name}", 1000 * times.best / number, "ms")


@torch.inference_mode()
def in_float32(report: Report, width: int, rounds: int, rows: tuple[int, ...]) -> None:
    """Time of a product in float32 as torch does it, and as the engine does."""
    number = max(1, round(WEIGHT_BYTES / (4 * width * width)))
    layers = [nn.Linear(width, width, bias=False) for _ in range(number)]
    model: Any = SimpleNamespace(device=torch.device("cpu"), llm=SimpleNamespace(dtype=torch.float32))
    for count in rows:
        inputs = torch.randn(count, width)

        def as_torch_does(inputs: Tensor = inputs) -> None:
            for layer in layers:
                layer(inputs)

        def as_chosen(inputs: Tensor = inputs) -> None:
            with products_for(model, len(inputs)):
                for layer in layers:
                    layer(inputs)

        times = interleaved({"MKL": as_torch_does, "chosen": as_chosen}, rounds=rounds)
        for name, found in times.items():
            report.figure(f"float32, {width} x {width}, {count} rows: {name}", 1000 * found.best / number, "ms")


def written(engine: Engine, inputs: dict[str, Tensor], queries: int, num_new: int) -> tuple[float, Times, list[int]]:
    """Seconds to the first token, per further token, and the tokens."""
    begun = time.perf_counter()
    moments, cpu, tokens = [], [], []
    asked = RequestOptions(max_new_tokens=num_new, min_new_tokens=num_new, guard=False)
    for event in engine.submit(EnginePrompt.from_inputs(inputs, queries), asked):
        moments.append(time.perf_counter())
        cpu.append(processor_seconds())
        if isinstance(event, Wrote):
            tokens.append(event.choice.token)
        elif isinstance(event, Finished):
            break
    per_token = Times()
    per_token.add((moments[num_new - 1] - moments[0]) / (num_new - 1), (cpu[num_new - 1] - cpu[0]) / (num_new - 1))
    return moments[0] - begun, per_token, tokens


def race(report: Report, rounds: int, num_new: int, *, small: bool) -> None:
    """`generate`, and the engine with each kind of weights."""
    plain = build(torch.bfloat16, small=small)
    raw = request(plain, 1, 2, num_new).inputs
    queries = int(plain.config.query_num)
    models = {"bfloat16": plain}
    for kind in ("int8", "int4"):
        models[kind] = copy.deepcopy(plain)
        pack_linears(models[kind].llm, kind)
    report.figure("parameters of the language model", sum(p.numel() for p in plain.llm.parameters()))
    for kind, model in models.items():
        tensors = (*model.llm.parameters(), *model.llm.buffers())
        report.figure(f"{kind}: language model", sum(t.nbytes for t in tensors) / 2**20, "MiB")
    with torch.inference_mode():
        raw["visual_features"] = plain.get_visual_features(raw["pixel_values"], raw["item_shapes"])
        drift(report, models, raw)
    given = {key: raw[key] for key in ("input_ids", "attention_mask", "visual_features", "visual_slots")}
    names = ("generate", *models)
    first, further = ({name: Times() for name in names} for _ in range(2))
    said: dict[str, list[int]] = {}
    engines = {name: make_engine(model, 1) for name, model in models.items()}
    for turn in range(rounds + 1):
        with torch.inference_mode():
            to_first, per_token, said["generate"] = timed(plain.generate, given, num_new)
        if turn:
            first["generate"].add(*to_first)
            further["generate"].add(*per_token)
        for name in models:
            # As for `generate`, pictures are encoded beforehand, and nothing that was read is remembered.
            ahead = EnginePrompt.from_inputs(raw, queries)
            engines[name].features.put(list(ahead.digests), raw["visual_features"])
            engines[name].scheduler.pool.forget_all()
            seconds, times, said[name] = written(engines[name], raw, queries, num_new)
            if turn:
                first[name].add(seconds, seconds)
                further[name].add(times.seconds[0], times.cpu_seconds[0])
    for engine in engines.values():
        engine.close()
    alike = next((place for place in range(num_new) if said["generate"][place] != said["bfloat16"][place]), num_new)
    if alike < FEWEST_AGREE * num_new:
        raise SystemExit(f"After {alike} tokens the engine goes its own way; nothing was measured.")
    report.figure("tokens that agree before the first that does not", alike, f"of {num_new}")
    report.figure("generate", 1 / further["generate"].best, "tokens/s")
    for name in models:
        report.figure(f"engine, {name}", 1 / further[name].best, "tokens/s")
        report.figure(f"engine, {name}: first token to that of generate", first[name].best / first["generate"].best)
    report.goal(
        "bfloat16: first token to that of generate", first["bfloat16"].best / first["generate"].best, at_most=1.1
    )
    report.race("bfloat16: time per token", further, "bfloat16", "generate", at_least=1.5)
    report.race("int8: time per token", further, "int8", "generate", at_least=1.5)
    report.race("int4: time per token", further, "int4", "generate", at_least=1.5)


def drift(report: Report, models: dict[str, MiniCPMVForConditionalGeneration], raw: dict[str, Tensor]) -> None:
    """How far packed weights move the probabilities of the next token, over the places of the prompt."""
    logits = {name: model.llm(input_ids=raw["input_ids"]).logits[0].float() for name, model in models.items()}
    true = F.log_softmax(logits["bfloat16"], -1)
    for name in ("int8", "int4"):
        other = F.log_softmax(logits[name], -1)
        divergence = (true.exp() * (true - other)).sum(-1).mean()
        report.figure(f"{name}: divergence of the next token's probabilities", float(divergence), "nats")


def main() -> None:
    """Products, then whole answers."""
    parser = argument_parser(__doc__)
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens to generate")
    arguments = parser.parse_args()
    report = Report("products: kernels by phase and smaller weights, on a CPU")
    for width in (64,) if arguments.small else (1024, 4096):
        rounds, rows = (1, ROWS[:4]) if arguments.small else (arguments.rounds, ROWS)
        products(report, width, rounds, rows)
        in_float32(report, width, rounds, rows[1:])
    race(report, arguments.rounds, arguments.new_tokens, small=arguments.small)
    report.write(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
