"""Between key frames: cubic Hermite interpolation, whose tangents are the differences of the neighbours."""

from __future__ import annotations

import numpy as np


def hermite_weights(keys: np.ndarray, time: float) -> np.ndarray:
    """(S,) weights of the values at increasing times `keys` (S,) for the value at `time`; they add up to 1.

    The curve goes through all keys and its velocity is continuous. Before the first and after the last key it stands.
    """
    count = len(keys)
    weights = np.zeros(count)
    if count == 1 or time <= keys[0]:
        weights[0] = 1.0
        return weights
    if time >= keys[-1]:
        weights[-1] = 1.0
        return weights
    i = int(np.searchsorted(keys, time, side="right")) - 1
    span = keys[i + 1] - keys[i]
    u = (time - keys[i]) / span
    weights[i] += (1 + 2 * u) * (1 - u) ** 2
    weights[i + 1] += u * u * (3 - 2 * u)
    before, after = max(i - 1, 0), min(i + 2, count - 1)
    start = u * (1 - u) ** 2 * span / (keys[i + 1] - keys[before])
    end = u * u * (u - 1) * span / (keys[after] - keys[i])
    weights[i + 1] += start
    weights[before] -= start
    weights[after] += end
    weights[i] -= end
    return weights


def weight_rows(keys: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(F, S): the weights of each of the F times."""
    return np.stack([hermite_weights(keys, float(time)) for time in times])


def key_rows(count: int, most: int) -> np.ndarray:
    """Rows of up to `most` of `count` frames, spread evenly, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
