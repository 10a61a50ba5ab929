"""A stick that goes behind a wall and comes out on the other side: no match joins what it was to what it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d.core.cameras import invert_rigid, look_at, project
from dyn4d.core.protocols import SilentProgress
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.core.types import Camera, FramePoints, LiftedPairs, join_pairs
from dyn4d.deformation.config import DeformationConfig
from dyn4d.deformation.field import FieldShape, TrajectoryField
from dyn4d.deformation.fit import FitResult, fit_field
from dyn4d.deformation.objective import FieldObjective
from dyn4d.deformation.observations import observe
from dyn4d.deformation.registration import Coloured, register
from dyn4d.deformation.reunions import find_reunions
from dyn4d.deformation.reviews import Reviews
from dyn4d.deformation.root import RootMotion
from dyn4d.deformation.sightings import carry_normals, follow

SIZE, FRAMES, HEIGHT = 96, 28, 2.4
CONFIG = DeformationConfig(
    steps=150, layers=3, cells=16, pairs_per_step=12, points_per_pair=96, lr=2e-2, root=False, checkpoint_seconds=1e-6
)


class Scene:
    """Wall (rows below `WALL`) and stick, seen from the front, with exact matches between frames 1 and 2 apart.

    Args:
        come_back: the stick goes on behind the wall and comes out; otherwise it stays there.
    """

    WALL = 9000

    def __init__(self, come_back: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        wall = (torch.rand(self.WALL, 3, generator=generator) - 0.5) * torch.tensor([0.24, HEIGHT, 0.0])
        stick = (torch.rand(5000, 3, generator=generator) - 0.5) * torch.tensor([0.14, 1.6, 0.0])
        self.material = torch.cat([wall - torch.tensor([0.0, 0.0, 0.1]), stick + torch.tensor([0.0, 0.0, 0.1])])
        tint = (self.material[:, 1:2] * torch.tensor([1.0, 2.0, 3.0])).sin() * 0.3 + 0.5
        grey = torch.full((self.WALL, 3), 0.2)
        self.rgb = torch.cat([grey, tint[self.WALL :]])
        self.times = np.linspace(0, 1, FRAMES)
        self.world = []
        for t in self.times:
            x = -0.35 + 0.7 * float(t if come_back else min(t, 0.5))
            moved = self.material.clone()
            moved[self.WALL :, 0] += x
            self.world.append(moved)
        pose = look_at(torch.tensor([0.0, 0.0, -4.0]), torch.zeros(3), torch.tensor([0.0, -1.0, 0.0]))
        K = torch.tensor([[130.0, 0, SIZE / 2], [0, 130.0, SIZE / 2], [0, 0, 1]])
        self.camera = Camera(K.expand(FRAMES, 3, 3), pose.expand(FRAMES, 4, 4), SIZE, SIZE)
        self._look(K, invert_rigid(pose))
        self._match(generator)

    def _look(self, K: torch.Tensor, cam_from_world: torch.Tensor) -> None:
        rows, frames, pixels, self.masks, self.visible = [], [], [], [], []
        for frame, world in enumerate(self.world):
            xy, z = project(K, cam_from_world, world)
            pixel = xy.floor().long()
            order = torch.argsort(z, stable=True)
            _, first = np.unique((pixel[order, 1] * SIZE + pixel[order, 0]).numpy(), return_index=True)
            keep = order[torch.from_numpy(first)]
            front = torch.full((SIZE, SIZE), torch.inf)
            front[pixel[keep, 1], pixel[keep, 0]] = z[keep]
            self.visible.append(z < front[pixel[:, 1], pixel[:, 0]] + 0.05)
            self.masks.append(torch.isfinite(front).numpy())
            rows.append(keep)
            frames.append(torch.full((len(keep),), frame))
            pixels.append(pixel[keep] + 0.5)
        row, frame = torch.cat(rows), torch.cat(frames)
        self.points = FramePoints(
            xyz=torch.stack(self.world)[frame, row], rgb=self.rgb[row],
            normal=torch.tensor([0.0, 0.0, -1.0]).repeat(len(row), 1), frame=frame, xy=torch.cat(pixels),
            conf=torch.ones(len(row)),
        )  # fmt: skip

    def _match(self, generator: torch.Generator) -> None:
        lists = []
        for i in range(FRAMES):
            for j in (k for k in (i - 2, i - 1, i + 1, i + 2) if 0 <= k < FRAMES):
                both = torch.nonzero(self.visible[i] & self.visible[j])[:, 0]
                both = both[torch.randperm(len(both), generator=generator)[:300]]
                frames = (torch.full((len(both),), k) for k in (i, j))
                lists.append(LiftedPairs(*frames, self.world[i][both], self.world[j][both], torch.ones(len(both))))
        self.pairs = join_pairs(lists)

    def fit(self, config: DeformationConfig = CONFIG, checkpoint: Path | None = None, progress=None) -> FitResult:
        return fit_field(
            self.pairs, self.points, self.camera, self.masks, self.times, config, device=torch.device("cpu"), seed=0,
            progress=progress or SilentProgress(), checkpoint=checkpoint,
        )  # fmt: skip

    def is_wall(self, rows: np.ndarray) -> np.ndarray:
        """Which of the frame points are the wall's."""
        return (self.points.rgb[torch.from_numpy(rows)] == 0.2).all(-1).numpy()

    @torch.no_grad()
    def stick_error(self, field: TrajectoryField) -> float:
        """Mean distance, relative to the object's size, of the stick's points carried from the first to the last
        frame."""
        moved = field.transport(self.world[0][self.WALL :], 0.0, 1.0)
        return float((moved - self.world[-1][self.WALL :]).norm(dim=-1).mean()) / HEIGHT


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def found(scene: Scene) -> FitResult:
    return scene.fit()


@pytest.fixture(scope="module")
def apart(scene: Scene) -> FitResult:
    return scene.fit(replace(CONFIG, reunions=False))


def test_a_stick_that_comes_out_again_is_the_same_stick(scene: Scene, found: FitResult, apart: FitResult) -> None:
    (reunion,) = [entry for entry in found.metrics["reunions"] if entry["followed"]]
    assert reunion["gone"] < 14 < reunion["back"]
    assert scene.stick_error(found.field) < 0.02
    assert apart.metrics["reunions"] == []
    assert scene.stick_error(apart.field) > 0.05, "there is something to mend"


def test_a_resumed_fit_keeps_its_reunions(scene: Scene, found: FitResult, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class StopsLate(SilentProgress):
        steps = 0

        def update(self, **values: float) -> None:
            self.steps += 1
            if self.steps == 80:  # after the first review, before the second
                raise Stop

    with pytest.raises(Stop):
        scene.fit(checkpoint=tmp_path / "fit.safetensors", progress=StopsLate())
    resumed = scene.fit(checkpoint=tmp_path / "fit.safetensors")
    other = found.field.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in resumed.field.state_dict().items())
    assert resumed.metrics["reunions"] == found.metrics["reunions"]


def still(scene: Scene) -> tuple[TrajectoryField, torch.Tensor]:
    """A field that moves nothing but is of the kind that could."""
    times = torch.as_tensor(scene.times, dtype=torch.float32)
    shape = FieldShape(layers=0, cells=4, time_features=1, input_scale=1.0, knots=FRAMES)
    return TrajectoryField(shape, root=RootMotion.still(times), centre=torch.zeros(3), half_size=1.0), times


def test_a_stick_that_stays_hidden_is_left_alone() -> None:
    assert Scene(come_back=False).fit().metrics["reunions"] == []


def test_colours_that_differ_are_no_reunion(scene: Scene, apart: FitResult) -> None:
    """Another stick comes out: the same shape, painted otherwise."""
    points = scene.points
    other = replace(points, rgb=torch.where((points.frame > 13).unsqueeze(-1), (points.rgb + 0.4) % 1, points.rgb))
    field = apart.field
    seen, times = observe(points, scene.camera, scene.masks), torch.as_tensor(scene.times, dtype=torch.float32)
    assert [(r.gone, r.back) for r in find_reunions(field, points, seen, times, seed=0)], "the same paint"
    assert find_reunions(field, other, seen, times, seed=0) == []


def test_what_is_followed_is_seen_where_it_is(scene: Scene) -> None:
    """By a field in which nothing moves, the wall is seen in every frame and the stick only where it was."""
    field, times = still(scene)
    seen = follow(field, scene.points, observe(scene.points, scene.camera, scene.masks), times, seed=0)
    wall = scene.is_wall(seen.rows)
    assert seen.seen[wall].mean() > 0.99 and seen.present[wall].mean() > 0.95
    assert np.allclose(seen.facing[wall & (abs(seen.world[:, 0, 1]) < 0.3)], 1, atol=0.02), "straight ahead"
    own = np.arange(len(seen.rows)), seen.frame
    assert seen.seen[own].all() and seen.present[own].mean() > 0.95
    assert not seen.before[own].any()
    assert seen.seen[~wall].mean() < 0.8


def test_long_clips_are_thinned_out(scene: Scene) -> None:
    field, _ = still(scene)
    many = torch.linspace(0, 1, 150)
    count = torch.arange(150).clamp_max(FRAMES - 1)
    seen = observe(scene.points, scene.camera, scene.masks)
    longer = replace(
        seen, K=seen.K[count], cam_from_world=seen.cam_from_world[count], depth=seen.depth[count],
        outside=seen.outside[count], rows=seen.rows[count],
    )  # fmt: skip
    followed = follow(field, scene.points, longer, many, seed=0)
    assert followed.frames.tolist() == list(range(0, 150, 3))
    assert set(scene.points.frame[torch.from_numpy(followed.rows)].tolist()) <= set(range(0, FRAMES, 3))


def test_short_clips_and_still_ones_have_none(scene: Scene) -> None:
    field, times = still(scene)
    seen = observe(scene.points, scene.camera, scene.masks)
    assert find_reunions(field, scene.points, seen, times[:6], seed=0) == []
    nothing = scene.points.select(torch.zeros(0, dtype=torch.int64))
    assert find_reunions(field, nothing, seen, times, seed=0) == []


def rod(count: int, generator: torch.Generator) -> Coloured:
    """An angle of two coloured bars."""
    xyz = torch.rand(count, 3, generator=generator) * torch.tensor([0.05, 0.4, 0.05])
    xyz[::3] = xyz[::3][:, [1, 0, 2]] * torch.tensor([0.5, 1.0, 1.0])
    return Coloured(xyz, (xyz * 9 + torch.tensor([0.0, 1.0, 2.0])).sin() * 0.4 + 0.5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("origin", [0.0, 300.0])
def test_registration_finds_a_rigid_motion_from_parts(seed: int, origin: float) -> None:
    """The two samples are not the same points, each lacks a part, and the world's origin may be far away."""
    generator = torch.Generator().manual_seed(seed)
    rotation = wxyz_to_matrix(torch.cat([torch.ones(1), 0.2 * torch.randn(3, generator=generator)]))
    shift = 0.06 * torch.randn(3, generator=generator) + origin
    whole, other = rod(500, generator), rod(500, generator)
    source = Coloured(whole.xyz[whole.xyz[:, 1] < 0.35] + origin, whole.rgb[whole.xyz[:, 1] < 0.35])
    keep = other.xyz[:, 1] > 0.02
    target = Coloured((other.xyz @ rotation.T + shift)[keep], other.rgb[keep])
    fit = register(source, source.xyz, target, size=1.0)
    wanted = (source.xyz - origin) @ rotation.T + shift
    assert (fit.moved - wanted).norm(dim=-1).median() < 0.015
    assert min(fit.share_source, fit.share_target) > 0.6
    assert len(fit.rows) and fit.rows.max() < len(source)


def test_strangers_do_not_meet() -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = rod(300, generator), rod(300, generator)
    fit = register(source, source.xyz, Coloured(target.xyz, (target.rgb + 0.4) % 1), size=1.0)
    assert fit.share_source + fit.share_target < 0.5


def test_normals_of_a_bent_surface_stay_normal() -> None:
    """Tangents go with the Jacobian, so a normal carried along must stay perpendicular to them, on the same side."""
    generator = torch.Generator().manual_seed(0)
    slopes = torch.linalg.matrix_exp(0.4 * torch.randn(50, 3, 3, generator=generator))
    a, b = torch.randn(2, 50, 3, generator=generator)
    carried = carry_normals(slopes, torch.linalg.cross(a, b))
    moved_a, moved_b = ((slopes @ side.unsqueeze(-1))[..., 0] for side in (a, b))
    torch.testing.assert_close(carried, torch.linalg.cross(moved_a, moved_b), rtol=1e-4, atol=1e-4)


def test_a_review_drops_what_the_field_does_not_follow(scene: Scene, found: FitResult, apart: FitResult) -> None:
    times = torch.as_tensor(scene.times, dtype=torch.float32)
    seen = observe(scene.points, scene.camera, scene.masks)
    reviews = Reviews(scene.points, seen, times, steps=100, seed=0)
    reviews.review(apart.field)
    assert reviews.steps == {40, 60} and len(reviews.found) == 1 and reviews.pairs is not None
    assert reviews.share == pytest.approx(0.03)
    assert not reviews.followed(reviews.found[0], apart.field) and reviews.followed(reviews.found[0], found.field)
    reviews.review(found.field)
    assert len(reviews.found) == 1, "kept, and not found twice"


def test_matches_of_a_reunion_join_both_sides_both_ways(scene: Scene, apart: FitResult) -> None:
    field = apart.field
    seen, times = observe(scene.points, scene.camera, scene.masks), torch.as_tensor(scene.times, dtype=torch.float32)
    (reunion,) = find_reunions(field, scene.points, seen, times, seed=0)
    pairs = reunion.pairs(field, times)
    frames = set(zip(pairs.frame_a.tolist(), pairs.frame_b.tolist()))
    before, after = range(reunion.gone - 2, reunion.gone + 1), range(reunion.back, reunion.back + 3)
    assert frames == {(a, b) for a in before for b in after} | {(b, a) for a in before for b in after}
    step = 0.7 / (FRAMES - 1)
    moved = (pairs.xyz_b - pairs.xyz_a)[:, 0] - step * (pairs.frame_b - pairs.frame_a)
    assert moved.abs().median() < 0.02 * HEIGHT, "as the stick really moved"


def test_extra_matches_take_their_share_of_each_batch(scene: Scene) -> None:
    times = torch.as_tensor(scene.times, dtype=torch.float32)
    objective = FieldObjective(
        scene.pairs, scene.points, observe(scene.points, scene.camera, scene.masks), times=times, half_size=1.2,
        config=CONFIG, device=torch.device("cpu"),
    )  # fmt: skip
    field, _ = still(scene)
    before = objective(field, 3)
    far = scene.pairs.select(torch.nonzero(scene.pairs.frame_a == 0)[:50, 0])
    objective.also_draw(replace(far, xyz_b=far.xyz_b + 1.0), 0.25)
    assert objective(field, 3).transport > 2 * before.transport
    objective.also_draw(None, 0.0)
    assert torch.equal(objective(field, 3).transport, before.transport)
