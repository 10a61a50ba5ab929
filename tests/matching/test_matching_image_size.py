"""Bringing pictures to a network's size: reference sizes and pixels, exact K, masks without background."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyn4d.core.errors import InputError
from dyn4d.core.types import Camera
from dyn4d.matching.image_size import InputView, fit_view, full_view, object_view


def test_sizes_are_the_published_ones(reference: Path) -> None:
    table = json.loads((reference / "golden" / "load_images.json").read_text())
    for name, wanted in table.items():
        case = re.fullmatch(r"(\d+)x(\d+) size=(\d+) square_ok=(\w+)", name)
        assert case, name
        view = fit_view(int(case[1]), int(case[2]), int(case[3]), square_ok=case[4] == "True")
        assert [view.width, view.height] == wanted["WH"], name
    assert len(table) == 52


@pytest.mark.parametrize("size", [512, 224])
def test_pixels_are_the_published_ones(reference: Path, size: int) -> None:
    with np.load(reference / "golden" / "misc.npz", allow_pickle=False) as data:
        picture, wanted = data["load/grad_in"], data[f"load/grad_{size}"]
    found = fit_view(200, 150, size).image(picture).astype(np.float32).transpose(2, 0, 1)[None] / 255
    np.testing.assert_allclose((found - 0.5) / 0.5, wanted, atol=1e-6)


def test_sizes_by_hand() -> None:
    view = fit_view(1080, 1920)
    assert (view.resized, view.crop) == ((288, 512), (0, 0, 288, 512))
    assert fit_view(100, 1000).crop == (1, 0, 49, 512)
    assert fit_view(512, 512).crop == (0, 64, 512, 448)
    assert fit_view(640, 480, 224).resized == (299, 224)


def test_nothing_of_a_full_view_is_cut_off() -> None:
    for width, height, size, wanted in (
        (1920, 1080, 512, (512, 288)), (1920, 1080, 112, (112, 64)), (480, 854, 112, (64, 112)),
        (2000, 20, 112, (112, 16)), (100, 100, 112, (112, 112)),
    ):  # fmt: skip
        view = full_view(width, height, size)
        assert (view.width, view.height) == wanted and view.box == (0, 0, width, height)
        corners = torch.tensor([[0.0, 0], [width, height]], dtype=torch.float64)
        torch.testing.assert_close(view.to_view(corners)[1], torch.tensor(wanted, dtype=torch.float64))
    with pytest.raises(InputError, match="multiple of 16"):
        full_view(100, 100, 100)


@st.composite
def views(draw: st.DrawFn) -> InputView:
    width, height = draw(st.integers(40, 700)), draw(st.integers(40, 700))
    if draw(st.booleans()):
        sizes = [224, 512, 64] if max(width, height) < 3 * min(width, height) else [224, 512]  # else nothing is left
        return fit_view(width, height, draw(st.sampled_from(sizes)), square_ok=draw(st.booleans()))
    if draw(st.booleans()):
        return full_view(width, height, draw(st.sampled_from([112, 512])))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    mask = np.zeros((height, width), dtype=bool)
    mask[top : draw(st.integers(top + 1, height)), left : draw(st.integers(left + 1, width))] = True
    return object_view(mask, draw(st.sampled_from([512, 128])), margin=draw(st.sampled_from([0, 0.1, 0.5])))


@given(views(), st.integers(0, 1000))
def test_k_and_pixels_go_along_and_come_back(view: InputView, seed: int) -> None:
    random = np.random.default_rng(seed)
    K = torch.tensor([[random.uniform(50, 900), 0.3, random.uniform(0, 700)], [0, 400.0, 123.4], [0, 0, 1]]).double()
    points = torch.from_numpy(random.uniform([-1, -1, 1], [1, 1, 5], (20, 3)))

    def project(K: torch.Tensor) -> torch.Tensor:
        homogeneous = points @ K.T
        return homogeneous[:, :2] / homogeneous[:, 2:]

    inner = view.K_to_view(K)
    torch.testing.assert_close(project(inner), view.to_view(project(K)), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(view.to_source(view.to_view(project(K))), project(K), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(view.K_to_source(inner), K, rtol=1e-12, atol=1e-9)
    corners = view.to_source(torch.tensor([[0.0, 0], [view.width, view.height]], dtype=torch.float64))
    assert bool((corners > -1e-9).all()) and bool((corners <= torch.tensor(view.source).double() + 1e-9).all())
    assert bool(view.inside(corners.mean(0)))
    assert not bool(view.inside(torch.tensor([-5.0, 3.0])))


@given(views(), st.integers(0, 1000))
def test_no_background_enters_the_mask(view: InputView, seed: int) -> None:
    random = np.random.default_rng(seed)
    width, height = view.source
    mask = random.random((height, width)) < 0.9
    mask[height // 3 : height // 2, width // 4 : width // 2] = True
    area, nearest = view.mask(mask), view.mask(mask, "nearest")
    assert area.shape == nearest.shape == (view.height, view.width)
    for row, column in random.integers(0, [view.height, view.width], (40, 2)):
        (left, top), (right, bottom) = view.to_source(
            torch.tensor([[column, row], [column + 1, row + 1]], dtype=torch.float64)
        ).tolist()
        touched = mask[int(top + 1e-6) : int(np.ceil(bottom - 1e-6)), int(left + 1e-6) : int(np.ceil(right - 1e-6))]
        assert area[row, column] == touched.all()
    assert view.mask(np.ones_like(mask)).all() and not view.mask(np.zeros_like(mask)).any()
    assert not (area & ~nearest).any()


def test_a_marked_pixel_is_found_where_the_map_says() -> None:
    picture = np.zeros((300, 420, 3), np.uint8)
    picture[100:120, 200:220] = 255
    for view in (fit_view(420, 300), fit_view(420, 300, 224), object_view(picture[..., 0] > 0, margin=1.0)):
        bright = view.image(picture)[..., 0].astype(np.float64)
        y, x = np.mgrid[: view.height, : view.width] + 0.5
        centre = torch.tensor([(x * bright).sum() / bright.sum(), (y * bright).sum() / bright.sum()])
        torch.testing.assert_close(view.to_source(centre), torch.tensor([210.0, 110.0]).double(), atol=0.05, rtol=0)


@given(st.data())
def test_the_object_is_never_cut(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(16, 900)), data.draw(st.integers(16, 900))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    margin = data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    view = object_view(mask, 256, margin=margin, square_ok=data.draw(st.booleans()))
    assert view.box[0] <= left and view.box[1] <= top and view.box[2] >= right and view.box[3] >= bottom
    assert max(view.width, view.height) == 256 and view.width % 16 == view.height % 16 == 0
    inside = bool((view.box[2] - view.box[0] < width) and (view.box[3] - view.box[1] < height))
    if inside and min(view.box[2] - view.box[0], view.box[3] - view.box[1]) > 40:
        assert view.scale[0] == pytest.approx(view.scale[1], rel=0.05)


def test_the_object_fills_its_view() -> None:
    mask = np.zeros((1080, 1920), dtype=bool)
    mask[500:700, 900:1200] = True
    view = object_view(mask, margin=0.1)
    assert (view.width, view.height) == (512, 352)
    assert 0.55 < view.mask(mask).mean() < 0.75
    whole = object_view(np.zeros((300, 400), dtype=bool))
    assert whole.box == (0, 0, 400, 300) and (whole.width, whole.height) == (512, 384)


def test_cameras_and_depth_go_along() -> None:
    view = fit_view(640, 480)
    camera = Camera(torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), torch.eye(4), 640, 480)
    inner = view.camera_to_view(camera)
    assert (inner.width, inner.height) == (512, 384)
    torch.testing.assert_close(inner.K, torch.tensor([[400.0, 0, 256], [0, 400, 192], [0, 0, 1]]))
    depth = np.arange(480 * 640, dtype=np.float32).reshape(480, 640)
    assert set(np.unique(view.depth(depth))) <= set(depth.ravel())
    with pytest.raises(ValueError, match="the view is of"):
        view.camera_to_view(Camera(camera.K, camera.world_from_cam, 480, 640))


def test_errors_say_how_to_mend_them() -> None:
    with pytest.raises(InputError, match="crop it first"):
        fit_view(2000, 20)
    with pytest.raises(InputError, match="multiple of 16"):
        fit_view(640, 480, 500)
    with pytest.raises(InputError, match="margin -1"):
        object_view(np.ones((50, 50), dtype=bool), margin=-1)
    view = fit_view(64, 48)
    with pytest.raises(ValueError, match="image: wanted shape"):
        view.image(np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(ValueError, match="wanted uint8"):
        view.image(np.zeros((48, 64, 3), np.float32))
    with pytest.raises(ValueError, match="wanted area or nearest"):
        view.mask(np.zeros((48, 64), dtype=bool), "linear")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"InputView\.box"):
        InputView((10, 10), (0, 0, 11, 10), (16, 16), (0, 0, 16, 16))
