"""Where the frames of a clip are while the alignment looks for them, and in which order their unknowns come."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

UNKNOWNS = 10  # of a frame: rotation 3, centre 3, log scale, log focal, principal point 2
ROTATION, CENTRE, SCALE, FOCAL, POINT = slice(0, 3), slice(3, 6), 6, 7, slice(8, 10)
NEAREST = 0.02  # least depth of a point before a camera, as a share of its frame's median


@dataclass(frozen=True)
class BundleState:
    """Where T frames are.

    Attributes:
        world_from_cam: (T, 4, 4). scale: (T,) world lengths per length of the canonical view. focal: (T,) px.
        network_focal: (T,) px, what the canonical points say. principal_point: (T, 2) px.
        aspect: (T, 2) the focal lengths along x and y are `focal` times these.
        log_depth: for each frame (A,) logarithm of an anchor's depth over that of the scaled canonical view.
        active: (T,) bool, frames that take part; the others' numbers mean nothing.
        fixed_pose: (T,) bool, poses that must stay. fixed_focal: (T,) bool.
    """

    world_from_cam: Tensor
    scale: Tensor
    focal: Tensor
    network_focal: Tensor
    principal_point: Tensor
    aspect: Tensor
    log_depth: tuple[Tensor, ...]
    active: Tensor
    fixed_pose: Tensor
    fixed_focal: Tensor

    def depth(self, frame: int, base: Tensor, anchor: Tensor, ratio: Tensor) -> Tensor:
        """(M,) world depth of pixels with this `ratio` to their anchors, rows `anchor` of canonical depth `base`.

        A longer focal length stretches a frame's content along its axis: every ray keeps its offset from it.
        """
        stretch = self.focal[frame] / self.network_focal[frame] * self.scale[frame]
        return stretch * base * ratio * torch.exp(self.log_depth[frame][anchor])

    def focals(self, frame: int) -> Tensor:
        """(2,) px along x and y."""
        return self.focal[frame] * self.aspect[frame]


def cross_matrix(v: Tensor) -> Tensor:
    """(..., 3, 3) matrices of v × ·."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=-1).reshape(*v.shape[:-1], 3, 3)
