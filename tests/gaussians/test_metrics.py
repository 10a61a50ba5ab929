"""Laws of the picture metrics: by-hand values, no influence from outside the mask, agreement with a slow twin."""

import math

import pytest
import torch

from dyn4d.gaussians import metrics


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(24, 30, 3, generator=generator)
    prediction = (target + 0.1 * torch.randn(24, 30, 3, generator=generator)).clamp(0, 1)
    mask = torch.zeros(24, 30, dtype=torch.bool)
    mask[4:19, 6:25] = True
    mask[8:12, 10:14] = False
    return prediction, target, mask


def slow_mssim(a, b, mask):
    """The definition, one pixel at a time."""
    offset = torch.arange(11).double() - 5
    line = torch.exp(-offset.square() / (2 * 1.5**2))
    window = line[:, None] * line[None, :]
    total, count = 0.0, 0
    height, width = mask.shape
    for y, x in torch.nonzero(mask).tolist():
        w, pa, pb = [], [], []
        for dy in range(-5, 6):
            for dx in range(-5, 6):
                r, c = y + dy, x + dx
                if 0 <= r < height and 0 <= c < width and mask[r, c]:
                    w.append(float(window[dy + 5, dx + 5]))
                    pa.append(a[r, c].double())
                    pb.append(b[r, c].double())
        weight = torch.tensor(w).double()[:, None] / sum(w)
        pa, pb = torch.stack(pa), torch.stack(pb)
        ma, mb = (weight * pa).sum(0), (weight * pb).sum(0)
        va, vb = (weight * (pa - ma) ** 2).sum(0), (weight * (pb - mb) ** 2).sum(0)
        cov = (weight * (pa - ma) * (pb - mb)).sum(0)
        ssim = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
        total, count = total + float(ssim.mean()), count + 1
    return total / count


def test_known_values():
    target = torch.zeros(4, 4, 3)
    prediction = torch.full((4, 4, 3), 0.1)
    mask = torch.ones(4, 4, dtype=torch.bool)
    assert float(metrics.psnr(prediction, target)) == pytest.approx(20.0, abs=1e-4)
    assert float(metrics.mpsnr(prediction, target, mask)) == pytest.approx(20.0, abs=1e-4)
    prediction[0, 0] = 1.0
    mask[0, 0] = False
    assert float(metrics.mpsnr(prediction, target, mask)) == pytest.approx(20.0, abs=1e-4)
    assert float(metrics.psnr(prediction, target)) == pytest.approx(-10 * math.log10((15 * 0.01 + 1) / 16), abs=1e-4)


def test_mssim_agrees_with_the_slow_twin(pictures):
    assert float(metrics.mssim(*pictures)) == pytest.approx(slow_mssim(*pictures), abs=1e-9)


@pytest.mark.parametrize("name", ["mpsnr", "mssim"])
def test_outside_the_mask_has_no_influence(pictures, name):
    prediction, target, mask = pictures
    metric = getattr(metrics, name)
    changed = torch.where(mask[..., None], prediction, 1 - target)
    assert float(metric(changed, target, mask)) == pytest.approx(float(metric(prediction, target, mask)), abs=1e-12)
    assert float(metric(prediction, target, mask)) < float(metric(target, target, mask))


def test_identical_pictures_and_empty_masks(pictures):
    _, target, mask = pictures
    assert float(metrics.mpsnr(target, target, mask)) == metrics.MAX_PSNR
    assert float(metrics.mssim(target, target, mask)) == pytest.approx(1.0)
    empty = torch.zeros_like(mask)
    assert math.isnan(float(metrics.mpsnr(target, target, empty)))
    assert math.isnan(float(metrics.mssim(target, target, empty)))


def test_mean_leaves_out_pictures_without_object(pictures):
    prediction, target, mask = pictures
    alpha = mask.float()
    rows = [metrics.picture_metrics(prediction, alpha, target, m) for m in (mask, torch.zeros_like(mask))]
    mean = metrics.mean_metrics(rows)
    assert mean["mpsnr"] == pytest.approx(rows[0]["mpsnr"])
    assert mean["iou"] == pytest.approx(0.5)
    assert metrics.mean_metrics([]) == {"mpsnr": None, "psnr": None, "mssim": None, "iou": None}
    assert metrics.mpsnr_so_far([{"mpsnr": 20.0}, {"mpsnr": float("inf")}, {"mpsnr": 30.0}]) == {"mpsnr": 25.0}
    assert metrics.mpsnr_so_far([]) == {}


def test_iou():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    alpha = torch.zeros(4, 4)
    alpha[1:3] = 0.9
    assert float(metrics.iou(alpha, mask)) == pytest.approx(1 / 3)
    assert float(metrics.iou(alpha * 0.5, mask)) == 0.0
    assert float(metrics.iou(torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.bool))) == 1.0


def test_wrong_shapes_are_named(pictures):
    prediction, target, mask = pictures
    with pytest.raises(ValueError, match="mask: wanted shape"):
        metrics.mpsnr(prediction, target, mask[:-1])
