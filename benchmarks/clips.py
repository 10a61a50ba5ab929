"""Run clips through the whole pipeline, one process a clip, and print a table of quality and seconds.

    python benchmarks/clips.py CLIP [CLIP ...] [--preset quick] [--out runs/benchmark] [-- --seed 1 ...]

A clip is any folder or video that `dyn4d run` takes; `creature`, `worm` and `turntable` are made here, with their
truth, and evaluated on it. What follows `--` goes to `dyn4d run`. Finished runs are skipped, unfinished ones go on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from running import dyn4d, label, make_scene, parse

from dyn4d.synthetic.config import SCENES

STAGES = ("prepare", "geometry", "deform", "gaussians", "render", "export")


def run(clip: str, out: Path, preset: str, extra: list[str]) -> dict[str, object]:
    """One row of the table."""
    truth: Path | None = None
    source = Path(clip)
    if clip in SCENES:
        source, truth = make_scene(clip, out / "scenes" / clip)
    name = label(Path(clip).name, preset, extra=extra)
    folder = out / name
    dyn4d("run", str(source), "--out", str(folder), "--preset", preset, "--quiet", *extra)
    metrics = json.loads((folder / "metrics.json").read_text())
    row: dict[str, object] = {"clip": name, "input": metrics["input"], "cycle": metrics["cycle"]["max_rel"]}
    row["seconds"] = {stage: metrics["seconds"].get(stage) for stage in STAGES}
    if truth is not None:
        dyn4d("eval", str(folder), "--truth", str(truth), "--quiet")
        row["eval"] = json.loads((folder / "eval.json").read_text())
    return row


def table(rows: list[dict[str, object]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| clip | input mPSNR | mSSIM | IoU | near mPSNR | far mPSNR | track EPE | cycle | "
        + " | ".join(f"{s} s" for s in STAGES) + " | total s |",
        "|" + " --- |" * (9 + len(STAGES)),
    ]  # fmt: skip
    for row in rows:
        shown, seconds, truth = row["input"], row["seconds"], row.get("eval")
        assert isinstance(shown, dict) and isinstance(seconds, dict)
        cells = [str(row["clip"]), f"{shown['mpsnr']:.2f}", f"{shown['mssim']:.3f}", f"{shown['iou']:.3f}"]
        if isinstance(truth, dict):
            cells += [f"{truth['near']['mpsnr']:.2f}", f"{truth['far']['mpsnr']:.2f}"]
            cells += [f"{100 * truth['track']['epe_rel']:.2f} %"]
        else:
            cells += ["", "", ""]
        cells.append(f"{row['cycle']:.0e}")
        cells += [f"{seconds[s] or 0:.0f}" for s in STAGES] + [f"{sum(v or 0 for v in seconds.values()):.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    given, extra = parse(parser, sys.argv[1:])
    rows = []
    for clip in given.clips:
        rows.append(run(clip, given.out, given.preset, extra))
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "clips.json").write_text(json.dumps(rows, indent=2))
        print(table(rows[-1:]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
