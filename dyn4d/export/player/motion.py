"""The motion of all Gaussians as a few numbers each.

A Gaussian's motion is its centre and its Jacobian at each key frame and in canonical space: an affine map, 12 numbers
a slot. Gaussians are grouped by how they move (k-means), and each group has a mean motion and `components` principal
components of its own (clustered principal component analysis; Sloan, Hall, Hart and Snyder, 2003). What is stored is
the group and the coefficients of each Gaussian, and the components of each group:

    motion of g = mean of its group + sum over k of coefficient[g, k] * component[group, k]

At any time the components are interpolated first, so that a Gaussian costs one short sum.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.vq import kmeans2

from dyn4d.core.protocols import Field

SLOT = 12  # numbers a slot: centre (3), then the Jacobian (9, rows first)
GROUPING = 24  # principal components of the whole that the grouping looks at
ROUNDS = 12  # of k-means
COMPONENTS = (4, 8, 12, 16, 20, 24, 28, 32)  # multiples of four: a texel holds four


@dataclass(frozen=True)
class Motion:
    """Motions of N Gaussians: `centres` (N, S, 3) and `jacobians` (N, S, 3, 3) in S slots, world units."""

    centres: np.ndarray
    jacobians: np.ndarray

    def __len__(self) -> int:
        return len(self.centres)

    def table(self, reach: float) -> np.ndarray:
        """(N, S * 12): all numbers in world units, Jacobians times `reach`."""
        count, slots = self.centres.shape[:2]
        flat = self.jacobians.reshape(count, slots, 9) * reach
        return np.concatenate([self.centres, flat], axis=-1).reshape(count, slots * SLOT)

    @staticmethod
    def of_table(table: np.ndarray, reach: float) -> Motion:
        slots = table.reshape(len(table), table.shape[1] // SLOT, SLOT)
        return Motion(slots[..., :3], slots[..., 3:].reshape(*slots.shape[:2], 3, 3) / reach)


@torch.no_grad()
def field_motion(field: Field, means: torch.Tensor, times: np.ndarray, *, canonical: bool) -> Motion:
    """What the field does to canonical points (N, 3) at `times`; `canonical` adds a slot for the points themselves."""
    if not len(means):
        slots = len(times) + canonical
        return Motion(np.zeros((0, slots, 3)), np.zeros((0, slots, 3, 3)))
    centres, jacobians = [], []
    for time in times.tolist():
        moved, jacobian = field.motion(means, float(time))
        centres.append(moved.double().cpu().numpy())
        jacobians.append(jacobian.double().cpu().numpy())
    if canonical:
        centres.append(means.double().cpu().numpy())
        jacobians.append(np.broadcast_to(np.eye(3), (len(means), 3, 3)))
    return Motion(np.stack(centres, axis=1), np.stack(jacobians, axis=1))


@dataclass(frozen=True)
class MotionBasis:
    """What the motions are made of.

    Attributes:
        reach: world units; Jacobians are stored times this. project: (D, P) onto which the grouping looks, origin (D,).
        groups: (C, P) centres of the groups there. mean: (C, D). components: (C, K, D), rows of length 1 or 0, by size.
    """

    reach: float
    project: np.ndarray
    origin: np.ndarray
    groups: np.ndarray
    mean: np.ndarray
    components: np.ndarray

    def group_of(self, table: np.ndarray) -> np.ndarray:
        """(N,) the group that each motion (N, D) is nearest to."""
        seen = (table - self.origin) @ self.project
        distance = (self.groups**2).sum(1) - 2 * seen @ self.groups.T
        return distance.argmin(1)

    def coefficients(self, table: np.ndarray, group: np.ndarray) -> np.ndarray:
        """(N, K) by projection."""
        out = np.zeros((len(table), self.components.shape[1]))
        for c in np.unique(group):
            rows = group == c
            out[rows] = (table[rows] - self.mean[c]) @ self.components[c].T
        return out


def empty_basis(slots: int) -> MotionBasis:
    """Of no Gaussians: one group that stands still."""
    width = slots * SLOT
    return MotionBasis(
        1.0, np.zeros((width, 1)), np.zeros(width), np.zeros((1, 1)), np.zeros((1, width)),
        np.zeros((1, COMPONENTS[-1], width)),
    )  # fmt: skip


def fit_basis(
    table: np.ndarray, *, reach: float, groups: int, weight: np.ndarray | None = None, seed: int = 0
) -> MotionBasis:
    """Groups and the largest number of components, from the motions (N, D) of some or all Gaussians, which count by
    `weight` (N,)."""
    count, width = table.shape
    origin = table.mean(0)
    centred = table - origin
    project = _principal(centred, GROUPING).T
    if not project.shape[1]:  # all move alike
        project = np.zeros((width, 1))
    seen = centred @ project
    groups = max(1, min(groups, count))
    start = seen[np.random.default_rng(seed).choice(count, groups, replace=False)]
    with warnings.catch_warnings():  # of groups that ran empty: they are dropped below
        warnings.simplefilter("ignore")
        found, label = kmeans2(seen, start, iter=ROUNDS, minit="matrix")
    kept = np.unique(label)
    most = COMPONENTS[-1]
    mean = np.zeros((len(kept), width))
    components = np.zeros((len(kept), most, width))
    for i, c in enumerate(kept):
        rows = table[label == c]
        mean[i] = rows.mean(0)
        centred = rows - mean[i] if weight is None else (rows - mean[i]) * weight[label == c, None]
        own = _principal(centred, most)
        components[i, : len(own)] = own
    return MotionBasis(reach, project, origin, found[kept], mean, components)


def _principal(centred: np.ndarray, most: int) -> np.ndarray:
    """Up to `most` principal directions (k, D) of centred rows (N, D), the largest first."""
    if len(centred) == 0:
        return np.zeros((0, centred.shape[1]))
    if len(centred) < centred.shape[1]:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        order = values.argsort()[::-1][:most]
        order = order[values[order] > 1e-12 * max(values.max(), 1e-30)]
        rows = vectors[:, order].T @ centred
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    order = values.argsort()[::-1][:most]
    return vectors[:, order].T
