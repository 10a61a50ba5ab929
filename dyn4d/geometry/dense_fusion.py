"""Depths of all pixels that count, from all passes at once, once the poses between the frames are known.

A frame's canonical view averages what its pairs say of it in its own camera. Half of what the network said of it is in
the partners' cameras; with the poses known it can be brought back and averaged too, which makes the view less noisy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dyn4d.geometry.bundle_state import BundleState
from dyn4d.geometry.canonical import CONF_OFFSET, CanonicalView
from dyn4d.geometry.pair_results import PairFrame, PairResults
from dyn4d.geometry.relative_pose import pass_stretch

KERNEL = 0.03  # logarithm of the depth: an observation this far from the view so far counts half


def fuse_views(
    frames: Sequence[PairFrame], views: Sequence[CanonicalView], results: PairResults, state: BundleState
) -> tuple[CanonicalView, ...]:
    """Canonical views with the depths that own and partners' passes agree on; pixels, anchors and confidences stay.

    Each result is read once. Frames that are not active keep their views.
    """
    rows = [torch.searchsorted(frame.pixels, view.pixels) for frame, view in zip(frames, views)]
    weights = [torch.zeros(len(view), dtype=torch.float64) for view in views]
    sums = [torch.zeros(len(view), dtype=torch.float64) for view in views]
    along = state.focal / state.network_focal

    def add(n: int, depth: Tensor, conf: Tensor) -> None:
        weight = conf.double() - CONF_OFFSET
        good = torch.isfinite(depth) & (depth > 0) & torch.isfinite(weight) & (weight > 0)
        shift = torch.log(depth.where(good, 1.0)) - torch.log(views[n].points[:, 2])
        weight = weight.where(good, 0.0) / (1 + (shift / KERNEL) ** 2)
        weights[n] += weight
        sums[n] += weight * shift.where(good, 0.0)

    for result in results:
        if not (bool(state.active[result.frame_a]) and bool(state.active[result.frame_b])):
            continue
        for one in (result, result.swapped()):
            a, b = one.frame_a, one.frame_b
            stretch = pass_stretch(views[a], one.a_in_a[rows[a]], one.conf_a_in_a[rows[a]])
            if stretch is None:
                continue
            add(a, stretch * one.a_in_a[rows[a], 2].double(), one.conf_a_in_a[rows[a]])
            seen = _stretched(one.b_in_a[rows[b]].double(), along[a]) * stretch * state.scale[a]
            of_a, of_b = state.world_from_cam[a], state.world_from_cam[b]
            world = seen @ of_a[:3, :3].T + of_a[:3, 3]
            back = (world - of_b[:3, 3]) @ of_b[:3, :3] / state.scale[b]
            add(b, _along(views[b].points, _stretched(back, 1 / along[b])), one.conf_b_in_a[rows[b]])
    return tuple(_shifted(view, s / w.clamp_min(1e-300)) for view, s, w in zip(views, sums, weights))


def _stretched(points: Tensor, by: Tensor) -> Tensor:
    return torch.cat([points[:, :2], points[:, 2:] * by], -1)


def _along(points: Tensor, seen: Tensor) -> Tensor:
    """(P,) depth at which the ray through each of `points` (P, 3) comes closest to `seen` (P, 3)."""
    return points[:, 2] * (seen * points).sum(-1) / points.square().sum(-1)


def _shifted(view: CanonicalView, shift: Tensor) -> CanonicalView:
    """The view with its points moved along their rays by a logarithm of the depth (P,)."""
    points = view.points * torch.exp(shift)[:, None]
    at = torch.searchsorted(view.pixels, view.anchor_pixels)
    depth = points[at, 2]
    return replace(view, points=points, anchor_depth=depth, ratio=points[:, 2] / depth[view.anchor])
