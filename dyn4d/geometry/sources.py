"""Which source gives the geometry, and calling it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Clip, Correspondences, GeometryResult
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.own_weights import NAME, small_weights
from dyn4d.geometry.rgbd import require_rgbd
from dyn4d.geometry.weights import require_weights
from dyn4d.io.pointmaps import find_pointmaps
from dyn4d.matching.config import MatchingConfig


def choose_source(clip: Clip, config: GeometryConfig) -> str:
    """The name of the source that `config` and the clip lead to.

    Raises:
        InputError: there is nothing to get geometry from, or weights or maps are not there or cannot be used.
    """
    source = config.source if config.source != "auto" else _fitting(clip, config)
    if source == "pointmaps":
        from dyn4d.geometry.estimator_source import require_pointmaps

        require_pointmaps(clip, config)
    elif source == "mast3r":
        if not config.weights and small_weights() is None:
            raise InputError(
                "geometry.source mast3r: no weights: give --geometry.weights FILE (a .pth, or a folder with "
                "model.safetensors and config.json) or a model's id on the hub, such as "
                "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric"
            )
        require_weights(config.weights or NAME)
    elif source == "rgbd":
        require_rgbd(clip)
    else:
        raise InputError(
            f"{clip.source}: nothing to get geometry from: add depth maps in depth/ (one file a frame, uint16 PNG or "
            ".npy) and cameras.json with K; or give the weights of a MASt3R or DUSt3R network, --geometry.weights "
            "FILE, or what another estimator left, --geometry.pointmaps PATH"
        )
    return source


def _fitting(clip: Clip, config: GeometryConfig) -> str:
    """The first source that the clip has all for; else that which lacks least, "" where there is nothing at all."""
    if config.pointmaps:
        return "pointmaps"
    if clip.depth is not None and clip.cameras is not None:
        return "rgbd"
    if find_pointmaps(clip.source) is not None:
        return "pointmaps"
    if config.weights:
        return "mast3r"
    if clip.depth is not None:
        return "rgbd"
    return "mast3r" if small_weights() is not None else ""


def solve_geometry(
    clip: Clip,
    config: GeometryConfig,
    seed: int = 0,
    *,
    matching: MatchingConfig | None = None,
    matches: Correspondences | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    cache: Path | None = None,
) -> GeometryResult:
    """Cameras and the object's points of all frames, by the source that `choose_source` names.

    Args:
        matching: of the flow, where poses are solved. matches: of the flow on the object, if they are known already.
        device: for a network, of the geometry or the flow.
        cache: a folder for what takes long.
    """
    progress = progress or SilentProgress()
    source = choose_source(clip, config)
    if source == "mast3r":
        from dyn4d.geometry.pair_source import frames_from_pairs

        result = frames_from_pairs(
            clip, config, seed, matching=matching, matches=matches, device=device, progress=progress, cache=cache
        )
    elif source == "pointmaps":
        from dyn4d.geometry.estimator_source import frames_from_estimate

        result = frames_from_estimate(
            clip, config, seed, matching=matching, device=device, progress=progress, cache=cache
        )
    else:
        result = _from_depth(clip, config, seed, matching, device, progress, cache)
    if config.source == "auto" and source != "rgbd" and clip.depth is not None and clip.cameras is None:
        unused = "the clip's depth maps are not used, as there is no K for them (cameras.json)"
        result = replace(result, notes=(f"geometry: {unused}", *result.notes))
    for line in result.notes:
        progress.note(line)
    return result


def _from_depth(
    clip: Clip,
    config: GeometryConfig,
    seed: int,
    matching: MatchingConfig | None,
    device: torch.device | str,
    progress: Progress,
    cache: Path | None,
) -> GeometryResult:
    from dyn4d.geometry.depth_cameras import depth_cameras
    from dyn4d.geometry.rgbd import frames_from_depth

    cameras, notes, solved = depth_cameras(
        clip, config, given=clip.poses_given, matching=matching, seed=seed, device=device,
        progress=progress, cache=None if cache is None else cache / "poses",
    )  # fmt: skip
    result = frames_from_depth(replace(clip, cameras=cameras), config, progress)
    return replace(result, notes=(*notes, *result.notes), poses_solved=solved)
