"""How long does one wait before anything happens?

Peer: `python -c pass`, the least that any command in Python takes, and for an answer `import torch, transformers`.

Fairness: every run is a process of its own, on files that the runs before have brought into the system's cache. The
command is started as `python -m minicpmv`, which costs the same as the installed script.

Goals: `minicpmv --help` in under 0.3 s, without importing torch. An answer of the bundled model to a picture has no
goal of its own; its time is shown beside that of importing torch and transformers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from measure import Report, argument_parser, interleaved

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "examples" / "sign.png"


def python(*words: str) -> Callable[[], subprocess.CompletedProcess[str]]:
    """A call that runs this Python with these arguments and fails loudly."""
    source = str(ROOT / "src")
    environment = {**os.environ, "PYTHONPATH": source, "HF_HUB_OFFLINE": "1"}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True, env=environment)

    return run


def slowest_imports(count: int) -> list[tuple[int, str]]:
    """Microseconds and name of the modules that take longest by themselves when the help is shown."""
    lines = python("-X", "importtime", "-m", "minicpmv", "--help")().stderr.splitlines()
    found = []
    for line in lines:
        fields = line.removeprefix("import time:").split("|")
        if line.startswith("import time:") and fields[0].strip().isdigit():
            found.append((int(fields[0]), fields[2].strip()))
    return sorted(found, reverse=True)[:count]


def main() -> None:
    """Help first, then an answer where the bundled model is there."""
    parser = argument_parser(__doc__)
    arguments = parser.parse_args()
    rounds = 1 if arguments.small else arguments.rounds
    report = Report("startup: from the command to the first sign of life")
    times = interleaved(
        {
            "python -c pass": python("-c", "pass"),
            "minicpmv --help": python("-m", "minicpmv", "--help"),
        },
        rounds=rounds * 2,
    )
    for name, measured in times.items():
        report.figure(f"{name}, median", measured.median, "s")
        report.figure(f"{name}, processor time", min(measured.cpu_seconds), "s")
    report.goal("minicpmv --help, best, s", times["minicpmv --help"].best, at_most=0.3)
    for microseconds, module in slowest_imports(8):
        report.figure(f"import {module}", microseconds / 1000, "ms")
    nano = find_spec("minicpmv")
    assets = Path(nano.origin).parent / "assets" / "nano" if nano and nano.origin else None
    if assets is None or not assets.is_dir():
        report.note("minicpmv ask", "the bundled model is absent")
    else:
        answers = {
            "import torch, transformers": python("-c", "import torch, transformers"),
            "minicpmv ask": python("-m", "minicpmv", "ask", str(PICTURE), "What is written in the picture?"),
        }
        for name, measured in interleaved(answers, rounds=max(rounds // 2, 1)).items():
            report.figure(f"{name}, best", measured.best, "s")
            report.figure(f"{name}, median", measured.median, "s")
    report.write(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
