"""Run-length coded masks as COCO and SAM 2 store them: `{"size": [height, width], "counts": ...}`.

Pixels are counted column by column; the first run is of zeros. `counts` is a list of run lengths, or a text: run
lengths, from the fourth on as differences to the one two before, in groups of five bits, lowest first, each group as
the character 48 + its value, plus 32 where another follows; the last group's fifth bit is the sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def decode_counts(text: str) -> list[int]:
    """The run lengths in a text. Raises `ValueError` where it is no such text."""
    runs: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            if at >= len(text):
                raise ValueError("the counts end in the middle of a number")
            group = ord(text[at]) - 48
            if not 0 <= group < 64:
                raise ValueError(f"the counts hold the character {text[at]!r}")
            value |= (group & 31) << shift
            shift, at, more = shift + 5, at + 1, bool(group & 32)
            if not more and group & 16:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def encode_counts(runs: list[int]) -> str:
    """The text of run lengths."""
    out = []
    for at, run in enumerate(runs):
        value = run - runs[at - 2] if at > 2 else run
        while True:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            out.append(chr(48 + (group | 32 if more else group)))
            if not more:
                break
    return "".join(out)


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """(H, W) bool. Raises `ValueError` saying what is wrong with it."""
    size, counts = rle.get("size"), rle.get("counts")
    if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
        raise ValueError(f'"size" is {size!r}; wanted [height, width]')
    if isinstance(counts, str):
        counts = decode_counts(counts)
    if not isinstance(counts, (list, tuple)) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ValueError('"counts" is neither a list of run lengths nor their text')
    height, width = size
    if sum(counts) != height * width:
        raise ValueError(f'"counts" add up to {sum(counts)} pixels, "size" to {height * width}')
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def encode_rle(mask: np.ndarray, *, text: bool = True) -> dict[str, Any]:
    """A mask (H, W) bool as COCO stores it."""
    flat = np.asarray(mask, bool).T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], ends, [len(flat)]])).tolist()
    if len(flat) and flat[0]:
        runs = [0, *runs]
    return {"size": list(mask.shape), "counts": encode_counts(runs) if text else runs}
