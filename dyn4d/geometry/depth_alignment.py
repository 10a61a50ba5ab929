"""Camera poses of a clip that has depth maps and intrinsics but no poses, by the same alignment as everything else.

The depth maps are the canonical views, all in one unit; optical flow inside the region that stands still gives the
matches. What is solved are the poses, and how far to trust the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Camera, Clip, Correspondences, FrameReader
from dyn4d.geometry.alignment import at_home, make_bundle
from dyn4d.geometry.bundle import BundleConfig
from dyn4d.geometry.canonical import CanonicalView, elect_anchors
from dyn4d.geometry.kinematic import connected_components
from dyn4d.geometry.sparse_problem import MatchedEnds, PairMatches, SparseProblem
from dyn4d.geometry.sparse_start import Intrinsics, pair_ties, start_state
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow import match_clip

RIM = 5  # pixels around the object that belong to neither it nor the background
LEAST_SHARE = 0.1  # of the picture that has to be background with depth, for the background to hold the cameras
LEAST_MATCHES = 30
SUBSAMPLE = 8


@dataclass(frozen=True)
class SolvedPoses:
    """Poses of a clip's selected frames, NaN where one could not be placed.

    Attributes:
        cameras: T of them. pixel_error: of the matches, px along an axis. notes: lines for the user.
    """

    cameras: Camera
    pixel_error: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Regions:
    """Masks of the part of each frame that stands still."""

    clip: Clip
    region: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, row: int) -> np.ndarray:
        assert self.clip.depth is not None
        return self.region(np.asarray(self.clip.masks[row], dtype=bool), np.asarray(self.clip.depth[row]))


def _background(mask: np.ndarray, depth: np.ndarray) -> np.ndarray:
    near = cv2.dilate(mask.astype(np.uint8), np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8)) > 0
    return ~near & np.isfinite(depth) & (depth > 0)


def _object(mask: np.ndarray, depth: np.ndarray) -> np.ndarray:
    return mask & np.isfinite(depth) & (depth > 0)


def choose_anchor(clip: Clip, anchor: str) -> tuple[str, str]:
    """ "background" or "object", and why: what `auto` means for a clip with depth."""
    if anchor != "auto":
        return anchor, "as asked for"
    rows = np.unique(np.linspace(0, len(clip) - 1, 8).astype(int))
    background = _Regions(clip, _background)
    share = float(np.median([background[row].mean() for row in rows]))
    what = f"the background with depth covers {share:.0%} of the picture"
    return ("background" if share >= LEAST_SHARE else "object"), what


def solve_depth_poses(
    clip: Clip,
    matching: MatchingConfig | None = None,
    *,
    anchor: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> SolvedPoses:
    """Poses from depth and optical flow; the world is the first placed frame's camera, in the unit of the depth.

    Args:
        clip: with depth and intrinsics. matching: of the flow. anchor: background (everything but the object stands
            still), object (the object does, so that its rigid motion goes into the poses) or auto.
        cache: a folder for the flow, so that a stopped run goes on.

    Raises:
        InputError: depth or intrinsics are missing, or no two frames can be tied together.
    """
    if clip.depth is None or clip.cameras is None:
        raise InputError(f"{clip.source}: poses can only be solved with depth maps and K in cameras.json")
    progress = progress or SilentProgress()
    anchor, why = choose_anchor(clip, anchor)
    regions = _Regions(clip, _background if anchor == "background" else _object)
    matches = match_clip(
        replace(clip, masks=regions), matching or MatchingConfig(), seed, progress=progress, cache=cache
    )  # fmt: skip
    views, maps = depth_views(clip, regions)
    problem = SparseProblem(tuple(views), clip.cameras.K[:, :2, 2].double().cpu(), tuple(_pairs(matches, views, maps)))
    lens = _given_intrinsics(clip.cameras.K.double().cpu())
    scores, _ = pair_ties(problem, [], LEAST_MATCHES)
    parts = connected_components(scores)
    if len(parts[0]) < 2 and len(clip) > 1:
        raise InputError(
            f"{clip.source}: the camera poses cannot be solved: no two frames have {LEAST_MATCHES} matches on the "
            f"{anchor}; give poses (w2c) in cameras.json"
        )
    state = start_state(problem, lens, [], scores, parts[0])
    state = replace(state, scale=torch.ones_like(state.scale))
    config = BundleConfig(refine_scale=False, max_per_pair=600, depth_sigma=0.005, depth_sigma_limits=(0.0005, 0.02))
    bundle = make_bundle(problem, [], state, scores, config)
    state = bundle.solve() if bundle.directions else state
    state = at_home(state)
    notes = [f"poses: solved from depth and flow on the {anchor} ({why}); matches agree to {bundle.pixel_error:.2f} px"]
    lost = [clip.names[row] for part in parts[1:] for row in part]
    if lost:
        shown = ", ".join(lost[:5]) + (" ..." if len(lost) > 5 else "")
        notes.append(f"poses: {len(lost)} frames could not be placed and are left out: {shown}")
    poses = torch.where(state.active[:, None, None], state.world_from_cam, torch.nan)
    return SolvedPoses(replace(clip.cameras, world_from_cam=poses), bundle.pixel_error, tuple(notes))


def _given_intrinsics(K: Tensor) -> Intrinsics:
    focal = (K[:, 0, 0] * K[:, 1, 1]).sqrt()
    aspect = torch.stack([K[:, 0, 0], K[:, 1, 1]], -1) / focal[:, None]
    return Intrinsics(focal, focal, aspect, K[:, :2, 2], torch.ones(len(K), dtype=torch.bool))


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
