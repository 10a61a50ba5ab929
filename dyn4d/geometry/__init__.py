"""Images → cameras and points: the sources of geometry and the lifting of matches to 3D.

Lazy: `import dyn4d.geometry.config` does not import torch. Lifting is in `dyn4d.geometry.lift`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.geometry.config import GeometryConfig as GeometryConfig
    from dyn4d.geometry.rgbd import frames_from_depth as frames_from_depth
    from dyn4d.geometry.sources import choose_source as choose_source
    from dyn4d.geometry.sources import solve_geometry as solve_geometry
    from dyn4d.geometry.weights import describe_weights as describe_weights
    from dyn4d.geometry.weights import load_pair_network as load_pair_network

_WHERE = {
    "GeometryConfig": "config",
    "choose_source": "sources",
    "solve_geometry": "sources",
    "frames_from_depth": "rgbd",
    "load_pair_network": "weights",
    "describe_weights": "weights",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
