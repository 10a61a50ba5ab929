"""What of a Gaussian does not move: shape, colour, opacity, confidence; as integers, and as a reader finds it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.core.types import GaussianCloud
from dyn4d.export.player.planes import ArrayWriter, quantise

SH0 = 0.28209479177387814
LOG_SCALE_STEP = 0.01
QUATERNION_STEP = 1 / 500
COLOUR_STEP = 1 / 512
HARMONIC_STEP = 1 / 64
OPACITY_STEP = 1 / 255
CONFIDENCE_STEP = 1 / 63
SMALLEST = 1e-9  # world units: a flat Gaussian's logarithm stays finite
_OTHERS = np.array([[c for c in range(4) if c != i] for i in range(4)])  # components beside the i-th


@dataclass(frozen=True)
class StoredShapes:
    """Integers (N,) and the step of each array by name, and the factors R S (N, 3, 3) that they mean."""

    arrays: dict[str, tuple[np.ndarray, float]]
    factors: np.ndarray

    def write(self, writer: ArrayWriter, order: np.ndarray) -> None:
        for name, (integers, step) in self.arrays.items():
            writer.add(name, integers[order], step)


def store_shapes(cloud: GaussianCloud, sh_degree: int) -> StoredShapes:
    """Quantise a cloud with quaternions of length 1; colours up to `sh_degree`."""
    arrays: dict[str, tuple[np.ndarray, float]] = {}

    def keep(name: str, values: np.ndarray, step: float, most: int = 2**30) -> np.ndarray:
        integers = quantise(values, step, most)
        arrays[name] = (integers, step)
        return integers * step

    quats = cloud.quats_wxyz.double().cpu().numpy()
    largest = np.abs(quats).argmax(1) if len(quats) else np.zeros(0, dtype=np.int64)
    quats = quats * np.where(quats[np.arange(len(quats)), largest] < 0, -1.0, 1.0)[:, None]
    small = np.take_along_axis(quats, _OTHERS[largest], axis=1)
    keep("rotation_largest", largest, 1.0)
    found = np.stack([keep(f"rotation_{i}", small[:, i], QUATERNION_STEP) for i in range(3)], axis=1)
    logs = np.log(np.maximum(cloud.scales.double().cpu().numpy(), SMALLEST))
    scales = np.stack([keep(f"scale_{i}", logs[:, i], LOG_SCALE_STEP) for i in range(3)], axis=1)
    keep("opacity", cloud.opacities.double().cpu().numpy(), OPACITY_STEP)
    sh = cloud.sh.double().cpu().numpy()
    for c in range(3):
        keep(f"colour_{c}", 0.5 + SH0 * sh[:, 0, c], COLOUR_STEP)
    for k in range(1, (sh_degree + 1) ** 2):
        for c in range(3):
            keep(f"harmonic_{k}_{c}", sh[:, k, c], HARMONIC_STEP, 127)  # the page holds them as 8 bits
    if cloud.confidence is not None:
        keep("confidence", cloud.confidence.double().nan_to_num().clamp(0, 1).cpu().numpy(), CONFIDENCE_STEP)
    return StoredShapes(arrays, shape_factors(unpack_quaternions(largest, found), np.exp(scales)))


def unpack_quaternions(largest: np.ndarray, small: np.ndarray) -> np.ndarray:
    """(N, 4) wxyz of length 1 from the index of the largest component (N,), which is positive, and the others."""
    largest = largest.astype(int)
    quats = np.zeros((len(largest), 4))
    np.put_along_axis(quats, _OTHERS[largest], small, axis=1)
    quats[np.arange(len(largest)), largest] = np.sqrt(np.maximum(1 - (small**2).sum(1), 0))
    return quats / np.linalg.norm(quats, axis=1, keepdims=True).clip(1e-12)


def shape_factors(quats: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """R S (N, 3, 3) of quaternions wxyz (N, 4) and standard deviations (N, 3)."""
    return wxyz_to_matrix(torch.from_numpy(np.ascontiguousarray(quats))).numpy() * scales[:, None, :]
