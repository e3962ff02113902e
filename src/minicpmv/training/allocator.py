"""Memory that a training step frees and the next one needs again.

glibc gives large blocks back to the system as soon as they are freed and asks for them again a moment later; every page
is then cleared and mapped anew. On a small machine that was half of all processor time of the vision stage
(docs/log.md). Kept memory costs nothing here, because a step always needs as much as the one before.

What is kept falls to pieces over hours, and glibc looks for aligned blocks among them one by one: a quarter of the time
of a run. Other allocators do not; they have to be there before the process begins, so whoever starts processes asks
`environment_for_training`.
"""

import ctypes
import ctypes.util
import sys
from collections.abc import Mapping

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
"""Names of glibc's malloc.h."""

_LARGEST_THRESHOLD = 32 * 2**20  # glibc refuses more
_RESERVE = 2**30
"""Addresses, not memory, that the heap grows by; blocks above the threshold are taken from them while they last."""


_ALLOCATORS = ("jemalloc", "tcmalloc_minimal")


def environment_for_training(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a training process: with a better allocator, if the system has one.

    Args:
        environment: what it would be; a `LD_PRELOAD` that is there is left as it is.
    """
    chosen = dict(environment)
    if sys.platform.startswith("linux") and "LD_PRELOAD" not in environment:
        found = next(filter(None, map(ctypes.util.find_library, _ALLOCATORS)), None)
        if found is not None:
            chosen["LD_PRELOAD"] = found
    return chosen


def keep_freed_memory() -> bool:
    """Make malloc keep what is freed, for the rest of the process; returns whether this C library can.

    Call it before threads are started: each of them would bring an arena of its own.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    mallopt = getattr(library, "mallopt", None)
    if mallopt is None:  # musl and others
        return False
    settings = {
        _MMAP_THRESHOLD: _LARGEST_THRESHOLD,
        _TRIM_THRESHOLD: 2**31 - 1,
        _TOP_PAD: _RESERVE,
        _ARENA_MAX: 1,
    }
    if not all(mallopt(name, value) == 1 for name, value in settings.items()):
        return False
    library.malloc.restype = ctypes.c_void_p
    library.free(ctypes.c_void_p(library.malloc(ctypes.c_size_t(_LARGEST_THRESHOLD // 2))))
    return True
