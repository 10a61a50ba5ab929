"""What happens where an object's topology changes: a mouth that opens and shuts, with its truth.

    python benchmarks/topology.py [--seeds 0 1 2] [--preset quick] [--out runs/topology] [--picture FILE]
                                  [--markdown FILE] [-- --deformation.steps 300 ...]

The scene `snapper` at several phases of its motion (seed 0 begins shut). An invertible field is continuous, so it can
not tear: what touches when shut has to be apart in canonical space. Each row says how far the mouth of canonical space
is open, and how good the result is where the true mouth is shut, in between and wide: views near the filmed ones, and
tracks, relative to the object's size. "Inside" are tracks of what no frame shows while the mouth is shut (the tongue,
the inner sides of the jaws); "shut between" are those of them that are seen, hidden, and seen again.

`--picture` draws, for the first seed, the truth and the result at three times, and the result 30 degrees aside.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matching_gaps import write_section
from PIL import Image
from running import dyn4d, label, parse

from dyn4d.core.protocols import SilentProgress
from dyn4d.export.align import Alignment
from dyn4d.export.evaluate import Reconstruction, is_near, object_size, view_metrics
from dyn4d.export.renders import render_cloud
from dyn4d.export.run import load_result
from dyn4d.gaussians import move_cloud
from dyn4d.io.truth import Truth, load_truth
from dyn4d.synthetic import build_scene, write_scene

STATES = {"shut": (0.0, 0.1), "between": (0.1, 0.9), "wide": (0.9, 1.01)}  # of `opening`


def jaws(tracks: np.ndarray) -> tuple[int, int]:
    """The two of the tracks (T, N, 3) whose distance changes most: one at the tip of each jaw."""
    pick = np.random.default_rng(0).choice(tracks.shape[1], min(600, tracks.shape[1]), replace=False)
    part = tracks[:, pick]
    low = high = np.linalg.norm(part[0, :, None] - part[0, None], axis=-1)
    for frame in part[1:]:
        distance = np.linalg.norm(frame[:, None] - frame[None], axis=-1)
        low, high = np.minimum(low, distance), np.maximum(high, distance)
    a, b = np.unravel_index(np.argmax(high - low), low.shape)
    return int(pick[a]), int(pick[b])


def opening_of(distance: np.ndarray | float, between: np.ndarray) -> np.ndarray:
    """0 at the smallest of the distances `between` the jaws over the clip, 1 at the largest."""
    return (np.asarray(distance) - between.min()) / (between.max() - between.min())


@torch.no_grad()
def carried(result: Reconstruction, truth: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tracks (T, N, 3) carried by the field from the first frame that shows each, that frame (N,), and the points in
    canonical space (N, 3)."""
    world, visible = torch.as_tensor(truth.tracks_world).float(), np.asarray(truth.visible)
    first = visible.argmax(0)
    times = result.timeline.times
    canonical = torch.empty_like(world[0])
    for frame in np.unique(first):
        rows = torch.from_numpy(np.flatnonzero(first == frame))
        canonical[rows] = result.field.to_canonical(world[frame, rows], float(times[frame]))
    moved = torch.stack([result.field.from_canonical(canonical, float(t)) for t in times])
    return moved.numpy(), first, canonical.numpy()


def measure(run: Path, truth: Truth) -> dict[str, Any]:
    """One row of the table."""
    result = load_result(run, "cpu")
    world, visible = np.asarray(truth.tracks_world), np.asarray(truth.visible)
    a, b = jaws(world)
    between = np.linalg.norm(world[:, a] - world[:, b], axis=-1)
    opening = opening_of(between, between)
    moved, first, canonical = carried(result, truth)
    row: dict[str, Any] = {"canonical": float(opening_of(np.linalg.norm(canonical[a] - canonical[b]), between))}
    near = [view for view in truth.views if is_near(view.view)]
    for name, (low, high) in STATES.items():
        frames = {i for i, at in enumerate(opening) if low <= at < high}
        scored = view_metrics(
            result,
            [view for view in near if view.index in frames],
            alignment=Alignment.identity(),
            progress=SilentProgress(),
        )
        row[f"near {name}"] = float(np.mean([metrics["mpsnr"] for _, metrics in scored])) if scored else None
    error = np.linalg.norm(moved - world, axis=-1) / object_size(world)
    later = visible & (np.arange(len(world))[:, None] > first)
    shut = np.array([at < STATES["shut"][1] for at in opening])
    inside = visible.any(0) & ~visible[shut].any(0)
    again = later & (np.cumsum(shut)[:, None] > np.cumsum(shut)[first])  # shut since the frame that first showed it
    row["tracks"] = 100 * float(error[later].mean())
    row["tracks inside"] = 100 * float(error[later & inside].mean())
    row["shut between"] = 100 * float(error[again & inside].mean()) if (again & inside).any() else None
    return row


@torch.no_grad()
def picture(run: Path, seed: int, file: Path) -> None:
    """Truth above, result below it, and the result from 30 degrees aside, with the mouth shut, opening and wide."""
    result, scene = load_result(run, "cpu"), build_scene("snapper", seed=seed)
    world = scene.tracks.xyz
    a, b = jaws(world)
    between = np.linalg.norm(world[:, a] - world[:, b], axis=-1)
    opening = opening_of(between, between)
    columns = []
    for wanted in (0.0, 0.5, 1.0):
        frame = int(np.abs(opening - wanted).argmin())
        cloud = move_cloud(result.cloud, result.field, float(result.timeline.times[frame]))
        camera = result.cameras[frame]
        rows = [scene.draw(frame).rgb]
        for turn in (0.0, 30.0):
            pose = torch.from_numpy(scene.rig.pose(frame, turn))
            drawn = render_cloud(cloud, type(camera)(camera.K, pose, camera.width, camera.height), (0.5, 0.5, 0.5))
            rows.append((drawn.rgb[0].clamp(0, 1) * 255).round().byte().numpy())
        columns.append(np.concatenate(rows))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(columns, axis=1)).save(file, optimize=True)


def table(rows: dict[int, dict[str, Any]]) -> str:
    titles = {
        "canonical": "canonical mouth open", "near shut": "near mPSNR: shut", "near between": "between",
        "near wide": "wide", "tracks": "tracks %", "tracks inside": "inside", "shut between": "shut between",
    }  # fmt: skip
    lines = ["| seed | " + " | ".join(titles.values()) + " |", "|" + " --- |" * (1 + len(titles))]
    for seed, row in rows.items():
        lines.append(f"| {seed} | " + " | ".join("" if row[k] is None else f"{row[k]:.2f}" for k in titles) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--out", type=Path, default=Path("runs/topology"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--markdown", type=Path)
    given, extra = parse(parser, sys.argv[1:])
    rows: dict[int, dict[str, Any]] = {}
    for seed in given.seeds:
        source = given.out / f"snapper-{seed}"
        if not (source / "truth" / "views.json").exists():
            write_scene(build_scene("snapper", seed=seed), source)
        run = given.out / label("run", given.preset, seed, extra=extra)
        dyn4d("run", str(source / "clip"), "--out", str(run), "--preset", given.preset, "--quiet", *extra)
        if seed == given.seeds[0] and given.picture:
            picture(run, seed, given.picture)
        rows[seed] = measure(run, load_truth(source / "truth"))
        print(table(rows), flush=True)
    if given.markdown:
        write_section(given.markdown, "topology", "## A mouth that opens and shuts\n\n" + table(rows))


if __name__ == "__main__":
    main()
