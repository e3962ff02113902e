"""How much memory does loading a checkpoint take, beyond the checkpoint itself?

Peer: the checkpoint's own bytes. A random model in bfloat16 is written in shards of 300 MB to a temporary folder and
loaded by `from_pretrained` in a process of its own that has already imported everything.

What is counted: the process's resident memory at its highest (`VmHWM`), minus what was resident before loading, after
every weight has been read once. Without that reading the figure would be near zero and mean nothing: weights that need
no conversion stay views of the mapped files, and a page is resident only once somebody has looked at it. The strict
figure counts mapped pages, although the system may drop them at any time; the part that is the process's own
(`RssAnon`, sampled every few milliseconds) is printed beside it. Loading the same files as float32 is shown too,
against the bytes that the weights then take: there, the mapped file comes on top of the converted copy.

Goal: at most 1.1 times the bytes of the files, counted the strict way, in the type of the files.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from measure import Report, argument_parser, in_fresh_process, memory_status

from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

SIZE = {
    "hidden_size": 1536,
    "intermediate_size": 4608,
    "num_hidden_layers": 14,
    "max_window_layers": 14,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 60_000,
    "bos_token_id": None,
    "eos_token_id": None,
}


def write_checkpoint(folder: Path, *, small: bool) -> int:
    """Write a random model in bfloat16 and return the bytes of its shards."""
    released = MiniCPMVConfig.preset("4.5").to_dict()
    vision = {**released["vision_config"], "num_hidden_layers": 6}
    config = MiniCPMVConfig(**{**released, **SIZE, "vision_config": vision})
    if small:
        config = MiniCPMVConfig.preset("nano")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = MiniCPMVForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder, max_shard_size="5MB" if small else "300MB")
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


class Peaks(threading.Thread):
    """Keeps the highest value of each kind of memory until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest: dict[str, int] = {}
        self._stopped = threading.Event()

    def run(self) -> None:
        """Look every few milliseconds."""
        while not self._stopped.wait(0.003):
            self.look()

    def look(self) -> None:
        """Look once."""
        for key, value in memory_status().items():
            self.highest[key] = max(self.highest.get(key, 0), value)

    def stop(self) -> dict[str, int]:
        """Stop, look a last time, and return what was highest."""
        self._stopped.set()
        self.join()
        self.look()
        return self.highest


def touch(model: torch.nn.Module) -> None:
    """Read every weight without making a copy of any."""
    for parameter in model.parameters():
        parameter.detach().flatten().view(torch.int16).max()


def print_load(folder: Path, dtype: str) -> None:
    """Load in this process and print memory before, at its highest, and after."""
    MiniCPMVForConditionalGeneration(MiniCPMVConfig.preset("toy"))  # everything that loading imports is in memory now
    before = memory_status()
    peaks = Peaks()
    peaks.start()
    start = time.perf_counter()
    model = MiniCPMVForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    seconds = time.perf_counter() - start
    untouched = memory_status()
    touch(model)
    highest = peaks.stop()
    print(json.dumps({"before": before, "untouched": untouched, "highest": highest, "seconds": seconds}))


def show(report: Report, title: str, measured: dict[str, Any], num_bytes: int) -> float:
    """Print one load; return its strict peak as a multiple of `num_bytes`."""
    before, highest = measured["before"], measured["highest"]
    report.figure(f"{title}: resident before", before["VmRSS"] / 2**20, "MiB")
    unread = measured["untouched"]["VmRSS"] - before["VmRSS"]
    report.figure(f"{title}: loaded, no weight read yet, beyond before", unread / 2**20, "MiB")
    for kind, meaning in (("RssAnon", "own"), ("RssFile", "mapped files")):
        report.figure(f"{title}: {meaning}, highest, beyond before", (highest[kind] - before[kind]) / 2**20, "MiB")
    report.figure(f"{title}: seconds to load", measured["seconds"], "s")
    return (highest["VmHWM"] - before["VmRSS"]) / num_bytes


def main() -> None:
    """Write, load in a fresh process, report, delete."""
    parser = argument_parser(__doc__)
    parser.add_argument("--dtype", default="auto", help="number type to load into (used by the script itself)")
    parser.add_argument("--load", type=Path, help="load this folder and print its memory (used by the script itself)")
    arguments = parser.parse_args()
    if arguments.load is not None:
        print_load(arguments.load, arguments.dtype)
        return
    report = Report("load: memory of loading a sharded checkpoint")
    with tempfile.TemporaryDirectory() as name:
        num_bytes = write_checkpoint(Path(name), small=arguments.small)
        report.figure("files", num_bytes / 2**20, "MiB")
        as_stored = in_fresh_process(__file__, "--load", name)
        as_float32 = in_fresh_process(__file__, "--load", name, "--dtype", "float32")
    report.goal("as stored: peak to bytes", show(report, "as stored", as_stored, num_bytes), at_most=1.1)
    report.figure("float32: peak to bytes in float32", show(report, "float32", as_float32, 2 * num_bytes))
    report.write(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
