"""What the player page needs beside the Gaussians: cameras, where the object is, how it turns, and its trails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dyn4d.core.rotations import matrix_to_wxyz
from dyn4d.core.types import Camera, GaussianCloud, Timeline
from dyn4d.export.evaluate import Reconstruction
from dyn4d.export.renders import find_extent
from dyn4d.export.tracks import rainbow, spread_rows
from dyn4d.export.view_limit import view_limit
from dyn4d.export.views import fill_poses, upward

TRAILS = 160
SOLID = 0.5  # opacity from which a Gaussian may carry a trail
TURN_SAMPLE = 2000  # Gaussians that the object's rotation is fitted on


def _rounded(values: Any, digits: int = 7) -> Any:
    """Nested lists with numbers of `digits` digits."""
    if isinstance(values, (list, tuple)):
        return [_rounded(v, digits) for v in values]
    return float(f"{float(values):.{digits}g}")


def camera_rows(cameras: Camera) -> dict[str, Any]:
    """F cameras as JSON: `K` fx, fy, cx, cy in pixels, `q` wxyz and `p` of camera to world, OpenCV axes."""
    filled = fill_poses(cameras)
    K, pose = filled.K.double().cpu(), filled.world_from_cam.double().cpu()
    quats = matrix_to_wxyz(pose[:, :3, :3])
    frames = [
        {
            "K": _rounded([K[i, 0, 0], K[i, 1, 1], K[i, 0, 2], K[i, 1, 2]]),
            "q": _rounded(quats[i].tolist(), 9),
            "p": _rounded(pose[i, :3, 3].tolist(), 9),
        }
        for i in range(len(filled))
    ]
    return {"width": filled.width, "height": filled.height, "frames": frames}


@torch.no_grad()
def rotations(cloud: GaussianCloud, result: Reconstruction) -> torch.Tensor:
    """(F, 4) wxyz: how the object as a whole is turned at each frame against its canonical space (Kabsch, 1976)."""
    count = len(cloud)
    if count < 3:
        return torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(len(result.timeline), 4)
    rows = torch.linspace(0, count - 1, min(count, TURN_SAMPLE)).round().long().to(cloud.means.device)
    means = cloud.means[rows]
    still = means.double().cpu()
    still = still - still.mean(0)
    turns = []
    for time in result.timeline.times.tolist():
        moved = result.field.from_canonical(means, float(time)).double().cpu()
        u, _, v = torch.linalg.svd((moved - moved.mean(0)).T @ still)
        flip = torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(u @ v))], dtype=torch.float64))
        turns.append(u @ flip @ v)
    return matrix_to_wxyz(torch.stack(turns))


def trail_rows(cloud: GaussianCloud, *, count: int = TRAILS) -> tuple[np.ndarray, list[str]]:
    """Rows of well-seen solid Gaussians that lie far from each other, and a colour for each, by its place."""
    worth = cloud.opacities.double()
    if cloud.confidence is not None:
        worth = worth * (0.25 + 0.75 * cloud.confidence.double())
    solid = torch.nonzero(worth >= min(SOLID, float(worth.quantile(0.5)) if len(worth) else 0.0)).flatten()
    solid = solid.cpu().numpy()
    positions = cloud.means.double().cpu().numpy()[solid]
    chosen = spread_rows(positions, count)
    inks = rainbow(positions[chosen])
    return solid[chosen], [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in inks.tolist()]


def scene_header(result: Reconstruction, cloud: GaussianCloud, *, size: float, reach: float) -> Mapping[str, Any]:
    """The part of the page's header that describes the scene. `cloud`: the Gaussians in the page's order."""
    timeline: Timeline = result.timeline
    extent = find_extent(cloud, result.field, timeline.times)
    centres = extent.centres.double().numpy()
    limit = view_limit(result.cameras, extent, result.depth_error)
    rows, colours = trail_rows(cloud)
    return {
        "times": _rounded(timeline.times.tolist(), 9),
        "seconds": max(float(timeline.seconds[-1] - timeline.seconds[0]), 1e-3),
        "fps": timeline.fps,
        "centre": _rounded(centres[len(centres) // 2].tolist()),
        "unit": reach / 2,
        "radius": max(extent.radius, 1e-3 * size),
        "view_limit": None if limit is None else round(limit, 1),
        "up": _rounded(upward(fill_poses(result.cameras)).tolist()),
        "centres": _rounded(centres.tolist()),
        "turns": _rounded(rotations(cloud, result).tolist()),
        "cameras": camera_rows(result.cameras),
        "trails": {"rows": rows.tolist(), "colours": colours},
    }
