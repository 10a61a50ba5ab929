"""The player's data: what is read back is what was measured, and the bytes are whole."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from player_scenes import Swimmer, body

from dyn4d.core.errors import InputError
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.export.player import encode as player_encode
from dyn4d.export.player.decode import decode
from dyn4d.export.player.encode import FORMAT, PlayerData, encode, finite_rows
from dyn4d.export.player.planes import ArrayWriter, read_arrays
from dyn4d.export.player.timing import hermite_weights, key_rows
from dyn4d.gaussians.warp import move_cloud

SH0 = 0.28209479177387814


def times(count):
    return np.linspace(0, 1, count) ** 1.2  # not evenly spaced


def covariances(cloud):
    factor = wxyz_to_matrix(torch.nn.functional.normalize(cloud.quats_wxyz.double(), dim=-1)) * cloud.scales[:, None]
    return (factor @ factor.transpose(-1, -2)).numpy()


def roots(matrices):
    values, vectors = np.linalg.eigh(matrices)
    return (vectors * np.sqrt(np.clip(values, 0, None))[:, None]) @ np.swapaxes(vectors, 1, 2)


def wasserstein(means_a, covs_a, means_b, covs_b):
    """The exact 2-Wasserstein distance of Gaussians (Dowson and Landau, 1982)."""
    root = roots(covs_a)
    cross = roots(root @ covs_b @ root)
    bures = (
        np.trace(covs_a, axis1=1, axis2=2) + np.trace(covs_b, axis1=1, axis2=2) - 2 * np.trace(cross, axis1=1, axis2=2)
    )
    return np.sqrt(((means_a - means_b) ** 2).sum(1) + np.clip(bures, 0, None))


# ------------------------------------------------------------------------------------ integers and time


@given(
    st.lists(st.integers(-(2**30), 2**30), max_size=40), st.integers(1, 3),
    st.sampled_from([1.0, 0.25, 1e-3]),
)  # fmt: skip
def test_integers_come_back(numbers, columns, step):
    table = np.array(numbers[: len(numbers) // columns * columns], dtype=np.int64).reshape(-1, columns)
    writer = ArrayWriter()
    writer.add("before", np.array([7, -7]))
    stored = writer.add("numbers", table, step)
    found = read_arrays(writer.entries, writer.payload)
    np.testing.assert_array_equal(found["numbers"], table * step)
    np.testing.assert_array_equal(stored, table * step)
    np.testing.assert_array_equal(found["before"], [7, -7])


def test_slow_sequences_take_one_byte_each():
    writer = ArrayWriter()
    writer.add("slow", np.arange(100_000, 101_000))
    assert writer.entries[0]["delta"] and writer.entries[0]["planes"] == 3
    assert len(zlib.compress(writer.payload)) < 100


def test_a_payload_that_ends_early_is_named():
    writer = ArrayWriter()
    writer.add("numbers", np.arange(9))
    with pytest.raises(InputError, match="end before the array numbers"):
        read_arrays(writer.entries, writer.payload[:-1])


@given(st.lists(st.floats(0.01, 3), min_size=1, max_size=9), st.floats(-1, 40))
def test_interpolation_goes_through_the_keys_and_along_lines(steps, time):
    keys = np.concatenate([[0.0], np.cumsum(steps)])
    for i, key in enumerate(keys):
        np.testing.assert_allclose(hermite_weights(keys, key), np.eye(len(keys))[i], atol=1e-12)
    weights = hermite_weights(keys, time)
    assert weights.sum() == pytest.approx(1)
    assert weights @ (2 * keys - 3) == pytest.approx(2 * np.clip(time, keys[0], keys[-1]) - 3)


def test_interpolated_velocity_is_continuous():
    keys, values = np.array([0.0, 1.0, 1.5, 3.0]), np.array([0.0, 2.0, 1.0, 5.0])
    for key in keys[1:-1]:
        h = 1e-6
        before, at, after = (hermite_weights(keys, key + d) @ values for d in (-h, 0, h))
        assert (at - before) / h == pytest.approx((after - at) / h, abs=1e-3)


def test_key_frames_hold_both_ends():
    assert key_rows(1, 96).tolist() == [0] and key_rows(5, 96).tolist() == [0, 1, 2, 3, 4]
    rows = key_rows(1000, 96)
    assert len(rows) == 96 and rows[0] == 0 and rows[-1] == 999


# ---------------------------------------------------------------------------------------------- clouds


@pytest.mark.parametrize("count, frames", [(1200, 6), (1200, 1), (400, 130), (3, 4), (1, 2)])
def test_every_frame_is_within_the_stated_error(count, frames):
    cloud, field = body(count), Swimmer()
    data = encode(cloud, field, times(frames))
    found = decode(data)
    rows = data.header["rows"]
    bound = data.header["error"]["max_rel"] * data.header["size"]
    assert data.header["error"]["max_rel"] < 2e-3 and sorted(rows.tolist()) == list(range(count))
    worst = 0.0
    for time in times(frames)[:: max(1, frames // 12)].tolist():
        exact = move_cloud(cloud, field, time).select(torch.from_numpy(rows))
        means, covs = found.at(time)
        distance = wasserstein(exact.means.double().numpy(), covariances(exact), means, covs)
        worst = max(worst, distance.max())
    means, covs = found.canonical()
    still = cloud.select(torch.from_numpy(rows))
    worst = max(worst, wasserstein(still.means.double().numpy(), covariances(still), means, covs).max())
    assert worst <= bound + 2e-6
    assert worst > 0.02 * bound  # the bound says something


def test_colours_opacities_and_confidence_are_kept():
    cloud = body(600, sh_degree=2)
    data = encode(cloud, Swimmer(), times(3))
    found, rows = decode(data), torch.from_numpy(data.header["rows"])
    assert data.header["sh_degree"] == 2
    np.testing.assert_allclose(found.colours, 0.5 + SH0 * cloud.sh[rows, 0].numpy(), atol=0.51 / 512)
    np.testing.assert_allclose(found.harmonics, cloud.sh[rows, 1:].numpy(), atol=0.51 / 64)
    np.testing.assert_allclose(found.opacities, cloud.opacities[rows].numpy(), atol=0.51 / 255)
    np.testing.assert_allclose(found.confidence, cloud.confidence[rows].numpy(), atol=0.51 / 63)


def test_fewer_bands_where_asked_for_and_no_confidence_where_none_is():
    data = encode(body(100, sh_degree=2, confidence=False), Swimmer(), times(2), sh_degree=1)
    found = decode(data)
    assert (data.header["sh_degree"], data.header["sh_degree_of_run"]) == (1, 2)
    assert found.harmonics.shape == (100, 3, 3) and found.confidence is None


def test_the_same_cloud_gives_the_same_bytes():
    one, two = (encode(body(500), Swimmer(), times(4)) for _ in range(2))
    assert one.payload == two.payload and one.header["arrays"] == two.header["arrays"]


def test_gaussians_that_cannot_be_drawn_are_left_out():
    cloud = body(50)
    means, opacities = cloud.means.clone(), cloud.opacities.clone()
    means[3, 1], opacities[7] = float("nan"), 0.0
    broken = replace(cloud, means=means, opacities=opacities)
    assert {3, 7}.isdisjoint(finite_rows(broken).tolist())
    data = encode(broken, Swimmer(), times(3))
    assert data.header["gaussians"] == 48 and np.isfinite(decode(data).at(0.3)[0]).all()


def test_the_worst_keep_their_whole_motion(monkeypatch):
    monkeypatch.setattr(player_encode, "LIMIT", 1e-9)
    monkeypatch.setattr(player_encode, "TARGET", 1.0)  # few components
    cloud, field = body(800), Swimmer(twist=3.0)
    data = encode(cloud, field, times(9))
    found, count = decode(data), 24
    assert data.header["singles"] == count
    single = found.motion.group >= data.header["groups"]
    assert single.sum() == count
    exact = field.from_canonical(cloud.means[torch.from_numpy(data.header["rows"])], float(times(9)[4])).numpy()
    off = np.linalg.norm(found.at(times(9)[4])[0] - exact, axis=1) / data.header["size"]
    assert off[single].max() < 2e-5 < off[~single].max()


def test_damaged_and_foreign_data_are_refused():
    data = encode(body(40), Swimmer(), times(2))
    with pytest.raises(InputError, match="damaged"):
        decode(PlayerData(data.header, data.payload[:-9] + bytes(9)))
    with pytest.raises(InputError, match=FORMAT):
        decode(PlayerData({**data.header, "format": "dyn4d-player/0"}, data.payload))
