"""The player page: one file, small, without addresses, and all of it in the wheel."""

import gzip
import hashlib
import json
import re
import zipfile
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from player_scenes import body, result

import dyn4d
from dyn4d.core.errors import InputError, RunError
from dyn4d.export.config import ExportConfig
from dyn4d.export.player import page as player_page
from dyn4d.export.player import write_player
from dyn4d.export.player.decode import read_page
from dyn4d.export.player.page import asset, make_page, packed_script
from dyn4d.export.player.scene import rotations, trail_rows

PLAYER = Path(dyn4d.__file__).parent / "export/player"
WEB = PLAYER / "web"
ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_player(tmp_path_factory.mktemp("player") / "player.html", result(), name="a body")


def header_of(page):
    return json.loads(re.search(r'id="header">([^<]*)</script>', page.read_text(encoding="utf-8"))[1])


def test_nothing_in_the_page_is_an_address(page):
    text = page.read_text(encoding="utf-8")
    packed = gzip.decompress(b64decode(re.search(r'id="packed">([^<]*)</script>', text)[1])).decode()
    assert packed == asset("player.js")
    for part in (text, packed, asset("LICENSES.txt")):
        assert ADDRESS.search(part) is None
    assert "connect-src 'none'" in text and "default-src 'none'" in text
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", text)


def test_names_cannot_break_out_of_the_page(tmp_path):
    name = "</script><b>x</b> {{DATA}} http://x"
    file = write_player(tmp_path / "p.html", result(60, frames=2), name=name)
    text = file.read_text(encoding="utf-8")
    assert "<b>x" not in text and "http://" not in text and len(read_page(file)) == 60
    assert header_of(file)["name"] == name


def test_the_page_says_what_it_holds(page):
    header, found, text = header_of(page), read_page(page), page.read_text(encoding="utf-8")
    assert header["gaussians"] == len(found) == 1500 and "rows" not in header
    assert (
        len(header["times"]) == len(header["cameras"]["frames"]) == len(header["turns"]) == len(header["centres"]) == 7
    )
    assert header["seconds"] == pytest.approx(0.6)
    stated = f"{100 * header['error']['max_rel']:.2g} %"
    assert f"off by at most {stated}" in text
    for library in ("three.js 0.", "Spark 2.", "fflate 0.", "Permission is hereby granted"):
        assert library in text


def test_cameras_are_those_of_the_run(page):
    cameras = result().cameras
    for i, row in enumerate(header_of(page)["cameras"]["frames"]):
        w, x, y, z = row["q"]
        forward = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]
        np.testing.assert_allclose(forward, cameras.world_from_cam[i, :3, 2], atol=1e-6)
        np.testing.assert_allclose(row["p"], cameras.world_from_cam[i, :3, 3], atol=1e-6)
        K = cameras.K[i]
        np.testing.assert_allclose(row["K"], [K[0, 0], K[1, 1], K[0, 2], K[1, 2]], rtol=1e-6)


def test_the_turn_of_the_whole_object_is_found():
    from export_scenes import Carousel

    turned = replace(result(), field=Carousel(turn=1.1))
    quats = rotations(turned.cloud, turned)
    angle = 2 * torch.atan2(quats[:, 3], quats[:, 0])
    np.testing.assert_allclose(angle, 1.1 * turned.timeline.times, atol=1e-5)


def test_trails_start_at_well_seen_gaussians_far_from_each_other():
    cloud = body(900)
    rows, colours = trail_rows(cloud, count=40)
    assert len(set(rows.tolist())) == len(colours) == 40
    assert (cloud.opacities[rows] * (0.25 + 0.75 * cloud.confidence[rows]) > 0.3).all()
    assert torch.pdist(cloud.means[torch.from_numpy(rows)]).min() > 0.05


def test_view_dependent_colours_are_cut_down_to_the_budget(tmp_path, monkeypatch):
    full = result(300, frames=2, sh_degree=2)
    assert "change with the view (degree 2)" in make_page(full, name="x")
    monkeypatch.setattr(player_page, "BUDGET", len(make_page(full, name="x")) - 1)
    page = make_page(full, name="x")
    assert "degree 1); the run has degree 2" in page and len(page) <= player_page.BUDGET


@pytest.mark.slow
def test_a_hundred_thousand_gaussians_over_fifty_frames_fit_into_ten_megabytes(tmp_path):
    file = write_player(tmp_path / "p.html", result(100_000, frames=50), name="many")
    assert file.stat().st_size <= 10_000_000
    assert header_of(file)["error"]["max_rel"] < 2e-3


def test_the_script_is_small_enough_to_leave_room():
    assert len(packed_script()) < 1_600_000


def test_one_frame_and_one_gaussian(tmp_path):
    file = write_player(tmp_path / "p.html", result(1, frames=1), name="one")
    assert len(read_page(file)) == 1 and header_of(file)["seconds"] > 0


def test_a_cloud_of_nothing_is_refused_and_leaves_no_file(tmp_path):
    empty = result(5, frames=2)
    empty = replace(empty, cloud=replace(empty.cloud, opacities=torch.zeros(5)))
    with pytest.raises(RunError, match="no Gaussian that can be drawn"):
        write_player(tmp_path / "p.html", empty, name="none")
    assert not list(tmp_path.iterdir())


def test_other_pages_are_refused(tmp_path):
    (tmp_path / "p.html").write_text("<html></html>")
    with pytest.raises(InputError, match="no player page"):
        read_page(tmp_path / "p.html")


def test_the_player_can_be_left_out():
    assert ExportConfig().player and not ExportConfig(player=False).player


@pytest.mark.skipif(not WEB.is_dir(), reason="the sources of the script are in a checkout only")
def test_the_script_was_built_from_these_sources():
    digest = hashlib.sha256()
    names = sorted(f"src/{path.name}" for path in (WEB / "src").iterdir())
    for name in (*names, "build.mjs", "package.json", "package-lock.json"):
        text = (WEB / name).read_text(encoding="utf-8").replace("\r\n", "\n")
        digest.update(f"{name}\n".encode() + text.encode())
    assert asset("player.js").startswith(f"/* sources {digest.hexdigest()} */"), "run npm ci && npm run build"
    lock = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))
    assert not any("resolved" in package for package in lock["packages"].values())
    assert ADDRESS.search(json.dumps(lock)) is None


def test_the_wheel_holds_the_page_and_not_its_sources(tmp_path):
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    root = PLAYER.parents[2]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("not a checkout")
    wheel = next(builders.WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"]))
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("player.js", "player.css", "player.html", "LICENSES.txt"):
        assert f"dyn4d/export/player/{name}" in names
    assert not any("player/web" in name for name in names)
