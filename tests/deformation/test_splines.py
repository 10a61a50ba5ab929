"""Coupling on splines: our kernels against plain torch, sums that do not depend on threads, refinement, the pyramid."""

import pytest
import torch

from dyn4d.deformation.coupling import CouplingStack, levels_of
from dyn4d.deformation.splines import DOMAIN, Layout, basis, couple, couple_reference, refinement


def make_planes(rows: int, layers: int = 6, cells: int = 16, seed: int = 0) -> torch.Tensor:
    """Smooth random control points: coarse ones, refined."""
    generator = torch.Generator().manual_seed(seed)
    planes = 0.2 * torch.randn(rows, layers, 2, 7, 7, generator=generator, dtype=torch.float64)
    for level in levels_of(cells)[:-1]:
        planes = refinement(level) @ planes @ refinement(level).T
    return planes.permute(0, 1, 3, 4, 2).float().contiguous()


def make_points(count: int, spread: float = 1.0) -> torch.Tensor:
    return spread * (2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) - 1)


@pytest.mark.parametrize("inverse", [False, True])
def test_kernels_agree_with_plain_torch(inverse: bool) -> None:
    layout = Layout.of([2, 0, 2, 1], [300, 2500, 7, 0], 3)
    planes, x = make_planes(3), make_points(2807, spread=1.6)  # some beyond the splines' border
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    found = []
    for dtype in (torch.float32, torch.float64):
        p, q = x.to(dtype).requires_grad_(True), planes.to(dtype).requires_grad_(True)
        moved, jacobian = couple(p, q, layout, inverse=inverse, jacobian=True)
        found.append((moved, jacobian, *torch.autograd.grad((moved * weight).sum(), (p, q))))
    for ours, wanted in zip(*found):
        assert (ours.double() - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (found[0][0] - x).abs().max() > 0.1, "the layers must do something"


def test_gradients_by_finite_differences() -> None:
    layout = Layout.of([0, 1], [2, 2], 2)
    planes = make_planes(2, layers=3, cells=4).double().requires_grad_(True)
    x = make_points(4).double().requires_grad_(True)
    for inverse in (False, True):
        assert torch.autograd.gradcheck(
            lambda p, q, inverse=inverse: couple_reference(p, q, layout, inverse=inverse)[0], (x, planes)
        )


def test_inverse_undoes_what_forward_did() -> None:
    layout = Layout.of([0, 1], [4000, 1000], 2)
    planes, x = make_planes(2), make_points(5000, spread=1.4)
    moved, _ = couple(x, planes, layout)
    back, _ = couple(moved, planes, layout, inverse=True)
    assert (back - x).abs().max() < 3e-6


@pytest.mark.parametrize("rows", [1, 12])
def test_gradients_do_not_depend_on_threads(rows: int) -> None:
    layout = Layout.of([i % rows for i in range(3 * rows)], [6000 // rows] * (3 * rows), rows)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x, planes = make_points(18000).requires_grad_(True), make_planes(rows).requires_grad_(True)
            moved, _ = couple(x, planes, layout)
            found.append((moved, *torch.autograd.grad(moved.square().sum(), (x, planes))))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def test_weights_are_a_partition_of_one_and_smooth() -> None:
    place = torch.linspace(-DOMAIN, DOMAIN * 0.999, 4001, dtype=torch.float64)
    index, weights, slopes = basis(place, 8)
    assert torch.allclose(weights.sum(-1), torch.ones_like(place))
    assert torch.allclose(slopes.sum(-1), torch.zeros_like(place), atol=1e-12)
    control = torch.randn(11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = (control[index[:, None] + torch.arange(4)] * weights).sum(-1)
    slope = (control[index[:, None] + torch.arange(4)] * slopes).sum(-1)
    assert torch.allclose(torch.gradient(value, spacing=(place,))[0][1:-1], slope[1:-1], atol=1e-3)


def test_beyond_the_border_planes_go_on() -> None:
    planes = make_planes(1, layers=1)
    x = torch.tensor([[0.3, DOMAIN, 0.2], [0.3, 5.0, 0.2]])
    moved, _ = couple(x, planes, Layout.of([0], [2], 1))
    assert torch.allclose(moved[0, 0], moved[1, 0], atol=1e-3)


@pytest.mark.parametrize("cells", [4, 8, 32])
def test_refinement_keeps_the_spline(cells: int) -> None:
    control = torch.randn(cells + 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fine = refinement(cells) @ control
    place = torch.linspace(-DOMAIN, 0.99 * DOMAIN, 500, dtype=torch.float64)
    values = []
    for points, count in ((control, cells), (fine, 2 * cells)):
        index, weights, _ = basis(place, count)
        values.append((points[index[:, None] + torch.arange(4)] * weights).sum(-1))
    assert torch.allclose(*values, atol=1e-12)


def test_levels_add_up_and_closed_ones_cost_nothing() -> None:
    stack = CouplingStack(6, cells=16, time_features=5)
    code, x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)), make_points(80, 0.5)
    layout = Layout.of([0, 1], [40, 40], 2)

    def moved() -> torch.Tensor:
        return couple(x, stack.planes(code), layout)[0]

    assert torch.equal(moved(), x), "the identity when made"
    with torch.no_grad():
        stack.tables[1].normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    whole = moved()
    assert (whole - x).abs().max() > 0.05
    stack.window[2] = 0
    assert stack.planes(code).shape == (2, 6, 11, 11, 2)
    assert torch.allclose(moved(), whole, atol=1e-5), "an empty level changes nothing"
    stack.window[1] = 0
    assert torch.equal(moved(), x)


def test_cells_double() -> None:
    assert levels_of(32) == [4, 8, 16, 32]
    with pytest.raises(ValueError, match="wanted 4, 8, 16"):
        CouplingStack(3, cells=20, time_features=2)
