"""The two published alignments behind the interface of ours (`dyn4d.geometry.alignment.align`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dyn4d.core.errors import RunError
from dyn4d.core.protocols import Progress
from dyn4d.geometry.alignment_notes import pair_notes, part_notes
from dyn4d.geometry.alignment_result import Alignment, neighbour_scales
from dyn4d.geometry.kinematic import connected_components, tie_scores, unmatched_views
from dyn4d.geometry.pair_results import PairFrame, PairResults
from dyn4d.geometry.pointmap_alignment import align_pointmaps
from dyn4d.geometry.pointmap_config import PointmapConfig
from dyn4d.geometry.pointmap_initialisation import published_middle
from dyn4d.geometry.sparse_problem import condense
from dyn4d.geometry.sparse_published import PublishedAlignment, PublishedConfig, align_published
from dyn4d.geometry.world_frame import distinct_centres


def dust3r(
    frames: Sequence[PairFrame], results: PairResults, K: Tensor, world_from_cam: Tensor, *, fix_poses: bool,
    progress: Progress,
) -> Alignment:  # fmt: skip
    """The published alignment of all points. K: (T, 3, 3), world_from_cam: (T, 4, 4), NaN where unknown."""
    config = PointmapConfig(fix_poses=fix_poses, principal_point="source")
    found = align_pointmaps(frames, results, config, K=K, world_from_cam=world_from_cam, progress=progress)
    depth = tuple(torch.where(each > 0, each.double(), torch.nan) for each in found.depth)
    conf = tuple(torch.where(torch.isfinite(d), c.double(), 0.0) for d, c in zip(depth, found.conf))
    remarks = tuple(replace(note, text=f"alignment: {note.text}") for note in found.remarks)
    return Alignment(found.K, found.world_from_cam, depth, conf, float("nan"), remarks)


def mast3r(
    frames: Sequence[PairFrame], results: PairResults, K: Tensor, world_from_cam: Tensor, config: PublishedConfig, *,
    progress: Progress,
) -> Alignment:  # fmt: skip
    """The published sparse alignment: the largest part that pairs tie together or, where poses stay, all parts whose
    known poses stand in more than one place. K: (T, 3, 3), world_from_cam: (T, 4, 4), NaN where unknown.

    Raises:
        RunError: several frames, and nothing ties two of them together.
    """
    problem = condense(frames, results, principal_points=_principal_points(frames, K))
    if not any(len(view) for view in problem.views):
        raise RunError("alignment: no pixel of any frame has a usable point; look at the masks and the weights")
    unmatched = unmatched_views(problem, frames, results, min_match_conf=config.min_match_conf)
    scores = tie_scores(problem, unmatched, min_match_conf=config.min_match_conf)
    parts = connected_components(scores)
    if len(parts[0]) < min(2, len(frames)):
        raise RunError("alignment: no two frames have enough matches or points; use a wider graph of pairs")
    given = torch.isfinite(world_from_cam).flatten(1).all(1)
    held = [p for p in parts if config.fix_poses and distinct_centres(world_from_cam[[n for n in p if given[n]]])]
    solved = held or parts[:1]
    out: PublishedAlignment | None = None
    for part in solved:
        found = align_published(
            problem, config, unmatched=unmatched, frames=part, K=K, world_from_cam=world_from_cam, progress=progress
        )
        out = found if out is None else _joined(out, found)
    assert out is not None
    poses, scale = out.world_from_cam.clone(), out.scale
    related = bool((given & out.registered).any())
    kept = given & ~out.registered & related
    poses[kept] = world_from_cam[kept]
    sizes = neighbour_scales(scale)
    depths, confs = [], []
    for row, (frame, view) in enumerate(zip(frames, problem.views)):
        depth = torch.full((int(frame.kept.sum()),), torch.nan, dtype=torch.float64)
        conf = torch.zeros_like(depth)
        if bool(out.registered[row] | kept[row]):
            at = torch.searchsorted(frame.pixels, view.pixels)
            z = view.points[:, 2] * sizes[row] if bool(kept[row]) else out.depth(problem, row).double()
            depth[at], conf[at] = torch.where(z > 0, z, torch.nan), torch.where(z > 0, view.conf, 0.0)
        depths.append(depth)
        confs.append(conf)
    points = {(min(v.frame, v.camera), max(v.frame, v.camera)) for v in unmatched}
    notes = pair_notes(problem, scores, sorted(points), "whose matches are too few or unsure")
    remarks = [*notes, *part_notes(solved, kept)]
    return Alignment(out.K, poses, tuple(depths), tuple(confs), float("nan"), tuple(remarks))


def _principal_points(frames: Sequence[PairFrame], K: Tensor) -> Tensor:
    """(T, 2) px of the views: those of K (T, 3, 3), and `published_middle` where it is unknown."""
    points = K[:, :2, 2].clone()
    for row in torch.nonzero(torch.isnan(points).any(1))[:, 0].tolist():
        points[row] = published_middle(frames[row].view, whole_picture=True)
    return points


def _joined(one: PublishedAlignment, other: PublishedAlignment) -> PublishedAlignment:
    """Two parts of a clip in one world; each frame is registered in one of them at most."""
    here = other.registered
    return replace(
        one,
        K=torch.where(here[:, None, None], other.K, one.K),
        world_from_cam=torch.where(here[:, None, None], other.world_from_cam, one.world_from_cam),
        anchor_depth=tuple(b if n else a for a, b, n in zip(one.anchor_depth, other.anchor_depth, here.tolist())),
        scale=torch.where(here, other.scale, one.scale),
        relief=torch.where(here, other.relief, one.relief),
    )
