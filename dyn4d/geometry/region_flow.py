"""The optical flow between the frames of a clip inside what holds the cameras: the background, or the object."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from dyn4d.core.protocols import Progress
from dyn4d.core.types import Clip, Correspondences
from dyn4d.geometry.texture import textured
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow import match_clip

RIM = 5  # pixels around the object that belong to neither it nor the background
GAPS = (4, 8, 16)  # frames between those that are matched, beside neighbours: six unknowns a frame need no more
PAIR_MATCHES = 300  # of each ordered pair; a pair's errors are much alike, so that more say nothing new
LEAST_DRAWN = 1 / 8  # where less of a region is textured than this, fewer than PAIR_MATCHES are left of it
SEEDS = 500  # of a frame
LEAST_SPACING = 3.0  # px between them
CARRIED = 0.5  # share of a region over which flow that is carried from frame to frame agrees, to look for no other
LOOKS = 8  # frames that tell how much of a region is textured

Where = Literal["background", "object"]


@dataclass(frozen=True)
class Regions:
    """Masks (H, W) of what holds the cameras in each frame of a clip; of one with depth, as far as that is known."""

    clip: Clip
    where: Where

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, row: int) -> np.ndarray:
        mask = np.asarray(self.clip.masks[row], dtype=bool)
        if self.where == "background":
            mask = cv2.dilate(mask.astype(np.uint8), np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8)) == 0
        if self.clip.depth is None:
            return mask
        depth = np.asarray(self.clip.depth[row])
        return mask & np.isfinite(depth) & (depth > 0)

    def shown(self) -> np.ndarray:
        """Rows of the frames that show anything of it. Masks are looked at, neither the object's rim nor depth."""
        known = ((np.asarray(self.clip.masks[row], dtype=bool), row) for row in range(len(self)))
        return np.array([row for mask, row in known if (mask.any() if self.where == "object" else not mask.all())], int)

    def texture(self, row: int) -> np.ndarray:
        """(H, W) bool, where in the region the flow can be trusted."""
        return textured(np.asarray(self.clip.images[row]), self[row])


def textured_shares(regions: Regions) -> tuple[float, float]:
    """What of the picture is textured region, and what of the region is textured, in the median over a few frames."""
    rows = np.unique(np.linspace(0, len(regions) - 1, LOOKS).astype(int))
    of_picture, of_region = [], []
    for row in rows:
        region = regions[row]
        texture = textured(np.asarray(regions.clip.images[row]), region)
        of_picture.append(texture.mean())
        if region.any():
            of_region.append(texture.sum() / region.sum())
    return float(np.median(of_picture)), float(np.median(of_region)) if of_region else 0.0


def pose_matching(matching: MatchingConfig) -> MatchingConfig:
    """The same flow for fewer pairs and matches: a deformation field needs far more of them than the poses do."""
    return replace(matching, window=1, strides=GAPS, max_per_pair=min(matching.max_per_pair, PAIR_MATCHES))


def region_matches(
    regions: Regions, matching: MatchingConfig, seed: int, device: torch.device | str, progress: Progress,
    cache: Path | None,
) -> Correspondences:  # fmt: skip
    """Matches between frames whose two ends lie where the pictures tell motion, in both directions.

    Args:
        matching: of the flow; which frames are matched, and how many matches are kept, is decided here.
        device: where a network for the flow runs. cache: a folder for the flow of these regions.
    """
    asked = pose_matching(matching)
    share = min(max(textured_shares(regions)[1], LEAST_DRAWN), 1.0)  # drawn from all of the region, then sorted out
    drawn = replace(asked, max_per_pair=round(asked.max_per_pair / share))
    clip = replace(regions.clip, masks=regions)
    found = match_clip(clip, drawn, seed, device=device, progress=progress, cache=cache)
    return _on_texture(found, regions)


@dataclass(frozen=True)
class Seeds:
    """Masks (H, W) of some textured pixels of each frame's region, evenly spread, of which matches to all other frames
    are kept: one depth then explains what many frames see. Where each two frames have matches of their own, a camera
    that goes round what it looks at may have any focal length.

    Attributes:
        spacing: px between them.
    """

    regions: Regions
    spacing: float
    _places: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(regions: Regions, count: int = SEEDS) -> Seeds:
        """About `count` of them in a frame, by the largest of some frames' regions."""
        shown = regions.shown()
        rows = shown[np.unique(np.linspace(0, len(shown) - 1, LOOKS).astype(int))] if len(shown) else shown
        area = max((int(regions[row].sum()) for row in rows), default=0)
        return Seeds(regions, max((area / count) ** 0.5, LEAST_SPACING))

    def __len__(self) -> int:
        return len(self.regions)

    @property
    def most(self) -> int:
        """As many as a frame can have at all."""
        across, down = (int(side / self.spacing) + 1 for side in (self.regions.clip.width, self.regions.clip.height))
        return across * down

    def __getitem__(self, row: int) -> np.ndarray:
        if row not in self._places:  # every pair of frames asks
            self._places[row] = self._find(row)
        out = np.zeros((self.regions.clip.height, self.regions.clip.width), dtype=bool)
        out[self._places[row]] = True
        return out

    def _find(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns."""
        texture = self.regions.texture(row)
        y, x = np.nonzero(texture)
        cell_y, cell_x = np.floor((y + 0.5) / self.spacing), np.floor((x + 0.5) / self.spacing)
        off = ((y + 0.5) / self.spacing - cell_y - 0.5) ** 2 + ((x + 0.5) / self.spacing - cell_x - 0.5) ** 2
        order = np.lexsort((off, cell_x, cell_y))  # cell by cell, those nearest its middle first
        cells = (cell_y * (texture.shape[1] + 1) + cell_x)[order]
        chosen = order[np.unique(cells, return_index=True)[1]]
        return y[chosen], x[chosen]


def finds_seeds_again(matching: MatchingConfig) -> bool:
    """Are all the frames that `pose_matching` names matched anyway?"""
    return all(gap <= matching.window or gap in matching.strides for gap in (1, *GAPS))


def seed_matches(
    seeds: Seeds, matching: MatchingConfig, seed: int, device: torch.device | str, progress: Progress,
    cache: Path | None,
) -> Correspondences:  # fmt: skip
    """Matches from these pixels to the frames around and farther away. device: where a network for the flow runs."""
    asked = replace(pose_matching(matching), max_per_pair=seeds.most)
    clip = replace(seeds.regions.clip, masks=seeds.regions)
    return match_clip(clip, asked, seed, device=device, only=seeds, enough=CARRIED, progress=progress, cache=cache)


def from_seeds(seeds: Seeds, found: Correspondences) -> Correspondences:
    """Those of the flow's matches that begin at a seed, between frames that `pose_matching` names."""
    gap = (found.frame_a - found.frame_b).abs()
    found = found.select(torch.nonzero(torch.isin(gap, torch.tensor([1, *GAPS]))).squeeze(-1))
    good = torch.zeros(len(found), dtype=torch.bool)
    for row in range(len(seeds)):
        here = torch.nonzero(found.frame_a == row).squeeze(-1)
        column, line = found.xy_a[here].floor().long().unbind(-1)
        good[here] = torch.from_numpy(seeds[row])[line, column]
    return found.select(torch.nonzero(good).squeeze(-1))


def _on_texture(found: Correspondences, regions: Regions) -> Correspondences:
    """The matches that begin and end where the pictures tell motion."""
    good = torch.ones(len(found), dtype=torch.bool)
    for row in range(len(regions)):
        texture = torch.from_numpy(regions.texture(row))
        height, width = texture.shape
        for frame, xy in ((found.frame_a, found.xy_a), (found.frame_b, found.xy_b)):
            here = torch.nonzero(frame == row).squeeze(-1)
            column, line = xy[here].floor().long().unbind(-1)
            good[here] &= texture[line.clamp(0, height - 1), column.clamp(0, width - 1)]
    return found.select(torch.nonzero(good).squeeze(-1))


@dataclass(frozen=True)
class PairRows:
    """The matches of one unordered pair of frames, frame_a < frame_b; those of the other direction are turned round.

    Attributes:
        xy_a, xy_b: (M, 2) pixels of the pictures. weight: (M,) > 0. from_a: (M,) bool, False where it is turned round.
    """

    frame_a: int
    frame_b: int
    xy_a: Tensor
    xy_b: Tensor
    weight: Tensor
    from_a: Tensor


def by_pairs(found: Correspondences) -> list[PairRows]:
    """Matches, pair by pair."""
    turned = (found.frame_a > found.frame_b)[:, None]
    first, second = torch.minimum(found.frame_a, found.frame_b), torch.maximum(found.frame_a, found.frame_b)
    xy = torch.where(turned, found.xy_b, found.xy_a), torch.where(turned, found.xy_a, found.xy_b)
    count = int(second.max()) + 1 if len(found) else 1
    key = first * count + second
    order = torch.argsort(key, stable=True)
    names, counts = torch.unique_consecutive(key[order], return_counts=True)
    pairs = []
    for name, rows in zip(names.tolist(), torch.split(order, counts.tolist())):
        a, b = divmod(name, count)
        pairs.append(PairRows(a, b, xy[0][rows], xy[1][rows], found.weight[rows], ~turned[rows, 0]))
    return pairs
