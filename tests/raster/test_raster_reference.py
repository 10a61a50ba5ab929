"""The reference itself: gradients by finite differences, and its two ways of blending."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from raster_scenes import assert_agree, cast, make_scene, run

from dyn4d.raster import rasterization
from dyn4d.raster.reference import composite_pairs
from dyn4d.raster.reference_backend import draw
from dyn4d.raster.request import Request
from dyn4d.raster.sh import sh_basis


def few(seed: int, covars: bool) -> dict[str, Any]:
    """Six broad, faint Gaussians in a 9x7 picture: no pixel near a threshold, so that differences are smooth."""
    scene = make_scene(6, covars=covars, seed=seed)
    scene["means"] *= 0.3
    if covars:
        scene["covars"] = scene["covars"] + 0.6 * torch.eye(3)
    else:
        scene["scales"] += 0.7
    scene["opacities"] = 0.15 + 0.3 * scene["opacities"]
    scene["Ks"] = torch.tensor([[[9.0, 0, 4.5], [0, 9, 3.5], [0, 0, 1]]])
    return scene | {"width": 9, "height": 7}


@pytest.mark.parametrize("covars", [False, True])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_finite_differences(covars: bool, mode: str) -> None:
    scene = cast(few(0, covars), torch.float64)
    names = [n for n, v in scene.items() if isinstance(v, torch.Tensor) and v.requires_grad]

    def render(*values: torch.Tensor) -> torch.Tensor:
        arguments = scene | dict(zip(names, values))
        renders, alphas, _ = rasterization(
            **arguments, render_mode="RGB+ED", rasterize_mode=mode, backend="reference"
        )  # fmt: skip
        return torch.cat([renders, alphas], dim=-1)

    assert torch.autograd.gradcheck(render, [scene[n] for n in names], eps=1e-6, atol=1e-5, fast_mode=True)


def test_finite_differences_of_the_cpu_backend() -> None:
    """Without the reference in between: directional differences of a double-precision sum of float32 pictures."""
    scene = few(1, covars=True)
    gradients = run(scene, "cpu", render_mode="RGB+ED")
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(1, 7, 9, 4, generator=g).double()
    weight_alpha = torch.randn(1, 7, 9, 1, generator=g).double()

    def loss(arguments: dict[str, Any]) -> float:
        renders, alphas, _ = rasterization(**arguments, render_mode="RGB+ED", backend="cpu")
        return float((renders * weight).sum() + (alphas * weight_alpha).sum())

    for name in ("means", "covars", "opacities", "colors", "viewmats", "backgrounds"):
        direction = gradients[f"grad {name}"] / gradients[f"grad {name}"].norm()
        step = 2e-2 * float(scene[name].abs().mean())
        difference = loss(scene | {name: scene[name] + step * direction})
        difference -= loss(scene | {name: scene[name] - step * direction})
        assert difference / (2 * step) == pytest.approx(float(gradients[f"grad {name}"].norm()), rel=2e-2), name


def test_both_ways_of_blending_agree() -> None:
    scene = make_scene(150, cameras=2)
    truth = run(scene, "reference", torch.float64)
    arguments = cast(scene, torch.float64)
    request = Request(
        **{n: v for n, v in arguments.items() if n != "covars"}, covars=None, near_plane=0.01, far_plane=1e10,
        radius_clip=0.0, eps2d=0.3, sh_degree=None, render_mode="RGB", absgrad=False, antialiased=False,
    )  # fmt: skip
    renders, alphas, info = draw(request, composite_pairs)
    info["means2d"].retain_grad()
    g = torch.Generator().manual_seed(1)
    loss = (renders * torch.randn(renders.shape, generator=g).double()).sum()
    (loss + (alphas * torch.randn(alphas.shape, generator=g).double()).sum()).backward()
    found = {"renders": renders.detach(), "alphas": alphas.detach(), "radii": info["radii"]}
    found |= {name: arguments[name[5:]].grad for name in truth if name.startswith("grad ") and name[5:] in arguments}
    assert_agree(found | {"grad means2d": info["means2d"].grad}, truth)


def test_a_rigid_motion_of_scene_and_camera_changes_nothing() -> None:
    scene = cast(make_scene(80, channels=None, sh=0), torch.float64)
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = torch.matrix_exp(torch.tensor([[0.0, -0.4, 0.3], [0.4, 0, -0.2], [-0.3, 0.2, 0]]).double())
    motion[:3, 3] = torch.tensor([0.5, -2.0, 1.0])
    from dyn4d.raster.reference import covariances

    covars = covariances(scene["quats"], scene["scales"])
    moved = scene | {
        "means": scene["means"] @ motion[:3, :3].T + motion[:3, 3],
        "covars": motion[:3, :3] @ covars @ motion[:3, :3].T,
        "viewmats": scene["viewmats"] @ torch.linalg.inv(motion),
    }
    one, two = rasterization(**scene, sh_degree=0)[0], rasterization(**moved, sh_degree=0)[0]
    torch.testing.assert_close(one, two, atol=1e-9, rtol=0)


def test_harmonics_are_orthonormal() -> None:
    """The products of basis functions integrate to the identity (a quadrature that is exact for their degree)."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    cosine, weight = torch.from_numpy(nodes), torch.from_numpy(weights)
    angle = torch.arange(16, dtype=torch.float64) * (2 * torch.pi / 16)
    sine = (1 - cosine * cosine).sqrt()
    directions = torch.stack(
        [sine[:, None] * angle.cos(), sine[:, None] * angle.sin(), cosine[:, None].expand(-1, 16)], dim=-1
    )  # fmt: skip
    basis = sh_basis(4, directions)
    gram = torch.einsum("ijk,ijl,i->kl", basis, basis, weight) * (2 * torch.pi / 16)
    torch.testing.assert_close(gram, torch.eye(25, dtype=torch.float64), atol=1e-9, rtol=0)
