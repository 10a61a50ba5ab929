"""SSIM in numba against plain torch."""

from __future__ import annotations

import pytest
import torch

from dyn4d.raster.similarity import ssim, ssim_reference, window_weights


@pytest.mark.parametrize("shape", [(37, 51, 3), (16, 16, 1), (4, 3, 3), (1, 1, 3), (11, 40, 4)])
def test_values_and_gradient(shape: tuple[int, int, int]) -> None:
    pred, target, cotangent = torch.rand(shape), torch.rand(shape), torch.randn(shape)
    a, b = pred.clone().requires_grad_(), pred.double().requires_grad_()
    fast, slow = ssim(a, target), ssim_reference(b, target.double())
    torch.testing.assert_close(fast.double(), slow, atol=1e-5, rtol=0)
    (fast * cotangent).sum().backward()
    (slow * cotangent.double()).sum().backward()
    assert a.grad is not None and b.grad is not None
    assert (a.grad.double() - b.grad).norm() <= 1e-4 * b.grad.norm()


def test_equal_pictures_have_similarity_one_and_no_slope() -> None:
    image = torch.rand(20, 30, 3, requires_grad=True)
    value = ssim(image, image.detach())
    torch.testing.assert_close(value, torch.ones_like(value), atol=1e-4, rtol=0)
    value.sum().backward()
    assert image.grad is not None and image.grad.abs().max() < 1e-2


def test_matches_a_window_built_by_hand() -> None:
    a, b = torch.rand(11, 11, 1).double(), torch.rand(11, 11, 1).double()
    weights = window_weights()[:, None] * window_weights()[None, :]
    mean_a, mean_b = (weights * a[..., 0]).sum(), (weights * b[..., 0]).sum()
    var_a, var_b = (weights * (a[..., 0] - mean_a) ** 2).sum(), (weights * (b[..., 0] - mean_b) ** 2).sum()
    cov = (weights * (a[..., 0] - mean_a) * (b[..., 0] - mean_b)).sum()
    expected = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
    expected = expected / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
    torch.testing.assert_close(ssim(a, b)[5, 5, 0], expected)


def test_a_gradient_of_the_target_goes_through_torch() -> None:
    pred, target = torch.rand(12, 12, 3), torch.rand(12, 12, 3, requires_grad=True)
    ssim(pred, target).sum().backward()
    assert target.grad is not None and target.grad.any()


def test_same_bits_for_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    pred, target = torch.rand(60, 50, 3), torch.rand(60, 50, 3)
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            image = pred.clone().requires_grad_()
            value = ssim(image, target)
            value.square().sum().backward()
            results.append((value.detach(), image.grad))
    finally:
        torch.set_num_threads(before)
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0]) and torch.equal(grad, results[0][1])


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="target"):
        ssim(torch.rand(4, 4, 3), torch.rand(4, 5, 3))
