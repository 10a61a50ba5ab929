"""How many hidden pixels match: against the exact motion and visibility of synthetic scenes.

    python benchmarks/occlusion.py [--scenes creature worm turntable] [--frames 48] [--size 256] [--every 6]
                                   [--max-stretch 4] [--json OUT]

Every n-th frame is matched with its later partners, both ways, and nothing is thinned. For each scene and range of gaps
between frames: matches; of the pixels that the other frame does not show, the share that match all the same (lower is
better); of those it shows, the share that match (higher); the share of hidden ones among the matches; the share of
matches within 1, 3 and 5 px of the truth; and of the pixels that are shown and whose match without any check is within
1 px, the share that is kept: the price of the checks.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from matching import Drawn, draw, true_points

from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow import FlowEngine, pair_columns
from dyn4d.matching.pairs import pair_graph
from dyn4d.matching.windows import ObjectWindows, plan_windows
from dyn4d.synthetic import build_scene, raster

RANGES = ((1, 1), (2, 6), (7, 12), (13, 24), (1, 24))
UNCHECKED = {"fb_px": 1e5, "max_difference": 1e5, "max_stretch": 1e11}


def truth_of(drawn: Drawn, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Where all object pixels of a (in row order) are in b (M, 2) px, and whether b shows them (M,)."""
    scene = drawn.scene
    rows, columns = np.nonzero(np.asarray(drawn.clip.masks[a]))
    points = true_points(drawn, a, b, np.stack([columns, rows], -1) + 0.5)
    camera = np.linalg.inv(scene.rig.pose(b))
    uv, depth = raster.project(points, scene.K, camera)
    xy, z = raster.project(scene.shapes[b], scene.K, camera)
    shown = raster.visible_points(
        xy, z, np.asarray(scene.model.faces), points=uv, depth=depth, own=drawn.face[a][rows, columns],
        width=scene.config.size, height=scene.config.size,
    )  # fmt: skip
    return uv, shown


def place(drawn: Drawn, columns: dict[str, np.ndarray], a: int) -> np.ndarray:
    """Ends (M, 2) px of all object pixels of a in row order, NaN where a pixel has no match."""
    mask = np.asarray(drawn.clip.masks[a])
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(mask.sum())
    column, row = np.floor(columns["xy_a"]).astype(int).T
    out = np.full((int(mask.sum()), 2), np.nan)
    out[number[row, column]] = columns["xy_b"]
    return out


Row = tuple[
    int, np.ndarray, np.ndarray, np.ndarray
]  # gap; (M,): shown, error of the match (NaN = none), right unchecked


def look(drawn: Drawn, config: MatchingConfig, every: int) -> list[Row]:
    """All pixels of the pairs looked at."""
    plan = plan_windows(drawn.clip, config)
    engine = FlowEngine(ObjectWindows(drawn.clip, plan, keep=40), config, 80)
    partners: dict[int, list[int]] = {}
    for i, j in pair_graph(len(drawn.clip), config.window, config.strides):
        partners.setdefault(i, []).append(j)
    unchecked = replace(config, **{name: value for name, value in UNCHECKED.items() if hasattr(config, name)})
    rows: list[Row] = []
    for i in sorted(partners)[::every]:
        for j, there, back in engine.from_frame(i, partners[i]):
            for a, b, flows in ((i, j, (there, back)), (j, i, (back, there))):
                uv, shown = truth_of(drawn, a, b)
                error, plain = (
                    np.linalg.norm(place(drawn, pair_columns(engine, (a, b), flows, config=c, seed=0), a) - uv, axis=-1)
                    for c in (config, unchecked)
                )
                rows.append((j - i, shown, error, shown & (plain < 1)))
    return rows


def measure(rows: list[Row]) -> list[dict[str, float]]:
    table = []
    for low, high in RANGES:
        mine = [row for row in rows if low <= row[0] <= high]
        if not mine:
            continue
        shown, error, right = (np.concatenate(values) for values in zip(*(row[1:] for row in mine)))
        match = np.isfinite(error)
        table.append({
            "from": low, "to": high, "matches": int(match.sum()), "hidden_match": float(match[~shown].mean()),
            "shown_match": float(match[shown].mean()), "hidden_among": float((~shown[match]).mean()),
            **{f"within_{px}": float((error[match] < px).mean()) for px in (1, 3, 5)},
            "right_kept": float(match[right].mean()),
        })  # fmt: skip
    return table


def show(table: list[dict[str, float]]) -> None:
    print("frames apart  matches  hidden match %  shown match %  hidden among %  <1px %  <3px %  <5px %  right kept %")
    for row in table:
        names = ("hidden_match", "shown_match", "hidden_among", "within_1", "within_3", "within_5", "right_kept")
        share = [100 * row[name] for name in names]
        print(
            f"{row['from']:5.0f} to {row['to']:2.0f} {row['matches']:10d} {share[0]:15.1f} {share[1]:14.1f} "
            f"{share[2]:15.2f} {share[3]:7.2f} {share[4]:7.2f} {share[5]:7.2f} {share[6]:13.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", default=["creature", "worm", "turntable"])
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=6, help="of the frames, only these are matched with later ones")
    parser.add_argument("--max-stretch", type=float)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    config = MatchingConfig(max_per_pair=10**6)
    if args.max_stretch is not None:
        config = replace(config, max_stretch=args.max_stretch)
    report = {}
    cv2.setNumThreads(1)
    for name in args.scenes:
        drawn = draw(build_scene(name, frames=args.frames, size=args.size, seed=args.seed))
        begin = time.perf_counter()
        table = measure(look(drawn, config, args.every))
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
        show(table)
        report[name] = table
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
