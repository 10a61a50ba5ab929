"""Depth maps and optical flow of a clip as the problem that the alignment solves.

The depth maps are the canonical views, all in one unit; the flow inside the region that stands still gives the matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from dyn4d.core.protocols import Progress
from dyn4d.core.rotations import rigid_fit
from dyn4d.core.types import Clip, Correspondences, FrameReader
from dyn4d.geometry.canonical import CanonicalView, elect_anchors
from dyn4d.geometry.sparse_problem import MatchedEnds, PairMatches, SparseProblem
from dyn4d.geometry.texture import textured
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow import match_clip

RIM = 5  # pixels around the object that belong to neither it nor the background
SUBSAMPLE = 8
GAPS = (4, 8, 16)  # frames between those that are matched, beside neighbours: six unknowns a frame need no more
PAIR_MATCHES = 300  # of each ordered pair; a pair's errors are much alike, so that more say nothing new
LEAST_DRAWN = 1 / 8  # where less of a region is textured than this, fewer than PAIR_MATCHES are left of it
ROUNDS = 10  # of reweighting
ALIKE = 0.03  # of the depth: matched points this near each other, after the best motion, agree with it
LEAST_ALIKE = 0.6  # of the matches that have to; of a flow that was lost 0.2 to 0.57 do, of right ones 0.77 and more
LOOKS = 8  # frames that tell how much of a region is textured

Where = Literal["background", "object"]


@dataclass(frozen=True)
class Regions:
    """Masks (H, W) of what holds the cameras in each frame of a clip, as far as it has depth."""

    clip: Clip
    where: Where

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, row: int) -> np.ndarray:
        assert self.clip.depth is not None
        mask, depth = np.asarray(self.clip.masks[row], dtype=bool), np.asarray(self.clip.depth[row])
        if self.where == "background":
            mask = cv2.dilate(mask.astype(np.uint8), np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8)) == 0
        return mask & np.isfinite(depth) & (depth > 0)

    def texture(self, row: int) -> np.ndarray:
        """(H, W) bool, where in the region the flow can be trusted."""
        return textured(np.asarray(self.clip.images[row]), self[row])


def textured_shares(regions: Regions) -> tuple[float, float]:
    """What of the picture is textured region, and what of the region is textured, in the median over a few frames."""
    rows = np.unique(np.linspace(0, len(regions) - 1, LOOKS).astype(int))
    of_picture, of_region = [], []
    for row in rows:
        region = regions[row]
        texture = textured(np.asarray(regions.clip.images[row]), region)
        of_picture.append(texture.mean())
        if region.any():
            of_region.append(texture.sum() / region.sum())
    return float(np.median(of_picture)), float(np.median(of_region)) if of_region else 0.0


def pose_matching(matching: MatchingConfig) -> MatchingConfig:
    """The same flow for fewer pairs and matches: a deformation field needs far more of them than the poses do."""
    return replace(matching, window=1, strides=GAPS, max_per_pair=min(matching.max_per_pair, PAIR_MATCHES))


def depth_problem(
    clip: Clip, where: Where, matching: MatchingConfig, seed: int, progress: Progress, cache: Path | None
) -> tuple[SparseProblem, int]:
    """Of a clip with depth and intrinsics, from matches in a region of every frame. Also how many pairs were left out
    as their matches fit no rigid motion.

    Args:
        matching: of the flow; which frames are matched, and how many matches are kept, is decided here.
        cache: a folder for the flow of this region.
    """
    assert clip.cameras is not None
    regions, asked = Regions(clip, where), pose_matching(matching)
    share = min(max(textured_shares(regions)[1], LEAST_DRAWN), 1.0)  # drawn from all of the region, then sorted out
    drawn = replace(asked, max_per_pair=round(asked.max_per_pair / share))
    found = match_clip(replace(clip, masks=regions), drawn, seed, progress=progress, cache=cache)
    found = _on_texture(found, regions)
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


def _on_texture(found: Correspondences, regions: Regions) -> Correspondences:
    """The matches that begin and end where the pictures tell motion."""
    good = torch.ones(len(found), dtype=torch.bool)
    for row in range(len(regions)):
        texture = torch.from_numpy(regions.texture(row))
        height, width = texture.shape
        for frame, xy in ((found.frame_a, found.xy_a), (found.frame_b, found.xy_b)):
            here = torch.nonzero(frame == row).squeeze(-1)
            column, line = xy[here].floor().long().unbind(-1)
            good[here] &= texture[line.clamp(0, height - 1), column.clamp(0, width - 1)]
    columns = (found.frame_a, found.frame_b, found.xy_a, found.xy_b, found.weight)
    return Correspondences(*(column[good] for column in columns))


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
    """The matches of each unordered pair; those of the other direction are turned round."""
    turned = found.frame_a > found.frame_b
    first, second = torch.minimum(found.frame_a, found.frame_b), torch.maximum(found.frame_a, found.frame_b)
    xy = torch.where(turned[:, None], found.xy_b, found.xy_a), torch.where(turned[:, None], found.xy_a, found.xy_b)
    key = first * len(views) + second
    order = torch.argsort(key, stable=True)
    names, counts = torch.unique_consecutive(key[order], return_counts=True)
    pairs = []
    for name, rows in zip(names.tolist(), torch.split(order, counts.tolist())):
        frames = divmod(name, len(views))
        ends, known = zip(*(_ends(views[f], maps[f], side[rows]) for f, side in zip(frames, xy)))
        both = PairMatches(frames[0], frames[1], ends[0], ends[1], found.weight[rows].double())
        pairs.append(both.select(known[0] & known[1]))
    return pairs


def _ends(view: CanonicalView, where: np.ndarray, xy: Tensor) -> tuple[MatchedEnds, Tensor]:
    """One side of matches, and which of them (M,) lie on a pixel with depth."""
    cell = xy.floor().long().numpy()
    cell = np.clip(cell, 0, [view.width - 1, view.height - 1])
    row = torch.from_numpy(where[cell[:, 1], cell[:, 0]])
    at = row.clamp_min(0)
    return MatchedEnds(xy.double(), view.anchor[at], view.ratio[at]), row >= 0
