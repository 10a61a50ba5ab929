"""How a render differs from its frame. Each term is a mean over the pixels that it is about."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dyn4d.core.cameras import transform
from dyn4d.gaussians.config import GaussiansConfig
from dyn4d.gaussians.targets import FrameTarget
from dyn4d.raster.similarity import l1_and_dssim


@dataclass(frozen=True)
class RenderTerms:
    """Unweighted, differentiable; the names are those of the weights in `GaussiansConfig`."""

    l1: Tensor
    ssim: Tensor
    silhouette: Tensor
    depth: Tensor
    depth_order: Tensor

    def weighted(self, config: GaussiansConfig) -> Tensor:
        total = self.l1.new_zeros(())
        for term in fields(self):
            total = total + getattr(config, term.name) * getattr(self, term.name)
        return total


def compose(rgb: Tensor, alpha: Tensor, target: FrameTarget, colour: Tensor) -> tuple[Tensor, Tensor]:
    """The render over a background, and the picture it should equal, both (h, w, 3).

    Away from the outline the background is `colour` (3,), drawn anew at each step. Within a pixel or two of it the
    frame's own background is used, because there the frame's pixels are mixtures that no mask can undo.
    """
    behind = torch.where(target.edge.unsqueeze(-1), target.behind.float() / 255, colour)
    shown = (target.mask | target.edge).unsqueeze(-1)
    wanted = torch.where(shown, target.image.float() / 255, behind)
    return rgb + (1 - alpha) * behind, wanted


def depth_error(depth: Tensor, alpha: Tensor, target: FrameTarget, half_size: float) -> Tensor:
    """Mean robust difference to the depth map over covered object pixels, in half object sizes."""
    valid = (target.depth > 0) & target.mask & (alpha.detach() > 0.5)
    error = (depth - target.depth).abs() / half_size
    error = error / (1 + error / 0.1)  # another layer of the object may be what is drawn here
    return (error * valid).sum() / valid.sum().clamp_min(1)


def depth_order_error(
    depth: Tensor, target: FrameTarget, half_size: float, generator: torch.Generator, *, form: str, pairs: int = 4096
) -> Tensor:
    """Do pairs of pixels lie in the order of the depth map? A mean over pairs whose depths differ by a tenth of the
    range.

    Args:
        form: tanh: |tanh(100 (D̂_a - D̂_b)) - sign(D_a - D_b)| (MoDGS, ICLR 2025, section 3.3), which is flat but for a
            hundredth of the object round equal depths; logistic: log(1 + exp(-m)) with m = 100 sign(D_a - D_b)
            (D̂_a - D̂_b), divided by 100: the distance that is missing where the order is wrong, next to nothing where
            it is right.
    """
    index = torch.nonzero(((target.depth > 0) & target.mask).flatten())[:, 0]
    if len(index) < 2:
        return depth.new_zeros(())
    a, b = index[torch.randint(len(index), (2, pairs), generator=generator).to(index.device)]
    wanted, drawn = target.depth.flatten(), depth.flatten()
    difference = wanted[a] - wanted[b]
    apart = difference.abs() >= (wanted[index].max() - wanted[index].min()) / 10
    steep = 100 * (drawn[a] - drawn[b]) / half_size
    if form == "tanh":
        error = (torch.tanh(steep) - torch.sign(difference)).abs()
    else:
        error = torch.nn.functional.softplus(-torch.sign(difference) * steep) / 100
    return (error * apart).sum() / apart.sum().clamp_min(1)


def stray(means: Tensor, opacities: Tensor, target: FrameTarget, half_size: float) -> Tensor:
    """How far Gaussians are outside a frame's window, where the picture shows that nothing of the object is: what no
    render of the window tells. Mean over all of opacity times distance, relative to the object's half size.

    Args:
        means: (N, 3) world, at the frame's time. opacities: (N,) in (0, 1). half_size: world units.
    """
    seen = transform(target.cam_from_world, means)
    z = seen[:, 2].clamp_min(1e-6)
    (height, width), K = target.mask.shape, target.K
    u = (seen[:, 0] * K[0, 0] + seen[:, 1] * K[0, 1]) / z + K[0, 2]
    v = seen[:, 1] * K[1, 1] / z + K[1, 2]
    across, down = ((-at).clamp_min(0) + (at - side).clamp_min(0) for at, side in ((u, width), (v, height)))
    in_picture = (u + target.left > 0) & (u + target.left < target.picture[0])
    in_picture &= (v + target.top > 0) & (v + target.top < target.picture[1]) & (seen[:, 2] > 1e-6)
    away = (across + down) * z.detach() / K[0, 0] / half_size
    return (opacities * away).where(in_picture, 0.0).mean()


def render_terms(
    render: Tensor,
    alpha: Tensor,
    target: FrameTarget,
    *,
    colour: Tensor,
    half_size: float,
    generator: torch.Generator,
    order_form: str = "logistic",
) -> RenderTerms:
    """All terms of one frame.

    Args:
        render: (h, w, 4) premultiplied colour and expected depth. alpha: (h, w, 1).
        colour: (3,) the background drawn for this step.
    """
    rgb, depth, coverage = render[..., :3], render[..., 3], alpha[..., 0]
    picture, wanted = compose(rgb, alpha, target, colour)
    shown = target.mask | target.edge
    area = shown.sum().clamp_min(1)
    off_edge = ~target.edge
    l1, dssim = l1_and_dssim(picture, wanted, dssim_weight=shown)
    return RenderTerms(
        l1=l1 / area,
        ssim=dssim / area,
        silhouette=((coverage - target.mask.float()).abs() * off_edge).sum() / area,
        depth=depth_error(depth, coverage, target, half_size),
        depth_order=depth_order_error(depth, target, half_size, generator, form=order_form),
    )
