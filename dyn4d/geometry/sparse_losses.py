"""The forward model of the published sparse alignment, and what is minimised: matched points apart in space, then in
pixels, and pointmaps apart.

Here N frames of one connected component, numbered along their kinematic tree, have A anchors between them. Pixels are
those of the published code, whose centres are at integers: ours less a half. Lengths are in units of the world.

Source: Duisterhof et al., "MASt3R-SfM", 2024, sections 3.3 and 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from dyn4d.core.rotations import matrix_to_wxyz, wxyz_to_matrix
from dyn4d.geometry.focal import diagonal_limits
from dyn4d.geometry.kinematic import PoseChain, SeenAnchors
from dyn4d.geometry.sparse_problem import PairMatches

DepthMode = Literal["add", "mul"]

NEAREST_DEPTH = 1e-3  # points nearer than this, or behind the camera, are projected as if they were there
PIXEL_RANGE = (-1000.0, 2000.0)  # projections outside count as if they were on its border


def gamma_loss(distance: Tensor, gamma: float) -> Tensor:
    """(|d| + o)^γ - o^γ with the offset o that makes the slope at 0 one; |d| for γ = 1.

    Args:
        distance: (...) >= 0. gamma: > 0; below 1 far outliers hardly pull.
    """
    if gamma == 1:
        return distance
    offset = (1 / gamma) ** (1 / (gamma - 1))
    return (distance + offset) ** gamma - offset**gamma


def falling_rate(schedule: Literal["cosine", "linear"], step: int, steps: int, first: float) -> float:
    """Learning rate of a step: `first` at 0, 0 at `steps`; half a cosine or a straight line between."""
    share = step / steps
    return first * ((1 + math.cos(math.pi * share)) / 2 if schedule == "cosine" else 1 - share)


class _Movable:
    """A dataclass of tensors."""

    def to(self: Moved, device: torch.device) -> Moved:
        whole: Any = self
        return replace(whole, **{each.name: getattr(self, each.name).to(device) for each in fields(whole)})


Moved = TypeVar("Moved", bound=_Movable)


@dataclass(frozen=True)
class SceneState(_Movable):
    """The cameras and anchors of N frames at one moment.

    Attributes:
        K: (N, 3, 3) px, integer centres. rotation: (N, 3, 3), centre: (N, 3): world_from_cam.
        scale: (N,) lengths in the world over those of the frame's canonical view.
        relief: (N,) first focal length over this one; relative depths about an anchor shrink by it.
        depth: (A,) planar z of the anchors.
    """

    K: Tensor
    rotation: Tensor
    centre: Tensor
    scale: Tensor
    relief: Tensor
    depth: Tensor


@dataclass(frozen=True)
class PackedPixels(_Movable):
    """Pixels of any of the N frames.

    Attributes:
        frame: (P,) int64. anchor: (P,) int64 in the A anchors of all frames. ratio: (P,) depth over that of the anchor.
        xy: (P, 2) px, integer centres.
    """

    frame: Tensor
    anchor: Tensor
    ratio: Tensor
    xy: Tensor

    def world(self, state: SceneState) -> Tensor:
        """(P, 3) points in the world."""
        towards = state.rotation @ _inverse(state.K)  # pixel to direction, one gather for all that it takes
        rows = torch.cat([towards.flatten(1), state.centre, state.relief[:, None]], dim=1)[self.frame]
        towards, centre, relief = rows.split([9, 3, 1], dim=1)
        pixel = nn.functional.pad(self.xy, (0, 1), value=1.0)[..., None]
        depth = state.depth[self.anchor, None] * (1 + (self.ratio[:, None] - 1) * relief)
        return torch.bmm(towards.reshape(-1, 3, 3), pixel)[..., 0] * depth + centre

    def project(self, state: SceneState, world: Tensor) -> Tensor:
        """(P, 2) px where the frame of each pixel sees the points (P, 3)."""
        into = state.K @ state.rotation.transpose(1, 2)
        into, centre = torch.cat([into.flatten(1), state.centre], dim=1)[self.frame].split([9, 3], dim=1)
        seen = torch.bmm(into.reshape(-1, 3, 3), (world - centre)[..., None])[..., 0]
        across, depth = seen.split([2, 1], dim=1)
        return (across / depth.clamp_min(NEAREST_DEPTH)).clamp(*PIXEL_RANGE)


def _inverse(K: Tensor) -> Tensor:
    """Of matrices (N, 3, 3) without skew."""
    fx, fy, x, y = K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]
    return intrinsics_matrix(torch.stack([1 / fx, 1 / fy], dim=-1), torch.stack([-x / fx, -y / fy], dim=-1))


def intrinsics_matrix(focal: Tensor, pp: Tensor) -> Tensor:
    """(N, 3, 3) from focal lengths (N, 2) along x and y and principal points (N, 2)."""
    last = focal.new_tensor([0.0, 0, 1]).expand(len(focal), 1, 3)
    return torch.cat([torch.cat([torch.diag_embed(focal), pp[..., None]], dim=2), last], dim=1)


@dataclass(frozen=True)
class PackedMatches(_Movable):
    """M matches as 2 M pixels, first all first ends, then all second ones. weight: (M,) > 0."""

    pixels: PackedPixels
    weight: Tensor

    def __len__(self) -> int:
        return len(self.weight)

    @staticmethod
    def pack(pairs: Iterable[PairMatches], local: Mapping[int, int], first_anchor: Sequence[int]) -> PackedMatches:
        """Matches of pairs both of whose frames are among the N.

        Args:
            local: number among the N of a frame of the clip. first_anchor: of each of the N among the A anchors.
        """
        inside = [pair for pair in pairs if pair.frame_a in local and pair.frame_b in local and len(pair)]
        ends = [(local[p.frame_a], p.a) for p in inside] + [(local[p.frame_b], p.b) for p in inside]
        none = torch.zeros(0, dtype=torch.float64)
        pixels = PackedPixels(
            torch.cat([none.long(), *(torch.full((len(end),), frame) for frame, end in ends)]),
            torch.cat([none.long(), *(end.anchor + first_anchor[frame] for frame, end in ends)]),
            torch.cat([none, *(end.ratio for _, end in ends)]),
            torch.cat([none.reshape(0, 2), *(end.xy - 0.5 for _, end in ends)]),
        )
        return PackedMatches(pixels, torch.cat([none, *(pair.weight for pair in inside)]))

    def distance_loss(self, state: SceneState, gamma: float) -> Tensor:
        """Weighted mean over the matches of the distance between what their ends see."""
        one, other = self.pixels.world(state).split(len(self))
        apart = (one - other).norm(dim=-1)
        return (self.weight * gamma_loss(apart, gamma)).sum() / self.weight.sum()

    def pixel_loss(self, state: SceneState, gamma: float) -> Tensor:
        """Weighted mean over both ends of all matches of the distance in pixels to where the other end's point is."""
        others = torch.cat(self.pixels.world(state).split(len(self))[::-1])
        apart = (self.pixels.xy - self.pixels.project(state, others)).norm(dim=-1)
        weight = torch.cat([self.weight, self.weight])
        return (weight * gamma_loss(apart, gamma)).sum() / weight.sum()


@dataclass(frozen=True)
class PackedPointmaps(_Movable):
    """K anchors as others see them.

    Attributes:
        camera: (K,) int64 among the N frames. anchors: K rows, the anchors themselves as pixels.
        points: (K, 3) in the camera, in its view's lengths. conf: (K,) > 0.
    """

    camera: Tensor
    anchors: PackedPixels
    points: Tensor
    conf: Tensor

    def __len__(self) -> int:
        return len(self.conf)

    @staticmethod
    def pack(
        views: Iterable[SeenAnchors], local: Mapping[int, int], first_anchor: Sequence[int], xy: Tensor
    ) -> PackedPointmaps:
        """Of views between two of the N frames. xy: (A, 2) px of the anchors, integer centres; the rest as above."""
        inside = [view for view in views if view.frame in local and view.camera in local]
        none = torch.zeros(0, dtype=torch.float64)
        anchor = torch.cat([none.long(), *(v.anchor + first_anchor[local[v.frame]] for v in inside)])
        frame, camera = (
            torch.cat([none.long(), *(torch.full((len(v.anchor),), local[which]) for v, which in zip(inside, rows))])
            for rows in ([v.frame for v in inside], [v.camera for v in inside])
        )
        pixels = PackedPixels(frame, anchor, torch.ones(len(anchor), dtype=torch.float64), xy[anchor])
        points = torch.cat([none.reshape(0, 3), *(v.points for v in inside)])
        return PackedPointmaps(camera, pixels, points, torch.cat([none, *(v.conf for v in inside)]))

    def loss(self, state: SceneState, gamma: float) -> Tensor:
        """Weighted mean of the distance between the anchors and where the others see them."""
        turned = state.rotation * state.scale[:, None, None]
        placed = torch.bmm(turned[self.camera], self.points[..., None])[..., 0] + state.centre[self.camera]
        apart = (self.anchors.world(state) - placed).norm(dim=-1)
        return (self.conf * gamma_loss(apart, gamma)).sum() / self.conf.sum()


class SceneUnknowns(nn.Module):
    """What is searched for. Poses are chained along a tree in whose order the frames are numbered; each is that of a
    pivot on the optical axis, in the middle of what the frame sees, so that a camera turns about the scene.
    """

    first_focal: Tensor
    first_pp: Tensor
    aspect: Tensor
    size: Tensor
    limits: Tensor
    fixed: Tensor
    median: Tensor
    anchor_frame: Tensor
    held: Tensor
    held_rotation: Tensor
    held_centre: Tensor
    first_core: Tensor | None
    basis: Tensor | None

    def __init__(
        self, K: Tensor, size: Tensor, depths: Sequence[Tensor], parents: Sequence[int], *, fixed: Tensor,
        shared: Tensor | None = None, depth_mode: DepthMode = "add", exp_depth: bool = False,
        basis: Tensor | None = None, held: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Args:
        K: (N, 3, 3) first intrinsics, integer centres. size: (N, 2) width and height in px.
        depths: canonical ones of each frame's anchors. parents: `KinematicTree.parents`.
        fixed: (N,) bool, K stays. shared: (N,) weight of each frame in the start of common intrinsics; None: each has
            its own.
        held: (N,) bool, frames whose poses stay where `place` puts them; None: all are searched for.
        """
        super().__init__()
        self.pinned = False  # do poses that are held fix the world's size?
        self.chain, self.depth_mode, self.exp_depth = PoseChain(parents), depth_mode, exp_depth
        focal, pp, count = K[:, 0, 0], K[:, :2, 2] / size, len(K)
        limits = K.new_tensor([diagonal_limits(int(width), int(height)) for width, height in size.tolist()])
        median = torch.stack([each.median() if len(each) else each.new_ones(()) for each in depths])
        frame = torch.cat([torch.full((len(each),), number) for number, each in enumerate(depths)])
        kept = {"first_focal": focal, "first_pp": pp, "aspect": K[:, 1, 1] / focal, "size": size, "limits": limits,
                "fixed": fixed, "median": median, "anchor_frame": frame,
                "held": torch.zeros_like(fixed) if held is None else held,
                "held_rotation": torch.eye(3, dtype=K.dtype).repeat(count, 1, 1),
                "held_centre": K.new_zeros(count, 3)}  # fmt: skip
        for name, value in kept.items():
            self.register_buffer(name, value)
        free = ~fixed
        if shared is not None and bool(free.any()):
            weight = (shared[free] / shared[free].sum())[:, None]
            focal, pp = (weight[:, 0] * focal[free]).sum()[None], (weight * pp[free]).sum(0, keepdim=True)
        core = torch.cat(list(depths)) / median[frame]
        self.quats = nn.Parameter(K.new_tensor([1.0, 0, 0, 0]).repeat(count, 1))
        self.translation, self.log_size = nn.Parameter(K.new_zeros(count, 3)), nn.Parameter(K.new_zeros(count))
        self.log_focal, self.pp = nn.Parameter(focal.log()), nn.Parameter(pp.clone())
        core = core.log() if exp_depth else core
        self.register_buffer("first_core", core if basis is not None else None)
        self.register_buffer("basis", basis)
        self.core = nn.Parameter(core.clone() if basis is None else core.new_zeros(count, basis.shape[1]))

    def _relative_depth(self) -> Tensor:
        """(A,) depth of each anchor over its frame's median, or its logarithm."""
        if self.basis is None or self.first_core is None:
            return self.core
        return self.first_core + (self.basis * self.core[self.anchor_frame]).sum(-1)

    def forward(self) -> SceneState:
        focal = self.log_focal.exp().clamp(self.limits[:, 0], self.limits[:, 1])
        focal = torch.where(self.fixed, self.first_focal, focal)
        pp = torch.where(self.fixed[:, None], self.first_pp, self.pp) * self.size
        size = self.log_size.exp()
        # of two frames the one whose canonical view is larger keeps its size, unless the poses say what it is
        unit = torch.ones_like(size[0]) if self.pinned else 1 / size.min()
        middle = size * self.median * focal / self.first_focal
        core, at = self._relative_depth(), self.anchor_frame
        core = core.exp() if self.exp_depth else core
        if self.depth_mode == "mul":
            depth = unit * middle[at] * core
        else:
            depth = unit * (middle[at] + (core - 1) * (self.median * size)[at])
        K = intrinsics_matrix(torch.stack([focal, focal * self.aspect], dim=-1), pp)
        rotation, pivot = self.chain.compose(wxyz_to_matrix(self.quats), self.translation)
        centre = unit * (pivot - (rotation @ self._arm(K, middle)[..., None])[..., 0])
        rotation = torch.where(self.held[:, None, None], self.held_rotation, rotation)
        centre = torch.where(self.held[:, None], self.held_centre, centre)
        return SceneState(K, rotation, centre, unit * size, self.first_focal / focal, depth)

    def _arm(self, K: Tensor, middle: Tensor) -> Tensor:
        """(N, 3) from the camera to its pivot, which the picture's middle shows at the depth `middle`."""
        ends = torch.cat([self.size / 2, torch.ones_like(self.size[:, :1])], dim=1)
        return (_inverse(K) @ ends[..., None])[..., 0] * middle[:, None]

    @torch.no_grad()
    def place(self, rotation: Tensor, centre: Tensor, *, pinned: bool = False) -> None:
        """Start from world_from_cam (N, 3, 3), (N, 3), NaN where unknown: there the parent's rotation and pivot are
        taken, and for the root those of the first known frame. Poses that are held stay there.

        Args:
            pinned: those that are held fix the world's size, which else is that of the largest canonical view.
        """
        pivot = centre + (rotation @ self._arm(self().K, self.median)[..., None])[..., 0]
        known = pivot.isfinite().all(-1).tolist()
        source: list[int] = []
        for frame, parent in enumerate(self.chain.parents):
            source.append(frame if known[frame] else source[parent] if frame else known.index(True))
        turn, shift = self.chain.relative(rotation[source], pivot[source])
        self.quats.copy_(matrix_to_wxyz(turn))
        self.translation.copy_(shift)
        self.pinned = pinned
        self.held_rotation.copy_(torch.where(self.held[:, None, None], rotation, self.held_rotation))
        self.held_centre.copy_(torch.where(self.held[:, None], centre, self.held_centre))

    @torch.no_grad()
    def normalise(self) -> None:
        """To be done after each step."""
        self.quats.copy_(nn.functional.normalize(self.quats, dim=-1))
