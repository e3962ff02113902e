"""What every script here shares: fair repetitions, the machine in words, ratios against a goal, and a JSON file.

Two rivals are never timed one after the other in blocks: a machine that slows down for a minute would decide the race.
They alternate, A B A B, after a warm-up round; the ratio is taken from their best rounds and, beside it, as the median
of the ratios of neighbouring rounds and as the ratio of processor times. Where the three disagree, the machine was not
quiet.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "pillow", "av", "numpy", "accelerate", "safetensors")


@dataclass
class Times:
    """Seconds of every round of one rival, by the clock and of the processor (all threads together)."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def add(self, seconds: float, cpu_seconds: float) -> None:
        """Note one round."""
        self.seconds.append(seconds)
        self.cpu_seconds.append(cpu_seconds)

    @property
    def best(self) -> float:
        """The fastest round, s."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The round in the middle, s."""
        return statistics.median(self.seconds)


def interleaved(rivals: Mapping[str, Callable[[], object]], *, rounds: int, warmups: int = 1) -> dict[str, Times]:
    """Run all rivals in turn, `rounds` times after `warmups` unmeasured turns. Results are dropped between runs."""
    for _ in range(warmups):
        for run in rivals.values():
            run()
    times = {name: Times() for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            gc.collect()
            start, cpu_start = time.perf_counter(), processor_seconds()
            run()
            times[name].add(time.perf_counter() - start, processor_seconds() - cpu_start)
    return times


def processor_seconds() -> float:
    """Processor time of this process and of the children it has waited for, all threads together."""
    usage = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in usage)


def machine() -> dict[str, Any]:
    """The processor, its cores, memory, versions, threads, and how busy it was when asked."""
    described: dict[str, Any] = {
        "date": date.today().isoformat(),
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "python": platform.python_version(),
        "load_1_min": round(os.getloadavg()[0], 2),
        "versions": {},
    }
    for name in PACKAGES:
        try:
            described["versions"][name] = version(name)
        except PackageNotFoundError:
            described["versions"][name] = "absent"
    if "torch" in sys.modules:
        described["torch_threads"] = sys.modules["torch"].get_num_threads()
    return described


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def memory_status() -> dict[str, int]:
    """This process's memory, bytes: `VmRSS`, its parts `RssAnon` (own) and `RssFile` (mapped files), its peak `VmHWM`.

    Read from the kernel's own account. `ru_maxrss` will not do: a child inherits the peak of the parent it was started
    from.
    """
    wanted = ("VmRSS", "VmHWM", "RssAnon", "RssFile")
    status = {}
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key in wanted:
            status[key] = int(value.split()[0]) * 1024
    return status


def in_fresh_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script in a process of its own; the last line it prints is JSON."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{Path(script).name} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


class Report:
    """Collects figures, prints them as they come, and writes them as JSON."""

    def __init__(self, title: str) -> None:
        self.content: dict[str, Any] = {"title": title, "machine": machine(), "figures": {}}
        shown = {key: value for key, value in self.content["machine"].items() if key != "versions"}
        print(f"{title}\n  {shown}")

    def figure(self, name: str, value: float, unit: str = "") -> None:
        """Note one number."""
        self.content["figures"][name] = {"value": value, "unit": unit}
        print(f"  {name}: {value:.4g} {unit}".rstrip())

    def note(self, name: str, words: str) -> None:
        """Note something that is not a number: an absent rival, a condition."""
        self.content["figures"][name] = {"note": words}
        print(f"  {name}: {words}")

    def goal(self, name: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
        """Note a number that has a goal, and whether it is reached."""
        reached = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        wanted = f"<= {at_most}" if at_most is not None else f">= {at_least}"
        self.content["figures"][name] = {"value": value, "goal": wanted, "reached": reached}
        print(f"  {name}: {value:.3f} (goal {wanted}: {'reached' if reached else 'MISSED'})")

    def race(
        self,
        name: str,
        times: Mapping[str, Times],
        ours: str,
        peer: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Note both times and their ratio.

        With `at_most` the ratio is ours / peer (what we cost), with `at_least` peer / ours (how much faster we are).
        """
        for rival in (peer, ours):
            print(f"  {rival}: best {times[rival].best:.4f} s, median {times[rival].median:.4f} s")
        over, under = (ours, peer) if at_least is None else (peer, ours)
        pairs = zip(times[over].seconds, times[under].seconds, strict=True)
        paired = statistics.median(a / b for a, b in pairs)
        self.goal(name, times[over].best / times[under].best, at_most=at_most, at_least=at_least)
        processor = min(times[over].cpu_seconds) / max(min(times[under].cpu_seconds), 1e-9)
        print(f"  {name}, median of neighbouring rounds: {paired:.3f}; by processor time: {processor:.3f}")
        self.content["figures"][name] |= {
            "median_of_pairs": paired,
            "by_processor_time": processor,
            "seconds": {rival: times[rival].seconds for rival in (peer, ours)},
            "processor_seconds": {rival: times[rival].cpu_seconds for rival in (peer, ours)},
        }

    def write(self, path: Path | None) -> None:
        """Write everything as JSON, where a path was asked for."""
        self.content["machine"]["load_1_min_at_end"] = round(os.getloadavg()[0], 2)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all scripts have; the description is the module's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of each rival")
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that the script runs, measures nothing")
    return parser
