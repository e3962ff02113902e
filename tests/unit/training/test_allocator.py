"""Freed memory is kept: the second step does not pay for its pages again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minicpmv.training import allocator
from minicpmv.training.allocator import environment_for_training

SCRIPT = """
import resource, sys
import numpy as np
from minicpmv.training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    block = np.empty(40_000_000, np.uint8)
    block[::4096] = 1
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    command = [sys.executable, "-c", SCRIPT, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_blocks_are_paid_for_once() -> None:
    """Measured: about 800 new pages with it, about 28,400 without."""
    assert page_faults("keep") < 2_000


def test_a_training_process_gets_what_the_system_has_and_keeps_what_the_user_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"tcmalloc_minimal": "libtcmalloc_minimal.so.4"}
    monkeypatch.setattr(allocator.ctypes.util, "find_library", installed.get)
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    found = environment_for_training({"NAME": "value"})
    assert found == {"NAME": "value", "LD_PRELOAD": "libtcmalloc_minimal.so.4"}
    installed["jemalloc"] = "libjemalloc.so.2"
    assert environment_for_training({})["LD_PRELOAD"] == "libjemalloc.so.2"
    own = {"LD_PRELOAD": "mine.so"}
    assert environment_for_training(own) == own
    installed.clear()
    assert "LD_PRELOAD" not in environment_for_training({})
