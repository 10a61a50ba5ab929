"""Scenes for the rasteriser's tests, and how results are compared with the float64 reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dyn4d.raster import rasterization

WIDTH, HEIGHT = 70, 50  # no multiples of the tile
DIFFERENTIABLE = ("means", "quats", "scales", "covars", "opacities", "colors", "viewmats", "backgrounds")


def make_scene(
    count: int = 200, cameras: int = 1, *, channels: int | None = 3, sh: int = 0, covars: bool = False, seed: int = 0
) -> dict[str, Any]:
    """float32 arguments of `rasterization`: a cloud three units in front of slightly turned cameras."""
    g = torch.Generator().manual_seed(seed)
    scales = 0.02 + 0.1 * torch.rand(count, 3, generator=g)
    scene: dict[str, Any] = {
        "means": 0.5 * torch.randn(count, 3, generator=g),
        "quats": torch.randn(count, 4, generator=g),
        "scales": scales,
        "opacities": 0.05 + 0.9 * torch.rand(count, generator=g),
        "colors": torch.rand(count, channels or 3, generator=g)
        if channels
        else torch.randn(count, (sh + 1) ** 2, 3, generator=g),
        "backgrounds": torch.rand(cameras, channels or 3, generator=g),
    }
    if covars:
        factor = torch.randn(count, 3, 3, generator=g) * scales[:, None, :]
        scene |= {"covars": factor @ factor.transpose(-1, -2), "quats": None, "scales": None}
    views = torch.eye(4).repeat(cameras, 1, 1)
    views[:, 2, 3] = 3
    for c in range(cameras):
        turn = torch.matrix_exp(0.2 * torch.tensor([[0.0, -c, c], [c, 0, 0.5 * c], [-c, -0.5 * c, 0]]))
        views[c, :3, :3] = turn
    K = torch.tensor([[60.0, 0, 33], [0, 65, 26], [0, 0, 1]])
    return scene | {"viewmats": views, "Ks": K.repeat(cameras, 1, 1), "width": WIDTH, "height": HEIGHT}


def cast(scene: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """A copy whose differentiable tensors are leaves of this dtype."""
    out = {n: v.to(dtype).clone() if isinstance(v, Tensor) else v for n, v in scene.items()}
    for name in DIFFERENTIABLE:
        if out.get(name) is not None:
            out[name].requires_grad_()
    return out


def run(scene: dict[str, Any], backend: str, dtype: torch.dtype = torch.float32, **options: Any) -> dict[str, Tensor]:
    """Draw, pull back fixed random cotangents; "renders", "alphas", info's tensors, "grad <name>" and "absgrad"."""
    scene = cast(scene, dtype)
    renders, alphas, info = rasterization(**scene, backend=backend, **options)
    info["means2d"].retain_grad()
    g = torch.Generator().manual_seed(1)
    loss = (renders * torch.randn(renders.shape, generator=g).to(dtype)).sum()
    (loss + (alphas * torch.randn(alphas.shape, generator=g).to(dtype)).sum()).backward()
    out = {"renders": renders.detach(), "alphas": alphas.detach()}
    out |= {name: info[name].detach() for name in ("radii", "depths", "conics", "means2d")}
    for name in DIFFERENTIABLE:
        if scene.get(name) is not None and scene[name].grad is not None:
            out[f"grad {name}"] = scene[name].grad
    if options.get("absgrad"):
        out["absgrad"] = info["means2d"].absgrad
    return out | {"grad means2d": info["means2d"].grad}


def assert_agree(found: dict[str, Tensor], truth: dict[str, Tensor], gradient: float = 1e-3) -> None:
    """Pictures within 1e-4 but for max(2, 1e-4) of the pixels (a threshold may flip); gradients by relative L2."""
    for name in ("renders", "alphas"):
        off = (found[name].double() - truth[name]).abs().amax(-1) > 1e-4
        assert int(off.sum()) <= max(2, 1e-4 * off.numel()), f"{name}: {int(off.sum())} pixels differ"
    assert (found["radii"] - truth["radii"]).abs().max() <= 1
    gradients = [name for name in truth if name.startswith("grad ")]
    assert set(gradients) == {name for name in found if name.startswith("grad ")}
    for name in gradients:
        error = (found[name].double() - truth[name]).norm() / truth[name].norm().clamp_min(1e-6)
        assert error <= gradient, f"{name}: relative error {error:.2e}"
