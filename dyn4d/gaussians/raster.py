"""The rasteriser under the name that users know: see `dyn4d.raster`."""

from dyn4d.raster.api import BACKENDS, rasterization

__all__ = ["BACKENDS", "rasterization"]
