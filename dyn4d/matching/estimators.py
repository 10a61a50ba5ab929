"""Who finds the flow between two pictures: OpenCV's DIS, or a network.

Source of DIS: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016, as in OpenCV.
"""

from __future__ import annotations

import math
import threading
from typing import Protocol

import cv2
import numpy as np
import torch

from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow_fields import Flow


class FlowEstimator(Protocol):
    """Finds the flow from one picture to another of the same size. Called by several threads at once.

    Attributes:
        colour: it takes pictures (H, W, 3) uint8 RGB; else (H, W) uint8 grey.
        licence: what is known of the terms of its weights; "" where it has none.
    """

    @property
    def colour(self) -> bool: ...

    @property
    def licence(self) -> str: ...

    def __call__(self, picture_a: np.ndarray, picture_b: np.ndarray) -> Flow:
        """(H, W, 2) float32: where each pixel of a is in b, less where it is in a, in pixels."""
        ...


class DisFlow:
    """Dense inverse search on grey pictures: no weights, on the CPU, the same bits for one thread of OpenCV."""

    colour = False
    licence = ""

    def __init__(self, config: MatchingConfig) -> None:
        self.config = config
        self._local = threading.local()  # OpenCV's object keeps buffers inside: each thread has its own

    def __call__(self, picture_a: np.ndarray, picture_b: np.ndarray) -> Flow:
        if not hasattr(self._local, "dis"):
            self._local.dis = make_dis(self.config)
        height, width = picture_a.shape
        down, across = (max(2 * self.config.patch_size - side, 0) for side in (height, width))
        # where it finds fewer levels than it is asked for, OpenCV writes beyond its own memory
        self._local.dis.setFinestScale(
            min(self.config.finest_scale, _coarsest(height + down, width + across, self.config))
        )
        if down or across:  # a patch is no larger than a level
            edges = (0, down, 0, across)
            picture_a, picture_b = (
                cv2.copyMakeBorder(picture, *edges, cv2.BORDER_REPLICATE) for picture in (picture_a, picture_b)
            )
        flow = self._local.dis.calc(picture_a, picture_b, np.zeros((*picture_a.shape, 2), np.float32))
        return np.ascontiguousarray(flow[:height, :width])


def _coarsest(height: int, width: int, config: MatchingConfig) -> int:
    """The coarsest level that OpenCV looks at, 0 = full size: by the long side, and no smaller than a patch."""
    by_long = math.log2(max(height, width) / (4 * config.patch_size)) + 0.5
    return max(int(min(by_long, math.log2(min(height, width) / config.patch_size))), 0)


def make_dis(config: MatchingConfig) -> cv2.DISOpticalFlow:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(config.finest_scale)
    dis.setPatchSize(config.patch_size)
    dis.setPatchStride(max(config.patch_size // 2 - 1, 1))
    dis.setVariationalRefinementIterations(config.refinement)
    return dis


def make_estimator(config: MatchingConfig, device: torch.device | str = "cpu") -> FlowEstimator:
    """What `config.flow` names; DIS for `files`, where no file says.

    Args:
        config: see `MatchingConfig`. device: of a network.

    Raises:
        InputError: torchvision or the weights of RAFT are missing or unusable.
    """
    if config.flow == "raft":
        from dyn4d.matching.raft import load_raft

        return load_raft(config.flow_weights, device)
    return DisFlow(config)
