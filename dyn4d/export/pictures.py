"""Pictures for the report: colour maps, strips, and pictures as text that a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

# Anchors from dark to light with rising lightness, so that the maps also read in grey and for the colour-blind.
HEAT = ((13, 8, 35), (80, 18, 123), (182, 54, 121), (251, 136, 97), (252, 253, 191))
SEA = ((12, 20, 69), (20, 82, 134), (27, 145, 145), (94, 201, 98), (253, 231, 120))
ERROR_TOP = 0.25  # absolute colour error that gets the brightest colour
PAPER = (244, 245, 247)
UNKNOWN = (160, 166, 176)


def colour_map(values: np.ndarray, anchors: Sequence[tuple[int, int, int]] = HEAT) -> np.ndarray:
    """Values (..., ) in [0, 1] -> (..., 3) uint8, linear between equally spaced anchors."""
    table = np.asarray(anchors, dtype=np.float64)
    place = np.clip(np.nan_to_num(values), 0, 1) * (len(table) - 1)
    low = np.minimum(place.astype(int), len(table) - 2)
    part = (place - low)[..., None]
    return np.round(table[low] * (1 - part) + table[low + 1] * part).astype(np.uint8)


def error_picture(rgb: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean absolute colour error of (H, W, 3) uint8 pictures inside the mask (H, W) as colours, paper outside."""
    error = np.abs(rgb.astype(np.float32) - target.astype(np.float32)).mean(-1) / 255
    return np.where(mask[..., None], colour_map(error / ERROR_TOP), np.array(PAPER, dtype=np.uint8))


def depth_picture(depth: np.ndarray, alpha: np.ndarray, bounds: tuple[float, float] | None = None) -> np.ndarray:
    """Planar z (H, W) where alpha (H, W) > 0.5 as colours, near = light; `bounds`: the z of both ends."""
    solid = (alpha > 0.5) & (depth > 0)
    if not solid.any():
        return np.broadcast_to(np.array(PAPER, dtype=np.uint8), (*depth.shape, 3)).copy()
    near, far = bounds if bounds is not None else np.percentile(depth[solid], [2, 98])
    place = 1 - (depth - near) / max(float(far - near), 1e-9)
    return np.where(solid[..., None], colour_map(place, SEA), np.array(PAPER, dtype=np.uint8))


def motion_picture(rgb: np.ndarray, xy: np.ndarray, residual: np.ndarray, top: float) -> np.ndarray:
    """How far points move, as colours over a paled picture: 0 dark, `top` and more light, unknown grey.

    Args:
        rgb: (H, W, 3) uint8. xy: (N, 2) px, one point a pixel. residual: (N,) px, NaN = unknown.
    """
    grey = rgb.astype(np.float32).mean(-1, keepdims=True)
    picture = np.broadcast_to(0.25 * grey + 0.75 * 255, rgb.shape).round().astype(np.uint8)
    column, row = np.floor(xy).astype(int).T
    colours = colour_map(residual / max(top, 1e-9))
    picture[row, column] = np.where(np.isfinite(residual)[:, None], colours, np.array(UNKNOWN, dtype=np.uint8))
    return picture


def fit_within(picture: np.ndarray, longest: int) -> np.ndarray:
    """(H, W, 3) uint8 made smaller so that its longest side is at most `longest`; never made larger."""
    height, width = picture.shape[:2]
    ratio = longest / max(height, width)
    if ratio >= 1:
        return picture
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def side_by_side(pictures: Sequence[np.ndarray], gap: int = 0) -> np.ndarray:
    """Pictures (H, W, 3) of one height in a row, with `gap` pixels of paper between."""
    parts: list[np.ndarray] = []
    for picture in pictures:
        if parts and gap:
            parts.append(np.broadcast_to(np.array(PAPER, dtype=np.uint8), (picture.shape[0], gap, 3)))
        parts.append(picture)
    return np.concatenate(parts, axis=1)


def _encode(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def jpeg_uri(picture: np.ndarray, quality: int = 88) -> str:
    """A picture as a `data:` address, JPEG: for photographs and renders."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, optimize=True, subsampling=0)
    return _encode(buffer.getvalue(), "jpeg")


def png_uri(picture: np.ndarray) -> str:
    """A picture as a `data:` address, PNG: for maps with hard edges."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return _encode(buffer.getvalue(), "png")


def animation_uri(pictures: Sequence[np.ndarray], fps: float, quality: int = 72) -> str:
    """Pictures as a looping animation that every browser plays without a codec or a script (animated WebP).

    Where Pillow has no WebP the middle picture stands in.
    """
    from PIL import features

    if not features.check("webp"):
        return jpeg_uri(pictures[len(pictures) // 2])
    frames = [Image.fromarray(p) for p in pictures]
    buffer = io.BytesIO()
    duration = max(20, round(1000 / max(fps, 1e-3)))
    frames[0].save(
        buffer, "WEBP", save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=quality, method=2
    )
    return _encode(buffer.getvalue(), "webp")
