"""Correspondences inside the object mask by optical flow (OpenCV's DIS), checked there and back.

Each frame i is matched with the later frames j of the pair graph. The flow to a far frame starts from the flow to the
nearer one, carried on by the flows between neighbouring frames, so that long pairs keep up with large motion. Only the
flows of a few neighbours and one running pair of flows are in memory: it grows with the longest stride, not the clip.

Source of the flow: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016, as in OpenCV.
"""

from __future__ import annotations

import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Clip, Correspondences
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.pairs import pair_graph
from dyn4d.matching.windows import ObjectWindows, plan_windows

_COLUMNS = ("frame_a", "frame_b", "xy_a", "xy_b", "weight")
_ROW = 1024
Flow = np.ndarray  # (flow_height, flow_width, 2) float32, pixels of the flow's windows


def make_dis(config: MatchingConfig) -> cv2.DISOpticalFlow:
    """A flow object of its own for each thread: OpenCV's keeps buffers inside."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(config.finest_scale)
    dis.setPatchSize(config.patch_size)
    dis.setPatchStride(max(config.patch_size // 2 - 1, 1))
    dis.setVariationalRefinementIterations(config.refinement)
    return dis


def sample(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear values of `image` (H, W[, C]) at array positions (0 = centre of the first pixel), clamped.

    `x`, `y`: (h, w) or (N,) of any length; the result has their shape[, C].
    """
    if x.ndim == 1:  # OpenCV takes no side of 32767 or more
        count, rows = len(x), max(-(-len(x) // _ROW), 1)
        x, y = (np.pad(values, (0, rows * _ROW - count)).reshape(rows, _ROW) for values in (x, y))
        return sample(image, x, y).reshape(rows * _ROW, *image.shape[2:])[:count]
    return cv2.remap(
        image, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def targets(flow: Flow) -> tuple[np.ndarray, np.ndarray]:
    """Array columns and rows (H, W) where each pixel of a window goes."""
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32)[None] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    return x, y


def compose(first: Flow, second: Flow) -> Flow:
    """The flow a→c of a→b (`first`) followed by b→c (`second`), all in windows of one size."""
    return first + sample(second, *targets(first))


class FlowEngine:
    """Flows between the prepared windows of a clip."""

    def __init__(self, windows: ObjectWindows, config: MatchingConfig, keep: int) -> None:
        self.windows, self.config, self.keep = windows, config, keep
        self._local = threading.local()
        self._steps: OrderedDict[tuple[int, int], Flow] = OrderedDict()
        self._lock = threading.Lock()

    def flow(self, a: int, b: int, init: Flow | None = None) -> Flow:
        """Flow from window a to window b. With `init`, b is first drawn back along it and only the rest is searched:
        the detail of `init` (a thin limb that moves fast) survives, which a coarse level of a pyramid would lose."""
        if not hasattr(self._local, "dis"):
            self._local.dis = make_dis(self.config)
        picture_a, picture_b = self.windows[a].grey, self.windows[b].grey
        nothing = np.zeros((*picture_a.shape, 2), np.float32)
        if init is None:
            return self._local.dis.calc(picture_a, picture_b, nothing)
        init = cv2.GaussianBlur(init, (0, 0), 1.0)
        x, y = targets(init)
        drawn = cv2.remap(picture_b, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return compose(self._local.dis.calc(picture_a, drawn, nothing), init)

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
        value = self.flow(a, b)
        with self._lock:
            self._steps[a, b] = value.astype(np.float16)  # a start for other flows only: 16 bits halve the memory
            while len(self._steps) > self.keep:
                self._steps.popitem(last=False)
            return self._steps[a, b].astype(np.float32)

    def from_frame(self, i: int, partners: list[int]) -> Iterator[tuple[int, Flow, Flow]]:
        """Yields (j, flow i→j, flow j→i) for ascending partners j > i.

        Beyond the window the chain may have lost a part that was hidden on the way: a flow found without it competes,
        and the one that agrees with its own way back over more of the object is taken.
        """
        there: Flow | None = None
        back: Flow | None = None
        at = i
        for j in partners:
            while at < j:
                there = self.step(at, at + 1) if there is None else compose(there, self.step(at, at + 1))
                back = self.step(at + 1, at) if back is None else compose(self.step(at + 1, at), back)
                at += 1
            there, back = self.flow(i, j, there), self.flow(j, i, back)
            if j - i > self.config.window:
                direct = self.flow(i, j), self.flow(j, i)
                if self.agreement(i, *direct) > self.agreement(i, there, back):
                    there, back = direct
            yield j, there, back

    def difference(self, a: int, b: int, there: Flow) -> np.ndarray:
        """(flow_height, flow_width) float32: how much the grey values around each pixel of a differ from those around
        its match in b."""
        x, y = targets(there)
        other = cv2.remap(self.windows[b].grey, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return cv2.GaussianBlur(cv2.absdiff(self.windows[a].grey, other).astype(np.float32), (0, 0), 2.0)


def pair_columns(
    engine: FlowEngine, pair: tuple[int, int], flows: tuple[Flow, Flow], *, config: MatchingConfig, seed: int
) -> dict[str, np.ndarray]:
    """Checked and thinned matches of one ordered pair a→b as columns of `Correspondences`."""
    (a, b), (there, back), plan = pair, flows, engine.windows.plan
    mask_a, mask_b = engine.windows[a].mask, engine.windows[b].mask
    height, width = mask_a.shape
    rows, columns = np.nonzero(mask_a)
    xy_a = np.stack([columns, rows], axis=-1) + 0.5
    origin_a, origin_b, scale = plan.origin(a), plan.origin(b), plan.scale
    start = (xy_a - origin_a) * scale - 0.5
    moved = start + sample(there, start[:, 0], start[:, 1])
    returned = moved + sample(back, moved[:, 0], moved[:, 1])
    error = np.linalg.norm((returned - start) / scale, axis=-1)
    motion = np.linalg.norm((moved - start) / scale, axis=-1)
    limit = config.fb_px + config.fb_relative * motion
    xy_b = (moved + 0.5) / scale + origin_b
    cell = np.floor(xy_b).astype(np.int64)
    inside = (cell[:, 0] >= 0) & (cell[:, 0] < width) & (cell[:, 1] >= 0) & (cell[:, 1] < height)
    cell = np.clip(cell, 0, [width - 1, height - 1])
    difference = sample(engine.difference(a, b, there), start[:, 0], start[:, 1])
    inside &= difference < config.max_difference
    keep = np.flatnonzero(inside & mask_b[cell[:, 1], cell[:, 0]] & (error < limit))
    if len(keep) > config.max_per_pair:
        random = np.random.default_rng([seed, a, b])
        keep = np.sort(random.choice(keep, config.max_per_pair, replace=False))
    unlike = difference[keep] / config.max_difference
    weight = np.exp(-np.square(error[keep] / limit[keep]) - np.square(unlike))
    return {
        "frame_a": np.full(len(keep), a, np.int64),
        "frame_b": np.full(len(keep), b, np.int64),
        "xy_a": xy_a[keep].astype(np.float32),
        "xy_b": xy_b[keep].astype(np.float32),
        "weight": weight.astype(np.float32),
    }


def _stack(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if parts:
        return {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS}
    none = {name: np.zeros((0, 2) if name.startswith("xy") else 0, np.float32) for name in _COLUMNS}
    return {**none, "frame_a": np.zeros(0, np.int64), "frame_b": np.zeros(0, np.int64)}


def _match_frame(
    engine: FlowEngine, i: int, later: list[int], *, config: MatchingConfig, seed: int
) -> dict[str, np.ndarray]:
    """All matches between frame i and its later partners, in both directions."""
    parts: list[dict[str, np.ndarray]] = []
    for j, there, back in engine.from_frame(i, later):
        parts.append(pair_columns(engine, (i, j), (there, back), config=config, seed=seed))
        parts.append(pair_columns(engine, (j, i), (back, there), config=config, seed=seed))
    return _stack(parts)


def _load_part(path: Path) -> dict[str, np.ndarray] | None:
    """A part that an earlier run left, or None where it is missing or damaged (then it is made again)."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in _COLUMNS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save_part(path: Path, part: dict[str, np.ndarray]) -> None:
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez(temporary, **part)  # type: ignore[arg-type]
    temporary.replace(path)


def match_clip(
    clip: Clip,
    config: MatchingConfig,
    seed: int = 0,
    *,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Correspondences:
    """Matches between the frames of a clip, inside the masks, in both directions.

    Args:
        clip: T frames; where a mask is empty the frame has no matches.
        config: see `MatchingConfig`.
        seed: decides which matches are kept where a pair has more than `max_per_pair`.
        progress: told of each source frame.
        cache: a folder of its own for this clip, config and seed; one file a frame, so that a killed run goes on.

    Returns:
        Correspondences sorted by (frame_a, frame_b). `xy_a` are pixel centres; weights are in (0, 1], 1 where the way
        there and back ends where it began and both ends look the same.
    """
    progress = progress or SilentProgress()
    plan = plan_windows(clip, config)
    pairs = [(i, j) for i, j in pair_graph(len(clip), config.window, config.strides) if plan.present[[i, j]].all()]
    partners: dict[int, list[int]] = {}
    for i, j in pairs:
        partners.setdefault(i, []).append(j)
    reach = max((j - i for i, j in pairs), default=0) + config.threads + 1
    engine = FlowEngine(ObjectWindows(clip, plan, keep=reach + 1), config, keep=2 * reach)
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)

    def work(i: int) -> dict[str, np.ndarray]:
        path = None if cache is None else cache / f"{i:06d}.npz"
        part = None if path is None else _load_part(path)
        if part is None:
            part = _match_frame(engine, i, partners[i], config=config, seed=seed)
            if path is not None:
                _save_part(path, part)
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
