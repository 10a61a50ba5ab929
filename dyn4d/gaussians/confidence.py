"""How much each Gaussian is to be believed: how often the clip saw it, and how well what it saw was met."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyn4d.core.protocols import Field
from dyn4d.core.types import GaussianCloud
from dyn4d.gaussians.targets import FrameTarget
from dyn4d.gaussians.warp import MovedGaussians, move
from dyn4d.raster import rasterization
from dyn4d.raster.sh import sh_colors

SEEN = 0.5  # pixels of a frame that a Gaussian has to itself, from which on it counts as seen
WRONG = 0.25  # mean colour error at which a pixel says nothing for the Gaussians in it
REACH = 1.5  # spreads (root of the sum of its variances) that a Gaussian may lie behind the drawn surface, still seen
SOLID = 0.5  # coverage from which on there is a surface
ENOUGH = 3.0  # frames that make a confidence of 1 - 1/e, or a third of the clip's frames if those are fewer


def confidence(
    cloud: GaussianCloud, field: Field, targets: Sequence[FrameTarget], *, gains: Tensor | None = None
) -> Tensor:
    """(G,) in [0, 1]: 1 - exp(-seen / enough), where each frame adds what it saw of the Gaussian, at most 1, times how
    well its pixels were met. 0: no frame ever saw it; what is there is a guess of the field.

    A Gaussian's share in the pixels is read off the gradient of the drawn pictures by its colour. It counts where the
    Gaussian reaches up to the drawn surface: no surface is quite opaque, and the little light that comes through from
    behind it in each frame would otherwise add up, over a clip, to what a good sight of it is worth.

    Args:
        cloud: canonical. targets: the frames, on the cloud's device. gains: (T, 3) brightness of each frame, if any.
    """
    seen = torch.zeros(len(cloud), device=cloud.means.device)
    for target in targets:
        with torch.no_grad():
            moved = move(cloud, field, target.time)
            towards = moved.means - torch.linalg.inv(target.cam_from_world)[:3, 3]
            colours = sh_colors(cloud.sh_degree, towards, moved.sh)
            if gains is not None:
                colours = colours * gains[target.frame]
        colours = colours.detach().requires_grad_(True)
        height, width = target.mask.shape
        with torch.enable_grad():
            renders, alphas, info = rasterization(
                moved.means.detach(), None, None, cloud.opacities.detach(), colours,
                target.cam_from_world[None], target.K[None], width, height, covars=moved.covars.detach(),
                render_mode="RGB+ED",
            )  # fmt: skip
            picture, depth = renders[0, ..., :3], renders[0, ..., 3].detach()
            error = (picture.detach() - target.image.float() / 255).abs().mean(-1)
            met = (1 - error / WRONG).clamp(0, 1) * target.mask
            by_colour = torch.stack([target.mask.float(), met, torch.zeros_like(met)], dim=-1)
            share = torch.autograd.grad((picture * by_colour).sum(), colours)[0]
        pixels, good = share[:, 0], share[:, 1]
        surface = torch.where(alphas[0, ..., 0].detach() > SOLID, depth, torch.inf)
        front = _in_front(moved, surface, info["means2d"][0].detach(), target)
        seen += front * (pixels / SEEN).clamp(0, 1) * good / pixels.clamp_min(1e-6)
    return 1 - torch.exp(-seen / max(min(ENOUGH, len(targets) / 3), 1e-6))


def _in_front(moved: MovedGaussians, surface: Tensor, xy: Tensor, target: FrameTarget) -> Tensor:
    """(G,) 1 where a Gaussian reaches the surface that is drawn at its middle, falling to 0 one reach behind that.

    Args:
        surface: (H, W) planar z, Inf where there is none. xy: (G, 2) pixels of the means.
    """
    height, width = surface.shape
    world = target.cam_from_world
    z = moved.means.detach() @ world[2, :3] + world[2, 3]
    columns, rows = xy[:, 0].long().clamp(0, width - 1), xy[:, 1].long().clamp(0, height - 1)
    reach = REACH * moved.covars.detach().diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()
    return (2 - (z - surface[rows, columns]) / reach.clamp_min(1e-9)).clamp(0, 1)
