"""Files of pictures, masks and depth as `Pixels`."""

from __future__ import annotations

from pathlib import Path

from dyn4d.io.images import read_depth, read_mask, read_rgb, read_rgba
from dyn4d.io.importers.sequence import Pixels


def mask_pixels(path: Path) -> Pixels:
    """A mask file, as `dyn4d.io.images.read_mask` reads it."""
    return Pixels(lambda: read_mask(path), str(path))


def picture_pixels(path: Path, *, alpha: bool = False) -> Pixels:
    """A picture file. `alpha`: with its alpha channel."""
    return Pixels(lambda: read_rgba(path) if alpha else read_rgb(path), str(path), path)


def depth_pixels(path: Path, depth_div: float) -> Pixels:
    """A depth file of whole numbers or floats, in world units."""
    return Pixels(lambda: read_depth(path, depth_div), str(path), path)
