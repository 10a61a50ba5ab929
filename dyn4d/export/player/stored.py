"""The motion as a reader of the bytes finds it, and how it gets there.

Most Gaussians belong to a group and have coefficients. The few that groups describe badly are `singles`: their whole
motion is stored. Arrays have the slot first, so that differences are taken over time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dyn4d.export.player.motion import SLOT, MotionBasis
from dyn4d.export.player.planes import ArrayWriter, quantise

# Steps relative to the object's size.
COEFFICIENT_STEP = 2e-4
COMPONENT_STEP = 1e-5  # times the group's largest coefficient
MEAN_STEP = 1e-5


@dataclass(frozen=True)
class StoredMotion:
    """Motions of N Gaussians in S slots, D = 12 S.

    Attributes:
        reach: world units; Jacobians are stored times this. mean: (C, D). components: (C, K, D).
        coefficients: (N, K). group: (N,); C and more are singles. singles: (M, D).
    """

    reach: float
    mean: np.ndarray
    components: np.ndarray
    coefficients: np.ndarray
    group: np.ndarray
    singles: np.ndarray

    def table(self, rows: slice) -> np.ndarray:
        """(n, D) of some Gaussians."""
        group, coefficients = self.group[rows], self.coefficients[rows]
        out = np.concatenate([self.mean, self.singles])[group]
        for c in np.unique(group[group < len(self.mean)]):
            own = group == c
            out[own] += coefficients[own] @ self.components[c]
        return out


@dataclass(frozen=True)
class QuantisedMotion:
    """Integers of a motion before the singles are chosen: (N, K) coefficients, (S, C, 12) means, components (S, 12) by
    group and number; with their steps."""

    reach: float
    group: np.ndarray
    coefficients: np.ndarray
    coefficient_steps: np.ndarray
    mean: np.ndarray
    mean_step: float
    components: list[list[tuple[np.ndarray, float]]]

    def stored(self) -> StoredMotion:
        width = self.mean.shape[0] * SLOT
        components = np.array([[(i * step).reshape(-1) for i, step in group] for group in self.components])
        return StoredMotion(
            self.reach, _by_group(self.mean * self.mean_step), components,
            self.coefficients * self.coefficient_steps, self.group, np.zeros((0, width)),
        )  # fmt: skip

    def write(self, writer: ArrayWriter, order: np.ndarray, singles: np.ndarray, motions: np.ndarray) -> np.ndarray:
        """Store everything in the order of rows `order`; the rows `singles` by their `motions` (M, D).

        Returns:
            (M, D) the motions of the singles as a reader will find them.
        """
        group, coefficients = self.group.copy(), self.coefficients.copy()
        group[singles] = self.mean.shape[1] + np.arange(len(singles))
        coefficients[singles] = 0
        writer.add("group", group[order])
        for k, step in enumerate(self.coefficient_steps.tolist()):
            writer.add(f"coefficient_{k}", coefficients[order, k], step)
        writer.add("mean", self.mean, self.mean_step)
        for c, own in enumerate(self.components):
            for k, (integers, step) in enumerate(own):
                writer.add(f"component_{c}_{k}", integers, step)
        stored = writer.add("singles", quantise(_by_slot(motions), self.mean_step), self.mean_step)
        return _by_group(stored)


def quantise_motion(basis: MotionBasis, exact: np.ndarray, group: np.ndarray, size: float) -> QuantisedMotion:
    """Integers of the basis and of exact coefficients (N, K); steps follow the object's size."""
    groups, components = len(basis.mean), exact.shape[1]
    largest = np.zeros((groups, components))
    np.maximum.at(largest, group, np.abs(exact))
    # the page holds coefficients as 16 bits
    steps = np.maximum(COEFFICIENT_STEP * size, largest.max(axis=0) / 32000)
    parts = []
    for c in range(groups):
        own = []
        for k in range(components):
            step = COMPONENT_STEP * size / max(float(largest[c, k]), COEFFICIENT_STEP * size)
            own.append((quantise(basis.components[c, k].reshape(-1, SLOT), step), step))
        parts.append(own)
    return QuantisedMotion(
        basis.reach, group, quantise(exact, 1.0) if not exact.size else quantise(exact / steps, 1.0, 32767), steps,
        quantise(_by_slot(basis.mean), MEAN_STEP * size), MEAN_STEP * size, parts,
    )  # fmt: skip


def read_motion(header: Mapping[str, float], arrays: Mapping[str, np.ndarray]) -> StoredMotion:
    """The motion from the values of all arrays, by name."""
    groups, components = int(header["groups"]), int(header["components"])
    return StoredMotion(
        float(header["reach"]), _by_group(arrays["mean"]),
        np.array([[arrays[f"component_{c}_{k}"].reshape(-1) for k in range(components)] for c in range(groups)]),
        np.stack([arrays[f"coefficient_{k}"] for k in range(components)], axis=1),
        arrays["group"].astype(np.int64), _by_group(arrays["singles"]),
    )  # fmt: skip


def _by_slot(rows: np.ndarray) -> np.ndarray:
    """(C, S * 12) -> (S, C, 12)."""
    return np.moveaxis(rows.reshape(len(rows), rows.shape[1] // SLOT, SLOT), 1, 0)


def _by_group(slots: np.ndarray) -> np.ndarray:
    """(S, C, 12) -> (C, S * 12)."""
    return np.moveaxis(slots, 0, 1).reshape(slots.shape[1], slots.shape[0] * SLOT)
