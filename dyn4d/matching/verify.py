"""Which matches of one pair of pictures are borne out by others: by those around them, and by the way over a third.

Epipolar geometry says nothing here: what is matched bends. What does hold is that neighbours on a surface stay
neighbours, and that two ways to the same picture end at the same place.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

NEIGHBOURS = 8
SLACK_PX = 2.0
STRAIN = 0.4  # neighbours may turn by some 20 degrees, or be stretched by this share
CYCLE_PX = 3.0
# When all of it may be turned or of another size: a similarity that clearly more matches follow than any one shift.
GUESSES = 400  # similarities of two matches each that are tried; with a fifth of the matches right, some 16 fit
FOLLOW_SHARE = 0.1  # of the span of the ends: as near as this a match follows the similarity; the rest is bending
LEAST_FOLLOWERS = 12  # and a quarter of the matches
CLEARLY = 1.5  # times as many as follow a shift
LARGEST_SCALE = 6.0


def neighbour_votes(
    xy_a: np.ndarray, xy_b: np.ndarray, *, neighbours: int = NEIGHBOURS, slack: float = SLACK_PX, strain: float = STRAIN
) -> np.ndarray:
    """(M,) in [0, 1]: the share of a match's neighbours that move as it does.

    Neighbours are the nearest in the first picture (M, 2) and, asked apart, in the second; the lower of the two shares
    counts, so that many starts that end in one place do not bear each other out. A neighbour agrees if its motion
    differs by at most `slack` pixels + `strain` times its distance.

    Where the matches tell clearly that the whole is turned or has another size (`common_similarity`), they are asked a
    second time about the motion that is left, and the better answer counts: parts that do not turn with it lose
    nothing.

    Matches with no neighbour at all get 0.
    """
    votes = _votes(xy_a, xy_b, neighbours, slack, strain)
    common = common_similarity(xy_a, xy_b)
    if common is not None:
        turn, shift = common
        carried = _pairs(turn * _complex(xy_a) + shift)
        votes = np.maximum(votes, _votes(carried, xy_b, neighbours, slack * max(1.0, abs(turn)), strain))
    return votes


def common_similarity(xy_a: np.ndarray, xy_b: np.ndarray) -> tuple[complex, complex] | None:
    """The turn, scale and shift, z → turn · z + shift for z = x + iy, that clearly more matches follow (M, 2) than
    follow any shift alone; None where there is no such one. Guessed from two matches at a time (RANSAC, Fischler and
    Bolles 1981), the same each time, then fitted to those that follow."""
    a, b = _complex(xy_a), _complex(xy_b)
    if len(a) < LEAST_FOLLOWERS:
        return None
    least = max(LEAST_FOLLOWERS, len(a) / 4)
    near = FOLLOW_SHARE * float(np.ptp(xy_b, axis=0).max())
    first, second = np.random.default_rng(0).integers(0, len(a), (2, GUESSES))
    apart = np.abs(a[first] - a[second])
    use = (apart > FOLLOW_SHARE * float(np.ptp(xy_a, axis=0).max())) & (apart > 0)
    first, second = first[use], second[use]
    turn = (b[first] - b[second]) / (a[first] - a[second])
    use = (np.abs(turn) < LARGEST_SCALE) & (np.abs(turn) * LARGEST_SCALE > 1)
    turn, shift = turn[use], (b[first] - turn * a[first])[use]
    if len(turn) == 0:
        return None
    follow = np.abs(turn[:, None] * a + shift[:, None] - b) < near
    shifted = np.abs(a + (b[first] - a[first])[:, None] - b) < near
    best = int(follow.sum(1).argmax())
    mine = follow[best]
    if mine.sum() < least or mine.sum() < CLEARLY * shifted.sum(1).max():
        return None
    middle = a[mine].mean(), b[mine].mean()
    ahead, behind = a[mine] - middle[0], b[mine] - middle[1]
    fitted = complex((ahead.conj() * behind).sum() / np.square(np.abs(ahead)).sum())
    return fitted, complex(middle[1] - fitted * middle[0])


def _complex(xy: np.ndarray) -> np.ndarray:
    return xy[:, 0] + 1j * xy[:, 1]


def _pairs(z: np.ndarray) -> np.ndarray:
    return np.stack([np.real(z), np.imag(z)], -1)


def _votes(xy_a: np.ndarray, xy_b: np.ndarray, neighbours: int, slack: float, strain: float) -> np.ndarray:
    count = min(neighbours, len(xy_a) - 1)
    if count < 1:
        return np.zeros(len(xy_a))
    motion = xy_b - xy_a
    shares = []
    for at in (xy_a, xy_b):
        distance, index = KDTree(at).query(at, k=count + 1)
        own = index == np.arange(len(at))[:, None]
        own[~own.any(1), -1] = True  # more than `count` matches at the very same place: leave the farthest out
        apart = np.linalg.norm(motion[index] - motion[:, None], axis=-1)
        agrees = (apart <= slack + strain * distance) & ~own
        shares.append(agrees.sum(1) / count)
    return np.minimum(*shares)


def cycle_states(
    direct: np.ndarray, first: np.ndarray, second: np.ndarray, xy_b: np.ndarray, *, most: float = CYCLE_PX
) -> np.ndarray:
    """What the way over a third picture k says of matches i→j.

    Args:
        direct: (M, 2) int64 matched keypoints of (i, j). first: (P, 2) of (i, k). second: (Q, 2) of (k, j).
        xy_b: (N, 2) places of the keypoints of j. most: pixels by which both ways may differ.

    Returns:
        (M,) int64: 1 = both ways end at one place, -1 = they do not, 0 = there is no way over k.
    """
    over = _lookup(first, direct[:, 0])
    there = _lookup(second, over)
    known = there >= 0
    out = np.zeros(len(direct), np.int64)
    apart = np.linalg.norm(xy_b[there[known]] - xy_b[direct[known, 1]], axis=-1)
    out[known] = np.where(apart <= most, 1, -1)
    return out


def _lookup(pairs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(M,) the partner of each row; -1 where it has none or the row is -1. `pairs` is sorted by its first column."""
    if len(pairs) == 0:
        return np.full(len(rows), -1, np.int64)
    at = np.searchsorted(pairs[:, 0], rows).clip(max=len(pairs) - 1)
    return np.where(pairs[at, 0] == rows, pairs[at, 1], -1)
