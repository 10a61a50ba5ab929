"""Files and folders that are there whole or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dyn4d.core.errors import InputError, RunError


def _umask() -> int:
    mask = os.umask(0o077)  # can only be read by setting it
    os.umask(mask)
    return mask


UMASK = _umask()


def _temporary_beside(path: Path) -> Path:
    # The suffix stays last: encoders choose the format by it. The leading dot keeps it out of folder listings.
    return path.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{path.name}")


def _explain(error: OSError, path: Path) -> RunError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"disk full while writing {path}; free some space and run the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RunError(f"no permission to write {path}; choose another folder with --out")
    return RunError(f"cannot write {path}: {error.strerror or error}")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path` to write to; it becomes `path` when the block ends well and is removed
    when it does not. The folder is made if needed.

    Raises:
        RunError: the disk is full, or the place cannot be written.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with suppress(PermissionError):  # some writers make files that nobody else may read
            temporary.chmod(0o666 & ~UMASK)
        temporary.replace(path)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        with suppress(OSError):  # the folder itself may be what could not be made
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new temporary folder beside `path` to fill; it takes the place of `path` (what was there is removed) when the
    block ends well, and is removed when it does not. Raises `RunError` as `atomic_path` does."""
    path = Path(path)
    temporary = _temporary_beside(path)
    old = _temporary_beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.replace(old)  # a folder cannot be renamed over a filled one
        temporary.replace(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.replace(path)
        raise _explain(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _plain(value: Any) -> Any:
    """The same value in JSON's own types; NaN and infinities become null, arrays and tensors lists."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, tensors
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_text(value: Any) -> str:
    """`value` as indented JSON. NumPy values and tensors are taken; what is not finite becomes null."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON. NumPy values and tensors are taken; what is not finite becomes null."""
    text = json_text(value)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `InputError` naming the file (and line) where it is missing or damaged."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not whole JSON (line {error.lineno}, column {error.colno}: {error.msg}); mend or remove it"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: wanted a JSON object {{…}} at the top, found a {type(value).__name__}")
    return value
