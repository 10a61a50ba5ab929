"""Soft labels made to follow the edges of a picture: random walks with priors.

Source: Grady, "Multilabel Random Walker Image Segmentation Using Prior Models", CVPR 2005; solved by conjugate
gradients on the grid, without a matrix.
"""

from __future__ import annotations

import numpy as np

FLOOR = 0.01  # how strongly neighbours hold together across the strongest edge


def edge_weights(lab: np.ndarray, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """How alike neighbours are, in (FLOOR, 1]: to the right (h, w - 1) and below (h - 1, w).

    `contrast` times the mean difference of colour between neighbours counts as an edge.
    """
    across = np.square(lab[:, 1:] - lab[:, :-1]).sum(-1)
    down = np.square(lab[1:] - lab[:-1]).sum(-1)
    typical = contrast**2 * max(float(np.concatenate([across.ravel(), down.ravel()]).mean()), 1e-2)
    return tuple(np.exp(-d / (2 * typical)) * (1 - FLOOR) + FLOOR for d in (across, down))  # type: ignore[return-value]


def smooth_labels(
    chance: np.ndarray, trust: np.ndarray, weights: tuple[np.ndarray, np.ndarray], strength: float,
    steps: int = 60,
) -> np.ndarray:  # fmt: skip
    """The labels x that minimise sum trust (x - chance)^2 + strength sum w (x_i - x_j)^2, in [0, 1].

    Args:
        chance: (h, w) float32 in [0, 1]. trust: (h, w) float32 >= 0. weights: of `edge_weights`.
        steps: of conjugate gradients at most.
    """
    right, below = (strength * w.astype(np.float32) for w in weights)
    trust = np.maximum(trust, 1e-4).astype(np.float32)
    diagonal = trust.copy()
    diagonal[:, :-1] += right
    diagonal[:, 1:] += right
    diagonal[:-1] += below
    diagonal[1:] += below

    def product(x: np.ndarray) -> np.ndarray:
        y = diagonal * x
        y[:, :-1] -= right * x[:, 1:]
        y[:, 1:] -= right * x[:, :-1]
        y[:-1] -= below * x[1:]
        y[1:] -= below * x[:-1]
        return y

    x = chance.astype(np.float32).copy()
    residual = trust * x - product(x)
    scaled = residual / diagonal
    direction = scaled.copy()
    size = float(np.vdot(residual, scaled))
    first = max(size, 1e-12)
    for _ in range(steps):
        moved = product(direction)
        step = size / max(float(np.vdot(direction, moved)), 1e-20)
        x += step * direction
        residual -= step * moved
        scaled = residual / diagonal
        last, size = size, float(np.vdot(residual, scaled))
        if size < 1e-6 * first:
            break
        direction = scaled + (size / last) * direction
    return np.clip(x, 0, 1)
