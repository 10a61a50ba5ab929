"""The invertible map between each frame's time and canonical space, and its fit on correspondences."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.deformation.config import DeformationConfig as DeformationConfig
    from dyn4d.deformation.field import TrajectoryField as TrajectoryField
    from dyn4d.deformation.files import load_field as load_field
    from dyn4d.deformation.fit import FitResult as FitResult
    from dyn4d.deformation.fit import fit_field as fit_field

_HOME = {
    "DeformationConfig": "config",
    "TrajectoryField": "field",
    "FitResult": "fit",
    "fit_field": "fit",
    "load_field": "files",
}
__all__ = ["DeformationConfig", "FitResult", "TrajectoryField", "fit_field", "load_field"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
