"""The fields kept to compare with: offsets by a network, and the published invertible one with its own fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import SilentProgress
from dyn4d.core.types import Camera, FramePoints, GaussianCloud, LiftedPairs
from dyn4d.deformation.config import DeformationConfig
from dyn4d.deformation.field import TrajectoryField, cycle_error
from dyn4d.deformation.files import load_field
from dyn4d.deformation.fit import fit_field
from dyn4d.deformation.offset_field import OffsetField, OffsetShape
from dyn4d.deformation.published_field import PublishedField, PublishedShape, random_order
from dyn4d.deformation.published_fit import NearPairs, StepPair, published_loss
from dyn4d.gaussians.warp import move
from dyn4d.io.checkpoint import save_tensors

CENTRE, HALF = torch.tensor([1.0, -2.0, 3.0]), 2.0
SMALL_OFFSETS = OffsetShape(width=16, depth=3, skip=1, position_frequencies=2, time_frequencies=2)


def points(count: int = 50) -> torch.Tensor:
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(3)) * 2 - 1) * HALF + CENTRE


def offsets(size: float = 0.0) -> OffsetField:
    field = OffsetField(SMALL_OFFSETS, centre=CENTRE, half_size=HALF, seed=1)
    if size:
        with torch.no_grad():
            field.head.weight.normal_(0, size, generator=torch.Generator().manual_seed(0))
    return field


def published(order: tuple[int, ...] = (2, 0, 1, 1), seed: int = 0) -> PublishedField:
    shape = PublishedShape(order=order, hidden=24, features=12, frequencies=3, filters=24)
    return PublishedField(shape, centre=CENTRE, half_size=HALF, seed=seed)


def matches(frames: int = 5, each: int = 40) -> LiftedPairs:
    """Between points that drift along x, at all gaps."""
    pairs = [(a, b) for a in range(frames) for b in range(frames) if a != b]
    a, b = (torch.tensor([p[i] for p in pairs]).repeat_interleave(each) for i in (0, 1))
    xyz = points(len(a))
    drift = torch.tensor([0.1, 0, 0])
    return LiftedPairs(a, b, xyz + a[:, None] * drift, xyz + b[:, None] * drift, torch.ones(len(a)))


def test_offsets_begin_as_the_identity_and_then_move() -> None:
    x = points()
    assert torch.equal(offsets().from_canonical(x, 0.3), x)
    torch.testing.assert_close(offsets().jacobian(x, 0.3), torch.eye(3).expand(50, 3, 3))
    assert (offsets(0.1).from_canonical(x, 0.3) - x).norm(dim=-1).mean() > 0.05


def test_the_search_for_a_canonical_point_ends_near() -> None:
    field, x = offsets(0.02), points()
    moved = field.from_canonical(x, 0.3).detach()
    assert (moved - x).norm(dim=-1).mean() > 0.01
    assert (field.from_canonical(field.to_canonical(moved, 0.3), 0.3) - moved).norm(dim=-1).max() < 1e-3


def test_learnt_axes_have_a_gradient_and_derived_ones_have_none() -> None:
    quats, scales = torch.tensor([1.0, 0, 0, 0]).repeat(6, 1), torch.full((6, 3), 0.1)
    cloud = GaussianCloud(points(6), quats, scales, torch.ones(6), torch.zeros(6, 1, 3))
    learnt = offsets(0.1)
    move(cloud, learnt, 0.4).covars.sum().backward()
    assert learnt.head.weight.grad is not None and bool((learnt.head.weight.grad[3:] != 0).any())
    assert bool((learnt.head.weight.grad[:3] == 0).all())
    assert not move(cloud, published(), 0.4).covars.requires_grad


@pytest.mark.parametrize("when", [0.4, "rows", "each"])
def test_the_published_field_undoes_itself(when: float | str) -> None:
    field, x = published().double(), points(60).double().view(3, 20, 3)
    t: float | torch.Tensor
    if when == "rows":
        t = torch.tensor([[0.0], [0.4], [1.0]], dtype=torch.float64)
    elif when == "each":
        t = torch.rand(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    else:
        t = float(when)
    there = field.to_canonical(x, t)
    assert (there - x).abs().max() > 1e-3, "it does not begin as the identity"
    torch.testing.assert_close(field.from_canonical(there, t), x, rtol=1e-9, atol=1e-9)
    if isinstance(t, torch.Tensor):
        one = field.to_canonical(x[1, 7], float(t.expand(3, 20)[1, 7]))
        torch.testing.assert_close(there[1, 7], one)


def test_each_published_layer_moves_its_own_coordinate() -> None:
    x = points()
    for coordinate in range(3):
        moved = published(order=(coordinate,)).to_canonical(x, 0.2) - x
        others = [i for i in range(3) if i != coordinate]
        assert moved[:, coordinate].abs().max() > 1e-3 and moved[:, others].abs().max() < 1e-5


def test_the_random_order_is_made_of_permutations() -> None:
    orders = {random_order(4, seed) for seed in range(40)}
    assert len(orders) > 10
    assert all(sorted(order[:3]) == [0, 1, 2] for order in orders)
    assert random_order(4, 3) == random_order(4, 3)


def test_near_pairs_stay_near_and_do_not_prefer_neighbours() -> None:
    pairs = matches(frames=12)
    near = (pairs.frame_a - pairs.frame_b).abs() == 1  # these have most of the matches
    pairs = pairs.select(torch.nonzero(near | (torch.arange(len(near)) % 8 == 0)).flatten())
    sampler = NearPairs(pairs, 12)
    generator = torch.Generator().manual_seed(0)
    gaps = np.array([abs(p.frame_a - p.frame_b) for p in (sampler.draw(10, generator) for _ in range(600))])
    assert gaps.max() == 8
    in_matches = near.sum() / ((pairs.frame_a - pairs.frame_b).abs() <= 8).sum()
    assert in_matches > 0.5 and np.mean(gaps == 1) < 0.35
    assert len(sampler.draw(10_000, generator).xyz_a) == 40, "no match is drawn twice"


def test_the_published_loss_is_of_place_and_of_motion() -> None:
    class Shift(PublishedField):
        def transport(self, xyz: torch.Tensor, t_src: object, t_dst: object) -> torch.Tensor:
            return xyz + torch.tensor([0.4, 0, 0])

    field = Shift(PublishedShape(order=(0,)), centre=CENTRE, half_size=HALF)
    x = points()
    exact = StepPair(0, 1, x, x + torch.tensor([0.4, 0, 0]))
    assert published_loss(field, exact, 0, 1, HALF).item() == pytest.approx(0, abs=1e-12)
    off = StepPair(0, 1, x, x + torch.tensor([0.7, 0, 0]))
    assert published_loss(field, off, 0, 1, HALF).item() == pytest.approx((0.3 / HALF) ** 2 / 3, rel=1e-4)


class Stop(Exception):
    pass


class StopsHalfWay(SilentProgress):
    left = 5

    def update(self, **values: float) -> None:
        self.left -= 1
        if not self.left:
            raise Stop


def fit(config: DeformationConfig, checkpoint: Path | None = None, progress: SilentProgress | None = None):
    pairs = matches()
    row = torch.arange(len(pairs)) % 5
    found = FramePoints(
        pairs.xyz_a, torch.zeros_like(pairs.xyz_a), torch.zeros_like(pairs.xyz_a), row.sort().values,
        torch.zeros(len(pairs), 2), torch.ones(len(pairs)),
    )  # fmt: skip
    camera = Camera(torch.eye(3).expand(5, 3, 3), torch.eye(4).expand(5, 4, 4), 8, 8)
    return fit_field(
        pairs, found, camera, [np.ones((8, 8), bool)] * 5, np.linspace(0, 1, 5), config, device=torch.device("cpu"),
        seed=2, progress=progress or SilentProgress(), checkpoint=checkpoint,
    )  # fmt: skip


MODGS = DeformationConfig(kind="modgs", steps=10, pairs_per_step=1, points_per_pair=30, checkpoint_seconds=1e-6)


def test_a_published_fit_learns_repeats_and_resumes(tmp_path: Path) -> None:
    whole = fit(MODGS)
    assert isinstance(whole.field, PublishedField)
    curve = [loss for _, loss in fit(replace(MODGS, steps=100)).curves["transport"]]
    assert min(curve[1:]) < curve[0] / 2
    with pytest.raises(Stop):
        fit(MODGS, tmp_path / "state", StopsHalfWay())
    resumed = fit(MODGS, tmp_path / "state").field
    for name, value in whole.field.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert whole.metrics["cycle"]["max_rel"] == pytest.approx(
        max(cycle_error(whole.field, matches().xyz_a, t)[0] for t in (0.0, 0.5, 1.0)) / whole.metrics["object_size"],
        rel=10,
    )


def test_offsets_are_left_to_the_gaussians_and_have_no_cycle() -> None:
    result = fit(replace(MODGS, kind="mlp"))
    assert isinstance(result.field, OffsetField)
    assert result.metrics["cycle"] is None and result.metrics["transport"]["median_rel"] > 0
    assert torch.equal(result.field.from_canonical(points(), 0.5), points())


def test_every_kind_is_read_back(tmp_path: Path) -> None:
    fields = [offsets(0.1), published(), TrajectoryField.still()]
    for number, field in enumerate(fields):
        path = tmp_path / f"{number}.safetensors"
        field.save(path)
        back = load_field(path)
        assert type(back) is type(field)
        assert torch.equal(back.from_canonical(points(), 0.7), field.from_canonical(points(), 0.7))
    save_tensors(tmp_path / "other", {"x": torch.zeros(1)}, {}, "something/1")
    with pytest.raises(InputError, match="which is no field"):
        load_field(tmp_path / "other")
