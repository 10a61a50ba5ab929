"""The player page in a headless Chromium: its size, how long it loads, how many pictures a second it draws.

    python benchmarks/player.py RUN [--counts 10000 50000 100000] [--markdown benchmarks/RESULTS.md] [--json OUT]

RUN is a finished run (that of `dyn4d demo`, say). Its Gaussians are drawn from again and again, each moved a little
along its own axes and made smaller, until there are as many as asked for; the run's field moves them. Needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from matching_gaps import write_section
from raster_report import about

from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.core.types import GaussianCloud
from dyn4d.export.player import write_player
from dyn4d.export.player.page import packed_script
from dyn4d.export.run import load_result

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/export"))  # the driver of the browser is the tests'
from headless import SOFTWARE, Browser

WIDTH, HEIGHT = 1280, 720
WATCHED = 8.0  # seconds of playing that are counted
OWN_SIZE = 0.6  # of a Gaussian: a cloud of more has smaller ones


@dataclass(frozen=True)
class Row:
    """One page. bytes: of the file; seconds: to write it; ready_ms: from opening to the first sorted picture."""

    gaussians: int
    frames: int
    bytes: int
    seconds: float
    max_rel: float
    p999_rel: float
    ready_ms: float
    pictures_per_second: float
    sorts_per_second: float


def thicken(cloud: GaussianCloud, count: int) -> GaussianCloud:
    """A cloud of `count` Gaussians of the same shape and colours."""
    generator = torch.Generator().manual_seed(0)
    chosen = cloud.select(torch.randint(0, len(cloud), (count,), generator=generator))
    offset = torch.randn(count, 3, generator=generator) * chosen.scales
    means = chosen.means + (wxyz_to_matrix(chosen.quats_wxyz) @ offset[..., None])[..., 0]
    return replace(chosen, means=means, scales=chosen.scales * OWN_SIZE)


def watch(page: Path, flags: tuple[str, ...]) -> tuple[float, float, float, str]:
    """Milliseconds until it is ready, pictures and sorts a second while it plays, and what drew it."""
    with Browser(WIDTH, HEIGHT, flags=flags) as browser:
        if browser.open(page, "play=0&t=0&sharp=1") != "ready" or browser.errors:
            raise RuntimeError(f"{page}: {browser.errors}")
        ready = float(browser.evaluate("document.documentElement.dataset.loadMs"))
        drawer = browser.evaluate(
            "(() => { const g = dyn4d.stage.renderer.getContext();"
            " const e = g.getExtension('WEBGL_debug_renderer_info');"
            " return g.getParameter(e ? e.UNMASKED_RENDERER_WEBGL : g.RENDERER); })()"
        )
        counted = browser.evaluate(
            f"""(async () => {{
              dyn4d.set({{playing: true}});
              await new Promise((r) => setTimeout(r, 1500));
              let sorts = 0, last = dyn4d.stage.spark.lastSortTime;
              const timer = setInterval(() => {{
                if (dyn4d.stage.spark.lastSortTime !== last) {{ sorts++; last = dyn4d.stage.spark.lastSortTime; }}
              }}, 2);
              const start = performance.now(), drawn = dyn4d.drawn;
              await new Promise((r) => setTimeout(r, {1000 * WATCHED}));
              clearInterval(timer);
              const span = (performance.now() - start) / 1000;
              return [(dyn4d.drawn - drawn) / span, sorts / span];
            }})()"""
        )
    return ready, float(counted[0]), float(counted[1]), str(drawer)


def measure(run: Path, count: int, folder: Path, flags: tuple[str, ...]) -> tuple[Row, str]:
    result = load_result(run)
    if count:
        result = replace(result, cloud=thicken(result.cloud, count))
    began = time.perf_counter()
    page = write_player(folder / f"{count}.html", result, name=f"{len(result.cloud):,} Gaussians")
    seconds = time.perf_counter() - began
    text = page.read_text(encoding="utf-8")
    error = json.loads(text.split('id="header">', 1)[1].split("</script>", 1)[0])["error"]
    ready, pictures, sorts, drawer = watch(page, flags)
    row = Row(
        len(result.cloud), len(result.timeline), page.stat().st_size, seconds, error["max_rel"], error["p999_rel"],
        ready, pictures, sorts,
    )  # fmt: skip
    return row, drawer


def markdown(rows: list[Row], drawer: str, facts: dict[str, object], software: bool) -> str:
    heads = ("Gaussians", "frames", "page, MB", "largest error", "99.9 % below", "written in", "ready after",
             "pictures a second", "sorts a second")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    lines += [
        f"| {r.gaussians:,} | {r.frames} | {r.bytes / 1e6:.2f} | {100 * r.max_rel:.3f} % | {100 * r.p999_rel:.3f} % | "
        f"{r.seconds:.0f} s | {r.ready_ms / 1000:.1f} s | {r.pictures_per_second:.1f} | {r.sorts_per_second:.1f} |"
        for r in rows
    ]
    how = (
        "**software rendering** (no graphics processor): a lower bound of what a computer shows" if software else "GPU"
    )
    return "\n".join(
        [
            "## Player page",
            "",
            f"`python benchmarks/player.py RUN`: headless Chromium, {WIDTH}x{HEIGHT}, {how}; {drawer}. "
            f"{facts.get('processor', '')}, {facts.get('cores', '')} cores, busy with other work (load "
            f"{facts.get('load before')}). Errors are of centre and shape together, relative to the object's size, "
            "over all Gaussians, all frames and canonical space. "
            f"The script and its libraries are {len(packed_script()) / 1e6:.2f} MB of each page.",
            "",
            *lines,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 50_000, 100_000], help="0: the run's own")
    parser.add_argument("--gpu", action="store_true", help="let the browser draw with the graphics processor")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    flags = ("--enable-gpu", "--ignore-gpu-blocklist") if given.gpu else SOFTWARE
    rows, drawer = [], ""
    with tempfile.TemporaryDirectory() as folder:
        for count in given.counts:
            row, drawer = measure(given.run, count, Path(folder), flags)
            rows.append(row)
            print(row, flush=True)
    facts = about(1)
    software = "swiftshader" in drawer.lower() or "llvmpipe" in drawer.lower()
    text = markdown(rows, drawer, facts, software)
    print(text)
    if given.markdown:
        write_section(given.markdown, "player", text)
    if given.json:
        given.json.write_text(json.dumps({"rows": [asdict(r) for r in rows], "drawer": drawer, **facts}, default=str))


if __name__ == "__main__":
    main()
