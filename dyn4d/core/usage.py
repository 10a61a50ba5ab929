"""What this process has used: its largest memory, its processor time. Free of torch."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def forget_peak() -> bool:
    """Let `peak_bytes` count from here on. False where the system cannot: it then counts from the program's start."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Most memory that the process has held since it began, or since `forget_peak`; None where nobody tells."""
    try:
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    if sys.platform == "win32":
        return _windows_peak()
    try:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    except (ImportError, OSError):
        return None


def _windows_peak() -> int | None:
    import ctypes

    class Counters(ctypes.Structure):
        _fields_ = [("cb", ctypes.c_uint32), ("faults", ctypes.c_uint32)] + [
            (name, ctypes.c_size_t) for name in ("peak", "now", "a", "b", "c", "d", "page", "page_peak")
        ]

    counters = Counters()
    counters.cb = ctypes.sizeof(counters)
    try:
        windows = ctypes.windll  # type: ignore[attr-defined]
        windows.kernel32.GetCurrentProcess.restype = ctypes.c_void_p
        process = ctypes.c_void_p(windows.kernel32.GetCurrentProcess())
        told = windows.psapi.GetProcessMemoryInfo(process, ctypes.byref(counters), counters.cb)
    except (AttributeError, OSError):
        return None
    return int(counters.peak) if told else None


def machine_seconds() -> float | None:
    """Processor time of all programs on all cores since the machine began; None where nobody tells."""
    try:
        words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        user, nice, system, _, _, *other = (int(word) for word in words[1:9])  # 4th and 5th: idle, waiting
        return (user + nice + system + sum(other)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None


def busy_seconds() -> float:
    """Processor time of all threads of the process so far: what the work took, however many others waited for the same
    processor."""
    return time.process_time()
