"""Evaluation against exact truth: perfect results score perfectly, known faults score what they should."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from export_scenes import Carousel, arc, ball, timeline

from dyn4d.core.errors import InputError
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.export.align import Alignment
from dyn4d.export.evaluate import (
    Reconstruction,
    evaluate,
    format_table,
    is_near,
    object_size,
    track_errors,
    view_time,
)  # fmt: skip
from dyn4d.export.renders import render_cloud, to_uint8
from dyn4d.gaussians.warp import move_cloud
from dyn4d.io.images import write_mask, write_png

GREY = (0.5, 0.5, 0.5)
COUNT = 5


def true_tracks(field, points=40, seed=2):
    generator = torch.Generator().manual_seed(seed)
    rest = torch.nn.functional.normalize(torch.randn(points, 3, generator=generator), dim=-1) * 0.5
    world = torch.stack([field.from_canonical(rest, float(t)) for t in timeline(COUNT).times])
    visible = torch.rand(COUNT, points, generator=generator) > 0.4
    return world, visible


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A result and a truth drawn from the same world: the views of the truth are the result's own renders."""
    folder = tmp_path_factory.mktemp("truth")
    field, cloud, frames, cameras = Carousel(), ball(), timeline(COUNT), arc(COUNT)
    wide = arc(4, span=2.4)
    views = []
    for number, (name, index) in enumerate([("near_left", 1), ("high", 2), ("far_left", 2), ("far_left", 4)]):
        drawn = render_cloud(move_cloud(cloud, field, float(frames.times[index])), wide[number], GREY)
        rgb, mask = folder / f"{number}.png", folder / f"{number}_mask.png"
        write_png(rgb, to_uint8(drawn.rgb[0]))
        write_mask(mask, (drawn.alpha[0, ..., 0] > 0.5).numpy())
        views.append(SimpleNamespace(index=index, time=0.0, view=name, rgb=rgb, mask=mask, camera=wide[number]))
    world, visible = true_tracks(field)
    truth = SimpleNamespace(views=views, cameras=cameras, tracks_world=world.numpy(), visible=visible.numpy())
    return Reconstruction(cloud, field, frames, cameras, True, GREY), truth


def test_a_perfect_result(scene):
    result = evaluate(*scene)
    assert list(result["groups"]) == ["near_left", "high", "far_left"]
    assert result["groups"]["far_left"]["n"] == 2
    for row in result["groups"].values():
        assert row["mpsnr"] > 45 and row["psnr"] > 45 and row["mssim"] > 0.99 and row["iou"] == 1.0
        assert row["lpips"] is None
    assert result["near"]["mpsnr"] > 45 and result["far"]["mpsnr"] > 45
    assert result["track"]["epe_rel"] < 1e-5
    assert result["camera"]["centre_rel"] == 0 and result["camera"]["rotation_deg"] < 1e-4
    assert result["aligned_by"] == "given cameras"
    table = format_table(result)
    assert "far_left" in table and "given cameras" in table and len(table.splitlines()) >= 8


def test_a_solved_world_is_aligned_first(scene):
    """The same result in a world that is turned, moved and scaled scores the same, but only if it says so."""
    good, truth = scene
    there = Alignment(wxyz_to_matrix(torch.tensor([0.9, 0.1, 0.3, -0.2]).double()), torch.ones(3).double(), 0.5, "")
    turn, move = there.rotation.float(), there.translation.float()

    class Elsewhere:
        """x_run = Rᵀ (x_true - move) / 0.5 around the exact field."""

        invertible = True

        def from_canonical(self, xyz, t):
            return there.to_run(good.field.from_canonical(xyz, t)).to(xyz)

        def to_canonical(self, xyz, t):
            return good.field.to_canonical(0.5 * xyz @ turn.T + move, t)

        def jacobian(self, xyz, t):
            return 2 * turn.T @ good.field.jacobian(xyz, t)

        def motion(self, xyz, t):
            return self.from_canonical(xyz, t), self.jacobian(xyz, t)

    other = replace(good, field=Elsewhere(), cameras=there.camera_to_run(good.cameras), poses_given=False)
    result = evaluate(other, truth)
    assert result["aligned_by"].startswith("similarity")
    assert result["near"]["mpsnr"] > 40 and result["track"]["epe_rel"] < 1e-5
    assert result["camera"]["centre_rel"] < 1e-6
    unaligned = evaluate(replace(other, poses_given=True), truth)
    assert unaligned["track"]["epe_rel"] > 0.1


def test_views_between_two_frames_are_drawn_at_their_own_instant(scene, tmp_path):
    result, truth = scene
    times, seconds = result.timeline.times, result.timeline.seconds
    t = float(0.6 * times[2] + 0.4 * times[3])
    camera = truth.views[0].camera
    drawn = render_cloud(move_cloud(result.cloud, result.field, t), camera, GREY)
    write_png(tmp_path / "v.png", to_uint8(drawn.rgb[0]))
    write_mask(tmp_path / "m.png", (drawn.alpha[0, ..., 0] > 0.5).numpy())
    own = float(0.6 * seconds[2] + 0.4 * seconds[3])
    view = SimpleNamespace(index=2, time=own, view="v", rgb=tmp_path / "v.png", mask=tmp_path / "m.png", camera=camera)

    def score(**changes):
        changed = SimpleNamespace(**{**vars(view), **changes})
        whole = SimpleNamespace(**{**vars(truth), "views": [changed]})
        return evaluate(result, whole)["groups"]["v"]["mpsnr"]

    assert score() > 45
    # no time, or one that belongs to another frame: that of the frame that is named
    assert score(time=None) < 40 and score(time=float(seconds[4])) == pytest.approx(score(time=None))
    assert view_time(SimpleNamespace(index=0, time=-1.0), result.timeline) == 0.0


def test_near_and_far_pool_pictures(scene):
    good, truth = scene
    still = replace(good, field=Carousel(turn=0.0, shift=0.0))
    result = evaluate(still, truth)
    groups = result["groups"]
    assert result["near"]["mpsnr"] == pytest.approx((groups["near_left"]["mpsnr"] + groups["high"]["mpsnr"]) / 2)
    assert result["far"]["mpsnr"] == pytest.approx(groups["far_left"]["mpsnr"])
    assert result["near"]["mpsnr"] < 40 and result["track"]["epe_rel"] > 0.05
    assert [is_near(n) for n in ("near_left", "high", "low", "far_left", "side")] == [True, True, True, False, False]


def test_track_errors_by_hand():
    """A field that does not move: each error is the way from the first visible frame."""
    world = torch.zeros(4, 3, 3)
    world[:, 0, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0])
    world[:, 1, 1] = torch.tensor([0.0, 0.0, 5.0, 9.0])
    visible = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 0]]).bool()
    errors = track_errors(Carousel(0.0, 0.0), timeline(4).times, world, visible, alignment=Alignment.identity())
    # point 0: frames 1 and 3 from 0; point 1: frame 2 from 1; point 2: seen once, does not count
    assert sorted(errors.tolist()) == pytest.approx([1.0, 3.0, 5.0])
    assert len(track_errors(Carousel(), timeline(4).times, world, visible & False, alignment=Alignment.identity())) == 0


def test_object_size_is_the_largest_side_over_the_clip():
    points = torch.zeros(2, 3, 3)
    points[0, 0, 0], points[1, 1, 0], points[1, 2, 1] = -1.0, 2.0, 0.5
    points[0, 2, 2] = float("nan")
    assert object_size(points) == pytest.approx(3.0)
    assert object_size(np.zeros((0, 3))) == 0.0


def test_what_the_truth_lacks_is_none(scene):
    good, truth = scene
    bare = SimpleNamespace(views=truth.views[:1], cameras=None, tracks_world=None, visible=None)
    result = evaluate(good, bare)
    assert result["track"] == {"epe_mean": None, "epe_rel": None}
    assert result["camera"] == {"centre_rel": None, "rotation_deg": None}
    assert result["far"]["mpsnr"] is None
    assert "-" in format_table(result)


def test_truth_of_another_clip_is_refused(scene):
    good, truth = scene
    late = SimpleNamespace(**{**vars(truth.views[0]), "index": 99})
    wrong = SimpleNamespace(**{**vars(truth), "views": [late]})
    with pytest.raises(InputError, match="frame 99"):
        evaluate(good, wrong)
    wrong = SimpleNamespace(**{**vars(truth), "tracks_world": truth.tracks_world[:-1], "visible": truth.visible[:-1]})
    with pytest.raises(InputError, match=r"tracks\.npz has 4 frames"):
        evaluate(good, wrong)
    wrong = SimpleNamespace(**{**vars(truth), "cameras": truth.cameras[:2]})
    with pytest.raises(InputError, match="2 cameras"):
        evaluate(good, wrong)
