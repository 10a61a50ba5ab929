"""Who matches whom in a clip, and how: pair graphs, reciprocal nearest neighbours, coarse to fine, optical flow,
R2D2 → `Correspondences`.

Lazy: `import dyn4d.matching.config` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.matching.chain import ChainMatcher as ChainMatcher
    from dyn4d.matching.clip_matching import match_frames as match_frames
    from dyn4d.matching.coarse_to_fine import match_coarse_to_fine as match_coarse_to_fine
    from dyn4d.matching.config import MatchingConfig as MatchingConfig
    from dyn4d.matching.flow import match_clip as match_clip
    from dyn4d.matching.flow_pair import FlowMatcher as FlowMatcher
    from dyn4d.matching.image_size import InputView as InputView
    from dyn4d.matching.image_size import fit_view as fit_view
    from dyn4d.matching.image_size import full_view as full_view
    from dyn4d.matching.image_size import object_view as object_view
    from dyn4d.matching.merge import merge_matches as merge_matches
    from dyn4d.matching.nearest import exact_reciprocal_matches as exact_reciprocal_matches
    from dyn4d.matching.pairs import SceneGraph as SceneGraph
    from dyn4d.matching.pairs import pair_graph as pair_graph
    from dyn4d.matching.pairs import scene_pairs as scene_pairs
    from dyn4d.matching.r2d2_match import R2D2Matcher as R2D2Matcher
    from dyn4d.matching.r2d2_weights import load_r2d2 as load_r2d2
    from dyn4d.matching.reciprocal import extract_correspondences as extract_correspondences
    from dyn4d.matching.reciprocal import fast_reciprocal_matches as fast_reciprocal_matches

_WHERE = {
    "MatchingConfig": "config",
    "pair_graph": "pairs",
    "scene_pairs": "pairs",
    "SceneGraph": "pairs",
    "fast_reciprocal_matches": "reciprocal",
    "extract_correspondences": "reciprocal",
    "exact_reciprocal_matches": "nearest",
    "match_coarse_to_fine": "coarse_to_fine",
    "InputView": "image_size",
    "fit_view": "image_size",
    "full_view": "image_size",
    "object_view": "image_size",
    "match_clip": "flow",
    "match_frames": "clip_matching",
    "merge_matches": "merge",
    "ChainMatcher": "chain",
    "FlowMatcher": "flow_pair",
    "load_r2d2": "r2d2_weights",
    "R2D2Matcher": "r2d2_match",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
