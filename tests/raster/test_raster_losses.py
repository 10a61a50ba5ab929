"""`l1_and_dssim` against its formula in plain torch, and against differences of its own values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dyn4d.raster.similarity import l1_and_dssim, ssim, ssim_reference

SHAPES = [(37, 51, 3), (29, 33, 4), (45, 31, 1), (16, 16, 3), (5, 70, 3), (70, 5, 4), (11, 2, 3), (1, 1, 1), (1, 1, 3)]
MASKS = ["none", "l1", "dssim", "both", "disc"]


def pictures(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Two pictures, nowhere nearly equal, so that |a - b| is smooth around them."""
    target = torch.rand(shape)
    return target + (0.05 + 0.3 * torch.rand(shape)) * (2 * torch.randint(0, 2, shape) - 1), target


def weights(shape: tuple[int, ...], kind: str) -> dict[str, Tensor]:
    size = shape[:2]
    if kind == "disc":  # as an object's mask: 0 or 1, the same for both
        y, x = torch.meshgrid(torch.linspace(-1, 1, size[0]), torch.linspace(-1, 1, size[1]), indexing="ij")
        return dict.fromkeys(["l1_weight", "dssim_weight"], x * x + y * y < 0.5)
    both = {"l1_weight": torch.rand(size), "dssim_weight": 3 * torch.rand(size)}
    return {name: value for name, value in both.items() if kind == "both" or name == f"{kind}_weight"}


def formula(
    pred: Tensor, target: Tensor, l1_weight: Tensor | None = None, dssim_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What the docstring says, channel by channel."""
    by_l1, by_dssim = (torch.ones(pred.shape[:2]) if w is None else w for w in (l1_weight, dssim_weight))
    count = pred.shape[2]
    l1 = torch.stack([(by_l1 * (pred[..., c] - target[..., c]).abs()).sum() for c in range(count)]).mean()
    similar = ssim_reference(pred, target)
    return l1, torch.stack([(by_dssim * (1 - similar[..., c])).sum() for c in range(count)]).mean()


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: tuple[int, int, int], kind: str) -> None:
    pred, target = pictures(shape)
    given = weights(shape, kind)
    a, b = pred.clone().requires_grad_(), pred.double().requires_grad_()
    found = l1_and_dssim(a, target, **given)
    truth = formula(b, target.double(), **{n: w.double() for n, w in given.items()})
    for value, true in zip(found, truth):
        assert value.shape == () and value.dtype == torch.float32
        assert value.item() == pytest.approx(true.item(), rel=1e-5, abs=1e-5)
    for factors in ((1.0, 0.0), (0.0, 1.0), (0.8, -0.3)):
        grads = [
            torch.autograd.grad(factors[0] * l1 + factors[1] * dssim, leaf, retain_graph=True)[0]
            for leaf, (l1, dssim) in ((a, found), (b, truth))
        ]
        assert (grads[0].double() - grads[1]).norm() <= 1e-4 * grads[1].norm().clamp_min(1e-3)


@pytest.mark.parametrize("kind", ["none", "both"])
@pytest.mark.parametrize("which", [0, 1])
def test_gradient_is_the_slope_of_the_value(which: int, kind: str) -> None:
    """Directional differences of the float32 losses themselves, without a second formula."""
    pred, target = pictures((23, 19, 3))
    given = weights(pred.shape, kind)
    leaf = pred.clone().requires_grad_()
    l1_and_dssim(leaf, target, **given)[which].backward()
    assert leaf.grad is not None
    for direction in (leaf.grad, torch.randn(pred.shape)):
        step = 1e-2 * direction / direction.abs().max()
        change = l1_and_dssim(pred + step, target, **given)[which] - l1_and_dssim(pred - step, target, **given)[which]
        slope = float((leaf.grad * step).sum()) * 2
        assert float(change) == pytest.approx(slope, rel=2e-2, abs=1e-3 * float(leaf.grad.norm() * step.norm()))


def test_one_of_the_two_alone() -> None:
    pred, target = pictures((20, 24, 3))
    for which in (0, 1):
        alone, beside = pred.clone().requires_grad_(), pred.clone().requires_grad_()
        l1_and_dssim(alone, target)[which].backward()
        pair = l1_and_dssim(beside, target)
        (pair[which] + 0 * pair[1 - which]).backward()
        assert torch.equal(alone.grad, beside.grad)


def test_weights_of_one_are_no_weights_and_of_zero_nothing() -> None:
    pred, target = pictures((20, 24, 3))
    ones, zeros = torch.ones(20, 24), torch.zeros(20, 24)
    assert l1_and_dssim(pred, target, l1_weight=ones, dssim_weight=ones) == l1_and_dssim(pred, target)
    leaf = pred.clone().requires_grad_()
    l1, dssim = l1_and_dssim(leaf, target, l1_weight=zeros, dssim_weight=zeros)
    (l1 + dssim).backward()
    assert l1 == 0 and dssim == 0 and leaf.grad is not None and not leaf.grad.any()


def test_equal_pictures() -> None:
    """No loss, and no slope of |a - b| where a = b."""
    leaf = torch.rand(30, 20, 3, requires_grad=True)
    l1, dssim = l1_and_dssim(leaf, leaf.detach().clone())
    assert l1 == 0 and dssim.abs() < 1e-4 * 600
    assert not torch.autograd.grad(l1, leaf)[0].any()


def test_the_map_adds_up_to_the_loss() -> None:
    pred, target = pictures((33, 47, 3))
    mask = torch.rand(33, 47)
    expected = (mask * (1 - ssim(pred, target)).mean(-1).double()).sum()
    torch.testing.assert_close(l1_and_dssim(pred, target, dssim_weight=mask)[1].double(), expected, rtol=1e-5, atol=0)


def test_losses_of_pictures_turned_over_are_the_same() -> None:
    """Mirrored, transposed, channels in another order: the same losses, the gradient turned over as well."""
    pred, target = pictures((26, 41, 3))
    leaf = pred.clone().requires_grad_()
    truth = l1_and_dssim(leaf, target)
    sum(truth).backward()
    turns = [
        (lambda t: t.flip(0)), (lambda t: t.flip(1)), (lambda t: t.transpose(0, 1)), (lambda t: t[..., [2, 0, 1]]),
    ]  # fmt: skip
    for turn in turns:
        other = turn(pred).detach().requires_grad_()  # not contiguous, but for the last
        found = l1_and_dssim(other, turn(target))
        sum(found).backward()
        assert all(math.isclose(x.item(), y.item(), rel_tol=1e-5) for x, y in zip(found, truth))
        assert other.grad is not None and leaf.grad is not None
        torch.testing.assert_close(other.grad, turn(leaf.grad), rtol=1e-3, atol=1e-4)


def test_doubles_are_exact() -> None:
    pred, target = (t[:9, :8, :2].double().requires_grad_() for t in pictures((9, 8, 2)))
    mask = torch.rand(9, 8, dtype=torch.float64, requires_grad=True)

    def losses(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        return torch.stack(l1_and_dssim(a, b, l1_weight=w, dssim_weight=w * w))

    assert losses(pred, target, mask).dtype == torch.float64
    assert torch.autograd.gradcheck(losses, (pred, target, mask), eps=1e-6, atol=1e-6)


def test_a_target_or_weights_that_want_a_gradient_get_one() -> None:
    pred, target = pictures((21, 18, 3))
    leaf, mask = pred.clone().requires_grad_(), torch.rand(21, 18)
    fast = l1_and_dssim(leaf, target, l1_weight=mask, dssim_weight=mask)
    slope = torch.autograd.grad(fast[0] + fast[1], leaf)[0]

    learned = [pred.clone().requires_grad_(), target.clone().requires_grad_(), mask.clone().requires_grad_()]
    slow = l1_and_dssim(learned[0], learned[1], l1_weight=learned[2], dssim_weight=learned[2])
    grads = torch.autograd.grad(slow[0] + slow[1], learned)
    torch.testing.assert_close(slow, fast, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grads[0], slope, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(grads[2], (pred - target).abs().mean(-1) + (1 - ssim(pred, target)).mean(-1))
    doubles = [t.detach().double().requires_grad_() for t in learned]
    truth = formula(doubles[0], doubles[1], doubles[2], doubles[2])
    by_target = torch.autograd.grad(truth[0] + truth[1], doubles[1])[0]
    torch.testing.assert_close(grads[1].double(), by_target, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        assert not l1_and_dssim(learned[0], learned[1])[0].requires_grad


@pytest.mark.parametrize("name", ["target", "l1_weight", "dssim_weight"])
def test_wrong_shapes_are_named(name: str) -> None:
    target = torch.rand(4, 5 if name == "target" else 4, 3)
    given = {name: torch.rand(4, 5)} if name != "target" else {}
    with pytest.raises(ValueError, match=name):
        l1_and_dssim(torch.rand(4, 4, 3), target, **given)
