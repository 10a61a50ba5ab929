"""Drawing 3D Gaussians: one `rasterization` with gsplat's argument names and three backends.

`cpu` (ours, numba), `gsplat` (CUDA) and `reference` (plain torch, any dtype, slow). Usable on its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.raster.api import rasterization
    from dyn4d.raster.similarity import l1_and_dssim, ssim
    from dyn4d.raster.threads import warmup

__all__ = ["l1_and_dssim", "rasterization", "ssim", "warmup"]

_HOME = {
    "l1_and_dssim": "dyn4d.raster.similarity",
    "rasterization": "dyn4d.raster.api",
    "ssim": "dyn4d.raster.similarity",
    "warmup": "dyn4d.raster.threads",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
