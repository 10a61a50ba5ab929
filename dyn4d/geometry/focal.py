"""The focal length from points in a camera's own frame, and K of the frames of a clip.

A point (x, y, z) seen at pixel u, with the principal point at c, says u − c = f · (x, y) / z. The points' scale and
confidence do not matter. Pixel coordinates are half-integer: the centre of the top-left pixel is (0.5, 0.5) and that of
a picture (W / 2, H / 2). The published code counts from (0, 0) and puts the principal point at (W / 2, H / 2) all the
same: ours gives its numbers for the principal point (W / 2 + 0.5, H / 2 + 0.5).

Frames may be views of one camera, cut out and resized each in its own way: with their `scale` they share a focal length
in pixels of the picture that they were cut from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dyn4d.core.checks import check_shape

FocalMode = Literal["weiszfeld", "median"]
Limits = tuple[float, float]

REWEIGHTINGS = 10
NEAREST = 1e-8  # px; smaller residuals weigh no more
LARGEST = 1e30  # of a ray's slope: its square is finite
SLACK = 2.0  # how much steeper than any permitted camera could see it a ray may be


@dataclass(frozen=True)
class SeenPoints:
    """Points of the pixels of one frame.

    Attributes:
        xy: (P, 2) pixel centres in the view, half-integer.
        points: (P, 3) in the camera's own frame, any scale.
        principal_point: (x, y) in pixels of the view, half-integer; need not be its centre.
        scale: pixels of the view per pixel of the picture it was cut from, along x and y: `InputView.scale`.
    """

    xy: Tensor
    points: Tensor
    principal_point: tuple[float, float]
    scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("SeenPoints.xy", self.xy, ("P", 2), sizes)
        check_shape("SeenPoints.points", self.points, ("P", 3), sizes)
        if not (min(self.scale) > 0 and math.isfinite(sum(self.scale) + sum(self.principal_point))):
            found = f"principal point {self.principal_point}, scale {self.scale}"
            raise ValueError(f"SeenPoints: {found}; wanted finite numbers, the scale above 0")

    def rays(self) -> tuple[Tensor, Tensor]:
        """(R, 2) float64 offset from the principal point in pixels of the picture, and (R, 2) slope (x, y) / z of the
        points that are in front of the camera and finite."""
        points = self.points.double()
        slope = points[:, :2] / points[:, 2:]
        good = (points[:, 2] > 0) & (slope.abs() < LARGEST).all(-1) & self.xy.isfinite().all(-1)
        xy = self.xy[good].double()
        return (xy - xy.new_tensor(self.principal_point)) / xy.new_tensor(self.scale), slope[good]


def published_limits(width: int, height: int) -> Limits:
    """Pixels: half to 3.5 times the focal length at which the long side spans 60°: 98° to 19°, as published."""
    usual = max(width, height) / (2 * math.tan(math.radians(30)))
    return 0.5 * usual, 3.5 * usual


def diagonal_limits(width: int, height: int) -> Limits:
    """Pixels: a quarter to ten times the picture's diagonal, the bounds that the published alignment keeps."""
    diagonal = math.hypot(width, height)
    return 0.25 * diagonal, 10 * diagonal


def estimate_focal(
    frames: SeenPoints | Sequence[SeenPoints], *, mode: FocalMode = "weiszfeld", limits: Limits | None = None
) -> float | None:
    """One focal length for one frame, or for several of one camera: every pixel of every frame has one vote.

    Args:
        mode: "weiszfeld": least sum of the distances in pixels, from least squares by 10 reweightings. "median": the
            median of the ratios of offset and slope along x and y; a few wild points do not matter, but noise near the
            principal point does.
        limits: lowest and highest focal length; the estimate is clipped to them. Rays more than twice as steep as any
            camera within them could see are left out.

    Returns:
        Pixels of the picture that the frames were cut from. None where the points say nothing: there are none in front
        of the camera, all lie on its axis, or they are mirrored (no positive length fits).
    """
    if mode not in ("weiszfeld", "median"):
        raise ValueError(f"mode: {mode!r}; wanted weiszfeld or median")
    if limits is not None and not 0 < limits[0] <= limits[1]:
        raise ValueError(f"limits: {limits}; wanted 0 < lowest <= highest")
    rays = [each.rays() for each in ([frames] if isinstance(frames, SeenPoints) else frames)]
    if not rays:
        return None
    offset, slope = (torch.cat(parts) for parts in zip(*rays))
    if limits is not None and len(offset):
        plausible = slope.norm(dim=-1) <= SLACK * offset.norm(dim=-1).max() / limits[0]
        offset, slope = offset[plausible], slope[plausible]
    focal = _least_distance(offset, slope) if mode == "weiszfeld" else _median(offset, slope)
    if focal is None or not 0 < focal < math.inf:
        return None
    return focal if limits is None else min(max(focal, limits[0]), limits[1])


def _least_distance(offset: Tensor, slope: Tensor) -> float | None:
    """argmin_f Σ |offset − f · slope|."""
    across, along = (offset * slope).sum(-1), (slope * slope).sum(-1)
    if not bool((along > 0).any()):
        return None
    focal = across.sum() / along.sum()
    for _ in range(REWEIGHTINGS):
        weight = 1 / (offset - focal * slope).norm(dim=-1).clamp_min(NEAREST)
        focal = (weight * across).sum() / (weight * along).sum()
    return float(focal)


def _median(offset: Tensor, slope: Tensor) -> float | None:
    """The median of what each pixel says along each axis."""
    votes = (offset / slope).flatten()
    votes = votes[(slope.flatten() != 0) & votes.isfinite()].sort().values
    count = len(votes)
    return float(votes[[(count - 1) // 2, count // 2]].mean()) if count else None


def intrinsics(
    frames: Sequence[SeenPoints], known: Sequence[Tensor | None] | None = None, *, shared: bool = True,
    mode: FocalMode = "weiszfeld", limits: Limits | None = None,
) -> list[Tensor | None]:  # fmt: skip
    """K of every frame: the one that is known, as it is, or one with the estimated focal length.

    Args:
        frames: the points of each frame.
        known: K (3, 3) of the frames' views, None where unknown; `PairFrame.K`.
        shared: the frames without K have one camera and share the estimate, also those whose own points say nothing.
        mode, limits: see `estimate_focal`.

    Returns:
        (3, 3) float64 in pixels of each frame's view; None where neither K nor points say anything.
    """
    given = [None] * len(frames) if known is None else list(known)
    if len(given) != len(frames):
        raise ValueError(f"known: wanted {len(frames)} entries, found {len(given)}")
    rest = [frame for frame, K in zip(frames, given) if K is None]
    together = estimate_focal(rest, mode=mode, limits=limits) if shared else None
    out: list[Tensor | None] = []
    for frame, K in zip(frames, given):
        if K is not None:
            check_shape("K of a frame", K, (3, 3))
            out.append(K)
            continue
        focal = together if shared else estimate_focal(frame, mode=mode, limits=limits)
        out.append(None if focal is None else _matrix(focal, frame))
    return out


def _matrix(focal: float, frame: SeenPoints) -> Tensor:
    (x, y), (sx, sy) = frame.principal_point, frame.scale
    return torch.tensor([[focal * sx, 0, x], [0, focal * sy, y], [0, 0, 1]], dtype=torch.float64)
