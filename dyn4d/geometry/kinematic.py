"""What ties frames together, and the tree along which the published sparse alignment chains its camera poses.

Frames are tied by their matches or, where these are too unsure, by the pairs' pointmaps. The tree only says how poses
are parameterised: the better neighbours in it match, the fewer joints lie between frames that see the same. It is
published in two ways: the spanning tree of most matches, and one that grows with Ward's clusters, its branches shorter.

Source: Duisterhof et al., "MASt3R-SfM", 2024, section 3.3. Frames are rows of the clip's selected frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from scipy.sparse import coo_array, csgraph
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.core.errors import RunError
from dyn4d.geometry.canonical import LARGEST
from dyn4d.geometry.pair_results import PairFrame, PairResult, PairResults
from dyn4d.geometry.sparse_problem import PairMatches, SparseProblem

TreeMode = Literal["mst", "hclust-ward"]
Edge = tuple[int, int]

MATCHES_PER_ANCHOR = 3  # with so many, two frames are as near each other as they can be
UNMATCHED = 2.0  # distance of frames without a match; that of others is at most 1


@dataclass(frozen=True)
class KinematicTree:
    """A tree over the frames of one connected component.

    Attributes:
        root: the frame in the middle.
        edges: (parent, child), one for each other frame, in breadth-first order: a parent comes before its children.
    """

    root: int
    edges: tuple[Edge, ...]

    @property
    def frames(self) -> tuple[int, ...]:
        """Every frame once, in breadth-first order."""
        return self.root, *(child for _, child in self.edges)

    @property
    def parents(self) -> list[int]:
        """For each of `frames` the place of its parent in `frames`; the root's is its own, 0."""
        place = {frame: number for number, frame in enumerate(self.frames)}
        return [0, *(place[parent] for parent, _ in self.edges)]


class PoseChain:
    """N rigid motions, each after its parent's.

    Args:
        parents: `KinematicTree.parents`; breadth-first order, so that all motions of one depth are done at once.
    """

    def __init__(self, parents: Sequence[int]) -> None:
        depth = [0]
        for parent in parents[1:]:
            depth.append(depth[parent] + 1)
        self.parents = list(parents)
        self.levels = [(depth.index(d), depth.index(d) + depth.count(d)) for d in range(1, max(depth) + 1)]

    def compose(self, rotation: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
        """Motions (N, 3, 3), (N, 3) relative to the parents' -> the motions themselves."""
        turn, shift = rotation[:1], translation[:1]
        for start, stop in self.levels:
            above = self.parents[start:stop]
            moved = (turn[above] @ translation[start:stop, :, None])[..., 0] + shift[above]
            turn, shift = torch.cat([turn, turn[above] @ rotation[start:stop]]), torch.cat([shift, moved])
        return turn, shift

    def relative(self, rotation: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `compose`."""
        back = rotation[self.parents].transpose(1, 2)
        turn, shift = back @ rotation, (back @ (translation - translation[self.parents])[..., None])[..., 0]
        return torch.cat([rotation[:1], turn[1:]]), torch.cat([translation[:1], shift[1:]])


@dataclass(frozen=True)
class SeenAnchors:
    """One frame's anchors as a pair's pass places them in another frame's camera; only those that it can place.

    Attributes:
        frame: whose anchors, camera: whose camera; rows in the clip's selected frames.
        anchor: (K,) int64 rows of the frame's anchors. points: (K, 3) float64 in the camera. conf: (K,) float64 > 0.
    """

    frame: int
    camera: int
    anchor: Tensor
    points: Tensor
    conf: Tensor


def unmatched_views(
    problem: SparseProblem, frames: Sequence[PairFrame], results: PairResults, *, min_match_conf: float = 5.0
) -> list[SeenAnchors]:
    """What stands in for the matches of pairs that match too little: two views a pair, empty ones left out.

    Args:
        frames, results: those that the problem was made from, in the same order.
        min_match_conf: that of `PublishedConfig`.
    """
    if (len(frames), len(results)) != (len(problem), len(problem.pairs)):
        wanted = f"{len(problem)} frames and {len(problem.pairs)} results"
        raise ValueError(f"unmatched_views: wanted {wanted}, found {len(frames)} and {len(results)}")
    out: list[SeenAnchors] = []
    for index, pair in enumerate(problem.pairs):
        if not matches_enough(pair, min_match_conf):
            result = results[index]
            out += [_seen(problem, frames, each) for each in (result, result.swapped())]
    return [each for each in out if len(each.anchor)]


def matches_enough(pair: PairMatches, min_match_conf: float) -> bool:
    """Whether any match of the pair is surer than that."""
    return len(pair) > 0 and float(pair.weight.max()) > min_match_conf


def _seen(problem: SparseProblem, frames: Sequence[PairFrame], result: PairResult) -> SeenAnchors:
    """The anchors of b in a's camera."""
    rows = torch.searchsorted(frames[result.frame_b].pixels, problem.views[result.frame_b].anchor_pixels)
    points, conf = result.b_in_a[rows].double(), result.conf_b_in_a[rows].double()
    good = (points.abs() < LARGEST).all(-1) & (conf > 0) & (conf < LARGEST)  # comparisons with NaN are False
    return SeenAnchors(result.frame_b, result.frame_a, good.nonzero()[:, 0], points[good], conf[good])


def pair_scores(problem: SparseProblem) -> np.ndarray:
    """(T, T) int64 number of matches of each two frames; symmetric, 0 on the diagonal."""
    scores = np.zeros((len(problem), len(problem)), dtype=np.int64)
    for pair in problem.pairs:
        scores[pair.frame_a, pair.frame_b] += len(pair)
        scores[pair.frame_b, pair.frame_a] += len(pair)
    return scores


def connected_components(scores: np.ndarray) -> list[tuple[int, ...]]:
    """Groups of frames that chains of matches tie together, the largest first, of equally large ones that with the
    lowest frame; the frames of each ascending. A frame without any match is a group of its own.

    Args:
        scores: (T, T), above 0 where two frames are tied.
    """
    check_shape("scores", scores, ("T", "T"))
    _, group = csgraph.connected_components(coo_array(scores > 0), directed=False)
    found = [tuple(np.flatnonzero(group == name).tolist()) for name in np.unique(group)]
    return sorted(found, key=lambda frames: (-len(frames), frames[0]))


def kinematic_tree(
    scores: np.ndarray, anchors: Sequence[int], frames: Sequence[int] | None = None, *, mode: TreeMode = "hclust-ward"
) -> KinematicTree:
    """The tree over one connected component.

    Args:
        scores: (T, T) number of matches. anchors: number of anchors of each of the T frames.
        frames: those of the component, any order; None: all of them.
        mode: "mst": the spanning tree with the most matches. "hclust-ward": each time that Ward's linkage merges two
            clusters their representatives are tied, and that which is more like all the others represents both; such
            two need not match each other.

    Raises:
        ValueError: the frames are none, or not connected.
    """
    if mode not in ("mst", "hclust-ward"):
        raise ValueError(f"mode: {mode!r}; wanted mst or hclust-ward")
    check_shape("scores", scores, (len(anchors), len(anchors)))
    chosen = sorted(range(len(scores)) if frames is None else frames)
    inner = scores[np.ix_(chosen, chosen)]
    parts = connected_components(inner)
    if len(parts) != 1:
        raise ValueError(f"kinematic tree: wanted one connected component, found {len(parts)}")
    if mode == "mst":
        edges = _most_matches(inner)
    else:
        edges = _ward(_similarity(inner, np.asarray([anchors[frame] for frame in chosen])))
    root = _middle(edges, len(chosen))
    _, found = _breadth_first(edges, len(chosen), root)
    return KinematicTree(chosen[root], tuple((chosen[parent], chosen[child]) for parent, child in found))


def component_tree(
    problem: SparseProblem, unmatched: Sequence[SeenAnchors] = (), frames: Sequence[int] | None = None, *,
    min_match_conf: float = 5.0, mode: TreeMode = "hclust-ward",
) -> KinematicTree:  # fmt: skip
    """Over what pairs tie together that match surely enough, or are among `unmatched`.

    Args:
        frames: those of the component; None: of the largest.

    Raises:
        RunError: there are several frames, and no such pair.
        ValueError: `frames` are none, or not tied together.
    """
    scores = tie_scores(problem, unmatched, min_match_conf=min_match_conf)
    if frames is None:
        frames = next(iter(connected_components(scores)), ())
        if len(frames) < min(2, len(problem)):
            raise RunError(
                f"the sparse alignment: none of {len(problem.pairs)} pairs has a match surer than {min_match_conf:g} "
                "or points of pixels that count; look at the masks, or pair each frame with more of the others"
            )
    return kinematic_tree(scores, [len(view.anchor_depth) for view in problem.views], frames, mode=mode)


def tie_scores(
    problem: SparseProblem, unmatched: Sequence[SeenAnchors] = (), *, min_match_conf: float = 5.0
) -> np.ndarray:
    """(T, T) int64 as `pair_scores`, of pairs that match surely enough or are among `unmatched`; of the latter at least
    1, though they match nothing."""
    stand_ins = {frozenset((view.frame, view.camera)) for view in unmatched}
    tied = tuple(
        pair
        for pair in problem.pairs
        if matches_enough(pair, min_match_conf) or frozenset((pair.frame_a, pair.frame_b)) in stand_ins
    )
    scores = pair_scores(replace(problem, pairs=tied))
    for pair in tied:
        ends = (pair.frame_a, pair.frame_b), (pair.frame_b, pair.frame_a)
        for a, b in ends:
            scores[a, b] = max(scores[a, b], 1)
    return scores


def _most_matches(scores: np.ndarray) -> list[Edge]:
    """The spanning tree of the highest scores (Kruskal); of equal ones the edge of the lowest frames is taken first."""
    candidates = [(a, b) for a in range(len(scores)) for b in range(a + 1, len(scores)) if scores[a, b] > 0]
    group = np.arange(len(scores))
    edges: list[Edge] = []
    for a, b in sorted(candidates, key=lambda edge: (-scores[edge], edge)):
        if group[a] != group[b]:
            group[group == group[b]] = group[a]
            edges.append((a, b))
    return edges


def _similarity(scores: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(N, N) in [0, 1], 0 on the diagonal: matches per anchor of the frame that has fewer."""
    fewer = np.minimum(anchors[:, None], anchors[None, :])
    return np.minimum(1.0, scores / np.maximum(1, MATCHES_PER_ANCHOR * fewer))


def _ward(similarity: np.ndarray) -> list[Edge]:
    """Edges between the representatives of the clusters that Ward's linkage merges."""
    count = len(similarity)
    if count < 2:
        return []
    distance = np.where(similarity > 0, 1 - similarity, UNMATCHED)
    total = similarity.sum(axis=1)
    representative = list(range(count))
    edges: list[Edge] = []
    for one, other in linkage(distance[np.triu_indices(count, 1)], "ward")[:, :2].astype(int):
        a, b = representative[one], representative[other]
        edges.append((a, b))
        representative.append(min((a, b), key=lambda frame: (-total[frame], frame)))
    return edges


def _breadth_first(edges: Sequence[Edge], count: int, start: int) -> tuple[list[int], list[Edge]]:
    """Frames as they are visited, and the edges (parent, child) on the way; of siblings the lowest frame first."""
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        neighbours[a].append(b)
        neighbours[b].append(a)
    order, parents = [start], {start: start}
    for frame in order:  # grows on the way
        for other in sorted(neighbours[frame]):
            if other not in parents:
                parents[other] = frame
                order.append(other)
    return order, [(parents[frame], frame) for frame in order[1:]]


def _middle(edges: Sequence[Edge], count: int) -> int:
    """The frame that is reached latest from both ends of the longest path, whichever reaches it first."""
    end = _breadth_first(edges, count, 0)[0][-1]
    there = _breadth_first(edges, count, end)[0]
    back = _breadth_first(edges, count, there[-1])[0]
    return max(range(count), key=lambda frame: (min(there.index(frame), back.index(frame)), -frame))
