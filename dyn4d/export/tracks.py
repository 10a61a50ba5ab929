"""Trajectories of Gaussians through the clip, and pictures of them as coloured trails."""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dyn4d.core.cameras import project
from dyn4d.core.protocols import Field
from dyn4d.core.types import Camera, GaussianCloud, Timeline

SH0 = 0.28209479177387814
SUPERSAMPLE = 2  # PIL draws lines without anti-aliasing; drawing large and shrinking gives it


@torch.no_grad()
def gaussian_tracks(
    cloud: GaussianCloud, field: Field, timeline: Timeline, *, count: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Trajectories of up to `count` solid Gaussians, spread over the object.

    Returns:
        `xyz` (F, N, 3) world positions at every frame of the clip, `rgb` (N, 3) in [0, 1] and `gaussian` (N,), the
        row of each in the canonical and per-frame PLYs.
    """
    rows = torch.nonzero(cloud.opacities > 0.5).flatten()
    if len(rows) < min(count, 8):
        rows = torch.arange(len(cloud), device=cloud.means.device)
    if len(rows) > count:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        rows = rows[order[:count].to(rows.device)].sort().values
    means = cloud.means[rows]
    xyz = [field.from_canonical(means, float(t)).float().cpu().numpy() for t in timeline.times]
    rgb = (0.5 + SH0 * cloud.sh[rows, 0]).clamp(0, 1).float().cpu().numpy()
    return {"xyz": np.stack(xyz), "rgb": rgb, "gaussian": rows.cpu().numpy().astype(np.int64)}


def spread_rows(positions: np.ndarray, count: int) -> np.ndarray:
    """Rows of up to `count` points (N, 3) far from each other (farthest-point sampling, from the first row)."""
    count = min(count, len(positions))
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    chosen = [0]
    distance = np.linalg.norm(positions - positions[0], axis=-1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(positions - positions[chosen[-1]], axis=-1))
    return np.asarray(chosen, dtype=np.int64)


def rainbow(positions: np.ndarray) -> np.ndarray:
    """A hue (N, 3) uint8 for each point (N, 3) by its place along the longest direction, so that near-by tracks have
    near-by colours."""
    if len(positions) == 0:
        return np.zeros((0, 3), dtype=np.uint8)
    centred = positions - positions.mean(0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0] if len(positions) > 2 else np.array([1.0, 0, 0])
    along = centred @ direction
    place = (along - along.min()) / max(float(np.ptp(along)), 1e-9)
    return np.array([[255 * c for c in colorsys.hsv_to_rgb(0.83 * p, 0.85, 1.0)] for p in place]).astype(np.uint8)


def draw_trails(
    picture: np.ndarray,
    xyz: np.ndarray,
    camera: Camera,
    *,
    colours: np.ndarray,
    frame: int,
    length: int = 12,
    depth: Tensor | None = None,
    tolerance: float = 0.0,
    dim: float = 0.45,
) -> np.ndarray:
    """Trails of the last `length` frames up to `frame`, seen by that frame's camera, over a paled picture.

    Only the object's own motion shows: all positions are projected with one and the same camera.

    Args:
        picture: (H, W, 3) uint8. xyz: (F, N, 3) world. camera: one camera. colours: (N, 3) uint8.
        depth: (H, W) of the drawn surface; heads further behind it than `tolerance` (world units) are left out.
        dim: how much of the picture is replaced by white.
    """
    height, width = picture.shape[:2]
    start = max(0, frame - length)
    points = torch.as_tensor(xyz[start : frame + 1]).double()
    pixels, z = project(camera.K.double().cpu(), camera.cam_from_world.double().cpu(), points)
    pixels, z = pixels.numpy(), z.numpy()
    paled = picture.astype(np.float32) * (1 - dim) + 255.0 * dim
    canvas = Image.fromarray(paled.round().astype(np.uint8)).resize(
        (width * SUPERSAMPLE, height * SUPERSAMPLE), Image.Resampling.BICUBIC
    )
    layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    line = max(2, round(min(height, width) * SUPERSAMPLE / 240))
    for i in _visible_heads(pixels[-1], z[-1], height, width, depth=depth, tolerance=tolerance):
        trail = pixels[:, i] * SUPERSAMPLE
        colour = tuple(int(c) for c in colours[i])
        for step in range(1, len(trail)):
            if z[step - 1, i] <= 0 or z[step, i] <= 0:
                continue
            fade = int(235 * (step / len(trail)) ** 1.3)
            pen.line([tuple(trail[step - 1]), tuple(trail[step])], fill=(*colour, fade), width=line)
        x, y = trail[-1]
        pen.ellipse([x - line, y - line, x + line, y + line], fill=(*colour, 255))
    canvas = Image.alpha_composite(canvas.convert("RGBA"), layer).convert("RGB")
    return np.asarray(canvas.resize((width, height), Image.Resampling.LANCZOS))


def _visible_heads(
    pixels: np.ndarray, z: np.ndarray, height: int, width: int, *, depth: Tensor | None, tolerance: float
) -> np.ndarray:
    """Rows of points (N, 2) px that lie in the picture and not behind the drawn surface."""
    column, row = np.floor(pixels[:, 0]), np.floor(pixels[:, 1])
    shown = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    rows = np.nonzero(shown)[0]
    if depth is None:
        return rows
    surface = depth.cpu().numpy()[row[rows].astype(int), column[rows].astype(int)]
    return rows[(surface > 0) & (z[rows] <= surface + tolerance)]
