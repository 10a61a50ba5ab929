"""Keypoints and descriptors of one picture by R2D2, over a pyramid of sizes, inside a mask.

Source: Revaud et al., "R2D2: Repeatable and Reliable Detector and Descriptor", NeurIPS 2019, and the settings published
with its weights.

Pixels. The published code counts pixels from the centre of the top-left one and maps a pixel x of a level of width w to
x·W/w, although the centres lie at (x + 1/2)·W/w - 1/2: towards coarse levels its keypoints drift up and left, by up to
(W/w - 1)/2 pixels of the picture (1.2 at a level of 30 %). By default `extract` returns the published numbers + 0.5,
which is that mapping with the centre of the top-left pixel at (0.5, 0.5); `unbiased=True` returns (x + 1/2)·W/w.

Masks. A keypoint's pixel, the floor of its coordinates, lies in the mask, whatever the level. Those outside are
dropped before the best are chosen: the result is that without a mask, filtered, but for the rounding of float32 (a
level is only computed around the mask, and convolutions of another size may sum in another order). What a mask does not
do is hide the background from the network: near the outline, descriptors and scores depend on the background up to
`R2D2Network.reach` + 1 pixels of the level away (26 in all R2D2 networks), some 33/scale pixels of the picture with
what the resizing mixes in. Farther from the box around the mask, the background has no influence at all.

On a GPU torch may convolve in TF32, unless told not to; its values then agree less well with those of a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dyn4d.core.checks import check_shape
from dyn4d.matching.r2d2_network import R2D2Network, normalise

PATCH = 32.0  # pixels of the level that a keypoint stands for, as published


@dataclass(frozen=True)
class R2D2Config:
    """Which levels of the pyramid are looked at, and which of their pixels are keypoints. The defaults are published.

    Level s (1, 1/scale_factor, 1/scale_factor², …) is the picture at s times its size. It counts where
    `min_scale` <= s <= `max_scale` and its long side is between `min_size` and `max_size`. A picture smaller than
    `min_size` is never enlarged: it is looked at once, as it is.
    """

    scale_factor: float = 2**0.25
    """From a level to the next, smaller one."""
    min_size: int = 256
    """Pixels of the long side of the smallest level."""
    max_size: int = 1024
    """Pixels of the long side of the largest level."""
    min_scale: float = 0.0
    """Smallest level, as a share of the picture's size."""
    max_scale: float = 1.0
    """Largest level, as a share of the picture's size."""
    reliability: float = 0.7
    """Keypoints are at least this reliable."""
    repeatability: float = 0.7
    """Keypoints are at least this repeatable."""
    nms: int = 3
    """Keypoints are the most repeatable pixels of the square of this side around them; equals are all kept."""
    unbiased: bool = False
    """Map the centres of pixels to where they are, not to where the published code puts them (see the module)."""

    def __post_init__(self) -> None:
        def refuse(name: str, wanted: str) -> None:
            raise ValueError(f"r2d2.{name}: {getattr(self, name)}; wanted {wanted}")

        if not 1.001 <= self.scale_factor <= 1e6:
            refuse("scale_factor", "a number from 1.001")
        if self.min_size < 0:
            refuse("min_size", "a number of pixels from 0")
        if self.max_size < max(self.min_size, 1):
            refuse("max_size", f"at least 1 and min_size = {self.min_size}")
        if not 0 <= self.min_scale <= 1:
            refuse("min_scale", "a share from 0 to 1")
        if not self.max_scale >= max(self.min_scale, 1e-6):
            refuse("max_scale", f"more than 0 and at least min_scale = {self.min_scale}")
        for name in ("reliability", "repeatability"):
            if not 0 <= getattr(self, name) <= 1:
                refuse(name, "a threshold from 0 to 1")
        if self.nms < 1 or self.nms % 2 == 0:
            refuse("nms", "an odd number of pixels from 1")

    def changed(self, **changes: Any) -> R2D2Config:
        """The same with other values of some fields."""
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise TypeError(f"r2d2.{name}: no such setting; there are {', '.join(known)}")
        return replace(self, **changes)


@dataclass(frozen=True)
class R2D2Features:
    """Keypoints of one picture, on the CPU, sorted by ascending score.

    Attributes:
        keypoints: (N, 2) float32 (x, y), pixels of the picture; the centre of the top-left pixel is (0.5, 0.5). Less
            0.5 they are the published ones, unless they were asked for `unbiased` (see the module).
        descriptors: (N, D) float32 of length 1. scores: (N,) float32 in [0, 1], reliability times repeatability.
        scales: (N,) float32 in (0, 1], the level each was found at: 1 = the picture as it is.
    """

    keypoints: Tensor
    descriptors: Tensor
    scores: Tensor
    scales: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("keypoints", ("N", 2)), ("descriptors", ("N", "D")), ("scores", ("N",)),
                             ("scales", ("N",))):  # fmt: skip
            check_shape(f"R2D2Features.{label}", getattr(self, label), shape, sizes)

    def __len__(self) -> int:
        return self.scores.shape[0]

    @property
    def sizes(self) -> Tensor:
        """(N,) pixels of the picture that each keypoint stands for, as published."""
        return PATCH / self.scales


@dataclass(frozen=True)
class DenseMaps:
    """What the network says of each pixel of one picture, on the network's device.

    Attributes:
        descriptors: (D, H, W) of length 1. reliability, repeatability: (H, W) in [0, 1].
    """

    descriptors: Tensor
    reliability: Tensor
    repeatability: Tensor


@dataclass(frozen=True)
class _Level:
    """A picture (1, 3, h, w), normalised, at `scale` times its size (W, H), and the box of it that is looked at."""

    image: Tensor
    scale: float
    size: tuple[int, int]

    def places(self, axis: int, unbiased: bool) -> Tensor:
        """(w,) or (h,) float32: where in the picture the pixels lie, along x (0) or y (1)."""
        count = self.image.shape[3 - axis]
        half = 0.5 if unbiased else 0.0
        at = (torch.arange(count, dtype=torch.float64) + half) * (self.size[axis] / count) + (0.5 - half)
        return at.float()


def _levels(image: Tensor, config: R2D2Config) -> Iterator[_Level]:
    """The levels that count, largest first, each made smaller from the one before it."""
    height, width = image.shape[-2:]
    longest = max(height, width)
    least = max(config.min_scale, min(config.min_size / longest, 1.0))
    most = min(config.max_scale, config.max_size / longest)
    scale = 1.0
    while scale + 0.001 >= least:
        if scale - 0.001 <= most:
            yield _Level(image, scale, (width, height))
        scale /= config.scale_factor
        smaller = (round(height * scale), round(width * scale))
        if min(smaller) < 1:
            return
        image = F.interpolate(image, smaller, mode="bilinear", align_corners=False)


class R2D2:
    """A network ready to extract; made by `load_r2d2`.

    Attributes:
        network: in float32, for inference. licence: what is known of the terms of its weights.
    """

    def __init__(self, network: R2D2Network, licence: str = "") -> None:
        self.network = network.eval()
        self.licence = licence

    @property
    def device(self) -> torch.device:
        return self.network.device

    @torch.no_grad()
    def dense(self, image: Tensor) -> DenseMaps:
        """All pixels of a picture (1, 3, H, W), float in [0, 1], sRGB, at its own size."""
        maps = self.network(self._prepared(image))
        return DenseMaps(maps.descriptors()[0], maps.reliability[0, 0], maps.repeatability[0, 0])

    @torch.no_grad()
    def extract(
        self,
        image: Tensor,
        top_k: int | None = 5000,
        mask: Tensor | np.ndarray | None = None,
        *,
        config: R2D2Config | None = None,
        **changes: Any,
    ) -> R2D2Features:
        """The best keypoints of a picture. None at all is a legal answer.

        Args:
            image: (1, 3, H, W), float in [0, 1], sRGB; any size. It is not to be normalised.
            top_k: at most this many, those with the highest scores; None = all.
            mask: (H, W) bool, True = object; None = the whole picture. See the module for what it does.
            config: levels and thresholds. changes: single fields of it, such as `min_size=0`.

        Raises:
            ValueError: another shape, type or range of values. TypeError: a field that there is not.
        """
        config = (config or R2D2Config()).changed(**changes)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k: {top_k}; wanted at least 1, or None for all")
        prepared = self._prepared(image)
        mask = _checked_mask(mask, tuple(prepared.shape[-2:]))
        found = [self._keypoints(level, mask, config) for level in _levels(prepared, config)]
        parts = [torch.cat(part) for part in zip(*found)] or list(self._none())
        order = torch.argsort(parts[2], stable=True)[0 if top_k is None else -top_k :]
        return R2D2Features(*(part[order] for part in parts))

    def _none(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return torch.zeros(0, 2), torch.zeros(0, self.network.dim), torch.zeros(0), torch.zeros(0)

    def _keypoints(
        self, level: _Level, mask: Tensor | None, config: R2D2Config
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keypoints, descriptors, scores and scales of one level, row by row, on the CPU."""
        x, y = (level.places(axis, config.unbiased) for axis in (0, 1))
        image, allowed, left, top = level.image, None, 0, 0
        if mask is not None:
            allowed = mask[y.long()[:, None], x.long()]
            rows, columns = allowed.any(1).nonzero()[:, 0].tolist(), allowed.any(0).nonzero()[:, 0].tolist()
            if not rows:
                return self._none()
            margin = self.network.reach + config.nms // 2  # what lies farther cannot change a keypoint inside
            top, bottom = max(rows[0] - margin, 0), rows[-1] + 1 + margin
            left, right = max(columns[0] - margin, 0), columns[-1] + 1 + margin
            image, allowed = image[..., top:bottom, left:right], allowed[top:bottom, left:right]
        maps = self.network(image.contiguous())
        reliability, repeatability = maps.reliability[0, 0], maps.repeatability[0, 0]
        highest = F.max_pool2d(maps.repeatability, config.nms, stride=1, padding=config.nms // 2)[0, 0]
        keep = (repeatability == highest) & (repeatability >= config.repeatability)
        keep &= reliability >= config.reliability
        if allowed is not None:
            keep &= allowed.to(keep.device)
        row, column = keep.nonzero().unbind(-1)
        scores = (reliability[row, column] * repeatability[row, column]).cpu()
        descriptors = F.normalize(maps.features[0, :, row, column].T, dim=1).cpu()
        xy = torch.stack([x[column.cpu() + left], y[row.cpu() + top]], dim=-1)
        return xy, descriptors, scores, torch.full_like(scores, level.scale)

    def _prepared(self, image: Tensor) -> Tensor:
        """A checked and normalised picture on the network's device."""
        if image.ndim != 4 or image.shape[:2] != (1, 3) or min(image.shape) < 1:
            hint = ""
            if image.ndim == 4 and image.shape[0] != 1:
                hint = "; give one picture at a time"
            elif image.ndim == 4 and image.shape[1] == 1:
                hint = "; repeat a grey picture three times: image.expand(-1, 3, -1, -1)"
            raise ValueError(f"image: wanted shape (1, 3, H, W), found {tuple(image.shape)}{hint}")
        if not image.is_floating_point():
            raise ValueError(f"image: wanted float values in [0, 1], found {image.dtype}; divide by 255 first")
        low, high = (float(value) for value in torch.aminmax(image.detach()))
        # Room for what a bicubic filter overshoots; [0, 255] and normalised pictures are what this is to catch.
        if not (low >= -0.5 and high <= 1.5):
            raise ValueError(f"image: wanted values in [0, 1], found {low:.3g} to {high:.3g}")
        return normalise(image.to(self.device, torch.float32))


def _checked_mask(mask: Tensor | np.ndarray | None, shape: tuple[int, ...]) -> Tensor | None:
    if mask is None:
        return None
    if mask.dtype not in (torch.bool, np.bool_) or tuple(mask.shape) != shape:
        raise ValueError(f"mask: wanted bool {shape} as the image has, found {mask.dtype} {tuple(mask.shape)}")
    return mask.cpu() if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))
