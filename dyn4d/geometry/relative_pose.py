"""What each pass of a pair network says of the pose between its two frames, and how surely.

In the pass (a, b) the network places b's pixels in a's camera. Where its own canonical view has them in b's camera, a
similarity between the two is the relative pose, in closed form and from every pixel that counts. Its information is
that of independent errors of the points; how much too sure that is, the alignment finds out by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyn4d.core.rotations import rotation_vector, weighted_similarity_fit
from dyn4d.geometry.bundle_state import CENTRE, ROTATION, SCALE, UNKNOWNS, BundleState, cross_matrix
from dyn4d.geometry.canonical import CONF_OFFSET, CanonicalView
from dyn4d.geometry.pair_results import PairFrame, PairResult, PairResults

LEAST_POINTS = 12  # fewer say nothing reliable of a pose
MOST_POINTS = 6000  # of a pass that are looked at
ROUNDS = 10  # of reweighting
BATCH = 16  # passes that are fitted together


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
    frames: Sequence[PairFrame], views: Sequence[CanonicalView], results: PairResults, *, max_points: int = MOST_POINTS
) -> list[RelativePose]:
    """Of both passes of every pair, where enough pixels count. Each result is read once.

    Args:
        max_points: of a pass; more are thinned out evenly. A mask that leaves as many costs nothing.
    """
    rows = [torch.searchsorted(frame.pixels, view.pixels) for frame, view in zip(frames, views)]
    found: list[RelativePose] = []
    waiting: list[_Seen] = []
    for result in results:
        for one in (result, result.swapped()):
            seen = _seen(views, rows, one, max_points)
            if seen is not None:
                waiting.append(seen)
        if len(waiting) >= BATCH:
            found += _fitted(waiting)
            waiting = []
    return found + _fitted(waiting)


@dataclass(frozen=True)
class _Seen:
    """The M points of one pass that count: in b's camera `x` and in a's `y`, both (M, 3), with weights (M,)."""

    a: int
    b: int
    x: Tensor
    y: Tensor
    weight: Tensor


def _thin(count: int, most: int) -> Tensor:
    return torch.arange(count) if count <= most else torch.arange(most) * count // most


def _seen(views: Sequence[CanonicalView], rows: Sequence[Tensor], result: PairResult, most: int) -> _Seen | None:
    a, b = result.frame_a, result.frame_b
    stretch = pass_stretch(views[a], result.a_in_a[rows[a]], result.conf_a_in_a[rows[a]])
    some = _thin(len(views[b]), most)
    at = rows[b][some]
    x, y = views[b].points[some], result.b_in_a[at].double()
    weight = result.conf_b_in_a[at].double() - CONF_OFFSET
    good = torch.isfinite(y).all(-1) & torch.isfinite(weight) & (weight > 0) & (y[:, 2] > 0)
    if stretch is None or int(good.sum()) < LEAST_POINTS:
        return None
    return _Seen(a, b, x[good], y[good] * stretch, weight[good])


def _fitted(passes: Sequence[_Seen]) -> list[RelativePose]:
    """The similarity of each pass and its information; all passes at once, shorter ones filled up with weight 0."""
    if not passes:
        return []
    pad = torch.nn.utils.rnn.pad_sequence
    x, y = (pad([getattr(one, name) for one in passes], batch_first=True) for name in "xy")
    outside = pad([torch.ones_like(one.weight) for one in passes], batch_first=True) == 0
    squared = y.square().sum(-1).masked_fill(outside, 1.0)
    base = pad([one.weight / one.weight.mean() for one in passes], batch_first=True) / squared
    used, typical = base, base[:, 0]  # errors grow with the distance
    R, t, scale = weighted_similarity_fit(x, y, used)
    for number in range(ROUNDS):
        if number:
            R, t, scale = weighted_similarity_fit(x, y, used)
        far = scale[:, None, None] * x @ R.mT + t[:, None] - y
        relative = far.square().sum(-1) / squared
        typical = relative.masked_fill(outside, torch.nan).nanmedian(-1).values.clamp_min(1e-16)
        used = base / (1 + relative / (4 * typical[:, None]))
    sigma = typical / 2.366  # the median of a sum of three squared standard normal draws
    information = _information(R, scale, x, used / sigma[:, None])
    error = typical.sqrt().tolist()
    return [RelativePose(one.a, one.b, R[n], t[n], scale[n], information[n], error[n]) for n, one in enumerate(passes)]


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


def _information(R: Tensor, scale: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """(B, 7, 7) Σ w Jᵀ J of y = scale · R exp(ω) x + t by (ω, t, log scale) at ω = 0, for x (B, M, 3) and w (B, M).

    J is (-s R [x]×, 1, s R x), so that only the moments of x up to the second are needed, and no table of all J.
    """
    weighted = x * weight[..., None]
    total, first, second = weight.sum(-1), weighted.sum(1), weighted.mT @ x
    turned, spread = scale[:, None, None] * R, second.diagonal(dim1=1, dim2=2).sum(-1)
    unit = torch.eye(3, dtype=x.dtype, device=x.device).expand_as(R)
    out = x.new_zeros(len(x), 7, 7)
    out[:, 0:3, 0:3] = (scale**2)[:, None, None] * (spread[:, None, None] * unit - second)
    out[:, 0:3, 3:6] = cross_matrix(first) @ turned.mT
    out[:, 3:6, 3:6] = total[:, None, None] * unit
    out[:, 3:6, 6] = (turned @ first[..., None])[..., 0]
    out[:, 6, 6] = scale**2 * spread
    out[:, 3:6, 0:3], out[:, 6, 3:6] = out[:, 0:3, 3:6].mT, out[:, 3:6, 6]
    return out


def _turn_change(r: Tensor) -> Tensor:
    """(..., 3, 3) the change of a rotation vector r (..., 3) by ω, where its rotation becomes R exp(ω)."""
    angle = r.norm(dim=-1)
    wide = angle.clamp_min(1e-3)
    second = torch.where(angle > 1e-3, 1 / wide**2 - 1 / (2 * wide * torch.tan(wide / 2)), 1 / 12)
    across = cross_matrix(r)
    return torch.eye(3, dtype=r.dtype, device=r.device) + across / 2 + second[..., None, None] * (across @ across)


@dataclass(frozen=True)
class RelativeTerms:
    """E relative poses, stacked; fields as of `RelativePose`."""

    a: Tensor
    b: Tensor
    R: Tensor
    t: Tensor
    scale: Tensor
    information: Tensor

    @staticmethod
    def stacked(poses: Sequence[RelativePose], device: torch.device) -> RelativeTerms:
        a, b = (torch.tensor([getattr(one, end) for one in poses], dtype=torch.int64) for end in "ab")
        tables = [torch.stack([getattr(one, name) for one in poses]) for name in ("R", "t", "scale", "information")]
        return RelativeTerms(a.to(device), b.to(device), *(table.to(device) for table in tables))

    def residual(self, state: BundleState) -> Tensor:
        """(E, 7) of (rotation, translation, log scale), in the order of `information`."""
        return self._residual(state)[0]

    def _residual(self, state: BundleState) -> tuple[Tensor, Tensor]:
        """Also (E, 3) where b is seen from a."""
        of_a, of_b = state.world_from_cam[self.a], state.world_from_cam[self.b]
        back = of_a[:, :3, :3].mT
        size_a, size_b = state.scale[self.a], state.scale[self.b]
        away = (back @ (of_b[:, :3, 3] - of_a[:, :3, 3])[..., None])[..., 0] / size_a[:, None]
        turn = self.R.mT @ back @ of_b[:, :3, :3]
        scale = torch.log(size_b / size_a / self.scale)
        return torch.cat([rotation_vector(turn), away - self.t, scale[:, None]], -1), away

    def terms(self, state: BundleState) -> tuple[Tensor, Tensor, Tensor]:
        """The residuals (E, 7) and what they depend on: (E, 7, 10) each of a's and b's unknowns."""
        residual, away = self._residual(state)
        of_a, of_b = state.world_from_cam[self.a], state.world_from_cam[self.b]
        by_a, by_b = (residual.new_zeros(len(residual), 7, UNKNOWNS) for _ in range(2))
        by_b[:, 0:3, ROTATION] = change = _turn_change(residual[:, 0:3])
        by_a[:, 0:3, ROTATION] = -change @ of_b[:, :3, :3].mT @ of_a[:, :3, :3]
        by_b[:, 3:6, CENTRE] = of_a[:, :3, :3].mT / state.scale[self.a][:, None, None]
        by_a[:, 3:6, CENTRE] = -by_b[:, 3:6, CENTRE]
        by_a[:, 3:6, ROTATION] = cross_matrix(away)
        by_a[:, 3:6, SCALE] = -away
        by_b[:, 6, SCALE], by_a[:, 6, SCALE] = 1, -1
        return residual, by_a, by_b

    def chi(self, state: BundleState) -> Tensor:
        """(E,) squared residuals in standard deviations."""
        residual = self.residual(state)
        return torch.einsum("ei,eij,ej->e", residual, self.information, residual)
