"""Gaussians: activations, moving by the Jacobian, first cloud, densification, one step, resume."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d.core.cameras import look_at, pixel_grid, unproject
from dyn4d.core.errors import InputError
from dyn4d.core.protocols import SilentProgress
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.core.types import Camera, Clip, FramePoints, GaussianCloud, Timeline
from dyn4d.gaussians.confidence import confidence
from dyn4d.gaussians.config import GaussiansConfig
from dyn4d.gaussians.cotrain import cotrain, open_bands, shape_terms
from dyn4d.gaussians.densify import PullStatistics, densify
from dyn4d.gaussians.init import SH_DC, initial_cloud, surface_frames, voxel_average
from dyn4d.gaussians.losses import compose, depth_order_error, stray
from dyn4d.gaussians.model import NAMES, GaussianModel, build_optimiser, change_rows
from dyn4d.gaussians.targets import FrameTarget, background_colour, make_target
from dyn4d.gaussians.warp import covariance, move, move_cloud, nearest_rotation
from dyn4d.raster.sh import sh_colors

SIZE, FRAMES = 40, 3


class Affine:
    """A field that shears, stretches and shifts by an amount that grows with time."""

    invertible = True

    def matrix(self, t: float) -> torch.Tensor:
        return torch.eye(3) + float(t) * torch.tensor([[0.3, 0.2, 0.0], [0.0, -0.2, 0.1], [0.1, 0.0, 0.2]])

    def from_canonical(self, xyz: torch.Tensor, t: float) -> torch.Tensor:
        return xyz @ self.matrix(t).to(xyz).T + float(t)

    def to_canonical(self, xyz: torch.Tensor, t: float) -> torch.Tensor:
        return (xyz - float(t)) @ torch.linalg.inv(self.matrix(t)).to(xyz).T

    def jacobian(self, xyz: torch.Tensor, t: float) -> torch.Tensor:
        return self.matrix(t).to(xyz).expand(*xyz.shape, 3)

    def motion(self, xyz: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
        return self.from_canonical(xyz, t), self.jacobian(xyz, t)


class Still(Affine):
    def matrix(self, t: float) -> torch.Tensor:
        return torch.eye(3)

    def from_canonical(self, xyz: torch.Tensor, t: float) -> torch.Tensor:
        return xyz

    to_canonical = from_canonical


def random_cloud(count: int = 30, seed: int = 0) -> GaussianCloud:
    g = torch.Generator().manual_seed(seed)
    return GaussianCloud(
        torch.randn(count, 3, generator=g),
        torch.randn(count, 4, generator=g),
        torch.rand(count, 3, generator=g) * 0.2 + 0.01,
        torch.rand(count, generator=g) * 0.8 + 0.1,
        torch.randn(count, 4, 3, generator=g) * 0.3,
    )


def make_clip() -> tuple[Clip, FramePoints, Camera]:
    """A flat square with a pattern before a grey wall, seen by a static camera."""
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[10:30, 8:32] = True
    g = np.random.default_rng(0)
    pattern = np.kron(g.integers(40, 255, (5, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    image = np.where(mask[..., None], pattern, 128).astype(np.uint8)
    K = torch.tensor([[50.0, 0, SIZE / 2], [0, 50.0, SIZE / 2], [0, 0, 1]], dtype=torch.float64)
    pose = look_at(torch.tensor([0.0, 0, -2]), torch.zeros(3), torch.tensor([0.0, -1, 0])).double()
    camera = Camera(K.expand(FRAMES, 3, 3), pose.expand(FRAMES, 4, 4), SIZE, SIZE)
    line = Timeline(np.linspace(0, 1, FRAMES), np.arange(FRAMES) / 24, tuple("abc"))
    clip = Clip(
        "square", Path("square"), [image] * FRAMES, [mask] * FRAMES, np.arange(FRAMES), line, SIZE, SIZE,
        cameras=camera, all_cameras=camera, poses_given=True,
    )  # fmt: skip
    xy = pixel_grid(SIZE, SIZE)[torch.from_numpy(mask)]
    xyz = unproject(K[:].float(), pose.float(), xy, torch.full((len(xy),), 2.0))
    rgb = torch.from_numpy(image)[torch.from_numpy(mask)].float() / 255
    count = len(xy)
    points = FramePoints(
        xyz.repeat(FRAMES, 1), rgb.repeat(FRAMES, 1), torch.zeros(count * FRAMES, 3),
        torch.arange(FRAMES).repeat_interleave(count), xy.repeat(FRAMES, 1), torch.ones(count * FRAMES),
    )  # fmt: skip
    return clip, points, camera


def test_moved_cloud_has_the_moved_covariance() -> None:
    cloud, field = random_cloud(), Affine()
    moved = move_cloud(cloud, field, 0.7)
    exact = move(cloud, field, 0.7)
    assert torch.allclose(moved.means, exact.means)
    again = covariance(wxyz_to_matrix(moved.quats_wxyz), moved.scales)
    assert torch.allclose(again, exact.covars, atol=1e-6)
    assert torch.allclose(torch.linalg.det(wxyz_to_matrix(moved.quats_wxyz)), torch.ones(len(cloud)), atol=1e-5)


def test_identity_moves_nothing() -> None:
    cloud = random_cloud()
    moved = move_cloud(cloud, Still(), 0.5)
    assert torch.allclose(moved.means, cloud.means)
    before = covariance(wxyz_to_matrix(cloud.quats_wxyz), cloud.scales)
    assert torch.allclose(covariance(wxyz_to_matrix(moved.quats_wxyz), moved.scales), before, atol=1e-6)


def test_activations_round_trip() -> None:
    cloud = random_cloud()
    back = GaussianModel.from_cloud(cloud, 1).cloud()
    for name in ("means", "quats_wxyz", "scales", "opacities", "sh"):
        assert torch.allclose(getattr(back, name), getattr(cloud, name), atol=1e-5), name
    assert GaussianModel.from_cloud(cloud, 3).cloud().sh.shape == (30, 16, 3)
    assert GaussianModel.from_cloud(cloud, 0).cloud().sh.shape == (30, 1, 3)


def test_changing_rows_keeps_their_moments() -> None:
    model = GaussianModel.from_cloud(random_cloud(), 1)
    optimiser = build_optimiser(model, GaussiansConfig(), 1.0)
    sum(getattr(model, name).square().sum() for name in NAMES).backward()
    optimiser.step()
    moments = {name: optimiser.state[getattr(model, name)]["exp_avg"].clone() for name in NAMES}
    keep = torch.tensor([3, 5, 8])
    added = {name: model.raw()[name][:2] + 1 for name in NAMES}
    change_rows(model, optimiser, keep, added)
    assert len(model) == 5
    for name in NAMES:
        state = optimiser.state[getattr(model, name)]["exp_avg"]
        assert torch.equal(state[:3], moments[name][keep]), name
        assert state[3:].abs().max() == 0
    sum(getattr(model, name).square().sum() for name in NAMES).backward()
    optimiser.step()


def test_densify_splits_the_strongest_and_drops_the_faint() -> None:
    cloud = random_cloud(20)
    opacities = cloud.opacities.clone()
    opacities[:4] = 0.001
    model = GaussianModel.from_cloud(replace(cloud, opacities=opacities), 0)
    config = GaussiansConfig(maximum=18, densify_share=0.5, prune_opacity=0.02)
    pull = PullStatistics(20, torch.device("cpu"))
    gradient = torch.zeros(20, 2)
    gradient[10] = 5.0
    gradient[11] = 1.0
    pull.add(gradient, torch.ones(20, 2))
    optimiser = build_optimiser(model, config, 10.0)
    count = densify(model, optimiser, pull, config, half_size=10.0)
    assert count == 16 + 2
    middle = (model.means[-4:-2] + model.means[-2:]) / 2
    assert torch.allclose(middle, cloud.means[[10, 11]], atol=1e-6), "two children straddle their parent"
    assert not (model.means[:, None] == cloud.means[None, :4]).all(-1).any(), "the faint ones are gone"


def test_voxel_average_weights_and_counts() -> None:
    xyz = torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [5.0, 5, 5]])
    mean, rgb, votes = voxel_average(xyz, xyz, torch.tensor([1.0, 3.0, 1.0]), 1.0)
    assert votes.tolist() == [2, 1]
    assert torch.allclose(mean[0], torch.tensor([0.15, 0, 0]))
    assert torch.allclose(rgb, mean)


def test_first_cloud_lies_flat_on_the_surface() -> None:
    _, points, _ = make_clip()
    cloud = initial_cloud(
        points, Still(), torch.linspace(0, 1, FRAMES), 200, generator=torch.Generator().manual_seed(0)
    )
    assert 100 <= len(cloud) <= 260
    across = wxyz_to_matrix(cloud.quats_wxyz)[..., 2]
    assert across[:, 2].abs().min() > 0.99, "the thin axis is the plane's normal"
    assert (cloud.scales[:, 2] < cloud.scales[:, 0]).all()
    assert (0.5 + SH_DC * cloud.sh[:, 0]).min() >= 0


def test_first_cloud_of_few_points_and_of_none() -> None:
    _, points, _ = make_clip()
    rows, times = torch.arange(2), torch.linspace(0, 1, FRAMES)
    generator = torch.Generator().manual_seed(0)
    assert len(initial_cloud(points.select(rows), Still(), times, 200, generator=generator)) == 2
    assert len(initial_cloud(points.select(rows[:1]), Still(), times, 200, generator=generator)) == 1
    with pytest.raises(InputError, match="masks and the depth"):
        initial_cloud(points.select(rows[:0]), Still(), times, 200, generator=generator)


def test_surface_frames_are_rotations() -> None:
    xyz = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    frames = surface_frames(xyz, torch.randint(20, (20, 8), generator=torch.Generator().manual_seed(1)))
    assert torch.allclose(frames @ frames.transpose(-1, -2), torch.eye(3).expand(20, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(frames), torch.ones(20), atol=1e-5)


def test_target_cuts_to_the_object() -> None:
    clip, points, camera = make_clip()
    target = make_target(clip, camera, points, 1, margin=4)
    assert target is not None
    assert (target.left, target.top) == (4, 6)
    assert target.mask.shape == (28, 32)
    assert torch.allclose(target.depth[target.mask], torch.tensor(2.0))
    assert (target.behind[target.edge] == 128).all(), "what lies behind the outline is the wall"
    assert background_colour(clip) == pytest.approx((128 / 255,) * 3)
    empty = replace(clip, masks=[np.zeros((SIZE, SIZE), dtype=bool)] * FRAMES)
    assert make_target(empty, camera, points, 1, margin=4) is None


def test_compose_asks_for_the_frame_where_it_shows_and_for_the_background_elsewhere() -> None:
    clip, points, camera = make_clip()
    target = make_target(clip, camera, points, 0, margin=4)
    assert target is not None
    colour = torch.tensor([1.0, 0.0, 0.0])
    alpha = target.mask.float().unsqueeze(-1)
    picture, wanted = compose(target.image.float() / 255 * alpha, alpha, target, colour)
    assert torch.allclose(picture, wanted, atol=1e-6), "the exact render costs nothing"
    assert torch.equal(wanted[0, 0], colour)


def test_what_is_astray_is_pulled_back_where_the_picture_shows_that_it_is() -> None:
    clip, points, camera = make_clip()
    target = make_target(clip, camera, points, 1, margin=4)
    assert target is not None
    height, width = target.mask.shape
    assert target.picture == (SIZE, SIZE) and target.left == 4 and target.left + width < SIZE
    pixels = torch.tensor([[width / 2, height / 2], [-3.0, height / 2], [width + 2.0, -1.0], [-5.0, 3.0], [3.0, 99.0]])
    world_from_cam = torch.linalg.inv(target.cam_from_world)
    means = unproject(target.K, world_from_cam, pixels, torch.full((5,), 2.0))
    means = torch.cat([means, unproject(target.K, world_from_cam, pixels[1:2], torch.tensor([-2.0]))]).requires_grad_()
    opacities = torch.linspace(0.4, 0.9, 6).requires_grad_()
    found = stray(means, opacities, target, 0.5)
    metre = 2.0 / float(target.K[0, 0]) / 0.5
    assert found.item() == pytest.approx((0.5 * 3 + 0.6 * (2 + 1)) * metre / 6, rel=1e-4)
    found.backward()
    assert means.grad is not None and opacities.grad is not None
    pulled = (means.grad.abs().sum(-1) > 0).tolist()
    assert pulled == (opacities.grad > 0).tolist() == [False, True, True, False, False, False]
    better = stray(means.detach() - 0.05 * means.grad, opacities, target, 0.5)
    assert better < found


def sloped_target() -> tuple[torch.Tensor, FrameTarget]:
    """A depth map that falls off to the right, without and with the rest of its frame."""
    clip, points, camera = make_clip()
    target = make_target(clip, camera, points, 0, margin=4)
    assert target is not None
    slope = torch.linspace(1, 2, target.mask.shape[1]).expand(target.mask.shape)
    return slope, replace(target, depth=slope * target.mask)


def test_depth_order_is_zero_in_order_and_large_out_of_it() -> None:
    slope, sloped = sloped_target()
    generator = torch.Generator().manual_seed(0)
    for form, most, least in (("tanh", 1e-3, 1.9), ("logistic", 1e-4, 0.3)):
        assert depth_order_error(slope, sloped, 1.0, generator, form=form) < most
        assert depth_order_error(-slope, sloped, 1.0, generator, form=form) > least


def test_only_the_logistic_depth_order_pulls_at_what_is_far_out_of_order() -> None:
    slope, sloped = sloped_target()
    pulls = []
    for form in ("tanh", "logistic"):
        drawn = (-20 * slope).clone().requires_grad_(True)
        depth_order_error(drawn, sloped, 1.0, torch.Generator().manual_seed(0), form=form).backward()
        pulls.append(float(drawn.grad.abs().sum()))
    assert pulls[0] < 1e-6
    assert pulls[1] > 0.1


CONFIG = GaussiansConfig(initial=250, maximum=300, steps=40, densify_every=10, margin=4, lr_means=1e-3)


def run(config: GaussiansConfig, checkpoint: Path | None = None, progress: SilentProgress | None = None):
    clip, points, camera = make_clip()
    return cotrain(
        clip, points, Still(), camera, config, device=torch.device("cpu"), seed=0,
        progress=progress or SilentProgress(), checkpoint=checkpoint,
    )  # fmt: skip


def test_training_redraws_the_frames() -> None:
    before = run(replace(CONFIG, steps=0)).metrics["input"]
    after = run(CONFIG)
    assert after.metrics["input"]["mpsnr"] > before["mpsnr"] + 2
    assert after.metrics["input"]["mpsnr"] > 22
    assert after.metrics["input"]["iou"] > 0.9
    assert after.metrics["count"] == len(after.cloud) <= 300


def test_resumed_training_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class StopsHalfWay(SilentProgress):
        steps = 0

        def update(self, **values: float) -> None:
            self.steps += 1
            if self.steps == 25:
                raise Stop

    config = replace(CONFIG, checkpoint_seconds=1e-6)
    state = tmp_path / "state.safetensors"
    with pytest.raises(Stop):
        run(config, state, StopsHalfWay())
    resumed, whole = run(config, state), run(CONFIG)
    for name, value in vars(whole.cloud).items():  # with their confidence
        assert torch.equal(getattr(resumed.cloud, name), value), name
    assert resumed.metrics["input"] == whole.metrics["input"]


def test_exposure_finds_the_brightness_of_each_frame() -> None:
    clip, points, camera = make_clip()
    true = np.array([0.8, 1.0, 1.25])
    dark = [np.where(clip.masks[0][..., None], 0.8 * image, image) for image in clip.images]
    frames = [np.where(m[..., None], np.round(d * g), d).astype(np.uint8) for d, m, g in zip(dark, clip.masks, true)]
    changed = replace(clip, images=frames)
    config = replace(CONFIG, exposure=True, steps=400, densify_until=0.2)
    result = cotrain(
        changed, points, Still(), camera, config, device=torch.device("cpu"), seed=0, progress=SilentProgress()
    )
    gains = np.array(result.metrics["exposure"])
    assert np.allclose(np.log(gains).mean(0), 0, atol=1e-5)
    assert np.allclose(gains.mean(1), true, rtol=0.05)


def test_resuming_keeps_the_exposure(tmp_path: Path) -> None:
    config = replace(CONFIG, exposure=True)
    whole = run(config)
    state = tmp_path / "state.safetensors"
    run(replace(config, checkpoint_seconds=1e-6), state)  # its last save is a step before the end
    resumed = run(config, state)
    assert resumed.metrics["exposure"] == whole.metrics["exposure"]


def test_confidence_tells_what_was_seen_from_what_was_not() -> None:
    clip, points, camera = make_clip()
    targets = [make_target(clip, camera, points, i, margin=4) for i in range(FRAMES)]
    cloud = run(CONFIG).cloud
    hidden = replace(cloud, means=cloud.means + torch.tensor([0.0, 0.0, 0.5]))  # behind the square
    both = GaussianCloud(*(torch.cat([getattr(c, n) for c in (cloud, hidden)])
                           for n in ("means", "quats_wxyz", "scales", "opacities", "sh")))  # fmt: skip
    found = confidence(both, Still(), [t for t in targets if t is not None])
    assert ((found >= 0) & (found <= 1)).all()
    front, back = found[: len(cloud)], found[len(cloud) :]
    assert front.median() > 0.5
    assert back.median() < 0.1
    dimmed = [replace(t, image=(t.image // 2)) for t in targets if t is not None]
    gains = torch.full((FRAMES, 3), 0.5)
    assert confidence(cloud, Still(), dimmed, gains=gains).mean() > confidence(cloud, Still(), dimmed).mean()
    inverted = [replace(t, image=255 - t.image) for t in targets if t is not None]
    assert confidence(cloud, Still(), inverted).mean() < 0.5 * front.mean(), "seen, but not met"


def test_light_that_comes_through_a_surface_makes_no_confidence() -> None:
    """No surface is quite opaque; what little it lets through must not add up over the frames."""
    clip, points, camera = make_clip()
    targets = [make_target(clip, camera, points, i, margin=4) for i in range(FRAMES)]
    cloud = run(CONFIG).cloud
    behind = replace(cloud, means=cloud.means + torch.tensor([0.0, 0.0, 0.5]), opacities=torch.ones(len(cloud)))
    both = GaussianCloud(*(torch.cat([getattr(c, n) for c in (cloud, behind)])
                           for n in ("means", "quats_wxyz", "scales", "opacities", "sh")))  # fmt: skip
    faint = replace(
        both, opacities=both.opacities * torch.cat([torch.full((len(cloud),), 0.7), torch.ones(len(cloud))])
    )
    many = [t for t in targets if t is not None] * 8
    found = confidence(faint, Still(), many)
    assert found[: len(cloud)].median() > 0.8
    assert found[len(cloud) :].quantile(0.9) < 0.1


def test_nearest_rotation_is_the_polar_factor() -> None:
    jacobian = torch.eye(3) + 0.3 * torch.randn(50, 3, 3, generator=torch.Generator().manual_seed(0))
    jacobian = jacobian[torch.linalg.det(jacobian) > 0.2]
    u, _, v = torch.linalg.svd(jacobian)
    assert torch.allclose(nearest_rotation(jacobian), u @ v, atol=1e-4)


def test_colours_turn_with_the_object() -> None:
    """A turned cloud seen by a turned camera looks like the cloud."""

    class Turning(Affine):
        def matrix(self, t: float) -> torch.Tensor:
            c, s = np.cos(1.1 * t), np.sin(1.1 * t)
            return torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]], dtype=torch.float32)

        def from_canonical(self, xyz: torch.Tensor, t: float) -> torch.Tensor:
            return xyz @ self.matrix(t).T

    cloud = random_cloud()
    turned = move_cloud(cloud, Turning(), 0.7)
    directions = torch.nn.functional.normalize(torch.randn(30, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    seen = sh_colors(1, directions, cloud.sh)
    there = sh_colors(1, directions @ Turning().matrix(0.7).T, turned.sh)
    assert torch.allclose(seen, there, atol=1e-5)
    assert torch.allclose(move(cloud, Turning(), 0.7).sh, turned.sh, atol=1e-5)


def test_needles_cost_and_discs_do_not() -> None:
    config = replace(CONFIG, needles=1.0)
    cloud = random_cloud(2)
    costs = []
    for scales in ([1.0, 1.0, 0.01], [1.0, 0.3, 0.3], [1.0, 0.1, 0.1], [0.05, 1.0, 0.05]):
        model = GaussianModel.from_cloud(replace(cloud, scales=torch.tensor([scales, scales])), 0)
        costs.append(float(shape_terms(model, config, 1.0).detach()))
    assert costs[:2] == [0.0, 0.0]
    assert costs[2] == pytest.approx(np.log(2.5), abs=1e-5)
    assert costs[3] == pytest.approx(np.log(5.0), abs=1e-5)


def test_bands_open_one_after_another() -> None:
    config = replace(CONFIG, sh_degree=2, steps=100)
    assert [open_bands(step, config) for step in (0, 14, 15, 29, 30, 99)] == [0, 0, 1, 1, 2, 2]
    assert run(replace(config, steps=30)).cloud.sh_degree == 2


def test_no_usable_frame_is_one_error() -> None:
    clip, points, camera = make_clip()
    lost = replace(camera, world_from_cam=torch.full_like(camera.world_from_cam, float("nan")))
    with pytest.raises(InputError, match="camera pose"):
        cotrain(clip, points, Still(), lost, CONFIG, device=torch.device("cpu"), seed=0, progress=SilentProgress())


@pytest.mark.parametrize("change", [{"sh_degree": 4}, {"initial": 0}, {"prune_opacity": 2.0}, {"l1": -1.0}])
def test_bad_options_name_themselves(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"gaussians.{next(iter(change))}"):
        GaussiansConfig(**change)  # type: ignore[arg-type]
