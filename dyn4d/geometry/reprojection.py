"""Where matches are seen, against where they should be: residuals, and the sums that a Gauss-Newton step takes.

Every match says twice where the partner's pixel should see it. All of a clip's matches stand in one table, pair after
pair, and are gone through in chunks, so that few operations do much and memory stays bounded.

Within one direction (i's pixels looked for in j) the two cameras are the same for all matches. The derivatives by their
20 unknowns are then combinations, the same for all, of few columns that differ from match to match: by the point in j's
camera, by a turn of it in i's, by the logarithms of its depth and of both focal lengths. Products are summed over these
columns, and only the sums are brought to the unknowns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyn4d.geometry.bundle_state import (
    CENTRE,
    FOCAL,
    NEAREST,
    POINT,
    ROTATION,
    SCALE,
    UNKNOWNS,
    BundleState,
    cross_matrix,
)
from dyn4d.geometry.sparse_problem import PairMatches, SparseProblem

CHUNK = 16384  # matches that are worked on together
# Columns that differ from match to match: by the point in j's camera, by a turn in i's camera, by the logarithms of the
# depth and of both focals, by both principal points (only if these are looked for); the last column is the residual.
_BY_POINT, _BY_TURN, BY_DEPTH, _BY_FOCAL_I, _BY_FOCAL_J = slice(0, 3), slice(3, 6), 6, 7, 8
_BY_CENTRE_I, _BY_CENTRE_J = slice(9, 11), slice(11, 13)


@dataclass(frozen=True)
class Direction:
    """The M matches of a pair as seen from i: i's pixel has a depth and is looked for in j.

    Attributes:
        i, j: rows of frames. uv_i, uv_j: (M, 2) px. anchor: (M,) row of i's anchors, of canonical depth `base` (M,).
        ratio: (M,) the pixel's depth over its anchor's. weight: (M,).
    """

    i: int
    j: int
    uv_i: Tensor
    anchor: Tensor
    ratio: Tensor
    base: Tensor
    uv_j: Tensor
    weight: Tensor


def make_directions(problem: SparseProblem, pairs: Sequence[PairMatches], most: int) -> list[Direction]:
    """Both directions of each pair. The mean weight over all matches is 1/2: the two directions of a match are one
    observation, and only relative confidences count. Matches that go one way only have the whole weight there.

    Args:
        most: matches of a pair; more are thinned out evenly.
    """
    chosen = [_thinned(pair, most) for pair in pairs]
    mean = torch.cat([pair.weight for pair in chosen]).mean() if chosen else torch.ones(())
    out = []
    for pair in chosen:
        for i, j, here, there, one_way in (
            (pair.frame_a, pair.frame_b, pair.a, pair.b, pair.from_a),
            (pair.frame_b, pair.frame_a, pair.b, pair.a, None if pair.from_a is None else ~pair.from_a),
        ):
            weight = pair.weight / mean / 2
            if one_way is not None:
                here, there, weight = here.select(one_way), there.select(one_way), 2 * weight[one_way]
            base = problem.views[i].anchor_depth[here.anchor]
            out.append(Direction(i, j, here.xy, here.anchor, here.ratio, base, there.xy, weight))
    return out


def _thinned(pair: PairMatches, most: int) -> PairMatches:
    if len(pair) <= most:
        return pair
    return pair.select(torch.arange(most, device=pair.weight.device) * len(pair) // most)


@dataclass(frozen=True)
class Sums:
    """What a step is made of: `Reprojection.sums`.

    Attributes:
        products: (D, K, K) weighted products of the K columns of each direction. unknowns: (D, K - 1, 20) what turns
            columns into derivatives by i's and j's unknowns. by_anchor: for each frame (D of this i, A, K) weighted
            products of each column with that by the depth, anchor by anchor.
    """

    products: Tensor
    unknowns: Tensor
    by_anchor: dict[int, Tensor]


class Reprojection:
    """All directions of a clip, stacked.

    Args:
        directions: D of them. anchors: number of anchors of each of the T frames.
        principal_points: are these looked for?
        device: where to work.
    """

    def __init__(
        self, directions: Sequence[Direction], anchors: Sequence[int], *, principal_points: bool, device: torch.device
    ) -> None:
        sizes = [len(d.weight) for d in directions]
        self.columns = 14 if principal_points else 10
        self.i = torch.tensor([d.i for d in directions], dtype=torch.int64, device=device)
        self.j = torch.tensor([d.j for d in directions], dtype=torch.int64, device=device)
        self.ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        self.of_frame: dict[int, list[int]] = {}
        self._anchors = list(anchors)
        self._device = device
        first_anchor = torch.tensor([0, *anchors]).cumsum(0).tolist()
        slots, count = [], 0  # one for each anchor in each direction
        for number, d in enumerate(directions):
            self.of_frame.setdefault(d.i, []).append(number)
        first_slot = {}
        for frame, numbers in self.of_frame.items():
            for number in numbers:
                first_slot[number] = count
                count += anchors[frame]
        for number, d in enumerate(directions):
            slots.append(d.anchor + first_slot[number])
        self._slots, self._slot_count, self._first_slot = _cat(slots, device, torch.int64), count, first_slot
        self._anchor = _cat([d.anchor + first_anchor[d.i] for d in directions], device, torch.int64)
        self._direction = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes).long()).to(device)
        self._base = _cat([d.base * d.ratio for d in directions], device)
        self._uv_i = _cat([d.uv_i.mT for d in directions], device, rows=2)
        self._uv_j = _cat([d.uv_j.mT for d in directions], device, rows=2)
        self.weight = _cat([d.weight for d in directions], device)
        medians = [d.base.median() if len(d.base) else d.base.new_ones(()) for d in directions]
        self._near = NEAREST * (torch.stack(medians).double().to(device) if medians else self.weight[:0])

    def __len__(self) -> int:
        return len(self.weight)

    def errors(self, state: BundleState) -> Tensor:
        """(M,) px between where each match is and where it should be seen, direction after direction."""
        cameras = self._cameras(state)
        factor = torch.cat([torch.exp(each) for each in state.log_depth])
        out = [self._seen(cameras, factor, first, last).residual for first, last in self._chunks()]
        return torch.cat([torch.hypot(x, y) for x, y in out]) if out else self.weight

    def unknowns(self, state: BundleState) -> Tensor:
        """(D, K - 1, 20) how the columns make derivatives by the unknowns of i, then of j."""
        pose_i, pose_j = state.world_from_cam[self.i], state.world_from_cam[self.j]
        back = pose_j[:, :3, :3].mT
        turn, shift = _relative(pose_i, pose_j)
        out = back.new_zeros(len(self.i), self.columns - 1, 2 * UNKNOWNS)
        by_i, by_j = out[:, :, :UNKNOWNS], out[:, :, UNKNOWNS:]
        by_i[:, _BY_TURN, ROTATION] = torch.eye(3, dtype=out.dtype, device=out.device)
        by_i[:, _BY_POINT, CENTRE] = back
        by_i[:, BY_DEPTH, SCALE] = 1
        by_i[:, _BY_FOCAL_I, FOCAL] = 1
        by_j[:, _BY_TURN, ROTATION] = -turn.mT
        by_j[:, _BY_POINT, ROTATION] = cross_matrix(shift)
        by_j[:, _BY_POINT, CENTRE] = -back
        by_j[:, _BY_FOCAL_J, FOCAL] = 1
        if self.columns > 10:
            by_i[:, _BY_CENTRE_I, POINT] = by_j[:, _BY_CENTRE_J, POINT] = torch.eye(
                2, dtype=out.dtype, device=out.device
            )
        return out

    def sums(self, state: BundleState, robust: Tensor, *, anchors: bool) -> Sums:
        """All products of a step.

        Args:
            robust: (M,) factor of each match's weight. anchors: are their depths looked for?
        """
        cameras = self._cameras(state)
        factor = torch.cat([torch.exp(each) for each in state.log_depth])
        weight = self.weight * robust
        products = weight.new_zeros(len(self.i), self.columns, self.columns)
        by_slot = weight.new_zeros(self._slot_count if anchors else 0, self.columns)
        for first, last in self._chunks():
            start, stop = self.ends[first], self.ends[last]
            columns = self._columns(cameras, factor, first, last)
            weighted = columns * weight[start:stop]
            for number in range(first, last):
                here = slice(self.ends[number] - start, self.ends[number + 1] - start)
                torch.sum(weighted[:, :, here] @ columns[:, :, here].mT, 0, out=products[number])
            if anchors:
                both = (weighted * columns[:, BY_DEPTH, None]).sum(0)
                by_slot.index_add_(0, self._slots[start:stop], both.T.contiguous())
        by_anchor = {}
        if anchors:
            for frame, numbers in self.of_frame.items():
                begin, count = self._first_slot[numbers[0]], self._anchors[frame]
                found = by_slot[begin : begin + len(numbers) * count]
                by_anchor[frame] = found.reshape(len(numbers), count, self.columns)
        return Sums(products, self.unknowns(state), by_anchor)

    # ------------------------------------------------------------------------------------------- one chunk

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """(first, last) directions with some CHUNK matches together."""
        first = 0
        for last in range(1, len(self.ends)):
            if last == len(self.ends) - 1 or self.ends[last + 1] - self.ends[first] > CHUNK:
                yield first, last
                first = last

    def _cameras(self, state: BundleState) -> Tensor:
        """(C, D) numbers of each direction: i's 1 / focal, principal point, world depth over canonical one; j's focal,
        principal point, least depth; turn (row by row) and shift from i's to j's camera."""
        focals = state.focal[:, None] * state.aspect
        turn, shift = _relative(state.world_from_cam[self.i], state.world_from_cam[self.j])
        scale = state.scale[self.i]
        rows = [
            1 / focals[self.i].T, state.principal_point[self.i].T,
            (scale * (state.focal / state.network_focal)[self.i])[None], focals[self.j].T,
            state.principal_point[self.j].T, (self._near * scale)[None], turn.flatten(1).T, shift.T,
        ]  # fmt: skip
        return torch.cat(rows)

    def _seen(self, cameras: Tensor, factor: Tensor, first: int, last: int) -> _Seen:
        rows = slice(self.ends[first], self.ends[last])
        c = cameras[:, self._direction[rows]].unbind(0)
        depth = c[4] * self._base[rows] * factor[self._anchor[rows]]
        here = (self._uv_i[0, rows] - c[2]) * c[0] * depth, (self._uv_i[1, rows] - c[3]) * c[1] * depth, depth
        x, y, z = (c[k] * here[0] + c[k + 1] * here[1] + c[k + 2] * here[2] + s for k, s in zip((10, 13, 16), c[19:22]))
        before = torch.maximum(z, c[9])
        inverse = 1 / before
        at = c[5] * x * inverse, c[6] * y * inverse
        residual = tuple(at[axis] + c[7 + axis] - self._uv_j[axis, rows] for axis in (0, 1))
        return _Seen(c, here, z >= before, inverse, at, residual)

    def _columns(self, cameras: Tensor, factor: Tensor, first: int, last: int) -> Tensor:
        """(2, K, M) columns of the directions from `first` up to `last`, for both axes."""
        seen = self._seen(cameras, factor, first, last)
        c, (hx, hy, hz) = seen.cameras, seen.here
        out = hx.new_zeros(2, self.columns, len(hx))
        for axis in (0, 1):
            row = out[axis]
            sideways, forwards = c[5 + axis] * seen.inverse, -seen.at[axis] * seen.inverse * seen.in_front
            row[axis], row[2] = sideways, forwards
            tx, ty, tz = (sideways * c[10 + 3 * axis + k] + forwards * c[16 + k] for k in range(3))
            row[3], row[4], row[5] = hy * tz - hz * ty, hz * tx - hx * tz, hx * ty - hy * tx
            across = tx * hx + ty * hy
            along = across + tz * hz
            row[BY_DEPTH] = along
            row[_BY_FOCAL_I] = along - across
            row[_BY_FOCAL_J] = seen.at[axis]
            if self.columns > 10:
                row[9], row[10], row[11 + axis] = -tx * hz * c[0], -ty * hz * c[1], 1
            row[-1] = seen.residual[axis]
        return out


@dataclass(frozen=True)
class _Seen:
    """Matches of a chunk, each quantity (M,): the numbers of their cameras, points in i's camera, whether j has them
    before it, 1 / depth in j, pixels from j's principal point, residuals."""

    cameras: Sequence[Tensor]
    here: tuple[Tensor, ...]
    in_front: Tensor
    inverse: Tensor
    at: tuple[Tensor, ...]
    residual: tuple[Tensor, ...]


def _relative(pose_i: Tensor, pose_j: Tensor) -> tuple[Tensor, Tensor]:
    """Turns (D, 3, 3) and shifts (D, 3) from i's to j's camera."""
    back = pose_j[:, :3, :3].mT
    return back @ pose_i[:, :3, :3], (back @ (pose_i[:, :3, 3] - pose_j[:, :3, 3])[..., None])[..., 0]


def _cat(parts: Sequence[Tensor], device: torch.device, dtype: torch.dtype = torch.float64, rows: int = 0) -> Tensor:
    """Along the last dimension; without any part, nothing of `rows` rows."""
    empty = torch.zeros((rows, 0) if rows else (0,), dtype=dtype)
    return torch.cat([empty, *(part.to(dtype) for part in parts)], -1).to(device).contiguous()
