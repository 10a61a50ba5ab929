"""gsplat (CUDA) behind `rasterization(backend="gsplat")`. The only module that imports it, when first used."""

from __future__ import annotations

from typing import Any

import torch

from dyn4d.core.errors import BackendUnavailable
from dyn4d.raster.request import Drawn, Request, make_info


def draw(request: Request) -> Drawn:
    """See `rasterization`. Raises `BackendUnavailable` without a CUDA device or gsplat."""
    if not request.means.is_cuda:
        raise ValueError(f"backend gsplat: wanted CUDA tensors, found {request.means.device}; use backend cpu")
    request.check_finite()
    covars = request.covars
    if covars is not None:
        covars = 0.5 * (covars + covars.transpose(-1, -2))  # gsplat reads the upper triangle only
    renders, alphas, meta = _gsplat().rasterization(
        means=request.means,
        quats=request.quats,
        scales=request.scales,
        opacities=request.opacities,
        colors=request.colors,
        viewmats=request.viewmats,
        Ks=request.Ks,
        width=request.width,
        height=request.height,
        near_plane=request.near_plane,
        far_plane=request.far_plane,
        radius_clip=request.radius_clip,
        eps2d=request.eps2d,
        sh_degree=request.sh_degree,
        packed=False,  # `info` is (C, N, ...) in all our backends
        backgrounds=request.backgrounds if request.with_color else None,
        render_mode=request.render_mode,
        absgrad=request.absgrad,
        rasterize_mode="antialiased" if request.antialiased else "classic",
        covars=covars,
    )
    radii = meta["radii"]
    if radii.dim() == 2:  # before gsplat 1.5 one radius for both axes
        radii = radii.unsqueeze(-1).expand(-1, -1, 2)
    names = ("means2d", "depths", "conics", "opacities")
    return renders, alphas, make_info(request, radii=radii, **{name: meta[name] for name in names})


def _gsplat() -> Any:
    """The gsplat package; asked for a device first, as importing it without one may start a compiler."""
    if not torch.cuda.is_available():
        raise BackendUnavailable("backend gsplat: this machine has no CUDA device that torch can use; use backend cpu")
    try:
        import gsplat  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BackendUnavailable(f"backend gsplat: {error}; pip install 'dyn4d[cuda]', or use backend cpu") from error
    return gsplat
