"""Scenes at the edge of what can be drawn, in both of our backends: empty, degenerate, huge, and odd pictures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from raster_scenes import HEIGHT, WIDTH, assert_agree, cast, make_scene, run
from torch import Tensor

from dyn4d.raster import rasterization

BACKENDS = ("cpu", "reference")


def both(scene: dict[str, Any], gradient: float = 1e-3, **options: Any) -> dict[str, Tensor]:
    """Draw with both backends, which must agree and give finite numbers only; the reference's result."""
    found, truth = run(scene, "cpu", **options), run(scene, "reference", torch.float64, **options)
    for result in (found, truth):
        for name, value in result.items():
            assert torch.isfinite(value).all(), name
    if scene["means"].shape[0]:
        assert_agree(found, truth, gradient)
    return truth


def picture(width: int, height: int) -> dict[str, Any]:
    """The size of the picture and a camera that looks at its middle."""
    K = torch.tensor([[[20.0, 0, width / 2], [0, 22, height / 2], [0, 0, 1]]])
    return {"width": width, "height": height, "Ks": K}


@pytest.mark.parametrize("mode", ["RGB", "ED", "RGB+ED"])
@pytest.mark.parametrize("covars", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gaussians(backend: str, covars: bool, mode: str) -> None:
    scene = make_scene(0, 2, covars=covars)
    found = run(scene, backend, render_mode=mode)
    assert found["alphas"].shape == (2, HEIGHT, WIDTH, 1) and not found["alphas"].any()
    count = 3 if mode.startswith("RGB") else 0
    behind = scene["backgrounds"][:, None, None].expand(2, HEIGHT, WIDTH, 3)[..., :count]
    assert torch.equal(found["renders"][..., :count], behind) and not found["renders"][..., count:].any()
    assert found["grad means"].shape == (0, 3)


def test_no_gaussians_with_harmonics() -> None:
    both(make_scene(0, 2, channels=None, sh=3), sh_degree=3, render_mode="RGB+ED", rasterize_mode="antialiased")


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_all_behind(mode: str) -> None:
    scene = make_scene(40, 2, channels=None, sh=2)
    scene["means"][:, 2] = -8
    truth = both(scene, sh_degree=2, render_mode="RGB+ED", rasterize_mode=mode)
    assert not truth["alphas"].any() and not truth["radii"].any() and not truth["grad colors"].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("plane", ["near_plane", "far_plane"])
def test_a_plane_belongs_to_what_is_drawn(backend: str, plane: str) -> None:
    scene = make_scene(3)
    outwards = -math.inf if plane == "near_plane" else math.inf
    depth = torch.tensor([2.0, 2.0, 2.0])
    depth[1] = torch.nextafter(depth[1], torch.tensor(outwards))
    depth[2] = torch.nextafter(depth[2], torch.tensor(-outwards))
    scene["means"] = torch.stack([torch.zeros(3), torch.zeros(3), depth], -1)
    scene["viewmats"] = torch.eye(4)[None]
    found = run(scene, backend, **{plane: 2.0})
    assert (found["radii"][0] > 0).all(-1).tolist() == [True, False, True]
    assert found["grad opacities"].ne(0).tolist() == [True, False, True]


@pytest.mark.parametrize("scale", [10.0, 1e3, 1e6, 1e9])
def test_enormous_just_before_the_camera(scale: float) -> None:
    """It hides the picture behind it with its opacity, evenly."""
    scene = make_scene(20)
    scene["means"][0] = torch.tensor([0.001, 0.002, -2.98])
    scene["scales"][0], scene["opacities"][0], scene["colors"][0] = scale, 0.75, torch.tensor([1.0, 0.5, 0.25])
    alone = {n: scene[n][1:] for n in ("means", "quats", "scales", "opacities", "colors")}
    without = run(scene | alone, "cpu")["renders"]
    truth = both(scene, render_mode="RGB+ED")
    expected = 0.75 * scene["colors"][0] + 0.25 * without
    torch.testing.assert_close(truth["renders"][..., :3].float(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (1, 40), (40, 1), (16, 16), (9, 15), (33, 17)])
def test_odd_pictures(size: tuple[int, int]) -> None:
    scene = make_scene(60) | picture(*size)
    scene["scales"] *= 3
    truth = both(scene, render_mode="RGB+ED")
    assert truth["renders"].shape == (1, size[1], size[0], 4) and truth["alphas"].max() > 0.5


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (40, 1), (33, 50)])
def test_a_small_picture_is_a_corner_of_a_large_one(size: tuple[int, int]) -> None:
    """Pixels do not depend on where the picture ends. (The limit of the Jacobian does, but not for flat Gaussians.)"""
    scene = make_scene(300, covars=True)
    scene["covars"][:, 2] = scene["covars"][:, :, 2] = 0
    large = rasterization(**scene, backend="cpu")
    small = rasterization(**(scene | {"width": size[0], "height": size[1]}), backend="cpu")
    for one, other in zip(small[:2], large[:2]):
        assert torch.equal(one, other[:, : size[1], : size[0]])


@pytest.mark.parametrize("length", [0.0, 1e-20, 1e-5, 1e15])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_quaternions_of_odd_length(length: float, mode: str) -> None:
    """Only the direction counts; without one, Gaussians are not turned and there is no slope."""
    scene = make_scene(60)
    turned = torch.nn.functional.normalize(scene["quats"][:30], dim=-1)
    scene["quats"][:30] = turned if length else torch.tensor([1.0, 0, 0, 0])
    plain = run(scene, "cpu", rasterize_mode=mode)
    scene["quats"][:30] = turned * length
    truth = both(scene, rasterize_mode=mode)
    if length != 1e-20:  # lengths are not taken for less than 1e-12
        torch.testing.assert_close(truth["renders"].float(), plain["renders"], atol=1e-4, rtol=0)
    assert run(scene, "cpu")["grad quats"][:30].any().item() == (length > 0)


@pytest.mark.parametrize("options", [{}, {"rasterize_mode": "antialiased"}, {"eps2d": 0.0}], ids=str)
def test_scales_of_zero(options: dict[str, Any]) -> None:
    """What is left is the blur, if there is one; points without it or with their opacity corrected are not drawn."""
    scene = make_scene(60)
    scene["scales"][:20] = 0
    scene["scales"][20:40, 1] = 0
    truth = both(scene, **options)
    assert truth["radii"][0, :20].any().item() == (not options)
    assert truth["radii"][0, 40:].any()


@pytest.mark.parametrize("ratio", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_ratios_of_scales(ratio: float, mode: str) -> None:
    scene = make_scene(60)
    scene["scales"] = torch.tensor([[1.0, ratio, ratio]] * 30 + [[0.5, 0.5, ratio]] * 30)
    both(scene, gradient=5e-3, rasterize_mode=mode)


@pytest.mark.parametrize("options", [{}, {"rasterize_mode": "antialiased"}], ids=str)
def test_without_blur(options: dict[str, Any]) -> None:
    truth = both(make_scene(100), eps2d=0.0, **options)
    assert truth["alphas"].max() > 0.5


def test_opacities_of_zero_and_one() -> None:
    scene = make_scene(60)
    scene["opacities"] = torch.tensor([0.0, 1.0]).repeat(30)
    truth = both(scene)
    assert not truth["radii"][0, ::2].any() and not truth["grad means"][::2].any()
    assert truth["radii"][0, 1::2].any()
    assert 0.998 < truth["alphas"].max() < 1


def test_one_opaque_gaussian_is_clamped_in_its_middle() -> None:
    """Where alpha is clamped nothing but the colour has a slope."""
    scene = make_scene(1) | picture(15, 15)
    scene |= {"means": torch.zeros(1, 3), "scales": torch.full((1, 3), 0.5), "opacities": torch.ones(1)}
    scene = cast(scene, torch.float32)
    renders, alphas, _ = rasterization(**scene, backend="cpu")
    assert alphas.max().item() == pytest.approx(0.999, abs=1e-6)
    renders[0, 7, 7].sum().backward()
    assert not scene["opacities"].grad.any() and not scene["means"].grad.any()
    torch.testing.assert_close(scene["colors"].grad, torch.full((1, 3), 0.999))


@pytest.mark.parametrize("channels", [1, 2, 5, 9, 17])
@pytest.mark.parametrize("mode", ["RGB", "RGB+D", "RGB+ED"])
def test_numbers_of_channels(channels: int, mode: str) -> None:
    truth = both(make_scene(60, channels=channels), render_mode=mode)
    assert truth["renders"].shape[-1] == channels + (mode != "RGB")


@pytest.mark.parametrize("sh", [None, 0, 2])
def test_colours_shared_by_cameras_or_not(sh: int | None) -> None:
    """Colours given once are those of each camera, and their gradient is the cameras' sum."""
    scene = make_scene(60, 3) if sh is None else make_scene(60, 3, channels=None, sh=sh)
    options = {"sh_degree": sh, "render_mode": "RGB+ED"}
    shared = both(scene, **options)
    each = both(scene | {"colors": scene["colors"].expand(3, *scene["colors"].shape).clone()}, **options)
    torch.testing.assert_close(each["renders"], shared["renders"], atol=1e-12, rtol=0)
    torch.testing.assert_close(each["grad colors"].sum(0), shared["grad colors"])
    different = scene["colors"] * torch.tensor([1.0, -0.5, 2.0]).reshape(3, *[1] * scene["colors"].dim())
    both(scene | {"colors": different}, **options)


def test_equal_depths_keep_their_order() -> None:
    """Coincident Gaussians: the first given lies before the others, whatever the order they are given in."""
    scene = make_scene(500)
    scene["means"][:] = torch.tensor([0.1, 0.0, 0.25])
    scene["opacities"] *= 0.2
    forwards = both(scene)
    order = torch.randperm(500)
    mixed = {n: scene[n][order] for n in ("means", "quats", "scales", "opacities", "colors")}
    backwards = both(scene | mixed)
    assert (forwards["renders"] - backwards["renders"]).abs().max() > 1e-2, "the order can be seen"
    opaque = scene | {"opacities": torch.full((500,), 0.99), "scales": torch.full((500, 3), 0.3)}
    for found in (run(opaque, backend) for backend in BACKENDS):
        near = found["renders"][0, 26, 35] - 0.99 * opaque["colors"][0]
        assert near.abs().max() < 0.02
