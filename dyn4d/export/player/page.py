"""`export/player.html`: one file that plays the moving object in a browser, without a server or a network."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from dyn4d import __version__
from dyn4d.core.errors import RunError
from dyn4d.core.protocols import Progress
from dyn4d.export.evaluate import Reconstruction
from dyn4d.export.player.encode import PlayerData, encode
from dyn4d.export.player.scene import scene_header
from dyn4d.io.atomic import atomic_path

BUDGET = 10_000_000  # bytes: colours that change with the view are cut down where a page would be larger
PAGE_DEGREE = 3  # of colours that the page can draw


@cache
def asset(name: str) -> str:
    """A text that comes with the package. Raises `RunError` where it is missing."""
    source = files("dyn4d.export.player").joinpath(name)
    if not source.is_file():
        raise RunError(f"dyn4d/export/player/{name} is missing; install dyn4d again")
    return source.read_text(encoding="utf-8")


@cache
def packed_script() -> str:
    """The page's script, deflated, as base64."""
    return base64.b64encode(gzip.compress(asset("player.js").encode(), 9, mtime=0)).decode()


def _json(value: Any) -> str:
    """JSON that may stand inside a script element, and in which nothing looks like an address."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("://", ":\\u002f/")


def build_page(data: PlayerData, scene: Mapping[str, Any], *, name: str) -> str:
    """The page as text.

    Args:
        data: the Gaussians. scene: from `scene_header`. name: what is shown as its title.
    """
    header = {key: value for key, value in data.header.items() if key != "rows"}
    header = {"name": name, "made_by": f"dyn4d {__version__}", **header, **scene}
    parts = {
        "TITLE": escape(name).replace("://", ":&#47;/"),
        "STYLE": asset("player.css"),
        "INFO": _info(header),
        "LICENCES": escape(asset("LICENSES.txt")),
        "HEADER": _json(header),
        "DATA": base64.b64encode(data.payload).decode(),
        "SCRIPT": packed_script(),
    }
    page = asset("player.html")
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda mark: parts[mark[1]], page)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _info(header: Mapping[str, Any]) -> str:
    """What the page says about its data, as the rows of a definition list."""
    error, between, size = header["error"], header["error_between"], float(header["size"])
    degree, whole = header["sh_degree"], header["sh_degree_of_run"]
    colours = "the same from all sides" if whole == 0 else f"change with the view (degree {degree})"
    if degree < whole:
        colours += f"; the run has degree {whole}, cut down to keep the page small"
    keys, frames = len(header["key_times"]), len(header["times"])
    rows = [
        ("Gaussians", f"{header['gaussians']:,}"),
        ("Frames", f"{frames}, {header['seconds']:.2f} s" + ("" if keys == frames else f"; {keys} stored")),
        ("Object", f"{size:.3g} world units across"),
        ("Colours", colours),
    ]
    if error:
        rows.append(
            ("Stored motion", f"off by at most {_percent(error['max_rel'])} of the object's size; 99.9 % by less than "
             f"{_percent(error['p999_rel'])} (centres and shapes of all Gaussians in all frames, measured)")
        )  # fmt: skip
    if between:
        rows.append(("Between frames", f"99.9 % by less than {_percent(between['p999_rel'])}, at most "
                     f"{_percent(between['max_rel'])} (a sample)"))  # fmt: skip
    if header["view_limit"] is not None:
        rows.append(("View", f"within {header['view_limit']:.0f}° of the input's cameras, as depth was estimated; the "
                     "settings allow any"))  # fmt: skip
    rows.append(("Made by", header["made_by"]))
    return "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)


def make_page(result: Reconstruction, *, name: str, progress: Progress | None = None) -> str:
    """The page of a run's result; colours of a lower degree are taken where it would be larger than `BUDGET`."""
    degree = min(result.cloud.sh_degree, PAGE_DEGREE)
    times = torch.as_tensor(result.timeline.times).numpy()
    while True:
        data = encode(result.cloud, result.field, times, sh_degree=degree, progress=progress)
        cloud = result.cloud.select(torch.as_tensor(data.header["rows"], device=result.cloud.means.device))
        if not len(cloud):
            raise RunError("gaussians/canonical.ply holds no Gaussian that can be drawn; run the gaussians stage again")
        scene = scene_header(result, cloud, size=data.header["size"], reach=data.header["reach"])
        page = build_page(data, scene, name=name)
        if len(page) <= BUDGET or degree == 0:
            return page
        degree -= 1


def write_player(path: Path, result: Reconstruction, *, name: str, progress: Progress | None = None) -> Path:
    """Write the page atomically."""
    page = make_page(result, name=name, progress=progress)
    with atomic_path(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path
