"""Results that one stage hands to the next: .npz files with a JSON header, read without pickle and checked."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.io.atomic import atomic_path

T = TypeVar("T")

FORMAT = "dyn4d-artifact/1"
_HEADER = "__header__"
_DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def _tables(value: Any) -> dict[str, np.ndarray]:
    if isinstance(value, Mapping):
        named = dict(value)
    elif is_dataclass(value):
        named = {f.name: getattr(value, f.name) for f in fields(value)}
    else:
        raise TypeError(f"artifacts.save: wanted a dataclass of tensors or a dictionary, found {type(value).__name__}")
    tables = {}
    for name, item in named.items():
        table = item.detach().cpu().numpy() if isinstance(item, Tensor) else np.asarray(item)
        if table.dtype.hasobject:
            raise TypeError(f"artifacts.save: {name} is not a table of numbers or text")
        tables[str(name)] = table
    return tables


def save(path: str | Path, value: Any, **meta: Any) -> None:
    """Write a dataclass of tensors (`FramePoints`, `Correspondences` …) or a dictionary of arrays, atomically.

    Args:
        path: conventionally ends in .npz; plain `numpy.load` reads the arrays under their names.
        value: what to write.
        meta: JSON values kept in the header, read back with `load_meta`.
    """
    tables = _tables(value)
    header = {
        "format": FORMAT,
        "type": "dict" if isinstance(value, Mapping) else type(value).__name__,
        "arrays": {name: {"shape": list(table.shape), "dtype": str(table.dtype)} for name, table in tables.items()},
        "meta": meta,
    }
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **{_HEADER: text, **tables})  # type: ignore[arg-type]


def _read(path: Path, *, header_only: bool = False) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not path.is_file():
        raise InputError(f"{path} is not there; run the stage that writes it")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if _HEADER not in archive.files:
                raise InputError(f"{path} has no dyn4d header; it was written by something else")
            header = json.loads(archive[_HEADER].tobytes().decode())
            names = [] if header_only else [name for name in archive.files if name != _HEADER]
            tables = {name: archive[name] for name in names}
    except _DAMAGE as error:
        raise InputError(f"{path} is damaged or cut short; remove it and run the stage that writes it again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path} is in a format this version does not read; wanted {FORMAT}")
    return header, tables


def load(path: str | Path, kind: type[T]) -> T:
    """Read what `save` wrote: `kind` is the dataclass, or `dict` for a dictionary of NumPy arrays.

    Raises:
        InputError: missing, damaged, another type than asked for, or arrays that do not fit; names the file.
    """
    path = Path(path)
    header, tables = _read(path)
    wanted = "dict" if kind is dict else kind.__name__
    if header.get("type") != wanted:
        raise InputError(f"{path} holds {header.get('type')}, wanted {wanted}")
    for name, said in header.get("arrays", {}).items():
        table = tables.get(name)
        if table is None or list(table.shape) != said["shape"] or str(table.dtype) != said["dtype"]:
            raise InputError(
                f"{path}: the array {name} is not what the header says; run the stage that writes it again"
            )
    if kind is dict:
        return tables  # type: ignore[return-value]
    missing = [f.name for f in fields(kind) if f.name not in tables]  # type: ignore[arg-type]
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)} inside; run the stage that writes it again")
    try:
        return kind(**{f.name: torch.from_numpy(tables[f.name]) for f in fields(kind)})  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error


def array_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a table's arrays, from its header alone. Raises `InputError` as `load` does."""
    arrays = _read(Path(path), header_only=True)[0].get("arrays", {})
    return {name: tuple(entry["shape"]) for name, entry in arrays.items()}


def load_meta(path: str | Path) -> dict[str, Any]:
    """The `meta` that was given to `save`. Raises `InputError` as `load` does."""
    return _read(Path(path), header_only=True)[0].get("meta", {})
