"""Views one by one, as shapes are learnt from before pairs are: depth alone, at a fraction of the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dyn4d.geometry.masked_network import USUAL_FOCAL, MaskedPairNetwork, ViewHints
from dyn4d.training.depth_losses import depth_loss, relief_loss
from dyn4d.training.geometry_config import GeometryTraining
from dyn4d.training.geometry_data import GeometrySample

RELIEF = (1.0, 8.0)  # how much more a picture counts whose object is small beside its distance


@dataclass(frozen=True)
class SingleViews:
    """Views of N samples as the network takes them: first all first ones, then all second ones.

    Attributes:
        images: (2 N, 3, S, S) in [0, 1]. hints: of all. points: (2 N, S, S, 3) in each view's own camera. valid:
            (2 N, S, S) where they are.
    """

    images: Tensor
    hints: ViewHints
    points: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> SingleViews:
        hints = ViewHints(*(getattr(self.hints, name).to(device) for name in ("mask", "focal", "centre", "known")))
        return SingleViews(self.images.to(device), hints, self.points.to(device), self.valid.to(device))


def to_views(samples: Sequence[GeometrySample]) -> SingleViews:
    sides = [(sample, side) for side in (0, 1) for sample in samples]
    images = np.stack([sample.image[side] for sample, side in sides])
    points = np.stack([
        camera_points(sample.depth[side].astype(np.float64), sample.K[side]).astype(np.float32)
        for sample, side in sides
    ])  # fmt: skip
    valid = torch.from_numpy(np.stack([sample.mask[side] for sample, side in sides]))
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return SingleViews(pictures, sample_hints(samples), torch.from_numpy(points), valid)


def camera_points(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(H, W, 3) points in the camera of planar depth (H, W)."""
    row, column = np.indices(depth.shape)
    x, y = (column + 0.5 - K[0, 2]) / K[0, 0], (row + 0.5 - K[1, 2]) / K[1, 1]
    return np.stack([x * depth, y * depth, depth], -1)


def sample_hints(samples: Sequence[GeometrySample]) -> ViewHints:
    """Of all first views, then of all second ones."""
    focal, centre = [], []
    for side in (0, 1):
        for sample in samples:
            told = sample.K[side].diagonal()[:2] if sample.known else np.full(2, USUAL_FOCAL * sample.unit[side])
            focal.append(told)
            centre.append(sample.K[side][:2, 2])
    mask = np.concatenate([np.stack([s.mask[side] for s in samples]) for side in (0, 1)])
    known = torch.tensor([s.known for s in samples] * 2)
    return ViewHints(
        torch.from_numpy(mask), torch.from_numpy(np.stack(focal)).float(), torch.from_numpy(np.stack(centre)).float(),
        known,
    )  # fmt: skip


def single_losses(network: MaskedPairNetwork, views: SingleViews, config: GeometryTraining) -> dict[str, Tensor]:
    """Losses by name of what the network says of views by themselves. Points and matches have none."""
    depth = network.depth_alone(views.images, views.hints).float()
    z = depth, views.points[..., 2], views.valid, relief_weight(views.points, views.valid)[:, None, None]
    none = depth.new_zeros(())
    return {"points": none, "matches": none, "relief": config.relief_weight * relief_loss(*z),
            "depth": config.depth_weight * depth_loss(*z), "distance": none}  # fmt: skip


def relief_weight(points: Tensor, valid: Tensor) -> Tensor:
    """(B,) of pictures by their points (B, H, W, 3), valid (B, H, W): mean distance over the points' spread, within
    `RELIEF`. An object far beside its size has little relief in its depth, of which no less is wanted."""
    share = valid / valid.flatten(1).sum(1).clamp(min=1)[:, None, None]
    distance = (points.norm(dim=-1) * share).sum((1, 2))
    middle = (points * share[..., None]).sum((1, 2))
    spread = ((points - middle[:, None, None]).square().sum(-1) * share).sum((1, 2)).sqrt()
    return (distance / spread.clamp(min=1e-6)).clamp(*RELIEF)


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
