"""Views one by one, as shapes are learnt from before pairs are: depth alone, at a fraction of the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from dyn4d.training.depth_losses import depth_loss, relief_loss, relief_weight
from dyn4d.training.geometry_batch import SingleViews
from dyn4d.training.geometry_config import GeometryTraining
from dyn4d.training.geometry_data import GeometrySample


def single_losses(depth: Tensor, views: SingleViews, config: GeometryTraining) -> dict[str, Tensor]:
    """Losses by name of depth maps (2 N, S, S) that views say by themselves. Points and matches have none."""
    z = depth, views.points[..., 2], views.valid, relief_weight(views.points, views.valid)[:, None, None]
    none = depth.new_zeros(())
    return {"points": none, "matches": none, "relief": config.relief_weight * relief_loss(*z),
            "depth": config.depth_weight * depth_loss(*z), "distance": none}  # fmt: skip


def mirrored(sample: GeometrySample) -> GeometrySample:
    """A sample as seen in a mirror that turns left to right."""
    size = sample.mask.shape[-1]
    K, turn = sample.K.copy(), np.diag([-1.0, 1, 1, 1])
    K[:, 0, 2] = size - K[:, 0, 2]
    flow = sample.flow[:, ::-1].copy()
    flow[..., 0] = size - flow[..., 0]
    image, mask, depth = (np.ascontiguousarray(a[:, :, ::-1]) for a in (sample.image, sample.mask, sample.depth))
    return replace(sample, image=image, mask=mask, depth=depth, K=K, a_from_b=turn @ sample.a_from_b @ turn, flow=flow)


class Echo:
    """Samples in order, each once more, mirrored, `after` samples later: to draw one takes longer than to learn its
    views, so that a network learns more from two looks in the time of one.

    Args:
        source: makes sample number i. first: to begin with. Those before it that are still to be shown again are made
            again.
    """

    def __init__(self, source: Callable[[int], GeometrySample], first: int, after: int) -> None:
        self._source, self._after = source, after
        self._kept: deque[GeometrySample] = deque()
        self._next = earliest(first, after)
        while self._next < first:
            self._draw()

    def _draw(self) -> GeometrySample:
        self._kept.append(self._source(self._next))
        self._next += 1
        return self._kept[-1]

    def batch(self, count: int) -> list[GeometrySample]:
        """The next new samples, and as many earlier ones, where there are such of the same size."""
        new = [self._draw() for _ in range(count)]
        if self._after == 0:
            self._kept.clear()
        again: list[GeometrySample] = []
        while len(self._kept) > self._after > 0:
            again.append(mirrored(self._kept.popleft()))
        return new + [sample for sample in again if sample.mask.shape == new[0].mask.shape]


def earliest(first: int, after: int) -> int:
    """Number of the first sample that `Echo` needs to begin with number `first`."""
    return max(first - after, 0)
