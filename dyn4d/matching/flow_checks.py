"""What tells a wrong match of a flow from a right one, without depth.

Going there and back again misses much of what is hidden: a smooth flow lays the hidden strip onto its neighbour, and
the flow back does the same the other way round. But then many pixels of one frame end on few of the other: the flow
back comes from too few pixels to reach all of them. Counting who comes ("range map") is the check for occlusion of
Wang et al., "Occlusion Aware Unsupervised Learning of Optical Flow", CVPR 2018; here it is one of four terms of a cost,
so that a match that is doubtful in several ways is dropped though none of them would do alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow_fields import Flow, filled, sample, targets
from dyn4d.matching.windows import Prepared

LOOK = 2.0  # flow pixels, sigma: looks are compared over this neighbourhood
FEWEST = 0.02  # fewer claims than this are not told apart


class CheckMaps(NamedTuple):
    """For each pixel of window a, (flow_height, flow_width) float32 each.

    Attributes:
        difference: mean difference of colour (of 255) around the pixel and around its end in b.
        claims: how many object pixels of b come back to here, 1 where the object keeps its size.
        stretch: by how much the flow pulls the neighbourhood apart at most, 1 where it keeps its size.
    """

    difference: np.ndarray
    claims: np.ndarray
    stretch: np.ndarray


def check_maps(a: Prepared, b: Prepared, there: Flow, back: Flow) -> CheckMaps:
    """What is needed to rate the matches a→b of the flow `there`; `back` goes from b to a. Both may be unknown (NaN) in
    places: what is next to those is still compared with its neighbours."""
    there = filled(there)
    return CheckMaps(differences(a.colour, b.colour, there), claims(a.inside, b.inside, back), stretch(there))


def differences(picture_a: np.ndarray, picture_b: np.ndarray, there: Flow) -> np.ndarray:
    """(H, W) float32: how much the colours around each pixel of a differ from those around its end in b."""
    other = cv2.remap(picture_b, *targets(there), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    apart = cv2.absdiff(picture_a, other).astype(np.float32)
    return cv2.GaussianBlur(cv2.transform(apart, np.full((1, 3), 1 / 3)), (0, 0), LOOK)


def claims(inside_a: np.ndarray, inside_b: np.ndarray, back: Flow) -> np.ndarray:
    """(H, W) float32: how many of the object's pixels of b land on each pixel of a, smoothed over one pixel.

    Each pixel of b is shared out among the four pixels of a around its end. Near the rim of a's mask only the part of
    the neighbourhood inside counts.
    """
    height, width = inside_a.shape
    x, y = (values[inside_b].astype(np.float64) for values in targets(back))
    known = np.isfinite(x) & np.isfinite(y)
    x, y = np.clip(x[known], -2, width + 1), np.clip(y[known], -2, height + 1)
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    across, down = x - column, y - row
    landed = np.zeros((height + 5) * (width + 5))  # a border, so that no end needs a range check
    for dy, share_y in ((0, 1 - down), (1, down)):
        for dx, share_x in ((0, 1 - across), (1, across)):
            place = (row + dy + 2) * (width + 5) + column + dx + 2
            landed += np.bincount(place, share_x * share_y, len(landed))
    count = landed.reshape(height + 5, width + 5)[2 : height + 2, 2 : width + 2].astype(np.float32)
    room = cv2.GaussianBlur(inside_a.astype(np.float32), (0, 0), 1.0)
    return cv2.GaussianBlur(count, (0, 0), 1.0) / np.maximum(room, 0.2)


def stretch(flow: Flow) -> np.ndarray:
    """(H, W) float32: the largest singular value of the derivative of where the flow leads, over 3 x 3 pixels."""
    x, y = targets(flow)
    xx, xy = _slopes(x)
    yx, yy = _slopes(y)
    return (cv2.magnitude(xx + yy, yx - xy) + cv2.magnitude(xx - yy, yx + xy)) / 2


def _slopes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives along columns and rows."""
    return cv2.Sobel(values, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(values, cv2.CV_32F, 0, 1, scale=1 / 8)


def match_cost(
    error: np.ndarray, limit: np.ndarray, maps: CheckMaps, start: np.ndarray, config: MatchingConfig
) -> np.ndarray:
    """(N,) float64, below 1 for what is kept: the squares of four doubts, each 1 at its own limit.

    Args:
        error, limit: (N,) px, between going there and back, and the start; how much is allowed.
        maps: of the pair. start: (N, 2) array positions in window a. config: `max_difference`, `max_stretch`.
    """
    x, y = start.T
    allowed = math.log(config.max_stretch)
    shrunk = np.log(np.clip(sample(maps.claims, x, y).astype(np.float64), FEWEST, 1)) / allowed
    pulled = np.log(np.maximum(sample(maps.stretch, x, y).astype(np.float64), 1)) / allowed
    unlike = sample(maps.difference, x, y).astype(np.float64) / config.max_difference
    return np.square(error / limit) + np.square(unlike) + np.square(shrunk) + np.square(pulled)
