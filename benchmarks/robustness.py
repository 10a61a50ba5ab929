"""What wrong correspondences cost, and what more seconds give: the pipeline after its geometry, end to end, with truth.

    python benchmarks/robustness.py [creature worm ...] [--wrong 0 0.1 0.3 0.5] [--efforts 0.25 0.5 1 2]
                                    [--preset quick] [--out runs/robustness] [--markdown FILE] [-- --seed 1 ...]

Wrong correspondences: that share of the matches which the geometry stage found is spoilt. Half of the spoilt ones lead
to any other pixel of the object in the second frame; the other half is wrong together, as a false match of a patterned
limb is: all matches of a frame pair from within a few pixels of each other are shifted alike, by up to a tenth of the
picture. Efforts: steps of the field's fit and of the training times that factor, with all matches right.

The geometry is made once a clip; each row fits, trains and is compared with the truth. Rows that are done are kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matching_gaps import write_section
from running import dyn4d, label, make_scene, parse

from dyn4d.config import load_config
from dyn4d.core.types import Correspondences
from dyn4d.io import artifacts
from dyn4d.stagework import open_clip

COLUMNS = {"near": "near mPSNR", "far": "far mPSNR", "input": "input mPSNR", "track": "tracks %", "fit": "fit s",
           "train": "training s"}  # fmt: skip
PATCH = 24  # pixels: matches from within one square of this side are wrong together


def spoil(matches: Correspondences, masks: list[np.ndarray], share: float, seed: int = 0) -> Correspondences:
    """The matches with a share of them wrong; all of them still lead to the object or next to it."""
    generator = np.random.default_rng(seed)
    count, (height, width) = len(matches.weight), masks[0].shape
    a, b = matches.frame_a.numpy(), matches.frame_b.numpy()
    xy_b = matches.xy_b.numpy().copy()
    alone = generator.random(count) < share / 2
    for frame in np.unique(b[alone]):
        rows = np.flatnonzero(alone & (b == frame))
        ys, xs = np.nonzero(masks[frame])
        at = generator.integers(len(xs), size=len(rows))
        xy_b[rows] = np.stack([xs[at], ys[at]], axis=1) + 0.5
    cell = (matches.xy_a.numpy() // PATCH).astype(np.int64)
    key = ((a * len(masks) + b) * 4096 + cell[:, 1]) * 4096 + cell[:, 0]
    _, group = np.unique(key, return_inverse=True)
    groups = int(group.max()) + 1
    together = (generator.random(groups) < share / 2)[group] & ~alone
    shift = (generator.random((groups, 2)) * 2 - 1) * 0.1 * np.array([width, height])
    xy_b[together] = np.clip((xy_b + shift[group])[together], 0.5, [width - 0.5, height - 0.5])
    return Correspondences(
        matches.frame_a, matches.frame_b, matches.xy_a, torch.from_numpy(xy_b).to(matches.xy_b), matches.weight
    )


def base(name: str, given: argparse.Namespace, extra: list[str]) -> tuple[Path, Path]:
    """A run up to its geometry, and its truth."""
    folder = given.out / label(name, "geometry", given.preset, extra=extra)
    source, truth = make_scene(name, given.out / "scenes" / name)
    if not (folder / "geometry").is_dir():
        dyn4d("prepare", str(source), "--out", str(folder), "--preset", given.preset, "--quiet", *extra)
        dyn4d("geometry", str(folder), "--quiet")
    return folder, truth


def row(
    name: str, given: argparse.Namespace, extra: list[str], *, wrong: float = 0.0, effort: float = 1.0
) -> dict[str, Any]:
    """One row: fit, train and compare."""
    start, truth = base(name, given, extra)
    folder = given.out / label(name, f"wrong{wrong:g}-effort{effort:g}", given.preset, extra=extra)
    kept = folder.parent / f"{folder.name}.json"  # the name has dots of its own
    if kept.is_file():
        return json.loads(kept.read_text())
    config = load_config(start / "config.yaml")
    if not folder.exists():
        shutil.copytree(start, folder)
        if wrong:
            file = folder / "geometry" / "correspondences.npz"
            masks = [np.asarray(mask, dtype=bool) for mask in open_clip(config).masks]
            artifacts.save(file, spoil(artifacts.load(file, Correspondences), masks, wrong))
    steps = ["--deformation.steps", str(round(config.deformation.steps * effort)),
             "--gaussians.steps", str(round(config.gaussians.steps * effort))]  # fmt: skip
    words = ["--preset", given.preset, "--quiet", *extra, *(steps if effort != 1 else [])]
    dyn4d("run", str(config.clip), "--out", str(folder), *words, "--export.no-ply", "--render.which", "input")
    dyn4d("eval", str(folder), "--truth", str(truth), "--quiet")
    metrics, scored = (json.loads((folder / name).read_text()) for name in ("metrics.json", "eval.json"))
    found = {"clip": name, "wrong": wrong, "effort": effort, "near": scored["near"]["mpsnr"],
             "far": scored["far"]["mpsnr"], "input": metrics["input"]["mpsnr"],
             "track": 100 * scored["track"]["epe_rel"], "fit": metrics["seconds"]["deform"],
             "train": metrics["seconds"]["gaussians"]}  # fmt: skip
    kept.write_text(json.dumps(found, indent=1))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| clip | wrong matches | effort | " + " | ".join(COLUMNS.values()) + " |",
             "|" + " --- |" * (3 + len(COLUMNS))]  # fmt: skip
    for found in rows:
        cells = [f"{found[key]:.0f}" if key in ("fit", "train") else f"{found[key]:.2f}" for key in COLUMNS]
        lines.append(f"| {found['clip']} | {found['wrong']:.0%} | {found['effort']:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", default=["creature"])
    parser.add_argument("--wrong", nargs="*", type=float, default=[0, 0.1, 0.3, 0.5])
    parser.add_argument("--efforts", nargs="*", type=float, default=[0.25, 0.5, 1, 2])
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--out", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--markdown", type=Path)
    given, extra = parse(parser, sys.argv[1:])
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in given.clips:
        for wrong in given.wrong:
            rows.append(row(name, given, extra, wrong=wrong))
            print(table(rows), flush=True)
        for effort in given.efforts:
            if effort != 1 or 0 not in given.wrong:
                rows.append(row(name, given, extra, effort=effort))
                print(table(rows), flush=True)
    if given.markdown and rows:
        write_section(given.markdown, "robustness", "## Wrong matches, and more seconds\n\n" + table(rows))


if __name__ == "__main__":
    main()
