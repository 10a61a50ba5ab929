"""How right a pair network is on pairs with exact truth: depth, the pose between the views, matches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.types import PairPrediction
from dyn4d.geometry.masked_network import MaskedPairNetwork
from dyn4d.geometry.pair_losses import PairTruth
from dyn4d.training.geometry import predict
from dyn4d.training.geometry_batch import to_batch
from dyn4d.training.geometry_data import GeometrySample

SEEDS = 200  # matches of each pair that are looked for
NEAR = 3.0  # px


def depth_errors(depth: Tensor, truth: Tensor) -> Tensor:
    """(N,) |s d - t| / t of N depths, s the median of t / d."""
    return ((truth / depth).median() * depth - truth).abs() / truth


def flat_errors(truth: Tensor) -> Tensor:
    """The same of one depth for all, the median: what knowing nothing of the shape gives."""
    return depth_errors(torch.ones_like(truth), truth)


@torch.no_grad()
def evaluate(network: MaskedPairNetwork, samples: Sequence[GeometrySample]) -> dict[str, float]:
    """Means over the samples with a mask, and, as room_..., over those without.

    Returns:
        depth: median relative error of depth inside the mask after one scale a view; flat: that of a plane; depth_3,
        depth_10: shares of the pixels within 3 % and 10 %; other: median distance of b's points in a's camera after
        one scale for both views, relative to their distance from there; matches: share of a's points whose nearest
        descriptor in b is within 3 px; still: share of them that are there without any motion of the view.
    """
    rows: list[dict[str, float]] = []
    for start in range(0, len(samples), 4):
        some = samples[start : start + 4]
        batch = to_batch(some, SEEDS, start).to(network.device)
        there, back = predict(network, batch)
        for row in range(len(some)):
            figures = [_shape(said, truth, row) for said, truth in ((there, batch.there), (back, batch.back))]
            figure = {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}
            figure |= _matches(there, batch.matches.xy_a[row], batch.matches.xy_b[row], batch.matches.valid[row],
                               batch.there.valid_b[row], row)  # fmt: skip
            if some[row].mask.all():
                figure = {"room_depth": figure["depth"], "room_flat": figure["flat"], "room_matches": figure["matches"]}
            rows.append(figure)
    names = sorted({name for row in rows for name in row})
    return {name: _mean([row[name] for row in rows if name in row]) for name in names}


def _mean(values: list[float]) -> float:
    """NaN where nothing could be measured."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _shape(said: PairPrediction, truth: PairTruth, row: int) -> dict[str, float]:
    a, b = truth.valid_a[row], truth.valid_b[row]
    z, depth = truth.points_a[row][a][:, 2], said.points_a[row][a][:, 2].float()
    errors = depth_errors(depth, z)
    scale = (z / depth).median()
    goal = truth.points_b_in_a[row][b]
    other = (scale * said.points_b_in_a[row][b].float() - goal).norm(dim=-1) / goal.norm(dim=-1)
    return {
        "depth": float(errors.median()), "flat": float(flat_errors(z).median()),
        "depth_3": float((errors < 0.03).float().mean()), "depth_10": float((errors < 0.10).float().mean()),
        "other": float(other.median()),
    }  # fmt: skip


def _matches(
    said: PairPrediction, xy_a: Tensor, xy_b: Tensor, valid: Tensor, mask_b: Tensor, row: int
) -> dict[str, float]:
    assert said.desc_a is not None and said.desc_b is not None
    xy_a, xy_b = xy_a[valid], xy_b[valid]
    if len(xy_a) == 0:
        return {"matches": float("nan"), "still": float("nan")}
    y, x = torch.nonzero(mask_b, as_tuple=True)
    found = (said.desc_a[row, xy_a[:, 1], xy_a[:, 0]] @ said.desc_b[row, y, x].T).argmax(1)
    off = (torch.stack([x, y], 1)[found] - xy_b).float().norm(dim=1)
    still = (xy_a - xy_b).float().norm(dim=1)
    return {"matches": float((off < NEAR).float().mean()), "still": float((still < NEAR).float().mean())}
