"""Cameras and depths of all frames from pointmaps of pairs: DUSt3R's global alignment, on the pixels that count only.

What is minimised, over the frames' poses P, focal lengths and depths and over a similarity (s, R, t) of each edge e:

    Σ_e Σ_{v in e} Σ_pixels  w | P_v · backproject(depth_v) - (s_e R_e X_{v,e} + t_e) |

with the points X_{v,e} of the frame v in the pass e and a weight w = log C of their confidence. The background has no
rows in the lists of points, hence no weight, no depth and no gradient.

Source: Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024, equation 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyn4d.core.checks import check_shape, require_finite
from dyn4d.core.errors import RunError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.geometry.alignment_result import Note
from dyn4d.geometry.pair_results import PairFrame, PairResults
from dyn4d.geometry.pointmap_config import PointmapConfig
from dyn4d.geometry.pointmap_depth import fit_depths
from dyn4d.geometry.pointmap_initialisation import (
    Similarity,
    initial_intrinsics,
    initialise,
    move_poses,
)
from dyn4d.geometry.pointmap_problem import (
    PointmapProblem,
    build_problem,
    connected_parts,
    usable_edges,
)
from dyn4d.geometry.pointmap_search import PointmapSearch
from dyn4d.geometry.world_frame import distinct_centres, fit_world


@dataclass(frozen=True)
class PointmapAlignment:
    """Cameras and depths of T frames.

    The world: that of the known poses where there are any. Else the first registered camera is its origin, and its
    unit is that of the predictions (the geometric mean of all passes' units), metres for a metric network.

    Attributes:
        K: (T, 3, 3) float64 in pixels of each frame's view, half-integer pixel centres. Finite for all frames.
        world_from_cam: (T, 4, 4) float64; NaN for frames that could not be registered.
        depth: for each frame (P,) float32 planar z in the order of `PairFrame.pixels`; 0 = none.
        conf: for each frame (P,) float32, the highest confidence that any pass used gives the pixel; 0 where no depth.
        loss: what equation 5 came to, in world units: the mean over the points of first frames plus that of others.
        registered: (T,) bool, frames with a pose.
        remarks: what the user should know.
    """

    K: Tensor
    world_from_cam: Tensor
    depth: tuple[Tensor, ...]
    conf: tuple[Tensor, ...]
    loss: float
    registered: Tensor
    remarks: tuple[Note, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user, frames by their rows."""
        return tuple(note.line() for note in self.remarks)

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {"T": len(self.depth)}
        check_shape("PointmapAlignment.K", self.K, ("T", 3, 3), sizes)
        check_shape("PointmapAlignment.world_from_cam", self.world_from_cam, ("T", 4, 4), sizes)
        check_shape("PointmapAlignment.registered", self.registered, ("T",), sizes)


def align_pointmaps(
    frames: Sequence[PairFrame],
    results: PairResults,
    config: PointmapConfig | None = None,
    *,
    K: Tensor | None = None,
    world_from_cam: Tensor | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> PointmapAlignment:
    """Solve for cameras and depths of all frames that pairs tie together.

    Frames without enough kept pixels, without a pair, or outside the largest part that pairs tie together are not
    registered, and a note says so. With `fix_poses`, a part is solved too where its known poses stand in more than one
    place, which fixes its size. A single frame has nothing to be aligned with: its pose is the known one or the
    identity, its focal length the known one or that of a view 60° wide, and it has no depth.

    Args:
        frames: T frames. results: of pairs of them.
        K: (3, 3) for all or (T, 3, 3) known intrinsics in pixels of the views, NaN where unknown; None: those that the
            frames have. `config.fix_intrinsics` says whether they may change.
        world_from_cam: (T, 4, 4) known poses, NaN where unknown. `config.fix_poses` says whether they may change.
        device: where the search runs; float32.

    Raises:
        RunError: no pair has enough pixels, or a value is not finite.
        ValueError: shapes that do not fit.
    """
    config = config or PointmapConfig()
    progress = progress or SilentProgress()
    count = len(frames)
    known_K, known_poses = _known_intrinsics(frames, K), _known_poses(count, world_from_cam)
    problem = build_problem(frames, results, config, torch.device(device))
    problem = problem.select(usable_edges(problem, config))
    intrinsics = initial_intrinsics(problem, frames, known_K, config)
    given = torch.isfinite(known_poses).flatten(1).all(1)
    if count < 2 or len(problem.edges) == 0:
        if count >= 2 and not (config.fix_poses and bool(given.all())):
            raise RunError(
                f"the alignment of pointmaps: none of {len(results)} pairs has enough pixels of the object with some "
                "confidence in both frames; look at the masks"
            )
        return _without_pairs(frames, intrinsics, known_poses, config)
    parts = _solvable_parts(connected_parts(count, problem.edges), known_poses, config)
    start = initialise(problem, parts, intrinsics, known_poses, config)
    if int(start.placed.sum()) < 2 or not bool(start.edges.any()):
        raise RunError("the alignment of pointmaps: no two frames could be placed; look at the masks")
    power = 2 if config.distance == "l2" else 1
    pinned = len(parts) > 1 or _is_pinned(parts[0], known_poses, config)
    fixed = given & config.fix_poses
    fixed_K = ~torch.isnan(known_K).flatten(1).any(1) & config.fix_intrinsics
    search = PointmapSearch(problem, start, intrinsics, frames, config, fixed, fixed_K, pinned)
    loss = _optimise(search, config, progress)
    seen = float(start.depth[start.placed].median())
    poses, edges, scale = _to_world(search.cameras(), search.fitted_edges(), start.placed, known_poses, fixed, seen)
    loss *= (float(search.unit) * scale) ** power
    K_out = search.intrinsics()
    require_finite(K_out, "alignment of pointmaps, intrinsics")
    require_finite(poses[start.placed], "alignment of pointmaps, poses")
    depth, conf = fit_depths(frames, results, K_out, poses, edges, config, torch.device(device))
    registered = start.placed | fixed
    out = torch.full((count, 4, 4), math.nan, dtype=torch.float64)
    out[start.placed] = poses[start.placed]
    out[fixed] = known_poses[fixed]
    notes = _notes(frames, registered, start.placed, problem)
    return PointmapAlignment(K_out, out, depth, conf, loss, registered, tuple(notes))


def _optimise(search: PointmapSearch, config: PointmapConfig, progress: Progress) -> float:
    """Adam, as published, but the best of all steps is kept: its steps have a least size, and where predictions agree
    nearly perfectly they lead away from the start. Returns the loss in units of the search."""
    free = [value for value in search.parameters() if value.requires_grad]
    optimiser = torch.optim.Adam(free, lr=config.lr, betas=(0.9, 0.9))
    best, kept = math.inf, [value.detach().clone() for value in free]
    progress.start("aligning pointmaps", config.iterations)
    for step in range(config.iterations + 1):
        optimiser.zero_grad()
        loss = search()
        now = float(loss.detach())
        require_finite(loss.detach(), f"alignment of pointmaps, step {step}")
        if now < best:
            best = now
            for copy, value in zip(kept, free):
                copy.copy_(value.detach())
        if step == config.iterations:
            break
        loss.backward()
        share = step / config.iterations
        fall = 1 - share if config.schedule == "linear" else (1 + math.cos(math.pi * share)) / 2
        optimiser.param_groups[0]["lr"] = config.lr_min + (config.lr - config.lr_min) * fall
        optimiser.step()
        progress.update(loss=now)
    progress.finish()
    with torch.no_grad():
        for copy, value in zip(kept, free):
            value.copy_(copy)
    return best


def _known_intrinsics(frames: Sequence[PairFrame], K: Tensor | None) -> Tensor:
    """(T, 3, 3) float64, NaN where unknown."""
    unknown = torch.full((3, 3), math.nan, dtype=torch.float64)
    if K is None:
        each = [unknown if f.K is None else f.K.double().cpu() for f in frames]
        return torch.stack(each) if each else unknown[None][:0]
    if K.ndim == 2:
        check_shape("K", K, (3, 3))
        return K.double().cpu().expand(len(frames), 3, 3).clone()
    check_shape("K", K, (len(frames), 3, 3))
    return K.double().cpu().clone()


def _known_poses(count: int, poses: Tensor | None) -> Tensor:
    """(T, 4, 4) float64, NaN where unknown."""
    if poses is None:
        return torch.full((count, 4, 4), math.nan, dtype=torch.float64)
    check_shape("world_from_cam", poses, (count, 4, 4))
    return poses.double().cpu().clone()


def _is_pinned(part: list[int], known: Tensor, config: PointmapConfig) -> bool:
    """Do fixed poses fix the size of a part?"""
    fixed = [f for f in part if bool(torch.isfinite(known[f]).all())]
    return config.fix_poses and len(fixed) > 1 and distinct_centres(known[fixed])


def _solvable_parts(parts: list[list[int]], known: Tensor, config: PointmapConfig) -> list[list[int]]:
    """All parts that fixed poses hold in their place, or else the largest."""
    return [part for part in parts if _is_pinned(part, known, config)] or parts[:1]


def _without_pairs(frames: Sequence[PairFrame], K: Tensor, known: Tensor, config: PointmapConfig) -> PointmapAlignment:
    """A single frame, or only fixed poses: cameras without any depth."""
    poses = known.clone()
    if len(frames) == 1 and not bool(torch.isfinite(known[0]).all()):
        poses[0] = torch.eye(4, dtype=torch.float64)
    require_finite(K, "alignment of pointmaps, intrinsics")
    none = tuple(torch.zeros(len(f.pixels)) for f in frames)
    note = Note("nothing to align the pointmaps of with: cameras as they are known, no depth")
    return PointmapAlignment(K, poses, none, none, 0.0, torch.isfinite(poses).flatten(1).all(1), (note,))


def _to_world(
    poses: Tensor, edges: dict[int, Similarity], placed: Tensor, known: Tensor, fixed: Tensor, depth: float
) -> tuple[Tensor, dict[int, Similarity], float]:
    """Poses (T, 4, 4) and edges in the world that is promised (see `PointmapAlignment`), and its relative size.

    Args:
        depth: of what is seen, in the world of `poses`.
    """
    given = torch.isfinite(known).flatten(1).all(1) & placed
    if bool((fixed & placed).any()):
        return poses, edges, 1.0
    if bool(given.any()):
        fit = fit_world(poses[given], known[given], depth)  # robust: a few wrong ones do not matter
        by = fit.R, fit.t, torch.tensor(fit.size, dtype=torch.float64)
    else:
        first = int(torch.nonzero(placed)[0])
        log_scales = torch.stack([scale for _, _, scale in edges.values()]).log()
        scale = (-log_scales.mean()).exp()
        R = poses[first, :3, :3].T
        by = R, -scale * R @ poses[first, :3, 3], scale
    R, t, scale = by
    moved = {number: (R @ r, scale * R @ shift + t, scale * size) for number, (r, shift, size) in edges.items()}
    return move_poses(poses, by), moved, float(scale)


def _notes(frames: Sequence[PairFrame], registered: Tensor, placed: Tensor, problem: PointmapProblem) -> list[Note]:
    """What the user should know of frames that have no pose or no depth, and of pixels left out of the search."""
    notes = []
    tied = {int(f) for f in problem.edges.flatten()}
    empty = [f for f in range(len(frames)) if not bool(placed[f]) and not frames[f].kept.any()]
    lonely = [f for f in range(len(frames)) if not bool(placed[f]) and frames[f].kept.any() and f not in tied]
    apart = [f for f in tied if not bool(placed[f])]
    for rows, why in (
        (empty, "no pixel of the object is kept"),
        (lonely, "no pair of theirs has enough pixels in both frames"),
        (apart, "no pair ties them to the largest group of frames"),
    ):
        if rows:
            poses = "their given poses are kept, without depth" if bool(registered[rows].all()) else "not registered"
            which = "frame {frames}" if len(rows) == 1 else f"{len(rows)} frames ({{frames}})"
            notes.append(Note(f"{which}: {why}; {poses}", tuple(sorted(rows))))
    most = max(int(f.kept.sum()) for f in frames)
    if most > problem.xy.shape[1]:
        notes.append(Note(f"cameras were solved with {problem.xy.shape[1]} of up to {most} pixels of each frame"))
    return notes
