"""How much there is to do for a clip with given options: frames, pixels, pairs, points, Gaussians.

Counted from the sizes of the pictures and the masks and depth of a few frames, without reading the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dyn4d.config import Config
from dyn4d.core.types import Clip
from dyn4d.core.usage import busy_seconds
from dyn4d.gaussians.config import MOST_POINTS, GaussiansConfig
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.pairs import SceneGraph, pair_graph
from dyn4d.matching.windows import MARGIN as FLOW_MARGIN
from dyn4d.matching.windows import MAX_ENLARGEMENT, mask_box

SAMPLED = 8  # frames that are looked at
MATCHED = 0.8  # share of the object's pixels that flow finds again in the other frame
USUAL_PRUNED = 0.015  # share of the Gaussians that a densification drops
FILLED = 0.95  # Gaussians made for each one asked for


@dataclass(frozen=True)
class ClipSize:
    """What a few frames of a clip show.

    Attributes:
        frames: that are fitted. all_frames: of the whole clip, which are rendered and exported.
        width, height: px. inside: mean object pixels a frame. with_depth: those that have depth too, or 0.
        box_width, box_height: px, median box of the object. widest, highest: px, the largest box.
        read: seconds to read picture, mask and depth of a frame. present: share of the frames that show the object.
    """

    frames: int
    all_frames: int
    width: int
    height: int
    inside: float
    with_depth: float
    box_width: float
    box_height: float
    widest: float
    highest: float
    read: float
    present: float = 1.0


def look_at_clip(clip: Clip, *, most: int = SAMPLED) -> ClipSize:
    """Read some frames, evenly over the clip. Raises `InputError` where one of them cannot be read."""
    rows = np.unique(np.linspace(0, len(clip) - 1, min(most, len(clip))).round().astype(int)).tolist()
    inside, deep, boxes, seconds = [], [], [], []
    for row in rows:
        start, busy = time.perf_counter(), busy_seconds()
        np.asarray(clip.images[row])
        mask = np.asarray(clip.masks[row], dtype=bool)
        depth = None if clip.depth is None else np.asarray(clip.depth[row])
        seconds.append(min(time.perf_counter() - start, max(busy_seconds() - busy, 1e-4)))
        box = mask_box(mask)
        if box is None:
            continue
        inside.append(int(np.count_nonzero(mask)))
        deep.append(0 if depth is None else int(np.count_nonzero(depth[mask] > 0)))
        boxes.append((box[2] - box[0], box[3] - box[1]))
    sides = np.array(boxes or [(0, 0)], dtype=float)
    return ClipSize(
        frames=len(clip), all_frames=len(clip.timeline), width=clip.width, height=clip.height,
        inside=float(np.mean(inside)) if inside else 0.0, with_depth=float(np.mean(deep)) if deep else 0.0,
        box_width=float(np.median(sides[:, 0])), box_height=float(np.median(sides[:, 1])),
        widest=float(sides[:, 0].max()), highest=float(sides[:, 1].max()),
        read=float(np.median(seconds)), present=len(inside) / len(rows),
    )  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """What a run has to do.

    Attributes:
        clip: what was counted. frames: that show the object. pairs: of frames that flow matches, each in both
            directions. flow_pixels: of one window. matches: in both directions. points: of the object, in all frames.
        flows: between windows. flows_solved: between whole pictures, to solve poses.
        network_pairs: ordered pairs that a pair network looks at, or 0; network_seconds: what they take.
        network_bytes: memory of the network.
        gaussians: mean number over the training. gaussians_end: at its end.
        window: px, what is drawn in each training step. pictures: rendered. paint: of those, drawn over the input.
        canvas: px of a picture drawn over the input.
    """

    clip: ClipSize
    frames: float
    pairs: int
    flow_pixels: float
    matches: float
    points: float
    flows: float
    flows_solved: float
    network_pairs: int
    gaussians: float
    gaussians_end: float
    window: float
    pictures: int
    paint: int
    canvas: float
    network_seconds: float = 0.0
    network_bytes: float = 0.0


def flow_window(size: ClipSize, config: MatchingConfig) -> float:
    """Pixels of the window that the flow sees; as `dyn4d.matching.windows.plan_windows` has it."""
    width, height = size.widest + 2 * FLOW_MARGIN, size.highest + 2 * FLOW_MARGIN
    longest = max(size.box_width, size.box_height, 1.0)
    scale = min(max(config.min_size / longest, 1.0), MAX_ENLARGEMENT)
    scale = min(scale, max(config.max_size / max(width, height), config.min_size / longest))
    return max(width * scale, 16) * max(height * scale, 16)


def growth(config: GaussiansConfig, initial: float) -> tuple[float, float]:
    """Mean and last number of Gaussians of a training that begins with `initial`."""
    count, last, total = initial, 0, 0.0
    for step in range(1, config.steps + 1):
        share = step / config.steps
        if step % config.densify_every == 0 and config.densify_from <= share <= config.densify_until:
            total += count * (step - last)
            last = step
            kept = count * (1 - USUAL_PRUNED)
            count = kept + min(config.densify_share * kept, max(config.maximum - kept, 0))
    total += count * (config.steps - last)
    return (total / config.steps if config.steps else count), count


def _pairs(frames: int, config: MatchingConfig, present: float) -> int:
    return round(len(pair_graph(frames, config.window, config.strides)) * present**2)


def _flows(frames: int, config: MatchingConfig, present: float) -> float:
    """Flows that are searched: both ways of each pair, twice where frames are far apart, and between neighbours."""
    pairs = pair_graph(frames, config.window, config.strides)
    far = sum(j - i > config.window for i, j in pairs)
    return (2 * len(pairs) + 2 * far + 2 * max(frames - 1, 0)) * present**2


def _solves(config: Config, source: str, poses_given: bool) -> bool:
    """Are poses solved from depth?"""
    geometry = config.geometry
    return source == "rgbd" and (not poses_given or geometry.poses != "given" or geometry.anchor == "object")


def _pictures(config: Config, frames: int) -> tuple[int, int]:
    names: Sequence[str] = list(dict.fromkeys(config.render.which))
    painted = sum(name in ("tracks", "compare") for name in names)
    bullet = 72 if "bullet" in names else 0
    drawn = sum(name not in ("tracks", "bullet") for name in names) * frames + bullet
    return drawn * (2 if config.render.alpha else 1), painted * frames


def count_work(size: ClipSize, config: Config, source: str, *, poses_given: bool = True) -> Workload:
    """What `config` makes of a clip of this size, whose geometry comes from `source`."""
    margin = 2 * config.gaussians.margin
    points = size.frames * size.present * (size.with_depth if source == "rgbd" else size.inside)
    pairs = _pairs(size.frames, config.matching, size.present)
    initial = min(config.gaussians.begin * FILLED, max(points, 1.0), MOST_POINTS)
    mean, end = growth(config.gaussians, initial)
    drawn, painted = _pictures(config, size.all_frames)
    network = 0
    if source == "mast3r":
        network = SceneGraph.parse(config.geometry.pairs.graph).count_pairs(size.frames)
    window = min(size.box_width + margin, size.width) * min(size.box_height + margin, size.height)
    enlarged = max(1.0, 512 / max(size.width, size.height))
    return Workload(
        clip=size,
        frames=size.frames * size.present,
        pairs=pairs,
        flow_pixels=flow_window(size, config.matching),
        matches=2 * pairs * min(config.matching.max_per_pair, MATCHED * size.inside),
        points=points,
        flows=_flows(size.frames, config.matching, size.present) if "flow" in config.matching.matcher else 0.0,
        flows_solved=2.0 * pairs if _solves(config, source, poses_given) else 0.0,
        network_pairs=network,
        gaussians=mean,
        gaussians_end=end,
        window=window,
        pictures=drawn,
        paint=painted,
        canvas=size.width * size.height * math.pow(enlarged, 2),
    )
