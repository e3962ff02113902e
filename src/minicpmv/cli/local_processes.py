"""Several training processes on this machine, as `torchrun` would start them, without its pages of advice.

On a CPU one process per core is faster than threads: only a part of a step is multiplication that threads can share.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from minicpmv.cli.console import say

_LAST_WORDS_S = 60.0
"""How long processes may take to end once one of them has."""


def train_together(words: Sequence[str], folder: Path, number: int) -> None:
    """Run `minicpmv train` in several processes that train together, and wait for them.

    The first one speaks; what the others have to say is kept in `folder/process-N.log`.

    Args:
        words: of the command, after `minicpmv train`.
        folder: of the run.
        number: processes.

    Raises:
        typer.Exit: one of them failed, and has said why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(number)}
    processes = []
    for rank in range(number):
        environment = {**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-m", "minicpmv", "train", *words]
        if rank == 0:
            processes.append(subprocess.Popen(command, env=environment))
            continue
        with (folder / f"process-{rank}.log").open("w", encoding="utf-8") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        code = _ended(processes)
    except KeyboardInterrupt:  # which all of them have heard, too
        _end(processes)
        raise
    _end(processes)
    if code:
        quiet = [rank for rank, process in enumerate(processes) if rank and process.returncode == code]
        if processes[0].returncode != code and quiet:
            say(f"Process {quiet[0]} failed; {folder / f'process-{quiet[0]}.log'} says why.")
        raise typer.Exit(code if code > 0 else 1)


def _ended(processes: Sequence["subprocess.Popen[bytes]"]) -> int:
    """Wait until all are done or one has failed; its exit status."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if failed:
            return failed[0]
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.1)


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Give the rest a moment to end by themselves, then end them."""
    deadline = time.monotonic() + (
        _LAST_WORDS_S if all(process.returncode in (0, None) for process in processes) else 5
    )
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])
