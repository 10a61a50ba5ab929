"""Real spherical harmonics up to degree 4, with the signs that 3D Gaussian splatting files use."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

MAX_DEGREE = 4


def sh_basis(degree: int, directions: Tensor) -> Tensor:
    """Values (..., (degree + 1)²) of the basis functions in directions (..., 3) of any length > 0.

    Source: P.-P. Sloan, "Efficient Spherical Harmonic Evaluation", JCGT 2013 (Condon-Shortley signs as in 3DGS).
    """
    x, y, z = torch.nn.functional.normalize(directions, dim=-1).unbind(-1)
    bands = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        bands += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    c1, s1 = x * x - y * y, 2 * x * y  # real and imaginary part of (x + iy)²
    if degree >= 2:
        b = -1.0925484305920792 * z
        p6 = 0.9461746957575601 * z * z - 0.31539156525252005
        bands += [0.5462742152960396 * s1, b * y, p6, b * x, 0.5462742152960396 * c1]
    c2, s2 = x * c1 - y * s1, x * s1 + y * c1
    if degree >= 3:
        c = -2.285228997322329 * z * z + 0.4570457994644658
        b = 1.445305721320277 * z
        a = -0.5900435899266435
        p12 = z * (1.865881662950577 * z * z - 1.119528997770346)
        bands += [a * s2, b * s1, c * y, p12, c * x, b * c1, a * c2]
    if degree >= 4:
        c3, s3 = x * c2 - y * s2, x * s2 + y * c2
        d = z * (-4.683325804901025 * z * z + 2.007139630671868)
        c = 3.3116114351514603 * z * z - 0.47308734787878004
        b = -1.7701307697799304 * z
        a = 0.6258357354491761
        p20 = 1.9843134832984433 * z * p12 - 1.0062305898749053 * p6
        bands += [a * s3, b * s2, c * s1, d * y, p20, d * x, c * c1, b * c2, a * c3]
    return torch.stack(bands, dim=-1)


def sh_colors(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
    """Colours (..., 3) = max(0, 0.5 + SH) of `coefficients` (..., K, 3) seen along `directions` (..., 3)."""
    count = (degree + 1) ** 2
    basis = sh_basis(degree, directions)
    return ((basis.unsqueeze(-1) * coefficients[..., :count, :]).sum(-2) + 0.5).clamp_min(0)


def rotate_sh(coefficients: Tensor, rotation: Tensor) -> Tensor:
    """Coefficients (G, K, 3) of the same colours turned by rotations (G, 3, 3): seen along R d they look as before
    along d.

    A band of degree l is turned within itself: its values in a few fixed directions d are those that it had along Rᵀ d,
    and give the new coefficients back by least squares, exactly.
    """
    degree = round(coefficients.shape[1] ** 0.5) - 1
    if degree == 0:
        return coefficients
    before = sh_basis(degree, _directions().to(coefficients) @ rotation)  # rows: Rᵀ d
    out = [coefficients[:, :1]]
    for band in range(1, degree + 1):
        part = slice(band * band, (band + 1) ** 2)
        out.append(_back(band).to(coefficients) @ (before[..., part] @ coefficients[:, part]))
    return torch.cat(out, dim=1)


@functools.cache
def _back(band: int) -> Tensor:
    """(2 band + 1, 16): from a band's values in `_directions` to its coefficients."""
    return torch.linalg.pinv(sh_basis(band, _directions())[:, band * band :])


@functools.cache
def _directions() -> Tensor:
    """(16, 3) directions that tell all functions of a band up to degree 4 apart: a Fibonacci spiral."""
    i = torch.arange(16, dtype=torch.float64) + 0.5
    z, turn = 1 - i / 8, torch.pi * (1 + 5**0.5) * i
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * torch.cos(turn), radius * torch.sin(turn), z], dim=-1)
