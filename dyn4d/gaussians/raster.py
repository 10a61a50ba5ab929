"""The rasteriser under the name that users know: see `dyn4d.raster`."""

from dyn4d.raster.api import BACKENDS, rasterization
from dyn4d.raster.similarity import l1_and_dssim, ssim

__all__ = ["BACKENDS", "l1_and_dssim", "rasterization", "ssim"]
