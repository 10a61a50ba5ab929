"""Depth of one camera as another one beside it sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io.importers.lens import Lens

CRACK = 0.1  # pixels that squares reach beyond their edges: on slanted surfaces neighbours do not quite touch


@dataclass(frozen=True)
class Aligner:
    """Moves depth maps from camera `source` into the pixels of `target`; `move` (4, 4): target_from_source.

    Each pixel of the source is a small square on its plane z = depth. It covers the pixels of the target whose centres
    it meets; the nearest surface wins. Distortion of the target is followed, that of the source must be none.

    Raises:
        InputError: the source is distorted.
    """

    source: Lens
    target: Lens
    move: np.ndarray

    def __post_init__(self) -> None:
        if not self.source.plain:
            raise InputError("depth pictures are distorted; record rectified depth, or depth aligned to colour")

    def __call__(self, depth: np.ndarray) -> np.ndarray:
        """(h, w) metres -> (H, W) metres, 0 = none."""
        lens = self.source.scaled(depth.shape[1], depth.shape[0], "a depth map")
        rows, columns = np.nonzero(depth > 0)
        z = depth[rows, columns].astype(np.float64)
        u0, v0, _ = self._project(lens, columns, rows, z)
        u1, v1, _ = self._project(lens, columns + 1, rows + 1, z)
        _, _, far = self._project(lens, columns + 0.5, rows + 0.5, z)
        # A pixel belongs to the square if its centre, at half, does.
        left, right = np.ceil(np.minimum(u0, u1) - 0.5 - CRACK), np.ceil(np.maximum(u0, u1) - 0.5 + CRACK)
        top, bottom = np.ceil(np.minimum(v0, v1) - 0.5 - CRACK), np.ceil(np.maximum(v0, v1) - 0.5 + CRACK)
        W, H = self.target.width, self.target.height
        out = np.full(H * W, np.inf, np.float32)
        good = (far > 0) & (right > 0) & (bottom > 0) & (left < W) & (top < H) & (right - left < W) & (bottom - top < H)
        left, right, top, bottom, far = (a[good] for a in (left, right, top, bottom, far))
        for down in range(int((bottom - top).max(initial=0))):
            for across in range(int((right - left).max(initial=0))):
                x, y = left + across, top + down
                inside = (x < right) & (y < bottom) & (x >= 0) & (y >= 0) & (x < W) & (y < H)
                place = (y[inside] * W + x[inside]).astype(np.int64)
                np.minimum.at(out, place, far[inside].astype(np.float32))
        return np.where(np.isfinite(out), out, 0).reshape(H, W).astype(np.float32)

    def _project(
        self, lens: Lens, u: np.ndarray, v: np.ndarray, z: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels and depth in the target of pixels (u, v), half-integer, at depth z in the source."""
        points = np.stack([(u - lens.cx) / lens.fx * z, (v - lens.cy) / lens.fy * z, z])
        x, y, deep = self.move[:3, :3] @ points + self.move[:3, 3:]
        safe = np.where(deep > 1e-6, deep, np.nan)
        at_u, at_v = self.target.pixels(x / safe, y / safe)
        return np.nan_to_num(at_u, nan=-1e9), np.nan_to_num(at_v, nan=-1e9), deep
