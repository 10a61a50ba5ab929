"""Files of tensors that others wrote: PyTorch's `.pth` and safetensors. Reading one never runs anything in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.io.atomic import atomic_path

ZIP_START = b"PK\x03\x04"
BLOCK = 1 << 22


def file_kind(path: Path) -> str:
    """Whether the first bytes are those of "pth" or "safetensors".

    Raises:
        InputError: it is not there, empty, an old pickle, or something else.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not start:
        raise InputError(f"{path} is empty; fetch it again")
    if start.startswith(ZIP_START):
        return "pth"
    if start[5:9] == b"\0\0\0{":  # the length of the header, then the header
        return "safetensors"
    if start[:1] == b"\x80" or (start[:1] in b"(c" and len(start) == 9 and 0 not in start):
        # Refused unread: older torch versions can be made to run code by such a file even when told not to.
        raise InputError(
            f"{path} is a plain pickle, not a checkpoint of torch 1.6 or newer; if you trust it, load it and save it "
            "again with torch.save"
        )
    raise InputError(f"{path} is no checkpoint (.pth or .safetensors), or is damaged; fetch it again")


@contextmanager
def _only(classes: list[Any]) -> Iterator[None]:
    """Inside, `torch.load(weights_only=True)` makes objects of `classes` besides tensors and plain values."""
    if hasattr(torch.serialization, "safe_globals"):
        with torch.serialization.safe_globals(classes):
            yield
        return
    before = list(torch.serialization.get_safe_globals())  # torch 2.4 has only a list for the whole process
    torch.serialization.add_safe_globals(classes)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def read_pth(path: Path, classes: list[type]) -> Any:
    """What `torch.save` wrote, on the CPU, tensors mapped from the file rather than read.

    Args:
        classes: what may be in it besides tensors, numbers, strings and containers of these. Anything else is refused
            before it is made.

    Raises:
        InputError: it is damaged, cut short, or holds other objects.
    """
    try:
        with _only(classes):
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way at all
        text = str(error)
        named = re.search(r"(?:Unsupported global: GLOBAL|Unsupported class|GLOBAL) ([\w.]+)", text)
        if named:
            raise InputError(
                f"{path} holds Python objects ({named[1]}) and not only tensors; nothing of it was run. Use a file "
                "from a source you trust, or one in safetensors format"
            ) from error
        first = text.strip().splitlines()[0][:120] if text.strip() else type(error).__name__
        raise InputError(f"{path} is damaged, cut short, or no checkpoint ({first}); fetch it again") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises `InputError` where it is damaged or cut short."""
    try:
        with safe_open(str(path), framework="pt", device="cpu") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is damaged or cut short ({error}); fetch it again") from error


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors bit by bit as they are, atomically. No two may share memory."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(plain, str(temporary), metadata={"format": "pt", **metadata})


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
