"""What a stage has matched so far, kept in files of its own so that a stopped run goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np


def load_columns(path: Path, needed: Iterable[str]) -> dict[str, np.ndarray] | None:
    """The arrays that an earlier run left by name, or None where the file is missing, damaged or lacks one of `needed`:
    then it is made again."""
    try:
        with np.load(path, allow_pickle=False) as data:
            found = {name: data[name] for name in data.files}
    except Exception:  # a damaged archive can fail in any way at all, with MemoryError too
        return None
    return found if all(name in found for name in needed) else None


def save_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write them under another name first, so that no reader sees half a file."""
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez(temporary, **columns)  # type: ignore[arg-type]
    temporary.replace(path)
