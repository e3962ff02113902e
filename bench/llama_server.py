"""llama.cpp's own server as a rival of the engine, for bench/serve.py.

The same weights, exported to GGUF in the same number format; the same pictures and words in the same layout; answers of
the same lengths. llama.cpp runs in a process of its own and is asked over HTTP by as many threads as requests are in
flight: its scheduler and sampler are in its figure, as ours are in ours. With random weights answers cannot be compared
word by word (near ties fall either way in other kernels); the weight of first tokens and the lengths of prompts must.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Report
from PIL import Image

from minicpmv.export.gguf import export_gguf
from minicpmv.generation.engine.loop import Engine, EngineOptions
from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.requests import RequestOptions, Wrote
from minicpmv.generation.engine.sampling import SamplingParams
from minicpmv.generation.loading import bundled_folder, read_processor
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.model_folder import build_processor, write_model_folder

SIDE_PX = 448
"""Of a picture that neither of the two cuts."""

FARTHEST = 0.05
"""Between the log-probabilities that both give to their first tokens: they see the same things."""

SERVER = """
import sys, xllamacpp
model, mmproj, slots, threads = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path, params.mmproj.path = model, mmproj
params.n_parallel, params.n_ctx = int(slots), 1024 * int(slots)
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
params.cont_batching, params.verbosity, params.warmup = True, 0, True
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""

QUESTION_WORDS = ("what", "is", "on", "this", "picture", "how", "many", "of", "them", "are", "there", "please", "tell")


@dataclass(frozen=True)
class Question:
    """A picture and some words, and how many tokens the answer has."""

    picture: Image.Image
    text: str
    num_new: int

    @property
    def body(self) -> bytes:
        """As a client of llama.cpp's server sends it."""
        buffer = io.BytesIO()
        self.picture.save(buffer, format="PNG", compress_level=1)
        url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self.text}]
        asked = {
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.num_new,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
            "logprobs": True,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        return json.dumps(asked).encode()


def is_here() -> bool:
    """Whether the rival is installed."""
    return find_spec("xllamacpp") is not None and find_spec("gguf") is not None


def questions(number: int, longest: int) -> list[Question]:
    """Each with a picture of its own."""
    chance = np.random.default_rng(11)
    found = []
    for _ in range(number):
        small = chance.integers(0, 256, (SIDE_PX // 14, SIDE_PX // 14, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((SIDE_PX, SIDE_PX))
        words = " ".join(QUESTION_WORDS[int(chance.integers(len(QUESTION_WORDS)))] for _ in range(8))
        found.append(Question(picture, words, int(chance.integers(longest // 3, longest + 1))))
    return found


def processor_for(model: MiniCPMVForConditionalGeneration) -> MiniCPMVProcessor:
    """The bundled tokenizer in front of a random model."""
    bundled = read_processor(bundled_folder())
    return build_processor(model, bundled.tokenizer, bundled.video_processor)


@contextmanager
def llama(folder: Path, files: Sequence[Path], slots: int) -> Iterator[str]:
    """A server that runs; its address."""
    words = [sys.executable, "-c", SERVER, *map(str, files), str(slots), str(torch.get_num_threads())]
    with (folder / "llama.log").open("w") as log:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address.startswith("http"):
                raise SystemExit(f"llama.cpp did not start:\n{(folder / 'llama.log').read_text()[-2000:]}")
            yield address
        finally:
            process.kill()
            process.wait()


def by_llama(address: str, asked: Sequence[Question], in_flight: int) -> tuple[float, list[dict[str, Any]]]:
    """Seconds for everything, and the answers."""
    bodies = [one.body for one in asked]

    def ask(body: bytes) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    start = time.perf_counter()
    with ThreadPoolExecutor(in_flight) as pool:
        told = list(pool.map(ask, bodies))
    return time.perf_counter() - start, told


def by_engine(
    model: MiniCPMVForConditionalGeneration, processor: MiniCPMVProcessor, asked: Sequence[Question], in_flight: int
) -> tuple[float, list[tuple[int, list[int], float]]]:
    """Seconds from the pictures on; of each request the prompt's length, the tokens, and the first one's weight."""
    queries = int(model.config.query_num)
    options = EngineOptions(kv_tokens=65_536, most_running=in_flight)
    with Engine(model, processor, options) as engine:
        start = time.perf_counter()
        handles, lengths = [], []
        for one in asked:
            content = [{"type": "image", "image": one.picture}, {"type": "text", "text": one.text}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                enable_thinking=False,
                use_image_id=False,
            )
            lengths.append(int(inputs["input_ids"].shape[1]))
            limits = RequestOptions(max_new_tokens=one.num_new, guard=False, sampling=SamplingParams(logprobs=0))
            handles.append(engine.submit(EnginePrompt.from_inputs(inputs, queries), limits))
        events = [handle.wait() for handle in handles]
        seconds = time.perf_counter() - start
    choices = [[event.choice for event in one if isinstance(event, Wrote)] for one in events]
    said = [[choice.token for choice in one] for one in choices]
    return seconds, list(zip(lengths, said, [one[0].logprob for one in choices], strict=True))


def against_llama(
    report: Report,
    model: MiniCPMVForConditionalGeneration,
    *,
    number: int,
    longest: int,
    in_flight: Sequence[int],
    rounds: int,
) -> None:
    """Both, in turn, at every number of requests in flight."""
    if not is_here():
        report.note("llama.cpp", "absent: pip install gguf xllamacpp")
        return
    processor = processor_for(model)
    dtype = next(model.parameters()).dtype
    kind = "f32" if dtype == torch.float32 else "bf16"
    asked = questions(number, longest)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_model_folder(folder / "model", model, processor, dtype=dtype)
        files = export_gguf(folder / "model", folder / "gguf", kind)
        for several in in_flight:
            some = asked if several > 1 else asked[: max(2, number // 4)]
            seconds: dict[str, list[float]] = {"llama.cpp": [], "engine": []}
            with llama(folder, files, several) as address:
                by_llama(address, some[:1], 1)
                for _ in range(rounds):
                    theirs, told = by_llama(address, some, several)
                    ours, said = by_engine(model, processor, some, several)
                    seconds["llama.cpp"].append(theirs)
                    seconds["engine"].append(ours)
            check(told, said)
            for name, found in seconds.items():
                report.figure(
                    f"{several} in flight, pictures of 1024 patches: {name}", len(some) / min(found), "requests/s"
                )
            ratio = min(seconds["llama.cpp"]) / min(seconds["engine"])
            report.figure(f"{several} in flight: seconds of llama.cpp ({kind}) to engine", ratio)


def check(told: Sequence[dict[str, Any]], said: Sequence[tuple[int, list[int], float]]) -> None:
    """Stop where the two did not do the same work."""
    for theirs, (length, tokens, ours) in zip(told, said, strict=True):
        usage = theirs["usage"]
        if abs(usage["prompt_tokens"] - length) > 4 or usage["completion_tokens"] != len(tokens):
            raise SystemExit(f"llama.cpp read and wrote {usage}, the engine {length} and {len(tokens)} tokens.")
        weight = theirs["choices"][0]["logprobs"]["content"][0]["logprob"]
        if abs(weight - ours) > FARTHEST:
            raise SystemExit(f"First tokens weigh {weight:.3f} and {ours:.3f}; nothing was measured.")
