"""The fit on an object whose motion is known: a ball that travels, turns and bends."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d.core.cameras import invert_rigid, look_at, pixel_grid, project, unproject
from dyn4d.core.protocols import SilentProgress
from dyn4d.core.types import Camera, FramePoints, LiftedPairs
from dyn4d.deformation.config import DeformationConfig
from dyn4d.deformation.field import cycle_error
from dyn4d.deformation.fit import fit_field
from dyn4d.deformation.losses import neighbours, strain, visual_residual
from dyn4d.deformation.objective import FieldObjective
from dyn4d.deformation.observations import observe
from dyn4d.deformation.root import fit_root
from dyn4d.deformation.sampling import PairSampler
from dyn4d.deformation.tracks import make_tracks

SIZE, FRAMES = 48, 6
QUICK = DeformationConfig(steps=60, layers=3, cells=8, pairs_per_step=8, points_per_pair=96, lr=2e-2, smooth=0.01)


def motion(x: torch.Tensor, t: float) -> torch.Tensor:
    """World position at time t of material points of a sheet: it travels, turns a little and bends."""
    bent = x.clone()
    bent[..., 2] += 0.3 * t * x[..., 0] ** 2
    angle = torch.tensor(0.4 * t)
    c, s = torch.cos(angle), torch.sin(angle)
    rotation = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return bent @ rotation.T + torch.tensor([0.4, -0.1, 0.2]) * t


def sheet(generator: torch.Generator) -> torch.Tensor:
    flat = torch.rand(1500, 3, generator=generator) * 2 - 1
    flat[:, 2] = 0
    return flat


def legs(generator: torch.Generator) -> torch.Tensor:
    """Two sticks that hang from y = -1, one behind the other."""
    place = torch.rand(1500, 3, generator=generator)
    return torch.stack([0.2 * place[:, 0] - 0.1, 2 * place[:, 1] - 1, torch.arange(1500) % 2 * 0.4 - 0.2], dim=-1)


def stride(x: torch.Tensor, t: float) -> torch.Tensor:
    """The legs swing past each other and end where the other one began."""
    angle = 0.5 * torch.sign(x[..., 2]) * (1 - 2 * t)
    c, s, down = torch.cos(angle), torch.sin(angle), x[..., 1] + 1
    return torch.stack([c * x[..., 0] + s * down, c * down - s * x[..., 0] - 1, x[..., 2]], dim=-1)


class Scene:
    """Points seen from above by a static camera, with exact correspondences between frames `gaps` apart."""

    def __init__(self, material=sheet, motion=motion, frames: int = FRAMES, gaps: tuple[int, ...] = (1, 2)) -> None:
        pose = look_at(torch.tensor([0.0, 0.0, -3.0]), torch.zeros(3), torch.tensor([0.0, -1.0, 0.0]))
        K = torch.tensor([[40.0, 0, SIZE / 2], [0, 40.0, SIZE / 2], [0, 0, 1]])
        self.camera = Camera(K.expand(frames, 3, 3), pose.expand(frames, 4, 4), SIZE, SIZE)
        self.times = np.linspace(0, 1, frames)
        generator = torch.Generator().manual_seed(0)
        self.material = material(generator)
        self.world = [motion(self.material, float(t)) for t in self.times]
        pairs = [(i, j) for i in range(frames) for j in range(frames) if abs(i - j) in gaps]
        rows = [torch.randperm(1500, generator=generator)[:300] for _ in pairs]
        self.pairs = LiftedPairs(
            frame_a=torch.tensor([i for i, _ in pairs]).repeat_interleave(300),
            frame_b=torch.tensor([j for _, j in pairs]).repeat_interleave(300),
            xyz_a=torch.cat([self.world[i][r] for (i, _), r in zip(pairs, rows)]),
            xyz_b=torch.cat([self.world[j][r] for (_, j), r in zip(pairs, rows)]),
            weight=torch.ones(300 * len(pairs)),
        )
        parts, self.masks = [], []
        for frame in range(frames):
            xy, _ = project(K, invert_rigid(pose), self.world[frame])
            pixel = xy.floor().long().clamp(0, SIZE - 1)
            keep = torch.from_numpy(np.unique((pixel[:, 1] * SIZE + pixel[:, 0]).numpy(), return_index=True)[1])
            mask = np.zeros((SIZE, SIZE), dtype=bool)
            mask[pixel[:, 1].numpy(), pixel[:, 0].numpy()] = True
            self.masks.append(mask)
            parts.append((self.world[frame][keep], pixel[keep] + 0.5, torch.full((len(keep),), frame)))
        count = sum(len(p[0]) for p in parts)
        self.points = FramePoints(
            xyz=torch.cat([p[0] for p in parts]),
            rgb=torch.full((count, 3), 0.5),
            normal=torch.zeros(count, 3),
            frame=torch.cat([p[2] for p in parts]),
            xy=torch.cat([p[1] for p in parts]),
            conf=torch.ones(count),
        )

    def fit(self, config: DeformationConfig = QUICK, checkpoint: Path | None = None, **changes):
        return fit_field(
            changes.get("pairs", self.pairs), self.points, self.camera, self.masks, self.times, config,
            device=torch.device("cpu"), seed=1, progress=changes.get("progress", SilentProgress()),
            checkpoint=checkpoint,
        )  # fmt: skip


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def fitted(scene: Scene):
    return scene.fit()


def same_bits(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    state = b.state_dict()
    return all(torch.equal(value, state[name]) for name, value in a.state_dict().items())


def test_fit_follows_the_object(scene: Scene, fitted) -> None:
    moved = fitted.field.transport(scene.world[0], 0.0, 1.0)
    error = (moved - scene.world[-1]).norm(dim=-1) / 2.2
    assert error.mean() < 0.02, "2 % of the object's size after 60 steps"
    assert fitted.metrics["cycle"]["max_rel"] < 1e-5
    assert fitted.metrics["transport"]["median_rel"] < 0.02


def test_metrics_cycle_is_what_the_points_give(scene: Scene, fitted) -> None:
    high = max(
        cycle_error(fitted.field, scene.points.xyz[scene.points.frame == i], float(t))[0]
        for i, t in enumerate(scene.times)
    )
    assert fitted.metrics["cycle"]["max"] == pytest.approx(high, rel=1e-6)


def test_a_resumed_fit_ends_where_an_unbroken_one_does(scene: Scene, fitted, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class StopsHalfWay(SilentProgress):
        steps = 0

        def update(self, **values: float) -> None:
            self.steps += 1
            if self.steps == 40:
                raise Stop

    config = replace(QUICK, checkpoint_seconds=1e-6)
    state = tmp_path / "fit.safetensors"
    with pytest.raises(Stop):
        scene.fit(config, state, progress=StopsHalfWay())
    resumed = scene.fit(config, state)
    assert same_bits(resumed.field, fitted.field)


def test_a_seed_makes_a_fit_repeatable(scene: Scene, fitted) -> None:
    assert same_bits(scene.fit().field, fitted.field)


def test_kind_none_and_no_pairs_stand_still(scene: Scene) -> None:
    x = scene.world[0]
    still = scene.fit(replace(QUICK, kind="none"))
    assert torch.equal(still.field.transport(x, 0.0, 1.0), x)
    nothing = scene.pairs.select(torch.zeros(0, dtype=torch.int64))
    assert torch.equal(scene.fit(pairs=nothing).field.transport(x, 0.0, 1.0), x)


def test_wrong_matches_are_outvoted(scene: Scene) -> None:
    generator = torch.Generator().manual_seed(9)
    wrong = torch.rand(len(scene.pairs), generator=generator) < 0.2
    target = torch.where(
        wrong.unsqueeze(-1),
        scene.pairs.xyz_b + torch.randn(len(wrong), 3, generator=generator) * 0.5,
        scene.pairs.xyz_b,
    )
    result = scene.fit(pairs=replace(scene.pairs, xyz_b=target))
    error = (result.field.transport(scene.world[0], 0.0, 1.0) - scene.world[-1]).norm(dim=-1) / 2.2
    assert error.mean() < 0.03


def test_limbs_that_pass_each_other_keep_who_they_are() -> None:
    """Matches over half a stride take one leg for the other, as flow does where both look alike: the field must follow
    neighbouring frames, though a field that stands still meets all far matches."""
    scene = Scene(legs, stride, frames=13, gaps=(1, 2, 10, 11, 12))
    far = (scene.pairs.frame_a - scene.pairs.frame_b).abs() >= 10
    other = scene.pairs.xyz_a  # where it was, the other leg is now
    spoilt = replace(scene.pairs, xyz_b=torch.where(far.unsqueeze(-1), other, scene.pairs.xyz_b))
    result = scene.fit(replace(QUICK, steps=200, cells=16, root=False), pairs=spoilt)
    error = (result.field.transport(scene.world[0], 0.0, 1.0) - scene.world[-1]).norm(dim=-1) / 2.2
    assert error.quantile(0.9) < 0.03


def test_root_motion_of_a_rigid_object_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator)
    frames, pairs = 5, []
    world = []
    for i in range(frames):
        angle = torch.tensor(0.3 * i)
        c, s = torch.cos(angle), torch.sin(angle)
        rotation = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
        world.append(x @ rotation.T + torch.tensor([0.2, 0.0, -0.1]) * i)
    for i in range(frames - 1):
        pairs.append((i, i + 1))
    lifted = LiftedPairs(
        torch.tensor([i for i, _ in pairs]).repeat_interleave(200),
        torch.tensor([j for _, j in pairs]).repeat_interleave(200),
        torch.cat([world[i] for i, _ in pairs]),
        torch.cat([world[j] for _, j in pairs]),
        torch.ones(200 * len(pairs)),
    )
    root = fit_root(lifted, torch.linspace(0, 1, frames), generator=generator, steps=50)
    rotation, translation = root.at(root.times)
    canonical = (world[0] - translation[0]) @ rotation[0]
    for i in range(frames):
        assert (canonical @ rotation[i].T + translation[i] - world[i]).abs().max() < 0.02


def test_visual_residual_is_zero_on_the_surface_and_grows_off_it(scene: Scene) -> None:
    seen = observe(scene.points, scene.camera, scene.masks)
    frames = torch.tensor([2])
    own = scene.points.xyz[scene.points.frame == 2].unsqueeze(0)
    off, front = visual_residual(own, frames, seen, 1.0, 0.02)
    assert off.max() < 0.05
    assert front.max() == 0
    towards = own - torch.tensor([0.0, 0.0, 0.5])
    off, front = visual_residual(towards, frames, seen, 1.0, 0.02)
    assert (front[off < 0.01] > 0.3).float().mean() > 0.9, "in front of the surface, wherever there is one"
    hidden = own + torch.tensor([0.0, 0.0, 0.3])
    assert visual_residual(hidden, frames, seen, 1.0, 0.02)[1].max() == 0, "behind the surface is allowed"
    aside = own + torch.tensor([-0.6, 0.0, 0.0])
    assert visual_residual(aside, frames, seen, 1.0, 0.02)[0].max() > 0.2


def test_neighbours_lie_near_on_the_surface(scene: Scene) -> None:
    seen = observe(scene.points, scene.camera, scene.masks)
    own = scene.points.xyz[scene.points.frame == 1][None, :200]
    near, valid = neighbours(
        own, torch.tensor([1]), seen, scene.points.xyz, reach=3.0, generator=torch.Generator().manual_seed(0)
    )
    assert valid.float().mean() > 0.3
    assert (near - own).norm(dim=-1)[valid].max() < 0.6
    assert torch.equal(near[~valid], own[~valid])


def test_strain_is_blind_to_rigid_motion() -> None:
    a, b = torch.randn(2, 1, 50, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    shift = torch.tensor([1.0, 2.0, 3.0])
    assert strain(a, b, a + shift, b + shift).max() < 1e-6
    assert strain(a, b, 1.5 * a, 1.5 * b).min() > 0.1


def test_sampler_draws_only_what_is_there(scene: Scene) -> None:
    sampler = PairSampler(scene.pairs, FRAMES)
    batch = sampler.draw(16, 32, torch.Generator().manual_seed(0))
    for row in range(16):
        a, b = int(batch.frame_a[row]), int(batch.frame_b[row])
        mine = (scene.pairs.frame_a == a) & (scene.pairs.frame_b == b)
        allowed = scene.pairs.xyz_a[mine]
        assert (batch.xyz_a[row][:, None] == allowed[None]).all(-1).any(1).all()


def test_objective_repeats_by_seed(scene: Scene, fitted) -> None:
    objective = fitted.objective
    assert isinstance(objective, FieldObjective)
    first, again, other = (objective(fitted.field, seed).weighted(QUICK).item() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_tracks_cover_the_whole_clip(scene: Scene, fitted) -> None:
    tracks = make_tracks(
        fitted.field, scene.points, scene.camera, frames=np.arange(FRAMES), frame_times=scene.times,
        all_times=scene.times, count=100, seed=0, pairs=scene.pairs,
    )  # fmt: skip
    assert tracks.xyz.shape == (FRAMES, 100, 3)
    start = torch.stack([tracks.xyz[f, i] for i, f in enumerate(tracks.frame_first.tolist())])
    assert (start[:, None] - scene.points.xyz[None]).norm(dim=-1).amin(1).max() < 1e-4
    own = tracks.conf[tracks.frame_first, torch.arange(100)]
    assert ((own - 1).abs() < 1e-6).float().mean() > 0.95  # there the point is where it was seen
    assert tracks.conf.min() >= 0 and tracks.conf.max() <= 1
    assert tracks.conf[tracks.visible].median() > 0.5


def test_unproject_is_projects_inverse(scene: Scene) -> None:
    camera = scene.camera
    grid = pixel_grid(4, 5).reshape(-1, 2)
    depth = torch.linspace(1, 3, 20)
    world = unproject(camera.K[0], camera.world_from_cam[0], grid, depth)
    xy, z = project(camera.K[0], camera.cam_from_world[0], world)
    assert torch.allclose(xy, grid, atol=1e-4)
    assert torch.allclose(z, depth, atol=1e-5)


@pytest.mark.parametrize("change", [{"layers": 0}, {"steps": -1}, {"lr": 0.0}])
def test_bad_options_name_themselves(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"deformation.{next(iter(change))}"):
        DeformationConfig(**change)  # type: ignore[arg-type]
