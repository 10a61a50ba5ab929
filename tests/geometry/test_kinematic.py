"""Components, kinematic trees, chains of poses, and what stands in for missing matches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pair_scenes import PairScene, ball_truth, exact_predictions
from scipy.sparse import csgraph

from dyn4d.core.errors import RunError
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.geometry.kinematic import (
    KinematicTree,
    PoseChain,
    TreeMode,
    component_tree,
    connected_components,
    kinematic_tree,
    matches_enough,
    pair_scores,
    tie_scores,
    unmatched_views,
)
from dyn4d.geometry.pair_results import PairResultList
from dyn4d.geometry.sparse_problem import condense

MODES: tuple[TreeMode, ...] = ("mst", "hclust-ward")


@st.composite
def graphs(draw: st.DrawFn, tied: bool = False) -> np.ndarray:
    """Symmetric scores of up to 9 frames, all of them tied together or not."""
    count = draw(st.integers(1, 9))
    scores = np.zeros((count, count), dtype=np.int64)
    for a in range(count):
        for b in range(a):
            scores[a, b] = scores[b, a] = max(0, draw(st.integers(-40, 60)))
        if tied and a:
            parent = draw(st.integers(0, a - 1))
            scores[a, parent] = scores[parent, a] = draw(st.integers(1, 60))
    return scores


def scene(**settings: object) -> PairScene:
    return exact_predictions(ball_truth(4, 32, 48), **settings)  # type: ignore[arg-type]


def depths(tree: KinematicTree) -> dict[int, int]:
    found = {tree.root: 0}
    for parent, child in tree.edges:
        found[child] = found[parent] + 1
    return found


@given(graphs())
def test_components_are_those_of_another_implementation(scores: np.ndarray) -> None:
    parts = connected_components(scores)
    count, labels = csgraph.connected_components(scores, directed=False)
    assert {frozenset(part) for part in parts} == {
        frozenset(np.flatnonzero(labels == k).tolist()) for k in range(count)
    }
    assert parts == sorted(parts, key=lambda part: (-len(part), part[0]))
    assert all(list(part) == sorted(part) for part in parts)


def test_components_of_a_half_given_graph() -> None:
    scores = np.zeros((6, 6), dtype=np.int64)
    scores[4, 2] = scores[1, 5] = scores[5, 3] = 7
    assert connected_components(scores) == [(1, 3, 5), (2, 4), (0,)]
    assert connected_components(scores[:0, :0]) == []


@given(graphs(tied=True), st.sampled_from(MODES))
def test_a_tree_has_every_frame_once_parents_first(scores: np.ndarray, mode: TreeMode) -> None:
    tree = kinematic_tree(scores, [12] * len(scores), mode=mode)
    assert sorted(tree.frames) == list(range(len(scores)))
    level = depths(tree)
    order = [level[frame] for frame in tree.frames]
    assert order == sorted(order)  # breadth first
    assert [tree.frames[parent] for parent in tree.parents[1:]] == [parent for parent, _ in tree.edges]
    assert tree == kinematic_tree(scores, [12] * len(scores), mode=mode)


@given(graphs(tied=True))
def test_the_spanning_tree_has_the_most_matches(scores: np.ndarray) -> None:
    tree = kinematic_tree(scores, [12] * len(scores), mode="mst")
    assert all(scores[edge] > 0 for edge in tree.edges)
    best = -csgraph.minimum_spanning_tree(-scores.astype(float)).sum()
    assert sum(int(scores[edge]) for edge in tree.edges) == pytest.approx(best)


@given(graphs(tied=True), st.sampled_from(MODES), st.randoms(use_true_random=False))
def test_components_do_not_see_each_other(scores: np.ndarray, mode: TreeMode, random: object) -> None:
    count = len(scores)
    both = np.zeros((count + 3, count + 3), dtype=np.int64)
    both[3:, 3:] = scores
    both[0, 1] = both[1, 0] = 5
    inner = kinematic_tree(both, [12] * len(both), range(3, count + 3), mode=mode)
    alone = kinematic_tree(scores, [12] * count, mode=mode)
    assert inner.root == alone.root + 3
    assert inner.edges == tuple((a + 3, b + 3) for a, b in alone.edges)


@pytest.mark.parametrize("mode", MODES)
def test_two_groups_stay_together(mode: TreeMode) -> None:
    scores = np.array([[0, 90, 80, 0], [90, 0, 3, 0], [80, 3, 0, 4], [0, 0, 4, 0]])
    tree = kinematic_tree(scores, [30] * 4, mode=mode)
    assert {frozenset(edge) for edge in tree.edges} >= {frozenset((0, 1)), frozenset((0, 2))}
    last = next(edge for edge in tree.edges if 3 in edge)
    assert set(last) == ({2, 3} if mode == "mst" else {0, 3})  # the representative of {0, 1, 2} is 0


def test_similarity_counts_anchors_of_the_frame_that_has_fewer() -> None:
    scores = np.array([[0, 30, 30], [30, 0, 31], [30, 31, 0]])
    # Frame 0 has but 5 anchors, so that its matches are as many as there can be; 1 and 2 have more, but sparse ones.
    for mode, wanted in zip(MODES, ([[0, 1], [1, 2]], [[0, 1], [0, 2]])):
        edges = kinematic_tree(scores, [5, 500, 500], mode=mode).edges
        assert sorted(sorted(edge) for edge in edges) == wanted


def test_the_root_is_in_the_middle_of_a_chain() -> None:
    scores = np.diag([9, 9, 9, 9], 1)
    tree = kinematic_tree(scores + scores.T, [3] * 5, mode="mst")
    assert tree == KinematicTree(2, ((2, 1), (2, 3), (1, 0), (3, 4)))
    assert tree.frames == (2, 1, 3, 0, 4)
    assert tree.parents == [0, 0, 0, 1, 2]


def test_one_frame_is_a_tree() -> None:
    assert kinematic_tree(np.zeros((3, 3)), [1, 1, 1], [1]) == KinematicTree(1, ())


def test_errors() -> None:
    with pytest.raises(ValueError, match="wanted one connected component, found 2"):
        kinematic_tree(np.zeros((2, 2)), [1, 1])
    with pytest.raises(ValueError, match="found 0"):
        kinematic_tree(np.zeros((2, 2)), [1, 1], [])
    with pytest.raises(ValueError, match="wanted mst or hclust-ward"):
        kinematic_tree(np.zeros((1, 1)), [1], mode="star")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scores: wanted shape"):
        kinematic_tree(np.zeros((2, 2)), [1])


@given(graphs(tied=True), st.integers(0, 1000))
def test_chains_are_products_along_the_path_and_come_back(scores: np.ndarray, seed: int) -> None:
    tree = kinematic_tree(scores, [12] * len(scores))
    draw = torch.Generator().manual_seed(seed)
    count = len(scores)
    rotation = wxyz_to_matrix(torch.randn(count, 4, generator=draw, dtype=torch.float64))
    translation = torch.randn(count, 3, generator=draw, dtype=torch.float64)
    chain = PoseChain(tree.parents)
    turn, shift = chain.compose(rotation, translation)
    wanted = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    wanted[:, :3, :3], wanted[:, :3, 3] = rotation, translation
    for frame, parent in list(enumerate(tree.parents))[1:]:
        wanted[frame] = wanted[parent] @ wanted[frame]
    torch.testing.assert_close(turn, wanted[:, :3, :3])
    torch.testing.assert_close(shift, wanted[:, :3, 3])
    back = chain.relative(turn, shift)
    torch.testing.assert_close(back[0], rotation)
    torch.testing.assert_close(back[1], translation)


def test_scores_and_trees_of_a_problem() -> None:
    made = scene(pairs=[(0, 1), (3, 2)])
    problem = condense(made.frames, made.results)
    scores = pair_scores(problem)
    assert scores[0, 1] == scores[1, 0] == len(problem.pairs[0])
    assert scores[2, 3] == scores[3, 2] == len(problem.pairs[1])
    assert scores.sum() == 2 * sum(len(pair) for pair in problem.pairs)
    anchors = [len(view.anchor_depth) for view in problem.views]
    trees = [kinematic_tree(scores, anchors, part) for part in connected_components(scores)]
    assert trees == [KinematicTree(0, ((0, 1),)), KinematicTree(2, ((2, 3),))]


def test_the_tree_of_a_problem_takes_sure_pairs_and_those_with_pointmaps() -> None:
    made = scene(pairs=[(0, 1), (1, 2), (2, 3)])
    unsure = replace(made.results[1], weight=torch.full_like(made.results[1].weight, 2.0))
    problem = condense(made.frames, PairResultList((made.results[0], unsure, made.results[2])))
    assert set(component_tree(problem).frames) == {0, 1}
    assert set(component_tree(problem, frames=[2, 3]).frames) == {2, 3}
    views = unmatched_views(problem, made.frames, made.results)
    assert [(view.frame, view.camera) for view in views] == [(2, 1), (1, 2)]
    assert set(component_tree(problem, views).frames) == {0, 1, 2, 3}
    assert set(component_tree(problem, min_match_conf=1.0).frames) == {0, 1, 2, 3}
    with pytest.raises(RunError, match="none of 3 pairs has a match surer than 50"):
        component_tree(problem, min_match_conf=50)
    with pytest.raises(ValueError, match="found 2"):
        component_tree(problem, frames=[0, 2])


def test_points_tie_a_pair_without_any_match() -> None:
    made = scene(pairs=[(0, 1), (1, 2)])
    bare = replace(made.results[1], **{name: getattr(made.results[1], name)[:0] for name in ("xy_a", "xy_b", "weight")})
    problem = condense(made.frames, PairResultList((made.results[0], bare)))
    views = unmatched_views(problem, made.frames, PairResultList((made.results[0], bare)))
    assert set(component_tree(problem).frames) == {0, 1}
    assert set(component_tree(problem, views).frames) == {0, 1, 2}
    scores = tie_scores(problem, views)
    assert scores[1, 2] == scores[2, 1] == 1 and scores[0, 1] == len(problem.pairs[0])


def test_views_of_unmatched_pairs_are_the_pass_at_the_anchors() -> None:
    half = np.random.default_rng(3).random((2, 32, 48)) < 0.5
    made = exact_predictions(ball_truth(2, 32, 48), kept=half, scale_seed=1)
    result = made.results[0]
    broken = result.b_in_a.clone()
    problem = condense(made.frames, made.results)
    assert matches_enough(problem.pairs[0], 5.0)
    assert unmatched_views(problem, made.frames, made.results) == []
    anchors = [torch.searchsorted(frame.pixels, view.anchor_pixels) for frame, view in zip(made.frames, problem.views)]
    broken[anchors[1][2]] = torch.nan
    changed = PairResultList((replace(result, b_in_a=broken),))
    b_in_a, a_in_b = unmatched_views(problem, made.frames, changed, min_match_conf=100)
    assert (b_in_a.frame, b_in_a.camera, a_in_b.frame, a_in_b.camera) == (1, 0, 0, 1)
    assert 2 not in b_in_a.anchor and len(b_in_a.anchor) == len(problem.views[1].anchor_depth) - 1
    torch.testing.assert_close(a_in_b.points, result.a_in_b[anchors[0]].double())
    torch.testing.assert_close(b_in_a.conf, result.conf_b_in_a[anchors[1][b_in_a.anchor]].double())
    with pytest.raises(ValueError, match="wanted 2 frames and 1 results, found 1 and 1"):
        unmatched_views(problem, made.frames[:1], made.results)
