"""How good the result is beside simpler and published ways to get it, on the same input and through the same code.

    python benchmarks/quality.py [creature worm dancer gt_snake_dance ...] [--methods ours static mlp modgs]
                                 [--seeds 1] [--preset quick] [--reference DIR] [--out runs/quality] [--markdown FILE]
                                 [-- --gaussians.maximum 16000 ...]

A clip is a synthetic scene (made here, with its truth) or the name of a folder of the reference data. Every run holds
out each 8th frame. Methods, which differ in nothing but the field and the steps:

- ours: the preset as it is. static: nothing moves. mlp: a network adds offsets to each point at each time, as
  Deformable-3DGS does, trained with the Gaussians only.
- modgs: the published invertible field (random coordinate order, no identity at the start, positions only), its losses,
  weights and rates, with 8,192 points a step, 2,000 steps of the first stage and 3,000 of the second.
- modgs-quick: the same in about the time that ours takes. mlp gets that time too; static needs less for its steps.

One process a row, which is kept: rows that are done are not made again, unfinished ones go on. For each row: PSNR and
SSIM inside the true mask and PSNR of the whole frame, for the frames shown, the frames held out and, where there is
truth, views never seen; overlap of the silhouettes, error of depth and of tracks (relative to the object's size), cycle
error, seconds of all stages, how long cores were busy with them (what other work on the machine changes little), peak
memory (both of the last call, if a run was continued) and the size of what it takes to play the result.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matching_gaps import write_section
from running import add_reference, label, make_scene, parse

from dyn4d.synthetic.config import SCENES

HOLD_OUT = 8
PUBLISHED = (  # losses and the network's rate of MoDGS's second stage
    "--deformation.kind", "modgs", "--deformation.pairs-per-step", "32", "--deformation.points-per-pair", "256",
    "--gaussians.silhouette", "0", "--gaussians.depth", "0", "--gaussians.depth-order", "0.1",
    "--gaussians.lr-field", "1e-4",
)  # fmt: skip
METHODS: dict[str, tuple[str, ...]] = {
    "ours": (),
    "static": ("--deformation.kind", "none", "--gaussians.steps", "3000"),
    "mlp": ("--deformation.kind", "mlp", "--gaussians.steps", "300", "--gaussians.lr-field", "8e-4"),
    "modgs": (*PUBLISHED, "--deformation.steps", "2000", "--gaussians.steps", "3000"),
    "modgs-quick": (*PUBLISHED, "--deformation.steps", "50", "--gaussians.steps", "200"),
}  # fmt: skip
COLUMNS: dict[str, tuple[str, str]] = {
    "input.mpsnr": ("input mPSNR", ".2f"), "input.mssim": ("mSSIM", ".3f"), "input.psnr": ("PSNR", ".2f"),
    "input.iou": ("IoU", ".3f"),
    "left_out.mpsnr": ("held-out frames mPSNR", ".2f"), "left_out.mssim": ("mSSIM", ".3f"),
    "left_out.psnr": ("PSNR", ".2f"), "left_out.depth_rel": ("depth %", ".2f"),
    "near.mpsnr": ("near views mPSNR", ".2f"), "far.mpsnr": ("far", ".2f"), "track.epe_rel": ("tracks %", ".2f"),
    "cycle.max_rel": ("cycle", ".0e"), "count": ("Gaussians", ".0f"), "total": ("s", ".0f"), "busy": ("busy s", ".0f"),
    "memory": ("GB", ".2f"),
    "megabytes": ("MB", ".1f"),
}  # fmt: skip
PERCENT = ("left_out.depth_rel", "track.epe_rel")


@dataclass(frozen=True)
class Usage:
    """What a process used: peak memory in GB, and seconds that cores were busy with it."""

    memory: float
    busy: float


def call(*words: str) -> Usage:
    """Run dyn4d in a process of its own."""
    child = subprocess.Popen([sys.executable, "-m", "dyn4d", *words])
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"dyn4d {' '.join(words)} failed")
    unit = 2**20 if sys.platform != "darwin" else 2**30
    return Usage(memory=usage.ru_maxrss / unit, busy=usage.ru_utime + usage.ru_stime)


def run(name: str, method: str, seed: int, given: argparse.Namespace, extra: list[str]) -> dict[str, Any]:
    """One row: what is kept of it, or a run and its evaluation."""
    folder = given.out / label(name, method, given.preset, seed, extra=extra)
    kept = folder.parent / f"{folder.name}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    truth: Path | None = None
    source = (given.reference or Path()) / "data" / name
    if name in SCENES:
        source, truth = make_scene(name, given.out / "scenes" / name)
    options = ["--preset", given.preset, "--hold-out", str(HOLD_OUT), "--seed", str(seed), *extra]
    shared = given.out / label(name, "geometry", given.preset, seed, extra=extra)
    if not (shared / "geometry").is_dir():  # the same for every method, so it is made once
        prepared = call("prepare", str(source), "--out", str(shared), "--quiet", *options)
        made = call("geometry", str(shared), "--quiet")
        (shared / "busy.json").write_text(json.dumps(prepared.busy + made.busy))
    if not folder.exists():
        shutil.copytree(shared, folder)
    usage = call("run", str(source), "--out", str(folder), "--quiet", *options, *METHODS[method])
    call("eval", str(folder), "--quiet", *([] if truth is None else ["--truth", str(truth)]))
    row: dict[str, Any] = {"clip": name, "method": method, "seed": seed, "memory": usage.memory}
    row["busy"] = usage.busy + json.loads((shared / "busy.json").read_text())
    row |= json.loads((folder / "metrics.json").read_text())
    row |= {k: v for k, v in json.loads((folder / "eval.json").read_text()).items() if k != "groups"}
    row["total"] = sum(v or 0 for v in row["seconds"].values())
    row["count"] = row["gaussians"]["count"]
    files = [folder / "gaussians" / file for file in ("canonical.ply", "field.safetensors")]
    row["megabytes"] = sum(file.stat().st_size for file in files) / 1e6
    temporary = kept.with_suffix(".tmp")
    temporary.write_text(json.dumps(row, indent=1))
    temporary.replace(kept)
    return row


def value_of(row: dict[str, Any], key: str) -> float | None:
    found: Any = row
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return None if found is None else float(found) * (100 if key in PERCENT else 1)


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each clip and method: means over the seeds, and after +- half of what lies between the extremes."""
    lines = ["| clip | method | " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
             "|" + " --- |" * (2 + len(COLUMNS))]  # fmt: skip
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["clip"], row["method"]), []).append(row)
    for (clip, method), mine in groups.items():
        cells = []
        for key, (_, form) in COLUMNS.items():
            values = [v for v in (value_of(row, key) for row in mine) if v is not None]
            text = format(sum(values) / len(values), form) if values else ""
            if len(values) > 1 and key.endswith("mpsnr"):
                text += f" ± {(max(values) - min(values)) / 2:.2f}"
            cells.append(text)
        seeds = f" ({len(mine)} seeds)" if len(mine) > 1 else ""
        lines.append(f"| {clip} | {method}{seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", default=["creature", "worm", "turntable", "dancer", "gt_snake_dance"])
    parser.add_argument("--methods", nargs="+", default=["ours", "static", "mlp", "modgs-quick"], choices=METHODS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--preset", default="quick")
    add_reference(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--markdown", type=Path)
    given, extra = parse(parser, sys.argv[1:])
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in given.clips:
        if name not in SCENES and given.reference is None:
            print(f"{name}: set DYN4D_REFERENCE to the folder of the reference data")
            continue
        for method in given.methods:
            rows += [run(name, method, seed, given, extra) for seed in range(given.seeds)]
            print(table(rows), flush=True)
    if given.markdown and rows:
        write_section(given.markdown, "quality", "## Quality beside other fields\n\n" + table(rows))


if __name__ == "__main__":
    main()
