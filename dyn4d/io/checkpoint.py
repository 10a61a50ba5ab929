"""Tensors with their configuration, as safetensors: nothing in the file is ever executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from dyn4d.core.errors import InputError
from dyn4d.io.atomic import atomic_path


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        tensors: by name, on the CPU. config: JSON values saved with them. source: the file. format: its format name.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    source: Path
    format: str


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], config: dict[str, Any], format: str) -> None:
    """Write tensors with a JSON configuration, atomically.

    Args:
        path: conventionally ends in .safetensors.
        tensors: any device, shape and dtype; shared memory is written twice.
        config: JSON values.
        format: name and version of the contents, such as "dyn4d-field/1"; asked for again on loading.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"format": format, "config": json.dumps(config)}
    with atomic_path(path) as temporary:
        save_file(plain, str(temporary), metadata=metadata)


def load_tensors(path: str | Path, expect_format: str | None) -> Checkpoint:
    """Read what `save_tensors` wrote; `None` takes any format.

    Raises:
        InputError: missing, damaged, or of another format; names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not there; run the stage that writes it")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as handle:
            metadata = handle.metadata() or {}
            # Clones: the file may be replaced while its memory map would still be in use.
            tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118 - no mapping
        config = json.loads(metadata.get("config", "{}"))
    except (SafetensorError, OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged or cut short ({error}); remove it and run its stage again") from error
    found = metadata.get("format", "")
    if expect_format is not None and found != expect_format:
        raise InputError(f"{path} is of format {found or 'unknown'!r}, wanted {expect_format!r}")
    return Checkpoint(tensors, config, path, found)


def read_head(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Format name and configuration of a safetensors file without its tensors; "" and {} where it has none of ours.

    Raises:
        InputError: missing, or damaged.
    """
    try:
        with safe_open(str(path), framework="pt", device="cpu") as handle:
            metadata = handle.metadata() or {}
        config = json.loads(metadata.get("config", "{}"))
    except (SafetensorError, OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    return metadata.get("format", ""), config if isinstance(config, dict) else {}


def optimiser_tensors(label: str, optimiser: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What an optimiser remembers of named parameters, as tensors to save; `label` tells optimisers apart."""
    return {
        f"adam.{label}|{name}|{key}": value.detach().cpu().clone()
        for name, parameter in parameters.items()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def restore_optimiser(
    label: str, optimiser: Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimiser_tensors` took under this label."""
    prefix = f"adam.{label}|"
    for full, value in tensors.items():
        if full.startswith(prefix):
            name, key = full.removeprefix(prefix).rsplit("|", 1)
            parameter = parameters[name]
            optimiser.state[parameter][key] = value.to(parameter.device if value.dim() else "cpu")
