"""A few smooth shapes that a frame's depths may change by: the low-rank option of the published sparse alignment.

The shapes are the slowest vibrations of the frame's anchors, tied to their neighbours the more firmly the more alike
their depths are: eigenvectors of the graph's Laplacian. Parts that are apart in depth move by themselves.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import eigsh
from torch import Tensor

from dyn4d.geometry.canonical import CanonicalView

ALIKE = 0.1  # logarithm of the depths of neighbours at which the tie between them is weak
WEAK = 1e-4  # of every tie, so that none is quite lost
DENSE = 400  # so many anchors are decomposed as they are, more by iteration


def spectral_basis(view: CanonicalView, rank: int) -> Tensor:
    """(A, rank) float64 orthogonal columns of mean square 1, the smoothest first; those beyond the number of anchors
    are 0."""
    count = len(view.anchor_depth)
    out = np.zeros((count, rank))
    if count == 0:
        return torch.from_numpy(out)
    laplacian = _laplacian(view)
    used = min(rank, count)
    if count <= max(DENSE, 2 * rank + 2):
        vectors = np.linalg.eigh(laplacian.toarray())[1][:, :used]
    else:
        start = np.ones(count)  # not a random one: runs repeat
        values, vectors = eigsh(laplacian.tocsc(), k=used, sigma=-1e-3, v0=start)
        vectors = vectors[:, np.argsort(values)]
    largest = np.abs(vectors).argmax(0)
    # the sign of an eigenvector is nobody's choice
    out[:, :used] = vectors * np.sign(vectors[largest, np.arange(used)]) * np.sqrt(count)
    return torch.from_numpy(out)


def _laplacian(view: CanonicalView) -> coo_matrix:
    """(A, A) of the anchors; blocks that touch at a side or a corner are neighbours."""
    count, across = len(view.anchor_depth), -(-view.width // view.subsample)
    pixels = view.anchor_pixels.numpy()
    column, row = pixels % view.width // view.subsample, pixels // view.width // view.subsample
    log_depth = np.log(view.anchor_depth.double().numpy())
    where = np.full((row.max() + 3, across + 2), -1)
    where[row + 1, column + 1] = np.arange(count)
    first, second = [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        other = where[row + 1 + down, column + 1 + right]
        first.append(np.flatnonzero(other >= 0))
        second.append(other[other >= 0])
    a, b = np.concatenate(first), np.concatenate(second)
    tie = WEAK + np.exp(-(((log_depth[a] - log_depth[b]) / ALIKE) ** 2))
    ties = coo_matrix((np.tile(tie, 2), (np.concatenate([a, b]), np.concatenate([b, a]))), shape=(count, count))
    return coo_matrix(diags(np.asarray(ties.sum(1)).ravel()) - ties)
