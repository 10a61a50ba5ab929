"""Exact motion of pixels against the points that a scene follows by itself."""

from __future__ import annotations

import numpy as np

from dyn4d.synthetic import build_scene
from dyn4d.synthetic.pixel_motion import draw_scene


def test_tracked_points_are_met() -> None:
    scene = build_scene("worm", frames=6, size=96)
    drawn, tracks = draw_scene(scene), scene.tracks
    both = tracks.visible[0] & tracks.visible[5]
    xyz, xy_b, seen = drawn.moved(0, 5, tracks.uv[0][both])
    apart = np.linalg.norm(xy_b - tracks.uv[5][both], axis=1)
    assert both.sum() > 200
    assert np.nanmedian(apart) < 0.1 and np.nanquantile(apart, 0.9) < 0.6
    assert seen.mean() > 0.8  # at the rim of so small a picture a pixel's centre may miss the object
    hidden = tracks.visible[0] & ~tracks.visible[5]
    assert drawn.moved(0, 5, tracks.uv[0][hidden])[2].mean() < 0.3
    assert np.nanmedian(np.linalg.norm(xyz - tracks.xyz[5][both], axis=1)) < 0.01


def test_a_frame_with_itself_and_the_background() -> None:
    drawn = draw_scene(build_scene("creature", frames=2, size=64))
    rows, columns = np.nonzero(drawn.clip.masks[0])
    here = np.stack([columns, rows], 1) + 0.5
    _, xy, seen = drawn.moved(0, 0, here)
    np.testing.assert_allclose(xy, here, atol=1e-6)
    assert seen.all()
    xyz, xy, seen = drawn.moved(0, 1, np.array([[0.5, 0.5]]))
    assert np.isnan(xyz).all() and np.isnan(xy).all() and not seen.any()
