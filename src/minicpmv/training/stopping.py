"""Ctrl-C and SIGTERM during training: the step that runs is finished and saved, then the run stops.

    with stopping() as stop: for each step: ... ; if stop.asked: save, break
    afterwards KeyboardInterrupt, as if nobody had caught it

A second one, or one outside of the steps, stops at once. Schedulers send SIGTERM some time before they kill.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

_SAME_S = 1.0
"""A terminal sends SIGINT to all processes of a command, and the one that has started the others passes it on."""

_GRACE_S = 30
"""Schedulers wait about as long between SIGTERM and SIGKILL."""


@dataclass(slots=True)
class Stop:
    """Whether somebody wants the run to stop."""

    asked: bool = False
    asked_at: float = 0.0

    def hear(self, number: int, frame: FrameType | None) -> None:
        """A signal has come.

        Raises:
            KeyboardInterrupt: it is not the first.
        """
        if self.asked and time.monotonic() - self.asked_at > _SAME_S:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.asked_at = True, time.monotonic()


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Hear SIGINT and SIGTERM for as long as steps are done; outside of the main thread nothing is heard.

    Raises:
        KeyboardInterrupt: at the end, if somebody has asked.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Who has started this may have said that SIGINT is to be ignored, as shells do in the background of a script.
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, stop.hear)
    try:
        yield stop
    finally:
        for number in heard:
            signal.signal(number, before[number])
    if stop.asked:
        raise KeyboardInterrupt


def leave_stopping_to_others(_: int = 0) -> None:
    """In a data worker: who trains decides when to stop, and would fail if a worker ended before.

    A worker that nobody has told to end ends by itself some time after SIGTERM: Python gets rid of its last children
    in that way, and waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
