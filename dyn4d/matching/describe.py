"""Matches by descriptors, with what tells the good ones: R2D2 keypoints of the object, enlarged where it is small.

Descriptors are extracted once a picture and compared for any two, however far apart in time. What they say is checked:
neighbours on the object have to move alike, and the way over a third picture has to end at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.types import Correspondences
from dyn4d.matching.calibration import RawMatches
from dyn4d.matching.image_size import object_view
from dyn4d.matching.r2d2_extract import R2D2, R2D2Config, R2D2Features
from dyn4d.matching.verify import cycle_states, neighbour_votes

ELSEWHERE_PX = 4.0  # a rival has to lie this far from the best match: the same spot on another level is none
ELSEWHERE_SHARE = 0.25  # but no farther than this share of what the keypoints span: a tiny object has rivals too


class Describer(Protocol):
    """Describes keypoints of a picture. `name`: of its calibration."""

    @property
    def name(self) -> str: ...

    def features(self, frame: np.ndarray, mask: np.ndarray) -> R2D2Features:
        """Keypoints of a picture (H, W, 3) uint8 inside its mask (H, W) bool, in pixels of the picture."""
        ...


@dataclass(frozen=True)
class R2D2Describer:
    """R2D2 on the object cut out and brought to one size, whatever its size in the picture.

    Attributes:
        r2d2: from `load_r2d2`. size: pixels of the cut-out's longest side, a multiple of 16. top_k: keypoints at most.
        config: levels and thresholds; its `max_size` is at least `size`.
    """

    r2d2: R2D2
    size: int = 384
    top_k: int = 2000
    config: R2D2Config = R2D2Config(unbiased=True, scale_factor=2**0.5, min_size=128)  # noqa: RUF009 - frozen
    name: str = field(default="r2d2", init=False)

    def features(self, frame: np.ndarray, mask: np.ndarray) -> R2D2Features:
        """See `Describer`. `scales` are relative to the picture: above 1 where the object was enlarged."""
        mask = np.ascontiguousarray(mask, dtype=bool)
        if not mask.any():
            none = torch.zeros(0)
            return R2D2Features(torch.zeros(0, 2), torch.zeros(0, self.r2d2.network.dim), none, none)
        view = object_view(mask, self.size, square_ok=True)
        picture = (
            torch.from_numpy(np.array(view.image(np.ascontiguousarray(frame)))).permute(2, 0, 1)[None].float() / 255
        )
        # nearest: a part thinner than a pixel of a view that is made smaller stays
        # else an object brought to more pixels than the largest level has would only be looked at made smaller
        config = replace(self.config, max_size=max(self.config.max_size, self.size))
        found = self.r2d2.extract(picture, self.top_k, view.mask(mask, "nearest"), config=config)
        xy = view.to_source(found.keypoints.double()).float()
        cell = xy.floor().long()
        inside = torch.from_numpy(mask)[cell[:, 1].clamp(0, mask.shape[0] - 1), cell[:, 0].clamp(0, mask.shape[1] - 1)]
        scales = found.scales * float(np.sqrt(np.prod(view.scale)))
        return R2D2Features(xy[inside], *(v[inside] for v in (found.descriptors, found.scores, scales)))


@dataclass(frozen=True)
class KeypointMatches:
    """Mutual nearest neighbours among the keypoints of two pictures.

    Attributes:
        rows: (M, 2) int64 keypoints of a and b, sorted by the first. similarity: (M,) cosine.
        margin: (M,) how much more alike the two are than either is to any keypoint elsewhere in the other picture; 0
            where there is none elsewhere, and nothing to be told from.
    """

    rows: np.ndarray
    similarity: np.ndarray
    margin: np.ndarray


def match_keypoints(a: R2D2Features, b: R2D2Features, *, elsewhere: float = ELSEWHERE_PX) -> KeypointMatches:
    """Keypoints of a (N) and b (N') that are each other's nearest. Compares all with all: N x N' numbers in memory."""
    if len(a) == 0 or len(b) == 0:
        return KeypointMatches(np.zeros((0, 2), np.int64), np.zeros(0), np.zeros(0))
    table = a.descriptors @ b.descriptors.T
    of_a, of_b = table.argmax(1), table.argmax(0)
    row_a = torch.arange(len(a))
    row_a = row_a[of_b[of_a] == row_a]
    row_b = of_a[row_a]
    best = table[row_a, row_b]
    rival_b = _best_elsewhere(table[row_a], b.keypoints, row_b, elsewhere)
    rival_a = _best_elsewhere(table[:, row_b].T, a.keypoints, row_a, elsewhere)
    margin = torch.where(rival_a.isfinite() & rival_b.isfinite(), best - torch.maximum(rival_a, rival_b), 0.0)
    return KeypointMatches(
        torch.stack([row_a, row_b], -1).numpy(), best.double().numpy(), margin.clamp(min=0).double().numpy()
    )


def _best_elsewhere(scores: Tensor, xy: Tensor, own: Tensor, reach: float) -> Tensor:
    """(M,) the best of `scores` (M, N) among the N keypoints `xy` that are no nearer than `reach` to keypoint `own`;
    -inf where there are none."""
    span = float((xy.amax(0) - xy.amin(0)).max())
    near = torch.cdist(xy[own], xy) < min(reach, ELSEWHERE_SHARE * span)
    near[torch.arange(len(own)), own] = True  # also where all lie in one place
    return scores.masked_fill(near, -torch.inf).amax(1)


def describe_matches(
    a: R2D2Features, b: R2D2Features, found: KeypointMatches, *, over: tuple[R2D2Features, KeypointMatches,
    KeypointMatches] | None = None, frames: tuple[int, int] = (0, 1),
) -> RawMatches:  # fmt: skip
    """Keypoint matches as matches with their qualities, those without support from their neighbours left out.

    Args:
        over: a third picture's keypoints with the matches (a, third) and (third, b): matches that it contradicts are
            left out too. frames: of a and b.

    Returns:
        Qualities: `margin`; `votes`, see `neighbour_votes`; `cycle`, 1 where the third picture agrees, else 0;
        `grain`, log2 of the pixels of the picture in one of the coarser keypoint's level.
        `matches.weight` is the cosine of the descriptors.
    """
    xy_a, xy_b = a.keypoints[found.rows[:, 0]], b.keypoints[found.rows[:, 1]]
    places = xy_a.double().numpy(), xy_b.double().numpy()
    cycle = np.zeros(len(found.rows), np.int64)
    if over is not None and len(found.rows):
        cycle = cycle_states(found.rows, over[1].rows, over[2].rows, b.keypoints.double().numpy())
    keep = (cycle >= 0) & (found.similarity > 0)
    votes = np.zeros(len(keep))
    votes[keep] = neighbour_votes(places[0][keep], places[1][keep])
    keep &= votes > 0
    frame = torch.zeros(int(keep.sum()), dtype=torch.int64)
    chosen = torch.from_numpy(np.flatnonzero(keep))
    matches = Correspondences(
        frame + frames[0], frame + frames[1], xy_a[chosen], xy_b[chosen],
        torch.from_numpy(np.minimum(found.similarity[keep], 1)).float(),
    )  # fmt: skip
    scale = torch.minimum(a.scales[found.rows[keep, 0]], b.scales[found.rows[keep, 1]])
    quality = {"margin": found.margin[keep], "votes": votes[keep], "cycle": cycle[keep].astype(np.float64),
               "grain": -scale.double().log2().numpy()}  # fmt: skip
    return RawMatches(matches, quality)


def mirrored(raw: RawMatches) -> RawMatches:
    """The same matches the other way round."""
    found = raw.matches
    back = replace(found, frame_a=found.frame_b, frame_b=found.frame_a, xy_a=found.xy_b, xy_b=found.xy_a)
    return RawMatches(back, raw.quality)
