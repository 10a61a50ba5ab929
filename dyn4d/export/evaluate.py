"""A finished run against ground truth: held-out views, tracks, cameras. The definitions are those of `docs/files.md`.

Everything is compared in the true world. Where the run solved its own cameras, one similarity takes its world there
(`align`); where they were given, nothing is fitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.types import Camera, GaussianCloud, Timeline
from dyn4d.export.align import Alignment, align_cameras, camera_errors
from dyn4d.export.renders import render_cloud
from dyn4d.gaussians.metrics import mean_metrics, mpsnr_so_far, picture_metrics
from dyn4d.gaussians.warp import move_cloud
from dyn4d.io.images import read_mask, read_rgb
from dyn4d.io.truth import Truth, TruthView

NEAR_NAMES = ("high", "low")
NEAR_PREFIX = "near_"
UNKNOWN: dict[str, Any] = {
    "groups": {}, "near": {"mpsnr": None}, "far": {"mpsnr": None}, "track": {"epe_mean": None, "epe_rel": None},
    "camera": {"centre_rel": None, "rotation_deg": None}, "aligned_by": None,
}  # fmt: skip
"""What `evaluate` returns, where there is no ground truth."""


@dataclass(frozen=True)
class Reconstruction:
    """What is evaluated: the result of a run, in the run's world.

    Attributes:
        cloud: canonical Gaussians. field: moves them. timeline: the clip's F frames.
        cameras: the run's F cameras (NaN where unregistered).
        poses_given: the cameras came with the clip and were not solved.
        background: colour behind the object in whole-frame PSNR.
        depth_error: relative error that the depth is expected to have; None where it was measured.
    """

    cloud: GaussianCloud
    field: Field
    timeline: Timeline
    cameras: Camera
    poses_given: bool
    background: tuple[float, ...]
    depth_error: float | None = None


def is_near(view: str) -> bool:
    """Is a view of this name near the clip's own cameras? The others are far."""
    return view.startswith(NEAR_PREFIX) or view in NEAR_NAMES


def object_size(points: Tensor | np.ndarray) -> float:
    """The largest side of the bounding box of all finite points (..., 3)."""
    flat = torch.as_tensor(points).double().reshape(-1, 3)
    flat = flat[torch.isfinite(flat).all(-1)]
    return float((flat.amax(0) - flat.amin(0)).max()) if len(flat) else 0.0


@torch.no_grad()
def track_errors(
    field: Field, times: np.ndarray, tracks_world: Tensor, visible: Tensor, *, alignment: Alignment
) -> Tensor:
    """Distances (M,) in the true world of transported points to the true ones.

    Each point starts where it truly is in the first frame that sees it, and is carried by the field from there to
    every other frame that sees it: those are the M pairs. Points that are never seen, or only once, do not count.

    Args:
        times: (T,) in [0, 1]. tracks_world: (T, N, 3). visible: (T, N) bool.
    """
    visible = visible.bool() & torch.isfinite(tracks_world).all(-1)
    first = visible.to(torch.uint8).argmax(0)
    errors = []
    for start in torch.unique(first[visible.any(0)]).tolist():
        points = torch.nonzero((first == start) & visible.any(0)).flatten()
        source = alignment.to_run(tracks_world[start, points]).float()
        canonical = field.to_canonical(source, float(times[start]))
        for frame in range(start + 1, len(times)):
            seen = visible[frame, points]
            if not bool(seen.any()):
                continue
            moved = alignment.to_true(field.from_canonical(canonical[seen], float(times[frame])))
            errors.append((moved - tracks_world[frame, points[seen]].double()).norm(dim=-1))
    return torch.cat(errors) if errors else torch.zeros(0, dtype=torch.float64)


def view_time(view: TruthView, timeline: Timeline) -> float:
    """The instant of a view in [0, 1]: its own `time` where that lies nearest to the frame it names, as of pictures
    taken between two frames; else that frame's."""
    frame = float(timeline.times[view.index])
    if view.time is None or len(timeline) < 2:
        return frame
    t = (view.time - float(timeline.seconds[0])) / float(timeline.seconds[-1] - timeline.seconds[0])
    near = int(np.abs(timeline.times - t).argmin()) == view.index and 0 <= t <= 1
    return t if near and abs(t - frame) > 1e-9 else frame


def view_metrics(result: Reconstruction, views: list[TruthView], *, alignment: Alignment, progress: Progress) -> list:
    """`(view name, metrics)` of each held-out picture, drawn with the true camera."""
    rows = []
    progress.start("held-out views", len(views))
    moved: dict[float, GaussianCloud] = {}
    for view in sorted(views, key=lambda v: (v.index, v.time or 0.0)):
        if not 0 <= view.index < len(result.timeline):
            raise InputError(
                f"eval: view {view.view!r} is of frame {view.index}, but the run's clip has {len(result.timeline)} "
                "frames; is this the truth of another clip?"
            )
        t = view_time(view, result.timeline)
        if t not in moved:
            moved = {t: move_cloud(result.cloud, result.field, t)}
        drawn = render_cloud(moved[t], alignment.camera_to_run(view.camera), result.background)
        rgb, mask = read_rgb(view.rgb), read_mask(view.mask)
        for path, shape in ((view.rgb, rgb.shape[:2]), (view.mask, mask.shape)):
            if shape != drawn.rgb.shape[1:3]:
                height, width = drawn.rgb.shape[1:3]
                raise InputError(f"{path}: {shape[1]} x {shape[0]} pixels, but views.json says {width} x {height}")
        target = torch.from_numpy(np.ascontiguousarray(rgb)).float() / 255
        picture = drawn.rgb[0].clamp(0, 1).cpu()
        row = picture_metrics(picture, drawn.alpha[0, ..., 0].cpu(), target, torch.from_numpy(mask))
        rows.append((view.view, row))
        progress.update(**mpsnr_so_far(figures for _, figures in rows))
    progress.finish()
    return rows


def evaluate(result: Reconstruction, truth: Truth, *, progress: Progress | None = None) -> dict[str, Any]:
    """The content of `eval.json`.

    Returns:
        `groups`: per view name the means of `mpsnr` and `mssim` (inside the true mask), `psnr` (whole frame), `iou` and
        the number `n` of pictures; `near`, `far`: mean `mpsnr` of the pictures near to and far from the clip's
        cameras; `track`: `epe_mean` in true world units and `epe_rel`, relative to the object's size; `camera`:
        `centre_rel`, `rotation_deg`; `aligned_by`. What cannot be known is None; LPIPS always is (its weights do not
        come with this package).
    """
    progress = progress or SilentProgress()
    true_cameras = truth.cameras
    if true_cameras is not None and len(true_cameras) != len(result.cameras):
        raise InputError(
            f"eval: the truth has {len(true_cameras)} cameras, the run's clip {len(result.cameras)} frames; "
            "is this the truth of another clip?"
        )
    alignment = Alignment.identity()
    if not result.poses_given:
        if true_cameras is None:
            raise InputError("eval: the run solved its cameras, so the truth folder needs cameras.json to align them")
        alignment = align_cameras(result.cameras, true_cameras)
    rows = view_metrics(result, list(truth.views), alignment=alignment, progress=progress)
    groups = {}
    for name in dict.fromkeys(view.view for view in truth.views):
        of_view = [row for view, row in rows if view == name]
        groups[name] = {**mean_metrics(of_view), "lpips": None, "n": len(of_view)}
    track, size = _track(result, truth, alignment)
    camera: dict[str, float | None] = {"centre_rel": None, "rotation_deg": None}
    if true_cameras is not None:
        camera = camera_errors(result.cameras, true_cameras, alignment, size)
    return {
        "groups": groups,
        "near": {"mpsnr": mean_metrics(row for view, row in rows if is_near(view))["mpsnr"]},
        "far": {"mpsnr": mean_metrics(row for view, row in rows if not is_near(view))["mpsnr"]},
        "track": track,
        "camera": camera,
        "aligned_by": alignment.aligned_by,
    }


def _track(result: Reconstruction, truth: Truth, alignment: Alignment) -> tuple[dict[str, float | None], float | None]:
    """The `track` entry and the object's size; None for what the truth does not hold."""
    unknown: dict[str, float | None] = {"epe_mean": None, "epe_rel": None}
    if truth.tracks_world is None or truth.visible is None:
        return unknown, None
    world, visible = torch.as_tensor(truth.tracks_world), torch.as_tensor(truth.visible)
    if len(world) != len(result.timeline):
        raise InputError(
            f"eval: tracks.npz has {len(world)} frames, the run's clip {len(result.timeline)}; "
            "is this the truth of another clip?"
        )
    size = object_size(world)
    if size <= 0:
        return unknown, None
    errors = track_errors(result.field, result.timeline.times, world, visible, alignment=alignment)
    if len(errors) == 0:
        return unknown, size
    mean = float(errors.mean())
    return {"epe_mean": mean, "epe_rel": mean / size}, size


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def format_table(result: dict[str, Any]) -> str:
    """`eval.json` as a plain-text table."""
    lines = [f"{'view':<16}{'n':>5}{'mPSNR':>9}{'PSNR':>9}{'mSSIM':>9}{'IoU':>9}"]
    rows = sorted(result["groups"].items(), key=lambda item: (not is_near(item[0]), item[0]))
    left_out = result.get("left_out")
    for name, row in [*rows, *([("frames left out", left_out)] if left_out else [])]:
        lines.append(
            f"{name:<16}{row['n']:>5}{_cell(row['mpsnr'], '.2f'):>9}{_cell(row['psnr'], '.2f'):>9}"
            f"{_cell(row['mssim'], '.4f'):>9}{_cell(row['iou'], '.4f'):>9}"
        )
    lines.append("")
    if left_out and left_out["depth_rel"] is not None:
        lines.append(f"frames left out  depth error {100 * left_out['depth_rel']:.2f} % of the object")
    if result["aligned_by"] is None:
        return "\n".join(lines).rstrip()
    lines.append(f"near views       mPSNR {_cell(result['near']['mpsnr'], '.2f')} dB inside the true mask")
    lines.append(f"far views        mPSNR {_cell(result['far']['mpsnr'], '.2f')} dB")
    track, camera = result["track"], result["camera"]
    percent = None if track["epe_rel"] is None else 100 * track["epe_rel"]
    lines.append(
        f"tracks           end-point error {_cell(track['epe_mean'], '.5f')} ({_cell(percent, '.2f')} % of the object)"
    )
    centre = None if camera["centre_rel"] is None else 100 * camera["centre_rel"]
    lines.append(
        f"cameras          centre {_cell(centre, '.3f')} % of the object, rotation "
        f"{_cell(camera['rotation_deg'], '.3f')} deg"
    )
    lines.append(f"aligned by       {result['aligned_by']}")
    return "\n".join(lines)
