"""How much memory is left, on the device or in the machine."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_CGROUPS = (  # limit and use of a container, in bytes: version 2, version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be used on a device without taking them from anybody; None where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [number for number in (_available(), *(_container(*files) for files in _CGROUPS)) if number is not None]
    return min(found) if found else None


def _available() -> int | None:
    """What the system could give a new program."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
        return None
    except (OSError, ValueError):
        pass
    try:  # macOS and others: free pages only, without what the system would give back
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _container(limit: str, used: str) -> int | None:
    try:
        return max(int(Path(limit).read_text(encoding="ascii")) - int(Path(used).read_text(encoding="ascii")), 0)
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return None


def ran_out(error: Exception) -> bool:
    """Does an error of torch say that there was too little memory?"""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
