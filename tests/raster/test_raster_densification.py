"""What densification reads from `info`: ours by hand, and gsplat's own strategy as it is, where it is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from raster_scenes import HEIGHT, WIDTH, make_scene
from torch import Tensor

from dyn4d.raster import rasterization
from dyn4d.raster.similarity import l1_and_dssim

COUNT, CAMERAS = 120, 2


def parameters(count: int = COUNT) -> dict[str, torch.nn.Parameter]:
    """A scene in gsplat's terms: logarithms of scales and logits of opacities."""
    scene = make_scene(count)
    raw = {n: scene[n] for n in ("means", "quats", "colors")}
    raw |= {"scales": scene["scales"].log(), "opacities": torch.logit(scene["opacities"])}
    return {name: torch.nn.Parameter(value) for name, value in raw.items()}


def draw(params: Any, *, packed: bool = False, absgrad: bool = False) -> tuple[Tensor, Tensor, dict[str, Any]]:
    cameras = {n: make_scene(1, CAMERAS)[n] for n in ("viewmats", "Ks", "width", "height")}
    return rasterization(
        means=params["means"], quats=params["quats"], scales=params["scales"].exp(),
        opacities=params["opacities"].sigmoid(), colors=params["colors"].sigmoid(), packed=packed, absgrad=absgrad,
        **cameras, backend="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_info_is_laid_out_as_for_unpacked_gaussians(packed: bool, absgrad: bool) -> None:
    params = parameters()
    renders, _, info = draw(params, packed=packed, absgrad=absgrad)
    assert (info["width"], info["height"], info["n_cameras"]) == (WIDTH, HEIGHT, CAMERAS)
    assert info["gaussian_ids"] is None and info["camera_ids"] is None
    assert info["radii"].shape == (CAMERAS, COUNT, 2) and not info["radii"].is_floating_point()
    assert not info["radii"].requires_grad and info["means2d"].requires_grad
    info["means2d"].retain_grad()
    (renders * torch.rand_like(renders)).sum().backward()
    grad = info["means2d"].grad
    assert grad is not None and grad.shape == info["means2d"].shape == (CAMERAS, COUNT, 2)
    drawn = (info["radii"] > 0).all(-1)
    assert drawn.any() and not grad[~drawn].any()
    assert grad[drawn].norm(dim=-1).count_nonzero() > 0.9 * drawn.sum()
    assert hasattr(info["means2d"], "absgrad") == absgrad
    if absgrad:
        absolute = info["means2d"].absgrad
        assert absolute.shape == grad.shape and not absolute[~drawn].any()
        assert (absolute >= grad.abs() * (1 - 1e-4) - 1e-6).all(), "a sum is at most the sum of absolute values"
        assert (absolute > 1.5 * grad.abs()).any()


def test_gradient_of_positions_is_in_pixels() -> None:
    """On a ramp that is 0 in its middle, a Gaussian that moves by a pixel gains its mass; in the world that is
    depth / focal."""
    params = parameters(1)
    params["means"].data[:] = torch.tensor([[0.1, -0.05, 0.0]])
    params["scales"].data[:] = torch.tensor([0.1, 0.05, 0.2]).log()
    params["opacities"].data[:] = 3.0
    renders, _, info = draw(params)
    info["means2d"].retain_grad()
    focal, depth = 60.0, 3.0
    ramp = torch.arange(WIDTH) + 0.5 - info["means2d"][0, 0, 0].item()
    (renders[0] * ramp[:, None]).sum().backward()
    mass = renders[0].sum().item()
    assert info["means2d"].grad[0, 0, 0].item() == pytest.approx(mass, rel=0.03)  # it ends where alpha is 1/255
    assert params["means"].grad[0, 0].item() == pytest.approx(mass * focal / depth, rel=0.03)


def test_one_pass_back_leaves_no_trace_in_the_next() -> None:
    params = parameters()
    found = []
    for _ in range(2):
        renders, _, info = draw(params, absgrad=True)
        info["means2d"].retain_grad()
        renders.square().sum().backward()
        found.append((info["means2d"].grad, info["means2d"].absgrad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("absgrad", [False, True])
def test_gsplats_strategy_grows_and_prunes(absgrad: bool) -> None:
    """`DefaultStrategy` as it is: it adds and prunes by what our `info` says."""
    pytest.importorskip("gsplat")
    from gsplat.strategy import DefaultStrategy

    params = parameters()
    params["opacities"].data[:10] = -9.0  # to be pruned
    params["opacities"].data[10:] = 1.0
    optimizers = {name: torch.optim.Adam([value], lr=1e-3, eps=1e-15) for name, value in params.items()}
    scales = params["scales"].detach().exp().amax(-1)
    strategy = DefaultStrategy(
        refine_start_iter=1, refine_every=4, reset_every=1000, grow_grad2d=1e-7, absgrad=absgrad,
        grow_scale3d=float(scales.median()), refine_scale2d_stop_iter=100, prune_scale3d=10.0,
    )  # fmt: skip
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state(scene_scale=1.0)
    target = torch.rand(CAMERAS, HEIGHT, WIDTH, 3)
    counts, losses = [], []
    for step in range(13):
        renders, _, info = draw(params, absgrad=absgrad)
        strategy.step_pre_backward(params, optimizers, state, step, info)
        pairs = [l1_and_dssim(picture, goal) for picture, goal in zip(renders, target)]
        loss = sum(0.8 * l1 + 0.2 * dssim for l1, dssim in pairs) / target.numel()
        loss.backward()
        visible = (info["radii"] > 0).all(-1).sum(0)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        before = len(params["means"])
        strategy.step_post_backward(params, optimizers, state, step, info, packed=False)
        if step == 3:
            assert torch.equal(state["count"], 4.0 * visible), "each camera that sees a Gaussian counts once a step"
            assert (state["grad2d"][visible > 0] > 0).all() and state["radii"].max() > 0
        counts.append(len(params["means"]) - before)
        losses.append(loss.item())
    assert [step for step, change in enumerate(counts) if change] == [4, 8, 12]
    assert all(change > 0 for change in counts[4::4])
    assert torch.isfinite(torch.tensor(losses)).all()
    assert params["opacities"].min() > torch.logit(torch.tensor(0.005)), "the faint ones are gone"
    assert all(len(value) == len(params["means"]) for value in params.values())
