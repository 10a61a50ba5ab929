"""Depth of a clip's pictures in the views that a network was given of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dyn4d.geometry.pair_results import PairFrame


class ObjectDepth(Protocol):
    """Depth of the object in T pictures, however it was found."""

    def picture(self, row: int) -> tuple[np.ndarray, np.ndarray]: ...

    def times(self, factor: float) -> ObjectDepth: ...

    def filled(self, other: ViewDepth) -> ObjectDepth: ...


@dataclass(frozen=True)
class ViewDepth:
    """Depth of T views.

    Attributes:
        frames: the views. depth, conf: (H, W) of each, planar z in any unit, 0 = none.
    """

    frames: list[PairFrame]
    depth: list[np.ndarray]
    conf: list[np.ndarray]

    @staticmethod
    def of_kept(frames: list[PairFrame], depth: list[Tensor], conf: list[Tensor]) -> ViewDepth:
        """From values of the kept pixels, NaN = none."""
        maps = [np.zeros((2, frame.height, frame.width)) for frame in frames]
        for out, frame, z, sure in zip(maps, frames, depth, conf):
            out[0].flat[frame.pixels.numpy()] = np.nan_to_num(z.numpy(), nan=0.0)
            out[1].flat[frame.pixels.numpy()] = sure.numpy()
        return ViewDepth(frames, [one[0] for one in maps], [one[1] for one in maps])

    def picture(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Depth and confidence of a picture, see `to_picture`."""
        return to_picture(self.frames[row], self.depth[row], self.conf[row])

    def times(self, factor: float) -> ViewDepth:
        """The same in another unit."""
        return ViewDepth(self.frames, [factor * depth for depth in self.depth], self.conf)


def to_picture(frame: PairFrame, depth: np.ndarray, conf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth and confidence (H, W) of a view, 0 = none, as maps of the picture that it was cut from.

    Between the view's pixels 1 / depth is interpolated, which is exact on a plane. A pixel of the picture has a depth
    if more than half of what is around it in the view has one.
    """
    width, height = frame.view.source
    grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1).double() + 0.5
    at = frame.view.to_view(grid)
    inside = frame.view.inside(grid).numpy()
    at = 2 * at / torch.tensor([depth.shape[1], depth.shape[0]], dtype=torch.float64) - 1
    known = depth > 0
    tables = np.stack([np.where(known, 1 / np.where(known, depth, 1), 0), np.where(known, conf, 0), known])
    inverse, sure, share = torch.nn.functional.grid_sample(
        torch.from_numpy(tables)[None], at[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0].numpy()
    usable = inside & (share > 0.5)
    safe = np.where(usable, share, 1.0)
    return np.where(usable, safe / np.where(usable, inverse, 1.0), 0.0), np.where(usable, sure / safe, 0.0)
