"""The field's laws: identity at the start, exact inverse, Jacobian equal to autograd's, times in any shape."""

from pathlib import Path

import pytest
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.deformation.coupling import coarse_to_fine
from dyn4d.deformation.encodings import GaborNet
from dyn4d.deformation.field import FieldShape, TrajectoryField, cycle_error
from dyn4d.deformation.root import RootMotion


def make_field(*, layers: int = 6, spread: float = 0.3, seed: int = 0, moving_root: bool = True) -> TrajectoryField:
    """A field with random weights, so that it really bends space."""
    generator = torch.Generator().manual_seed(seed)
    knots = torch.linspace(0, 1, 5)
    root = RootMotion.still(knots)
    if moving_root:
        quats = torch.nn.functional.normalize(torch.randn(5, 4, generator=generator) * 0.2 + torch.eye(4)[0], dim=-1)
        root = RootMotion(knots, quats, torch.randn(5, 3, generator=generator) * 0.3)
    shape = FieldShape(layers=layers, cells=8, time_features=16, input_scale=10.0, knots=5)
    field = TrajectoryField(shape, root=root, centre=torch.tensor([1.0, -2.0, 3.0]), half_size=2.0, seed=seed)
    with torch.no_grad():
        for table in field.stack.tables:
            table.copy_(torch.randn(table.shape, generator=generator) * spread)
    return field


def points(count: int = 64, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(count, 3, generator=generator, dtype=dtype) * 2 - 1) * 2 + torch.tensor([1.0, -2.0, 3.0]).to(
        dtype
    )


@pytest.mark.parametrize("layers", [1, 3, 6])
def test_identity_before_training(layers: int) -> None:
    shape = FieldShape(layers=layers, cells=16, time_features=16, input_scale=96.0, knots=3)
    field = TrajectoryField(shape, root=RootMotion.still(torch.linspace(0, 1, 3)), centre=torch.zeros(3), half_size=1.0)
    x = points()
    assert torch.allclose(field.from_canonical(x, 0.37), x, atol=1e-6)
    assert torch.allclose(field.to_canonical(x, 0.37), x, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_inverse_is_exact(seed: int) -> None:
    field = make_field(seed=seed)
    x = points(500)
    for t in (0.0, 0.31, 1.0):
        assert (field.from_canonical(x, t) - x).abs().max() > 0.05, "the field must do something"
        assert cycle_error(field, x, t)[0] < 1e-5 * 4
    wide = field.double()
    back = wide.from_canonical(wide.to_canonical(x.double(), 0.31), 0.31)
    assert (back - x).abs().max() < 1e-11


def test_poses_of_the_root_learn_only_where_they_were_fitted() -> None:
    """A frame's own pose is pulled by that frame's points, also where neighbouring poses are the same."""
    knots, quats = torch.linspace(0, 1, 5), torch.eye(4)[0].repeat(5, 1)
    moved = torch.zeros(5, 3)
    moved[4, 0] = 0.1
    shape = FieldShape(layers=3, cells=4, time_features=4, input_scale=2.0, knots=5)
    field = TrajectoryField(shape, root=RootMotion(knots, quats, moved), centre=torch.zeros(3), half_size=1.0)
    x = points()
    (field.from_canonical(x, 0.25) - x - 0.1).square().sum().backward()
    rotations, translations = field.root.rotations.grad, field.root.translations.grad
    assert rotations is not None and translations is not None
    assert bool(torch.isfinite(rotations).all()) and bool(rotations[1].any())
    assert bool(translations[1].all()) and not bool(translations[[0, 2, 3, 4]].any())
    poses = {id(p) for p in field.root.parameters()}
    assert poses <= {id(p) for group in field.parameter_groups(1.0) for p in group["params"]}
    still = make_field(moving_root=False)
    poses = {id(p) for p in still.root.parameters()}
    assert not poses & {id(p) for group in still.parameter_groups(1.0) for p in group["params"]}


def test_jacobian_is_autograds() -> None:
    field = make_field().double()
    x = points(5, torch.float64)
    jacobian = field.jacobian(x, 0.4)
    for i in range(5):
        expected = torch.autograd.functional.jacobian(lambda p: field.from_canonical(p, 0.4), x[i])
        assert torch.allclose(jacobian[i], expected, atol=1e-10)
    assert (torch.linalg.det(jacobian) > 0).all(), "a coupling field never turns space inside out"


def test_jacobian_is_differentiable() -> None:
    field = make_field(layers=3).double()
    x = points(2, torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda p: field.jacobian(p, 0.2), (x,), atol=1e-6)


def test_motion_is_both_at_once() -> None:
    field = make_field()
    x = points().requires_grad_(True)
    moved, jacobian = field.motion(x, 0.3)
    assert torch.allclose(moved, field.from_canonical(x, 0.3), atol=1e-6)
    assert torch.allclose(jacobian, field.jacobian(x, 0.3), atol=1e-5)
    assert moved.requires_grad
    assert not jacobian.requires_grad


def test_moments_serve_several_sets_of_points() -> None:
    field = make_field()
    times, rows = torch.tensor([0.0, 0.4, 1.0]), torch.tensor([2, 0, 2, 1])
    x = points(4 * 7).reshape(4, 7, 3)
    moments = field.moments(times)
    moved = moments.from_canonical(x, rows)
    for i, row in enumerate(rows):
        assert torch.allclose(moved[i], field.from_canonical(x[i], times[row]), atol=1e-5)
    assert torch.allclose(moments.to_canonical(moved, rows), x, atol=1e-5)


def test_times_in_any_shape_agree() -> None:
    field = make_field()
    x, t = points(12).reshape(3, 4, 3), torch.tensor([[0.1], [0.5], [0.9]])
    batched = field.from_canonical(x, t)
    per_point = field.from_canonical(x.reshape(12, 3), t.expand(3, 4).reshape(12))
    for i in range(3):
        assert torch.allclose(batched[i], field.from_canonical(x[i], float(t[i])), atol=1e-5)
    assert torch.allclose(batched.reshape(12, 3), per_point, atol=1e-5)
    assert field.from_canonical(torch.zeros(0, 3), 0.5).shape == (0, 3)


def test_many_times_share_their_codes() -> None:
    field = make_field()
    x, t = points(200), torch.arange(200) % 4 / 3
    one_by_one = torch.cat([field.from_canonical(x[i : i + 1], float(t[i])) for i in range(200)])
    assert torch.allclose(field.from_canonical(x, t), one_by_one, atol=1e-5)


def test_transport_composes() -> None:
    field = make_field()
    x = points()
    direct = field.transport(x, 0.1, 0.8)
    by_way = field.transport(field.transport(x, 0.1, 0.5), 0.5, 0.8)
    assert torch.allclose(direct, by_way, atol=2e-5)


def test_still_field_is_exactly_the_identity() -> None:
    field = TrajectoryField.still()
    x = points()
    assert torch.equal(field.from_canonical(x, 0.3), x)
    assert torch.equal(field.jacobian(x, 0.3), torch.eye(3).expand(len(x), 3, 3))


def test_save_and_load(tmp_path: Path) -> None:
    field = make_field()
    field.save(tmp_path / "field.safetensors")
    loaded = TrajectoryField.load(tmp_path / "field.safetensors")
    assert torch.equal(loaded.from_canonical(points(), 0.7), field.from_canonical(points(), 0.7))
    TrajectoryField.still().save(tmp_path / "still.safetensors")
    assert not TrajectoryField.load(tmp_path / "still.safetensors").moves


def test_damaged_field_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    path.write_bytes(b"not a field")
    with pytest.raises(InputError, match=r"field\.safetensors"):
        TrajectoryField.load(path)


def test_wrong_shape_says_so() -> None:
    with pytest.raises(ValueError, match="wanted shape"):
        make_field().from_canonical(torch.zeros(4, 2), 0.5)


def test_root_motion_hits_its_knots_and_holds_beyond() -> None:
    root = make_field().root
    rotation, translation = root.at(root.times)
    assert torch.allclose(rotation, wxyz_to_matrix(root.rotations), atol=1e-5)
    assert torch.allclose(translation, root.translations, atol=1e-6)
    assert torch.allclose(root.at(torch.tensor([2.0]))[1][0], root.translations[-1])


def test_coarse_to_fine_opens_band_after_band() -> None:
    assert torch.equal(coarse_to_fine(3, 0.0), torch.zeros(3))
    assert torch.equal(coarse_to_fine(3, 1.0), torch.ones(3))
    half = coarse_to_fine(4, 0.5)
    assert torch.equal(half, torch.tensor([1.0, 1.0, 0.0, 0.0]))


def test_gabor_net_is_seeded_and_finite() -> None:
    nets = [GaborNet(8, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    t = torch.linspace(0, 1, 7)
    assert torch.equal(nets[0](t), nets[1](t))
    assert nets[0](t).shape == (7, 8)
    assert torch.isfinite(nets[0](t)).all()
