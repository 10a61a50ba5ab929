"""Where a picture tells motion: corners and patterns, not one colour, an edge, or noise."""

from __future__ import annotations

import numpy as np

from dyn4d.geometry.texture import textured

EVERYWHERE = np.ones((60, 80), bool)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, -1)


def test_a_pattern_is_texture_one_colour_is_not() -> None:
    y, x = np.mgrid[:60, :80]
    assert textured(grey(128 + 60 * np.sin(x / 3) * np.sin(y / 4)), EVERYWHERE).mean() > 0.9
    assert not textured(grey(np.full((60, 80), 128.0)), EVERYWHERE).any()
    assert not textured(grey(80.0 + x), EVERYWHERE).any()  # motion along y leaves no trace


def test_an_edge_is_not_texture_its_end_is() -> None:
    picture = np.full((60, 80), 60.0)
    picture[:, 40:] = 200
    assert not textured(grey(picture), EVERYWHERE).any()
    picture[30:] = 60
    y, x = np.nonzero(textured(grey(picture), EVERYWHERE))
    assert len(y) and np.hypot(y - 29.5, x - 39.5).max() < 40 and abs(y.min() - 30) < 10


def test_noise_of_a_camera_is_not_texture() -> None:
    random = np.random.default_rng(0)
    assert textured(grey(128 + random.normal(0, 4, (60, 80))), EVERYWHERE).mean() < 0.02


def test_what_is_outside_the_region_does_not_count() -> None:
    """Also where large pictures are made smaller first."""
    for size in (100, 1500):
        random = np.random.default_rng(0)
        picture = random.uniform(0, 255, (size, size))
        picture[:, size // 2 :] = 128
        inside = np.zeros((size, size), bool)
        inside[:, size // 2 :] = True
        assert not textured(grey(picture), inside).any()
        assert textured(grey(picture), np.ones_like(inside))[:, size // 2 :].any()


def test_an_empty_region_has_none() -> None:
    assert not textured(grey(np.zeros((60, 80))), np.zeros((60, 80), bool)).any()
