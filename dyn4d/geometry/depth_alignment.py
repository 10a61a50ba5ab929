"""Camera poses of a clip that has depth maps and intrinsics but no poses, by the same alignment as everything else.

What is solved are the poses, and how far to trust the depth (`depth_problem` says what goes in).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.listing import listed
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.rotations import rotation_angle
from dyn4d.core.types import Camera, Clip
from dyn4d.geometry.alignment import make_bundle
from dyn4d.geometry.bundle import BundleConfig, BundleState
from dyn4d.geometry.depth_problem import depth_problem
from dyn4d.geometry.kinematic import connected_components
from dyn4d.geometry.region_flow import Regions, Where, textured_shares
from dyn4d.geometry.sparse_problem import SparseProblem
from dyn4d.geometry.sparse_start import Intrinsics, pair_ties, start_state
from dyn4d.geometry.world_frame import at_home, fit_world, known_rows, scene_depth, with_known_poses
from dyn4d.matching.config import MatchingConfig

LEAST_SHARE = 0.1  # of the picture that has to be textured background with depth, to be tried first
LEAST_PLACED = 0.8  # share of the frames that a region has to place, for `auto` not to try the other
LEAST_MATCHES = 30
CONTRADICTS = 2.0  # px in the median that matches are off by at given poses: these are wrong, or what is matched moves
OTHER_UNIT = 1.05  # by which the lengths of given poses differ from those of the depth, for a note


@dataclass(frozen=True)
class SolvedPoses:
    """Poses of a clip's selected frames, NaN where one could not be placed.

    Attributes:
        cameras: T of them. anchor: "background" or "object", what holds them. notes: lines for the user.
        pixel_error: of the matches, px along an axis; NaN without any.
    """

    cameras: Camera
    anchor: str
    pixel_error: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Solution:
    """What one region says.

    Attributes:
        poses: (T, 4, 4), NaN where it does not say. pixel_error: px.
        off: px in the median that matches between frames of fixed poses are off by; NaN without any.
        unit: lengths of the known poses over those of the depth; NaN where nothing says.
        unfit: pairs of frames that were left out as their matches fit no rigid motion.
    """

    poses: Tensor
    pixel_error: float
    off: float
    unit: float
    unfit: int

    @property
    def placed(self) -> Tensor:
        return torch.isfinite(self.poses).flatten(1).all(-1)


def choose_anchor(clip: Clip, anchor: str) -> tuple[Where, str]:
    """ "background" or "object", and why: what `auto` tries first for a clip with depth."""
    if anchor in ("background", "object"):
        return anchor, "as asked for"
    share, _ = textured_shares(Regions(clip, "background"))
    what = f"the background with depth and texture covers {share:.0%} of the picture"
    return ("background" if share >= LEAST_SHARE else "object"), what


def solve_depth_poses(
    clip: Clip,
    matching: MatchingConfig | None = None,
    *,
    anchor: str = "auto",
    world_from_cam: Tensor | None = None,
    fix_poses: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    cache: Path | None = None,
) -> SolvedPoses:
    """Poses from depth and optical flow, in the unit of the depth.

    Without known poses the world is the first placed frame's camera. Known ones that are not to stay are where the
    solution begins, and it is laid on what most of them say as a whole, turned and moved but not scaled.

    Args:
        clip: with depth and intrinsics. matching: of the flow; which frames are matched, and how many matches are kept,
            is decided here (`region_flow.pose_matching`). anchor: background (everything but the object stands
            still), object (the object does, so that its rigid motion goes into the poses) or auto: the background if it
            has texture; the other of the two if that places less than 80 % of the frames.
        world_from_cam: (T, 4, 4) known poses, NaN where unknown; those of `clip.cameras` are not looked at. Frames that
            nothing ties keep them.
        fix_poses: known poses stay, and only the others are solved.
        device: where a network for the flow runs. cache: a folder for the flow, so that a stopped run goes on.

    Raises:
        InputError: depth or intrinsics are missing, or no two frames can be tied together.
    """
    if clip.depth is None or clip.cameras is None:
        raise InputError(f"{clip.source}: poses can only be solved with depth maps and K in cameras.json")
    known = None if world_from_cam is None else world_from_cam.double().cpu()
    if known is None or not bool(torch.isfinite(known).flatten(1).all(1).any()):
        known = None
    if len(clip) == 1:
        return _single(clip, known, anchor)
    progress, matching = progress or SilentProgress(), matching or MatchingConfig()

    def solve(where: Where) -> _Solution:
        folder = None if cache is None else cache / where
        problem, unfit = depth_problem(clip, where, matching, seed, device, progress, folder)
        found = replace(_solve(problem, _given_intrinsics(clip), known, fix_poses), unfit=unfit)
        moves = where == "object" and anchor == "auto" and found.off > CONTRADICTS  # against the given cameras
        return replace(found, poses=torch.full_like(found.poses, torch.nan)) if moves else found

    chosen, why = choose_anchor(clip, anchor)
    found = solve(chosen)
    share, moves = float(found.placed.double().mean()), found.off > CONTRADICTS
    if anchor == "auto" and share < LEAST_PLACED:
        other: Where = "object" if chosen == "background" else "background"
        second = solve(other)
        moves |= second.off > CONTRADICTS
        if int(second.placed.sum()) > int(found.placed.sum()):
            why = f"the {chosen} places {share:.0%} of the frames"
            chosen, found = other, second
    if not bool(found.placed.any()):
        raise InputError(_no_way(clip, chosen, anchor, moves))
    notes = _notes(clip, found, known, fix_poses, chosen, why)
    poses = found.poses if known is None else torch.where(found.placed[:, None, None], found.poses, known)
    return SolvedPoses(replace(clip.cameras, world_from_cam=poses), chosen, found.pixel_error, notes)


def _single(clip: Clip, known: Tensor | None, anchor: str) -> SolvedPoses:
    assert clip.cameras is not None
    pose = torch.eye(4, dtype=torch.float64)[None] if known is None else known
    note = "poses: there is a single frame: its camera is " + ("the world" if known is None else "the given one")
    where, _ = choose_anchor(clip, anchor)
    return SolvedPoses(replace(clip.cameras, world_from_cam=pose), where, math.nan, (note,))


def _no_way(clip: Clip, chosen: str, anchor: str, moves: bool) -> str:
    what = "background or on the object" if anchor == "auto" else chosen
    advice = "give poses (w2c) in cameras.json"
    if moves:
        advice = f"the object moves against the given poses, so that it cannot stand in; {advice}"
    if anchor == "background":
        advice += ", or let the object hold the cameras (--geometry.anchor object)"
    return (
        f"{clip.source}: the camera poses cannot be solved: no two frames have {LEAST_MATCHES} matches on the {what} "
        f"that fit one rigid motion; {advice}"
    )


def _solve(problem: SparseProblem, lens: Intrinsics, known: Tensor | None, fix: bool) -> _Solution:
    """Each part of the frames that hangs together by matches: the largest, or all that known poses place."""
    scores, _ = pair_ties(problem, [], LEAST_MATCHES)
    poses = torch.full((len(problem), 4, 4), torch.nan, dtype=torch.float64)
    pixel_error = off = unit = math.nan
    for part in connected_components(scores):
        rows = list(part)
        if len(part) < 2 or (known is not None and not bool(torch.isfinite(known[rows]).flatten(1).all(1).any())):
            continue
        state = replace(start_state(problem, lens, [], scores, part), scale=torch.ones(len(problem)).double())
        size = scene_depth(state, [view.anchor_depth for view in problem.views])
        state, _ = with_known_poses(state, known, size, fix=fix)
        state = replace(state, scale=torch.ones_like(state.scale))  # one unit, whatever the known poses have
        config = BundleConfig(
            refine_scale=False, max_per_pair=600, depth_sigma=0.005, depth_sigma_limits=(0.0005, 0.02)
        )  # fmt: skip
        bundle = make_bundle(problem, [], state, scores, config)
        state = bundle.solve()
        if known is None:
            state = at_home(state)
        elif fix:
            fixed = state.fixed_pose
            errors = [e for d, e in zip(bundle.directions, bundle.errors(state)) if bool(fixed[d.i] and fixed[d.j])]
            here = float(torch.cat(errors).median()) if errors else math.nan
            off = here if math.isnan(off) else max(off, here)
        else:
            state, ratio = _on_known(state, known, size)
            unit = ratio if math.isnan(unit) else unit  # the largest part's
        poses[rows] = state.world_from_cam[rows]
        pixel_error = bundle.pixel_error if math.isnan(pixel_error) else pixel_error
        if known is None:
            break  # nothing says where another part is
    return _Solution(poses, pixel_error, off, unit, 0)


def _on_known(state: BundleState, known: Tensor, size: float) -> tuple[BundleState, float]:
    """The solved state turned and moved, but not scaled, to where most known poses are, and how many lengths of these
    are one of its own."""
    rows = known_rows(state, known)
    found, true = state.world_from_cam[rows], known[rows]
    fit = fit_world(found, true, size)
    good = fit.agrees if bool(fit.agrees.any()) else torch.ones_like(fit.agrees)
    t = (true[good, :3, 3] - found[good, :3, 3] @ fit.R.T).mean(0)
    ratio = math.nan if fit.scale is None else float(fit.scale)
    return replace(fit, t=t, scale=None).move(state), ratio


def _notes(clip: Clip, found: _Solution, known: Tensor | None, fix: bool, anchor: str, why: str) -> tuple[str, ...]:
    given = torch.zeros(len(clip), dtype=torch.bool) if known is None else torch.isfinite(known).flatten(1).all(1)
    how = f"from depth and flow on the {anchor} ({why}); matches agree to {found.pixel_error:.2f} px"
    notes = [f"poses: solved {how}"]
    if known is not None and fix:
        notes = [f"poses: those of {int((found.placed & ~given).sum())} frames, which have none, solved {how}"]
    elif known is not None:
        both = found.placed & given
        turned = torch.rad2deg(rotation_angle(found.poses[both, :3, :3], known[both, :3, :3]))
        moved = (found.poses[both, :3, 3] - known[both, :3, 3]).norm(dim=-1)
        notes = [
            f"poses: the given ones refined {how}; they turned by {float(turned.median()):.2f} degrees and moved by "
            f"{float(moved.median()):.3g} in the median"
        ]
    if found.off > CONTRADICTS:
        notes.append(
            f"poses: at the given poses matches on the {anchor} are off by {found.off:.1f} px in the median: these "
            "poses or their unit contradict the depth, or what is matched moves (geometry.poses refine or solve)"
        )
    if found.unfit:
        notes.append(f"poses: {found.unfit} pairs of frames, whose matches fit no rigid motion, are left out")
    if abs(math.log(found.unit)) > math.log(OTHER_UNIT):  # not where it is NaN
        notes.append(f"poses: a length of the depth is {found.unit:.3g} of the given poses; that of the depth counts")
    kept, lost = given & ~found.placed, ~given & ~found.placed
    for rows, what in ((kept, "keep the given poses: no matches tie them"), (lost, "could not be placed")):
        if bool(rows.any()) and not (fix and rows is kept):
            names = [name for name, here in zip(clip.names, rows.tolist()) if here]
            notes.append(f"poses: {len(names)} frames {what}: {listed(names)}")
    return tuple(notes)


def _given_intrinsics(clip: Clip) -> Intrinsics:
    assert clip.cameras is not None
    K = clip.cameras.K.double().cpu()
    focal = (K[:, 0, 0] * K[:, 1, 1]).sqrt()
    aspect = torch.stack([K[:, 0, 0], K[:, 1, 1]], -1) / focal[:, None]
    return Intrinsics(focal, focal, aspect, K[:, :2, 2], torch.ones(len(K), dtype=torch.bool))
