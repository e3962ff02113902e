"""What does answering many at once bring, and what does it cost who asks alone?

Peers, with the same weights in the same run: `generate` on one request after another, and on padded batches of as many
requests as are in flight; llama.cpp's own server, where it is installed (bench/llama_server.py).

Fairness: every request has its own picture and its own length of text and answer, the same for all rivals; all are
there at the beginning, and so many are in flight at a time. Padded batches wait for their longest answer. Rivals take
turns, request by request where one is alone, else round by round; the best rounds count. Greedy tokens
of the engine and of `generate` must agree for at least nine in ten requests (sums over other numbers of rows round
otherwise, and a random model has many near ties); the share is printed.

Goals: 16 in flight at least 3 times the requests per second of one after another; alone at most 1.1 times the latency
of `generate`; a second question on a picture of ten slices at least 5 times as fast to its first token.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from llama_server import against_llama
from measure import Report, Times, argument_parser, processor_seconds
from torch import Tensor

from minicpmv.generation.engine.loop import Engine, EngineOptions
from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.requests import Finished, RequestOptions, Wrote
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

MIDDLE_SIZE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "max_window_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 32_000,
    "bos_token_id": None,
    "eos_token_id": None,
}
SMALL_SIZE = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 1000}
SLICE = (16, 16)
PLACEHOLDER = 1
FEWEST_AGREE = 0.9


class Numbers:
    """A tokenizer for made-up ids."""

    def decode(self, ids: list[int], **_: Any) -> str:
        """Each as a number."""
        return "".join(f"{token} " for token in ids)

    def get_vocab(self) -> dict[str, int]:
        """None has a name."""
        return {}


@dataclass(frozen=True)
class Asked:
    """A request: tensors as a processor returns them, and the length of its answer."""

    inputs: dict[str, Tensor]
    num_new: int


def build(dtype: torch.dtype, *, small: bool) -> MiniCPMVForConditionalGeneration:
    """A random model between nano and the release."""
    released = MiniCPMVConfig.preset("4.5").to_dict()
    vision = {**released["vision_config"], "num_hidden_layers": 4, "hidden_size": 384, "intermediate_size": 1024}
    vision |= {"num_attention_heads": 6}
    sizes: dict[str, Any] = {**released, **MIDDLE_SIZE, "vision_config": vision}
    if small:
        sizes |= SMALL_SIZE | {"vision_config": MiniCPMVConfig.preset("toy").vision_config.to_dict()}
    torch.manual_seed(0)
    model = MiniCPMVForConditionalGeneration(MiniCPMVConfig(**sizes)).to(dtype).eval()
    model.generation_config.eos_token_id = None
    return model


def request(model: MiniCPMVForConditionalGeneration, seed: int, num_slices: int, num_new: int) -> Asked:
    """A picture of some slices, and a question of 20 to 150 tokens."""
    chance = torch.Generator().manual_seed(seed)
    num_text = 20 + int(torch.randint(0, 131, (1,), generator=chance))
    queries = int(model.config.query_num)
    ids = torch.randint(2, model.config.vocab_size - 200, (num_slices * (queries + 2) + num_text,), generator=chance)
    starts = [1 + index * (queries + 2) for index in range(num_slices)]
    for start in starts:
        ids[start : start + queries] = PLACEHOLDER
    inputs = {
        "input_ids": ids[None],
        "attention_mask": torch.ones_like(ids)[None],
        "pixel_values": torch.rand(num_slices * SLICE[0] * SLICE[1], 588, generator=chance) * 2 - 1,
        "item_shapes": torch.tensor([SLICE] * num_slices),
        "item_packs": torch.arange(num_slices),
        "item_times": torch.full((num_slices,), -1),
        "visual_slots": torch.tensor([(0, start) for start in starts]),
    }
    return Asked(inputs, num_new)


def padded(asked: list[Asked]) -> dict[str, Tensor]:
    """Requests as one batch, padded on the left."""
    longest = max(one.inputs["input_ids"].shape[1] for one in asked)
    ids, mask, slots, packs = [], [], [], 0
    all_packs = []
    for row, one in enumerate(asked):
        length = one.inputs["input_ids"].shape[1]
        left = longest - length
        ids.append(torch.cat([torch.zeros(left, dtype=torch.long), one.inputs["input_ids"][0]]))
        mask.append(torch.cat([torch.zeros(left, dtype=torch.long), torch.ones(length, dtype=torch.long)]))
        slots += [(row, int(start) + left) for _, start in one.inputs["visual_slots"]]
        all_packs.append(one.inputs["item_packs"] + packs)
        packs += len(one.inputs["item_packs"])
    return {
        "input_ids": torch.stack(ids),
        "attention_mask": torch.stack(mask),
        "pixel_values": torch.cat([one.inputs["pixel_values"] for one in asked]),
        "item_shapes": torch.cat([one.inputs["item_shapes"] for one in asked]),
        "item_packs": torch.cat(all_packs),
        "item_times": torch.cat([one.inputs["item_times"] for one in asked]),
        "visual_slots": torch.tensor(slots),
    }


@torch.inference_mode()
def generated(model: MiniCPMVForConditionalGeneration, inputs: dict[str, Tensor], num_new: int) -> list[list[int]]:
    """New tokens of every row."""
    out = model.generate(**inputs, max_new_tokens=num_new, min_new_tokens=num_new, do_sample=False, pad_token_id=0)
    return [row.tolist() for row in out[:, inputs["input_ids"].shape[1] :]]


def make_engine(model: MiniCPMVForConditionalGeneration, in_flight: int) -> Engine:
    """An engine for a model without a processor."""
    encoder = SimpleNamespace(knows=lambda name: False)
    processor: Any = SimpleNamespace(tokenizer=Numbers(), piece_encoder=lambda: encoder)
    return Engine(model, processor, EngineOptions(kv_tokens=65_536, most_running=in_flight))


@dataclass
class Served:
    """How a rival did: seconds for everything, to the first token of each request, and what was said."""

    seconds: float
    first_token_s: list[float]
    said: list[list[int]]


def one_after_another(model: MiniCPMVForConditionalGeneration, asked: list[Asked]) -> Served:
    """`generate`, request by request."""
    start = time.perf_counter()
    said = [generated(model, one.inputs, one.num_new)[0] for one in asked]
    return Served(time.perf_counter() - start, [], said)


def in_padded_batches(model: MiniCPMVForConditionalGeneration, asked: list[Asked], in_flight: int) -> Served:
    """`generate`, so many requests at a time, each batch as long as its longest answer."""
    start = time.perf_counter()
    said: list[list[int]] = []
    for first in range(0, len(asked), in_flight):
        batch = asked[first : first + in_flight]
        rows = generated(model, padded(batch), max(one.num_new for one in batch))
        said += [row[: one.num_new] for row, one in zip(rows, batch, strict=True)]
    return Served(time.perf_counter() - start, [], said)


def options(one: Asked) -> RequestOptions:
    """Greedy, of a fixed length."""
    return RequestOptions(max_new_tokens=one.num_new, guard=False)


def by_engine(model: MiniCPMVForConditionalGeneration, asked: list[Asked], in_flight: int) -> Served:
    """The engine, so many requests at a time."""
    queries = int(model.config.query_num)
    with make_engine(model, in_flight) as engine:
        start = time.perf_counter()
        handles = [engine.submit(EnginePrompt.from_inputs(one.inputs, queries), options(one)) for one in asked]
        events = [handle.wait() for handle in handles]
        seconds = time.perf_counter() - start
    firsts = [one[-1].usage.first_token_s - one[-1].usage.queued_s for one in events if isinstance(one[-1], Finished)]
    return Served(seconds, firsts, [[e.choice.token for e in one if isinstance(e, Wrote)] for one in events])


def percentile(values: list[float], share: float) -> float:
    """The value below which so many lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def alone(report: Report, model: MiniCPMVForConditionalGeneration, asked: list[Asked]) -> None:
    """One request at a time, `generate` and the engine in turn."""
    queries = int(model.config.query_num)
    times = {"generate": Times(), "engine": Times()}
    alike = 0
    with make_engine(model, 1) as engine:
        for number, one in enumerate(asked):
            start, cpu = time.perf_counter(), processor_seconds()
            plain = generated(model, one.inputs, one.num_new)[0]
            between, cpu_between = time.perf_counter(), processor_seconds()
            told = engine.submit(EnginePrompt.from_inputs(one.inputs, queries), options(one)).wait()
            end, cpu_end = time.perf_counter(), processor_seconds()
            alike += plain == [event.choice.token for event in told if isinstance(event, Wrote)]
            if number:  # the first one warms both up
                times["generate"].add(between - start, cpu_between - cpu)
                times["engine"].add(end - between, cpu_end - cpu_between)
    check(alike / len(asked))
    sums = {name: sum(found.seconds) for name, found in times.items()}
    pairs = sorted(one / other for one, other in zip(times["engine"].seconds, times["generate"].seconds, strict=True))
    report.figure("alone: generate", (len(asked) - 1) / sums["generate"], "requests/s")
    report.figure("alone: engine to generate, all seconds", sums["engine"] / sums["generate"])
    used = {name: sum(found.cpu_seconds) for name, found in times.items()}
    report.figure("alone: engine to generate, processor time", used["engine"] / used["generate"])
    report.goal("alone: engine to generate, median of pairs", statistics.median(pairs), at_most=1.1)


def check(agree: float) -> None:
    """Stop where the rivals say different things."""
    if agree < FEWEST_AGREE:
        raise SystemExit(f"Only {agree:.0%} of the answers are those of generate; nothing was measured.")


def together(
    report: Report, model: MiniCPMVForConditionalGeneration, asked: list[Asked], in_flight: int, rounds: int
) -> None:
    """So many requests at a time, the three rivals in turn."""
    where = f"{in_flight} in flight"
    seconds: dict[str, list[float]] = {"one after another": [], "padded batches": [], "engine": []}
    waits: list[float] = []
    for _ in range(rounds):
        plain = one_after_another(model, asked)
        ours = by_engine(model, asked, in_flight)
        batches = in_padded_batches(model, asked, in_flight)
        for name, served in (("one after another", plain), ("padded batches", batches), ("engine", ours)):
            seconds[name].append(served.seconds)
        waits += ours.first_token_s
        check(statistics.mean(one == other for one, other in zip(ours.said, plain.said, strict=True)))
    for name, found in seconds.items():
        report.figure(f"{where}: {name}", len(asked) / min(found), "requests/s")
    report.figure(f"{where}: first token, median", 1000 * percentile(waits, 0.5), "ms")
    report.figure(f"{where}: first token, 95 %", 1000 * percentile(waits, 0.95), "ms")
    report.figure(
        f"{where}: padded batches to engine, seconds", min(seconds["padded batches"]) / min(seconds["engine"])
    )
    ratio = min(seconds["one after another"]) / min(seconds["engine"])
    if in_flight == 16:
        report.goal(f"{where}: one after another to engine", ratio, at_least=3.0)
    else:
        report.figure(f"{where}: one after another to engine", ratio)


def main() -> None:
    """Race."""
    parser = argument_parser(__doc__)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--requests", type=int, default=64, help="in every round")
    parser.add_argument("--longest", type=int, default=32, help="tokens of an answer; some have a third")
    parser.set_defaults(rounds=1)
    arguments = parser.parse_args()
    report = Report("serve: one engine for many requests against generate")
    model = build(getattr(torch, arguments.dtype), small=arguments.small)
    number, longest = (8, 8) if arguments.small else (arguments.requests, arguments.longest)
    chance = torch.Generator().manual_seed(5)
    lengths = torch.randint(longest // 3, longest + 1, (number,), generator=chance).tolist()
    asked = [request(model, seed, 1, length) for seed, length in enumerate(lengths)]
    report.figure("parameters of the language model", sum(p.numel() for p in model.llm.parameters()))
    alone(report, model, asked[: number // 2])
    for in_flight in (4,) if arguments.small else (4, 16, 64):
        together(report, model, asked, in_flight, arguments.rounds)
    against_llama(
        report,
        model,
        number=number,
        longest=longest,
        in_flight=(1, 4) if arguments.small else (1, 4, 16, 64),
        rounds=arguments.rounds,
    )
    report.goal("ten slices: first token, first question to second", second_question(model), at_least=5.0)
    report.write(arguments.json)


def second_question(model: MiniCPMVForConditionalGeneration) -> float:
    """How many times as long the first question takes to its first token."""
    queries = int(model.config.query_num)
    first = request(model, 99, 10, 4)
    other = dict(first.inputs)
    other["input_ids"] = other["input_ids"].clone()
    other["input_ids"][0, -15:] = 7
    with make_engine(model, 1) as engine:
        taken = []
        for inputs in (first.inputs, other):
            prompt = EnginePrompt.from_inputs(inputs, queries)
            last = engine.submit(prompt, RequestOptions(max_new_tokens=4, guard=False)).wait()[-1]
            assert isinstance(last, Finished)
            assert last.usage.first_token_s is not None
            taken.append(last.usage.first_token_s)
    return taken[0] / taken[1]


if __name__ == "__main__":
    sys.exit(main())
