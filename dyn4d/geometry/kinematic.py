"""Which frames hang on which: the tree along which the published sparse alignment chains its camera poses.

Frames are tied by the number of their matches. The tree only says how poses are parameterised: the better two
neighbours of it match, the fewer joints lie between frames that see the same. It is published in two ways: the spanning
tree of most matches, and one that grows with Ward's clusters, whose branches are shorter.

Source: Duisterhof et al., "MASt3R-SfM", 2024, section 3.3. Frames are rows of the clip's selected frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.cluster.hierarchy import linkage

from dyn4d.core.checks import check_shape
from dyn4d.geometry.sparse_problem import SparseProblem

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
    group = np.arange(len(scores))
    for a, b in np.argwhere((scores + scores.T) > 0).tolist():
        group[group == max(group[a], group[b])] = min(group[a], group[b])
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


def kinematic_forest(problem: SparseProblem, *, mode: TreeMode = "hclust-ward") -> list[KinematicTree]:
    """One tree for each connected component, in the order of `connected_components`."""
    scores = pair_scores(problem)
    anchors = [len(view.anchor_depth) for view in problem.views]
    return [kinematic_tree(scores, anchors, frames, mode=mode) for frames in connected_components(scores)]


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
