"""The interface of `rasterization`: names, shapes, `info`, and refusals."""

from __future__ import annotations

import inspect

import pytest
import torch
from raster_scenes import HEIGHT, WIDTH, cast, make_scene, run

from dyn4d.core.errors import BackendUnavailable
from dyn4d.gaussians.raster import rasterization

GSPLAT = {  # gsplat 1.5.3's arguments after the nine that have no default
    "near_plane": 0.01, "far_plane": 1e10, "radius_clip": 0.0, "eps2d": 0.3, "sh_degree": None, "packed": True,
    "tile_size": 16, "backgrounds": None, "render_mode": "RGB", "sparse_grad": False, "absgrad": False,
    "rasterize_mode": "classic", "channel_chunk": 32, "distributed": False, "camera_model": "pinhole",
    "segmented": False, "covars": None, "with_ut": False, "with_eval3d": False,
}  # fmt: skip


def test_argument_names_and_defaults_are_gsplats() -> None:
    parameters = inspect.signature(rasterization).parameters
    names = list(parameters)
    assert names[:9] == [
        "means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height"
    ]  # fmt: skip
    assert names[9 : 9 + len(GSPLAT)] == list(GSPLAT)
    assert {n: parameters[n].default for n in GSPLAT} == GSPLAT
    assert parameters["backend"].default == "auto"


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("D", 1), ("ED", 1), ("RGB+D", 4), ("RGB+ED", 4)])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_shapes(mode: str, channels: int, backend: str) -> None:
    renders, alphas, info = rasterization(**make_scene(20, 2), render_mode=mode, backend=backend)
    assert renders.shape == (2, HEIGHT, WIDTH, channels) and alphas.shape == (2, HEIGHT, WIDTH, 1)
    assert info["means2d"].shape == (2, 20, 2) and info["depths"].shape == (2, 20)
    assert info["radii"].shape == (2, 20, 2) and info["radii"].dtype == torch.int32
    assert info["conics"].shape == (2, 20, 3) and info["opacities"].shape == (2, 20)
    assert (info["width"], info["height"], info["n_cameras"]) == (WIDTH, HEIGHT, 2)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_one_gaussian_by_hand(backend: str) -> None:
    """On the axis, round, two units away: an isotropic bump of known width at a pixel's centre."""
    focal, sigma, opacity = 20.0, 0.2, 0.8
    K = torch.tensor([[[focal, 0, 8.5], [0, focal, 8.5], [0, 0, 1]]])
    renders, alphas, info = rasterization(
        torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[2.0, 0, 0, 0]]), torch.full((1, 3), sigma),
        torch.tensor([opacity]), torch.tensor([[1.0, 0.5, 0.0]]), torch.eye(4)[None], K, 17, 17,
        render_mode="RGB+ED", backgrounds=torch.tensor([[0.0, 0.0, 1.0]]), backend=backend,
    )  # fmt: skip
    variance = (focal * sigma / 2) ** 2 + 0.3
    distance = torch.arange(17) - 8.0
    expected = opacity * torch.exp(-(distance[:, None] ** 2 + distance[None, :] ** 2) / (2 * variance))
    expected = torch.where(expected >= 1 / 255, expected, 0.0)
    torch.testing.assert_close(alphas[0, ..., 0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(renders[0, ..., 1], 0.5 * expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(renders[0, ..., 2], 1 - expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(renders[0, 8, 8, 3], torch.tensor(2.0))
    torch.testing.assert_close(info["means2d"], torch.full((1, 1, 2), 8.5))
    assert not info["means2d"].requires_grad


def test_the_nearer_gaussian_hides() -> None:
    scene = make_scene(2)
    scene["means"] = torch.tensor([[0.0, 0, 1], [0.0, 0, -1]])
    scene["opacities"], scene["colors"] = torch.full((2,), 0.9), torch.eye(2, 3)
    renders = rasterization(**scene, backend="cpu")[0][0, 26, 33]
    assert renders[1] > 5 * renders[0]


def test_auto_and_the_ignored_options() -> None:
    scene = make_scene(30)
    plain = rasterization(**scene)[0]
    assert torch.equal(plain, rasterization(**scene, backend="cpu")[0])
    options = {"packed": False, "sparse_grad": True, "channel_chunk": 2, "tile_size": 8, "segmented": True}
    assert torch.equal(plain, rasterization(**scene, **options)[0])
    double = rasterization(**cast(scene, torch.float64))[0]
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("distributed", True), ("camera_model", "fisheye"), ("with_ut", True), ("with_eval3d", True),
        ("radial_coeffs", torch.zeros(1, 6)), ("viewmats_rs", torch.eye(4)[None]), ("render_mode", "rgb"),
        ("rasterize_mode", "mip"), ("backend", "taichi"), ("sh_degree", 5),
    ],
)  # fmt: skip
def test_what_is_not_supported_raises(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        rasterization(**make_scene(3), **{option: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("means", torch.zeros(3, 2)), ("quats", torch.zeros(3, 3)), ("scales", torch.zeros(4, 3)),
        ("opacities", torch.zeros(3, 1)), ("colors", torch.zeros(4, 3)), ("Ks", torch.zeros(2, 3, 3)),
        ("viewmats", torch.zeros(4, 4)), ("viewmats", torch.zeros(0, 4, 4)),
        ("backgrounds", torch.zeros(1, 2)), ("covars", torch.zeros(3, 6)),
        ("opacities", torch.zeros(3, dtype=torch.float64)), ("quats", None),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        rasterization(**(make_scene(3) | {name: value}))


def test_gsplat_without_a_device() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(BackendUnavailable, match="CUDA"):
        rasterization(**make_scene(3), backend="gsplat")


def test_gradient_of_screen_positions_is_kept() -> None:
    found = run(make_scene(50), "cpu")
    drawn = found["radii"][0].amax(-1) > 0
    assert found["grad means2d"].shape == (1, 50, 2)
    assert (found["grad means2d"][0].norm(dim=-1) > 0).eq(drawn).float().mean() > 0.9


@pytest.mark.gpu
@pytest.mark.parametrize("covars", [False, True])
def test_gsplat_agrees(covars: bool) -> None:
    pytest.importorskip("gsplat")
    scene = make_scene(200, 2, covars=covars)
    on_device = {n: v.cuda() if isinstance(v, torch.Tensor) else v for n, v in scene.items()}
    ours = rasterization(**scene, render_mode="RGB+ED", backend="cpu")
    theirs = rasterization(**on_device, render_mode="RGB+ED")
    for a, b in zip(ours[:2], theirs[:2]):
        assert ((a - b.cpu()).abs().amax(-1) > 1e-3).float().mean() < 1e-3
