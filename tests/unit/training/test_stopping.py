"""Signals during training: the first asks, the second stops, and handlers are given back."""

import signal
import subprocess
import sys
import threading

import pytest

from minicpmv.training import stopping as module
from minicpmv.training.stopping import Stop, stopping


def test_the_first_signal_only_asks_and_the_end_is_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)
    steps: list[bool] = []

    def train() -> None:
        with stopping() as stop:
            signal.raise_signal(signal.SIGTERM)
            steps.append(stop.asked)

    with pytest.raises(KeyboardInterrupt):
        train()
    assert steps == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_nobody_has_asked() -> None:
    with stopping() as stop:
        pass
    assert not stop.asked


def test_the_same_ctrl_c_may_arrive_twice_and_another_one_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    stop = Stop()
    stop.hear(signal.SIGINT, None)
    now += 0.5
    stop.hear(signal.SIGINT, None)
    now += 1.0
    with pytest.raises(KeyboardInterrupt):
        stop.hear(signal.SIGINT, None)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping() as stop:
            signal.raise_signal(signal.SIGINT)
        assert not stop.asked
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_hears_nothing_and_breaks_nothing() -> None:
    found: list[bool] = []

    def train() -> None:
        with stopping() as stop:
            found.append(stop.asked)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_data_worker_outlives_sigterm_for_a_while_and_no_longer() -> None:
    """It inherits the handlers of who trains; Python ends forgotten workers by SIGTERM and waits for them."""
    script = """
import os, signal, time
from minicpmv.training import stopping
with stopping.stopping():
    stopping._GRACE_S = 1
    stopping.leave_stopping_to_others()
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    print("alive", flush=True)
    time.sleep(20)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "alive\n"
    assert done.returncode == -signal.SIGALRM
