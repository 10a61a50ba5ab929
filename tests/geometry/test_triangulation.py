"""Depth of single pixels out of other frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dyn4d.core.cameras import look_at
from dyn4d.core.types import Camera, Correspondences
from dyn4d.geometry.triangulation import triangulate

SIZE, FOCAL = 200, 240.0


def cameras(count: int = 5) -> Camera:
    poses = torch.stack([
        look_at(torch.tensor([0.25 * n - 0.5, 0.05 * n, 0.0]), torch.tensor([0.0, 0, 4.0]), torch.tensor([0.0, -1, 0]))
        for n in range(count)
    ]).double()  # fmt: skip
    K = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]], dtype=torch.float64)
    return Camera(K.repeat(count, 1, 1), poses, SIZE, SIZE)


def seen(world: torch.Tensor, camera: Camera, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    pose = torch.linalg.inv(camera.world_from_cam[row])
    there = world @ pose[:3, :3].T + pose[:3, 3]
    flat = there @ camera.K[row].T
    return flat[:, :2] / flat[:, 2:], there[:, 2]


def matched(world: torch.Tensor, camera: Camera) -> Correspondences:
    """From frame 2 to all others."""
    xy = [seen(world, camera, row)[0].float() for row in range(len(camera))]
    others = [row for row in range(len(camera)) if row != 2]
    count = len(world)
    return Correspondences(
        torch.full((count * len(others),), 2), torch.tensor(others).repeat_interleave(count),
        xy[2].repeat(len(others), 1), torch.cat([xy[row] for row in others]), torch.ones(count * len(others)),
    )  # fmt: skip


@pytest.fixture
def world() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(60, 3, generator=generator, dtype=torch.float64) * 2 - 1 + torch.tensor([0, 0, 4.0])


def by_place(found, xy: torch.Tensor) -> torch.Tensor:
    return torch.cdist(xy.float().double(), found.xy).argmin(1)


def test_depth_is_that_of_what_is_seen(world: torch.Tensor) -> None:
    camera = cameras()
    found = triangulate(matched(world, camera), camera)
    xy, depth = seen(world, camera, 2)
    rows = by_place(found, xy)
    assert len(found.frame) == len(world) and bool((found.frame == 2).all())
    assert torch.allclose(1 / found.inverse[rows], depth, rtol=1e-4)
    assert float(found.agree.min()) > 0.99
    assert bool(found.close(0.05).all()) and not bool(found.close(1e-6).any())


def test_one_wrong_match_in_four_does_little(world: torch.Tensor) -> None:
    camera, matches = cameras(), matched(world, cameras())
    wrong = matches.frame_b == 0
    moved = Correspondences(matches.frame_a, matches.frame_b, matches.xy_a,
                            matches.xy_b + 15.0 * wrong[:, None], matches.weight)  # fmt: skip
    found = triangulate(moved, camera)
    xy, depth = seen(world, camera, 2)
    assert float((found.inverse[by_place(found, xy)] * depth - 1).abs().max()) < 0.02
    assert float(found.agree.min()) > 0.7 and float(found.agree.max()) < 0.8  # three of four do


def test_sigma_is_what_a_pixels_noise_comes_to(world: torch.Tensor) -> None:
    camera, matches = cameras(), matched(world, cameras())
    generator = torch.Generator().manual_seed(1)
    noise = 0.2 * torch.randn(matches.xy_b.shape, generator=generator)
    found = triangulate(Correspondences(matches.frame_a, matches.frame_b, matches.xy_a, matches.xy_b + noise,
                                        matches.weight), camera)  # fmt: skip
    xy, depth = seen(world, camera, 2)
    rows = by_place(found, xy)
    off = (found.inverse[rows] - 1 / depth) / found.sigma[rows]
    assert 0.2 < float(off.std()) < 0.8  # sigma is of half a pixel


def test_frames_without_a_camera_say_nothing(world: torch.Tensor) -> None:
    camera = cameras()
    camera.world_from_cam[2] = float("nan")
    assert len(triangulate(matched(world, camera), camera).frame) == 0
    still = Camera(camera.K, camera.world_from_cam[:1].repeat(5, 1, 1), SIZE, SIZE)
    found = triangulate(matched(world, still), still)  # a camera that stands still
    assert not bool(found.close(0.5).any()) and np.isfinite(found.inverse.numpy()).all()
