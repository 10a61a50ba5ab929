"""How large an object is in a world that its surroundings hold."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from dyn4d.core.types import Camera
from dyn4d.geometry.object_distance import path_scale
from dyn4d.geometry.resting import Surroundings, outline_ratios, resting_scale
from dyn4d.geometry.triangulation import SeenAgain

HEIGHT = WIDTH = 160
FOCAL = 220.0


def measured(depth: np.ndarray) -> Surroundings:
    """Every third pixel of a map that is known there."""
    y, x = (axis.ravel() for axis in np.mgrid[1:HEIGHT:3, 1:WIDTH:3])
    known = depth[y, x] > 0
    y, x = y[known], x[known]
    return Surroundings(np.stack([x, y], 1) + 0.5, 1 / depth[y, x], np.ones(len(y)))


def scene(lift: float = 0.0, far: float = 3.0) -> tuple[np.ndarray, Surroundings, np.ndarray]:
    """A floor 1 below the camera and a wall 3 beyond an upright card at `far` that stands on the floor, or hangs `lift`
    above it: mask, what is measured of the surroundings, nothing near the card, and depth of the card."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    down = (y - HEIGHT / 2) / FOCAL
    around = np.minimum(np.where(down > 0, 1 / np.maximum(down, 1e-9), np.inf), far + 3)
    across = (x - WIDTH / 2) / FOCAL * far
    mask = (np.abs(across) < 0.35) & (down * far < 1 - lift) & (down * far > 0.1 - lift)
    yy, xx = np.nonzero(mask)
    rim = np.zeros_like(mask)
    rim[max(yy.min() - 3, 0) : yy.max() + 4, xx.min() - 3 : xx.max() + 4] = True
    return mask, measured(np.where(rim, 0.0, around)), np.where(mask, far, 0.0)


def test_planes_are_carried_on_exactly() -> None:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    inverse = 0.3 + 0.002 * x - 0.001 * y
    depth = 1 / inverse
    depth[40:60, 60:90] = 0
    at = np.array([[50, 70], [47, 81], [10, 10]])
    found = measured(depth).beside(at[:, ::-1] + 0.5, 12.0)
    assert np.abs(found - inverse[at[:, 0], at[:, 1]]).max() < 2e-3
    assert np.isnan(measured(0 * depth).beside(at + 0.5, 12.0)).all()


def test_surroundings_come_from_the_frames_around_and_not_from_behind_the_object() -> None:
    K = torch.tensor([[FOCAL, 0, 80], [0, FOCAL, 80], [0, 0, 1]], dtype=torch.float64).repeat(3, 1, 1)
    poses = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    poses[1, 0, 3], poses[2, 0, 3] = 0.2, 0.4
    cameras = Camera(K, poses, WIDTH, HEIGHT)
    frame = torch.tensor([0, 0, 1, 1])
    xy = torch.tensor([[40.0, 80], [80, 80], [50, 80], [50, 20]], dtype=torch.float64)
    sigma = torch.tensor([1e-3, 1e-3, 1e-3, 0.1], dtype=torch.float64)  # the last one is not known well enough
    seen = SeenAgain(frame, xy, torch.full((4,), 0.25, dtype=torch.float64), sigma, torch.ones(4))
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[60:100, 60:100] = True
    found = Surroundings.of(seen, cameras, 1, mask)
    assert np.allclose(np.sort(found.xy[:, 0]), [40 - 0.2 * FOCAL / 4, 50])
    assert np.allclose(found.inverse, 0.25)
    assert len(Surroundings.of(seen, cameras, 1, ~mask).xy) == 1  # where the second one lands


@pytest.mark.parametrize("unit", [1.0, 0.2, 7.0])
def test_what_stands_on_the_floor_is_as_far_as_the_floor_there(unit: float) -> None:
    ratios = [outline_ratios(mask, around, unit * own) for mask, around, own in (scene(), scene(far=3.5))]
    scale, rests = resting_scale(ratios, 1.1 / unit)
    assert rests and scale * unit == pytest.approx(1, abs=0.05)


def test_feet_that_a_coarse_map_of_depth_misses_are_stood_on() -> None:
    mask, around, own = scene()
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    found, rests = resting_scale([outline_ratios(mask, around, np.where(inner, own, 0))], 1.3)
    assert rests and found == pytest.approx(resting_scale([outline_ratios(mask, around, own)], 1.3)[0], abs=0.02)


def test_a_frame_in_which_it_jumps_changes_little() -> None:
    ratios = [outline_ratios(*scene(lift)) for lift in (0.0, 0.0, 0.0, 0.3, 0.4)]
    assert resting_scale(ratios, 1.0)[0] == pytest.approx(1, abs=0.06)


def test_what_flies_is_as_large_as_the_network_says() -> None:
    mask, around, own = scene(lift=0.75)
    ratios = [outline_ratios(mask, around, own)]
    assert float(np.quantile(ratios[0], 0.02)) > 1.7
    assert resting_scale(ratios, 1.05) == (1.05, False)


def test_nothing_to_see_leaves_the_networks_word() -> None:
    mask, around, own = scene()
    empty = np.zeros_like(mask)
    nothing = Surroundings(np.zeros((0, 2)), np.zeros(0), np.zeros(0))
    for parts in ((empty, around, own), (mask, nothing, own), (mask, around, 0 * own)):
        assert len(outline_ratios(*parts)) == 0
    assert resting_scale([np.zeros(0)], 2.0) == (2.0, False) and resting_scale([], 2.0) == (2.0, False)


def test_a_path_through_the_world_is_plain_at_the_right_size_only() -> None:
    times = np.linspace(0, 1, 40)
    angle = 0.7 * times
    cameras = np.stack([3 * np.sin(angle), -3 * np.cos(angle), 0.3 * np.sin(9 * times)], 1)
    path = np.stack([1.2 * times, 0.3 * times**2, 0.02 * np.sin(40 * times)], 1)
    for unit in (1.0, 0.25, 4.0):
        assert path_scale(cameras, (path - cameras) * unit, times) * unit == pytest.approx(1, abs=0.05)
    still = np.repeat(cameras[:1], 40, 0)
    assert np.isnan(path_scale(still, path - still, times))  # a camera that does nothing says nothing
    straight = np.stack([times, 2 * times, 0 * times], 1)
    assert np.isnan(path_scale(straight, path - straight, times))
    assert np.isnan(path_scale(cameras[:4], (path - cameras)[:4], times[:4]))
