"""Masks from boxes and key frames against true masks: overlap by the frames between, and whether the score knows.

    python benchmarks/masks.py --reference DIR --markdown benchmarks/RESULTS.md

Boxes are the bounding boxes of the true masks, whole pixels. Three of the gt_* clips have a flat grey background, which
is easy; gt_horse_room and the synthetic scenes with `room` have a textured one. Key frames themselves do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matching_gaps import write_section
from scipy.stats import spearmanr

from dyn4d.core.types import Clip
from dyn4d.io import load_clip
from dyn4d.segmentation import MaskConfig, Prompt, follow_object
from dyn4d.synthetic import build_scene, write_scene

GAPS = (1, 2, 4, 8, 16, 32)
CAMEL = "real_camel"


@dataclass(frozen=True)
class Case:
    """A clip, its key frames, and whether they are given as boxes or as masks."""

    clip: str
    keys: tuple[int, ...] = (0,)
    given: str = "box"

    @property
    def name(self) -> str:
        return f"{self.clip} {self.given} {' '.join(map(str, self.keys))}"


CASES = [
    *(Case(name) for name in ("gt_snake_dance", "gt_cesiumman_walk", "gt_fox_run", "gt_horse_room")),
    Case(CAMEL), Case(CAMEL, (0, 59)), Case(CAMEL, (0, 30, 59)),
    Case(CAMEL, given="mask"), Case(CAMEL, (0, 59), "mask"), Case(CAMEL, (0, 30, 59), "mask"),
    Case("creature in a room"), Case("dancer in a room"),
]  # fmt: skip


def open_case(case: Case, reference: Path | None, out: Path) -> Clip | None:
    if not case.clip.endswith(" in a room"):
        folder = (reference or Path()) / "data" / case.clip
        return load_clip(folder) if folder.is_dir() else None
    scene = case.clip.split()[0]
    folder = out / f"{scene}-room"
    if not (folder / "clip" / "cameras.json").exists():
        write_scene(build_scene(scene, background="room", frames=32), folder, truth=False)
    return load_clip(folder / "clip")


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def measure(case: Case, clip: Clip) -> dict[str, Any]:
    """Overlap, score and gap to the nearest key frame, of each frame."""
    prompts = [
        Prompt(key, mask=clip.masks[key]) if case.given == "mask" else Prompt(key, box=box_of(clip.masks[key]))
        for key in case.keys
    ]
    begin, used = time.perf_counter(), time.process_time()
    rows = []
    for one in follow_object(clip.images, prompts, MaskConfig()):
        gap = min(abs(one.frame - key) for key in case.keys)
        found = overlap(one.mask, clip.masks[one.frame])
        rows.append({"frame": one.frame, "gap": gap, "iou": found, "score": one.score})
    seconds = (time.perf_counter() - begin) / len(clip), (time.process_time() - used) / len(clip)
    return {"rows": rows, "wall": seconds[0], "cpu": seconds[1], "size": [clip.width, clip.height]}


def rank(rows: Sequence[dict[str, Any]]) -> float:
    return float(spearmanr([row["score"] for row in rows], [row["iou"] for row in rows]).statistic)


def markdown(results: dict[str, dict[str, Any]]) -> str:
    head = " | ".join(f"gap {gap}" for gap in GAPS)
    lines = [f"| clip | key frames | at the key frames | {head} | mean of all others | score to IoU | s/frame |",
             "|" + " --- |" * (6 + len(GAPS))]  # fmt: skip
    for case in CASES:
        if case.name not in results:
            continue
        found = results[case.name]
        others = [row for row in found["rows"] if row["gap"]]
        cells = []
        for gap in GAPS:
            values = [row["iou"] for row in others if row["gap"] == gap]
            cells.append(f"{np.mean(values):.3f}" if values else "")
        at_keys = np.mean([row["iou"] for row in found["rows"] if row["gap"] == 0])
        keys = f"{case.given} on {', '.join(map(str, case.keys))}"
        lines.append(
            f"| {case.clip} | {keys} | {at_keys:.3f} | {' | '.join(cells)} | "
            f"{np.mean([r['iou'] for r in others]):.3f} | {rank(others):.2f} | {found['cpu']:.2f} |"
        )
    pooled = [row for case in CASES if case.name in results for row in results[case.name]["rows"] if row["gap"]]
    truth = [results[c.name]["rows"] for c in CASES if c.clip.startswith("gt_") and c.name in results]
    if truth:
        mean = np.mean([np.mean([row["iou"] for row in rows if row["gap"]]) for rows in truth])
        lines += ["", f"Mean IoU over the {len(truth)} gt_* clips, from one box: {mean:.3f}."]
    lines += ["", f"Rank correlation (Spearman) of score and IoU over all {len(pooled)} frames: {rank(pooled):.2f}."]
    return "\n".join(lines)


NOTE = """IoU with the true masks by the frames to the nearest key frame; a box is the true mask's bounding box.
The first three clips have a flat grey background. Score to IoU: Spearman's rank correlation over the frames. Seconds of
processor time a frame, one thread, on a machine with other work."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, default=os.environ.get("DYN4D_REFERENCE"))
    parser.add_argument("--only", nargs="*", default=None, help="clips")
    parser.add_argument("--out", type=Path, default=Path("runs/masks"))
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "masks.json"
    results: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    for case in CASES:
        if case.name in results or (given.only and case.clip not in given.only):
            continue
        clip = open_case(case, Path(given.reference) if given.reference else None, given.out)
        if clip is None:
            print(f"{case.clip}: not there; set DYN4D_REFERENCE to the folder of the reference data")
            continue
        results[case.name] = measure(case, clip)
        file.write_text(json.dumps(results))
        others = [row for row in results[case.name]["rows"] if row["gap"]]
        print(f"{case.name}: {np.mean([r['iou'] for r in others]):.3f}, rank {rank(others):.2f}", flush=True)
    text = markdown(results)
    print(text)
    if given.markdown:
        write_section(given.markdown, "masks", "## Masks\n\n" + NOTE + "\n\n" + text)


if __name__ == "__main__":
    main()
