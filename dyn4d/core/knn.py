"""Nearest neighbours of point sets, on the CPU through scipy's k-d tree."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor


def nearest(query: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of `points` (N, 3) to each of `query` (M, 3).

    Returns:
        distances (M, k) in the units of the points and indices (M, k), nearest first. With fewer than k points the
        last neighbour is repeated, so that the shape never surprises.
    """
    if points.shape[0] == 0:
        raise ValueError("nearest: points is empty")
    use = min(k, points.shape[0])
    tree = KDTree(points.detach().cpu().double().numpy())
    distance, index = tree.query(query.detach().cpu().double().numpy(), k=use, workers=-1)
    distance, index = np.asarray(distance).reshape(-1, use), np.asarray(index).reshape(-1, use)
    if use < k:
        distance = np.concatenate([distance, np.repeat(distance[:, -1:], k - use, axis=1)], axis=1)
        index = np.concatenate([index, np.repeat(index[:, -1:], k - use, axis=1)], axis=1)
    return (
        torch.from_numpy(distance).to(query.device, query.dtype),
        torch.from_numpy(index).to(query.device, torch.int64),
    )


def mean_neighbour_distance(points: Tensor, k: int = 3) -> Tensor:
    """Root mean square distance (N,) of each point to its k nearest others."""
    if points.shape[0] < 2:
        return torch.zeros(points.shape[0], dtype=points.dtype, device=points.device)
    distance, _ = nearest(points, points, k + 1)
    return distance[:, 1:].square().mean(-1).sqrt()
