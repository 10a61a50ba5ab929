"""Images → cameras and points: the sources of geometry, pair networks, alignment, and the lifting of matches to 3D.

Lazy: `import dyn4d.geometry.config` does not import torch. Lifting is in `dyn4d.geometry.lift`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.geometry.alignment import Alignment as Alignment
    from dyn4d.geometry.alignment import AlignmentConfig as AlignmentConfig
    from dyn4d.geometry.alignment import align as align
    from dyn4d.geometry.config import GeometryConfig as GeometryConfig
    from dyn4d.geometry.depth_alignment import solve_depth_poses as solve_depth_poses
    from dyn4d.geometry.pair_config import PairConfig as PairConfig
    from dyn4d.geometry.pair_frames import clip_pair_frames as clip_pair_frames
    from dyn4d.geometry.pair_frames import make_pair_frame as make_pair_frame
    from dyn4d.geometry.pair_inference import look_at_pairs as look_at_pairs
    from dyn4d.geometry.rgbd import frames_from_depth as frames_from_depth
    from dyn4d.geometry.sources import choose_source as choose_source
    from dyn4d.geometry.sources import solve_geometry as solve_geometry
    from dyn4d.geometry.weights import describe_weights as describe_weights
    from dyn4d.geometry.weights import load_pair_network as load_pair_network

_WHERE = {
    "Alignment": "alignment",
    "AlignmentConfig": "alignment",
    "align": "alignment",
    "GeometryConfig": "config",
    "PairConfig": "pair_config",
    "make_pair_frame": "pair_frames",
    "clip_pair_frames": "pair_frames",
    "look_at_pairs": "pair_inference",
    "solve_depth_poses": "depth_alignment",
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
