"""Flow that came with the clip: which pairs have it, which are put together from it, and its way into the windows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.types import Clip
from dyn4d.io.flow_files import FlowFolder, FlowMap, open_flow_folder
from dyn4d.matching.flow_fields import Flow, sample
from dyn4d.matching.windows import WindowPlan, given_window

Route = Literal["given", "chained", "estimated"]


class Routes(NamedTuple):
    """Where the flows between a frame and its partner j come from."""

    j: int
    there: Route
    back: Route


def plan_routes(i: int, partners: Sequence[int], has: Callable[[int, int], bool]) -> Iterator[Routes]:
    """For ascending partners j > i: a file of the pair itself, else a chain of files over the frames between (which
    goes on from the nearer partner where that one has a file), else an estimate."""
    known = [True, True]
    at = i
    for j in partners:
        routes: list[Route] = []
        for side in (0, 1):
            for k in range(at, j):
                known[side] &= has(k, k + 1) if side == 0 else has(k + 1, k)
            given = has(i, j) if side == 0 else has(j, i)
            routes.append("given" if given else "chained" if known[side] else "estimated")
            known[side] = routes[-1] != "estimated"
        at = j
        yield Routes(j, *routes)


class GivenFlows:
    """The flow files of a clip in terms of its selected frames; the latest `keep` stay in memory. Safe to share by
    threads.

    Between neighbouring frames of the selection the files of the clip's frames that were left out count too: where they
    lead from one to the other, their flows are put together.
    """

    def __init__(self, files: FlowFolder, clip: Clip, plan: WindowPlan, keep: int) -> None:
        self.files, self.plan, self.keep = files, plan, keep
        self._rows = clip.frames.tolist()
        self._size = clip.width, clip.height
        self._read: OrderedDict[tuple[int, int], FlowMap] = OrderedDict()
        self._lock = threading.Lock()
        self._paths = {
            (a, b): find_path(self._rows[a], self._rows[b], files.files)
            for i in range(len(self._rows) - 1) for a, b in ((i, i + 1), (i + 1, i))
        }  # fmt: skip

    def _path(self, a: int, b: int) -> list[int]:
        """The frames of the clip that files lead over from a to b, both included; empty where none do."""
        if abs(a - b) == 1:
            return self._paths[a, b]
        return [self._rows[a], self._rows[b]] if self.direct(a, b) else []

    def direct(self, a: int, b: int) -> bool:
        """Is there a file for this very pair?"""
        return (self._rows[a], self._rows[b]) in self.files.files

    def has(self, a: int, b: int) -> bool:
        """Is there a file for this pair, or for each step over the frames between that were left out?"""
        return bool(self._path(a, b))

    def _map(self, a: int, b: int) -> FlowMap:
        with self._lock:
            if (a, b) not in self._read:
                path = self._path(a, b)
                found = self.files.read(path[0], path[1])
                for step in pairwise(path[1:]):
                    found = self._continued(found, self.files.read(*step))
                self._read[a, b] = found
                while len(self._read) > self.keep:
                    self._read.popitem(last=False)
            return self._read[a, b]

    def _continued(self, first: FlowMap, second: FlowMap) -> FlowMap:
        """The flow of `first` followed by `second`, on the grid of `first`; unknown where either is, and where the way
        leads out of the picture."""
        rows, columns = first.valid.shape
        per = np.array([self._size[0] / columns, self._size[1] / rows])
        start = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), -1).reshape(-1, 2) * per
        over = start + first.flow.reshape(-1, 2) * per
        inside = first.valid.ravel() & ((over >= 0) & (over <= self._size)).all(-1)
        moved, known = _looked_up(second, over, self._size)
        known &= inside
        flow = np.where(known[:, None], (over + moved - start) / per, 0).astype(np.float32)
        return FlowMap(flow.reshape(rows, columns, 2), known.reshape(rows, columns))

    def window(self, a: int, b: int) -> Flow:
        """Flow from window a to window b, NaN where unknown."""
        return given_window(self.plan, a, b, *self._map(a, b), self._size)

    def ends(self, a: int, b: int, xy: np.ndarray) -> np.ndarray:
        """Where the clip's pixel centres `xy` (N, 2) of frame a are in frame b, NaN where unknown: straight from the
        file, without the windows' own grid between."""
        flow, valid = found = self._map(a, b)
        if valid.shape == (self._size[1], self._size[0]):
            column, row = np.floor(xy).astype(np.int64).T
            moved, known = flow[row, column].astype(np.float64), valid[row, column]
        else:
            moved, known = _looked_up(found, xy, self._size)
        return np.where(known[:, None], xy + moved, np.nan)


def _looked_up(found: FlowMap, xy: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """How far places `xy` (N, 2) in pixels of the clip, of `size`, move (N, 2), and whether that is known (N,) bool: as
    all of the four values around have to be."""
    per = np.array([size[0] / found.flow.shape[1], size[1] / found.flow.shape[0]])
    x, y = (xy / per - 0.5).T
    return sample(found.flow, x, y) * per, sample(found.valid.astype(np.float32), x, y) > 0.999


def find_path(a: int, b: int, files: Collection[tuple[int, int]]) -> list[int]:
    """The frames from a to b, both included, over which files (from, to) lead in the fewest steps, none of them back;
    empty where there is no such way."""
    sign = 1 if b > a else -1
    before: dict[int, int] = {a: a}
    reached = [a]
    while reached and b not in before:
        following = []
        for frame in reached:
            for other in range(b, frame, -sign):  # long steps first
                if other not in before and (frame, other) in files:
                    before[other] = frame
                    following.append(other)
        reached = following
    path = [b]
    while path[-1] != a:
        if path[-1] not in before:
            return []
        path.append(before[path[-1]])
    return path[::-1]


def find_flow_folder(clip: Clip, folder: str) -> Path:
    """Where the flow files of a clip are.

    Args:
        folder: `matching.flow_files`, from the current folder or from the clip's; empty: `flow/` in the clip's.

    Raises:
        InputError: there is no folder named and none in the clip.
    """
    root = clip.source if clip.source.is_dir() else clip.source.parent
    if folder:
        named = Path(folder).expanduser()
        return next((p for p in (named, root / named) if p.is_dir()), named)
    if not clip.source.is_dir() or not (root / "flow").is_dir():
        raise InputError(
            f"{clip.source} has no folder flow; put flow files there, name a folder with --matching.flow-files, or "
            "use --matching.flow dis"
        )
    return root / "flow"


def open_given(clip: Clip, folder: str, plan: WindowPlan, keep: int) -> GivenFlows:
    """The flow files of a clip.

    Args:
        folder: `matching.flow_files`, from the current folder or from the clip's; empty: `flow/` in the clip's.
        keep: flows that stay in memory.

    Raises:
        InputError: there are none, or they are not named after the clip's frames.
    """
    place = find_flow_folder(clip, folder)
    return GivenFlows(open_flow_folder(place, clip.timeline.names, clip.width, clip.height), clip, plan, keep)
