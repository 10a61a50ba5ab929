"""RAFT as a `FlowEstimator`, by torchvision, which is asked for only here and only when RAFT is.

Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020, as in torchvision.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyn4d.core.errors import InputError
from dyn4d.core.listing import tensor_list
from dyn4d.core.protocols import resolve_device
from dyn4d.io.tensor_files import file_kind, read_pth, read_safetensors
from dyn4d.matching.flow_fields import Flow

log = logging.getLogger(__name__)

LICENCE = (
    "RAFT of torchvision (BSD 3-Clause); its published weights were trained on data with terms of their own "
    "(FlyingChairs, FlyingThings3D, Sintel, KITTI, HD1K): see whether these allow your use"
)
INSTALL = 'install it for your torch, such as by pip install "dyn4d[raft]", or use --matching.flow dis'
SIDE, SMALLEST = 8, 128  # both sides are multiples of 8; smaller pictures have no correlation pyramid
FIRST = "feature_encoder.convnormrelu.0.weight"
MODELS = {64: "large", 32: "small"}  # by the first convolution's channels


class RaftFlow:
    """Flow between colour pictures by a network with the call of torchvision's RAFT.

    Args:
        network: (1, 3, H, W) twice, values in [-1, 1], sides multiples of 8 and at least 128 → a list of (1, 2, H, W),
            the last of which is the flow in pixels. device: where it is. licence: see `FlowEstimator`.
    """

    colour = True

    def __init__(self, network: nn.Module, device: torch.device, licence: str = LICENCE) -> None:
        self.network, self.device, self.licence = network, device, licence
        self._lock = threading.Lock()  # the network keeps the correlations of a call in itself

    def __call__(self, picture_a: np.ndarray, picture_b: np.ndarray) -> Flow:
        """(H, W, 3) uint8 RGB each → (H, W, 2) float32. Pictures of other sizes are continued beyond their rims."""
        height, width = picture_a.shape[:2]
        across, down = (max(-(-side // SIDE) * SIDE, SMALLEST) - side for side in (width, height))
        left, top = across // 2, down // 2
        padding = (left, across - left, top, down - top)
        with self._lock, torch.inference_mode():
            both = (F.pad(self._tensor(picture), padding, mode="replicate") for picture in (picture_a, picture_b))
            flow = self.network(*both)[-1][0, :, top : top + height, left : left + width]
            return np.ascontiguousarray(flow.float().permute(1, 2, 0).cpu().numpy())

    def _tensor(self, picture: np.ndarray) -> Tensor:
        values = torch.from_numpy(np.ascontiguousarray(picture)).to(self.device)
        return values.permute(2, 0, 1)[None].float() / 127.5 - 1


def load_raft(weights: str | Path, device: torch.device | str = "cpu") -> RaftFlow:
    """RAFT with weights.

    Args:
        weights: a file of torchvision's RAFT (.pth or .safetensors), which tells by its sizes whether it is the large
            network or the small one; or "large", "small": torchvision's own, which it fetches once and keeps.
        device: "auto", "cpu", "cuda" …

    Raises:
        InputError: torchvision is not there or does not fit torch, there are no weights, or they cannot be fetched, are
            damaged, hold anything but tensors, or not exactly those of the network.
    """
    where = resolve_device(str(device))
    models = check_raft(weights)
    if str(weights) in MODELS.values():
        model, tensors, source = str(weights), _fetch(models, str(weights)), f"torchvision's raft_{weights}"
    else:
        path = Path(weights).expanduser()
        tensors, source = _read(path), str(path)
        model = _model_of(tensors, source)
    network: nn.Module = getattr(models, f"raft_{model}")(weights=None, progress=False)
    _check(network.state_dict(), tensors, model, source)
    network.load_state_dict(dict(tensors), strict=True)
    log.info("%s: weights: %s", source, LICENCE)
    return RaftFlow(network.eval().requires_grad_(False).to(where), where)


def check_raft(weights: str | Path) -> ModuleType:
    """torchvision's models of optical flow, where they and the weights are there; fetches nothing, and reads no more
    than a file's first bytes.

    Raises:
        InputError: no weights are named, the file is none or not there, or torchvision cannot be imported.
    """
    if not str(weights):
        raise InputError(
            "matching.flow raft needs weights: give a file with --matching.flow-weights FILE, or large or small for "
            "those that torchvision fetches (mind their terms), or use --matching.flow dis, which needs none"
        )
    models = _torchvision()
    if str(weights) not in MODELS.values():
        file_kind(Path(weights).expanduser())
    return models


def _torchvision() -> ModuleType:
    """torchvision's models of optical flow. Raises `InputError` where they cannot be imported."""
    try:
        return import_module("torchvision.models.optical_flow")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torchvision":
            raise
        raise InputError(f"matching.flow raft needs torchvision, which is not installed; {INSTALL}") from error
    except (ImportError, RuntimeError, OSError) as error:  # made for another torch
        first = str(error).strip().partition("\n")[0][:120]
        raise InputError(f"torchvision does not fit torch {torch.__version__} ({first}); {INSTALL}") from error


def _fetch(models: ModuleType, model: str) -> Mapping[str, Any]:
    chosen = getattr(models, f"Raft_{model.capitalize()}_Weights").DEFAULT
    try:
        # The name of the file has its checksum, and nothing but tensors is made of it.
        return chosen.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0][:120]
        raise InputError(
            f"the weights of raft_{model} cannot be fetched from {chosen.url} ({first}); fetch them yourself and give "
            "the file with --matching.flow-weights"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """The tensors of a file by key, without the prefix of parallel training."""
    content = read_safetensors(path) if file_kind(path) == "safetensors" else read_pth(path, [])
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path} holds no dictionary of tensors; wanted weights of torchvision's RAFT")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _model_of(tensors: Mapping[str, Any], source: str) -> str:
    first = tensors.get(FIRST)
    model = MODELS.get(first.shape[0]) if isinstance(first, Tensor) and first.ndim == 4 else None
    if model is None:
        raise InputError(f"{source} is not for torchvision's RAFT: {FIRST} is missing or of another size")
    return model


def _check(wanted: Mapping[str, Tensor], tensors: Mapping[str, Any], model: str, source: str) -> None:
    """Exactly the tensors of the network, of their sizes, finite."""
    missing = [name for name in wanted if name not in tensors]
    extra = [name for name in tensors if name not in wanted]
    if missing or extra:
        parts = [f"{tensor_list(missing)} missing"] * bool(missing) + [f"{tensor_list(extra)} too many"] * bool(extra)
        raise InputError(f"{source} does not fit raft_{model}: {'; '.join(parts)}")
    for name, value in wanted.items():
        given = tensors[name]
        if not isinstance(given, Tensor) or given.shape != value.shape:
            found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise InputError(f"{source}: {name} is {found}, wanted {tuple(value.shape)}; no weights of raft_{model}")
        if given.is_floating_point() and not bool(torch.isfinite(given).all()):
            raise InputError(f"{source} is damaged: {name} is not finite everywhere; fetch it again")
