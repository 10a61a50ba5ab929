"""What an alignment tells the user of pairs and frames that it could not use as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from dyn4d.geometry.alignment_result import Note
from dyn4d.geometry.sparse_problem import SparseProblem

Pair = tuple[int, int]


def pair_notes(problem: SparseProblem, scores: np.ndarray, by_points: Sequence[Pair], poor: str) -> list[Note]:
    """Pairs that go by their points, and those that nothing ties.

    Args:
        scores: (T, T), 0 where two frames are not tied. poor: what is wrong with their matches.
    """
    notes = []
    if by_points:
        text = f"alignment: {len(by_points)} of {len(problem.pairs)} pairs, {poor}, go by their points"
        notes.append(Note(text, pairs=tuple(by_points)))
    left = tuple((p.frame_a, p.frame_b) for p in problem.pairs if scores[p.frame_a, p.frame_b] == 0)
    if left:
        text = f"alignment: {len(left)} pairs, {poor}, and that their points do not tie either, are left out: {{pairs}}"
        notes.append(Note(text, pairs=left))
    return notes


def part_notes(solved: Sequence[Sequence[int]], kept: Tensor) -> list[Note]:
    """Frames that are in none of the parts that were solved. kept: (T,) bool, those that have their given poses."""
    inside = {row for part in solved for row in part}
    outside = [row for row in range(len(kept)) if row not in inside]
    lost = tuple(row for row in outside if not bool(kept[row]))
    alone = tuple(row for row in outside if bool(kept[row]))
    notes, tied = [], f"are tied to none of the {len(inside)} others"
    if lost:
        notes.append(Note(f"alignment: frames {{frames}} {tied} and get no pose", lost))
    if alone:
        text = f"alignment: frames {{frames}} {tied}; their given poses stay, and their depths are scaled as those of"
        notes.append(Note(f"{text} the frames around them", alone))
    return notes
