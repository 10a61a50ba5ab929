"""A pair network as a matcher of two pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from dyn4d.core.types import Correspondences
from dyn4d.geometry.network import PairNetwork
from dyn4d.geometry.pair_config import PairConfig
from dyn4d.geometry.pair_frames import make_pair_frame
from dyn4d.geometry.pair_hints import suited
from dyn4d.geometry.pair_inference import look_at_pairs


class PairNetworkMatcher:
    """Matches of two pictures by a pair network (core's `Matcher`).

    Args:
        network: see `load_pair_network`; its device does the work. config: how the pictures are given to it. Pictures
            larger than `config.size` are made smaller; `match_coarse_to_fine` does better with them.
    """

    def __init__(self, network: PairNetwork, config: PairConfig | None = None) -> None:
        self.network, self.config = network, suited(network.config, config or PairConfig())

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user: where the weights come from and on which terms."""
        return self.network.notes

    def __call__(
        self, frame_a: np.ndarray, frame_b: np.ndarray, mask_a: np.ndarray, mask_b: np.ndarray
    ) -> Correspondences:
        """Matches from picture 0 to picture 1, in pixels of the pictures given, half-integer centres.

        Args:
            frame_a, frame_b: (H, W, 3) uint8 sRGB, of any two sizes. mask_a, mask_b: (H, W) bool, True = object.
        """
        # a match with a point that does not count is a match all the same
        config = replace(self.config, mask_confidence=False)
        frames = [make_pair_frame(frame_a, mask_a, config), make_pair_frame(frame_b, mask_b, config)]
        if not all(frame.matched.any() for frame in frames):
            return Correspondences.empty()
        (result,) = look_at_pairs(self.network, frames, config, pairs=[(0, 1)])
        count = len(result.weight)
        row = torch.zeros(count, dtype=torch.int64)
        xy_a, xy_b = (
            frame.view.to_source(xy.double() + 0.5).float() for frame, xy in zip(frames, (result.xy_a, result.xy_b))
        )
        return Correspondences(row, row + 1, xy_a, xy_b, result.weight)
