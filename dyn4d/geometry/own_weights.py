"""Weights of dyn4d's own pair networks: one safetensors file that says what network it is for, and on what terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.geometry.config import USUAL_DEPTH_ERROR
from dyn4d.geometry.network_config import PairNetworkConfig
from dyn4d.io.checkpoint import read_head, save_tensors

FORMAT = "dyn4d-pair-network/1"
LICENCE = "Apache-2.0, as dyn4d: trained by dyn4d on pictures of its own making"
NAME = "small"
SMALL = Path(__file__).parent / "weights" / "small.safetensors"


def save_own_weights(
    file: Path, config: PairNetworkConfig, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None
) -> None:
    """Write a network's weights as half-precision numbers, of two bytes each, and what `about` says (JSON values)."""
    halves = {name: tensor.detach().to(torch.float16) for name, tensor in tensors.items()}
    head = {"licence": LICENCE, "network": asdict(config), **(about or {})}
    save_tensors(file, halves, head, FORMAT)


@dataclass(frozen=True)
class OwnWeights:
    """What a file of ours says of itself.

    Attributes:
        config: of its network. licence: its terms. depth_error: relative error of depth that was measured with it.
    """

    config: PairNetworkConfig
    licence: str
    depth_error: float


def own_network(file: Path) -> OwnWeights | None:
    """What a file of ours says of itself; None where it is another's.

    Raises:
        InputError: it is one of ours, but of another version, or damaged.
    """
    found, head = read_head(file)
    if found != FORMAT:
        return None
    values = head.get("network")
    known = {f.name for f in fields(PairNetworkConfig)}
    if not isinstance(values, dict) or not set(values) <= known:
        raise InputError(f"{file}: its configuration is of another version of dyn4d; get it again")
    plain: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        config = PairNetworkConfig(**plain)
    except (TypeError, InputError) as error:
        raise InputError(f"{file}: its configuration makes no network ({error}); get it again") from error
    metrics = head.get("metrics")
    error = head.get("depth_error", metrics.get("depth") if isinstance(metrics, dict) else None)
    if not isinstance(error, (int, float)) or not 0 < error < 1:
        error = USUAL_DEPTH_ERROR
    return OwnWeights(config, str(head.get("licence", LICENCE)), float(error))


def small_weights() -> Path | None:
    """The small network that comes with dyn4d; None where this copy has none."""
    return SMALL if SMALL.is_file() else None


def require_small() -> Path:
    """The same. Raises `InputError` where this copy of dyn4d has none."""
    if (file := small_weights()) is None:
        raise InputError(
            f"the weights {NAME!r} do not come with this copy of dyn4d; dyn4d train-geometry --out FILE makes some "
            "(then --geometry.weights FILE), or name those of a MASt3R or DUSt3R network"
        )
    return file
