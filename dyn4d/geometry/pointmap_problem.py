"""What the alignment of pointmaps works on: for each pass of a pair the points of two frames, at pixels that count.

An *edge* is one pass: frame i's and frame j's points in i's camera, up to a scale of its own. A pair has two edges,
(a, b) and (b, a).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dyn4d.geometry.kinematic import connected_components
from dyn4d.geometry.pair_results import PairFrame, PairResult, PairResults
from dyn4d.geometry.pointmap_config import PointmapConfig

MIN_PIXELS = 8  # an edge with fewer in either frame says too little: a similarity needs 4, and some to spare


@dataclass(frozen=True)
class PointmapProblem:
    """Points of E edges over T frames; at most P pixels of a frame, the same ones in all its edges.

    Attributes:
        rows: for each frame (n,) int64 rows of `PairFrame.pixels` that take part, ascending; n <= P.
        xy: (T, P, 2) float32 pixel centres in the view; the first n count.
        ids: (E,) int64: 2 · the pair's number, + 1 for its second pass.
        edges: (E, 2) int64: the frame whose camera the points are in, and the other.
        points: (E, 2, 3, P) float32 points of both frames in the first's camera; 0 where they do not count.
        conf: (E, 2, P) float32 confidence; 0 where they do not count.
    """

    rows: tuple[Tensor, ...]
    xy: Tensor
    ids: Tensor
    edges: Tensor
    points: Tensor
    conf: Tensor

    @property
    def frame_count(self) -> int:
        return len(self.rows)

    def select(self, kept: Tensor) -> PointmapProblem:
        """The edges that a boolean mask (E,) names; without a copy where that is all."""
        if bool(kept.all()):
            return self
        at = kept.to(self.points.device)
        return replace(self, ids=self.ids[kept], edges=self.edges[kept], points=self.points[at], conf=self.conf[at])

    def scores(self) -> np.ndarray:
        """(E,) product of the mean confidences of both frames: how far an edge is trusted."""
        counted = self.conf.gt(0).sum(-1).clamp_min(1)
        return (self.conf.sum(-1) / counted).prod(-1).double().cpu().numpy()


def passes(result: PairResult) -> tuple[tuple[tuple[int, int], tuple[Tensor, Tensor], tuple[Tensor, Tensor]], ...]:
    """Both edges of a pair: (first, other), the points of both in the first's camera, and their confidences."""
    a, b = result.frame_a, result.frame_b
    return (
        ((a, b), (result.a_in_a, result.b_in_a), (result.conf_a_in_a, result.conf_b_in_a)),
        ((b, a), (result.b_in_b, result.a_in_b), (result.conf_b_in_b, result.conf_a_in_b)),
    )


def sanitise(points: Tensor, conf: Tensor) -> tuple[Tensor, Tensor]:
    """Points (P, 3) and confidences (P,) with 0 in both where one of them is not a number or the confidence is <= 0."""
    good = torch.isfinite(points).all(-1) & torch.isfinite(conf) & (conf > 0)
    return torch.where(good[:, None], points, 0.0), torch.where(good, conf, 0.0)


def pixel_weight(conf: Tensor, mode: str) -> Tensor:
    """What a confidence C weighs: log C, √C, C - 1 or C; never below 0, and 0 where C is 0."""
    if mode == "log":
        return conf.clamp_min(1).log()
    if mode == "sqrt":
        return conf.sqrt()
    if mode == "m1":
        return (conf - 1).clamp_min(0)
    return conf


def build_problem(
    frames: Sequence[PairFrame], results: PairResults, config: PointmapConfig, device: torch.device
) -> PointmapProblem:
    """All edges of a clip; each result is read once.

    Raises:
        ValueError: a result does not fit the frames.
    """
    rows = tuple(_draw(int(np.count_nonzero(f.kept)), config, number) for number, f in enumerate(frames))
    widest = max((len(r) for r in rows), default=0)
    xy = torch.full((len(frames), widest, 2), 0.5)
    for number, (frame, chosen) in enumerate(zip(frames, rows)):
        pixels = frame.pixels[chosen]
        xy[number, : len(chosen)] = torch.stack([pixels % frame.width, pixels // frame.width], -1) + 0.5
    count = 2 * len(results)
    edges = torch.zeros(count, 2, dtype=torch.int64)
    points = torch.zeros(count, 2, 3, widest, device=device)
    conf = torch.zeros(count, 2, widest, device=device)
    for index in range(len(results)):
        for side, (ends, seen, sure) in enumerate(passes(results[index])):
            edge = 2 * index + side
            edges[edge] = torch.tensor(ends)
            for view, frame in enumerate(ends):
                _check(frame, seen[view], frames)
                chosen = rows[frame].to(seen[view].device)
                clean, weight = sanitise(seen[view][chosen].float(), sure[view][chosen].float())
                points[edge, view, :, : len(chosen)] = clean.T.to(device)
                conf[edge, view, : len(chosen)] = weight.to(device)
    return PointmapProblem(rows, xy.to(device), torch.arange(count), edges, points, conf)


def _draw(count: int, config: PointmapConfig, frame: int) -> Tensor:
    if count <= config.max_points:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + frame)
    return torch.randperm(count, generator=generator)[: config.max_points].sort().values


def _check(frame: int, points: Tensor, frames: Sequence[PairFrame]) -> None:
    if not 0 <= frame < len(frames):
        raise ValueError(f"results: a pair names frame {frame}, there are {len(frames)} frames")
    wanted = int(np.count_nonzero(frames[frame].kept))
    if len(points) != wanted:
        raise ValueError(f"results: a pair has {len(points)} points of frame {frame}, which keeps {wanted} pixels")


def usable_edges(problem: PointmapProblem, config: PointmapConfig) -> Tensor:
    """(E,) bool on the CPU: edges with enough pixels of some weight in both frames."""
    counted = torch.stack([(pixel_weight(c, config.confidence) > 0).sum(-1) for c in problem.conf]) if len(
        problem.edges
    ) else torch.zeros(0, 2)  # fmt: skip
    return (counted >= MIN_PIXELS).all(-1).cpu()


def connected_parts(frame_count: int, edges: Tensor) -> list[list[int]]:
    """Frames that edges (E, 2) tie together, the largest part first (of equals the one with the earliest frame).
    Frames without an edge are in none."""
    tied = np.zeros((frame_count, frame_count), dtype=np.int64)
    tied[tuple(edges.numpy().T)] = 1
    return [list(part) for part in connected_components(tied) if len(part) > 1]
