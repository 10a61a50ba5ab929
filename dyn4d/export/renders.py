"""Renders of the moving Gaussians: the input's views, a fixed view and an orbit, as PNGs and videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.types import Camera, GaussianCloud, RenderOutput, Timeline
from dyn4d.export.config import RenderConfig
from dyn4d.export.views import Extent, fill_poses, fixed_view, orbit_views
from dyn4d.gaussians.warp import move_cloud
from dyn4d.io.images import read_rgb, write_png
from dyn4d.io.video import write_mp4
from dyn4d.raster import rasterization

BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "grey": (0.5, 0.5, 0.5), "black": (0.0, 0.0, 0.0)}


@torch.no_grad()
def render_cloud(cloud: GaussianCloud, camera: Camera, background: Tensor | tuple[float, ...]) -> RenderOutput:
    """Draw a cloud (world space) into one camera or a batch of C.

    Args:
        cloud: G Gaussians, already at the time that is to be drawn.
        camera: with or without a batch dimension; it becomes C = 1 without.
        background: rgb in [0, 1].
    """
    poses = camera.cam_from_world.reshape(-1, 4, 4).to(cloud.means)
    K = camera.K.reshape(-1, 3, 3).to(cloud.means)
    colour = torch.as_tensor(background, dtype=cloud.means.dtype, device=cloud.means.device).reshape(1, 3)
    drawn, alpha, info = rasterization(
        cloud.means, cloud.quats_wxyz, cloud.scales, cloud.opacities, cloud.sh, poses, K, camera.width, camera.height,
        sh_degree=cloud.sh_degree, packed=False, backgrounds=colour.expand(len(K), 3), render_mode="RGB+ED",
    )  # fmt: skip
    depth = torch.where(alpha > 1e-4, drawn[..., 3:4], torch.zeros_like(alpha))
    return RenderOutput(drawn[..., :3], alpha, depth, info["means2d"], info["radii"])


def to_uint8(rgb: Tensor) -> np.ndarray:
    """Colours (..., 3) in [0, 1] -> uint8, clamped and rounded."""
    return (rgb.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def background_colour(config: RenderConfig, clip_colour: tuple[float, ...] | list[float] | None) -> tuple[float, ...]:
    """The rgb in [0, 1] that the options name; grey where the clip's own is asked for and unknown."""
    if config.background == "clip":
        return tuple(clip_colour) if clip_colour is not None else BACKGROUNDS["grey"]
    return BACKGROUNDS[config.background]


@torch.no_grad()
def find_extent(cloud: GaussianCloud, field: Field, times: np.ndarray, *, most: int = 12) -> Extent:
    """Where the middle 99.8 % of the solid Gaussians are at the F `times`, measured at up to `most` of them."""
    solid = cloud.means[cloud.opacities > 0.1]
    means = solid if len(solid) >= 8 else cloud.means
    picked = np.unique(np.linspace(0, len(times) - 1, min(most, len(times))).round().astype(int))
    centres, corners, radius = [], [], 0.0
    for row in picked:
        moved = field.from_canonical(means, float(times[row])).double().cpu()
        cut = len(moved) // 1000
        order = moved.sort(dim=0).values
        low, high = order[cut], order[len(order) - 1 - cut]
        centre = (low + high) / 2
        reach = (moved - centre).norm(dim=-1).sort().values
        centres.append(centre)
        corners.append(torch.cartesian_prod(*torch.stack([low, high], dim=1)))
        radius = max(radius, float(reach[len(reach) - 1 - 2 * cut]))
    found = torch.stack(centres).numpy()
    path = np.stack([np.interp(times, times[picked], found[:, axis]) for axis in range(3)], axis=-1)
    return Extent(torch.from_numpy(path), radius, torch.cat(corners))


def render_views(
    cloud: GaussianCloud, field: Field, timeline: Timeline, *, cameras: Camera, config: RenderConfig
) -> dict[str, Camera]:
    """The F cameras of each render that the options name."""
    count = len(timeline)
    filled = fill_poses(cameras)
    views: dict[str, Camera] = {}
    extent = find_extent(cloud, field, timeline.times)
    for name in config.which:
        if name == "tracks":  # drawn over the clip's own pictures, in `trails`
            continue
        if name == "input":
            views[name] = filled
        elif name == "fixed":
            fixed = fixed_view(filled, extent)
            views[name] = replace(
                fixed, K=fixed.K.expand(count, 3, 3), world_from_cam=fixed.world_from_cam.expand(count, 4, 4)
            )
        else:
            views[name] = orbit_views(filled, extent, turns=config.orbit_turns)
    return views


def is_whole(path: Path) -> bool:
    """Was this PNG written to its end? Pictures are renamed into place, so all that is left is an empty file."""
    return path.is_file() and path.stat().st_size > 0


def write_renders(
    cloud: GaussianCloud,
    field: Field,
    timeline: Timeline,
    *,
    cameras: Camera,
    out: Path,
    config: RenderConfig,
    clip_colour: tuple[float, ...] | list[float] | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write `out/{input,fixed,orbit}/000000.png ...` for each clip frame and `out/{input,fixed,orbit}.mp4`.

    Pictures that are already there are kept: an interrupted run goes on from the first missing one.

    Args:
        cloud: canonical Gaussians. field: moves them. timeline: all F frames of the clip.
        cameras: F cameras; those without a pose are interpolated.
        out: the folder to fill (the caller renames it when all is done).
        clip_colour: colour outside the clip's masks, for `background: clip`.

    Returns:
        the videos.
    """
    progress = progress or SilentProgress()
    background = background_colour(config, clip_colour)
    views = render_views(cloud, field, timeline, cameras=cameras, config=config)
    for name in views:
        (out / name).mkdir(parents=True, exist_ok=True)
    missing = {i: [n for n in views if not is_whole(out / n / f"{i:06d}.png")] for i in range(len(timeline))}
    todo = [i for i, names in missing.items() if names]
    progress.start("render", len(timeline), len(timeline) - len(todo))
    for index in todo:
        moved = move_cloud(cloud, field, float(timeline.times[index]))
        for name in missing[index]:
            picture = render_cloud(moved, views[name][index], background).rgb[0]
            write_png(out / name / f"{index:06d}.png", to_uint8(picture))
        progress.update()
    progress.finish()
    fps = config.fps or timeline.fps
    videos = []
    for name in views:
        write_mp4(out / f"{name}.mp4", stored_pictures(out / name, len(timeline)), fps)
        videos.append(out / f"{name}.mp4")
    return videos


def stored_pictures(folder: Path, count: int) -> Iterator[np.ndarray]:
    """`folder/000000.png ...`, one after the other."""
    for index in range(count):
        yield read_rgb(folder / f"{index:06d}.png")
