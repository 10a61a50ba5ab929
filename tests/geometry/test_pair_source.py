"""From a clip to cameras and points with a network that knows the truth: views, anchors, ways back to the clip."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_scenes import Truth, ball_truth
from PIL import Image
from small_network import SMALL
from torch import Tensor

from dyn4d.config import Options, with_clip
from dyn4d.core.cameras import invert_rigid, transform
from dyn4d.core.errors import InputError, RunError
from dyn4d.core.rotations import rotation_angle, similarity_fit
from dyn4d.core.types import Camera, Clip, GeometryResult, PairPrediction, Timeline
from dyn4d.geometry import pair_source
from dyn4d.geometry.alignment import AlignmentConfig
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.network import EncodedImages, PairNetwork
from dyn4d.geometry.pair_config import PairConfig
from dyn4d.geometry.pair_frames import make_pair_frame
from dyn4d.geometry.pair_source import frames_from_pairs
from dyn4d.geometry.sources import choose_source, solve_geometry
from dyn4d.geometry.view_depth import to_picture
from dyn4d.geometry.weights import random_weights, save_pair_weights
from dyn4d.io.atomic import read_json
from dyn4d.pipeline import run_geometry, run_prepare

COUNT, HEIGHT, WIDTH = 5, 48, 64
PAIRS = PairConfig(graph="complete", size=64, subsample=4, border=0, batch=1, precision="fp32")
CONFIG = GeometryConfig(source="mast3r", weights="truth", pairs=PAIRS, fusions=1)


class Oracle(PairNetwork):
    """Says the truth of a scene that stands still; each picture's number is its grey value."""

    def __init__(self, truth: Truth) -> None:
        super().__init__(SMALL)
        self.truth = truth
        generator = torch.Generator().manual_seed(0)
        self.waves = torch.randn(3, 8, generator=generator, dtype=torch.float64) * 3
        self.notes = ("weights: the truth, free of charge",)
        self.pairs_seen = 0

    def encode(self, image: Tensor) -> EncodedImages:
        self.images_encoded += len(image)
        number = (image[:, 0, 0, 0] * 255).round()
        grid = image.shape[2] // 16, image.shape[3] // 16
        return EncodedImages(number[:, None, None].repeat(1, grid[0] * grid[1], 2), grid)

    def _said(self, camera: int, of: int) -> tuple[Tensor, Tensor]:
        world = self.truth.world_points(of)
        points = transform(invert_rigid(self.truth.world_from_cam[camera]), world)
        phase = world @ self.waves
        features = torch.cat([phase.cos(), phase.sin()], -1)[:, :8]
        desc = torch.nn.functional.normalize(features, dim=-1)
        return points.reshape(1, HEIGHT, WIDTH, 3).float(), desc.reshape(1, HEIGHT, WIDTH, 8).float()

    def _pair(self, a: int, b: int) -> PairPrediction:
        (points_a, desc_a), (points_b, desc_b) = self._said(a, a), self._said(a, b)
        sure = torch.full((1, HEIGHT, WIDTH), 5.0)
        return PairPrediction(points_a, points_b, sure, sure, desc_a, desc_b, sure, sure)

    def predict_symmetric(self, a: EncodedImages, b: EncodedImages) -> tuple[PairPrediction, PairPrediction]:
        self.pairs_seen += 1
        one, other = int(a.tokens[0, 0, 0]), int(b.tokens[0, 0, 0])
        return self._pair(one, other), self._pair(other, one)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return ball_truth(COUNT, HEIGHT, WIDTH)


def clip_of(truth: Truth, *, poses: bool = False, K: bool = False) -> Clip:
    images = [np.full((HEIGHT, WIDTH, 3), number, np.uint8) for number in range(len(truth))]
    timeline = Timeline(
        np.linspace(0, 1, len(truth)), np.arange(len(truth)) / 24, tuple(f"{i:05d}" for i in range(len(truth)))
    )
    unknown = torch.full_like(truth.world_from_cam, torch.nan)
    cameras = Camera(truth.K, truth.world_from_cam if poses else unknown, WIDTH, HEIGHT) if K or poses else None
    return Clip(
        "clip", Path("clip"), images, list(truth.object_mask), np.arange(len(truth)), timeline, WIDTH, HEIGHT,
        cameras=cameras, poses_given=poses,
    )  # fmt: skip


@pytest.fixture
def oracle(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> Oracle:
    network = Oracle(truth)
    monkeypatch.setattr(pair_source, "load_pair_network", lambda weights, device: network)
    return network


def errors(found: Camera, truth: Truth) -> tuple[float, float, tuple[Tensor, Tensor, Tensor]]:
    """Degrees, share of the baseline, and the similarity from the found world to the true one."""
    R, t, s = similarity_fit(found.world_from_cam[:, :3, 3], truth.world_from_cam[:, :3, 3])
    centre = (s * found.world_from_cam[:, :3, 3] @ R.T + t - truth.world_from_cam[:, :3, 3]).norm(dim=-1)
    turned = torch.rad2deg(rotation_angle(R @ found.world_from_cam[:, :3, :3], truth.world_from_cam[:, :3, :3]))
    return float(turned.max()), float(centre.max()) / truth.baseline, (R, t, s)


@pytest.mark.parametrize("anchor", ["background", "object", "auto"])
@pytest.mark.parametrize("alignment", ["sparse", "mast3r", "dust3r"])
def test_cameras_and_points_are_the_true_ones(truth: Truth, oracle: Oracle, anchor: Any, alignment: Any) -> None:
    config = replace(CONFIG, anchor=anchor, alignment=alignment)
    result = frames_from_pairs(clip_of(truth, K=True), config)
    turned, centre, (R, t, s) = errors(result.cameras, truth)
    loose = 10 if alignment == "mast3r" else 1  # it walks away from the truth
    assert turned < 0.3 * loose and centre < 0.005 * loose
    assert result.source == "mast3r" and result.poses_solved and result.licences == oracle.notes
    assert any("anchored on the " + ("background" if anchor == "auto" else anchor) in note for note in result.notes)
    points = result.points
    inside = truth.object_mask[points.frame, points.xy[:, 1].long(), points.xy[:, 0].long()]
    assert inside.all() and len(points) > 0.8 * truth.object_mask.sum()
    flat = points.xy[:, 1].long() * WIDTH + points.xy[:, 0].long()
    wanted = torch.stack([truth.world_points(int(f))[p] for f, p in zip(points.frame, flat)])
    off = (s * points.xyz.double() @ R.T + t - wanted).norm(dim=-1)
    assert float(off.median()) < 0.01 * loose and float(off.max()) < 0.1 * loose  # the ball's radius is 1


@pytest.mark.parametrize("anchor", ["background", "object"])
def test_the_focal_length_is_found(truth: Truth, oracle: Oracle, anchor: Any) -> None:
    """Half a pixel of the principal point, taken to be the middle, is half a degree in pictures this small."""
    result = frames_from_pairs(clip_of(truth), replace(CONFIG, anchor=anchor))
    turned, centre, _ = errors(result.cameras, truth)
    assert turned < 0.8 and centre < 0.03
    assert abs(float(result.cameras.K[0, 0, 0] / truth.K[0, 0, 0]) - 1) < 0.04


def test_given_poses_stay(truth: Truth, oracle: Oracle) -> None:
    result = frames_from_pairs(clip_of(truth, poses=True), CONFIG)
    assert torch.equal(result.cameras.world_from_cam, truth.world_from_cam) and not result.poses_solved
    torch.testing.assert_close(result.cameras.K, truth.K)


class Blind(Oracle):
    """Says nonsense of all but the object."""

    def _said(self, camera: int, of: int) -> tuple[Tensor, Tensor]:
        points, desc = super()._said(camera, of)
        generator = torch.Generator().manual_seed(camera * 10 + of)
        around = torch.from_numpy(~self.truth.object_mask[of])[None, ..., None]
        wrong = torch.randn(points.shape, generator=generator)
        wrong[..., 2] = 2 + wrong[..., 2].abs()
        word = torch.nn.functional.normalize(torch.randn(desc.shape, generator=generator), dim=-1)
        return torch.where(around, wrong, points), torch.where(around, word, desc)


def wrong_points(result: GeometryResult, truth: Truth) -> Tensor:
    """(N,) how far points are from the truth, in the world of the given poses."""
    points = result.points
    flat = points.xy[:, 1].long() * WIDTH + points.xy[:, 0].long()
    wanted = torch.stack([truth.world_points(int(f))[p] for f, p in zip(points.frame, flat)])
    return (points.xyz.double() - wanted).norm(dim=-1)


def test_the_object_tells_the_depth_where_the_background_says_nothing(
    truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The given poses stay all the same."""
    monkeypatch.setattr(pair_source, "load_pair_network", lambda weights, device: Blind(truth))
    result = frames_from_pairs(clip_of(truth, poses=True), CONFIG)
    assert torch.equal(result.cameras.world_from_cam, truth.world_from_cam) and not result.poses_solved
    assert any("anchored on the object (the background does not hold the cameras" in note for note in result.notes)
    assert not any("are off by" in note for note in result.notes)
    assert float(wrong_points(result, truth).median()) < 0.02


def test_an_object_that_moves_against_the_given_poses_is_told(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cameras that stand still by their word, before something that turns."""
    monkeypatch.setattr(pair_source, "load_pair_network", lambda weights, device: Blind(truth))
    still = truth.world_from_cam[:1].repeat(len(truth), 1, 1)
    clip = clip_of(truth, poses=True)
    assert clip.cameras is not None
    result = frames_from_pairs(replace(clip, cameras=replace(clip.cameras, world_from_cam=still)), CONFIG)
    assert torch.equal(result.cameras.world_from_cam, still)
    assert any("matches on the object are off by" in note and "anchor object" in note for note in result.notes)


def test_a_frame_that_is_all_object_keeps_its_pose_and_the_size_of_its_neighbours(truth: Truth, oracle: Oracle) -> None:
    masks = truth.object_mask.copy()
    masks[2] = True
    clip = replace(clip_of(truth, poses=True), masks=list(masks))
    result = frames_from_pairs(clip, CONFIG)
    assert torch.equal(result.cameras.world_from_cam, truth.world_from_cam)
    here = result.points.frame == 2
    assert int(here.sum()) > 0.8 * HEIGHT * WIDTH
    assert float(wrong_points(result, truth)[here].median()) < 0.05


@pytest.mark.parametrize("alignment", ["sparse", "mast3r", "dust3r"])
def test_given_poses_stay_whatever_the_method(truth: Truth, oracle: Oracle, alignment: Any) -> None:
    result = frames_from_pairs(clip_of(truth, poses=True), replace(CONFIG, alignment=alignment))
    torch.testing.assert_close(result.cameras.world_from_cam, truth.world_from_cam)
    assert not result.poses_solved


@pytest.mark.parametrize("anchor", ["background", "object"])
def test_given_poses_may_be_refined_or_passed_over(truth: Truth, oracle: Oracle, anchor: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    rough = truth.world_from_cam.clone()
    rough[:, :3, 3] += 0.05 * torch.randn(len(truth), 3, generator=generator, dtype=torch.float64)
    clip = clip_of(truth, poses=True)
    assert clip.cameras is not None
    clip = replace(clip, cameras=replace(clip.cameras, world_from_cam=rough))
    config = replace(CONFIG, anchor=anchor)
    refined = frames_from_pairs(clip, replace(config, poses="refine"))
    assert refined.poses_solved
    assert errors(refined.cameras, truth)[1] < 0.005 < errors(clip.cameras, truth)[1] / 4  # type: ignore[arg-type]
    off = (refined.cameras.world_from_cam[:, :3, 3] - truth.world_from_cam[:, :3, 3]).norm(dim=-1)
    assert float(off.max()) < 0.12  # in the world of the given poses, as far as these say where that is
    solved = frames_from_pairs(clip, replace(config, poses="solve"))
    assert solved.poses_solved
    torch.testing.assert_close(solved.cameras.world_from_cam[0], torch.eye(4, dtype=torch.float64))


def test_the_principal_point_may_be_looked_for(truth: Truth, oracle: Oracle) -> None:
    """It is half a pixel beside the middle in both directions."""
    middle = frames_from_pairs(clip_of(truth), replace(CONFIG, anchor="background"))
    assert middle.cameras.K[0, :2, 2].tolist() == [WIDTH / 2, HEIGHT / 2]
    found = frames_from_pairs(clip_of(truth), replace(CONFIG, anchor="background", principal_point="refine"))
    assert float((found.cameras.K[0, :2, 2] - truth.K[0, :2, 2]).norm()) < 0.5


def test_each_frame_may_have_its_own_focal_length(truth: Truth, oracle: Oracle) -> None:
    focal = {
        name: frames_from_pairs(clip_of(truth), replace(CONFIG, anchor="object", focal=name)).cameras.K[:, 0, 0]
        for name in ("shared", "own")
    }
    assert float(focal["shared"].std()) < 1e-9 < float(focal["own"].std())
    assert float((focal["own"] / truth.K[:, 0, 0] - 1).abs().max()) < 0.1


def test_settings_reach_the_alignment(truth: Truth, oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        pass

    def align(frames: Any, results: Any, settings: AlignmentConfig, **rest: Any) -> None:
        assert settings.method == "mast3r" and settings.depth_rank == 5 and not settings.optimise_depth
        assert not settings.bundle.shared_intrinsics and settings.bundle.refine_principal_point
        assert rest["world_from_cam"] is not None and not rest["fix_poses"]
        raise Asked

    monkeypatch.setattr(pair_source, "align", align)
    config = replace(CONFIG, anchor="object", alignment="mast3r", depth_rank=5, optimise_depth=False, focal="own")
    with pytest.raises(Asked):
        frames_from_pairs(clip_of(truth, poses=True), replace(config, principal_point="refine", poses="refine"))


def test_notes_name_the_frames_of_the_clip(truth: Truth, oracle: Oracle) -> None:
    """Not the rows of the selection."""
    masks = truth.object_mask.copy()
    masks[2] = False
    clip = replace(clip_of(truth), masks=list(masks))
    names = tuple(f"shot_{10 + 2 * row}" for row in range(len(truth)))
    clip = replace(clip, timeline=replace(clip.timeline, names=names))
    notes = frames_from_pairs(clip, replace(CONFIG, anchor="object")).notes
    assert any("alignment: frames shot_14 are tied to none of the 4 others" in note for note in notes)


def test_known_intrinsics_stay(truth: Truth, oracle: Oracle) -> None:
    result = frames_from_pairs(clip_of(truth, K=True), CONFIG)
    torch.testing.assert_close(result.cameras.K, truth.K)


@pytest.mark.parametrize("alignment", ["sparse", "mast3r", "dust3r"])
@pytest.mark.parametrize("anchor", ["background", "object"])
def test_one_frame(truth: Truth, oracle: Oracle, alignment: Any, anchor: Any) -> None:
    alone = Truth(truth.K[:1], truth.world_from_cam[:1], truth.depth[:1], truth.object_mask[:1])
    result = frames_from_pairs(clip_of(alone), replace(CONFIG, alignment=alignment, anchor=anchor))
    assert not any("pairs" in note or "others" in note for note in result.notes)
    assert len(result.cameras) == 1 and len(result.points) > 0.8 * truth.object_mask[0].sum()
    torch.testing.assert_close(result.cameras.world_from_cam[0], torch.eye(4, dtype=torch.float64))


def test_a_thin_object_is_seen_and_one_that_is_too_thin_is_named(truth: Truth, oracle: Oracle) -> None:
    config = PairConfig(view="square", size=112)
    stick = np.zeros((1080, 1920), bool)
    stick[500:506, 400:1400] = True
    frame = make_pair_frame(np.zeros((1080, 1920, 3), np.uint8), stick, config)
    assert not frame.view.mask(stick).any() and 80 < frame.kept.sum() < 120
    alone = Truth(truth.K[:1], truth.world_from_cam[:1], truth.depth[:1], truth.object_mask[:1])
    dot = np.zeros((HEIGHT, WIDTH), bool)
    dot[0, 0] = True
    coarse = replace(CONFIG, pairs=replace(PAIRS, view="full", size=16))
    with pytest.raises(RunError, match=r"the object of 00000 is too thin to be seen at 16 pixels; crop"):
        frames_from_pairs(replace(clip_of(alone), masks=[dot]), replace(coarse, anchor="object"))


def test_a_clip_of_which_one_frame_shows_the_object_says_so(truth: Truth, oracle: Oracle) -> None:
    masks = [mask & (row == 3) for row, mask in enumerate(truth.object_mask)]
    with pytest.raises(RunError, match=r"only frame 00003 shows the object: take it alone \(--frames 3:4\)"):
        frames_from_pairs(replace(clip_of(truth), masks=masks), replace(CONFIG, anchor="object"))


def test_where_masks_fill_the_pictures_no_background_is_looked_at(truth: Truth, oracle: Oracle) -> None:
    everything = replace(clip_of(truth, poses=True), masks=[np.ones((HEIGHT, WIDTH), bool)] * COUNT)
    with pytest.raises(RunError, match="the masks fill the pictures"):
        frames_from_pairs(everything, replace(CONFIG, anchor="background"))
    assert oracle.pairs_seen == 0
    found = frames_from_pairs(everything, CONFIG)
    assert any("anchored on the object" in note and "the masks fill" in note for note in found.notes)


def test_the_second_time_the_network_is_not_asked(truth: Truth, oracle: Oracle, tmp_path: Path) -> None:
    first = frames_from_pairs(clip_of(truth), CONFIG, cache=tmp_path)
    asked = oracle.pairs_seen
    again = frames_from_pairs(clip_of(truth), CONFIG, cache=tmp_path)
    assert asked > 0 and oracle.pairs_seen == asked
    assert torch.equal(first.points.xyz, again.points.xyz)


def test_a_frame_with_an_empty_mask_has_no_points(truth: Truth, oracle: Oracle) -> None:
    masks = truth.object_mask.copy()
    masks[2] = False
    result = frames_from_pairs(replace(clip_of(truth), masks=list(masks)), replace(CONFIG, anchor="object"))
    assert 2 not in result.points.frame.unique().tolist() and not bool(result.cameras.registered[2])
    assert any("could not be placed: 00002" in note for note in result.notes)


def test_random_weights_end_with_something_or_one_clear_error(truth: Truth, tmp_path: Path) -> None:
    save_pair_weights(tmp_path / "small.pth", SMALL, random_weights(SMALL, 0))
    config = replace(CONFIG, weights=str(tmp_path / "small.pth"))
    try:
        result = solve_geometry(clip_of(truth), config)
    except Exception as error:
        assert type(error).__name__ in ("RunError", "InputError") and "\n" not in str(error)
    else:
        assert bool(torch.isfinite(result.points.xyz).all())


@pytest.mark.usefixtures("no_small_weights")
def test_mast3r_is_chosen_only_with_weights(truth: Truth) -> None:
    clip = clip_of(truth)
    assert choose_source(clip, GeometryConfig(weights="naver/some-model")) == "mast3r"  # nothing is fetched here
    with pytest.raises(InputError, match=r"w\.pth is not there"):
        choose_source(clip, GeometryConfig(weights="w.pth"))
    for config in (GeometryConfig(), GeometryConfig(source="mast3r")):
        with pytest.raises(InputError, match=r"--geometry\.weights"):
            choose_source(clip, config)


def test_depth_comes_back_to_the_picture() -> None:
    """A plane, through a view that is cut and enlarged, and through one that is smaller."""
    K = np.array([[90.0, 0, 70], [0, 90, 50], [0, 0, 1]])
    normal = np.array([0.2, -0.1, 1.0])

    def plane(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 3 / (normal[0] * (x - K[0, 2]) / K[0, 0] + normal[1] * (y - K[1, 2]) / K[1, 1] + normal[2])

    mask = np.zeros((100, 140), bool)
    mask[30:70, 40:100] = True
    rows, columns = np.mgrid[:100, :140] + 0.5
    for kind, size in (("object", 96), ("whole", 64)):
        config = replace(PAIRS, view=kind, size=size)
        frame = make_pair_frame(np.zeros((100, 140, 3), np.uint8), mask, config)
        xy = torch.from_numpy(np.stack(np.meshgrid(np.arange(frame.width), np.arange(frame.height)), -1) + 0.5)
        at = frame.view.to_source(xy).numpy()
        depth = np.where(frame.kept, plane(at[..., 0], at[..., 1]), 0)
        back, conf = to_picture(frame, depth, np.where(frame.kept, 2.0, 0))
        known = back > 0
        assert (known & mask).sum() > 0.85 * mask.sum()
        inner = np.zeros_like(mask)
        inner[34:66, 44:96] = True
        np.testing.assert_allclose(back[inner], plane(columns, rows)[inner], rtol=1e-4)
        np.testing.assert_allclose(conf[inner], 2.0, rtol=1e-6)


def test_the_example_of_the_documentation_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "geometry.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "docs/geometry.md", "exec"), {})


def test_a_run_without_depth_keeps_cameras_and_licences(truth: Truth, oracle: Oracle, tmp_path: Path) -> None:
    """The geometry stage, from picture files to the files of the run."""
    clip = tmp_path / "clip"
    for folder in ("rgb", "mask"):
        (clip / folder).mkdir(parents=True)
    for number, mask in enumerate(truth.object_mask):
        grey = np.full((HEIGHT, WIDTH, 3), number, np.uint8)
        Image.fromarray(grey).save(clip / "rgb" / f"{number:05d}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(clip / "mask" / f"{number:05d}.png")
    config = with_clip(Options(geometry=replace(CONFIG, source="auto", weights="naver/truth")), str(clip))
    run = run_prepare(config, tmp_path / "run")
    run_geometry(run)
    assert read_json(run.state)["licences"] == list(oracle.notes)
    written = read_json(run.root / "geometry" / "cameras.json")
    assert written["poses"] == "solved" and written["source"] == "mast3r"
    poses = torch.linalg.inv(torch.tensor([frame["w2c"] for frame in written["frames"]], dtype=torch.float64))
    turned, centre, _ = errors(Camera(truth.K, poses, WIDTH, HEIGHT), truth)
    assert turned < 0.8 and centre < 0.03
    asked = oracle.pairs_seen
    run_geometry(run)
    assert oracle.pairs_seen == asked  # done: skipped
