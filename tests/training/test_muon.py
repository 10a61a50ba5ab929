"""Muon: its matrices are orthogonal, its steps do not know how long a gradient is, and it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyn4d.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(24, 24), (8, 60), (60, 8), (1, 5)])
def test_a_matrix_keeps_its_directions_and_loses_their_lengths(shape: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    count = min(shape)
    u, v = (torch.linalg.qr(torch.randn(side, count, generator=rng))[0] for side in shape)
    values = torch.logspace(0, -1.5, count)
    out = orthogonalised(u @ torch.diag(values) @ v.T)
    inside = u.T @ out @ v
    assert ((inside.diagonal() > 0.6) & (inside.diagonal() < 1.25)).all()
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-3
    assert torch.allclose(u @ inside @ v.T, out, atol=1e-3)  # nothing beside them
    assert orthogonalised(torch.zeros(shape)).abs().max() == 0


def test_a_step_is_as_long_whatever_the_gradient_is_multiplied_with() -> None:
    ends = []
    for factor in (1.0, 1e4):
        layer = nn.Conv2d(3, 6, 3, bias=False)
        nn.init.constant_(layer.weight, 0.1)
        optimiser = Muon(layer.parameters(), 0.01)
        for number in range(3):
            layer.weight.grad = factor * torch.randn(
                layer.weight.shape, generator=torch.Generator().manual_seed(number)
            )
            optimiser.step()
        ends.append(layer.weight.detach().clone())
    assert torch.allclose(*ends, atol=1e-5) and not torch.allclose(ends[0], torch.full_like(ends[0], 0.1))


def test_weights_shrink_and_what_has_no_gradient_stays() -> None:
    first, second = nn.Parameter(torch.eye(4)), nn.Parameter(torch.eye(4))
    optimiser = Muon([first, second], 0.1, decay=0.5)
    first.grad = torch.zeros(4, 4)
    optimiser.step()
    assert torch.allclose(first, 0.95 * torch.eye(4)) and torch.equal(second, torch.eye(4))
    with pytest.raises(ValueError, match="two dimensions"):
        Muon([nn.Parameter(torch.zeros(4))], 0.1)


def test_it_finds_a_matrix_of_which_some_directions_hardly_count() -> None:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(200, 8, generator=rng) * torch.logspace(0, -1.5, 8)
    wanted = torch.randn(8, 8, generator=rng)
    weight = nn.Parameter(torch.zeros(8, 8))
    optimiser = Muon([weight], 0.05)
    for number in range(300):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 * (1 - number / 300)
        optimiser.zero_grad()
        ((x @ (weight - wanted)) ** 2).mean().backward()
        optimiser.step()
    assert (weight - wanted).abs().max() < 0.1
