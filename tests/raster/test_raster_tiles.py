"""Which tiles of the picture a Gaussian is listed in: long thin ones in all directions, over many tiles.

The kernels leave out tiles that an ellipse only reaches with the corners of its box. That must not cost a pixel.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from raster_scenes import assert_agree, run
from torch import Tensor

from dyn4d.raster import rasterization
from dyn4d.raster.reference import covariances

WIDTH, HEIGHT, FOCAL, DEPTH = 200, 150, 100.0, 2.0


def needles(angles: Tensor, long: float, thin: float, centres: Tensor, opacity: float = 0.8) -> dict[str, Any]:
    """Flat Gaussians at one depth that face the camera: standard deviations and centres in pixels of the picture."""
    count, pixel = len(angles), DEPTH / FOCAL
    half = angles / 2
    zero = torch.zeros(count)
    middle = torch.tensor([WIDTH / 2, HEIGHT / 2])
    return {
        "means": torch.cat([(centres - middle) * pixel, torch.full((count, 1), DEPTH)], -1),
        "quats": torch.stack([half.cos(), zero, zero, half.sin()], -1),
        "scales": torch.tensor([long * pixel, thin * pixel, 0.0]).repeat(count, 1),
        "opacities": torch.full((count,), opacity),
        "colors": torch.rand(count, 3),
        "viewmats": torch.eye(4)[None],
        "Ks": torch.tensor([[[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]]),
        "backgrounds": torch.zeros(1, 3),
        "width": WIDTH,
        "height": HEIGHT,
    }


def one(scene: dict[str, Any], i: int) -> dict[str, Any]:
    """The scene with Gaussian i only."""
    return scene | {n: scene[n][i : i + 1] for n in ("means", "quats", "scales", "opacities", "colors")}


def exact_alpha(scene: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(H, W) alpha of one Gaussian by the formula, not cut off where it is faint, in float64; and how far float32 may
    be from it, as the exponent's terms are rounded before they cancel."""
    mean, quat, scale = (scene[n].double() for n in ("means", "quats", "scales"))
    focal, middle = FOCAL / DEPTH, scene["Ks"][0, :2, 2].double()
    cov = covariances(quat, scale)[0, :2, :2] * focal**2 + 0.3 * torch.eye(2)  # flat: the Jacobian is just the focal
    (a, b), (_, c) = torch.linalg.inv(cov)
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    u, v = mean[0, :2] * focal + middle
    dx, dy = u - x, v - y
    terms = torch.stack([0.5 * a * dx * dx, b * dx * dy, 0.5 * c * dy * dy])
    alpha = scene["opacities"][0].double() * torch.exp(-terms.sum(0))
    return alpha, alpha * (1e-4 + 1e-6 * terms.abs().sum(0))


@pytest.mark.parametrize("thin", [0.0, 2.0, 6.0])
@pytest.mark.parametrize("long", [12.0, 45.0, 150.0])
def test_no_pixel_of_an_ellipse_is_left_out(long: float, thin: float) -> None:
    angles = torch.linspace(0, math.pi, 37)[:-1] + 0.01
    centres = torch.rand(36, 2) * torch.tensor([260.0, 210.0]) - 30
    scene = needles(angles, long, thin, centres)
    reached = 0
    for i in range(36):
        alone = one(scene, i)
        alphas = rasterization(**alone, backend="cpu")[1][0, ..., 0].double()
        truth, error = exact_alpha(alone)
        drawn, empty = truth - error >= 1 / 255, truth + error < 1 / 255
        assert ((alphas - truth).abs()[drawn] <= error[drawn]).all(), f"angle {float(angles[i]):.2f}"
        assert not alphas[empty].any(), f"angle {float(angles[i]):.2f}"
        assert (~drawn & ~empty).float().mean() < 1e-3, "few pixels are left undecided"
        reached += int(drawn.sum())
    assert reached > 36 * 100


@pytest.mark.parametrize("angle", [0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4])
@pytest.mark.parametrize("shift", [0.0, 0.5, 8.0, 15.5])
def test_ellipses_along_the_axes_and_the_edges_of_tiles(angle: float, shift: float) -> None:
    """Where a chord is at its widest in the middle, at an end, or nowhere in a row of tiles."""
    centres = torch.tensor([[96.0, 80.0], [-20.0, 80.0], [96.0, -9.0], [219.0, 170.0]]) + shift
    scene = needles(torch.full((4,), angle), 60.0, 3.0, centres, opacity=0.99)
    for i in range(4):
        alone = one(scene, i)
        truth, error = exact_alpha(alone)
        alphas = rasterization(**alone, backend="cpu")[1][0, ..., 0].double()
        drawn = truth - error >= 1 / 255
        assert ((alphas - truth).abs()[drawn] <= error[drawn]).all()


@pytest.mark.parametrize("seed", range(3))
def test_many_in_all_directions_match_the_reference(seed: int) -> None:
    torch.manual_seed(seed)
    count = 60
    scene = needles(torch.rand(count) * math.pi, 40.0, 2.5, torch.rand(count, 2) * 240 - 30, opacity=0.5)
    scene["scales"] *= 0.3 + 1.4 * torch.rand(count, 3)
    scene["means"][:, 2] += 0.5 * torch.rand(count)
    truth = run(scene, "reference", torch.float64, render_mode="RGB+ED")
    assert (truth["alphas"] > 0.5).float().mean() > 0.1
    assert_agree(run(scene, "cpu", render_mode="RGB+ED"), truth)


def test_needles_longer_than_float32_can_tell_do_not_vanish() -> None:
    """The determinant of their conic is smaller than the rounding of its terms; a line through the picture remains."""
    angles = torch.linspace(0, math.pi, 61)[:-1] + 0.01
    scene = needles(angles, 30_000.0, 0.0, torch.tensor([[101.0, 77.0]]).repeat(60, 1))
    for i in range(60):
        alone = one(scene, i)
        _, alphas, info = rasterization(**alone, backend="cpu")
        assert alphas.max() > 0.7, f"angle {float(angles[i]):.2f}: radii {info['radii'][0, 0].tolist()}, not drawn"
        truth, error = exact_alpha(alone)
        drawn = truth - error >= 1 / 255
        assert ((alphas[0, ..., 0].double() - truth).abs()[drawn] <= error[drawn]).all()
