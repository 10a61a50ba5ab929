"""A clip's frames as a pair network is given them: brought to its size, with mask and intrinsics carried along."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from dyn4d.core.types import Clip
from dyn4d.geometry.pair_config import PairConfig
from dyn4d.geometry.pair_results import PairFrame
from dyn4d.matching.image_size import fit_view, full_view, object_view

_COLOURS = {"grey": 128, "black": 0, "white": 255}


def fill_background(image: np.ndarray, mask: np.ndarray, fill: str) -> np.ndarray:
    """The picture (H, W, 3) uint8 with one colour wherever `mask` (H, W) is False.

    Done before any resizing, so that no filter carries background into the object. An empty mask leaves one colour
    (of "mean": grey).
    """
    if fill == "none":
        return image
    if fill == "mean":
        inside = image[mask]
        colour = np.round(inside.mean(0)).astype(np.uint8) if len(inside) else np.uint8(_COLOURS["grey"])
    else:
        colour = np.uint8(_COLOURS[fill])
    return np.where(mask[..., None], image, colour)


def make_pair_frame(image: np.ndarray, mask: np.ndarray, config: PairConfig, K: Tensor | None = None) -> PairFrame:
    """One frame for a pair network.

    Args:
        image: (H, W, 3) uint8 sRGB. mask: (H, W) bool, True = object. K: (3, 3) in pixels of the picture.

    Raises:
        InputError: the picture is too long and thin for the network.
    """
    height, width = mask.shape
    mask = np.asarray(mask, dtype=bool)
    if config.view == "square":
        view = object_view(mask, config.size, margin=config.margin, square_ok=True, thinnest=1.0)
    elif config.view == "object":
        view = object_view(mask, config.size, margin=config.margin, square_ok=config.square_ok)
    elif config.view == "full":
        view = full_view(width, height, config.size)
    else:
        view = fit_view(width, height, config.size, square_ok=config.square_ok)
    seen = view.image(fill_background(image, mask, config.fill))
    inside = view.mask(mask)
    if not inside.any():  # thinner than a pixel of the view everywhere
        inside = view.mask(mask, "nearest")
    everything = np.ones_like(inside)
    return PairFrame(
        view,
        seen,
        kept=inside if config.mask_confidence else everything,
        matched=inside if config.mask_matching else everything,
        K=None if K is None else view.K_to_view(K.double()),
    )


def clip_pair_frames(clip: Clip, config: PairConfig) -> list[PairFrame]:
    """All selected frames of a clip; their pictures are in memory, 0.6 MB each at 512x384."""
    known = clip.cameras.K if clip.cameras is not None else None
    return [
        make_pair_frame(clip.images[row], clip.masks[row], config, None if known is None else known[row])
        for row in range(len(clip))
    ]
