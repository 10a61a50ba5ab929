"""A small coloured body that twists, bends and stretches smoothly, for the tests of the player."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from export_scenes import arc, ball, timeline

from dyn4d.core.types import Camera, GaussianCloud
from dyn4d.export.evaluate import Reconstruction

FRAMES = 7


@dataclass
class Swimmer:
    """Twists about z, more so further up, stretches, and moves along x; with its exact Jacobian."""

    twist: float = 0.9
    stretch: float = 0.25
    shift: float = 0.3
    invertible: bool = False

    def from_canonical(self, xyz, t):
        x, y, z = xyz.unbind(-1)
        angle = self.twist * t * (0.6 + z + 0.4 * torch.sin(3 * x))
        c, s = torch.cos(angle), torch.sin(angle)
        out = torch.stack([x * c - y * s, x * s + y * c, z * (1 + self.stretch * t * torch.cos(2 * x))], dim=-1)
        return out + torch.tensor([self.shift, 0.0, 0.0]).to(xyz) * t

    def jacobian(self, xyz, t):
        one = torch.func.jacfwd(lambda p: self.from_canonical(p, t))
        return torch.func.vmap(one)(xyz.reshape(-1, 3)).reshape(*xyz.shape, 3).to(xyz)

    def motion(self, xyz, t):
        return self.from_canonical(xyz, t), self.jacobian(xyz, t)


def body(count: int = 1500, *, seed: int = 0, sh_degree: int = 0, confidence: bool = True) -> GaussianCloud:
    """Flat Gaussians of all directions on an ellipsoid, coloured by their place."""
    cloud = ball(count, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    sh = torch.zeros(count, (sh_degree + 1) ** 2, 3)
    sh[:, 0] = torch.sin(9 * cloud.means) * 1.4
    sh[:, 1:] = 0.25 * torch.randn(count, sh.shape[1] - 1, 3, generator=generator)
    return replace(
        cloud,
        means=cloud.means * torch.tensor([1.0, 0.7, 1.2]),
        quats_wxyz=torch.randn(count, 4, generator=generator),
        scales=torch.tensor([0.05, 0.03, 0.012]) * torch.exp(0.3 * torch.randn(count, 3, generator=generator)),
        opacities=0.3 + 0.69 * torch.rand(count, generator=generator),
        sh=sh,
        confidence=torch.rand(count, generator=generator) if confidence else None,
    )


def result(
    count: int = 1500, *, frames: int = FRAMES, sh_degree: int = 0, width: int = 160, height: int = 120
) -> Reconstruction:
    cameras: Camera = arc(frames, width=width, height=height)
    K = cameras.K.clone()
    K[:, 0, 0] = K[:, 1, 1] = 1.6 * height
    K[:, 0, 2] += 3.5  # a principal point off the middle
    return Reconstruction(
        cloud=body(count, sh_degree=sh_degree), field=Swimmer(), timeline=timeline(frames),
        cameras=replace(cameras, K=K), background=(0.5, 0.5, 0.5), poses_given=True,
    )  # fmt: skip
