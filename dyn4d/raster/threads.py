"""How many threads the kernels may use, and getting them compiled before they are needed."""

from __future__ import annotations


def warmup() -> None:
    """Compile (or load from numba's cache) what training on the CPU needs. No effect where numba is missing."""
