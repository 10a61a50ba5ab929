"""Where Gaussians are added and dropped: those that the pictures pull hardest are split, faint ones go."""

from __future__ import annotations

import torch
from torch import Tensor

from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.gaussians.config import GaussiansConfig
from dyn4d.gaussians.model import NAMES, GaussianModel, change_rows


class PullStatistics:
    """Mean length of the screen-space gradients of each Gaussian since the last densification."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.total = torch.zeros(count, device=device)
        self.seen = torch.zeros(count, device=device)

    def add(self, gradient: Tensor, radii: Tensor) -> None:
        """gradient (G, 2) of the loss by the pixel position; radii (G, 2) px, 0 = not drawn."""
        drawn = (radii > 0).all(-1)
        self.total += torch.where(drawn, gradient.norm(dim=-1), torch.zeros_like(self.total))
        self.seen += drawn

    def mean(self) -> Tensor:
        return self.total / self.seen.clamp_min(1)


def prune_rows(model: GaussianModel, config: GaussiansConfig, half_size: float) -> Tensor:
    """(G,) bool: rows to keep. Never drops all."""
    opacity = torch.sigmoid(model.logit_opacities.detach())
    largest = model.log_scales.detach().exp().amax(-1)
    finite = torch.isfinite(model.means.detach()).all(-1)
    keep = (opacity > config.prune_opacity) & (largest < 0.2 * half_size) & finite
    return keep if bool(keep.any()) else finite


@torch.no_grad()
def densify(
    model: GaussianModel,
    optimiser: torch.optim.Adam,
    pull: PullStatistics,
    config: GaussiansConfig,
    *,
    half_size: float,
) -> int:
    """Split the share `densify_share` of Gaussians with the strongest pull, within `maximum`, and prune.

    A split replaces a Gaussian by two of 0.62 its size, half a standard deviation to either side along its longest
    axis: the sum keeps the shape, and nothing jumps.

    Returns:
        The number of Gaussians afterwards.
    """
    keep = prune_rows(model, config, half_size)
    strength = torch.where(keep, pull.mean(), torch.zeros_like(pull.total))
    room = config.maximum - int(keep.sum())
    wanted = min(int(config.densify_share * int(keep.sum())), max(room, 0), int((strength > 0).sum()))
    chosen = torch.topk(strength, wanted).indices
    raw = model.raw()
    children = {name: raw[name][chosen].repeat(2, *[1] * (raw[name].dim() - 1)) for name in NAMES}
    if wanted:
        scales = raw["log_scales"][chosen].exp()
        axis = scales.argmax(-1)
        frames = wxyz_to_matrix(raw["quats"][chosen])
        step = torch.gather(frames, 2, axis[:, None, None].expand(-1, 3, 1))[..., 0] * scales.amax(-1, keepdim=True)
        children["means"][:wanted] += 0.5 * step
        children["means"][wanted:] -= 0.5 * step
        shrink = torch.zeros_like(raw["log_scales"][chosen])
        shrink.scatter_(1, axis[:, None], torch.log(torch.tensor(0.62)).item())
        children["log_scales"] += shrink.repeat(2, 1)
    keep[chosen] = False
    change_rows(model, optimiser, torch.nonzero(keep)[:, 0], children)
    return len(model)
