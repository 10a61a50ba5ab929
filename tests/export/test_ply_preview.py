"""Pictures of PLYs: what is seen from where, framing that floaters do not disturb, and text for the terminal."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "io"))
from ply_clouds import gaussians, points, save

from dyn4d.core.errors import InputError
from dyn4d.export import ply_preview
from dyn4d.export.ply_preview import AXES, PreviewOptions, load_drawable, side_names, six_views, turntable
from dyn4d.export.preview_sheet import contact_sheet, half_blocks, terminal_colours, write_frames, write_gif
from dyn4d.io import ply_fields as pf
from dyn4d.io.rows import open_rows

# one colour for each side of a cube of Gaussians
SIDES = {"x": (1, 0, 0), "-x": (0, 1, 1), "y": (0, 1, 0), "-y": (1, 0, 1), "z": (0, 0, 1), "-z": (1, 1, 0)}


def cube(count: int = 600, floaters: int = 0) -> np.ndarray:
    """A cube of side 2 about (5, 1, -3), each face opaque in its colour."""
    rng = np.random.default_rng(0)
    rows = np.zeros(6 * count + floaters, pf.gaussian_dtype(0))
    xyz, rgb = rng.uniform(-1, 1, (len(rows), 3)), np.zeros((len(rows), 3))
    for at, (name, colour) in enumerate(SIDES.items()):
        part = slice(at * count, (at + 1) * count)
        xyz[part, "xyz".index(name[-1])] = -1 if name[0] == "-" else 1
        rgb[part] = colour
    if floaters:
        xyz[-floaters:] = rng.normal(size=(floaters, 3)) * 200
    xyz += [5, 1, -3]
    for names, values in ((pf.POSITION, xyz), (pf.DC, (rgb - 0.5) / pf.SH_DC)):
        for at, name in enumerate(names):
            rows[name] = values[:, at]
    rows["opacity"], rows["rot_0"] = 6, 1
    for name in pf.SCALE:
        rows[name] = np.log(0.06)
    return rows


def views_of(tmp_path: Path, rows: np.ndarray, options: PreviewOptions):
    return six_views(load_drawable(open_rows(save(tmp_path / "c.ply", rows))), options)


@pytest.mark.parametrize("up", AXES)
def test_each_side_is_seen_from_its_own_direction(tmp_path: Path, up: str) -> None:
    found = views_of(tmp_path, cube(), PreviewOptions(size=64, up=up))
    assert sorted(name for name, _ in found) == sorted(AXES)
    for name, view in found:
        np.testing.assert_allclose(view.rgb[24:40, 24:40].mean((0, 1)), SIDES[name], atol=0.12)
        assert view.alpha[32, 32] > 0.95 and view.alpha[0, 0] == 0
        np.testing.assert_allclose(view.rgb[0, 0], PreviewOptions.background, atol=1e-6)


@pytest.mark.parametrize("up", AXES)
def test_up_is_up(tmp_path: Path, up: str) -> None:
    """A ball above the cube's middle is in the upper half of the four views from around."""
    rows = cube(200)
    ball = rows[:50].copy()
    for axis, centre in zip("xyz", (5, 1, -3)):
        ball[axis] = centre + (0 if axis != up[-1] else (-2.5 if up[0] == "-" else 2.5))
    found = views_of(tmp_path, np.concatenate([rows, ball]), PreviewOptions(size=64, up=up))
    for name, view in found[:4]:
        assert name[-1] != up[-1]
        heights = np.flatnonzero(view.alpha.max(-1) > 0.5)
        widths = np.flatnonzero(view.alpha[heights[0]] > 0.3)
        assert len(widths) < 20  # the ball is what is uppermost, not the cube's side


def test_floaters_neither_shrink_nor_hide_the_object(tmp_path: Path) -> None:
    plain = views_of(tmp_path, cube(), PreviewOptions(size=64))
    dusty = views_of(tmp_path, cube(floaters=150), PreviewOptions(size=64))
    for (_, a), (_, b) in zip(plain, dusty):
        assert np.abs((a.alpha > 0.5).mean() - (b.alpha > 0.5).mean()) < 0.05
        assert np.abs(a.rgb[24:40, 24:40] - b.rgb[24:40, 24:40]).mean() < 0.1


def test_the_object_fills_the_picture(tmp_path: Path) -> None:
    for _, view in views_of(tmp_path, cube(), PreviewOptions(size=96)):
        rows = np.flatnonzero(view.alpha.max(-1) > 0.5)
        assert 0.7 * 96 < len(rows) < 96 and rows[0] > 0 and rows[-1] < 95


def test_many_are_drawn_in_slabs_as_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = gaussians(3000, 0)
    what = load_drawable(open_rows(save(tmp_path / "g.ply", rows)))
    options = PreviewOptions(size=80)
    once = six_views(what, options)
    monkeypatch.setattr(ply_preview, "SLAB", 170)
    for (_, a), (_, b) in zip(once, six_views(what, options)):
        np.testing.assert_allclose(a.rgb, b.rgb, atol=5e-3)  # what little light is left is dropped slab by slab


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("count", [1, 2, 500])
def test_points_are_seen(tmp_path: Path, count: int, colour: bool) -> None:
    what = load_drawable(open_rows(save(tmp_path / "p.ply", points(count, colour=colour))))
    assert len(what) == count and bool((what.scales > 0).all())
    for _, view in six_views(what, PreviewOptions(size=48)):
        assert view.alpha.max() > 0.2 and np.isfinite(view.rgb).all()


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    rows = gaussians(5, 0)
    rows["x"][2] = np.nan
    assert load_drawable(open_rows(save(tmp_path / "a.ply", rows))).left_out == 1
    rows["x"] = np.inf
    with pytest.raises(InputError, match="all of its 5 rows have NaN or Inf"):
        load_drawable(open_rows(save(tmp_path / "b.ply", rows)))
    with pytest.raises(InputError, match="it has no rows"):
        load_drawable(open_rows(save(tmp_path / "c.ply", points(0))))
    for wrong in ({"up": "w"}, {"size": 8}, {"frames": 0}, {"elevation": 90.0}):
        with pytest.raises(InputError, match=f"--{next(iter(wrong))}"):
            PreviewOptions(**wrong)


def test_sides_by_name() -> None:
    assert side_names("-y") == ("-z", "x", "z", "-x", "-y", "y")
    assert side_names("z") == ("-y", "x", "y", "-x", "z", "-z")


def test_a_turn_comes_round(tmp_path: Path) -> None:
    what = load_drawable(open_rows(save(tmp_path / "c.ply", cube())))
    options = PreviewOptions(size=48, frames=4, elevation=0.0)
    frames = list(turntable(what, options))
    seen = [frame[20:28, 20:28].reshape(-1, 3).mean(0) / 255 for frame in frames]
    around = [SIDES[name] for name in side_names("-y")[:4]]
    np.testing.assert_allclose(seen[0], around[0], atol=0.12)
    np.testing.assert_allclose(seen[2], around[2], atol=0.12)
    assert {tuple(np.round(s).astype(int)) for s in seen} == set(around)
    write_gif(tmp_path / "t.gif", iter(frames), 12.0)
    with Image.open(tmp_path / "t.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 4 and gif.size == (48, 48)
    write_frames(tmp_path / "frames", iter(frames))
    assert [p.name for p in sorted((tmp_path / "frames").iterdir())] == [f"{i:04d}.png" for i in range(4)]


def test_the_sheet_and_the_terminal(tmp_path: Path) -> None:
    found = views_of(tmp_path, cube(), PreviewOptions(size=64))
    sheet = contact_sheet(found, "a title that is far too long for so small a sheet " * 4, PreviewOptions.background)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 3 * 64 + 4 * 8
    text = half_blocks([view for _, view in found[:2]], columns=42)
    for line in text.split("\n"):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
        assert len(plain) <= 42 and set(plain) <= {" ", "▀", "▄"}
    assert "38;2;" in text and "38;5;" in half_blocks([found[0][1]], columns=20, colours=256)
    assert terminal_colours({"COLORTERM": "truecolor"}) > 256 and terminal_colours({}) == 256
    empty = ply_preview.View(np.ones((16, 16, 3)), np.zeros((16, 16)))
    assert half_blocks([empty], columns=10).strip() == ""
    assert contact_sheet([("x", empty)], "t", (0, 0, 0)).shape[1] == 16 + 16


def test_drawing_is_repeatable(tmp_path: Path) -> None:
    rows = open_rows(save(tmp_path / "g.ply", gaussians(500, 0)))
    a, b = (six_views(load_drawable(rows), PreviewOptions(size=32))[0][1].rgb for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert torch.is_grad_enabled()
