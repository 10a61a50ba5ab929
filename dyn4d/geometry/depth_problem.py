"""Depth maps and optical flow of a clip as the problem that the alignment solves.

The depth maps are the canonical views, all in one unit; the flow inside the region that stands still gives the matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.protocols import Progress
from dyn4d.core.rotations import rigid_fit
from dyn4d.core.types import Clip, Correspondences, FrameReader
from dyn4d.geometry.canonical import CanonicalView, elect_anchors
from dyn4d.geometry.region_flow import Regions, Where, by_pairs, region_matches
from dyn4d.geometry.sparse_problem import MatchedEnds, PairMatches, SparseProblem
from dyn4d.matching.config import MatchingConfig

SUBSAMPLE = 8
ROUNDS = 10  # of reweighting
ALIKE = 0.03  # of the depth: matched points this near each other, after the best motion, agree with it
LEAST_ALIKE = 0.6  # of the matches that have to; of a flow that was lost 0.2 to 0.57 do, of right ones 0.77 and more


def depth_problem(
    clip: Clip, where: Where, matching: MatchingConfig, seed: int, device: torch.device | str, progress: Progress,
    cache: Path | None,
) -> tuple[SparseProblem, int]:  # fmt: skip
    """Of a clip with depth and intrinsics, from matches in a region of every frame. Also how many pairs were left out
    as their matches fit no rigid motion.

    Args:
        matching: of the flow; which frames are matched, and how many matches are kept, is decided here.
        device: where a network for the flow runs. cache: a folder for the flow of this region.
    """
    assert clip.cameras is not None
    regions = Regions(clip, where)
    found = region_matches(regions, matching, seed, device, progress, cache)
    views, maps = depth_views(clip, regions)
    pairs = _pairs(found, views, maps)
    K = clip.cameras.K.double().cpu()
    good = [pair for pair in pairs if not len(pair) or rigid_share(pair, views, K) >= LEAST_ALIKE]
    return SparseProblem(tuple(views), K[:, :2, 2], tuple(good)), len(pairs) - len(good)


def rigid_share(pair: PairMatches, views: Sequence[CanonicalView], K: Tensor) -> float:
    """What share of the matches one rigid motion brings together in space. Depth at both ends tells a flow that is
    smooth, comes back where it began and is wrong all the same, as it is where the cameras are too far apart.

    Args:
        pair: M > 0 matches. K: (T, 3, 3).
    """
    ends = []
    for frame, side in ((pair.frame_a, pair.a), (pair.frame_b, pair.b)):
        depth = views[frame].anchor_depth[side.anchor] * side.ratio
        rays = (side.xy - K[frame, :2, 2]) / K[frame].diagonal()[:2]
        ends.append(torch.cat([rays, torch.ones_like(depth)[:, None]], -1) * depth[:, None])
    a, b = ends
    base = used = pair.weight / b[:, 2].square()
    far = torch.zeros_like(base)
    for _ in range(ROUNDS):
        R, t = rigid_fit(a, b, used)
        far = (a @ R.T + t - b).norm(dim=-1) / b[:, 2]
        used = base / (1 + (far / (2 * far.median().clamp_min(1e-5))).square())
    return float((far < ALIKE).double().mean())


def depth_views(clip: Clip, regions: FrameReader) -> tuple[list[CanonicalView], list[np.ndarray]]:
    """Each frame's depth in its region as a canonical view, and where its pixels are in it: (H, W) rows, -1 = none."""
    assert clip.depth is not None and clip.cameras is not None
    views, maps = [], []
    for row in range(len(clip)):
        inside = np.asarray(regions[row])
        pixels = torch.from_numpy(np.flatnonzero(inside))
        depth = torch.from_numpy(np.asarray(clip.depth[row], dtype=np.float64).reshape(-1))[pixels]
        K = clip.cameras.K[row].double().cpu()
        xy = torch.stack([pixels % clip.width, pixels // clip.width], -1).double() + 0.5
        rays = torch.cat([(xy - K[:2, 2]) / K.diagonal()[:2], torch.ones_like(depth)[:, None]], -1)
        anchors, anchor = elect_anchors(pixels, clip.width, clip.height, SUBSAMPLE)
        points, ratio, one = rays * depth[:, None], depth / depth[anchors][anchor], torch.ones_like(depth)
        size = clip.width, clip.height, SUBSAMPLE
        views.append(CanonicalView(pixels, points, one, anchor, ratio, pixels[anchors], depth[anchors], *size))
        where = np.full(inside.shape, -1, dtype=np.int64)
        where[inside] = np.arange(len(pixels))
        maps.append(where)
    return views, maps


def _pairs(found: Correspondences, views: Sequence[CanonicalView], maps: Sequence[np.ndarray]) -> list[PairMatches]:
    """The matches of each unordered pair."""
    pairs = []
    for one in by_pairs(found):
        frames = one.frame_a, one.frame_b
        ends, known = zip(*(_ends(views[f], maps[f], side) for f, side in zip(frames, (one.xy_a, one.xy_b))))
        both = PairMatches(*frames, ends[0], ends[1], one.weight.double())
        pairs.append(both.select(known[0] & known[1]))
    return pairs


def _ends(view: CanonicalView, where: np.ndarray, xy: Tensor) -> tuple[MatchedEnds, Tensor]:
    """One side of matches, and which of them (M,) lie on a pixel with depth."""
    cell = xy.floor().long().numpy()
    cell = np.clip(cell, 0, [view.width - 1, view.height - 1])
    row = torch.from_numpy(where[cell[:, 1], cell[:, 0]])
    at = row.clamp_min(0)
    return MatchedEnds(xy.double(), view.anchor[at], view.ratio[at]), row >= 0
