"""A small exact world for the export tests: a ball of Gaussians that a known, invertible field carries along."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from dyn4d.core.cameras import look_at
from dyn4d.core.types import Camera, GaussianCloud, Timeline


@dataclass
class Carousel:
    """Turns by `turn` radians about z and moves along x by `shift` over the clip. An exact field."""

    turn: float = 0.8
    shift: float = 0.3
    invertible: bool = True

    def _rotation(self, t):
        angle = torch.as_tensor(t, dtype=torch.float32) * self.turn
        c, s, o, i = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
        return torch.stack([torch.stack([c, -s, o]), torch.stack([s, c, o]), torch.stack([o, o, i])])

    def from_canonical(self, xyz, t):
        move = torch.tensor([self.shift, 0.0, 0.0]) * t
        return xyz @ self._rotation(t).T.to(xyz) + move.to(xyz)

    def to_canonical(self, xyz, t):
        move = torch.tensor([self.shift, 0.0, 0.0]) * t
        return (xyz - move.to(xyz)) @ self._rotation(t).to(xyz)

    def jacobian(self, xyz, t):
        return self._rotation(t).to(xyz).expand(*xyz.shape[:-1], 3, 3)

    def motion(self, xyz, t):
        return self.from_canonical(xyz, t), self.jacobian(xyz, t)


def ball(count: int = 300, radius: float = 0.5, seed: int = 0) -> GaussianCloud:
    """Opaque Gaussians on a sphere, coloured by their direction."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    colour = 0.5 + 0.45 * normal
    return GaussianCloud(
        means=normal * radius,
        quats_wxyz=quats,
        scales=torch.full((count, 3), 0.07),
        opacities=torch.full((count,), 0.97),
        sh=((colour - 0.5) / 0.28209479177387814).unsqueeze(1),
    )


def timeline(count: int = 5) -> Timeline:
    seconds = np.arange(count) / 10
    times = seconds / seconds[-1] if count > 1 else np.zeros(1)
    return Timeline(times, seconds, tuple(f"{i:05d}" for i in range(count)))


def arc(count: int = 5, *, width: int = 48, height: int = 40, span: float = 0.7, lift: float = 0.4) -> Camera:
    """Cameras on an arc about z that look at the origin from slightly above."""
    poses = []
    for i in range(count):
        angle = span * (i / max(count - 1, 1) - 0.5)
        eye = torch.tensor([2.5 * math.cos(angle), 2.5 * math.sin(angle), lift + 0.1 * math.sin(7 * angle)]).double()
        poses.append(look_at(eye, torch.zeros(3).double(), torch.tensor([0.0, 0, 1]).double()))
    K = torch.tensor([[60.0, 0, width / 2], [0, 60.0, height / 2], [0, 0, 1]]).double()
    return Camera(K.expand(count, 3, 3).clone(), torch.stack(poses), width, height)
