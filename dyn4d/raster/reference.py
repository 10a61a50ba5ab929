"""The rasteriser as plain torch: any dtype, any device, autograd all the way. Slow, obvious, the oracle of the tests.

Constants and order of decisions are gsplat's: 0.3 px blur, extent by opacity, alpha clamped to 0.999, alpha below
1/255 skipped, and a Gaussian that would take the transmittance to 1e-4 or less is not drawn and ends the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyn4d.core.rotations import wxyz_to_matrix

ALPHA_MIN = 1.0 / 255.0
ALPHA_MAX = 0.999
T_STOP = 1e-4
EXTENT = 3.33  # standard deviations at which an opaque Gaussian has faded to ALPHA_MIN


@dataclass(frozen=True)
class Projected:
    """N Gaussians as one camera sees them; rows with radius 0 are not drawn and hold zeros.

    Attributes:
        means2d: (N, 2) px. depths: (N,) planar z. conics: (N, 3) inverse 2D covariance (xx, xy, yy).
        radii: (N, 2) int32 px. compensations: (N,) opacity factor of antialiased mode.
    """

    means2d: Tensor
    depths: Tensor
    conics: Tensor
    radii: Tensor
    compensations: Tensor


def covariances(quats: Tensor, scales: Tensor) -> Tensor:
    """R S Sᵀ Rᵀ (N, 3, 3) of quaternions wxyz (N, 4) and standard deviations (N, 3)."""
    factor = wxyz_to_matrix(quats) * scales.unsqueeze(-2)
    return factor @ factor.transpose(-1, -2)


def project(
    means: Tensor,
    covars: Tensor,
    opacities: Tensor,
    *,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    antialiased: bool = False,
) -> Projected:
    """EWA projection (Zwicker et al. 2001) of means (N, 3), covars (N, 3, 3) to one pinhole camera; skew is ignored."""
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    camera = means @ rotation.T + translation
    covars = 0.5 * (covars + covars.transpose(-1, -2))
    in_camera = rotation @ covars @ rotation.T
    x, y, z = camera.unbind(-1)
    seen = (z >= near_plane) & (z <= far_plane)
    z = torch.where(seen, z, torch.ones_like(z))
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    # the Jacobian is taken no further outside the picture than 0.15 of its size, where it would blow up
    pad_x, pad_y = 0.15 * width / fx, 0.15 * height / fy
    tx = z * (x / z).clamp(-(cx / fx + pad_x), (width - cx) / fx + pad_x)
    ty = z * (y / z).clamp(-(cy / fy + pad_y), (height - cy) / fy + pad_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [fx / z, zero, -fx * tx / z**2, zero, fy / z, -fy * ty / z**2], dim=-1
    ).reshape(-1, 2, 3)  # fmt: skip
    cov2d = jacobian @ in_camera @ jacobian.transpose(-1, -2)
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)

    a, b, c = cov2d[:, 0, 0], cov2d[:, 0, 1], cov2d[:, 1, 1]
    before = a * c - b * b
    a, c = a + eps2d, c + eps2d
    det = a * c - b * b
    seen = seen & (det > 0) & (a > 0)
    det = torch.where(seen, det, torch.ones_like(det))
    ratio = before / det
    compensations = torch.where(ratio > 0, ratio.clamp_min(1e-30).sqrt(), zero)
    conics = torch.stack([c / det, -b / det, a / det], dim=-1)

    with torch.no_grad():
        opacity = opacities * compensations if antialiased else opacities
        seen = seen & (opacity >= ALPHA_MIN)
        extent = (2 * (opacity / ALPHA_MIN).clamp_min(1).log()).sqrt().clamp_max(EXTENT)
        half = 0.5 * (a + c)
        widest = extent * (half + (half * half - det).clamp_min(0.01).sqrt()).clamp_min(0).sqrt()
        radius_x = torch.minimum(extent * a.clamp_min(0).sqrt(), widest).ceil()
        radius_y = torch.minimum(extent * c.clamp_min(0).sqrt(), widest).ceil()
        seen = seen & ((radius_x > radius_clip) | (radius_y > radius_clip))
        u, v = means2d.unbind(-1)
        seen = seen & (u + radius_x > 0) & (u - radius_x < width) & (v + radius_y > 0) & (v - radius_y < height)
        radii = torch.stack([radius_x, radius_y], dim=-1).clamp_max(1e9)  # what an int32 holds
        radii = torch.where(seen.unsqueeze(-1), radii, 0.0).to(torch.int32)

    def keep(value: Tensor) -> Tensor:
        return torch.where(seen.reshape(-1, *[1] * (value.dim() - 1)), value, torch.zeros_like(value))

    return Projected(keep(means2d), keep(z), keep(conics), radii, keep(compensations))


def composite(
    means2d: Tensor,
    conics: Tensor,
    depths: Tensor,
    radii: Tensor,
    *,
    opacities: Tensor,
    colors: Tensor,
    width: int,
    height: int,
    tile: int = 32,
) -> tuple[Tensor, Tensor]:
    """Blend N projected Gaussians front to back -> colours (H, W, D) without background and alphas (H, W, 1)."""
    order = torch.sort(depths.detach(), stable=True).indices
    order = order[(radii[order] > 0).any(-1)]
    low, high = (means2d - radii).detach(), (means2d + radii).detach()
    rows = []
    for top in range(0, height, tile):
        row = []
        for left in range(0, width, tile):
            right, bottom = min(left + tile, width), min(top + tile, height)
            near = (low[order, 0] < right) & (high[order, 0] > left) & (low[order, 1] < bottom) & (high[order, 1] > top)
            row.append(_blend_block(means2d, conics, opacities, colors, order[near], (left, top, right, bottom)))
        rows.append(torch.cat(row, dim=1))
    out = torch.cat(rows, dim=0)
    return out[..., :-1], out[..., -1:]


def _blend_block(
    means2d: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor, index: Tensor, box: tuple[int, int, int, int]
) -> Tensor:
    """One rectangle of pixels (left, top, right, bottom) -> (h, w, D + 1): colours and alpha."""
    left, top, right, bottom = box
    v, u = torch.meshgrid(
        torch.arange(top, bottom, device=means2d.device).to(means2d) + 0.5,
        torch.arange(left, right, device=means2d.device).to(means2d) + 0.5,
        indexing="ij",
    )
    delta = means2d[index] - torch.stack([u, v], dim=-1).unsqueeze(-2)  # (h, w, n, 2)
    dx, dy = delta.unbind(-1)
    a, b, c = conics[index].unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (opacities[index] * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
    alpha = torch.where((sigma >= 0) & (alpha >= ALPHA_MIN), alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, dim=-1)
    alpha = torch.where(after > T_STOP, alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, dim=-1)
    before = torch.cat([after.new_ones(*after.shape[:-1], 1), after], dim=-1)
    weights = alpha * before[..., :-1]
    return torch.cat([weights @ colors[index], 1 - before[..., -1:]], dim=-1)


def composite_pairs(
    means2d: Tensor,
    conics: Tensor,
    depths: Tensor,
    radii: Tensor,
    *,
    opacities: Tensor,
    colors: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor]:
    """The same as `composite` without a loop: every (Gaussian, pixel of its box) is one row. Fast for small Gaussians;
    memory grows with the area of the boxes. A rival for the benchmarks and a second opinion for the tests."""
    device = means2d.device
    with torch.no_grad():
        order = torch.sort(depths, stable=True).indices
        order = order[(radii[order] > 0).any(-1)]
        size = torch.tensor([width, height], device=device)
        centre, radius = means2d[order], radii[order]
        low = torch.minimum((centre - radius).floor().long().clamp_min(0), size)
        high = torch.minimum((centre + radius).ceil().long().clamp_min(0), size)
        span = (high - low).clamp_min(0)
        count = span[:, 0] * span[:, 1]
        row = torch.repeat_interleave(torch.arange(len(order), device=device), count)
        local = torch.arange(len(row), device=device) - (count.cumsum(0) - count)[row]
        px = low[row, 0] + local % span[row, 0]
        py = low[row, 1] + torch.div(local, span[row, 0], rounding_mode="floor")
        which = order[row]

    def alphas(which: Tensor, px: Tensor, py: Tensor) -> Tensor:
        dx = means2d[which, 0] - (px.to(means2d) + 0.5)
        dy = means2d[which, 1] - (py.to(means2d) + 0.5)
        a, b, c = conics[which].unbind(-1)
        sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
        alpha = (opacities[which] * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
        return torch.where(sigma >= 0, alpha, torch.zeros_like(alpha))

    with torch.no_grad():
        live = alphas(which, px, py) >= ALPHA_MIN
        which, pixel, px, py = which[live], (py * width + px)[live], px[live], py[live]
        pixel, by_pixel = torch.sort(pixel, stable=True)  # stable: front to back inside each pixel
        which, px, py = which[by_pixel], px[by_pixel], py[by_pixel]
        first = torch.searchsorted(pixel, pixel)  # the first row of this row's pixel

    def transmittance(alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Before and after each row, through a running sum of logarithms (double: the sums run over the picture)."""
        logs = torch.log1p(-alpha.double())
        total = logs.cumsum(0)
        start = (total - logs)[first]
        return (total - logs - start).exp().to(alpha), (total - start).exp().to(alpha)

    alpha = alphas(which, px, py)
    with torch.no_grad():
        drawn = transmittance(alpha)[1] > T_STOP  # falls along a pixel, so the kept rows come first
    alpha = torch.where(drawn, alpha, torch.zeros_like(alpha))
    weights = alpha * transmittance(alpha)[0]
    rows = weights.unsqueeze(-1) * torch.cat([colors[which], torch.ones_like(weights).unsqueeze(-1)], dim=-1)
    out = torch.zeros(height * width, rows.shape[-1], dtype=rows.dtype, device=device).index_add(0, pixel, rows)
    out = out.reshape(height, width, -1)
    return out[..., :-1], out[..., -1:]
