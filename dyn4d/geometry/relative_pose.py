"""What each pass of a pair network says of the pose between its two frames, and how surely.

In the pass (a, b) the network places b's pixels in a's camera. Where its own canonical view has them in b's camera, a
similarity between the two is the relative pose, in closed form and from every pixel that counts. Its information is
that of independent errors of the points; how much too sure that is, the alignment finds out by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyn4d.core.rotations import weighted_similarity_fit
from dyn4d.geometry.canonical import CONF_OFFSET, CanonicalView
from dyn4d.geometry.pair_results import PairFrame, PairResult, PairResults

LEAST_POINTS = 12  # fewer say nothing reliable of a pose
ROUNDS = 10  # of reweighting


@dataclass(frozen=True)
class RelativePose:
    """One pass: canonical points of b, turned and scaled, are canonical points of a's camera: y = scale · R x + t.

    Attributes:
        a, b: rows of frames. R: (3, 3), t: (3,), in lengths of a's canonical view. scale: a's lengths per b's.
        information: (7, 7) of (rotation about b's axes, applied first; t; logarithm of scale).
        error: median distance of the points as a share of their distance from the camera.
    """

    a: int
    b: int
    R: Tensor
    t: Tensor
    scale: Tensor
    information: Tensor
    error: float


def relative_poses(
    frames: Sequence[PairFrame], views: Sequence[CanonicalView], results: PairResults, *, max_points: int = 4000
) -> list[RelativePose]:
    """Of both passes of every pair, where enough pixels count. Each result is read once.

    Args:
        max_points: of a pass; more are thinned out evenly.
    """
    rows = [torch.searchsorted(frame.pixels, view.pixels) for frame, view in zip(frames, views)]
    found = (_of_pass(views, rows, one, max_points) for result in results for one in _passes(result))
    return [pose for pose in found if pose is not None]


def _passes(result: PairResult) -> Iterator[PairResult]:
    yield result
    yield result.swapped()


def _thin(count: int, most: int) -> Tensor:
    return torch.arange(count) if count <= most else torch.arange(most) * count // most


def _of_pass(
    views: Sequence[CanonicalView], rows: Sequence[Tensor], result: PairResult, most: int
) -> RelativePose | None:
    a, b = result.frame_a, result.frame_b
    stretch = pass_stretch(views[a], result.a_in_a[rows[a]], result.conf_a_in_a[rows[a]])
    some = _thin(len(views[b]), most)
    x, y = views[b].points[some], result.b_in_a[rows[b]][some].double()
    weight = result.conf_b_in_a[rows[b]][some].double() - CONF_OFFSET
    good = torch.isfinite(y).all(-1) & torch.isfinite(weight) & (weight > 0) & (y[:, 2] > 0)
    if stretch is None or int(good.sum()) < LEAST_POINTS:
        return None
    x, y, weight = x[good], y[good] * stretch, weight[good]
    base = weight / weight.mean() / y.square().sum(-1)  # errors grow with the distance
    used = base
    for _ in range(ROUNDS):
        R, t, scale = weighted_similarity_fit(x, y, used)
        far = (scale * x @ R.T + t - y).square().sum(-1)
        relative = far / y.square().sum(-1)
        typical = relative.median().clamp_min(1e-16)
        used = base / (1 + relative / (4 * typical))
    sigma = typical / 2.366  # the median of a sum of three squared standard normal draws
    by = _jacobian(R, scale, x)
    information = torch.einsum("m,mki,mkj->ij", used / sigma, by, by)
    return RelativePose(a, b, R, t, scale, information, float(typical.sqrt()))


def pass_stretch(view: CanonicalView, points: Tensor, conf: Tensor) -> Tensor | None:
    """What the lengths of a pass have to be multiplied with to be those of the canonical view; None if nothing says.

    Args:
        points: (P, 3) of the view's own pixels in its own camera. conf: (P,).
    """
    z, weight = points[:, 2].double(), conf.double() - CONF_OFFSET
    good = torch.isfinite(z) & (z > 0) & torch.isfinite(weight) & (weight > 0)
    if not bool(good.any()):
        return None
    log_ratio = torch.log(view.points[good, 2] / z[good])
    centre, weight = log_ratio.median(), weight[good]
    spread = (log_ratio - centre).abs().median().clamp_min(1e-12)
    weight = weight / (1 + ((log_ratio - centre) / (3 * spread)) ** 2)
    return torch.exp((weight * log_ratio).sum() / weight.sum())


def _jacobian(R: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """(M, 3, 7) of y = scale · R exp(ω) x + t by (ω, t, log scale) at ω = 0."""
    by = x.new_zeros(len(x), 3, 7)
    turned = scale * R
    for axis in range(3):
        unit = torch.zeros_like(x)
        unit[:, axis] = 1
        by[:, :, axis] = torch.linalg.cross(unit, x) @ turned.T
        by[:, axis, 3 + axis] = 1
    by[:, :, 6] = x @ turned.T
    return by
