"""Canonical 3D Gaussians, moved by a field, trained together with it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.gaussians.config import GaussiansConfig as GaussiansConfig
    from dyn4d.gaussians.cotrain import CotrainResult as CotrainResult
    from dyn4d.gaussians.cotrain import cotrain as cotrain
    from dyn4d.gaussians.warp import move_cloud as move_cloud

_HOME = {"GaussiansConfig": "config", "CotrainResult": "cotrain", "cotrain": "cotrain", "move_cloud": "warp"}
__all__ = ["CotrainResult", "GaussiansConfig", "cotrain", "move_cloud"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
