"""Samples as a pair network takes them, in pairs or one view by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyn4d.geometry.masked_network import USUAL_FOCAL
from dyn4d.geometry.network import ViewHints
from dyn4d.geometry.pair_losses import MatchTargets, PairTruth
from dyn4d.training.geometry_data import GeometrySample


@dataclass(frozen=True)
class Batch:
    """B samples as the network takes them: first all first views, then all second ones.

    Attributes:
        images: (2 B, 3, S, S) in [0, 1]. hints: of all. there, back: the truth of the pairs (a, b) and (b, a).
        matches: from a to b.
    """

    images: Tensor
    hints: ViewHints
    there: PairTruth
    back: PairTruth
    matches: MatchTargets

    def to(self, device: torch.device) -> Batch:
        parts = (_moved(getattr(self, name), device) for name in ("hints", "there", "back", "matches"))
        return Batch(self.images.to(device), *parts)


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
        moved = (each.to(device) for each in (self.points, self.valid))
        return SingleViews(self.images.to(device), _moved(self.hints, device), *moved)


def _moved(value: Any, device: torch.device) -> Any:
    """A dataclass with its tensors on a device."""
    parts = {name: getattr(value, name) for name in value.__dataclass_fields__}
    return replace(value, **{k: v.to(device) for k, v in parts.items() if isinstance(v, Tensor)})


def to_batch(samples: Sequence[GeometrySample], matches: int, first: int) -> Batch:
    """Args: matches: pairs of pixels of each sample. first: number of the first sample, which draws these pairs."""
    sides: dict[str, list[np.ndarray]] = {"a": [], "b": [], "b_in_a": [], "a_in_b": []}
    xy_a, xy_b, valid = (np.zeros((len(samples), matches, *tail), kind) for tail, kind in
                         (((2,), np.int64), ((2,), np.int64), ((), np.bool_)))  # fmt: skip
    for row, sample in enumerate(samples):
        a, b = (camera_points(d, K) for d, K in zip(sample.depth.astype(np.float64), sample.K))
        to_a, to_b = sample.a_from_b, np.linalg.inv(sample.a_from_b)
        for name, points in (("a", a), ("b", b), ("b_in_a", b @ to_a[:3, :3].T + to_a[:3, 3]),
                             ("a_in_b", a @ to_b[:3, :3].T + to_b[:3, 3])):  # fmt: skip
            sides[name].append(points.astype(np.float32))
        ya, xa, at = matched_pixels(sample, matches, np.random.default_rng([first + row, 47]))
        count = len(at)
        xy_a[row, :count], xy_b[row, :count], valid[row, :count] = np.stack([xa, ya], 1), at, True
    a, b, b_in_a, a_in_b = (torch.from_numpy(np.stack(sides[name])) for name in ("a", "b", "b_in_a", "a_in_b"))
    mask_a, mask_b = (torch.from_numpy(np.stack([s.mask[side] for s in samples])) for side in (0, 1))
    return Batch(
        _pictures(samples), sample_hints(samples),
        PairTruth(a, b_in_a, mask_a, mask_b), PairTruth(b, a_in_b, mask_b, mask_a),
        MatchTargets(torch.from_numpy(xy_a), torch.from_numpy(xy_b), torch.from_numpy(valid)),
    )  # fmt: skip


def matched_pixels(
    sample: GeometrySample, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns in a and (N, 2) whole pixels (column, row) in b, at most one pair for a pixel of b."""
    ya, xa = np.nonzero(np.isfinite(sample.flow[..., 0]))
    at = np.floor(sample.flow[ya, xa]).astype(np.int64)
    at = at.clip(0, sample.mask.shape[-1] - 1)  # what lies on the very edge may be rounded off the picture
    good = sample.mask[1][at[:, 1], at[:, 0]]
    ya, xa, at = ya[good], xa[good], at[good]
    order = rng.permutation(len(at))
    _, once = np.unique(at[order] @ [1, sample.mask.shape[-1]], return_index=True)
    pick = order[rng.permutation(once)[:most]]
    return ya[pick], xa[pick], at[pick]


def to_views(samples: Sequence[GeometrySample]) -> SingleViews:
    sides = [(sample, side) for side in (0, 1) for sample in samples]
    points = np.stack([
        camera_points(sample.depth[side].astype(np.float64), sample.K[side]).astype(np.float32)
        for sample, side in sides
    ])  # fmt: skip
    valid = torch.from_numpy(np.stack([sample.mask[side] for sample, side in sides]))
    return SingleViews(_pictures(samples), sample_hints(samples), torch.from_numpy(points), valid)


def _pictures(samples: Sequence[GeometrySample]) -> Tensor:
    """(2 N, 3, S, S) in [0, 1], of all first views, then of all second ones."""
    images = np.concatenate([np.stack([s.image[side] for s in samples]) for side in (0, 1)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


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
