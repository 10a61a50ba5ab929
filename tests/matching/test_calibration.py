"""Raw quality to expected errors to weights: the tables, and that those of the package hold on clips of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.types import Correspondences
from dyn4d.io.tensor_files import file_sha256
from dyn4d.matching.calibration import (
    AxisPlan,
    ErrorTable,
    RawMatches,
    expected_error,
    fit_table,
    flow_quality,
    isotonic,
    load_tables,
    pool_adjacent,
    rate,
    tables_of,
    weights_note,
)
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow import match_clip
from dyn4d.matching.r2d2_weights import SMALL
from dyn4d.synthetic import build_scene
from dyn4d.synthetic.pixel_motion import draw_scene


def some(count: int, weight: np.ndarray | None = None, gap: int = 1) -> Correspondences:
    frame = torch.zeros(count, dtype=torch.int64)
    own = torch.ones(count) if weight is None else torch.from_numpy(weight).float()
    return Correspondences(frame, frame + gap, torch.zeros(count, 2), torch.zeros(count, 2), own)


def test_pool_adjacent_by_hand_and_by_brute_force() -> None:
    assert pool_adjacent(np.array([1.0, 3, 2, 4]), np.ones(4)).tolist() == [1, 2.5, 2.5, 4]
    assert pool_adjacent(np.array([3.0, 1]), np.array([3.0, 1])).tolist() == [2.5, 2.5]
    rng = np.random.default_rng(0)
    for _ in range(20):
        y, w = rng.normal(size=6), rng.uniform(0.2, 2, 6)
        total, running = np.cumsum(np.append(0, w * y)), np.cumsum(np.append(0, w))
        means = {
            (j, k): (total[k + 1] - total[j]) / (running[k + 1] - running[j]) for k in range(6) for j in range(k + 1)
        }
        minmax = [max(min(means[j, k] for k in range(i, 6)) for j in range(i + 1)) for i in range(6)]
        np.testing.assert_allclose(pool_adjacent(y, w), minmax, atol=1e-9)


def test_isotonic_grids_are_monotone_and_leave_monotone_ones_alone() -> None:
    rng = np.random.default_rng(1)
    noisy = rng.normal(size=(5, 4, 3))
    smooth = isotonic(noisy, rng.uniform(0.1, 1, noisy.shape), [1, -1, 1])
    assert (np.diff(smooth, axis=0) >= -1e-9).all()
    assert (np.diff(smooth, axis=1) <= 1e-9).all()
    assert (np.diff(smooth, axis=2) >= -1e-9).all()
    fine = np.arange(5)[:, None] - 2.0 * np.arange(4)
    np.testing.assert_allclose(isotonic(fine, np.ones(fine.shape), [1, -1]), fine, atol=1e-9)


def test_a_table_finds_what_made_the_errors() -> None:
    rng = np.random.default_rng(2)
    good, far = rng.uniform(size=20000), rng.integers(0, 3, 20000).astype(float)
    scale = 0.2 * np.exp(2 * (1 - good) + 0.5 * far)
    error = scale * rng.rayleigh(size=20000) / np.sqrt(2 * np.log(2))  # median = scale
    plans = [AxisPlan("good", rises=False, bins=10), AxisPlan("far", rises=True, at=(0.0, 1.0, 2.0))]
    table = fit_table({"good": good, "far": far}, error, plans)
    ratio = table.expected({"good": good, "far": far}) / scale
    assert np.quantile(ratio, 0.02) > 0.8 and np.quantile(ratio, 0.98) < 1.25
    again = ErrorTable.from_plain(json.loads(json.dumps(table.to_plain())))
    np.testing.assert_allclose(
        again.expected({"good": good, "far": far}), table.expected({"good": good, "far": far}), rtol=0.01
    )


def test_beyond_the_table_the_nearest_place_counts() -> None:
    table = fit_table({"q": np.array([0.2, 0.8] * 50)}, np.array([2.0, 0.5] * 50), [AxisPlan("q", False, bins=2)])
    assert table.expected({"q": np.array([-5.0, 0.2, 0.8, 9.0])}) == pytest.approx([2.0, 2.0, 0.5, 0.5], rel=1e-6)
    one = fit_table({"q": np.ones(10)}, np.full(10, 3.0), [AxisPlan("q", False)])
    assert one.expected({"q": np.array([0.0, 7.0])}) == pytest.approx([3, 3])
    with pytest.raises(ValueError, match="there are none"):
        fit_table({"q": np.zeros(0)}, np.zeros(0), [AxisPlan("q", False)])


def test_a_matcher_without_a_table_keeps_its_order() -> None:
    weight = np.array([0.1, 1.0, 10.0, 1000.0])
    raw = RawMatches(some(4, weight), {"weight": weight})
    error = expected_error(raw, "nobody", {})
    assert (np.diff(error) <= 0).all() and error.max() <= 8 and error.min() >= 1
    assert len(rate(RawMatches(some(0), {}), "nobody", {})) == 0


def test_every_weight_is_between_0_and_1_and_falls_with_the_gap() -> None:
    weight = np.linspace(0.01, 1, 50)
    near, far = (rate(flow_quality(some(50, weight, gap)), "flow") for gap in (1, 24))
    for rated in (near, far):
        assert float(rated.matches.weight.min()) > 0 and float(rated.matches.weight.max()) <= 1
        assert bool((rated.error.diff() <= 1e-6).all())
    assert bool((near.error <= far.error + 1e-6).all())


@pytest.mark.parametrize("content", ["", "{", '{"matchers": {"flow": {"axes": [], "median_px": [1]}}}', "[1]"])
def test_damaged_tables(tmp_path: Path, content: str) -> None:
    file = tmp_path / "table.json"
    file.write_text(content)
    with pytest.raises(InputError, match=r"table.json: no calibration of matchers .*make it again"):
        load_tables(file)
    with pytest.raises(InputError, match="no such file"):
        load_tables(tmp_path / "none.json")


@pytest.mark.slow
def test_the_flow_is_as_good_as_expected_on_a_clip_it_was_not_learnt_on() -> None:
    drawn = draw_scene(build_scene("creature", frames=14, size=192, seed=77))
    config = MatchingConfig(window=2, strides=(4, 8, 12), max_per_pair=300)
    matches = match_clip(drawn.clip, config)
    rated = rate(flow_quality(matches), "flow")
    error = np.zeros(len(matches))
    for a, b in {(int(a), int(b)) for a, b in zip(matches.frame_a, matches.frame_b)}:
        rows = ((matches.frame_a == a) & (matches.frame_b == b)).numpy()
        _, xy_b, _ = drawn.moved(a, b, matches.xy_a.double().numpy()[rows])
        error[rows] = np.linalg.norm(xy_b - matches.xy_b.double().numpy()[rows], axis=-1)
    expected = rated.error.double().numpy()
    bins = np.array_split(np.argsort(expected, kind="stable"), 6)
    found = np.array([np.median(error[rows]) for rows in bins])
    meant = np.array([np.median(expected[rows]) for rows in bins])
    assert (found / meant < 2).all() and (found / meant > 0.5).all(), (found, meant)
    assert found[-1] > 1.5 * found[0]
    ranks = np.argsort(np.argsort(expected)), np.argsort(np.argsort(error))
    assert np.corrcoef(*ranks)[0, 1] > 0.25


def test_frames_left_out_count_as_frames_between() -> None:
    weight = np.linspace(0.1, 1, 20)
    near, far = some(20, weight, 1), some(20, weight, 8)
    rows = np.array([0, 8, 16])
    np.testing.assert_array_equal(flow_quality(near, frames=rows).quality["gap"], flow_quality(far).quality["gap"])
    back = Correspondences(near.frame_b, near.frame_a, near.xy_b, near.xy_a, near.weight)
    np.testing.assert_array_equal(flow_quality(back, frames=rows).quality["gap"], flow_quality(far).quality["gap"])


def own_table(folder: Path, median: float, made_for: str | None = None) -> Path:
    axis = {"name": "margin", "rises": False, "places": [0.0]}
    content = {"made_for": {"r2d2": made_for}, "matchers": {"r2d2": {"axes": [axis], "median_px": [median]}}}
    file = folder / f"table_{median}.json"
    file.write_text(json.dumps(content))
    return file


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    tables = tables_of(str(own_table(tmp_path, 1.5)))
    assert tables["r2d2"].median.tolist() == [1.5] and tables["flow"] is load_tables()["flow"]
    assert tables_of() == load_tables()
    with pytest.raises(InputError, match="no such file"):
        tables_of(str(tmp_path / "none.json"))


def test_a_table_says_for_which_weights_it_was_made(tmp_path: Path) -> None:
    assert weights_note("r2d2", SMALL) == ""
    other = tmp_path / "other.pt"
    other.write_bytes(b"weights")
    assert "--r2d2" in weights_note("r2d2", other) and str(other) in weights_note("r2d2", other)
    assert weights_note("flow", other) == ""  # has none
    own = own_table(tmp_path, 1.0, file_sha256(other))
    assert weights_note("r2d2", other, str(own)) == ""
    assert weights_note("r2d2", SMALL, str(own)) != ""
    assert weights_note("r2d2", SMALL, str(own_table(tmp_path, 2.0))) == ""  # it does not say
