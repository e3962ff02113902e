"""What do steps of Muon cost, shared out between processes and in a number format that the processor multiplies fast?

Peer: `torch.optim.Muon` in each of two processes, which makes every step twice, always in bfloat16.

Fairness: two processes of one thread, the language model of the bundled model, the same random texts; both rivals take
the mean of the gradients in the same way, begin at the same weights and must end at the same ones: to the bit where
bfloat16 is the faster format, else to its rounding (measured: 9 % of the way that they went, in which directions with
small gradients weigh as much as others; up to 28 % is taken for alike).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

from measure import Report, argument_parser

RUN = """
import json, sys, time
import torch
torch.set_num_threads(1)
from minicpmv.generation.loading import load
from minicpmv.model.arithmetic import half_or_single
from minicpmv.training.muon import Muon
from minicpmv.training.optim import is_hidden_matrix
from minicpmv.training.precision import autocast
from minicpmv.training.towers.company import join

samples, tokens, steps, rounds = map(int, sys.argv[1:])
company = join("cpu")
llm = load("nano", device="cpu").model.llm.float().train()
start = {name: value.clone() for name, value in llm.state_dict().items()}
matrices = [one for name, one in llm.named_parameters() if is_hidden_matrix("llm." + name, one)]
texts = torch.randint(0, 256, (steps, samples, tokens), generator=torch.Generator().manual_seed(company.share.rank))

def run(make):
    llm.load_state_dict(start)
    optimiser = make()
    seconds = []
    for ids in texts:
        began = time.perf_counter()
        with autocast(torch.device("cpu"), "auto"):
            loss = llm(input_ids=ids, labels=ids).loss
        loss.backward()
        company.average(llm.parameters())
        optimiser.step()
        llm.zero_grad()
        company.wait()
        seconds.append(time.perf_counter() - began)
    return min(seconds), [one.detach().clone() for one in matrices]

began_at = [one.detach().clone() for one in matrices]
rivals = {
    "torch": lambda: torch.optim.Muon(matrices, lr=2e-3, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    "ours": lambda: Muon(matrices, lr=2e-3, momentum=0.95, are_shared=True),
}
is_half = half_or_single(torch.device("cpu")) == torch.bfloat16

def agree(begin, one, other):
    return torch.equal(one, other) if is_half else (one - other).norm() < 0.28 * (one - begin).norm()

taken = {}
for _ in range(rounds):
    ends = []
    for name, make in rivals.items():
        seconds, end = run(make)
        taken.setdefault(name, []).append(seconds)
        ends.append(end)
    assert all(agree(*three) for three in zip(began_at, *ends)), "the rivals do not agree"
if company.is_first:
    print(json.dumps(taken))
"""


def run_together(words: list[str]) -> dict[str, list[float]]:
    """Seconds of a step, round by round, for both rivals."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, *words],
            env={**shared, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("A process failed.")
    told: dict[str, list[float]] = json.loads(said[0].splitlines()[-1])
    return told


def main() -> None:
    """Compare."""
    parser = argument_parser(__doc__)
    parser.add_argument("--samples", type=int, default=8, help="of a process and step")
    parser.add_argument("--tokens", type=int, default=160, help="of a sample")
    arguments = parser.parse_args()
    report = Report("muon: its steps shared out between two processes, in a fast number format")
    steps = 3 if arguments.small else 12
    rounds = 1 if arguments.small else arguments.rounds
    taken = run_together([str(number) for number in (arguments.samples, arguments.tokens, steps, rounds)])
    alone, shared = min(taken["torch"]), min(taken["ours"])
    report.figure("torch.optim.Muon in each process: a step", alone, "s")
    report.figure("in shares: a step", shared, "s")
    report.figure("in shares: how many times as fast", alone / shared)
    report.write(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
