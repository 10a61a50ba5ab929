"""Pictures, masks and depth maps: reading whatever people have, writing PNG.

Colours are 8-bit sRGB, EXIF orientation is applied, masks are True on the object, depth is planar z in world units
with 0 = none. Every failure to read is one `InputError` that names the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dyn4d.core.errors import InputError
from dyn4d.io.atomic import atomic_path

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
DEPTH_SUFFIXES = frozenset({".png", ".npy", ".tif", ".tiff"})

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # those that exchange width and height
_READ_ERRORS = (OSError, ValueError, SyntaxError, IndexError, TypeError, EOFError, Image.DecompressionBombError)


def _damaged(path: Path, error: Exception) -> InputError:
    if not path.exists():
        return InputError(f"{path} is not there")
    if path.is_file() and path.stat().st_size == 0:
        return InputError(f"{path} is empty (0 bytes); copy or extract it again")
    if isinstance(error, Image.DecompressionBombError):
        return InputError(f"{path} is larger than any picture dyn4d reads; make it smaller")
    kind = "is no image that can be read" if isinstance(error, UnidentifiedImageError) else "is damaged or cut short"
    return InputError(f"{path} {kind}; copy or extract it again")


def _open(path: Path) -> Image.Image:
    """The decoded picture, turned upright. Loading it here is what finds truncated files."""
    try:
        with Image.open(path) as picture:
            orientation = _orientation(picture)
            picture.load()
            return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture.copy()
    except _READ_ERRORS as error:
        raise _damaged(path, error) from error


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 = upright, from what precedes the pixels."""
    # The method of the base class: that of PNG files decodes the whole picture, only to look behind it.
    return Image.Image.getexif(picture).get(_EXIF_ORIENTATION, 1)


def require_whole(path: str | Path) -> None:
    """Raises `InputError` naming the file where it cannot be decoded to the end: its header alone says nothing."""
    _open(Path(path))


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) after EXIF orientation, from the header alone."""
    path = Path(path)
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = _orientation(picture) in _TURNED
    except _READ_ERRORS as error:
        raise _damaged(path, error) from error
    return (height, width) if turned else (width, height)


def has_alpha(path: str | Path) -> bool:
    """Does the file's header promise an alpha channel?"""
    path = Path(path)
    try:
        with Image.open(path) as picture:
            return "A" in picture.getbands() or "transparency" in picture.info
    except _READ_ERRORS as error:
        raise _damaged(path, error) from error


def _to_8bit(picture: Image.Image) -> Image.Image:
    """16-bit and float grey pictures brought to 8 bits; Pillow itself would clip them."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture).astype(np.float64)
        top = 1.0 if picture.mode == "F" else 65535.0
        return Image.fromarray(np.round(np.clip(values / top, 0, 1) * 255).astype(np.uint8))
    return picture


def read_rgb(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 sRGB. Grey is repeated, alpha is left out. Raises `InputError` naming the file."""
    return np.array(_to_8bit(_open(Path(path))).convert("RGB"))


def read_rgba(path: str | Path) -> np.ndarray:
    """(H, W, 4) uint8; alpha is 255 where the file has none. Raises `InputError` naming the file."""
    return np.array(_to_8bit(_open(Path(path))).convert("RGBA"))


def _mask_values(picture: Image.Image) -> np.ndarray:
    """One number a pixel, in the type of the file."""
    if picture.mode == "P":
        colours = np.array(picture.convert("RGB"))
        grey = (colours == colours[..., :1]).all()
        # A coloured palette holds labels (as in DAVIS): everything that is not black is an object.
        return colours[..., 0] if grey else np.where(colours.any(-1), 255, 0).astype(np.uint8)
    if picture.mode in ("LA", "RGBA", "PA"):
        values = np.array(picture.convert("RGBA"))
        colour, alpha = values[..., :3].max(-1), values[..., 3]
        if colour.min() == colour.max():  # the shape is in the alpha channel
            return alpha
        return np.where(alpha > 127, colour, 0).astype(np.uint8)
    if picture.mode in ("L", "1", "I", "F") or picture.mode.startswith("I;16"):
        return np.array(picture)
    return np.array(picture.convert("RGB")).max(-1)


def threshold_mask(values: np.ndarray) -> np.ndarray:
    """Object = above half of the range of the values' type; where nothing exceeds 1, object = 1."""
    if values.dtype == bool:
        return values
    top = values.max() if values.size else 0
    if values.dtype.kind == "f" or top <= 1:
        return values > 0.5
    # Pillow hands some 16-bit files out as 32-bit integers.
    limit = 127 if values.dtype == np.uint8 else 32767
    return values > limit


def read_mask(path: str | Path) -> np.ndarray:
    """(H, W) bool, True = object: above half of the type's range (8 or 16 bit), 0/1 pictures too. Colour pictures
    count by their brightest channel, coloured palettes by "not black", one-coloured pictures with alpha by alpha.
    Raises `InputError` naming the file."""
    return threshold_mask(_mask_values(_open(Path(path))))


def read_labels(path: str | Path) -> np.ndarray:
    """(H, W) whole numbers of a label picture: the indices of a palette, or grey values; of colour pictures 24-bit
    numbers (red highest). Raises `InputError` naming the file."""
    picture = _open(Path(path))
    if picture.mode in ("1", "P", "L", "I") or picture.mode.startswith("I;16"):
        return np.array(picture).astype(np.int64)
    colour = np.array(picture.convert("RGB")).astype(np.int64)
    return (colour[..., 0] << 16) | (colour[..., 1] << 8) | colour[..., 2]


def read_objects(path: str | Path) -> set[int] | None:
    """The numbers of the objects in a label picture, as `read_labels` has them: indices of a coloured palette that are
    not black, or grey values that are too small to be a mask (no pixel above half of the range). None where it is a
    mask, or no picture of labels. Raises `InputError` naming the file."""
    picture = _open(Path(path))
    if picture.mode == "P":
        used = np.flatnonzero(picture.histogram()).tolist()
        colours = np.array(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        colours = np.vstack([colours, np.zeros((256 - len(colours), 3), np.uint8)])[used]
        if (colours == colours[:, :1]).all() and colours.max() > 127:
            return None
        return {index for index, colour in zip(used, colours) if colour.any()}
    if picture.mode not in ("L", "I") and not picture.mode.startswith("I;16"):
        return None
    values = np.unique(np.asarray(picture))
    limit = 127 if picture.mode == "L" else 32767
    return set(values[values > 0].tolist()) if values[-1] <= limit else None


def read_depth(path: str | Path, depth_div: float = 1000.0) -> np.ndarray:
    """(H, W) float32 planar z: integers / `depth_div`, float .npy as it is. What is not finite or below 0 becomes 0
    (none); `read_depth_counted` also says how many. Raises `InputError` naming the file."""
    return read_depth_counted(path, depth_div)[0]


def read_depth_counted(path: str | Path, depth_div: float = 1000.0) -> tuple[np.ndarray, int]:
    """As `read_depth`, and the number of pixels that were NaN, infinite or negative."""
    path = Path(path)
    raw = _read_npy(path) if path.suffix.lower() == ".npy" else _read_depth_picture(path)
    depth = raw.astype(np.float32) if raw.dtype.kind == "f" else (raw / depth_div).astype(np.float32)
    good = np.isfinite(depth) & (depth >= 0)
    bad = int(depth.size - np.count_nonzero(good))
    if bad:
        depth = np.where(good, depth, np.float32(0))
    return depth, bad


def _read_depth_picture(path: Path) -> np.ndarray:
    picture = _open(path)
    if not (picture.mode.startswith("I") or picture.mode == "F"):
        raise InputError(f"{path}: depth of mode {picture.mode}; wanted a 16-bit grey PNG (metres x depth_div) or .npy")
    return np.array(picture)


def _read_npy(path: Path, mmap: bool = False) -> np.ndarray:
    try:
        values = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, error) from error
    if not isinstance(values, np.ndarray):
        raise InputError(f"{path} is not one array; save each depth map with numpy.save")
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise InputError(f"{path}: depth of shape {values.shape} and type {values.dtype}; wanted numbers (H, W)")
    return values


def depth_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of a depth map, from the header alone."""
    path = Path(path)
    if path.suffix.lower() == ".npy":
        height, width = _read_npy(path, mmap=True).shape
        return width, height
    return image_size(path)


def write_png(path: str | Path, picture: np.ndarray) -> None:
    """Write (H, W), (H, W, 3) or (H, W, 4) uint8, or (H, W) uint16, atomically."""
    if picture.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"write_png: wanted uint8 or uint16, found {picture.dtype}")
    with atomic_path(path) as temporary:
        # Level 1 is four times as fast as the default and files grow by a tenth.
        Image.fromarray(np.ascontiguousarray(picture)).save(temporary, format="PNG", compress_level=1)


def write_jpeg(path: str | Path, picture: np.ndarray, quality: int = 95) -> None:
    """Write (H, W, 3) uint8, atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(picture)).save(temporary, format="JPEG", quality=quality, subsampling=0)


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write a boolean mask (H, W) as an 8-bit PNG, 255 = object."""
    write_png(path, np.where(mask, 255, 0).astype(np.uint8))


def write_depth(path: str | Path, depth: np.ndarray, depth_div: float = 1000.0) -> None:
    """Write planar z (H, W) as a 16-bit PNG, value = depth x `depth_div`, 0 = none. Raises `ValueError` where a depth
    does not fit 16 bits."""
    values = np.round(np.where(np.isfinite(depth) & (depth > 0), depth, 0) * depth_div)
    if values.size and values.max() > 65535:
        raise ValueError(f"write_depth: depth {values.max() / depth_div:g} x {depth_div:g} does not fit 16 bits")
    write_png(path, values.astype(np.uint16))
