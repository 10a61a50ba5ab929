"""Training losses of pair networks: reference values and gradients, masks, scale, stability."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dyn4d.core.types import PairPrediction
from dyn4d.geometry.pair_losses import (
    MatchTargets,
    PairTruth,
    aligned_distances,
    confidence_loss,
    confident_matching,
    info_nce,
    masked_mean,
    matching_loss,
    pair_loss,
    pointmap_regression,
    regression_loss,
    values_at,
)

Case = tuple[PairPrediction, PairTruth, MatchTargets]


def made_up(batch: int = 2, height: int = 6, width: int = 8, matches: int = 10) -> Case:
    def points() -> Tensor:
        return torch.randn(batch, height, width, 3, dtype=torch.float64) + torch.tensor([0, 0, 4.0])

    def conf() -> Tensor:
        return 1 + torch.rand(batch, height, width, dtype=torch.float64)

    def desc() -> Tensor:
        return torch.nn.functional.normalize(torch.randn(batch, height, width, 5, dtype=torch.float64), dim=-1)

    valid = [torch.rand(batch, height, width) < 0.7 for _ in range(2)]
    xy = [
        torch.stack([torch.randint(width, (batch, matches)), torch.randint(height, (batch, matches))], -1)
        for _ in range(2)
    ]
    prediction = PairPrediction(points(), points(), conf(), conf(), desc(), desc(), conf(), conf())
    return (
        prediction,
        PairTruth(points(), points(), valid[0], valid[1]),
        MatchTargets(xy[0], xy[1], torch.rand(batch, matches) < 0.5),
    )


LEAVES = {
    "p1.pts3d": "points_a",
    "p2.pts3d_in_other_view": "points_b_in_a",
    "p1.conf": "conf_a",
    "p2.conf": "conf_b",
    "p1.desc": "desc_a",
    "p2.desc": "desc_b",
    "p1.desc_conf": "desc_conf_a",
    "p2.desc_conf": "desc_conf_b",
}


@pytest.fixture
def published(reference: Path) -> tuple[Case, PairTruth, dict]:
    """The reference case; the truth with sky and metric samples, then as DUSt3R sees it; what should come out."""
    data = {k: torch.from_numpy(v) for k, v in np.load(reference / "golden" / "losses.npz").items()}
    leaves = {own: data[name.replace(".", "/")].clone().requires_grad_() for name, own in LEAVES.items()}
    plain = PairTruth.from_world(
        data["g1/pts3d"], data["g2/pts3d"], data["g1/valid_mask"], data["g2/valid_mask"],
        cam_from_world_a=torch.linalg.inv(data["g1/camera_pose"]),
    )  # fmt: skip
    full = replace(plain, sky_a=data["g1/sky_mask"], sky_b=data["g2/sky_mask"], metric=data["g1/is_metric_scale"])
    targets = MatchTargets(data["g1/corres"], data["g2/corres"], data["g1/valid_corres"])
    wanted = json.loads((reference / "golden" / "losses.json").read_text())
    return (PairPrediction(**leaves), full, targets), plain, wanted


def mean_nce(prediction: PairPrediction, targets: MatchTargets, **how: object) -> Tensor:
    assert prediction.desc_a is not None and prediction.desc_b is not None
    desc = values_at(prediction.desc_a, targets.xy_a), values_at(prediction.desc_b, targets.xy_b)
    return masked_mean(info_nce(*desc, targets.valid, **how), targets.valid)  # type: ignore[arg-type]


LOSSES: dict[str, Callable[[PairPrediction, PairTruth, PairTruth, MatchTargets], Tensor]] = {
    "dust3r_train": lambda p, full, plain, m: pair_loss(p, plain),
    "dust3r_regr3d": lambda p, full, plain, m: regression_loss(pointmap_regression(p, plain)),
    "dust3r_test": lambda p, full, plain, m: regression_loss(
        aligned_distances(p, plain, shift=True, keep_truth_scale=True)
    ),
    "dust3r_scaleinv": lambda p, full, plain, m: regression_loss(aligned_distances(p, plain)),
    "mast3r_regr_conf": lambda p, full, plain, m: confidence_loss(p, pointmap_regression(p, full, sky_loss=2.0)),
    "mast3r_match": lambda p, full, plain, m: matching_loss(p, m),
    "mast3r_train": lambda p, full, plain, m: pair_loss(p, full, m),
    "infonce_all": lambda p, full, plain, m: mean_nce(p, m, mode="all"),
    "infonce_proper": lambda p, full, plain, m: mean_nce(p, m, mode="proper"),
    "infonce_dual": lambda p, full, plain, m: mean_nce(p, m, mode="dual"),
    "infonce_default": lambda p, full, plain, m: mean_nce(p, m, mode="all", temperature=0.07),
    "match_prod": lambda p, full, plain, m: matching_loss(p, m, combine="prod"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_are_the_published_ones(published: tuple[Case, PairTruth, dict], name: str) -> None:
    (prediction, full, targets), plain, wanted = published
    loss = LOSSES[name](prediction, full, plain, targets)
    loss.backward()
    assert loss.item() == pytest.approx(wanted[name]["loss"], rel=2e-6)
    for leaf, own in LEAVES.items():
        gradient = getattr(prediction, own).grad
        norm = 0.0 if gradient is None else gradient.norm().item()
        assert norm == pytest.approx(wanted[name]["grad_norms"].get(leaf, 0.0), rel=1e-4, abs=1e-9), leaf


def test_the_loss_does_not_change_with_the_scale_unless_metric() -> None:
    prediction, truth, _ = made_up()
    larger = replace(prediction, points_a=prediction.points_a * 7, points_b_in_a=prediction.points_b_in_a * 7)
    before, after = (regression_loss(pointmap_regression(p, truth)) for p in (prediction, larger))
    assert after.item() == pytest.approx(before.item(), rel=1e-12)
    metric = replace(truth, metric=torch.tensor([True, True]))
    before, after = (regression_loss(pointmap_regression(p, metric)) for p in (prediction, larger))
    assert after > 2 * before


def test_a_perfect_prediction_costs_nothing() -> None:
    prediction, truth, _ = made_up()
    right = replace(prediction, points_a=truth.points_a * 3, points_b_in_a=truth.points_b_in_a * 3)
    assert regression_loss(pointmap_regression(right, truth)).item() == pytest.approx(0, abs=1e-12)
    assert regression_loss(aligned_distances(right, truth)).item() == pytest.approx(0, abs=1e-12)


def test_nothing_outside_the_mask_has_any_weight() -> None:
    prediction, truth, targets = made_up()
    mask = torch.rand(2, 6, 8) < 0.5
    truth, targets = truth.within(mask, mask), targets.within(mask, mask)
    poisoned = replace(truth, points_a=torch.where(truth.valid_a[..., None], truth.points_a, math.nan))
    names = [name for name in LEAVES.values() if not name.startswith("desc_") or "conf" in name]
    leaves = {name: getattr(prediction, name).clone().requires_grad_() for name in names}
    watched = replace(prediction, **leaves)
    loss = pair_loss(watched, poisoned, targets)
    assert loss.item() == pytest.approx(pair_loss(prediction, truth, targets).item(), rel=1e-12)
    loss.backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None and bool(torch.isfinite(leaf.grad).all()), name
        assert bool((leaf.grad[~mask] == 0).all()), name


def test_no_valid_pixel_is_a_loss_of_nothing() -> None:
    prediction, truth, targets = made_up()
    nowhere = torch.zeros(2, 6, 8, dtype=torch.bool)
    leaf = prediction.points_a.clone().requires_grad_()
    prediction = replace(prediction, points_a=leaf)
    loss = pair_loss(prediction, truth.within(nowhere, nowhere), targets.within(nowhere, nowhere))
    loss.backward()
    assert loss.item() == 0
    assert leaf.grad is not None and bool((leaf.grad == 0).all())
    assert regression_loss(aligned_distances(prediction, truth.within(nowhere, nowhere))).item() == 0


def test_gradients_are_right() -> None:
    prediction, truth, targets = made_up(batch=1, height=3, width=4, matches=5)
    names = list(LEAVES.values())

    def loss(*values: Tensor) -> Tensor:
        return pair_loss(replace(prediction, **dict(zip(names, values))), truth, targets)

    assert torch.autograd.gradcheck(loss, [getattr(prediction, n).clone().requires_grad_() for n in names])


@pytest.mark.parametrize("mode", ["proper", "all", "dual"])
def test_info_nce_by_hand_and_for_tiny_temperatures(mode: str) -> None:
    a = torch.tensor([[[1.0, 0], [0, 1.0]]])
    b = torch.tensor([[[0.8, 0.6], [0.6, -0.8]]])
    valid = torch.tensor([[True, False]])
    s = torch.exp(a[0] @ b[0].T / 0.5)
    own = s[0, 0]
    wanted = {
        "proper": -torch.log(own / s[0].sum()) - torch.log(own / s[:, 0].sum()),
        "dual": -torch.log(own * own / s[0].sum() / s[:, 0].sum()),
        "all": -torch.log(own / s.sum()),
    }[mode]
    loss = info_nce(a, b, valid, temperature=0.5, mode=mode)  # type: ignore[arg-type]
    torch.testing.assert_close(loss, torch.stack([wanted, torch.zeros(())])[None])
    assert bool(torch.isfinite(info_nce(a, b, valid, temperature=1e-3, mode=mode)).all())  # type: ignore[arg-type]


def test_info_nce_does_not_care_for_the_order() -> None:
    prediction, _, targets = made_up(matches=12)
    order = torch.randperm(12)
    shuffled = MatchTargets(targets.xy_a[:, order], targets.xy_b[:, order], targets.valid[:, order])
    torch.testing.assert_close(matching_loss(prediction, targets), matching_loss(prediction, shuffled))


def test_blocks_meet_only_themselves() -> None:
    desc_a, desc_b = (torch.nn.functional.normalize(torch.randn(1, 10, 4), dim=-1) for _ in range(2))
    valid = torch.ones(1, 10, dtype=torch.bool)
    loss = info_nce(desc_a, desc_b, valid, block_size=4, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    rows = order[:4]
    torch.testing.assert_close(loss[:, rows], info_nce(desc_a[:, rows], desc_b[:, rows], valid[:, rows]))
    assert bool((loss <= info_nce(desc_a, desc_b, valid) + 1e-6).all())  # fewer others to be told from


def test_errors_say_what_is_wanted() -> None:
    prediction, truth, targets = made_up()
    with pytest.raises(ValueError, match=r"PairTruth\.valid_a: wanted bool"):
        replace(truth, valid_a=truth.valid_a.float())
    with pytest.raises(ValueError, match="descriptor head"):
        matching_loss(replace(prediction, desc_a=None), targets)
    with pytest.raises(ValueError, match="wanted proper, all or dual"):
        matching_loss(prediction, targets, mode="any")  # type: ignore[arg-type]
    ones = torch.ones(1, 2)
    with pytest.raises(ValueError, match="wanted mean or prod"):
        confident_matching(ones, ones, ones, ones.bool(), combine="max")  # type: ignore[arg-type]
