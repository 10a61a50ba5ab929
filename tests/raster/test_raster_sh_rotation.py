"""Turning spherical harmonics: the turned colours in turned directions are the colours."""

import pytest
import torch

from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.raster.sh import rotate_sh, sh_basis


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_turned_colours_in_turned_directions_are_the_colours(degree: int) -> None:
    generator = torch.Generator().manual_seed(degree)
    count = (degree + 1) ** 2
    coefficients = torch.randn(20, count, 3, generator=generator, dtype=torch.float64)
    rotation = wxyz_to_matrix(torch.randn(20, 4, generator=generator, dtype=torch.float64))
    directions = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator, dtype=torch.float64), dim=-1)
    before = (sh_basis(degree, directions)[..., None] * coefficients).sum(1)
    turned = torch.einsum("gij,gj->gi", rotation, directions)
    after = (sh_basis(degree, turned)[..., None] * rotate_sh(coefficients, rotation)).sum(1)
    assert torch.allclose(before, after, atol=1e-6)


def test_two_turns_are_one() -> None:
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(5, 16, 3, generator=generator, dtype=torch.float64)
    a, b = wxyz_to_matrix(torch.randn(2, 5, 4, generator=generator, dtype=torch.float64))
    assert torch.allclose(rotate_sh(rotate_sh(coefficients, a), b), rotate_sh(coefficients, b @ a), atol=1e-6)
