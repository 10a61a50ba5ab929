"""The plain torch rasteriser behind `rasterization(backend="reference")`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dyn4d.raster.reference import composite, covariances, project
from dyn4d.raster.request import Drawn, Request, make_info
from dyn4d.raster.sh import sh_colors

Compositor = Callable[..., tuple[Tensor, Tensor]]


def draw(request: Request, compositor: Compositor = composite) -> Drawn:
    """See `rasterization`. `compositor` is `composite` or its twin `composite_pairs`."""
    request.check_finite()
    if request.absgrad:
        raise ValueError("absgrad: the reference backend does not have it; use backend cpu")
    covars = request.covars
    if covars is None:
        assert request.quats is not None and request.scales is not None  # Request has checked
        covars = covariances(request.quats, request.scales)
    views = [
        project(
            request.means, covars, request.opacities, viewmat=request.viewmats[c], K=request.Ks[c],
            width=request.width, height=request.height, near_plane=request.near_plane, far_plane=request.far_plane,
            radius_clip=request.radius_clip, eps2d=request.eps2d, antialiased=request.antialiased,
        )
        for c in range(request.cameras)
    ]  # fmt: skip
    means2d = torch.stack([v.means2d for v in views])
    depths = torch.stack([v.depths for v in views])
    conics = torch.stack([v.conics for v in views])
    radii = torch.stack([v.radii for v in views])
    opacities = request.opacities.expand(request.cameras, -1)
    if request.antialiased:
        opacities = opacities * torch.stack([v.compensations for v in views])
    channels = view_channels(request, depths)
    images = [
        compositor(
            means2d[c], conics[c], depths[c], radii[c],
            opacities=opacities[c], colors=channels[c], width=request.width, height=request.height,
        )
        for c in range(request.cameras)
    ]  # fmt: skip
    renders = torch.stack([image for image, _ in images])
    alphas = torch.stack([alpha for _, alpha in images])
    if request.expected_depth:
        renders = torch.cat([renders[..., :-1], renders[..., -1:] / alphas.clamp_min(1e-10)], dim=-1)
    if request.backgrounds is not None and request.with_color:
        behind = request.backgrounds[:, None, None, :] * (1 - alphas)
        count = behind.shape[-1]
        renders = torch.cat([renders[..., :count] + behind, renders[..., count:]], dim=-1)
    info = make_info(request, means2d=means2d, radii=radii, depths=depths, conics=conics, opacities=opacities)
    return renders, alphas, info


def view_channels(request: Request, depths: Tensor) -> Tensor:
    """(C, N, X) what is blended: colours, depth, or both."""
    parts = []
    if request.with_color:
        colors = request.colors
        if request.sh_degree is not None:
            directions = request.means - request.camera_centres()[:, None, :]  # (C, N, 3)
            colors = sh_colors(request.sh_degree, directions, colors)
        parts.append(colors.expand(request.cameras, -1, -1))
    if request.with_depth:
        parts.append(depths.unsqueeze(-1))
    return torch.cat(parts, dim=-1)
