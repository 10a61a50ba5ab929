"""Which world the solved cameras are in: that of known poses, or the first camera's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dyn4d.core.rotations import rotation_angle
from dyn4d.geometry.bundle_state import BundleState

ROUNDS = 20  # of reweighting
PROBES = 300  # pairs of centres that are asked for the scale
LEAST_PARALLAX = 1e-3  # spread of centres over the depth of the scene: less says nothing of its size
SURE = 0.3  # relative error of a scale, above which the centres do not say it
TURN_DEG, SHIFT = 5.0, 0.1  # known poses within these (the latter times the depth) of the solved ones agree with them
STRAY = 5.0  # so do those within this many times what is usual


@dataclass(frozen=True)
class WorldFit:
    """y = scale · R x + t takes the solved world to the known one; the N known poses that agree with it.

    Attributes:
        scale: None where the centres do not say it. turned_deg: (N,) by which rotations differ. agrees: (N,) bool.
    """

    R: Tensor
    t: Tensor
    scale: Tensor | None
    turned_deg: Tensor
    agrees: Tensor

    @property
    def size(self) -> float:
        """The scale, 1 where it is not known."""
        return 1.0 if self.scale is None else float(self.scale)

    def move(self, state: BundleState) -> BundleState:
        """All of the state, in the known world."""
        pose = state.world_from_cam.clone()
        pose[:, :3, :3] = self.R @ pose[:, :3, :3]
        pose[:, :3, 3] = self.size * pose[:, :3, 3] @ self.R.T + self.t
        return replace(state, world_from_cam=pose, scale=state.scale * self.size)


def fit_world(found: Tensor, known: Tensor, depth: float) -> WorldFit:
    """The similarity that most poses agree on, so that a few wrong ones do not matter.

    The rotation is what most cameras say each by itself, so that few or collinear ones suffice; the scale is what the
    centres of most say.

    Args:
        found, known: (N, 4, 4) world_from_cam, N > 0. depth: of what is seen, in the solved world.
    """
    R = _common_rotation(known[:, :3, :3] @ found[:, :3, :3].mT)
    turned = torch.rad2deg(rotation_angle(R @ found[:, :3, :3], known[:, :3, :3]))
    a, b = found[:, :3, 3] @ R.T, known[:, :3, 3]
    scale = _scale(a, b, depth)
    size = a.new_ones(()) if scale is None else scale
    t = (b - size * a).median(0).values
    for _ in range(ROUNDS):
        weight = _weights((b - size * a - t).norm(dim=-1), 1e-9 * depth * size)
        t = (weight[:, None] * (b - size * a)).sum(0) / weight.sum()
    far = (b - size * a - t).norm(dim=-1)
    agrees = turned <= torch.maximum(STRAY * turned.median(), turned.new_tensor(TURN_DEG))
    agrees &= far <= torch.maximum(STRAY * far.median(), SHIFT * depth * size)
    return WorldFit(R, t, scale, turned, agrees)


def distinct_centres(poses: Tensor, tiny: float = 1e-6) -> bool:
    """Do poses (N, 4, 4) stand in more than one place?"""
    if len(poses) < 2:
        return False
    centres = poses[:, :3, 3]
    spread = float((centres - centres.mean(0)).norm(dim=-1).max())
    return spread > tiny * max(float(centres.norm(dim=-1).max()), tiny)


def _common_rotation(said: Tensor) -> Tensor:
    """What most of (N, 3, 3) rotations say: the one with the least sum of angles to all, then the mean about it."""
    apart = rotation_angle(said[:, None], said[None])
    near = apart[int(apart.sum(1).argmin())]
    weight = 1 / (1 + (near / (2 * near.median()).clamp_min(1e-6)) ** 2)
    U, _, Vh = torch.linalg.svd((weight[:, None, None] * said).sum(0))
    flip = torch.ones_like(U[0])
    flip[2] = torch.linalg.det(U @ Vh)
    return U @ torch.diag(flip) @ Vh


def _scale(a: Tensor, b: Tensor, depth: float) -> Tensor | None:
    """Of b over a, centres (N, 3) in the same orientation; None where they are too near each other to say.

    Of what two centres each say, that with the least median error over all is where the reweighting begins.
    """
    first, second = torch.triu_indices(len(a), len(a), 1)
    wide = (a[first] - a[second]).norm(dim=-1) > LEAST_PARALLAX * depth
    first, second = first[wide], second[wide]
    if not len(first):
        return None
    some = torch.arange(min(len(first), PROBES)) * len(first) // min(len(first), PROBES)
    first, second = first[some], second[some]
    da, db = a[first] - a[second], b[first] - b[second]
    said = (da * db).sum(-1) / da.square().sum(-1)
    middle = (b[first] + b[second] - said[:, None] * (a[first] + a[second])) / 2
    off = (b[None] - said[:, None, None] * a[None] - middle[:, None]).norm(dim=-1)  # (probes, N)
    best = int(off.sort(-1).values[:, len(a) // 2].argmin())
    scale, far = said[best], off[best]
    for _ in range(ROUNDS):
        weight = _weights(far, 1e-9 * depth * scale.abs())
        ca, cb = ((weight[:, None] * each).sum(0) / weight.sum() for each in (a, b))
        spread = (weight * (a - ca).square().sum(-1)).sum()
        scale = (weight * ((a - ca) * (b - cb)).sum(-1)).sum() / spread
        far = (b - cb - scale * (a - ca)).norm(dim=-1)
    error = ((weight * far.square()).sum() / spread / max(len(a) - 1, 1)).sqrt()  # of the scale
    return scale if bool(scale > 0) and bool(error < SURE * scale) else None


def _weights(far: Tensor, least: Tensor) -> Tensor:
    return 1 / (1 + (far / (2 * far.median()).clamp_min(float(least) + 1e-300)) ** 2)


def with_known_poses(
    state: BundleState, known: Tensor | None, depth: float, *, fix: bool
) -> tuple[BundleState, list[int]]:
    """The state moved to known poses: first as a whole, then frame by frame.

    Args:
        known: (T, 4, 4), NaN where unknown. depth: of what is seen, in the state's world.
        fix: known poses stay. Else those that contradict the others and what was solved are not begun with.

    Returns:
        The state, and the frames whose known poses contradict the others.
    """
    rows = known_rows(state, known)
    if known is None or len(rows) == 0:
        return state, []
    true = known.double()[rows]
    fit = fit_world(state.world_from_cam[rows], true, depth)
    state = fit.move(state)
    begin = rows if fix else rows[fit.agrees]
    pose, fixed = state.world_from_cam.clone(), torch.zeros_like(state.active)
    pose[begin] = true if fix else true[fit.agrees]
    fixed[begin] = fix
    return replace(state, world_from_cam=pose, fixed_pose=fixed), rows[~fit.agrees].tolist()


def in_known_world(state: BundleState, known: Tensor, depth: float) -> BundleState:
    """The solved state as a whole, as near to known poses (T, 4, 4) as most of these agree."""
    rows = known_rows(state, known)
    return fit_world(state.world_from_cam[rows], known.double()[rows], depth).move(state)


def known_rows(state: BundleState, known: Tensor | None) -> Tensor:
    """(N,) active frames whose pose is known."""
    if known is None:
        return torch.zeros(0, dtype=torch.int64)
    return torch.nonzero(torch.isfinite(known).flatten(1).all(-1) & state.active).squeeze(-1)


def scene_depth(state: BundleState, anchor_depths: Sequence[Tensor]) -> float:
    """Median over the active frames of the median depth that they see, in world units."""
    rows = torch.nonzero(state.active).squeeze(-1).tolist()
    seen = [float(state.scale[n] * anchor_depths[n].median()) for n in rows if len(anchor_depths[n])]
    return float(torch.tensor(seen).median()) if seen else 1.0


def at_home(state: BundleState) -> BundleState:
    """The same world with the first registered camera at its origin and the frames' geometric mean scale 1."""
    first = int(torch.nonzero(state.active)[0])
    size = torch.exp(torch.log(state.scale[state.active]).mean())
    R, centre = state.world_from_cam[first, :3, :3], state.world_from_cam[first, :3, 3]
    pose = state.world_from_cam.clone()
    pose[:, :3, :3] = R.T @ pose[:, :3, :3]
    pose[:, :3, 3] = (pose[:, :3, 3] - centre) @ R / size
    return replace(state, world_from_cam=pose, scale=state.scale / size)
