"""Runs of which it is known how long they took: what `estimate.py` fits the costs on, and compares them with.

    python benchmarks/estimate_runs.py [--out runs/estimate] [--only NAME ...] [CLIP ...]

Without clips: short runs of synthetic scenes that differ in every size that costs something. With clips: those, with
the preset quick. The machine's speed is measured right before and after each run. Rows that are done are kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from running import dyn4d

from dyn4d.pipeline import set_threads
from dyn4d.speed import MachineSpeed, machine_speed
from dyn4d.synthetic import build_scene, write_scene

FOLDERS = {"prepare": "prepare", "geometry": "geometry", "deform": "deformation", "gaussians": "gaussians",
           "render": "renders", "export": "export"}  # fmt: skip
SCENES: dict[str, dict[str, Any]] = {
    "small": {"name": "creature", "frames": 24, "size": 128},
    "few": {"name": "creature", "frames": 12, "size": 256},
    "usual": {"name": "dancer", "frames": 48, "size": 256},
    "long": {"name": "worm", "frames": 72, "size": 96},
    "huge": {"name": "dancer", "frames": 6, "size": 1024},
    "dense": {"name": "worm", "frames": 12, "size": 384, "background": "room"},
    "tiny": {"name": "creature", "frames": 2, "size": 128},
    "room": {"name": "creature", "frames": 12, "size": 160, "background": "room"},
    "steps": {"name": "creature", "frames": 12, "size": 192},
}


def _steps(fit: int, train: int, *more: str) -> list[str]:
    return ["--deformation.steps", str(fit), "--gaussians.steps", str(train), *more]


WORDS: dict[str, list[str]] = {
    "small": _steps(60, 150, "--gaussians.initial", "2000", "--gaussians.maximum", "4000"),
    "few": _steps(100, 100),
    "usual": _steps(60, 120, "--gaussians.initial", "16000", "--gaussians.maximum", "30000"),
    "long": _steps(20, 30, "--matching.window", "3", "--matching.strides", "8"),
    "huge": _steps(20, 30, "--max-size", "1024", "--gaussians.initial", "30000", "--gaussians.maximum", "60000"),
    "dense": _steps(20, 30, "--mask", "none", "--matching.max-per-pair", "2500"),
    "tiny": _steps(60, 60),
    "room": _steps(20, 30, "--geometry.poses", "solve"),
    "steps": _steps(
        100, 400, "--gaussians.sh-degree", "1", "--deformation.cells", "128", "--gaussians.initial", "5000"
    ),
}


def disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def mean_speed(before: MachineSpeed, after: MachineSpeed) -> dict[str, float]:
    a, b = asdict(before), asdict(after)
    return {name: (a[name] + b[name]) / 2 for name in a}


def measured_run(name: str, clip: Path, words: list[str], out: Path) -> dict[str, Any]:
    """One row: the clip, its options, the speed, and what each stage took; read again where it is done."""
    kept = out / f"{name}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    import torch

    set_threads()
    folder, device = out / "runs" / name, torch.device("cpu")
    shutil.rmtree(folder, ignore_errors=True)
    before = machine_speed(device, fresh=True)
    dyn4d("run", str(clip), "--out", str(folder), "--preset", "quick", "--quiet", *words)
    after = machine_speed(device, fresh=True)
    state = json.loads((folder / "run.json").read_text())
    counts = json.loads((folder / "gaussians/metrics.json").read_text())["curves"]["count"]
    stages = {
        stage: {key: entry.get(key) for key in ("seconds", "busy_seconds", "peak_memory")} | {
            "disk": disk(folder / FOLDERS[stage])}
        for stage, entry in state["stages"].items()
    }  # fmt: skip
    row = {"name": name, "clip": str(clip), "words": words, "threads": torch.get_num_threads(),
           "speed": mean_speed(before, after), "gaussians": counts, "stages": stages}  # fmt: skip
    kept.write_text(json.dumps(row, indent=1))
    shutil.rmtree(folder)
    return row


def scene(name: str, out: Path) -> Path:
    """The folder of one of `SCENES`, written once."""
    folder = out / "scenes" / name
    if not (folder / "clip").is_dir():
        write_scene(build_scene(**SCENES[name]), folder, truth=False)
    return folder / "clip"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--only", nargs="*", default=list(SCENES))
    parser.add_argument("--out", type=Path, default=Path("runs/estimate"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.clips:
        rows = [measured_run(clip.name, clip, [], given.out) for clip in given.clips]
    else:
        rows = [measured_run(name, scene(name, given.out), WORDS[name], given.out) for name in given.only]
    for row in rows:
        print(row["name"], {stage: round(entry["busy_seconds"], 1) for stage, entry in row["stages"].items()})


if __name__ == "__main__":
    main()
