"""How far what is stored is off what is exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyn4d.export.player.motion import Motion

# What is measured bounds the 2-Wasserstein distance between the exact Gaussian and the stored one. With covariances
# M Mᵀ, M = J R S, that is at most the root of |centre' - centre|² + |M' - M|² (Frobenius).


def gaussian_errors(found: Motion, exact: Motion, factors: np.ndarray, exact_factors: np.ndarray) -> np.ndarray:
    """(N, F, 2) by how far each centre and each shape is off, in world units.

    Args:
        found, exact: motions in the same F slots. factors, exact_factors: (N, 3, 3), R S in canonical space.
    """
    centre = np.linalg.norm(found.centres - exact.centres, axis=-1)
    difference = found.jacobians @ factors[:, None] - exact.jacobians @ exact_factors[:, None]
    return np.stack([centre, np.linalg.norm(difference, axis=(-2, -1))], axis=-1)


def at_times(slots: Motion, weights: np.ndarray) -> Motion:
    """Motions at the times of the weights (F, S - 1), from S slots of which the last is canonical space."""
    keys = weights.shape[1]
    return Motion(
        np.einsum("fs,nsi->nfi", weights, slots.centres[:, :keys]),
        np.einsum("fs,nsij->nfij", weights, slots.jacobians[:, :keys]),
    )


def with_canonical(moved: Motion, slots: Motion) -> Motion:
    """`moved` with the last of `slots` behind it."""
    return Motion(
        np.concatenate([moved.centres, slots.centres[:, -1:]], axis=1),
        np.concatenate([moved.jacobians, slots.jacobians[:, -1:]], axis=1),
    )


@dataclass(frozen=True)
class ErrorSummary:
    """Errors relative to the object's size: the largest, the 99.9th percentile, the root of the mean square; and the
    largest of the centres and of the shapes alone."""

    max_rel: float
    p999_rel: float
    rms_rel: float
    centre_max_rel: float
    shape_max_rel: float


def summarise(errors: np.ndarray, size: float) -> ErrorSummary | None:
    """Of errors (..., 2); None where there are none."""
    flat = errors.reshape(-1, 2) / size
    if not len(flat):
        return None
    both = np.hypot(flat[:, 0], flat[:, 1])
    return ErrorSummary(
        float(both.max()), float(np.quantile(both, 0.999)), float(np.sqrt((both.astype(float) ** 2).mean())),
        float(flat[:, 0].max()), float(flat[:, 1].max()),
    )  # fmt: skip
