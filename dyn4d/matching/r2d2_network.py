"""The network of R2D2: how repeatable and how reliable each pixel is as a keypoint, and what describes it.

Written from the paper (Revaud et al., "R2D2: Repeatable and Reliable Detector and Descriptor", NeurIPS 2019) and the
layout of the published weights, which load into it as they are. Nothing is ever made smaller: where an ordinary network
would take every second pixel, all later convolutions are dilated instead, so that every output is as large as the
picture and depends on the pixels up to `reach` away.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GRID_STEP, GRID_START = 4, 2  # of the pixels of `R2D2Network.forward_grid`


@dataclass(frozen=True)
class _Layer:
    kernel: int
    dilation: int
    norm: bool
    relu: bool


# Undilated, the third, the fifth and the last three convolutions would have stride 2: later dilations double.
LAYERS = (
    _Layer(3, 1, True, True),
    _Layer(3, 1, True, True),
    _Layer(3, 1, True, True),
    _Layer(3, 2, True, True),
    _Layer(3, 2, True, True),
    _Layer(3, 4, True, True),
    _Layer(2, 4, True, False),  # these three stand for one 8 x 8 convolution
    _Layer(2, 8, True, False),
    _Layer(2, 16, False, False),
)
WIDTHS = (32, 32, 64, 64, 128, 128, 128, 128, 128)


class RawMaps(NamedTuple):
    """What the network says of B pictures, pixel by pixel.

    Attributes:
        features: (B, D, H, W), not normalised. reliability, repeatability: (B, 1, H, W) in [0, 1].
    """

    features: Tensor
    reliability: Tensor
    repeatability: Tensor

    def descriptors(self) -> Tensor:
        """(B, D, H, W) of length 1."""
        return F.normalize(self.features, dim=1)


def normalise(image: Tensor) -> Tensor:
    """sRGB pictures (B, 3, H, W) in [0, 1] → what the network takes."""
    mean, std = (image.new_tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / std


class R2D2Network(nn.Module):
    """Fully convolutional: any size from 1 x 1.

    Attributes:
        widths: channels after each convolution; the last number is that of the descriptors.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        if len(widths) != len(LAYERS) or min(widths) < 1:
            raise ValueError(f"widths: {widths}; wanted {len(LAYERS)} numbers from 1")
        self.widths = widths
        self.ops = nn.ModuleList()  # numbered as in the published state dicts, ReLUs included
        for layer, (before, after) in zip(LAYERS, pairwise((3, *widths))):
            padding = (layer.kernel - 1) * layer.dilation // 2
            self.ops.append(nn.Conv2d(before, after, layer.kernel, padding=padding, dilation=layer.dilation))
            if layer.norm:
                self.ops.append(nn.BatchNorm2d(after, affine=False))
            if layer.relu:
                self.ops.append(nn.ReLU(inplace=True))
        self.clf = nn.Conv2d(widths[-1], 2, 1)
        self.sal = nn.Conv2d(widths[-1], 1, 1)

    @property
    def dim(self) -> int:
        """Numbers in a descriptor."""
        return self.widths[-1]

    @property
    def reach(self) -> int:
        """How many pixels away, along a row or a column, the farthest pixel is that an output depends on."""
        return sum((layer.kernel - 1) * layer.dilation for layer in LAYERS) // 2

    @property
    def device(self) -> torch.device:
        return self.sal.weight.device

    def forward(self, image: Tensor) -> RawMaps:
        """Pictures (B, 3, H, W) from `normalise` → `RawMaps`."""
        x = image
        for op in self.ops:
            x = op(x)
        return self._maps(x)

    def forward_grid(self, image: Tensor) -> RawMaps:
        """`forward` at the pixels `[2::4, 2::4]` alone, for about a tenth of the work: to train with.

        On that grid the dilated convolutions are ordinary ones with strides. Sides have to be multiples of 4. While
        training, the statistics of the norms are taken over the pixels looked at.
        """
        if image.shape[-2] % GRID_STEP or image.shape[-1] % GRID_STEP:
            raise ValueError(f"image: {tuple(image.shape)}; wanted sides that are multiples of {GRID_STEP}")
        x, spacing, number = image, 1, 0
        for op in self.ops:
            if not isinstance(op, nn.Conv2d):
                x = op(x)
                continue
            layer = LAYERS[number]
            number += 1
            stride = 2 if number in (3, 5) else 1
            dilation = layer.dilation // spacing
            if layer.kernel % 2 == 0 and dilation == 1:  # its outputs lie halfway between the pixels of the grid
                x = F.conv2d(F.pad(x, (0, 1, 0, 1)), op.weight, op.bias)
            else:
                padding = (layer.kernel - 1) * dilation // 2
                x = F.conv2d(x, op.weight, op.bias, stride=stride, padding=padding, dilation=dilation)
            spacing *= stride
        return self._maps(x)

    def _maps(self, x: Tensor) -> RawMaps:
        squared = x.square()
        reliability = self.clf(squared).softmax(dim=1)[:, 1:2]
        u = F.softplus(self.sal(squared))
        return RawMaps(x, reliability, u / (1 + u))


def convolutions() -> tuple[int, ...]:
    """Where in `R2D2Network.ops` the convolutions are."""
    at, places = 0, []
    for layer in LAYERS:
        places.append(at)
        at += 1 + layer.norm + layer.relu
    return tuple(places)
