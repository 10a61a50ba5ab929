"""What a chain of matchers does to the whole pipeline: quality of finished runs, matcher against matcher.

    python benchmarks/chains.py [creature worm gt_snake_dance ...] [--matchers flow flow+r2d2] [--preset quick]
                                [--out runs/chains] [--markdown FILE] [-- --seed 1 ...]

One process a row; finished runs are skipped, unfinished ones go on. A clip is a synthetic scene, or the name of a
folder of the reference data. What follows `--` goes to `dyn4d run`.

Synthetic scenes have truth: PSNR from cameras the run never saw, near and far, and the error of the tracks relative to
the object's size. Clips of the reference data have no other cameras and no tracks: every second frame is held out
(`--frames ::2`), and the PSNR is that of the pictures of the frames left out, inside the true mask. A clip whose last
frame shows the pose of its first (gt_snake_dance) has one more: how far the points of the first frame are from where
they were, relative to the object's size, when they are carried through the clip to its end.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from running import add_reference, dyn4d, label, make_scene, parse

from dyn4d.synthetic.config import SCENES

LOOPS = ("gt_snake_dance",)
COLUMNS = {
    "held_out": "held-out mPSNR", "near": "near mPSNR", "far": "far mPSNR", "track": "track EPE %", "loop": "loop %",
    "input": "input mPSNR", "matches": "matches", "geometry": "geometry s", "total": "total s",
}  # fmt: skip


def run(name: str, matcher: str, given: argparse.Namespace, extra: list[str]) -> dict[str, Any]:
    """One row: run, evaluate, and what came of it."""
    folder, truth_folder = given.out / label(name, matcher, given.preset, extra=extra), None
    clip = (given.reference or Path()) / "data" / name
    if name in SCENES:
        clip, truth_folder = make_scene(name, given.out / "scenes" / name)
    words = ["--matching.matcher", matcher, "--preset", given.preset, "--quiet", *extra]
    if truth_folder is None:
        words += ["--frames", "::2"]
    dyn4d("run", str(clip), "--out", str(folder), *words)
    metrics = json.loads((folder / "metrics.json").read_text())
    seconds = metrics["seconds"]
    row: dict[str, Any] = {"clip": name, "matcher": matcher, "input": metrics["input"]["mpsnr"],
                           "geometry": seconds["geometry"], "total": sum(v or 0 for v in seconds.values())}  # fmt: skip
    with np.load(folder / "geometry" / "correspondences.npz") as matches:
        row["matches"] = len(matches["weight"])
    if truth_folder is not None:
        dyn4d("eval", str(folder), "--truth", str(truth_folder), "--quiet")
        truth = json.loads((folder / "eval.json").read_text())
        row |= {"near": truth["near"]["mpsnr"], "far": truth["far"]["mpsnr"], "track": 100 * truth["track"]["epe_rel"]}
    else:
        row["held_out"] = held_out(folder, clip)
    if name in LOOPS:
        row["loop"] = 100 * loop_drift(folder)
    return row


def held_out(folder: Path, clip_folder: Path) -> float:
    """Mean PSNR inside the mask of the frames that the run was not shown."""
    from dyn4d.io.clips import load_clip
    from dyn4d.io.images import read_rgb

    clip = load_clip(clip_folder)
    values = []
    for frame in range(1, len(clip), 2):
        drawn = read_rgb(folder / "renders" / "input" / f"{frame:06d}.png").astype(np.float64) / 255
        mask = np.asarray(clip.masks[frame], bool)
        off = np.square(drawn - np.asarray(clip.images[frame]) / 255)[mask].mean()
        values.append(-10 * np.log10(max(float(off), 1e-10)))
    return float(np.mean(values))


def loop_drift(folder: Path) -> float:
    """Mean distance, relative to the object's size, between points of the first frame and where the field carries them
    to at the end of the clip. With every second frame shown, the last one is not: the field is asked beyond them."""
    import torch

    from dyn4d.core.types import FramePoints
    from dyn4d.deformation.files import load_field
    from dyn4d.io import artifacts

    points = artifacts.load(folder / "geometry" / "frame_points.npz", FramePoints)
    field = load_field(folder / "deformation" / "field.safetensors")
    start = points.xyz[points.frame == 0]
    with torch.no_grad():
        end = field.transport(start, 0.0, 1.0)
    return float((end - start).norm(dim=-1).mean()) / points.extent()


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| clip | matcher | " + " | ".join(COLUMNS.values()) + " |", "|" + " --- |" * (2 + len(COLUMNS))]
    for row in rows:
        cells = []
        for key in COLUMNS:
            value, digits = row.get(key), 0 if key in ("matches", "geometry", "total") else 2
            cells.append("" if value is None else f"{value:.{digits}f}")
        lines.append(f"| {row['clip']} | {row['matcher']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", default=["creature", "gt_snake_dance"])
    parser.add_argument("--matchers", nargs="+", default=["flow", "flow+r2d2"])
    parser.add_argument("--preset", default="quick")
    add_reference(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/chains"))
    parser.add_argument("--markdown", type=Path)
    given, extra = parse(parser, sys.argv[1:])
    rows = []
    for name in given.clips:
        if name not in SCENES and given.reference is None:
            print(f"{name}: set DYN4D_REFERENCE to the folder of the reference data")
            continue
        for matcher in given.matchers:
            rows.append(run(name, matcher, given, extra))
            (given.out / "chains.json").write_text(json.dumps(rows, indent=1))
            print(table(rows), flush=True)
    if given.markdown and rows:
        from matching_gaps import write_section

        write_section(given.markdown, "chains", "## Chains of matchers, end to end\n\n" + table(rows))


if __name__ == "__main__":
    main()
