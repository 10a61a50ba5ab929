"""Training pairs: the flow says where each pixel is, the same number gives the same pair, any size works."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from dyn4d.training.config import MatcherTraining, PairConfig
from dyn4d.training.r2d2_data import PairSource, TrainingPair
from dyn4d.training.textures import KINDS, Rng, make_texture

PLAIN = PairConfig(textures=6, frames=0, picture=160, photometric=0.0, layers=0.0)


@pytest.fixture(scope="module")
def plain() -> PairSource:
    return PairSource(PLAIN, 3)


def warped(pair: TrainingPair) -> tuple[np.ndarray, np.ndarray]:
    """b at the pixels of a, and which of them the flow knows."""
    known = np.all(np.isfinite(pair.aflow), axis=-1)
    places = np.where(known[..., None], pair.aflow, -1).astype(np.float32)
    x, y = (np.ascontiguousarray(places[..., axis]) for axis in (0, 1))
    return np.asarray(cv2.remap(pair.b, x, y, cv2.INTER_LINEAR), dtype=float), known


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_the_flow_brings_b_onto_a(plain: PairSource) -> None:
    scores, shares, off = [], [], []
    for index in range(12):
        pair = plain(index, 96)
        b, known = warped(pair)
        assert pair.a.shape == (96, 96, 3) and pair.a.dtype == np.uint8 and pair.aflow.dtype == np.float32
        assert (pair.aflow[known] >= 0).all() and (pair.aflow[known] <= 95).all()
        shares.append(known.mean())
        if known.sum() < 500 or pair.a[known].std() < 8:
            continue
        scores.append(correlation(pair.a[known].astype(float), b[known]))
        moved = np.roll(pair.a, 3, axis=1)
        off.append(correlation(moved[known].astype(float), b[known]))
    assert np.median(scores) > 0.93 and np.median(scores) > np.median(off) + 0.05
    assert 0.4 < np.mean(shares) < 0.95


def test_in_layered_pairs_each_pixel_follows_its_own_layer() -> None:
    source = PairSource(PairConfig(textures=6, frames=0, picture=160, photometric=0.0, layers=1.0), 4)
    single = PairSource(PairConfig(textures=6, frames=0, picture=160, photometric=0.0, layers=0.0), 4)
    scores, hidden = [], []
    for index in range(10):
        pair = source(index, 96)
        b, known = warped(pair)
        hidden.append(1 - known.mean())
        if known.sum() > 500 and pair.a[known].std() > 8:
            scores.append(correlation(pair.a[known].astype(float), b[known]))
    assert np.median(scores) > 0.9
    assert np.mean(hidden) > np.mean([1 - np.isfinite(single(i, 96).aflow).all(-1).mean() for i in range(10)])


def test_pairs_are_the_same_by_number_and_seed_and_differ_otherwise(plain: PairSource) -> None:
    again = PairSource(PLAIN, 3)
    for name in ("a", "b", "aflow"):
        assert np.array_equal(getattr(plain(7, 64), name), getattr(again(7, 64), name), equal_nan=name == "aflow")
    assert not np.array_equal(plain(7, 64).a, plain(8, 64).a)
    assert not np.array_equal(plain(7, 64).a, PairSource(PLAIN, 5)(7, 64).a)


def test_light_changes_the_pictures_and_not_the_flow(plain: PairSource) -> None:
    lit = PairSource(PairConfig(textures=6, frames=0, picture=160, photometric=1.0, layers=0.0), 3)
    changed = [not np.array_equal(plain(i, 64).a, lit(i, 64).a) for i in range(6)]
    assert all(np.array_equal(plain(i, 64).aflow, lit(i, 64).aflow, equal_nan=True) for i in range(6))
    assert sum(changed) >= 4


def test_frames_of_synthetic_scenes_are_among_the_pictures() -> None:
    source = PairSource(PairConfig(textures=1, frames=2, picture=64), 0)
    assert len(source.pictures) == 3 and all(p.shape == (64, 64, 3) and p.dtype == np.uint8 for p in source.pictures)
    assert source.pictures[1].std() > 5 and not np.array_equal(source.pictures[1], source.pictures[2])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_texture_has_structure(kind: Callable[[Rng, int], np.ndarray]) -> None:
    stds = []
    for seed in range(5):
        picture = kind(np.random.default_rng(seed), 96)
        assert picture.shape == (96, 96, 3) and np.isfinite(picture).all()
        stds.append(np.clip(picture, 0, 1).std((0, 1)).max())
    assert max(stds) > 0.05


def test_textures_are_the_same_by_number() -> None:
    assert np.array_equal(make_texture(1, 2, 80), make_texture(1, 2, 80))
    assert not np.array_equal(make_texture(1, 2, 80), make_texture(1, 3, 80))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (PairConfig, {"textures": 0}, "pairs.textures: 0"),
        (PairConfig, {"picture": 32}, "pairs.picture: 32"),
        (PairConfig, {"scale": (1.5, 0.5)}, "pairs.scale"),
        (PairConfig, {"perspective": 0.9}, "pairs.perspective"),
        (MatcherTraining, {"crop": 98}, "multiple of 4"),
        (MatcherTraining, {"dense_crop": 32}, "training.dense_crop: 32"),
        (MatcherTraining, {"widths": (8, 8)}, "wanted 9 numbers"),
        (MatcherTraining, {"rate": 0.0}, "training.rate"),
        (MatcherTraining, {"plain": 1.5}, "training.plain"),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**values)
