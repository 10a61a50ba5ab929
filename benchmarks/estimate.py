"""How far estimates of runs are off, and the factors that they are made with.

    python benchmarks/estimate.py [CLIP ...] [--out runs/estimate] [--markdown FILE]   # estimate, run, compare
    python benchmarks/estimate.py --fit [--out runs/estimate]                          # write dyn4d/costs.json

The runs are those of `estimate_runs.py`. Seconds are compared with the processor's own time of each run, because other
programs may have had the processor for a while; with one thread (OMP_NUM_THREADS=1) that is what an idle machine needs.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from estimate_runs import measured_run
from scipy.optimize import nnls

from dyn4d import cli
from dyn4d.config import with_clip
from dyn4d.costs import FACTORS, STAGES, disk_parts, memory_parts, seconds_parts, weigh
from dyn4d.geometry.sources import choose_source
from dyn4d.io.atomic import write_json
from dyn4d.speed import MachineSpeed
from dyn4d.stagework import open_clip
from dyn4d.workload import count_work, look_at_clip

MEASURED = {"seconds": "busy_seconds", "memory": "peak_memory", "disk": "disk"}
PUBLIC = ("gt_", "real_camel", "real_dog", "real_breakdance", "creature", "worm", "dancer", "turntable")
PULL = 0.03  # towards what is expected of each factor: what no run tells stays about that
EXPECTED = {"steps": 0.5}  # else 1
KNOWN = {
    "geometry": {"read": 2.0},
    "gaussians": {"read": 3.0, "drawing": 1.0, "pixels": 0.2, "moving": 0.15},
    "prepare": {"read": 1.2},
}
"""Factors that follow from what is done (frames are read so often, a step draws once), or that short runs cannot tell
from others: how long a step moves the Gaussians is set so that a training of usual length agrees."""


def parts_of(row: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """kind -> stage -> part, of the run that a row describes."""
    words = [row["clip"], "--preset", "quick", *row["words"]]
    args = cli.parse(cli.RunArgs, "run", words, cli.RunArgs(options=cli.load_preset("quick")))
    config = with_clip(args.options, args.clip)
    clip = open_clip(config)
    work = count_work(look_at_clip(clip), config, choose_source(clip, config.geometry), poses_given=clip.poses_given)
    return {
        "seconds": seconds_parts(work, config, MachineSpeed(**row["speed"])),
        "memory": memory_parts(work, config), "disk": disk_parts(work, config),
    }  # fmt: skip


def fit(rows: list[dict[str, Any]], parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Factors that are not negative and make relative errors small, least squares."""
    out: dict[str, Any] = {}
    for kind, column in MEASURED.items():
        out[kind] = {}
        for stage in STAGES:
            known = KNOWN.get(stage, {}) if kind == "seconds" else {}
            names = [name for name in parts[0][kind][stage] if name != "network" and name not in known]
            out[kind][stage] = dict(known)
            told = np.array([row["stages"][stage][column] for row in rows], dtype=float)
            if not names:
                continue
            table = np.array([[each[kind][stage][name] for name in names] for each in parts])
            rest = np.array([sum(each[kind][stage][name] * value for name, value in known.items()) for each in parts])
            expected = np.array([EXPECTED.get(name, 1.0) for name in names])
            floor = {"seconds": 0.3, "memory": 1.0, "disk": 1e5}[kind]
            weight = 1 / np.maximum(told, floor)
            used = table.max(0) > 0
            size = np.maximum((table * weight[:, None]).max(0), 1e-9)
            pull = PULL * np.diag(np.minimum(size, 1.0)) if kind != "disk" else np.zeros((len(names), len(names)))
            system = np.vstack([table * weight[:, None], pull])
            found, _ = nnls(system, np.concatenate([np.maximum(told - rest, 0) * weight, pull @ expected]))
            out[kind][stage] |= {
                name: float(f"{value:.4g}") for name, value, told_of in zip(names, found, used) if told_of and value > 0
            }
    return out


def ratios(row: dict[str, Any], parts: dict[str, Any]) -> dict[str, float]:
    """Estimated over measured: seconds and disk of the whole run, peak memory."""
    told = {kind: [row["stages"][stage][column] for stage in STAGES] for kind, column in MEASURED.items()}
    said = {kind: [weigh(kind, stage, parts[kind][stage]) for stage in STAGES] for kind in MEASURED}
    return {
        "seconds": sum(said["seconds"]) / sum(told["seconds"]),
        "memory": max(said["memory"]) / max(told["memory"]),
        "disk": sum(said["disk"]) / sum(told["disk"]),
        **{stage: said["seconds"][i] / max(told["seconds"][i], 0.3) for i, stage in enumerate(STAGES)},
    }


def table(rows: list[dict[str, Any]], found: list[dict[str, float]]) -> str:
    """Named clips one by one; of others only how many, and the worst."""
    lines = ["| run | busy s | wall s | peak memory MB | estimated / measured: time | memory | disk |",
             "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    others: list[dict[str, float]] = []
    for row, ratio in zip(rows, found):
        if Path(row["clip"]).name != "clip" and not row["name"].startswith(PUBLIC):
            others.append(ratio)
            continue
        busy, wall = (sum(e[key] for e in row["stages"].values()) for key in ("busy_seconds", "seconds"))
        peak = max(e["peak_memory"] for e in row["stages"].values()) / 2**20
        lines.append(f"| {row['name']} | {busy:.0f} | {wall:.0f} | {peak:.0f} | {ratio['seconds']:.2f} | "
                     f"{ratio['memory']:.2f} | {ratio['disk']:.2f} |")  # fmt: skip
    if others:
        worst = {k: max((r[k] for r in others), key=lambda v: abs(math.log(v))) for k in ("seconds", "memory", "disk")}
        lines.append(f"| {len(others)} more, the worst | | | | {worst['seconds']:.2f} | {worst['memory']:.2f} | "
                     f"{worst['disk']:.2f} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/estimate"))
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for clip in given.clips:
        measured_run(clip.name, clip, [], given.out)
    rows = [json.loads(path.read_text()) for path in sorted(given.out.glob("*.json"))]
    parts = [parts_of(row) for row in rows]
    if given.fit:
        mine = [i for i, row in enumerate(rows) if Path(row["clip"]).name == "clip"]  # the drawn scenes only
        write_json(FACTORS, fit([rows[i] for i in mine], [parts[i] for i in mine]))
        import dyn4d.costs

        dyn4d.costs.factors.cache_clear()
    found = [ratios(row, each) for row, each in zip(rows, parts)]
    text = table(rows, found)
    print(text)
    if given.stages:
        for row, ratio in zip(rows, found):
            print(f"{row['name']:10s}", " ".join(f"{name} {ratio[name]:.2f}" for name in STAGES))
    if given.markdown:
        from matching_gaps import write_section

        words = (
            "`python benchmarks/estimate.py`: one thread, with other work on the machine. The factors were fitted on "
            "the runs that are named by what is special about them; the others were not seen by the fit."
        )
        write_section(given.markdown, "estimate", f"## Estimates of runs\n\n{words}\n\n{text}")


if __name__ == "__main__":
    main()
