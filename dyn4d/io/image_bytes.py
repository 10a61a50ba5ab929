"""Pictures and masks as bytes of a file, for pages."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dyn4d.core.errors import InputError


def encode_jpeg(picture: np.ndarray, quality: int = 90) -> bytes:
    """(H, W, 3) uint8 as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def encode_mask(mask: np.ndarray) -> bytes:
    """(H, W) bool as a PNG file, 255 = object."""
    buffer = io.BytesIO()
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_mask(data: bytes) -> np.ndarray:
    """(H, W) bool from the bytes of an opaque picture, white = object. Raises `InputError` where they are none."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return np.array(picture.convert("L")) > 127
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError("what was sent is no picture of a mask") from error
