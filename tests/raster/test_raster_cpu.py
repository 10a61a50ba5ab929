"""The numba backend against the float64 reference, and its promises about threads, processes and odd input."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch
from raster_scenes import HEIGHT, WIDTH, assert_agree, cast, make_scene, run

from dyn4d.raster import rasterization

CASES = {
    "rgb": ({}, {}),
    "expected depth, covariances": ({"covars": True}, {"render_mode": "RGB+ED"}),
    "depth sum, several cameras": ({"cameras": 3}, {"render_mode": "RGB+D"}),
    "depth alone": ({}, {"render_mode": "ED"}),
    "antialiased": ({"covars": True}, {"rasterize_mode": "antialiased", "render_mode": "RGB+ED"}),
    "antialiased, quaternions": ({"cameras": 2}, {"rasterize_mode": "antialiased", "eps2d": 1.0}),
    "one channel": ({"channels": 1}, {}),
    "two channels": ({"channels": 2}, {}),
    "many channels": ({"channels": 19, "cameras": 2}, {"render_mode": "RGB+ED"}),
    "harmonics 0": ({"channels": None, "sh": 0}, {"sh_degree": 0}),
    "harmonics 3": ({"channels": None, "sh": 3, "cameras": 2}, {"sh_degree": 3, "render_mode": "RGB+ED"}),
    "harmonics 2 of 4": ({"channels": None, "sh": 4}, {"sh_degree": 2}),
    "harmonics 4": ({"channels": None, "sh": 4}, {"sh_degree": 4}),
    "clip by radius": ({}, {"radius_clip": 4.0, "near_plane": 2.5, "far_plane": 3.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_match_the_reference(case: str) -> None:
    scene, options = CASES[case]
    arguments = make_scene(**scene)
    truth = run(arguments, "reference", torch.float64, **options)
    assert truth["alphas"].max() > 0.5
    assert_agree(run(arguments, "cpu", **options), truth)


def test_colours_of_each_camera() -> None:
    scene = make_scene(cameras=2)
    scene["colors"] = torch.stack([scene["colors"], 1 - scene["colors"]])
    assert_agree(run(scene, "cpu"), run(scene, "reference", torch.float64))
    scene = make_scene(cameras=2, channels=None, sh=1)
    scene["colors"] = torch.stack([scene["colors"], -scene["colors"]])
    assert_agree(run(scene, "cpu", sh_degree=1), run(scene, "reference", torch.float64, sh_degree=1))


def test_opaque_layers_stop_the_pixel() -> None:
    scene = make_scene(600)
    scene["scales"] *= 3
    scene["opacities"] = torch.full((600,), 0.999)
    found, truth = run(scene, "cpu"), run(scene, "reference", torch.float64)
    assert truth["alphas"].max() > 0.998
    assert_agree(found, truth, gradient=5e-3)


def test_long_thin_and_tiny_gaussians() -> None:
    scene = make_scene(100)
    scene["scales"] = torch.tensor([1.0, 1e-4, 1e-4]).repeat(100, 1)
    scene["scales"][50:] = 1e-5
    assert_agree(run(scene, "cpu"), run(scene, "reference", torch.float64), gradient=5e-3)


def test_covariances_equal_quaternions_and_scales() -> None:
    from dyn4d.raster.reference import covariances

    scene = make_scene()
    by_quats = run(scene, "cpu")
    covars = covariances(scene["quats"], scene["scales"])
    by_covars = run(scene | {"covars": covars, "quats": None, "scales": None}, "cpu")
    torch.testing.assert_close(by_covars["renders"], by_quats["renders"], atol=1e-5, rtol=0)
    gradient = by_covars["grad covars"]
    assert torch.equal(gradient, gradient.transpose(-1, -2))


def test_absolute_gradients() -> None:
    scene = make_scene(12) | {"width": 18, "height": 6}
    scene["Ks"] = torch.tensor([[[14.0, 0, 9], [0, 14, 3], [0, 0, 1]]])
    arguments = cast(scene, torch.float64)
    renders, _, info = rasterization(**arguments, backend="reference")
    total = torch.zeros(1, 12, 2, dtype=torch.float64)
    for pixel in renders.sum(-1).flatten():
        total += torch.autograd.grad(pixel, info["means2d"], retain_graph=True)[0].abs()
    arguments = cast(scene, torch.float32)
    renders, _, info = rasterization(**arguments, backend="cpu", absgrad=True)
    renders.sum().backward()
    torch.testing.assert_close(info["means2d"].absgrad.double(), total, rtol=1e-3, atol=1e-4)


def test_nothing_to_draw() -> None:
    for backend in ("cpu", "reference"):
        found = run(make_scene(0), backend)
        assert found["alphas"].shape == (1, HEIGHT, WIDTH, 1) and not found["alphas"].any()
        behind = make_scene(5)
        behind["means"][:, 2] = -10
        found = run(behind, backend)
        assert torch.equal(found["renders"], behind["backgrounds"].expand(HEIGHT, WIDTH, 3)[None])
        assert not found["radii"].any() and not found["grad means"].any()


def test_gaussians_behind_change_nothing() -> None:
    scene = make_scene(50)
    more = {n: torch.cat([scene[n]] * 2) for n in ("means", "quats", "scales", "opacities", "colors")}
    more["means"][50:, 2] = -4 - more["means"][50:, 2].abs()
    one, two = run(scene, "cpu"), run(scene | more, "cpu")
    assert torch.equal(one["renders"], two["renders"])
    assert torch.equal(one["grad means"], two["grad means"][:50]) and not two["grad means"][50:].any()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(backend: str, name: str, value: float) -> None:
    scene = make_scene(50)
    scene[name] = scene[name].clone()
    scene[name].view(-1)[-1] = value
    with pytest.raises(ValueError, match=f"^{name}: 1 numbers are not finite"):
        rasterization(**scene, backend=backend)


def test_large_numbers_are_finite() -> None:
    scene = make_scene(50)
    scene["colors"][:] = 3e38  # their sum is not
    rasterization(**scene, backend="cpu")


@pytest.fixture
def threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_same_bits_for_any_number_of_threads(threads_restored: None) -> None:
    scene = make_scene(3000, 2, channels=None, sh=1, covars=True)
    options = {"sh_degree": 1, "render_mode": "RGB+ED", "absgrad": True}
    results = []
    for count in (1, 2, 2, 3):
        torch.set_num_threads(count)
        results.append(run(scene, "cpu", **options))
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(value, other[name]), name


def test_python_threads_may_draw_at_once(threads_restored: None) -> None:
    torch.set_num_threads(2)
    scene = make_scene(2000)
    truth = run(scene, "cpu")
    results: list[dict[str, torch.Tensor]] = []
    workers = [threading.Thread(target=lambda: results.append(run(scene, "cpu"))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    assert all(torch.equal(r[name], truth[name]) for r in results for name in truth)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_draws(threads_restored: None) -> None:
    torch.set_num_threads(2)
    scene = make_scene(2000)
    truth = run(scene, "cpu")["renders"]
    child = os.fork()
    if child == 0:
        with torch.no_grad():
            same = torch.equal(rasterization(**scene, backend="cpu")[0], truth)
        os._exit(0 if same else 1)
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the forked child did not finish")
