"""`report.html`: one page that shows a run, with everything inside it: no script, no network, no other file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.listing import listed
from dyn4d.export.charts import bars, line_chart
from dyn4d.export.geometry_pictures import GeometryPictures
from dyn4d.export.pictures import (
    ERROR_TOP,
    HEAT,
    SEA,
    UNKNOWN,
    animation_uri,
    fit_within,
    jpeg_uri,
    png_uri,
    side_by_side,
)
from dyn4d.export.report_story import (
    FurtherRender,
    definitions,
    further_renders,
    inputs_and_stages,
    terms_and_repeat,
)
from dyn4d.export.report_tiles import duration as duration
from dyn4d.export.report_tiles import number, tiles
from dyn4d.export.story import Story
from dyn4d.io.atomic import atomic_path

LONGEST = 420  # px: pictures in the page are at most this long a side
STRIP = 8  # pictures in a strip
ORBIT_SECONDS = 3.0  # a whole turn in less is hard to follow
PLAYER = "export/player.html"  # beside the report
CYCLE_BOUND = 1e-5  # of the object's size


@dataclass(frozen=True)
class FramePictures:
    """One frame as the report shows it: (H, W, 3) uint8 pictures of one size.

    Attributes:
        index: of the frame in the clip. mpsnr: of this frame, or None.
        aside: degrees round the object, to the right of the input's camera -> the render from there.
    """

    index: int
    input: np.ndarray
    render: np.ndarray
    error: np.ndarray
    depth: np.ndarray
    mpsnr: float | None = None
    aside: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportContent:
    """All that the page shows; whatever is left empty is left out.

    Attributes:
        name: the clip's name. facts: (label, text) about the run.
        metrics: the content of `metrics.json`. evaluation: of `eval.json`.
        frames: some frames, compared. movies: name -> pictures (H, W, 3) uint8 in order. fps: of the movies.
        curves: title -> {name: curve}, in any form `charts.as_curve` reads.
        linear: titles of curves that are not drawn on a logarithmic scale.
        per_frame: frame index -> mPSNR of the input view. tracks: a picture of trails.
        geometry: pictures of the cameras and of what moves.
        config: the settings as text. files: (path, what it is). warnings: lines for the user.
        further: renders beside those of `movies`. story: what went in, what stages did, licences, how to repeat it.
    """

    name: str
    facts: Sequence[tuple[str, str]] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] | None = None
    frames: Sequence[FramePictures] = ()
    movies: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    fps: float = 24.0
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    linear: Sequence[str] = ()
    per_frame: Mapping[int, float] = field(default_factory=dict)
    tracks: np.ndarray | None = None
    geometry: GeometryPictures | None = None
    config: str = ""
    files: Sequence[tuple[str, str]] = ()
    warnings: Sequence[str] = ()
    further: Sequence[FurtherRender] = ()
    story: Story | None = None


def find_warnings(metrics: Mapping[str, Any], *, unregistered: Sequence[int] = ()) -> list[str]:
    """Lines on what a person should look at, from the figures of a run."""
    lines = []
    shown = metrics.get("input", {})
    if unregistered:
        some = listed(unregistered)
        lines.append(f"{len(unregistered)} frame(s) have no camera pose ({some}); neighbours' poses were interpolated.")
    if isinstance(shown.get("mpsnr"), float) and shown["mpsnr"] < 22:
        lines.append(
            f"The input views are reproduced poorly ({shown['mpsnr']:.1f} dB inside the mask); more steps or a finer "
            "preset may help, or the motion was not found."
        )
    if isinstance(shown.get("iou"), float) and shown["iou"] < 0.85:
        lines.append(
            f"The silhouettes overlap the masks only by {shown['iou']:.2f} (IoU); look for torn or missing parts."
        )
    cycle = metrics.get("cycle", {}).get("max_rel")
    if isinstance(cycle, float) and cycle > CYCLE_BOUND:
        lines.append(f"The field's cycle error is {cycle:.1e} of the object's size, above {CYCLE_BOUND:.0e}.")
    return lines


def _tiles(content: ReportContent) -> str:
    return tiles(content.metrics, content.evaluation or {})


def _warnings(content: ReportContent) -> str:
    if not content.warnings:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in content.warnings)
    return f"<div class=warn><strong>Worth a look</strong><ul>{items}</ul></div>"


def _gradient(anchors: Sequence[tuple[int, int, int]]) -> str:
    return f"linear-gradient(90deg,{','.join(f'rgb{tuple(a)}' for a in anchors)})"


def _frames(content: ReportContent) -> str:
    if not content.frames:
        return ""
    shown = {"input": "input", "render": "render", "error": "error inside the mask", "depth": "depth"}
    cells = _heads(list(shown.values()))
    for frame in content.frames:
        under = f"{frame.mpsnr:.1f} dB" if frame.mpsnr is not None and math.isfinite(frame.mpsnr) else ""
        cells += f"<div class=row><b>frame {frame.index}</b>{under}</div>"
        for name, head in shown.items():
            picture = fit_within(getattr(frame, name), LONGEST)
            address = png_uri(picture) if name == "error" else jpeg_uri(picture)
            cells += _cell(f"{name}, frame {frame.index}", address, head)
    scales = (
        f'<div class=scales><span>error 0 <i style="background:{_gradient(HEAT)}"></i> {ERROR_TOP:g} and more</span>'
        f'<span>far <i style="background:{_gradient(SEA)}"></i> near</span></div>'
    )
    return f"<h2>Against the input</h2><div class=card><div class=frames>{cells}</div>{scales}</div>{_aside(content)}"


def _heads(names: Sequence[str]) -> str:
    return "<div class=corner></div>" + "".join(f"<div class=head>{name}</div>" for name in names)


def _cell(alt: str, address: str, head: str) -> str:
    """A picture; its head is shown below it where the page is too narrow for columns."""
    return f'<figure><img alt="{alt}" src="{address}"><figcaption>{head}</figcaption></figure>'


def _aside(content: ReportContent) -> str:
    """The same frames from both sides of the input's camera."""
    frames = [frame for frame in content.frames if frame.aside]
    if not frames:
        return ""
    angles = sorted(frames[0].aside)
    cells = _heads([_side(angle) for angle in angles])
    for frame in frames:
        cells += f"<div class=row><b>frame {frame.index}</b></div>"
        for angle in angles:
            address = jpeg_uri(fit_within(frame.aside[angle], LONGEST))
            cells += _cell(f"{_side(angle)}, frame {frame.index}", address, _side(angle))
    note = "<p class=note>What the camera never saw is a guess: the further round, the more of it.</p>"
    return f"<h2>From the side</h2>{note}<div class=card><div class='frames three'>{cells}</div></div>"


def _side(angle: int) -> str:
    if angle == 0:
        return "the input's camera"
    return f"{abs(angle)}° to the {'right' if angle > 0 else 'left'}"


MOVIE_TITLES = {
    "input": "From the clip's own cameras",
    "fixed": "From one fixed camera",
    "orbit": "Round the object while time plays",
}


def _movies(content: ReportContent) -> str:
    movies = {name: pictures for name, pictures in content.movies.items() if len(pictures)}
    if not movies:
        return ""
    cells = ""
    for name, pictures in movies.items():
        title = MOVIE_TITLES.get(name, name)
        fps = min(content.fps, len(pictures) / ORBIT_SECONDS) if name == "orbit" else content.fps
        address = animation_uri([fit_within(p, 340) for p in pictures], fps)
        cells += (
            f'<figure class=card><img alt="{escape(title)}" src="{address}"><figcaption>{title}</figcaption></figure>'
        )
    strips = ""
    for name in ("fixed", "orbit"):
        if name in movies:
            pictures = movies[name]
            rows = np.unique(np.linspace(0, len(pictures) - 1, STRIP).round().astype(int))
            if name == "orbit":  # the turn closes on itself: equal steps without the end
                rows = np.unique(np.arange(STRIP) * len(pictures) // STRIP)
            strip = side_by_side([fit_within(pictures[r], 200) for r in rows], gap=3)
            caption = f"{MOVIE_TITLES[name]}: frames {', '.join(map(str, rows))}"
            strips += (
                f'<figure class="card strip"><img alt="{name} strip" src="{jpeg_uri(strip)}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
    return f"<h2>Moving</h2><div class=grid3>{cells}</div><div style='height:14px'></div>{strips}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _view_row(name: str, row: Mapping[str, Any], count: str) -> list[str]:
    return [name, count, number(row.get("mpsnr")), number(row.get("psnr")), number(row.get("mssim"), ".4f"),
            number(row.get("iou"), ".4f")]  # fmt: skip


def _metrics(content: ReportContent) -> str:
    metrics, evaluation = content.metrics, content.evaluation
    head = ("view", "pictures", "PSNR in mask (dB)", "PSNR (dB)", "SSIM in mask", "IoU")
    count = str(len(content.per_frame)) if content.per_frame else "–"
    rows = [_view_row("input", metrics.get("input", {}), count)]
    for name, row in (evaluation or {}).get("groups", {}).items():
        rows.append(_view_row(f"held out: {name}", row, str(row.get("n", "–"))))
    left_out = (evaluation or {}).get("left_out")
    if left_out:
        rows.append(_view_row("frames left out", left_out, str(left_out.get("n", "–"))))
    lines = [("largest cycle error, of the object's size", number(metrics.get("cycle", {}).get("max_rel"), ".2e"))]
    if left_out and left_out.get("depth_rel") is not None:
        lines.append(("depth error in frames left out", number(left_out["depth_rel"], ".2f", 100) + " % of the size"))
    true = evaluation is not None and evaluation.get("aligned_by") is not None
    if evaluation is not None and true:
        camera = evaluation.get("camera", {})
        lines += [
            ("held-out views near the input, PSNR in mask", number(evaluation.get("near", {}).get("mpsnr")) + " dB"),
            ("held-out views far from it", number(evaluation.get("far", {}).get("mpsnr")) + " dB"),
            (
                "track end-point error",
                number(evaluation.get("track", {}).get("epe_rel"), ".2f", 100) + " % of the size",
            ),
            ("camera centres, mean error", number(camera.get("centre_rel"), ".3f", 100) + " % of the size"),
            ("camera rotations, mean error", number(camera.get("rotation_deg"), ".3f") + "°"),
            ("compared in the true world by", str(evaluation.get("aligned_by", "–"))),
        ]
    more = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in lines)
    inside = _table(head, rows) + f"<dl style='margin-top:14px'>{more}</dl>"
    note = (
        "<p class=note>“In mask” counts the pixels of the given mask only, never of what was drawn."
        + ("" if true else " Held-out views and tracks need ground truth: <code>dyn4d eval RUN --truth FOLDER</code>.")
        + "</p>"
    )
    return f"<h2>Figures</h2>{note}<div class=card>{inside}</div>{definitions()}"


def _charts(content: ReportContent) -> str:
    cards = ""
    if content.per_frame:
        pairs = [[index, value] for index, value in sorted(content.per_frame.items())]
        chart = line_chart({"input view": pairs}, x_name="frame", log=False, title="PSNR of each frame")
        cards += f"<div class=card><h3>PSNR inside the mask, frame by frame (dB)</h3>{chart}</div>" if chart else ""
    for title, curves in content.curves.items():
        chart = line_chart(curves, title=title, log=title not in content.linear)
        cards += f"<div class=card><h3>{escape(title)}</h3>{chart}</div>" if chart else ""
    seconds = {k: v for k, v in content.metrics.get("seconds", {}).items() if isinstance(v, (int, float))}
    if seconds:
        rows = [(name, float(value), duration(value)) for name, value in seconds.items()]
        cards += f"<div class=card><h3>Time of each stage</h3>{bars(rows)}</div>"
    return f"<h2>Curves and time</h2><div class=grid2>{cards}</div>" if cards else ""


def _tracks(content: ReportContent) -> str:
    if content.tracks is None:
        return ""
    picture = jpeg_uri(fit_within(content.tracks, 1040), 90)
    return (
        f'<h2>Tracks</h2><figure class=card><img alt="tracks" src="{picture}"><figcaption>Where points of the surface '
        "came from over the last frames, seen by one camera: only the object's own motion shows.</figcaption></figure>"
    )


def _geometry(content: ReportContent) -> str:
    found = content.geometry
    if found is None:
        return ""
    out = ""
    if found.cameras is not None:
        out += (
            f'<figure class="card strip"><img alt="cameras and object" src="{png_uri(found.cameras)}">'
            f"<figcaption>{escape(found.caption)}</figcaption></figure>"
        )
    if found.motion:
        cells = "".join(
            f'<figure><img alt="motion, frame {frame}" src="{png_uri(fit_within(picture, LONGEST))}">'
            f"<figcaption>frame {frame}</figcaption></figure>"
            for frame, picture in found.motion.items()
        )
        scale = (
            f'<div class=scales><span>0 <i style="background:{_gradient(HEAT)}"></i> {found.top:g} px and more</span>'
            f'<span><i style="width:14px;background:rgb{UNKNOWN}"></i> unknown</span></div>'
        )
        out += (
            f"<div class=card><h3>How far points move against the cameras</h3><div class=grid3>{cells}</div>{scale}"
            f"<p class=note style='margin:10px 0 0'>{escape(found.text)}.</p></div>"
        )
    return f"<h2>Cameras and motion</h2>{out}" if out else ""


def _appendix(content: ReportContent) -> str:
    out = ""
    if content.facts:
        facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in content.facts)
        out += f"<h2>The run</h2><div class=card><dl>{facts}</dl></div>"
    if content.files:
        rows = "".join(f"<dt><code>{escape(k)}</code></dt><dd>{escape(v)}</dd>" for k, v in content.files)
        out += f"<details><summary>Files of this run</summary><dl style='margin-top:10px'>{rows}</dl></details>"
    if content.config:
        out += f"<details><summary>All settings</summary><pre>{escape(content.config)}</pre></details>"
    return out


def _further(content: ReportContent) -> str:
    return further_renders(content.further)


def _story(content: ReportContent) -> str:
    return inputs_and_stages(content.story)


def _terms(content: ReportContent) -> str:
    return terms_and_repeat(content.story)


def _player_link(content: ReportContent) -> str:
    if not any(path == PLAYER for path, _ in content.files):
        return ""
    return f'<p class=play><a href="{PLAYER}">Open the player</a>: turn it, zoom, scrub through time.</p>'


def build_html(content: ReportContent) -> str:
    """The page as text."""
    style = files("dyn4d.export").joinpath("style.css").read_text(encoding="utf-8")
    name = escape(content.name)
    body = "".join(
        part(content)
        for part in (
            _tiles, _warnings, _movies, _further, _frames, _story, _metrics, _tracks, _geometry, _charts, _terms,
            _appendix,
        )
    )  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name} · dyn4d</title><style>{style}</style></head><body><main>"
        f"<header><div class=kicker>dyn4d report</div><h1>{name}</h1>"
        "<p>One video of a moving object, and the object in 4D: 3D Gaussians moved by an invertible field.</p></header>"
        f"{_player_link(content)}{body}"
        "<footer>Made by dyn4d. The page holds everything it shows and loads nothing.</footer>"
        "</main></body></html>\n"
    )


def write_report(path: Path, content: ReportContent) -> Path:
    """Write the page atomically."""
    text = build_html(content)
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path
