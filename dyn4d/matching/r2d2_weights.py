"""Weights of R2D2 networks: ours and the published files, read and checked. Nothing in them is ever run.

Ours, trained by `dyn4d train-matcher`, are safetensors files; a small one comes with dyn4d (`SMALL`, with a model card
beside it). The published ones are dictionaries {"net": the network's constructor call as text, "state_dict": tensors},
written by torch versions before 1.6 or after. The text is not evaluated: the name in it has to be that of a known
network, whose sizes the tensors tell. A file has to hold exactly the tensors of its network; what is missing or left
over is named.
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
from dyn4d.core.listing import tensor_list
from dyn4d.core.protocols import resolve_device
from dyn4d.io.checkpoint import load_tensors, save_tensors
from dyn4d.io.tensor_files import file_kind, read_pth
from dyn4d.matching.r2d2_extract import R2D2
from dyn4d.matching.r2d2_network import WIDTHS, R2D2Network, convolutions

log = logging.getLogger(__name__)

NETWORK = "Quad_L2Net_ConfCFS"
# Whole numbers as arguments are widths, which the tensors tell too. Others may change what the network does.
CONSTRUCTOR = re.compile(r"\s*(\w+)\s*\(\s*((?:\w+\s*=\s*)?\d+\s*(?:,\s*(?:\w+\s*=\s*)?\d+\s*)*,?)?\s*\)\s*")
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch began its files before 1.6
LICENCE = "CC BY-NC-SA 3.0 (not for commercial use) if these are the published weights of R2D2"
OWN_LICENCE = "Apache-2.0, as dyn4d: trained by dyn4d on pictures of its own making"
OWN_FORMAT = "dyn4d-r2d2/1"
SMALL = Path(__file__).parent / "weights" / "r2d2_small.safetensors"
FORM = 'a dictionary with "net" and "state_dict"'
MEND = "fetch it again from where R2D2 is published"


def load_r2d2(path: str | Path | None = None, device: torch.device | str = "cpu") -> R2D2:
    """R2D2 with the weights of a file, in float32, ready to extract keypoints.

    Args:
        path: a file in the form of the published weights, such as `r2d2_WASF_N16.pt`, or one that
            `dyn4d train-matcher` wrote; None = the small network that comes with dyn4d.
        device: "auto", "cpu", "cuda" …

    Returns:
        Its `licence` says what is known of the weights' terms.

    Raises:
        InputError: the file is missing, damaged, holds anything but tensors and plain values, is of another network,
            or does not hold exactly the tensors of its network.
    """
    where = resolve_device(str(device))
    file = weights_file(path)
    tensors, licence = _tensors(file)
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
    log.info("%s: weights: %s", file, licence)
    return R2D2(network.eval(), licence)


def weights_file(path: str | Path | None) -> Path:
    """The file that `load_r2d2` reads; that of the small network where none is named."""
    return Path(path).expanduser() if path else SMALL


def save_r2d2(network: R2D2Network, file: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write a network of ours, which `load_r2d2` reads: its tensors as they are, its widths, and what `about` says."""
    tensors = {name: value for name, value in network.state_dict().items() if not _is_counter(name)}
    head = {"licence": OWN_LICENCE, "widths": list(network.widths), **(about or {})}
    save_tensors(file, tensors, head, OWN_FORMAT)


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == "num_batches_tracked"


def _width(weight: Any, usual: int) -> int:
    """Output channels of a convolution; what is wrong with it is said later, where all tensors are checked."""
    return weight.shape[0] if isinstance(weight, Tensor) and weight.ndim == 4 and len(weight) else usual


# ----------------------------------------------------------------------------------------------- reading


def weights_kind(file: Path) -> str:
    """Whether the first bytes are those of an "old", a "pth" or a "safetensors" file; nothing else is read.

    Raises:
        InputError: it is not there, empty, or something else.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(len(OLD_FORMAT))
    except OSError:
        start = b""  # said by `file_kind`
    return "old" if start == OLD_FORMAT else file_kind(file)


def _tensors(file: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors by key, on the CPU, and what is known of their licence."""
    kind = weights_kind(file)
    if kind == "old":
        return _state_dict(_read_old(file), file), LICENCE
    if kind == "pth":
        return _state_dict(read_pth(file, []), file), LICENCE
    saved = load_tensors(file, None)
    if saved.format != OWN_FORMAT:
        raise InputError(
            f"{file} holds no R2D2 of dyn4d's (format {saved.format or 'unknown'!r}, wanted {OWN_FORMAT!r}); the "
            f"published weights are wanted as they are, a .pt file, {FORM}"
        )
    for name, value in saved.tensors.items():
        if not value.is_floating_point():
            raise InputError(f"{file}: {name} is not a tensor of real numbers; {MEND}")
    licence = saved.config.get("licence")
    return saved.tensors, licence if isinstance(licence, str) else OWN_LICENCE


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
        parts = [f"{tensor_list(missing)} missing"] * bool(missing) + [f"{tensor_list(extra)} too many"] * bool(extra)
        raise InputError(f"{file} does not fit the network {NETWORK}: {'; '.join(parts)}; {MEND}")
    for name, value in wanted.items():
        if tensors[name].shape != value.shape:
            found = tuple(tensors[name].shape)
            raise InputError(f"{file}: {name} has shape {found}, wanted {tuple(value.shape)}; {MEND}")
        if not torch.isfinite(tensors[name]).all():
            raise InputError(f"{file} is damaged: {name} is not finite everywhere; {MEND}")
        if name.endswith("running_var") and bool((tensors[name] < 0).any()):
            raise InputError(f"{file} is damaged: {name}, a variance, is negative in places; {MEND}")
