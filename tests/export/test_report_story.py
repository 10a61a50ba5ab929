"""The report's text: what went in, what stages did, whose terms hold, and the command that makes the run again."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dyn4d import cli
from dyn4d.cli_args import DemoArgs, RunArgs
from dyn4d.config import Config, load_preset, with_clip
from dyn4d.export.report import ReportContent, build_html
from dyn4d.export.report_story import FurtherRender
from dyn4d.export.run import _further
from dyn4d.export.story import tell
from dyn4d.io import artifacts
from dyn4d.io.images import write_png
from dyn4d.io.terms import clip_terms
from dyn4d.repeat import repeat_command


def changed(name: str) -> Config:
    base = load_preset(name)
    return with_clip(
        replace(
            base, frames="0:9:2", hold_out=3, max_size=None, seed=7,
            geometry=replace(base.geometry, erode=2, optimise_depth=not base.geometry.optimise_depth),
            matching=replace(base.matching, strides=(5, 9)),
            render=replace(base.render, which=("orbit", "depth"), gif=True),
            export=replace(base.export, formats=(), player=False),
        ),
        "a clip",
    )  # fmt: skip


@pytest.mark.parametrize("preset", ["quick", "default", "quality"])
def test_the_command_makes_the_same_options_again(preset: str) -> None:
    config = changed(preset)
    words = shlex.split(repeat_command(config, "runs/x y"))
    assert words[:2] == ["dyn4d", "run"] and preset in words
    args = cli.parse(RunArgs, "run", words[2:], RunArgs(options=cli._preset_of(words[2:], "default")))
    assert args.out == "runs/x y" and with_clip(args.options, args.clip) == config


def test_the_command_of_a_demo() -> None:
    demo = {"scene": "worm", "background": "room", "frames": 9, "size": 64}
    config = with_clip(replace(load_preset("quick"), seed=3), "runs/d/clip")
    words = shlex.split(repeat_command(config, "runs/d", demo=demo))
    args = cli.parse(DemoArgs, "demo", words[2:], DemoArgs(options=cli._preset_of(words[2:], "quick")))
    assert (args.scene, args.backdrop, args.length, args.size, args.options.seed) == ("worm", "room", 9, 64, 3)


def make_run(run: Path) -> Path:
    for name, value in {
        "run.json": {"licences": ["matching: net.pt, CC BY-NC-SA 4.0"], "versions": {"torch": "9.9"},
                     "stages": {"geometry": {"seconds": 12.4}}},
        "prepare/clip.json": {"source": "/clips/dog", "frames": 10, "width": 64, "height": 48, "selected": [0, 2, 4],
                              "depth": True, "poses_given": False, "time": {"fps": 24.0}, "findings": ["mask 3 empty"]},
        "geometry/cameras.json": {"source": "rgbd", "poses": "solved"},
        "deformation/metrics.json": {"transport": {"median_rel": 0.0012}, "reunions": [{"followed": True}]},
        "gaussians/metrics.json": {"count": 900, "curves": {"count": [[0, 500], [9, 900]]}},
    }.items():  # fmt: skip
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(json.dumps(value))
    artifacts.save(run / "geometry/correspondences.npz", {"weight": np.zeros(1234)})
    return run


def test_facts_have_labels_of_their_own_and_come_before_what_is_odd(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    clip = json.loads((run / "prepare/clip.json").read_text())
    clip["findings"] = ["frame 3: blurred", "48 of 48 frames, 64x48, 2 s at 24 frames a second",
                        "mask pixels: 10 to 20, median 15 (5% of the picture)",
                        "depth inside the masks: 90.0% to 100.0%, median 95.0%"]  # fmt: skip
    (run / "prepare/clip.json").write_text(json.dumps(clip))
    assert tell(run, {}).inputs[-4:] == [
        ("frames", "48 of 48 frames, 64x48, 2 s at 24 frames a second"),
        ("mask pixels", "10 to 20, median 15 (5% of the picture)"),
        ("depth inside the masks", "90.0% to 100.0%, median 95.0%"), ("noticed", "frame 3: blurred"),
    ]  # fmt: skip


def test_figures_at_the_top_lead_to_what_they_mean() -> None:
    seconds = {"gaussians": 100.0, "render": 10.0, "export": 15.0}
    text = build_html(ReportContent("a", metrics={"seconds": seconds, "cycle": {"max_rel": 1e-7}}))
    links = re.findall(r'<a href="#(means-[a-z-]+)">', text)
    assert "means-cycle-error" in links and all(f'id="{link}"' in text for link in links)
    assert "25 s of it renders and exports" in text


def test_stages_say_what_they_did_and_why(tmp_path: Path) -> None:
    options = {"clip": str(tmp_path / "none"), "frames": "0:6:2", "geometry": {"source": "auto"}, "mask": "alpha",
               "deformation": {"kind": "realnvp", "steps": 400}, "gaussians": {"steps": 1500}}  # fmt: skip
    story = tell(make_run(tmp_path), options, "dyn4d run dog")
    stages, inputs = dict(story.stages), dict(story.inputs)
    assert stages["prepare"] == "looked at every frame; 3 of 10 are used to fit, because of --frames 0:6:2"
    assert "because the clip has depth maps and K" in stages["geometry"] and "camera poses solved" in stages["geometry"]
    assert "1,234 matches" in stages["geometry"] and stages["geometry"].endswith("(12 s)")
    assert "0.12 %" in stages["deform"] and "1 part(s)" in stages["deform"]
    assert "900 Gaussians after 1,500 steps" in stages["gaussians"] and "begun with 500" in stages["gaussians"]
    assert inputs["masks"] == "their alpha channel" and inputs["noticed"] == "mask 3 empty"
    assert ("weights", "matching: net.pt, CC BY-NC-SA 4.0") in story.terms and ("torch", "9.9") in story.versions
    page = build_html(ReportContent(name="dog", story=story))
    for text in ("What went in", "What each stage did", "CC BY-NC-SA 4.0", "dyn4d run dog", "torch"):
        assert text in page
    (tmp_path / "deformation/metrics.json").write_text(json.dumps({"transport": None}))  # one frame: no matches
    assert "missed" not in dict(tell(tmp_path, options).stages)["deform"]
    empty = tell(tmp_path / "empty", {})
    assert not (empty.inputs or empty.stages or empty.versions) and build_html(ReportContent("x", story=empty))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, ""),
        ({"cameras.json": '{"licence": "CC BY 4.0, A. Nother"}', "LICENSE": "MIT"}, "CC BY 4.0, A. Nother"),
        ({"cameras.json": "not JSON", "LICENSE.txt": "\n MIT License\nmore"}, "MIT License"),
        ({"README.md": "# dog\n- Licence: CC0\n"}, "Licence: CC0"),
        ({"cameras.json": "[1]", "README": "a dog"}, ""),
    ],
)
def test_terms_of_a_clip(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert clip_terms(tmp_path) == says
    assert clip_terms(tmp_path / "none" / "video.mp4") == ""


def test_further_renders_are_those_that_the_page_does_not_hold(tmp_path: Path) -> None:
    for name in ("input", "orbit", "spiral", "bullet_000003", "orbit_alpha"):
        (tmp_path / name).mkdir()
        write_png(tmp_path / name / "000000.png", np.full((8, 8, 3), 9, np.uint8))
        (tmp_path / f"{name}.mp4").write_bytes(b"x")
    (tmp_path / "spiral.gif").write_bytes(b"x")
    found = _further(tmp_path)
    assert [one.name for one in found] == ["orbit", "spiral", "bullet_000003"]
    assert found[1].files == [("renders/spiral.mp4", "video"), ("renders/spiral.gif", "GIF")]
    page = build_html(ReportContent(name="x", further=[*found, FurtherRender("odd")]))
    assert 'href="renders/bullet_000003.mp4"' in page and "while time stands still" in page
