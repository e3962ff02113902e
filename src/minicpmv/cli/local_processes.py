"""Several training processes on this machine, as `torchrun` would start them, without its pages of advice.

On a CPU one process per core is faster than threads: only a part of a step is multiplication that threads can share.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from minicpmv.cli.console import say
from minicpmv.training.allocator import environment_for_training

_LAST_WORDS_S, _SHORT_S = 300.0, 5.0
"""How long processes may take to end once they are asked to, and once one of them has failed."""


def train_together(words: Sequence[str], folder: Path, number: int, *, threads: int = 1) -> None:
    """Run `minicpmv train` in several processes that train together, and wait for them.

    The first one speaks; what the others have to say is kept in `folder/process-N.log`.

    Args:
        words: of the command, after `minicpmv train`.
        folder: of the run.
        number: processes.
        threads: of each of them.

    Raises:
        typer.Exit: one of them failed, and has said why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        # Told here too: where it is not, accelerate gives each process all cores, and they get in each other's way.
        "OMP_NUM_THREADS": str(threads),
    }
    processes: list[subprocess.Popen[bytes]] = []
    heard = signal.signal(signal.SIGTERM, _as_interrupt)
    # A command in the background of a script ignores SIGINT, and so would its processes, which are stopped by it.
    keyboard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for rank in range(number):
            environment = {**environment_for_training(os.environ), **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", "minicpmv", "train", *words]
            if rank == 0:
                processes.append(subprocess.Popen(command, env=environment))
                continue
            with (folder / f"process-{rank}.log").open("a", encoding="utf-8") as log:
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        signal.signal(signal.SIGINT, keyboard)
        failed = _first_failed(processes)
    except BaseException:  # nobody goes on alone, whatever ended this process
        _end(processes, patience_s=_LAST_WORDS_S)
        raise
    finally:
        signal.signal(signal.SIGINT, keyboard)
        signal.signal(signal.SIGTERM, heard)
    if failed is None:
        _end(processes, patience_s=_LAST_WORDS_S)
        return
    code = processes[failed].returncode
    _end(processes, patience_s=_SHORT_S)
    if code < 0:
        say(f"Process {failed} was ended by {signal.Signals(-code).name}, perhaps for want of memory.")
    elif failed:
        say(f"Process {failed} failed; {folder / f'process-{failed}.log'} says why.")
    raise typer.Exit(code if code > 0 else 1)


def is_first() -> bool:
    """Whether this process speaks for all that train together."""
    return os.environ.get("RANK", "0") == "0"


def leave_the_others() -> None:
    """End the group of processes, if there is one."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _first_failed(processes: Sequence["subprocess.Popen[bytes]"]) -> int | None:
    """Wait until all are done, or one has failed: which one."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            # The others fail soon after, for want of the first; a higher rank alone has a reason of its own.
            return failed[-1] if len(failed) < len(processes) else failed[0]
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.05)


def _end(processes: Sequence["subprocess.Popen[bytes]"], *, patience_s: float) -> None:
    """Give the rest a moment to end by themselves after a word, then end them."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + patience_s
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
