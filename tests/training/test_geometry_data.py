"""Samples for the pair network: places, correspondences and visibility are those of the surfaces that were drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dyn4d.synthetic.bodies import make_body
from dyn4d.training.geometry_batch import camera_points, matched_pixels, to_batch, to_views
from dyn4d.training.geometry_config import GeometryTraining, ObjectPairs
from dyn4d.training.geometry_data import (
    AT_ONCE,
    HELD_OUT,
    FilmedPair,
    GeometrySample,
    SampleSource,
    _clothes,
    body_number,
    draw_pair,
)
from dyn4d.training.geometry_run import samples_ahead
from dyn4d.training.single_views import Echo, mirrored

SMALL = ObjectPairs(size=64, textures=3, bodies=3, reuse=2, scenes=0.0, matches=64)


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["object", "room"])
def drawn(request: pytest.FixtureRequest) -> list[tuple[FilmedPair, GeometrySample]]:
    source = SampleSource(replace(SMALL, scenes=request.param), 5)
    out = []
    for index in range(4):
        filmed = source.filmed(index)
        sample = draw_pair(np.random.default_rng(index), filmed, source.config)
        if sample is not None:
            out.append((filmed, sample))
    assert len(out) > 1
    return out


def cut(origin: np.ndarray, rays: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moeller and Trumbore: (R, F) how far along its ray each triangle is cut, inf = not, and (R, F, 2) where."""
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = np.cross(rays[:, None], e2[None])
    det = (p * e1).sum(-1)
    safe = np.where(np.abs(det) < 1e-14, np.inf, det)
    s = origin - corners[:, 0]
    u = (p * s).sum(-1) / safe
    q = np.cross(s, e1)
    v = (rays[:, None] * q).sum(-1) / safe
    t = (q * e2).sum(-1) / safe
    hit = (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9) & (t > 0.02)
    return np.where(hit, t, np.inf), np.stack([u, v], -1)


def rays_of(K: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(N, 3) directions of planar depth 1 through pixels."""
    return np.c_[xy, np.ones(len(xy))] @ np.linalg.inv(K).T


def test_points_are_the_surface_along_the_pixels_rays(drawn: list[tuple[FilmedPair, GeometrySample]]) -> None:
    for filmed, sample in drawn:
        rng = np.random.default_rng(0)
        for moment in range(2):
            y, x = np.nonzero(sample.mask[moment])
            pick = rng.choice(len(y), 12, replace=False)
            y, x = y[pick], x[pick]
            corners = filmed.in_camera(moment)[filmed.faces]
            t, _ = cut(np.zeros(3), rays_of(sample.K[moment], np.stack([x, y], 1) + 0.5), corners)
            assert np.allclose(sample.depth[moment][y, x], t.min(1), rtol=1e-4)
            points = camera_points(sample.depth[moment].astype(float), sample.K[moment])[y, x]
            again = points @ sample.K[moment].T
            assert np.allclose(again[:, :2] / again[:, 2:], np.stack([x, y], 1) + 0.5, atol=1e-4)


def test_correspondences_are_of_one_material_point(drawn: list[tuple[FilmedPair, GeometrySample]]) -> None:
    checked = hidden = 0
    for filmed, sample in drawn:
        rng = np.random.default_rng(1)
        y, x = np.nonzero(sample.mask[0])
        pick = rng.choice(len(y), 40, replace=False)
        y, x = y[pick], x[pick]
        first, second = (filmed.in_camera(moment)[filmed.faces] for moment in range(2))
        t, uv = cut(np.zeros(3), rays_of(sample.K[0], np.stack([x, y], 1) + 0.5), first)
        face = t.argmin(1)
        u, v = uv[np.arange(len(face)), face].T
        corners = second[face]
        there = (
            corners[:, 0] + u[:, None] * (corners[:, 1] - corners[:, 0]) + v[:, None] * (corners[:, 2] - corners[:, 0])
        )
        image = there @ sample.K[1].T
        at = image[:, :2] / image[:, 2:]
        size = sample.mask.shape[-1]
        # Seen: in the picture, and nothing before it on the way from the second camera.
        front, _ = cut(np.zeros(3), there / there[:, 2:], second)
        front[np.arange(len(face)), face] = np.inf
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        faces_us = (normal * there).sum(1) < 0
        seen = (there[:, 2] > 0.02) & (at >= 0).all(1) & (at < size).all(1) & faces_us
        blocked = front.min(1) < there[:, 2] * (1 - 1e-6)
        flow = sample.flow[y, x]
        said = np.isfinite(flow[:, 0])
        assert (said == (seen & ~blocked)).mean() > 0.97  # a ray along an edge may count with either side
        both = said & seen & ~blocked
        assert np.abs(flow[both] - at[both]).max(initial=0) < 2e-3
        checked, hidden = checked + int(both.sum()), hidden + int((~said).sum())
    assert checked > 30 and hidden > 5


def test_samples_follow_from_seed_and_number_whatever_was_made_before() -> None:
    plain, other = SampleSource(SMALL, 1), SampleSource(SMALL, 1)
    other(7)
    a, b = plain(2), other(2)
    for name in ("image", "mask", "depth", "K", "flow", "a_from_b"):
        assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=name == "flow")
    assert not np.array_equal(a.image, SampleSource(SMALL, 2)(2).image)


def test_first_samples_are_small() -> None:
    config = GeometryTraining(samples=10, batch=2, growth=0.5, data=replace(SMALL, first_size=48))
    assert config.small_samples == 4  # whole steps
    source = SampleSource(config.data, config.seed, config.small_samples)
    assert [source(index).mask.shape[-1] for index in (0, 3, 4, HELD_OUT)] == [48, 48, 64, 64]


def test_bodies_come_back_and_held_out_ones_are_others() -> None:
    config = ObjectPairs(bodies=1000, reuse=4)
    numbers = np.array([body_number(config, index) for index in range(3000)])
    assert all(len(set(numbers[start : start + 16])) == 16 for start in range(0, 2900, 7))  # neighbours differ
    times = np.bincount(numbers)[AT_ONCE:700]  # of bodies whose time is all within
    assert 3 <= times.mean() <= 5 and times.min() >= 1
    for number in (200, 500):
        shown = np.flatnonzero(numbers == number)
        assert np.ptp(shown) <= AT_ONCE * config.reuse  # then it is gone
    assert body_number(SMALL, HELD_OUT + 5) >= HELD_OUT


@pytest.mark.slow
def test_samples_made_ahead_are_the_same() -> None:
    config = GeometryTraining(samples=4, batch=2, growth=0.0, data=SMALL, workers=2)
    with samples_ahead(config, 3) as ahead:
        made = [ahead(index) for index in (3, 4, 5)]
    for index, sample in zip((3, 4, 5), made):
        assert np.array_equal(sample.image, SampleSource(SMALL, config.seed)(index).image)


def test_a_point_that_is_rounded_off_the_edge_is_the_last_pixel() -> None:
    sample = SampleSource(SMALL, 4)(0)
    flow = np.full_like(sample.flow, np.nan)
    row, column = np.argwhere(np.isfinite(sample.flow[..., 0]))[0]
    flow[row, column] = 64.0, 5.5
    mask = np.ones_like(sample.mask)
    rows, columns, at = matched_pixels(replace(sample, flow=flow, mask=mask), 9, np.random.default_rng(0))
    assert (rows.tolist(), columns.tolist(), at.tolist()) == ([row], [column], [[63, 5]])


def test_a_batch_says_the_same_in_both_orders() -> None:
    source = SampleSource(SMALL, 4)
    samples = [source(0), source(1)]
    batch = to_batch(samples, 64, 0)
    assert batch.images.shape == (4, 3, 64, 64) and batch.hints.mask.shape == (4, 64, 64)
    there, back = batch.there.points_b_in_a[0].numpy(), batch.back.points_a[0].numpy()
    mask, pose = samples[0].mask[1], samples[0].a_from_b
    assert np.allclose(there[mask], back[mask] @ pose[:3, :3].T + pose[:3, 3], atol=1e-4)
    xy_a, xy_b = batch.matches.xy_a[0].numpy(), batch.matches.xy_b[0].numpy()
    valid = batch.matches.valid[0].numpy()
    assert valid.any() and samples[0].mask[0][xy_a[valid, 1], xy_a[valid, 0]].all()
    assert samples[0].mask[1][xy_b[valid, 1], xy_b[valid, 0]].all()
    _, _, at = matched_pixels(samples[0], 10_000, np.random.default_rng(0))
    assert len(np.unique(at, axis=0)) == len(at)


def test_a_mirrored_sample_is_as_true_as_the_sample() -> None:
    sample = SampleSource(SMALL, 4)(2)
    turned = mirrored(sample)
    again = mirrored(turned)
    for name in ("image", "mask", "depth", "K", "a_from_b", "flow"):
        np.testing.assert_allclose(getattr(again, name), getattr(sample, name), atol=1e-5)
    points, flipped = (camera_points(s.depth[0].astype(np.float64), s.K[0]) for s in (sample, turned))
    np.testing.assert_allclose(flipped, points[:, ::-1] * [-1, 1, 1], atol=1e-9)
    # Where a point of a is seen in b: through the camera of b, both say the same.
    for one in (sample, turned):
        rows, columns, at = matched_pixels(one, 200, np.random.default_rng(0))
        assert one.mask[0][rows, columns].all() and one.mask[1][at[:, 1], at[:, 0]].all() and len(rows) > 50


def test_an_echo_shows_each_sample_once_more_and_begins_anywhere() -> None:
    source = SampleSource(SMALL, 4)
    samples = [source(index) for index in range(6)]
    echo = Echo(lambda index: samples[index], 0, 2)
    shown = [echo.batch(1) for _ in range(6)]
    assert [len(some) for some in shown] == [1, 1, 2, 2, 2, 2]
    for index, some in enumerate(shown):
        assert some[0] is samples[index]
        if index >= 2:
            assert np.array_equal(some[1].image, mirrored(samples[index - 2]).image)
    later = Echo(lambda index: samples[index], 4, 2)
    assert np.array_equal(to_views(later.batch(1)).images, to_views(shown[4]).images)
    assert len(Echo(lambda index: samples[index], 3, 0).batch(2)) == 2


def test_clothes_cover_parts_and_leave_the_textures_elsewhere() -> None:
    body = make_body(3, 1, people=1.0)
    assert body.kind == "person"
    worn = [_clothes(np.random.default_rng(seed), body) for seed in range(40)]
    dressed = [parts for parts in worn if parts.any()]
    assert 10 < len(dressed) < 32  # some go without
    owner = body.weights.argmax(1)
    for parts in dressed:
        assert parts.shape == (len(body.rest), 4) and parts.min() >= 0 and parts.max() <= 1
        for bone in np.unique(owner):
            assert len(np.unique(parts[owner == bone], axis=0)) == 1  # one part, one colour
    joints = body.joint - body.joint[0]
    pairs = [
        (a, b) for a, one in enumerate(joints) for b, other in enumerate(joints)
        if one[1] > 0.02 and np.allclose(one * [1, -1, 1], other, atol=1e-6)
    ]  # fmt: skip
    assert pairs and all(
        (parts[owner == a][0] == parts[owner == b][0]).all()
        for parts in dressed for a, b in pairs if (owner == a).any() and (owner == b).any()
    )  # fmt: skip
