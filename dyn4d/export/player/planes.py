"""Whole numbers as bytes that compress well, and the list of arrays that a player's data are made of.

Each array of integers is stored as differences along its first axis where that is smaller, folded to non-negative
numbers (0, -1, 1, -2, ... -> 0, 1, 2, 3, ...), and cut into byte planes: all lowest bytes, then all second ones, as
many as the largest number needs. A value is `integer * step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dyn4d.core.errors import InputError

MOST = 2**31 - 2  # integers are at most this large, so that their differences and foldings fit 32 bits unsigned
Entry = dict[str, Any]


def quantise(values: np.ndarray, step: float, most: int = MOST) -> np.ndarray:
    """The nearest multiples of `step` as integers, at most `most` in size."""
    return np.clip(np.rint(np.asarray(values, dtype=np.float64) / step), -most, most).astype(np.int64)


def _fold(integers: np.ndarray) -> np.ndarray:
    return np.where(integers >= 0, 2 * integers, -2 * integers - 1).astype(np.uint64)


def _unfold(folded: np.ndarray) -> np.ndarray:
    signed = folded.astype(np.int64)
    return np.where(signed & 1, -(signed + 1) // 2, signed // 2)


def _bits(integers: np.ndarray) -> float:
    """About how many bits they take: an upper bound of the entropy of numbers of their sizes."""
    return float(np.log2(1.0 + np.abs(integers)).sum())


class ArrayWriter:
    """Collects arrays; `entries` describes them, `payload` holds their bytes."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, name: str, integers: np.ndarray, step: float = 1.0) -> np.ndarray:
        """Store integers under a name and give back the values that a reader will find: `integers * step`."""
        integers = np.ascontiguousarray(integers, dtype=np.int64)
        delta = bool(len(integers) > 1)
        stored = integers
        if delta:
            differences = integers.copy()
            differences[1:] -= integers[:-1]
            delta = _bits(differences) < _bits(integers)
            stored = differences if delta else integers
        folded = _fold(stored.reshape(-1))
        top = int(folded.max()) if folded.size else 0
        planes = max(1, (top.bit_length() + 7) // 8)
        if planes > 4:
            raise ValueError(f"{name}: {top} needs more than 32 bits")
        data = b"".join(
            ((folded >> np.uint64(8 * p)) & np.uint64(255)).astype(np.uint8).tobytes() for p in range(planes)
        )
        self.entries.append(
            {"name": name, "shape": list(integers.shape), "planes": planes, "delta": delta, "step": float(step),
             "offset": self._size}
        )  # fmt: skip
        self._parts.append(data)
        self._size += len(data)
        return integers * float(step)

    @property
    def payload(self) -> bytes:
        return b"".join(self._parts)


def read_arrays(entries: Sequence[Mapping[str, Any]], payload: bytes) -> dict[str, np.ndarray]:
    """The values (float64) of all arrays, by name. Raises `InputError` where the payload is too short."""
    found = {}
    for entry in entries:
        shape = tuple(int(n) for n in entry["shape"])
        count, planes, offset = int(np.prod(shape)), int(entry["planes"]), int(entry["offset"])
        if offset + count * planes > len(payload):
            raise InputError(f"the player's data end before the array {entry['name']} does; export it again")
        raw = np.frombuffer(payload, np.uint8, count * planes, offset).reshape(planes, count).astype(np.uint64)
        folded = sum((raw[p] << np.uint64(8 * p) for p in range(planes)), np.zeros(count, np.uint64))
        integers = _unfold(folded).reshape(shape)
        if entry["delta"]:
            integers = integers.cumsum(axis=0)
        found[entry["name"]] = integers * float(entry["step"])
    return found
