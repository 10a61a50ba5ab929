"""The scene that the rasteriser is measured on, and its rivals: the same pictures and losses in plain torch.

    python benchmarks/raster_rivals.py

checks that the rivals draw what the reference draws and have its gradients, prints by how much they differ, and ends
with an error if that is more than rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dyn4d.raster.reference import ALPHA_MAX, ALPHA_MIN, T_STOP, composite, composite_pairs
from dyn4d.raster.reference_backend import Compositor, draw
from dyn4d.raster.request import Drawn, Request
from dyn4d.raster.similarity import ssim_reference

Scene = tuple[dict[str, Tensor], dict[str, Any]]  # what is learned and what is not: arguments of `rasterization`
Drawer = Callable[[dict[str, Tensor], dict[str, Any]], Drawn]

TILE = 16  # pixels on a side
CHUNK = 1024  # intersections that are expanded to pixels at a time; all at once takes three times as long


def bumpy_surface(count: int, width: int, height: int, degree: int, radius: float = 3.3) -> Scene:
    """A closed bumpy surface of flat Gaussians that lie in it, half of them faint: a reconstruction's statistics.

    `radius` is the mean reach in pixels (3.33 standard deviations).
    """
    g = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    means = normal * (1 + 0.1 * torch.sin(5 * normal[:, :1]) * torch.cos(4 * normal[:, 1:2]))
    focal = 1.1 * min(width, height)
    sigma = radius / 3.33 * 3 / focal
    along = 0.7 + 0.6 * torch.rand(count, 2, generator=g)
    scales = sigma * torch.cat([along, torch.full((count, 1), 0.1)], dim=-1)
    quats = torch.stack([1 + normal[:, 2], -normal[:, 1], normal[:, 0], torch.zeros(count)], dim=-1)  # z onto normal
    faint = torch.rand(count, generator=g) < 0.5
    opacities = torch.where(faint, 0.02, 0.7) + 0.28 * torch.rand(count, generator=g)
    colors = 0.3 * torch.randn(count, (degree + 1) ** 2, 3, generator=g)
    views = torch.eye(4).unsqueeze(0)
    views[:, 2, 3] = 3
    K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]])
    learned = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    fixed = {"viewmats": views, "Ks": K, "width": width, "height": height, "sh_degree": degree}
    return {n: v.requires_grad_() for n, v in learned.items()}, fixed | {"render_mode": "RGB+ED"}


def request_of(arguments: dict[str, Any]) -> Request:
    """What `rasterization` makes of these arguments, for `reference_backend.draw`."""
    given: dict[str, Any] = {field.name: None for field in fields(Request)}
    given |= {"near_plane": 0.01, "far_plane": 1e10, "radius_clip": 0.0, "eps2d": 0.3, "render_mode": "RGB"}
    given |= {"absgrad": False} | arguments
    given["antialiased"] = given.pop("rasterize_mode", "classic") == "antialiased"
    return Request(**given)


def drawer_by(compositor: Compositor) -> Drawer:
    """The reference's projection and colours, blended by this compositor."""
    return lambda learned, fixed: draw(request_of(learned | fixed), compositor)


def composite_tiles(
    means2d: Tensor,
    conics: Tensor,
    depths: Tensor,
    radii: Tensor,
    *,
    opacities: Tensor,
    colors: Tensor,
    width: int,
    height: int,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """The same as `composite`, step by step as on an accelerator: list the tiles that each Gaussian's box touches,
    look at all their pixels, keep the (Gaussian, pixel) rows that are drawn, then scan the rows of each pixel."""
    with torch.no_grad():
        which, pixel = hits(means2d, conics, depths, radii, opacities=opacities, size=(width, height), chunk=chunk)
        alpha = alpha_at(means2d, conics, opacities, which, pixel_centres(pixel, width, means2d))
        drawn = transmittance(alpha, *runs(pixel)) * (1 - alpha) > T_STOP  # falls along a pixel
        which, pixel = which[drawn], pixel[drawn]
    alpha = alpha_at(means2d, conics, opacities, which, pixel_centres(pixel, width, means2d))
    weights = alpha * _Scan.apply(alpha, *runs(pixel))  # type: ignore[operator]
    rows = weights.unsqueeze(-1) * torch.cat([colors[which], torch.ones_like(weights).unsqueeze(-1)], dim=-1)
    out = rows.new_zeros(height * width, rows.shape[-1]).index_add(0, pixel, rows).reshape(height, width, -1)
    return out[..., :-1], out[..., -1:]


def hits(
    means2d: Tensor,
    conics: Tensor,
    depths: Tensor,
    radii: Tensor,
    *,
    opacities: Tensor,
    size: tuple[int, int],
    least: float = ALPHA_MIN,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Rows (Gaussian, pixel) with alpha of at least `least`: pixel by pixel, nearest first."""
    width, height = size
    which, tile = _intersections(means2d, depths, radii, size)
    tiles_x = -(-width // TILE)
    inside = torch.arange(TILE * TILE, device=means2d.device)
    found: list[tuple[Tensor, Tensor]] = []
    for some, place in zip(which.split(chunk), tile.split(chunk)):
        x = (place % tiles_x * TILE).unsqueeze(-1) + inside % TILE  # (n, 256)
        y = (place // tiles_x * TILE).unsqueeze(-1) + inside // TILE
        centres = torch.stack([x, y], dim=-1).to(means2d) + 0.5
        alpha = alpha_at(means2d, conics, opacities, some.unsqueeze(-1), centres)
        live = (alpha >= least) & (x < width) & (y < height)
        row = live.nonzero()[:, 0]
        found.append((some[row], (y * width + x)[live]))
    empty = which.new_zeros(0)
    which = torch.cat([empty, *(some for some, _ in found)])
    pixel, by_pixel = torch.sort(torch.cat([empty, *(pixel for _, pixel in found)]), stable=True)
    return which[by_pixel], pixel


def _intersections(means2d: Tensor, depths: Tensor, radii: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The Gaussian and the tile of each pair of them that meet: tile by tile, nearest first."""
    order = torch.sort(depths, stable=True).indices
    order = order[(radii[order] > 0).any(-1)]
    tiles = torch.tensor([-(-side // TILE) for side in size], device=means2d.device)
    centre, radius = means2d[order], radii[order]
    low = torch.minimum(((centre - radius) / TILE).floor().long().clamp_min(0), tiles)
    high = torch.minimum(((centre + radius) / TILE).ceil().long().clamp_min(0), tiles)
    span = (high - low).clamp_min(0)
    count = span.prod(-1)
    row = torch.repeat_interleave(torch.arange(len(order), device=means2d.device), count)
    local = torch.arange(len(row), device=means2d.device) - (count.cumsum(0) - count)[row]
    across = span[row, 0]
    x, y = low[row, 0] + local % across, low[row, 1] + torch.div(local, across, rounding_mode="floor")
    tile, by_tile = torch.sort(y * tiles[0] + x, stable=True)
    return order[row[by_tile]], tile


def pixel_centres(pixel: Tensor, width: int, like: Tensor) -> Tensor:
    """(M, 2) centres of pixels (M,) counted along the rows."""
    return torch.stack([pixel % width, torch.div(pixel, width, rounding_mode="floor")], dim=-1).to(like) + 0.5


def alpha_at(
    means2d: Tensor, conics: Tensor, opacities: Tensor, which: Tensor, centres: Tensor, most: float = ALPHA_MAX
) -> Tensor:
    """Opacity of the Gaussians `which` (M,) at `centres` (M, 2); both may have more axes that broadcast."""
    dx, dy = (means2d[which] - centres).unbind(-1)
    a, b, c = conics[which].unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (opacities[which] * torch.exp(-sigma)).clamp_max(most)
    return torch.where(sigma >= 0, alpha, torch.zeros_like(alpha))


def runs(pixel: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last row (M,) of each row's pixel."""
    return torch.searchsorted(pixel, pixel), torch.searchsorted(pixel, pixel, right=True) - 1


def transmittance(alpha: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """What the rows of its pixel before it let through to each row: an exclusive product, by sums of logarithms.

    In double precision, as the sums run over the whole picture.
    """
    logs = torch.log1p(-alpha.double())
    before = logs.cumsum(0) - logs
    return (before - before[first]).exp().to(alpha)


class _Scan(torch.autograd.Function):
    """`transmittance` with its gradient by another scan, which costs less than the one that autograd would find."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, first: Tensor, last: Tensor) -> Tensor:
        through = transmittance(alpha, first, last)
        ctx.save_for_backward(alpha, through, last)
        return through

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        alpha, through, last = ctx.saved_tensors
        total = (grads[0].double() * through).cumsum(0)
        return (-(total[last] - total) / (1 - alpha)).to(alpha), None, None


draw_pairs = drawer_by(composite_pairs)
draw_tiles = drawer_by(composite_tiles)
draw_tiles_at_once = drawer_by(partial(composite_tiles, chunk=1 << 40))


def ssim_of_torch(pred: Tensor, target: Tensor) -> Tensor:
    """What everyone has: SSIM (3, H, W) of pictures (H, W, 3) by an 11x11 grouped convolution."""
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = (line[:, None] * line[None, :] / line.sum() ** 2).expand(3, 1, 11, 11).contiguous()
    a, b = (image.permute(2, 0, 1).unsqueeze(0) for image in (pred, target))
    maps = torch.cat([a, b, a * a, b * b, a * b])
    mu_a, mu_b, aa, bb, ab = torch.nn.functional.conv2d(maps, window, padding=5, groups=3)
    above = (2 * mu_a * mu_b + 1e-4) * (2 * (ab - mu_a * mu_b) + 9e-4)
    return above / ((mu_a**2 + mu_b**2 + 1e-4) * (aa - mu_a**2 + bb - mu_b**2 + 9e-4))


def results(drawer: Drawer, scene: Scene) -> dict[str, Tensor]:
    """Picture, alpha and the gradients of a random sum over them, in float64."""
    learned = {name: value.detach().double().requires_grad_() for name, value in scene[0].items()}
    fixed = {name: value.double() if isinstance(value, Tensor) else value for name, value in scene[1].items()}
    renders, alphas, _ = drawer(learned, fixed)
    g = torch.Generator().manual_seed(1)
    torch.autograd.backward([renders, alphas], [torch.randn(t.shape, generator=g).double() for t in (renders, alphas)])
    found = {"renders": renders.detach(), "alphas": alphas.detach()}
    return found | {f"gradient of {name}": value.grad for name, value in learned.items() if value.grad is not None}


def main() -> int:
    opaque = bumpy_surface(1500, 90, 53, 1, radius=16.0)
    with torch.no_grad():
        opaque[0]["opacities"].fill_(1.0)
    scenes = {"small": bumpy_surface(1500, 90, 53, 1), "large and opaque": opaque}
    worst = 0.0
    for title, scene in scenes.items():
        truth = results(drawer_by(composite), scene)
        for name, drawer in {"pairs": draw_pairs, "tiles": draw_tiles, "tiles at once": draw_tiles_at_once}.items():
            found = results(drawer, scene)
            gaps = {key: float((found[key] - value).norm() / value.norm()) for key, value in truth.items()}
            worst = max(worst, *gaps.values())
            print(f"{title}, {name} against reference: " + ", ".join(f"{key} {gap:.1e}" for key, gap in gaps.items()))
    g = torch.Generator().manual_seed(2)
    a, b = torch.rand(40, 50, 3, generator=g), torch.rand(40, 50, 3, generator=g)
    gap = float((ssim_of_torch(a, b).permute(1, 2, 0) - ssim_reference(a.double(), b.double())).abs().max())
    print(f"SSIM of torch against reference: {gap:.1e}")
    agree = worst < 1e-9 and gap < 1e-4
    print("the rivals agree with the reference" if agree else "the rivals DISAGREE with the reference")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
