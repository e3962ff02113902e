"""What does it bring to a training step on a CPU to keep oneDNN's kernels, and to leave memory to another allocator?

Peers, each in a process of its own with one thread: the settings of the libraries; jemalloc or tcmalloc, where the
system has one, as `train --processes` takes it; the same with room for the kernels of twenty thousand shapes.

Fairness: the same steps of the same recipe from the bundled model. Shapes are fresh in every step, as they are in
training; steps that are done twice would hide what is measured. The first third of the steps is not counted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Report, argument_parser

from minicpmv.training.allocator import environment_for_training

KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"

RUN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from minicpmv.recipes.loader import load_stage
from minicpmv.training.engine import train_stage

class Silent:
    def begin(self, *_): pass
    def step(self, *_): pass

steps = sys.argv[2]
changes = [f"schedule.steps={steps}", "schedule.decay=1", "schedule.warmup=0", "start=nano", "sheet_samples=0"]
changes += ["dense={heads: null, rate: 1.0e-3}", "workers=0", "batch=8", "decay_data=null"]
train_stage(load_stage("nano_pretrain_3", changes), Path(sys.argv[1]), reporter=Silent(), device="cpu")
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def run(environment: dict[str, str], steps: int) -> tuple[float, float]:
    """Seconds of a step, and the highest memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-c", RUN, folder, str(steps)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text("utf-8").splitlines()]
    seconds = [after["seconds"] - before["seconds"] for before, after in zip(lines, lines[1:], strict=False)]
    return statistics.mean(seconds[steps // 3 :]), int(done.stdout.split()[-1]) / 1024


def main() -> None:
    """Compare."""
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=250)
    parser.set_defaults(rounds=1)
    arguments = parser.parse_args()
    report = Report("keeping: kernels and memory of training steps on a CPU")
    steps = 6 if arguments.small else arguments.steps
    ours = ("LD_PRELOAD", KERNELS)
    plain = {name: value for name, value in os.environ.items() if name not in ours} | {"OMP_NUM_THREADS": "1"}
    best = environment_for_training(plain)
    rivals = {"the libraries' settings": plain}
    if "LD_PRELOAD" in best:
        rivals[best["LD_PRELOAD"]] = best
        rivals[best["LD_PRELOAD"] + ", room for kernels"] = best | {KERNELS: "20000"}
    else:
        report.note("another allocator", "absent: apt-get install libjemalloc2")
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(arguments.rounds):
        for name, environment in rivals.items():
            seconds, memory = run(environment, steps)
            taken[name].append(seconds)
            report.figure(f"{name}: highest memory", memory, "MiB")
    first = min(next(iter(taken.values())))
    for name, seconds_of in taken.items():
        report.figure(f"{name}: a step", min(seconds_of), "s")
        report.figure(f"{name}: how many times as fast", first / min(seconds_of))
    report.write(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
