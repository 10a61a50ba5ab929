"""Renders of the moving Gaussians: the input's views, other paths, frozen time, maps, as PNGs, videos and GIFs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.types import Camera, Clip, GaussianCloud, RenderOutput, Timeline
from dyn4d.export.config import OPAQUE, RenderConfig, RenderName
from dyn4d.export.paint import Painter, confidence_cloud, depth_scale
from dyn4d.export.paint import to_uint8 as to_uint8
from dyn4d.export.view_limit import allowed_turn, view_limit
from dyn4d.export.views import Extent, bullet_views, dolly_views, fill_poses, fixed_view, orbit_views, spiral_views
from dyn4d.gaussians.warp import move_cloud
from dyn4d.io.atomic import write_json
from dyn4d.io.gif import write_gif
from dyn4d.io.images import read_rgb, write_png
from dyn4d.io.video import write_mp4
from dyn4d.raster import rasterization

OFFSETS = 1500  # Gaussians at each time that say how large the object looks
BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "grey": (0.5, 0.5, 0.5), "black": (0.0, 0.0, 0.0)}
BULLET_PICTURES = 72  # of the frozen moment: three seconds at 24 a second, 5 degrees apart in a full turn


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
    centres, corners, offsets, radius = [], [], [], 0.0
    for row in picked:
        moved = field.from_canonical(means, float(times[row])).double().cpu()
        cut = len(moved) // 1000
        order = moved.sort(dim=0).values
        low, high = order[cut], order[len(order) - 1 - cut]
        centre = (low + high) / 2
        reach = (moved - centre).norm(dim=-1).sort().values
        centres.append(centre)
        corners.append(torch.cartesian_prod(*torch.stack([low, high], dim=1)))
        offsets.append(moved[((moved >= low) & (moved <= high)).all(-1)][:: max(len(moved) // OFFSETS, 1)] - centre)
        radius = max(radius, float(reach[len(reach) - 1 - 2 * cut]))
    found = torch.stack(centres).numpy()
    path = np.stack([np.interp(times, times[picked], found[:, axis]) for axis in range(3)], axis=-1)
    return Extent(torch.from_numpy(path), radius, torch.cat(corners), torch.cat(offsets))


@dataclass(frozen=True)
class Shot:
    """One render: N pictures, each of one clip frame's time from its own camera.

    Attributes:
        name: its kind. file: what its folder and its video are called. cameras: N. frames: N frames of the clip.
    """

    name: RenderName
    file: str
    cameras: Camera
    frames: tuple[int, ...]

    def folders(self, config: RenderConfig) -> tuple[str, ...]:
        """The folders that hold its pictures."""
        return (self.file, f"{self.file}_alpha") if config.alpha and self.name not in OPAQUE else (self.file,)


def frozen_frame(config: RenderConfig, count: int) -> int:
    """The frame at which bullet stops time. Raises `InputError` where the clip has no such frame."""
    if config.bullet_frame >= count:
        raise InputError(f"render.bullet_frame: {config.bullet_frame}, but the clip has frames 0 to {count - 1}")
    return config.bullet_frame if config.bullet_frame >= 0 else count // 2


def render_views(
    cloud: GaussianCloud, field: Field, timeline: Timeline, *, cameras: Camera, config: RenderConfig,
    depth_error: float | None = None,
) -> dict[RenderName, Camera]:  # fmt: skip
    """The cameras of each render that the options name: one a frame of the clip, `BULLET_PICTURES` of bullet.

    Args:
        depth_error: relative error that the depth is expected to have, where it was estimated: paths round the object
            then stay near the input's cameras, see `config.view_limit`.
    """
    count, turns = len(timeline), config.orbit_turns
    filled = fill_poses(cameras)
    extent = find_extent(cloud, field, timeline.times)
    limit = view_limit(filled, extent, depth_error) if config.view_limit < 0 else config.view_limit
    within = allowed_turn(filled, extent, limit)
    views: dict[RenderName, Camera] = {}
    for name in config.which:
        if name == "tracks":  # drawn over the clip's own pictures, in `trails`
            continue
        if name in ("input", "compare", "depth"):
            views[name] = filled
        elif name == "fixed":
            fixed = fixed_view(filled, extent)
            views[name] = replace(
                fixed, K=fixed.K.expand(count, 3, 3), world_from_cam=fixed.world_from_cam.expand(count, 4, 4)
            )
        elif name == "spiral":
            views[name] = spiral_views(filled, extent, turns=turns, within=within)
        elif name == "dolly":
            views[name] = dolly_views(filled, extent)
        elif name == "bullet":
            frame = frozen_frame(config, count)
            views[name] = bullet_views(filled, extent, frame=frame, turns=turns, count=BULLET_PICTURES, within=within)
        else:
            views[name] = orbit_views(filled, extent, turns=turns, within=within)
    return views


def plan_shots(
    cloud: GaussianCloud, field: Field, timeline: Timeline, *, cameras: Camera, config: RenderConfig,
    depth_error: float | None = None,
) -> list[Shot]:  # fmt: skip
    """The renders that the options name, without the trails of tracks."""
    count = len(timeline)
    shots = []
    views = render_views(cloud, field, timeline, cameras=cameras, config=config, depth_error=depth_error)
    for name, path in views.items():
        frames = (frozen_frame(config, count),) * len(path) if name == "bullet" else tuple(range(count))
        shots.append(Shot(name, config.file_name(name), path, frames))
    return shots


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
    clip: Clip | None = None,
    depth_error: float | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write `out/<name>/000000.png ...` and `out/<name>.mp4` of each render that the options name but tracks, and
    on request `out/<name>.gif` and `out/<name>_alpha/000000.png ...`. Depth leaves its scale in `out/depth.json`.

    Pictures that are already there are kept: an interrupted run goes on from the first missing one.

    Args:
        cloud: canonical Gaussians. field: moves them. timeline: all F frames of the clip.
        cameras: F cameras; those without a pose are interpolated.
        out: the folder to fill (the caller renames it when all is done).
        clip_colour: colour outside the clip's masks, for `background: clip`.
        clip: all F frames of the clip, for compare. depth_error: see `render_views`.

    Returns:
        the videos.

    Raises:
        InputError: compare without a clip or with another one, confidence where the cloud has none, a frame to freeze
            that the clip has not.
    """
    if "compare" in config.which:
        _check_clip(clip, len(timeline))
    shots = plan_shots(cloud, field, timeline, cameras=cameras, config=config, depth_error=depth_error)
    scale = None
    if "depth" in config.which:
        scale = depth_scale(cloud, field, timeline, fill_poses(cameras))
    painter = Painter(background_colour(config, clip_colour), scale, clip)
    redrawn = {shot.file for shot in shots if _missing(out, (shot.file,), len(shot.frames))}
    _draw(cloud, field, timeline, shots=shots, painter=painter, out=out, config=config, progress=progress)
    if scale is not None:
        write_json(out / "depth.json", {"near": scale.near, "far": scale.far, "colours": "viridis, near is bright"})
    fps = config.fps or timeline.fps
    progress = progress or SilentProgress()
    progress.start("videos", len(shots))
    for shot in shots:
        write_movies(out, shot.file, len(shot.frames), fps, gif=config.gif, changed=shot.file in redrawn)
        progress.update()
    progress.finish()
    return [out / f"{shot.file}.mp4" for shot in shots]


def _draw(
    cloud: GaussianCloud, field: Field, timeline: Timeline, *, shots: Sequence[Shot], painter: Painter, out: Path,
    config: RenderConfig, progress: Progress | None,
) -> None:  # fmt: skip
    """All pictures that are missing. The cloud is moved once for each time."""
    rated = confidence_cloud(cloud) if "confidence" in config.which else None
    by_frame: dict[int, list[tuple[Shot, int]]] = {}
    for shot in shots:
        for i in _missing(out, shot.folders(config), len(shot.frames)):
            by_frame.setdefault(shot.frames[i], []).append((shot, i))
    total, missing = sum(len(shot.frames) for shot in shots), sum(map(len, by_frame.values()))
    progress = progress or SilentProgress()
    progress.start("render", total, total - missing)
    for frame in sorted(by_frame):
        moved = move_cloud(cloud, field, float(timeline.times[frame]))
        # the same Gaussians in the same order, so that the confidence can take the place of the colours
        grey = replace(moved, sh=rated.sh) if rated is not None else moved
        for shot, i in by_frame[frame]:
            drawn = render_cloud(grey if shot.name == "confidence" else moved, shot.cameras[i], painter.background)
            for folder in shot.folders(config):
                path = out / folder / f"{i:06d}.png"
                if not is_whole(path):
                    opaque = folder == shot.file
                    write_png(
                        path,
                        painter.opaque(shot.name, drawn, frame) if opaque else painter.transparent(shot.name, drawn),
                    )
            progress.update()
    progress.finish()


def _check_clip(clip: Clip | None, count: int) -> None:
    if clip is None:
        raise InputError("render.which: compare needs the clip's pictures; give the clip, or leave compare out")
    if len(clip) != count:
        raise InputError(f"render.which: compare: the clip has {len(clip)} frames, the run {count}; leave compare out")


def _missing(out: Path, folders: Sequence[str], count: int) -> list[int]:
    """The pictures that are not in all of these folders."""
    return [i for i in range(count) if not all(is_whole(out / name / f"{i:06d}.png") for name in folders)]


def write_movies(out: Path, name: str, count: int, fps: float, *, gif: bool, changed: bool = True) -> None:
    """`out/<name>.mp4`, and `out/<name>.gif` on request, from `out/<name>/000000.png ...`. Those that are there are
    kept unless pictures have `changed`."""
    video, animation = out / f"{name}.mp4", out / f"{name}.gif"
    if changed or not is_whole(video):
        write_mp4(video, stored_pictures(out / name, count), fps)
    if gif and (changed or not is_whole(animation)):
        write_gif(animation, stored_pictures(out / name, count), count, fps)


def stored_pictures(folder: Path, count: int) -> Iterator[np.ndarray]:
    """`folder/000000.png ...`, one after the other."""
    for index in range(count):
        yield read_rgb(folder / f"{index:06d}.png")
