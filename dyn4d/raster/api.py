"""`rasterization`: the one entry, with gsplat's argument names and defaults."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from dyn4d.core.errors import BackendUnavailable
from dyn4d.raster.request import RASTERIZE_MODES, Drawn, Request

if find_spec("numba") is not None and not torch.cuda.is_available():
    with suppress(ImportError):  # a numba that does not fit its numpy should not take the other backends away
        import_module("dyn4d.raster.cpu")  # who imports this is going to draw: a second now, none in the first call

BACKENDS = ("auto", "cpu", "gsplat", "reference")


def rasterization(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = 16,
    backgrounds: Tensor | None = None,
    render_mode: str = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: str = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: str = "pinhole",
    segmented: bool = False,
    covars: Tensor | None = None,
    with_ut: bool = False,
    with_eval3d: bool = False,
    radial_coeffs: Tensor | None = None,
    tangential_coeffs: Tensor | None = None,
    thin_prism_coeffs: Tensor | None = None,
    ftheta_coeffs: Any = None,
    rolling_shutter: Any = None,
    viewmats_rs: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Drawn:
    """Draw N Gaussians in C pinhole cameras.

    Differentiable in means, quats, scales, covars, opacities, colors, viewmats and backgrounds. Pixel centres are at
    half-integers, cameras are OpenCV's, depth is planar z. K's skew is ignored, as in gsplat.

    Args:
        means: (N, 3) world units.
        quats: (N, 4) wxyz of any length > 0. scales: (N, 3) standard deviations. Both ignored where covars is given.
        opacities: (N,) in [0, 1].
        colors: (N, D) or (C, N, D) values to blend as they are; with `sh_degree`, coefficients (N, K, 3) or
            (C, N, K, 3), K >= (sh_degree + 1)², and the colour is max(0, 0.5 + SH).
        viewmats: (C, 4, 4) camera from world, rigid. Ks: (C, 3, 3) pixels. width, height: pixels.
        near_plane, far_plane: Gaussians whose centre's depth is outside are not drawn.
        radius_clip: Gaussians of at most this radius (pixels) are not drawn.
        eps2d: square pixels added to the diagonal of the 2D covariance.
        backgrounds: (C, D) what shows through; the depth channel's is 0.
        render_mode: "RGB", "D" (sum of weight x depth), "ED" (that over alpha), "RGB+D" or "RGB+ED".
        absgrad: also leave (C, N, 2) sums of absolute screen gradients in `info["means2d"].absgrad` after backward.
        rasterize_mode: "classic" or "antialiased" (opacity times sqrt(det before blur / det after)).
        covars: (N, 3, 3) symmetric covariances instead of quats and scales. Only the symmetric part counts, and the
            gradient is symmetric.
        packed, tile_size, sparse_grad, channel_chunk, segmented: taken as gsplat does, without effect on the result;
            `info` always has the layout of packed=False and gradients are dense.
        backend: "cpu" (numba, float32), "gsplat" (CUDA), "reference" (plain torch, any dtype), or "auto": gsplat for
            CUDA tensors, cpu for float32, else reference.
        The other arguments are gsplat's for things this library does not do; other than their default raises.

    Returns:
        renders (C, H, W, X), X = D, 1 or D + 1 by `render_mode` with depth last; alphas (C, H, W, 1); and `info` with
        means2d (C, N, 2) pixels, radii (C, N, 2) int32 pixels (0 = not drawn), depths (C, N), conics (C, N, 3),
        opacities (C, N), width, height, tile_size, n_cameras. `info["means2d"].retain_grad()` before backward keeps
        the gradient with respect to the pixel positions.

    Raises:
        ValueError: a shape, dtype or option does not fit, or a number is not finite; the message names the tensor.
        BackendUnavailable: the backend asked for cannot run here.
    """
    _refuse(
        distributed=distributed is not False,
        camera_model=camera_model != "pinhole",
        with_ut=with_ut is not False,
        with_eval3d=with_eval3d is not False,
        radial_coeffs=radial_coeffs is not None,
        tangential_coeffs=tangential_coeffs is not None,
        thin_prism_coeffs=thin_prism_coeffs is not None,
        ftheta_coeffs=ftheta_coeffs is not None,
        rolling_shutter=rolling_shutter is not None and getattr(rolling_shutter, "name", None) != "GLOBAL",
        viewmats_rs=viewmats_rs is not None,
    )
    if rasterize_mode not in RASTERIZE_MODES:
        raise ValueError(f"rasterize_mode: {rasterize_mode!r} is none of {', '.join(RASTERIZE_MODES)}")
    request = Request(
        means=means,
        quats=quats if covars is None else None,
        scales=scales if covars is None else None,
        covars=covars,
        opacities=opacities,
        colors=colors,
        viewmats=viewmats,
        Ks=Ks,
        backgrounds=backgrounds,
        width=int(width),
        height=int(height),
        near_plane=near_plane,
        far_plane=far_plane,
        radius_clip=radius_clip,
        eps2d=eps2d,
        sh_degree=sh_degree,
        render_mode=render_mode,
        absgrad=absgrad,
        antialiased=rasterize_mode == "antialiased",
    )
    return _drawer(backend, means)(request)


def choose_backend(backend: str, means: Tensor) -> str:
    """The backend that `auto` means for these tensors, or the one asked for by name, if it can take them."""
    if backend not in BACKENDS:
        raise ValueError(f"backend: {backend!r} is none of {', '.join(BACKENDS)}")
    if backend == "auto":
        if means.is_cuda:
            return "gsplat"
        fits = means.device.type == "cpu" and means.dtype == torch.float32
        return "cpu" if fits and find_spec("numba") is not None else "reference"
    if backend == "gsplat" and not torch.cuda.is_available():
        # asked before gsplat is imported: without a driver it may try to compile itself and fail obscurely
        raise BackendUnavailable("backend gsplat: this machine has no CUDA device that torch can use; use backend cpu")
    if backend == "cpu":
        if find_spec("numba") is None:
            raise BackendUnavailable("backend cpu: numba is not installed; pip install numba, or use backend reference")
        if means.device.type != "cpu" or means.dtype != torch.float32:
            raise ValueError(f"backend cpu: wanted float32 tensors on the CPU, found {means.dtype} on {means.device}")
    return backend


def _drawer(backend: str, means: Tensor) -> Callable[[Request], Drawn]:
    home = {"cpu": "cpu", "gsplat": "gsplat_backend", "reference": "reference_backend"}
    return import_module(f"dyn4d.raster.{home[choose_backend(backend, means)]}").draw


def _refuse(**given: bool) -> None:
    for name, differs in given.items():
        if differs:
            raise ValueError(f"rasterization: {name} is not supported; leave it at its default")
