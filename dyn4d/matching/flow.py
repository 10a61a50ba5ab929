"""Correspondences inside the object mask by optical flow, checked there and back and for what is hidden.

Each frame i is matched with the later frames j of the pair graph. The flow to a far frame starts from the flow to the
nearer one, carried on by the flows between neighbouring frames, so that long pairs keep up with large motion. Only the
flows of a few neighbours and one running pair of flows are in memory: it grows with the longest stride, not the clip.

Who finds the flow is said by `dyn4d.matching.estimators`; flow from files is taken as it is (`given_flows`).
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Clip, Correspondences, FrameReader
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.estimators import FlowEstimator, make_estimator
from dyn4d.matching.flow_checks import check_maps, match_cost
from dyn4d.matching.flow_fields import Flow, compose, filled, sample, targets
from dyn4d.matching.given_flows import GivenFlows, Route, open_given, plan_routes
from dyn4d.matching.pairs import pair_graph
from dyn4d.matching.stored import load_columns, save_columns
from dyn4d.matching.windows import ObjectWindows, plan_windows

_COLUMNS = ("frame_a", "frame_b", "xy_a", "xy_b", "weight")


class FlowEngine:
    """Flows between the prepared windows of a clip.

    Args:
        windows: of the clip. config: see `MatchingConfig`. keep: flows between neighbours that stay in memory.
        estimator: who finds the flow. given: flow that came with the clip, taken as it is where there is any.
    """

    def __init__(
        self,
        windows: ObjectWindows,
        config: MatchingConfig,
        keep: int,
        estimator: FlowEstimator | None = None,
        given: GivenFlows | None = None,
    ) -> None:
        self.windows, self.config, self.keep = windows, config, keep
        self.estimator = estimator or make_estimator(config)
        self.given = given
        self._steps: OrderedDict[tuple[int, int], Flow] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, a: int, b: int) -> bool:
        """Do files say what the flow from a to b is?"""
        return self.given is not None and self.given.has(a, b)

    def source_of(self, a: int, b: int, route: Route) -> Route:
        """The route as it is counted: flow of several files, over frames left out, is put together too."""
        assert self.given is not None
        return "chained" if route == "given" and not self.given.direct(a, b) else route

    def flow(self, a: int, b: int, init: Flow | None = None) -> Flow:
        """Estimated flow from window a to window b. With `init`, b is first drawn back along it and only the rest is
        searched: the detail of `init` (a thin limb that moves fast) survives, which a coarse level of a pyramid would
        lose."""
        ready_a, ready_b = self.windows[a], self.windows[b]
        colour = self.estimator.colour
        picture_a, picture_b = (ready.colour if colour else ready.grey for ready in (ready_a, ready_b))
        if init is None:
            return self.estimator(picture_a, picture_b)
        init = cv2.GaussianBlur(filled(init), (0, 0), 1.0)
        x, y = targets(init)
        drawn = cv2.remap(picture_b, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return compose(self.estimator(picture_a, drawn), init)

    def agreement(self, a: int, there: Flow, back: Flow) -> float:
        """The share of the object in window a that comes back to within `fb_px`."""
        inside = self.windows[a].inside
        limit = self.config.fb_px * float(self.windows.plan.scale.mean())
        error = np.linalg.norm(compose(there, back)[inside], axis=-1)
        return float((error < limit).mean()) if len(error) else 0.0

    def step(self, a: int, b: int) -> Flow:
        """Flow between neighbouring frames, kept for a while. Two threads may both compute it: same result."""
        with self._lock:
            if (a, b) in self._steps:
                return self._steps[a, b].astype(np.float32)
        if self.given is not None and self.given.has(a, b):
            value = self.given.window(a, b)
        else:
            value = self.flow(a, b).astype(np.float16)  # a start for other flows only: 16 bits halve the memory
        with self._lock:
            self._steps[a, b] = value
            while len(self._steps) > self.keep:
                self._steps.popitem(last=False)
        return value.astype(np.float32)

    def _continued(self, a: int, b: int, route: Route, chain: Flow) -> Flow:
        if route == "given":
            assert self.given is not None
            return self.given.window(a, b)
        return chain if route == "chained" else self.flow(a, b, chain)

    def from_frame(self, i: int, partners: list[int], enough: float = math.inf) -> Iterator[tuple[int, Flow, Flow]]:
        """Yields (j, flow i→j, flow j→i) for ascending partners j > i.

        Beyond the window the chain may have lost a part that was hidden on the way: where it agrees with its own way
        back over less than `enough` of the object, a flow found without it competes, and the one that agrees over more
        is taken. Flow from files, and chains of nothing but such flow, are left as they are.
        """
        there: Flow | None = None
        back: Flow | None = None
        at = i
        for j, to, fro in plan_routes(i, partners, self.has):
            while at < j:
                there = self.step(at, at + 1) if there is None else compose(there, self.step(at, at + 1))
                back = self.step(at + 1, at) if back is None else compose(self.step(at + 1, at), back)
                at += 1
            assert there is not None and back is not None
            there, back = self._continued(i, j, to, there), self._continued(j, i, fro, back)
            if j - i > self.config.window and "estimated" in (to, fro):
                agreed = self.agreement(i, there, back)
                if agreed < enough:
                    direct = (
                        self.flow(i, j) if to == "estimated" else there,
                        self.flow(j, i) if fro == "estimated" else back,
                    )
                    if self.agreement(i, *direct) > agreed:
                        there, back = direct
            yield j, there, back

    def ends(self, a: int, b: int, there: Flow, xy: np.ndarray) -> np.ndarray:
        """Where pixel centres `xy` (N, 2) of frame a are in frame b, px, by the flow between their windows, or by the
        file that it was made from. NaN where unknown."""
        if self.given is not None and self.given.has(a, b):
            return self.given.ends(a, b, xy)
        plan = self.windows.plan
        start = plan.to_window(a, xy)
        return plan.from_window(b, start + sample(there, start[:, 0], start[:, 1]))


def pair_columns(
    engine: FlowEngine, pair: tuple[int, int], flows: tuple[Flow, Flow], *, config: MatchingConfig, seed: int,
    first: np.ndarray | None = None, only: np.ndarray | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Checked and thinned matches of one ordered pair a→b as columns of `Correspondences`.

    Args:
        first: (H, W) bool pixels of a whose matches stay where others have to go. only: those that are matched at all.
    """
    (a, b), (there, back), plan = pair, flows, engine.windows.plan
    mask_a, mask_b = engine.windows[a].mask, engine.windows[b].mask
    height, width = mask_a.shape
    rows, columns = np.nonzero(mask_a if only is None else mask_a & only)
    xy_a = np.stack([columns, rows], axis=-1) + 0.5
    xy_b = engine.ends(a, b, there, xy_a)
    inside = ((xy_b >= 0) & (xy_b < [width, height])).all(-1)  # neither holds for what is unknown
    xy_a, xy_b = xy_a[inside], xy_b[inside]
    column, row = np.floor(xy_b).astype(np.int64).T
    inside = mask_b[row, column]
    xy_a, xy_b = xy_a[inside], xy_b[inside]
    start, moved = plan.to_window(a, xy_a), plan.to_window(b, xy_b)
    error = np.linalg.norm((moved + sample(back, moved[:, 0], moved[:, 1]) - start) / plan.scale, axis=-1)
    limit = config.fb_px + config.fb_relative * np.linalg.norm((moved - start) / plan.scale, axis=-1)
    maps = check_maps(engine.windows[a], engine.windows[b], there, back)
    cost = match_cost(error, limit, maps, start, config)
    keep = np.flatnonzero(cost < 1)
    if len(keep) > config.max_per_pair:
        random = np.random.default_rng([seed, a, b])
        column, row = np.floor(xy_a[keep]).astype(np.int64).T
        stays = np.zeros(len(keep), dtype=bool) if first is None else first[row, column]
        others, room = keep[~stays], max(config.max_per_pair - int(stays.sum()), 0)
        drawn = random.choice(others, min(room, len(others)), replace=False)
        keep = np.sort(np.concatenate([keep[stays], drawn]))
    return {
        "frame_a": np.full(len(keep), a, np.int64),
        "frame_b": np.full(len(keep), b, np.int64),
        "xy_a": xy_a[keep].astype(np.float32),
        "xy_b": xy_b[keep].astype(np.float32),
        "weight": np.exp(-cost[keep]).astype(np.float32),
    }


def _stack(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if parts:
        return {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS}
    none = {name: np.zeros((0, 2) if name.startswith("xy") else 0, np.float32) for name in _COLUMNS}
    return {**none, "frame_a": np.zeros(0, np.int64), "frame_b": np.zeros(0, np.int64)}


def _match_frame(
    engine: FlowEngine, i: int, later: list[int], *, config: MatchingConfig, seed: int, first: FrameReader | None,
    only: FrameReader | None, enough: float,
) -> dict[str, np.ndarray]:  # fmt: skip
    """All matches between frame i and its later partners, in both directions."""
    parts: list[dict[str, np.ndarray]] = []
    for j, there, back in engine.from_frame(i, later, enough):
        for pair, flows in (((i, j), (there, back)), ((j, i), (back, there))):
            mine, alone = (None if some is None else np.asarray(some[pair[0]]) for some in (first, only))
            parts.append(pair_columns(engine, pair, flows, config=config, seed=seed, first=mine, only=alone))
    return _stack(parts)


def _routes_note(engine: FlowEngine, partners: dict[int, list[int]]) -> str:
    """Where the flows of all ordered pairs come from, for the user."""
    routes: list[Route] = []
    for i, later in partners.items():
        for j, there, back in plan_routes(i, later, engine.has):
            routes.append(engine.source_of(i, j, there))
            routes.append(engine.source_of(j, i, back))
    count = {name: routes.count(name) for name in ("given", "chained", "estimated")}
    return (
        f"flow: of {len(routes)} ordered pairs {count['given']} from files, {count['chained']} put together from them"
        + (f"; {count['estimated']} have none and are estimated (DIS)" if count["estimated"] else "")
    )


def match_clip(
    clip: Clip,
    config: MatchingConfig,
    seed: int = 0,
    *,
    device: torch.device | str = "cpu",
    estimator: FlowEstimator | None = None,
    first: FrameReader | None = None,
    only: FrameReader | None = None,
    enough: float = math.inf,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Correspondences:
    """Matches between the frames of a clip, inside the masks, in both directions.

    Args:
        clip: T frames; where a mask is empty the frame has no matches.
        config: see `MatchingConfig`.
        seed: decides which matches are kept where a pair has more than `max_per_pair`.
        device: where a network for the flow runs. estimator: who finds the flow, in place of what `config.flow` names.
        first: (H, W) bool pixels of each frame whose matches stay where `max_per_pair` makes others go. only: those
            that are matched at all.
        enough: share of the object; to far frames the flow that is carried on from nearer ones does, where it agrees
            with its way back over so much. By default another one competes always (`FlowEngine.from_frame`).
        progress: told of each source frame.
        cache: a folder of its own for this clip, config and seed; one file a frame, so that a killed run goes on.

    Returns:
        Correspondences sorted by (frame_a, frame_b). `xy_a` are pixel centres; weights are in (1/e, 1], 1 where the way
        there and back ends where it began, both ends look the same and the object keeps its size around them.

    Raises:
        InputError: flow files, torchvision or the weights of a network are missing or unusable.
    """
    progress = progress or SilentProgress()
    plan = plan_windows(clip, config)
    pairs = [(i, j) for i, j in pair_graph(len(clip), config.window, config.strides) if plan.present[[i, j]].all()]
    partners: dict[int, list[int]] = {}
    for i, j in pairs:
        partners.setdefault(i, []).append(j)
    reach = max((j - i for i, j in pairs), default=0) + config.threads + 1
    estimator = estimator or make_estimator(config, device)
    if estimator.licence:
        progress.note(f"weights: {estimator.licence}")
    given = open_given(clip, config.flow_files, plan, keep=2 * config.threads + 2) if config.flow == "files" else None
    engine = FlowEngine(ObjectWindows(clip, plan, keep=reach + 1), config, 2 * reach, estimator, given)
    if given is not None:
        progress.note(f"flow: {given.files.folder}: {given.files.reading}")
        progress.note(_routes_note(engine, partners))
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)

    def work(i: int) -> dict[str, np.ndarray]:
        path = None if cache is None else cache / f"{i:06d}.npz"
        part = None if path is None else load_columns(path, _COLUMNS)
        if part is None:
            part = _match_frame(engine, i, partners[i], config=config, seed=seed, first=first, only=only, enough=enough)
            if path is not None:
                save_columns(path, part)
        return part

    parts: list[dict[str, np.ndarray]] = []
    progress.start("matching", len(partners))
    outer = cv2.getNumThreads()
    cv2.setNumThreads(1)  # frames run side by side instead
    try:
        with ThreadPoolExecutor(config.threads) as pool:
            for part in pool.map(work, sorted(partners)):
                parts.append(part)
                progress.update(matches=float(len(part["weight"])))
    finally:
        cv2.setNumThreads(outer)
        progress.finish()
    columns = _stack(parts)
    order = np.lexsort((columns["frame_b"], columns["frame_a"]))  # stable: pixels stay in row order
    return Correspondences(*(torch.from_numpy(columns[name][order]) for name in _COLUMNS))
