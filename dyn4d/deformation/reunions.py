"""Parts that go out of sight and come back as strangers.

A leg that swings behind the other and comes out elsewhere has no match that joins its two appearances. The field then
holds two legs, one for the frames before and one for those after, and takes each along, hidden, where it was not seen:
from aside there is a third leg, and tracks end. Here a part that vanishes, though it faces the camera, is compared in
shape and colour with parts that appear soon after out of nowhere. Those that agree become matches of the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.core.types import FramePoints, LiftedPairs
from dyn4d.deformation.field import TrajectoryField
from dyn4d.deformation.observations import Observations
from dyn4d.deformation.registration import Coloured, Fit, register
from dyn4d.deformation.sightings import Sightings, follow

HOLD = 10
"""Frames for which a part must be gone, or must not have been there; at least 3 where the clip ends."""
KNOWN = 6
"""Frames in a row that must have seen a part."""
LONGEST = 16
"""Frames from going to coming back, at most."""
LEAST = 60
"""Followed points that make a part."""
AGREE = 0.85
"""Shares of the two parts that must meet, added up; the smaller must reach `AGREE_EACH`."""
AGREE_EACH = 0.3
TOGETHER = 2
"""Frames, at most, that may show both parts at once, each to `SHOWN`: one part is never in two places."""
SHOWN = 0.3
FEWEST = 40
"""Points that must meet."""
FARTHEST = 0.15
"""How far from where the field takes it a part may come back, relative to the object's size."""
STRETCH = 0.07
"""How much, relative to the object's size, distances to what is seen all the time may change by a reunion: between
a leg and its hip they stay, between two stripes of a belly, uncovered one after the other, they do not."""


@dataclass(frozen=True)
class Reunion:
    """The same part before and after it was hidden.

    Attributes:
        gone, back: the frames compared. xyz_gone, xyz_back: (N, 3) world, the same spots in the two frames.
        agreement: share of the smaller part's points that meet in place and colour. moved: distance from where the
            field had it, relative to the object's size.
    """

    gone: int
    back: int
    xyz_gone: Tensor
    xyz_back: Tensor
    agreement: float
    moved: float

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("Reunion.xyz_gone", self.xyz_gone, ("N", 3), sizes)
        check_shape("Reunion.xyz_back", self.xyz_back, ("N", 3), sizes)

    @torch.no_grad()
    def residual(self, field: TrajectoryField, times: Tensor) -> float:
        """Median distance, world units, between where the field takes the part and where it came back."""
        there = field.transport(self.xyz_gone.to(times.device), times[self.gone], times[self.back])
        return float((there.cpu() - self.xyz_back).norm(dim=-1).median())

    @torch.no_grad()
    def pairs(self, field: TrajectoryField, times: Tensor) -> LiftedPairs:
        """Matches, both ways, between the three frames up to `gone` and the three from `back` on."""
        device, rows = times.device, []
        for a in range(max(self.gone - 2, 0), self.gone + 1):
            xyz_a = field.transport(self.xyz_gone.to(device), times[self.gone], times[a]).cpu()
            for b in range(self.back, min(self.back + 3, len(times))):
                xyz_b = field.transport(self.xyz_back.to(device), times[self.back], times[b]).cpu()
                rows += [(a, b, xyz_a, xyz_b), (b, a, xyz_b, xyz_a)]
        rows.sort(key=lambda row: row[:2])
        count = len(self.xyz_gone)
        return LiftedPairs(
            torch.tensor([row[0] for row in rows]).repeat_interleave(count),
            torch.tensor([row[1] for row in rows]).repeat_interleave(count),
            torch.cat([row[2] for row in rows]), torch.cat([row[3] for row in rows]),
            torch.ones(count * len(rows)),
        )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """Followed points that go, or appear, together. Attributes: members (M,) of the sightings; when: frame index."""

    members: np.ndarray
    when: int


def find_reunions(
    field: TrajectoryField, points: FramePoints, seen: Observations, times: Tensor, *, seed: int
) -> list[Reunion]:
    """Compare what vanished with what appeared, by a field that is fitted roughly at least.

    Args:
        points: of all T frames, world. seen: their maps. times: (T,), on the field's device.
    """
    if len(times) < 2 * KNOWN or len(points) < LEAST:
        return []
    sightings = follow(field, points, seen, times, seed=seed)
    search = _Search(field, points, times, sightings, torch.Generator().manual_seed(seed))
    found: list[tuple[float, Reunion]] = []
    gone = parts_that(sightings, "go")
    for back in parts_that(sightings, "come"):
        options = [option for part in gone if (option := search.compare(part, back)) is not None]
        if options:
            found.append(max(options, key=lambda option: option[0]))
    return [reunion for _, reunion in sorted(found, key=lambda option: -option[0])]


def parts_that(sightings: Sightings, change: str) -> list[_Part]:
    """Parts that "go", or "come": seen for `KNOWN` frames before (after) and for `HOLD` frames not after (before),
    though they face the camera and are not in front of what is seen there."""
    count = len(sightings.frames)
    flip = slice(None) if change == "go" else slice(None, None, -1)  # to come is to go with time reversed
    present = sightings.present[:, flip]
    absent = ~sightings.before[:, flip] & (sightings.facing[:, flip] > 0.15)
    members, when = [], []
    for last in range(KNOWN - 1, count - 3):
        ahead, past = slice(last + 1, last + 1 + HOLD), slice(last + 1 - KNOWN, last + 1)
        gone = present[:, past].all(1) & ~present[:, ahead].any(1) & (absent[:, ahead].mean(1) >= 0.7)
        rows = np.nonzero(gone)[0]
        members.append(rows)
        when.append(np.full(len(rows), last if change == "go" else count - 1 - last))
    rows, frames = np.concatenate(members), np.concatenate(when)
    if len(rows) < LEAST:
        return []
    links = KDTree(sightings.canonical[rows]).query_pairs(0.03 * sightings.size, output_type="ndarray")
    links = links[np.abs(frames[links[:, 0]] - frames[links[:, 1]]) <= 2]
    graph = coo_matrix((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(len(rows), len(rows)))
    _, label = connected_components(graph, directed=False)
    groups = [label == k for k in np.nonzero(np.bincount(label) >= LEAST)[0]]
    return [_Part(rows[group], int(np.median(frames[group]))) for group in groups]


@dataclass(frozen=True)
class _Search:
    field: TrajectoryField
    points: FramePoints
    times: Tensor
    sightings: Sightings
    generator: torch.Generator

    def compare(self, gone: _Part, back: _Part) -> tuple[float, Reunion] | None:
        """How well two parts agree, and their reunion, if they may be one."""
        s = self.sightings
        if not -3 <= back.when - gone.when <= LONGEST:
            return None
        there = KDTree(s.canonical[gone.members]).query(s.canonical[back.members])[0]
        if np.median(there) < 0.03 * s.size:  # the same place in canonical space: the field knows already
            return None
        shown = [s.present[part.members].mean(0) > SHOWN for part in (gone, back)]
        if (shown[0] & shown[1]).sum() > TOGETHER:
            return None
        at_gone, at_back = self._clearest(gone, -1), self._clearest(back, 1)
        a, b = int(s.frames[at_gone]), int(s.frames[at_back])
        if b <= a:
            return None
        source, target = self._whole(gone, a, 250), self._whole(back, b, 200)
        if len(source) < 30 or len(target) < 30:
            return None
        start = self._carry(source.xyz, a, b)
        if (start.mean(0) - target.xyz.mean(0)).norm() > 2 * FARTHEST * s.size:
            return None
        fit = register(source, start, target, size=s.size)
        moved = float((fit.moved.mean(0) - start.mean(0)).norm()) / s.size
        score = fit.share_source + fit.share_target
        if score < AGREE or min(fit.share_source, fit.share_target) < AGREE_EACH or len(fit.rows) < FEWEST:
            return None
        if moved > FARTHEST:
            return None
        if self._stretch(source.xyz, fit, at_gone, at_back) > STRETCH * s.size:
            return None
        agreement = max(fit.share_source, fit.share_target)
        reunion = Reunion(a, b, source.xyz[fit.rows], fit.moved[fit.rows], agreement, moved)
        return score - 2 * moved, reunion

    def _clearest(self, part: _Part, direction: int) -> int:
        """The frame nearest to the change in which nearly as much of a part is present as in any of the nine."""
        s = self.sightings
        frames = np.arange(part.when, part.when + 9 * direction, direction)
        frames = frames[(frames >= 0) & (frames < len(s.frames))]
        share = s.present[np.ix_(part.members, frames)].mean(0)
        return int(frames[np.nonzero(share >= 0.85 * share.max())[0][0]])

    @torch.no_grad()
    def _whole(self, part: _Part, frame: int, most: int) -> Coloured:
        """What one frame shows of a part: all its points that lie around the part in canonical space, or `most`."""
        s = self.sightings
        rows = torch.nonzero(self.points.frame == frame)[:, 0]
        rows = rows[torch.randperm(len(rows), generator=self.generator)[:20_000]]
        canonical = self.field.to_canonical(self.points.xyz[rows].to(self.times.device), self.times[frame])
        tree = KDTree(s.canonical[part.members])
        distance, _ = tree.query(canonical.cpu().numpy(), distance_upper_bound=0.015 * s.size)
        rows = rows[torch.from_numpy(np.isfinite(distance))][:most]
        return Coloured(self.points.xyz[rows], self.points.rgb[rows])

    @torch.no_grad()
    def _carry(self, xyz: Tensor, a: int, b: int) -> Tensor:
        return self.field.transport(xyz.to(self.times.device), self.times[a], self.times[b]).cpu()

    def _stretch(self, source: Tensor, fit: Fit, at_gone: int, at_back: int) -> float:
        """Median change, world units, of distances between the part and its surroundings that both frames saw; 0 where
        there are none."""
        s = self.sightings
        rows = np.nonzero((s.frame == at_gone) & s.seen[:, at_back] & s.present[:, at_back])[0]
        if len(rows) < 5:
            return 0.0
        anchor = s.world[rows, at_gone]
        distance, index = (np.asarray(column) for column in KDTree(source.numpy()).query(anchor))
        close = (distance < 0.05 * s.size) & (distance > 0.005 * s.size)
        if close.sum() < 5:
            return 0.0
        after = np.linalg.norm(s.world[rows[close], at_back] - fit.moved[index[close]].numpy(), axis=1)
        return float(np.median(np.abs(after - distance[close])))
