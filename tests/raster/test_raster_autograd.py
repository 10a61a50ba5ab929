"""How the kernels' gradients behave as part of a graph of torch: used twice, in part, or after a change in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from raster_scenes import cast, make_scene
from torch import Tensor

from dyn4d.raster import rasterization

BACKENDS = ("cpu", "reference")


def draw(scene: dict[str, Any], backend: str = "cpu", **options: Any) -> tuple[dict[str, Any], Tensor, Tensor]:
    leaves = cast(scene, torch.float32)
    renders, alphas, _ = rasterization(**leaves, backend=backend, **options)
    return leaves, renders, alphas


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["RGB", "RGB+D", "RGB+ED", "ED"])
@pytest.mark.parametrize("which", ["renders", "alphas"])
def test_a_picture_changed_in_place_gives_true_gradients_or_an_error(backend: str, mode: str, which: str) -> None:
    """As torch promises: what backward needs is not silently taken from a tensor that has changed since."""
    scene = make_scene(60)
    truth, *results = draw(scene, backend, render_mode=mode)
    value = results[which == "alphas"]
    weight = torch.rand(value.shape)
    (weight * (3 * value).square()).sum().backward()

    leaves, *results = draw(scene, backend, render_mode=mode)
    value = results[which == "alphas"]
    value.mul_(3)
    try:
        (weight * value.square()).sum().backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return
    torch.testing.assert_close(leaves["means"].grad, truth["means"].grad, rtol=1e-3, atol=1e-3)


def test_backward_twice_gives_the_same_bits() -> None:
    leaves, renders, alphas = draw(make_scene(60, 2, covars=True), render_mode="RGB+ED", absgrad=True)
    loss = renders.square().sum() + alphas.sum()
    once = torch.autograd.grad(loss, [leaves["means"], leaves["covars"], leaves["viewmats"]], retain_graph=True)
    twice = torch.autograd.grad(loss, [leaves["means"], leaves["covars"], leaves["viewmats"]])
    assert all(torch.equal(a, b) for a, b in zip(once, twice))


@pytest.mark.parametrize("mode", ["RGB", "RGB+ED"])
def test_gradients_of_pictures_add_up(mode: str) -> None:
    """Backward is linear: pictures and alphas alone, and two graphs over the same leaves."""
    scene = make_scene(60, channels=5)
    names = ["means", "quats", "scales", "opacities", "colors"]
    grads: dict[str, list[Tensor]] = {}
    for part in ("renders", "alphas", "both"):
        leaves, renders, alphas = draw(scene, render_mode=mode)
        weight = torch.linspace(-1, 1, renders.numel()).reshape(renders.shape)
        terms = {"renders": (weight * renders).sum(), "alphas": alphas.square().sum()}
        (sum(terms.values()) if part == "both" else terms[part]).backward()
        grads[part] = [
            torch.zeros_like(leaves[n]) if leaves[n].grad is None else leaves[n].grad for n in names
        ]  # fmt: skip
    for one, other, both in zip(grads["renders"], grads["alphas"], grads["both"]):
        assert (one + other - both).norm() <= 1e-5 * both.norm()
    assert not grads["alphas"][-1].any(), "alpha does not depend on colours"


def test_only_what_wants_a_gradient_gets_one() -> None:
    scene = make_scene(60)
    scene["opacities"].requires_grad_()
    renders, _, info = rasterization(**scene, backend="cpu")
    renders.sum().backward()
    assert scene["opacities"].grad is not None and scene["means"].grad is None
    assert not info["means2d"].requires_grad
    with torch.no_grad():
        assert not rasterization(**scene, backend="cpu")[0].requires_grad


def test_arguments_need_not_be_contiguous() -> None:
    """Nor may they be touched."""
    scene = make_scene(60, 2)
    odd = dict(scene)
    for name in ("means", "quats", "scales", "colors", "viewmats", "Ks", "backgrounds"):
        odd[name] = scene[name].transpose(0, -1).contiguous().transpose(0, -1)
        assert not odd[name].is_contiguous() or 1 in odd[name].shape
    odd["opacities"] = torch.stack([scene["opacities"]] * 3, -1)[:, 1]
    before = {n: v.clone() for n, v in odd.items() if isinstance(v, Tensor)}
    odd = {n: v.requires_grad_() if isinstance(v, Tensor) and n != "Ks" else v for n, v in odd.items()}
    leaves, renders, _ = draw(scene)
    drawn = rasterization(**odd, backend="cpu")[0]
    assert torch.equal(drawn, renders)
    weight = torch.rand(renders.shape[1:]).permute(1, 0, 2).contiguous().permute(1, 0, 2)
    (weight * renders).sum().backward()
    (weight * drawn).sum().backward()
    for name in ("means", "quats", "scales", "colors", "viewmats", "backgrounds"):
        assert torch.equal(odd[name].grad, leaves[name].grad), name
    assert all(torch.equal(odd[n].detach(), v) for n, v in before.items())


def test_cameras_draw_as_if_alone() -> None:
    """Same bits; and gradients of what they share are the sum of theirs."""
    scene = make_scene(60, 3, channels=None, sh=2)
    leaves, renders, alphas = draw(scene, sh_degree=2, render_mode="RGB+ED")
    weight = torch.rand(renders.shape)
    (weight * renders).sum().backward()
    total = torch.zeros_like(scene["means"])
    for c in range(3):
        alone = scene | {n: scene[n][c : c + 1] for n in ("viewmats", "Ks", "backgrounds")}
        single, picture, alpha = draw(alone, sh_degree=2, render_mode="RGB+ED")
        assert torch.equal(picture[0], renders[c]) and torch.equal(alpha[0], alphas[c])
        (weight[c] * picture[0]).sum().backward()
        total += single["means"].grad
        torch.testing.assert_close(single["viewmats"].grad[0], leaves["viewmats"].grad[c], rtol=1e-5, atol=1e-5)
    assert (total - leaves["means"].grad).norm() <= 1e-5 * total.norm()
