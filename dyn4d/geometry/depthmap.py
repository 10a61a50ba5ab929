"""What one masked depth map says by itself: where it jumps, which pixels fly, normals and how far to trust each pixel.

Arrays are (H, W) numpy, depth planar z in world units with 0 = none, pixel centres at half integers. "Jump" is meant
relative to what a slanted surface may do: one pixel covers z/f units at depth z, and a surface turned away by the angle
a changes depth by tan(a) z/f from pixel to pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_RING = [(0, 1), (1, 0), (1, 1), (1, -1)]  # one of each pair of opposite neighbours
_WINDOW = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]


def shifted(array: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """`out[y, x] = array[y + dy, x + dx]`, zeros (False) where that lies outside."""
    out = np.zeros_like(array)
    height, width = array.shape
    to_y, to_x = slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0))
    from_y, from_x = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    out[to_y, to_x] = array[from_y, from_x]
    return out


def joined(depth: np.ndarray, valid: np.ndarray, focal: float, max_slope_deg: float, *, dy: int, dx: int) -> np.ndarray:
    """(H, W) bool: is the neighbour at (y + dy, x + dx) valid and on the same surface?"""
    other, steps = shifted(depth, dy, dx), math.hypot(dy, dx)
    limit = math.tan(math.radians(max_slope_deg)) * steps / focal * np.minimum(depth, other)
    return valid & shifted(valid, dy, dx) & (np.abs(other - depth) <= limit)


def flying_pixels(depth: np.ndarray, valid: np.ndarray, focal: float, max_slope_deg: float) -> np.ndarray:
    """(H, W) bool: pixels that hang between two surfaces, as sensors and resized depth maps make them at a step.

    Such a pixel has, along its row or its column, no neighbour of its own surface on either side, and at least one of
    the two is a jump (rather than the end of the mask, which every thin limb has). The edge pixel of a true surface has
    its own surface on one side; diagonals are not asked, for there the corner of a true surface has none.
    """
    flying = np.zeros_like(valid)
    for dy, dx in _RING[:2]:
        sides = [(dy, dx), (-dy, -dx)]
        alone = ~joined(depth, valid, focal, max_slope_deg, dy=dy, dx=dx)
        alone &= ~joined(depth, valid, focal, max_slope_deg, dy=-dy, dx=-dx)
        jump = np.zeros_like(valid)
        for sy, sx in sides:
            jump |= shifted(valid, sy, sx) & ~joined(depth, valid, focal, max_slope_deg, dy=sy, dx=sx)
        flying |= alone & jump
    return flying & valid


def jump_edges(depth: np.ndarray, valid: np.ndarray, focal: float, max_slope_deg: float) -> np.ndarray:
    """(H, W) bool: valid pixels with a valid neighbour on another surface."""
    edge = np.zeros_like(valid)
    for dy, dx in _RING:
        for sy, sx in ((dy, dx), (-dy, -dx)):
            edge |= shifted(valid, sy, sx) & ~joined(depth, valid, focal, max_slope_deg, dy=sy, dx=sx)
    return edge & valid


@dataclass(frozen=True)
class SurfaceFit:
    """A plane fitted to each pixel's own surface in a 5x5 window.

    Attributes:
        normal: (H, W, 3) unit, camera frame, towards the camera; 0 where it cannot be known.
        cosine: (H, W) in [0, 1] between the normal and the ray to the camera; 0 where unknown.
        residual: (H, W) how far the depth strays from the plane (root mean square), relative to depth.
        support: (H, W) in (0, 1], the share of the window that is on the pixel's own surface.
    """

    normal: np.ndarray
    cosine: np.ndarray
    residual: np.ndarray
    support: np.ndarray


def fit_surface(depth: np.ndarray, valid: np.ndarray, K: np.ndarray, max_slope_deg: float) -> SurfaceFit:
    """Planes by least squares on inverse depth, which is linear in the pixel for a plane: with 1/z = a u + b v + c
    about the principal point, the normal is along (a fx, b fy, c)."""
    focal = float(np.sqrt(K[0, 0] * K[1, 1]))
    inverse = np.where(valid, 1.0 / np.where(valid, depth, 1.0), 0.0).astype(np.float64)
    # sums of the normal equations of d(dx, dy) = a dx + b dy + c over the window's valid pixels of the same surface
    zero = np.zeros(depth.shape)
    n, sx, sy, sxx, sxy, syy = (zero.copy() for _ in range(6))
    sd, sxd, syd, sdd = (zero.copy() for _ in range(4))
    for dy, dx in _WINDOW:
        same = joined(depth, valid, focal, max_slope_deg, dy=dy, dx=dx).astype(np.float64)
        d = same * (shifted(inverse, dy, dx) - inverse)  # about the centre's own value: no cancellation
        n += same
        sx, sy = sx + dx * same, sy + dy * same
        sxx, sxy, syy = sxx + dx * dx * same, sxy + dx * dy * same, syy + dy * dy * same
        sd, sxd, syd, sdd = sd + d, sxd + dx * d, syd + dy * d, sdd + d * d
    count = np.maximum(n, 1)
    cxx, cyy, cxy = sxx - sx * sx / count, syy - sy * sy / count, sxy - sx * sy / count
    cxd, cyd, cdd = sxd - sx * sd / count, syd - sy * sd / count, sdd - sd * sd / count
    determinant = cxx * cyy - cxy * cxy
    known = valid & (determinant > 1e-6)
    safe = np.where(known, determinant, 1.0)
    a = np.where(known, (cyy * cxd - cxy * cyd) / safe, 0.0)
    b = np.where(known, (cxx * cyd - cxy * cxd) / safe, 0.0)
    rows, columns = np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5
    at_principal = inverse - a * (columns - K[0, 2]) - b * (rows - K[1, 2])
    normal = np.stack([a * K[0, 0], b * K[1, 1], at_principal], axis=-1)
    ray = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones(depth.shape)], axis=-1)
    length = np.linalg.norm(normal, axis=-1)
    known &= length > 1e-12
    normal = np.where(known[..., None], -normal / np.where(known, length, 1.0)[..., None], 0.0)
    cosine = np.where(known, np.clip(-(normal * ray).sum(-1) / np.linalg.norm(ray, axis=-1), 0, 1), 0.0)
    stray = np.maximum(cdd - a * cxd - b * cyd, 0) / np.maximum(n - 3, 1)
    residual = np.where(known, np.sqrt(stray) * depth, 0.0)
    return SurfaceFit(normal, cosine, residual, n / len(_WINDOW))


def confidence(fit: SurfaceFit, edge: np.ndarray, pixel_angle: float) -> np.ndarray:
    """(H, W) in (0, 1]: low at grazing angles, near the ends of a surface, and where depth is noisy.

    Args:
        edge: (H, W) pixels beside a jump in depth.
        pixel_angle: 1 / focal, what one pixel spans relative to depth: noise counts in this unit.
    """
    grazing = np.clip(fit.cosine / 0.5, 0.05, 1.0)  # full trust up to 60 degrees
    noise = 1.0 / (1.0 + np.square(fit.residual / (2.0 * pixel_angle)))
    ends = np.clip(fit.support / 0.6, 0.1, 1.0)
    return np.clip(grazing * noise * ends * np.where(edge, 0.5, 1.0), 1e-3, 1.0)
