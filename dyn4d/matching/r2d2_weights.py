"""Weights of R2D2 networks: the published files read and checked. Nothing in them is ever run.

They are dictionaries {"net": the network's constructor call as text, "state_dict": tensors}, written by torch versions
before 1.6 or after. The text is not evaluated: the name in it has to be that of a known network, whose sizes the
tensors tell. A file has to hold exactly the tensors of its network; what is missing or left over is named.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import resolve_device
from dyn4d.io.tensor_files import file_kind, read_pth
from dyn4d.matching.r2d2_extract import R2D2
from dyn4d.matching.r2d2_network import WIDTHS, R2D2Network, convolutions

log = logging.getLogger(__name__)

NETWORK = "Quad_L2Net_ConfCFS"
# Whole numbers as arguments are widths, which the tensors tell too. Others may change what the network does.
CONSTRUCTOR = re.compile(r"\s*(\w+)\s*\(\s*((?:\w+\s*=\s*)?\d+\s*(?:,\s*(?:\w+\s*=\s*)?\d+\s*)*,?)?\s*\)\s*")
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch began its files before 1.6
LICENCE = "CC BY-NC-SA 3.0 (not for commercial use) if these are the published weights of R2D2"
FORM = 'a dictionary with "net" and "state_dict"'
MEND = "fetch it again from where R2D2 is published"


def load_r2d2(path: str | Path, device: torch.device | str = "cpu") -> R2D2:
    """R2D2 with the weights of a file, in float32, ready to extract keypoints.

    Args:
        path: a file in the form of the published weights, such as `r2d2_WASF_N16.pt`.
        device: "auto", "cpu", "cuda" …

    Raises:
        InputError: the file is missing, damaged, holds anything but tensors and plain values, is of another network,
            or does not hold exactly the tensors of its network.
    """
    where = resolve_device(str(device))
    file = Path(path).expanduser()
    tensors = _state_dict(_read(file), file)
    at = convolutions()
    widths = tuple(_width(tensors.get(f"ops.{place}.weight"), usual) for place, usual in zip(at, WIDTHS))
    with torch.device("meta"):
        network = R2D2Network(widths)
    wanted = {name: value for name, value in network.state_dict().items() if not _is_counter(name)}
    _check(wanted, tensors, file)
    network.to_empty(device=where)
    network.requires_grad_(False)
    for name, value in network.state_dict().items():
        if _is_counter(name):
            value.zero_()
        else:
            value.copy_(tensors[name])
    log.info("%s: weights: %s", file, LICENCE)
    return R2D2(network.eval())


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == "num_batches_tracked"


def _width(weight: Any, usual: int) -> int:
    """Output channels of a convolution; what is wrong with it is said later, where all tensors are checked."""
    return weight.shape[0] if isinstance(weight, Tensor) and weight.ndim == 4 and len(weight) else usual


# ----------------------------------------------------------------------------------------------- reading


def _read(file: Path) -> Any:
    """What is in the file, on the CPU."""
    try:
        with file.open("rb") as stream:
            start = stream.read(len(OLD_FORMAT))
    except OSError:
        start = b""  # said by `file_kind`
    if start == OLD_FORMAT:
        return _read_old(file)
    kind = file_kind(file)
    if kind != "pth":
        raise InputError(f"{file} is in {kind} format; wanted a .pt file as published, {FORM}")
    return read_pth(file, [])


def _read_old(file: Path) -> Any:
    """A file of a torch version before 1.6.

    It is handed over as bytes in memory: given a file, torch would also look for an archive of an older form still in
    it, and versions before 2.6 may run code from that one even when told not to.
    """
    try:
        return torch.load(io.BytesIO(file.read_bytes()), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way at all
        lines = str(error).strip().splitlines() or [type(error).__name__]
        named = re.search(r"(?:Unsupported global: GLOBAL|Unsupported class|GLOBAL) ([\w.]+)", str(error))
        if named:
            raise InputError(
                f"{file} holds Python objects ({named[1]}) and not only tensors; nothing of it was run. Use a file "
                "from a source you trust"
            ) from error
        raise InputError(f"{file} is damaged, cut short, or no checkpoint ({lines[0][:120]}); {MEND}") from error


def _state_dict(content: Any, file: Path) -> dict[str, Tensor]:
    """The tensors by key, without the prefix and without the counters that inference does not need."""
    net = content.get("net") if isinstance(content, dict) else None
    saved = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(net, str) or not isinstance(saved, Mapping) or not all(isinstance(name, str) for name in saved):
        raise InputError(f"{file} is not in the form of the published R2D2 weights, {FORM}; {MEND}")
    match = CONSTRUCTOR.fullmatch(net)
    if match is None or match[1] != NETWORK:
        shown = re.sub(r"\s+", " ", net).strip()[:80]
        raise InputError(f"{file} is for the network {shown!r}; only {NETWORK}() is known: use r2d2_WASF_N16.pt")
    tensors: dict[str, Tensor] = {}
    for name, value in saved.items():
        short = name.removeprefix("module.")
        if _is_counter(short):
            continue
        if short in tensors:
            raise InputError(f"{file} holds {short} twice, with and without the prefix module.; {MEND}")
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.layout != torch.strided:
            raise InputError(f"{file}: {name} is not a tensor of real numbers; not weights of R2D2; {MEND}")
        tensors[short] = value
    return tensors


def _check(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: Path) -> None:
    missing = [name for name in wanted if name not in tensors]
    extra = [name for name in tensors if name not in wanted]
    if missing or extra:
        parts = [f"{_names(missing)} missing"] * bool(missing) + [f"{_names(extra)} too many"] * bool(extra)
        raise InputError(f"{file} does not fit the network {NETWORK}: {'; '.join(parts)}; {MEND}")
    for name, value in wanted.items():
        if tensors[name].shape != value.shape:
            found = tuple(tensors[name].shape)
            raise InputError(f"{file}: {name} has shape {found}, wanted {tuple(value.shape)}; {MEND}")
        if not torch.isfinite(tensors[name]).all():
            raise InputError(f"{file} is damaged: {name} is not finite everywhere; {MEND}")
        if name.endswith("running_var") and bool((tensors[name] < 0).any()):
            raise InputError(f"{file} is damaged: {name}, a variance, is negative in places; {MEND}")


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    return f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} ({shown})"
