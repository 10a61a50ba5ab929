"""Matches between two pictures by R2D2: keypoints of each inside its mask, then mutual nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.types import Correspondences
from dyn4d.matching.nearest import nearest_both_ways
from dyn4d.matching.r2d2_extract import R2D2, R2D2Config, R2D2Features


def mutual_matches(a: R2D2Features, b: R2D2Features) -> Tensor:
    """(M, 2) int64, sorted: rows of a and of b whose descriptors are each other's nearest, the lowest row of equals."""
    if a.descriptors.shape[1] != b.descriptors.shape[1]:
        raise ValueError(
            f"descriptors: {a.descriptors.shape[1]} and {b.descriptors.shape[1]} numbers; use one network for both"
        )
    if len(a) == 0 or len(b) == 0:
        return torch.zeros(0, 2, dtype=torch.int64)
    of_a, of_b = nearest_both_ways(a.descriptors, b.descriptors)
    rows = torch.arange(len(a))
    mutual = of_b[of_a] == rows
    return torch.stack([rows[mutual], of_a[mutual]], dim=-1)


@dataclass(frozen=True)
class R2D2Matcher:
    """Core's `Matcher` protocol on R2D2. It extracts anew at each call; for many pairs of few frames call `features`
    once a frame and `match` once a pair.

    Attributes:
        r2d2: from `load_r2d2`. top_k: keypoints of a picture at most.
        config: levels and thresholds; the keypoints are where the pixels' centres are, not where the published code
            puts them.
        min_similarity: matches whose descriptors are not more alike than this (cosine) are dropped.
    """

    r2d2: R2D2
    top_k: int = 5000
    config: R2D2Config = R2D2Config(unbiased=True)  # noqa: RUF009 - frozen
    min_similarity: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_similarity < 1:
            raise ValueError(f"min_similarity: {self.min_similarity}; wanted a cosine from 0, below 1")

    def __call__(
        self, frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray
    ) -> Correspondences:
        """Matches from picture 0 to picture 1, (H, W, 3) uint8 each, inside their masks (H, W) bool."""
        return self.match(self.features(frame_a, mask_a), self.features(frame_b, mask_b))

    def features(self, frame: np.ndarray, mask: np.ndarray | None = None) -> R2D2Features:
        """Keypoints of a picture (H, W, 3) uint8 inside its mask (H, W) bool."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"frame: wanted uint8 (H, W, 3), found {frame.dtype} {frame.shape}")
        image = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float() / 255
        return self.r2d2.extract(image, self.top_k, mask, config=self.config)

    def match(self, a: R2D2Features, b: R2D2Features, frame_a: int = 0, frame_b: int = 1) -> Correspondences:
        """Matches of two pictures, in the frames that they are. The weight, in (0, 1], is the geometric mean of both
        scores times the cosine of the descriptors."""
        row_a, row_b = mutual_matches(a, b).unbind(-1)
        similarity = (a.descriptors[row_a] * b.descriptors[row_b]).sum(-1).clamp(max=1)
        weight = similarity * (a.scores[row_a] * b.scores[row_b]).sqrt()
        keep = (similarity > self.min_similarity) & (weight > 0)
        row_a, row_b, weight = row_a[keep], row_b[keep], weight[keep]
        frame = torch.zeros(len(weight), dtype=torch.int64)
        return Correspondences(frame + frame_a, frame + frame_b, a.keypoints[row_a], b.keypoints[row_b], weight)
