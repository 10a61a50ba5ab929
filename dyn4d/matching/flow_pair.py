"""Optical flow as a `Matcher`: two pictures of any two sizes instead of the frames of a clip.

The flow, its checks and its windows are those of clips (`dyn4d.matching.flow`). What is added is a way to bring two
pictures to one scale and one canvas, and the exact way back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from dyn4d.core.types import Clip, Correspondences, Timeline
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.estimators import FlowEstimator
from dyn4d.matching.flow import FlowEngine, pair_columns
from dyn4d.matching.image_size import InputView
from dyn4d.matching.windows import ObjectWindows, mask_box, plan_windows

UNLIKE = 1.5  # objects of sizes that differ by more than this are brought to one size first


@dataclass(frozen=True)
class FlowMatcher:
    """Matches of two pictures by optical flow, checked there and back: for frames of one video and the like.

    Pictures of any sizes are taken. The object of one that is more than 1.5 times as large as that of the other (by the
    root of its area) is shrunk to that size, and both to `config.max_size` where they are larger. Smaller pictures are
    then filled up at the right and at the bottom to one canvas, which moves nothing. Matches come back in pixels of
    the pictures given.

    Flow follows motion, looks and small changes of the view; it does not know objects that are turned round or seen
    from another side.

    Attributes:
        config: see `MatchingConfig`; tolerances are in pixels of the picture, or of what it was shrunk to. `window`,
            `strides` and `threads` are for clips.
        seed: decides which matches are kept where there are more than `config.max_per_pair`.
        estimator: who finds the flow; None: what `config.flow` names, on the CPU. Files belong to clips: DIS then.
    """

    config: MatchingConfig = field(default_factory=MatchingConfig)
    seed: int = 0
    estimator: FlowEstimator | None = None

    def __call__(
        self, frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray
    ) -> Correspondences:
        """Matches from picture 0 to picture 1.

        Args:
            frame_a, frame_b: (H, W, 3) uint8. mask_a, mask_b: (H, W) bool, True = object; each of its picture's size.

        Returns:
            Correspondences sorted by pixel of a, both ends inside the masks, weights in (1/e, 1]. `xy_a` are pixel
            centres unless a was shrunk. Empty where a mask is.
        """
        frames, masks = (frame_a, frame_b), (np.asarray(mask_a, dtype=bool), np.asarray(mask_b, dtype=bool))
        for name, frame, mask in zip("ab", frames, masks):
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
                raise ValueError(f"frame_{name}: wanted uint8 (H, W, 3), found {frame.dtype} {frame.shape}")
            if mask.shape != frame.shape[:2]:
                raise ValueError(f"mask_{name}: wanted shape {frame.shape[:2]} as its picture has, found {mask.shape}")
        if not all(mask.any() for mask in masks):
            return Correspondences.empty()
        views = [_shrunk(frame, scale) for frame, scale in zip(frames, common_scale(*masks, self.config.max_size))]
        small = [view.image(frame) if view else frame for view, frame in zip(views, frames)]
        small_masks = [view.mask(mask) if view else mask for view, mask in zip(views, masks)]
        found = self._match(_pair_clip(small, small_masks))
        xy = [view.to_source(xy) if view else xy for view, xy in zip(views, (found.xy_a, found.xy_b))]
        return replace(found, xy_a=xy[0], xy_b=xy[1])

    def _match(self, clip: Clip) -> Correspondences:
        """Matches from frame 0 to frame 1 of a clip of two."""
        plan = plan_windows(clip, self.config)
        if not plan.present.all():  # thinner than a pixel of what it was shrunk to
            return Correspondences.empty()
        engine = FlowEngine(ObjectWindows(clip, plan, keep=2), self.config, 2, self.estimator)
        outer = cv2.getNumThreads()
        cv2.setNumThreads(1)  # OpenCV's flow differs a little with the number of threads
        try:
            ((_, there, back),) = engine.from_frame(0, [1])
        finally:
            cv2.setNumThreads(outer)
        columns = pair_columns(engine, (0, 1), (there, back), config=self.config, seed=self.seed)
        return Correspondences(**{name: torch.from_numpy(values) for name, values in columns.items()})


def common_scale(mask_a: np.ndarray, mask_b: np.ndarray, max_size: int) -> tuple[float, float]:
    """What two pictures are multiplied by, at most 1, so that their objects are of like size and no larger than
    `max_size` pixels. Neither mask may be empty."""
    ratio = math.sqrt(np.count_nonzero(mask_a) / np.count_nonzero(mask_b))
    scale = 1 / ratio if ratio > UNLIKE else 1.0, ratio if ratio < 1 / UNLIKE else 1.0
    largest = max(_longest(mask) * factor for mask, factor in zip((mask_a, mask_b), scale))
    both = min(1.0, max_size / largest)
    return scale[0] * both, scale[1] * both


def _longest(mask: np.ndarray) -> int:
    left, top, right, bottom = mask_box(mask) or (0, 0, 0, 0)
    return max(right - left, bottom - top)


def _shrunk(frame: np.ndarray, scale: float) -> InputView | None:
    """The whole picture made smaller, or None where it stays as it is."""
    height, width = frame.shape[:2]
    across, down = max(round(width * scale), 1), max(round(height * scale), 1)
    if (across, down) == (width, height):
        return None
    return InputView((width, height), (0, 0, width, height), (across, down), (0, 0, across, down))


def _pair_clip(frames: list[np.ndarray], masks: list[np.ndarray]) -> Clip:
    """Two pictures as a clip, filled up at the right and at the bottom to the larger width and height."""
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))

    def filled(values: np.ndarray) -> np.ndarray:
        rest = [(0, height - values.shape[0]), (0, width - values.shape[1])]
        return np.pad(values, [*rest, *[(0, 0)] * (values.ndim - 2)])

    times = np.array([0.0, 1.0])
    return Clip(
        name="pair", source=Path("pair"), images=[filled(frame) for frame in frames],
        masks=[filled(mask) for mask in masks], frames=np.arange(2), timeline=Timeline(times, times, ("a", "b")),
        width=width, height=height,
    )  # fmt: skip
