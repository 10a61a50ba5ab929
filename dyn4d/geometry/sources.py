"""Which source gives the geometry, and calling it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Clip, GeometryResult
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.rgbd import require_rgbd
from dyn4d.geometry.weights import require_weights
from dyn4d.io.pointmaps import find_pointmaps
from dyn4d.matching.config import MatchingConfig


def choose_source(clip: Clip, config: GeometryConfig) -> str:
    """The name of the source that `config` and the clip lead to.

    Raises:
        InputError: there is nothing to get geometry from, or weights or maps are not there or cannot be used.
    """
    if config.source == "pointmaps" or (config.source == "auto" and _has_pointmaps(clip, config)):
        from dyn4d.geometry.estimator_source import require_pointmaps

        require_pointmaps(clip, config)
        return "pointmaps"
    if config.source == "mast3r" or (config.source == "auto" and clip.depth is None and config.weights):
        if not config.weights:
            raise InputError(
                "geometry.source mast3r: no weights: give --geometry.weights FILE (a .pth, or a folder with "
                "model.safetensors and config.json) or a model's id on the hub, such as "
                "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric"
            )
        require_weights(config.weights)
        return "mast3r"
    if config.source == "rgbd" or clip.depth is not None:
        require_rgbd(clip)
        return "rgbd"
    raise InputError(
        f"{clip.source}: nothing to get geometry from: add depth maps in depth/ (one file a frame, uint16 PNG or .npy) "
        "and cameras.json with K; or give the weights of a MASt3R or DUSt3R network, --geometry.weights FILE, or what "
        "another estimator left, --geometry.pointmaps PATH"
    )


def _has_pointmaps(clip: Clip, config: GeometryConfig) -> bool:
    """Are maps named, or are they all that the clip folder has?"""
    return bool(config.pointmaps) or (clip.depth is None and find_pointmaps(clip.source) is not None)


def solve_geometry(
    clip: Clip,
    config: GeometryConfig,
    seed: int = 0,
    *,
    matching: MatchingConfig | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    cache: Path | None = None,
) -> GeometryResult:
    """Cameras and the object's points of all frames, by the source that `choose_source` names.

    Args:
        matching: of the flow, where poses are solved from depth. device: for a network.
        cache: a folder for what takes long.
    """
    progress = progress or SilentProgress()
    source = choose_source(clip, config)
    if source == "mast3r":
        from dyn4d.geometry.pair_source import frames_from_pairs

        result = frames_from_pairs(clip, config, device=device, progress=progress, cache=cache)
    elif source == "pointmaps":
        from dyn4d.geometry.estimator_source import frames_from_estimate

        result = frames_from_estimate(clip, config, seed, matching=matching, progress=progress, cache=cache)
    else:
        result = _from_depth(clip, config, seed, matching, progress, cache)
    for line in result.notes:
        progress.note(line)
    return result


def _from_depth(
    clip: Clip,
    config: GeometryConfig,
    seed: int,
    matching: MatchingConfig | None,
    progress: Progress,
    cache: Path | None,
) -> GeometryResult:
    """With the clip's poses, or with solved ones where there are none or the object is to hold them."""
    from dyn4d.geometry.rgbd import frames_from_depth

    given = clip.poses_given and clip.cameras is not None and bool(clip.cameras.registered.any())
    if given and config.anchor != "object":
        return frames_from_depth(clip, config, progress)
    from dyn4d.geometry.depth_alignment import solve_depth_poses

    folder = None if cache is None else cache / "poses"
    solved = solve_depth_poses(clip, matching, anchor=config.anchor, seed=seed, progress=progress, cache=folder)
    result = frames_from_depth(replace(clip, cameras=solved.cameras), config, progress)
    return replace(result, notes=(*solved.notes, *result.notes), poses_solved=True)
