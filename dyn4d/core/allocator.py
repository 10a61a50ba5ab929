"""What the process does with memory that it has freed."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of glibc's mallopt
_PAD = 64 * 2**20


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, for itself to use again; False where the system has no such switch.

    glibc asks the system for each large block anew and gives it back when it is freed, so that every tensor of a
    training step is paid for a page at a time. For programs that do one thing over and over: peaks stay taken.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _PAD))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)
