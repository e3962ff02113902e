"""Memory that a training step frees and the next one needs again.

glibc gives large blocks back to the system as soon as they are freed and asks for them again a moment later; every page
is then cleared and mapped anew. On a small machine that was half of all processor time of the vision stage
(docs/log.md). Kept memory costs nothing here, because a step always needs as much as the one before.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
"""Names of glibc's malloc.h."""

_LARGEST_THRESHOLD = 32 * 2**20  # glibc refuses more
_RESERVE = 2**30
"""Addresses, not memory, that the heap grows by; blocks above the threshold are taken from them while they last."""


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
