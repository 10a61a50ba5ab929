"""How good long point tracks are, before and after the deformation is fitted.

    python benchmarks/tracks.py [creature worm turntable | CLIP ...] [--matches 1000] [--json OUT]
    python benchmarks/tracks.py --run RUN [--truth FOLDER]

Scenes are drawn here and have true tracks; a run brings its own matches and field, the truth folder its `tracks.npz`.
Each true point is asked for at its pixel in the first frame that shows it: before, that pixel is followed by the
matches alone; after, the point that the frame has there is carried by the field. That frame itself does not count.
Positions are compared where the point is truly visible and the track has a place.

Without true tracks (a clip folder with depth and cameras, a run without truth) points can only be followed there and
back: each track of the geometry stage is followed again from its last frame, and should end where it began.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matching import draw

from dyn4d.core.cameras import project
from dyn4d.core.types import Camera, Clip, Correspondences, FramePoints
from dyn4d.deformation.files import load_field
from dyn4d.deformation.tracks import carry, find_sight
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.lift import sample_points
from dyn4d.geometry.point_tracks import PointTracks, track_points, track_queries
from dyn4d.geometry.rgbd import frames_from_depth
from dyn4d.io import artifacts
from dyn4d.io.clips import load_clip
from dyn4d.io.truth import load_truth
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow import match_clip
from dyn4d.synthetic import build_scene
from dyn4d.synthetic.config import SCENES

Row = dict[str, float | str | None]


def extent(world: np.ndarray) -> float:
    flat = world.reshape(-1, 3)
    return float((flat.max(0) - flat.min(0)).max())


def score(
    name: str, xyz: np.ndarray, xy: np.ndarray, visible: np.ndarray, *, world: np.ndarray, seen: np.ndarray,
    uv: np.ndarray, start: np.ndarray, size: float,
) -> Row:  # fmt: skip
    """One row: tracks (T, N) against the truth."""
    others = np.arange(len(seen))[:, None] != start
    known = seen & others & np.isfinite(xyz[..., 0])
    flat = seen & others & np.isfinite(xy[..., 0])
    error = np.linalg.norm(xyz - world, axis=-1)[known] / size
    pixels = np.linalg.norm(xy - uv, axis=-1)[flat]
    shown = visible & others
    return {
        "tracks": name, "points": float(len(start)), "epe": float(error.mean()), "median": float(np.median(error)),
        "in1": float((error < 0.01).mean()), "in5": float((error < 0.05).mean()), "px": float(pixels.mean()),
        "px_median": float(np.median(pixels)), "accuracy": float((visible == seen)[others].mean()),
        "precision": float(seen[shown].mean()), "recall": float(visible[seen & others].mean()),
        "frames": float(visible.sum(0).mean()), "true_frames": float(seen.sum(0).mean()),
    }  # fmt: skip


def against_truth(
    name: str, matches: Correspondences, points: FramePoints, cameras: Camera, *, world: np.ndarray, seen: np.ndarray,
    uv: np.ndarray, run: Path | None = None, clip: Clip | None = None,
) -> list[Row]:  # fmt: skip
    """The rows before and, with a run and its clip, after the fit."""
    start = seen.argmax(0)
    xy = uv[start, np.arange(len(start))]
    height, width, frames = cameras.height, cameras.width, len(seen)
    below = sample_points(start, xy, points, (height, width), frames, 8.0)
    asked = seen.any(0) & below.found  # a point at the very outline may have no surface under its pixel
    start, xy, first = start[asked], xy[asked], below.xyz[asked]
    world, seen, uv, size = world[:, asked], seen[:, asked], uv[:, asked], extent(world)
    truth = {"world": world, "seen": seen, "uv": uv, "start": start, "size": size}
    before = track_queries(matches, points, height, width, frames, start=start, xy=xy)
    rows = [score(f"{name}, before", before.xyz.numpy(), before.xy.numpy(), before.visible.numpy(), **truth)]
    if run is not None and clip is not None:
        field = load_field(run / "deformation/field.safetensors")
        when = torch.as_tensor(clip.timeline.times, dtype=torch.float32)
        xyz = carry(field, torch.from_numpy(first).float(), when[torch.from_numpy(start)], clip.timeline.times)
        sight = find_sight(xyz, points, cameras, frames=clip.frames, masks=clip.masks)
        flat, _ = project(cameras.K, cameras.cam_from_world, xyz.double())
        rows.append(score(f"{name}, after", xyz.numpy(), flat.numpy(), sight.visible.numpy(), **truth))
    return rows


def there_and_back(name: str, tracks: PointTracks, matches: Correspondences, points: FramePoints, clip: Clip) -> Row:
    """Follow every track again from its last frame."""
    visible = tracks.visible.numpy()
    rows = np.arange(visible.shape[1])
    first = tracks.frame_first.numpy()
    last = len(visible) - 1 - visible[::-1].argmax(0)
    moved = last > first
    rows, first, last = rows[moved], first[moved], last[moved]
    xy = tracks.xy.numpy()
    back = track_queries(matches, points, clip.height, clip.width, len(visible), start=last, xy=xy[last, rows])
    error = np.linalg.norm(back.xy.numpy()[first, np.arange(len(rows))] - xy[first, rows], axis=-1)
    came = np.isfinite(error)
    return {
        "tracks": name, "points": float(visible.shape[1]), "frames": float(visible.sum(0).mean()),
        "live": float(visible.sum(1).mean()), "back": float(came.mean()), "back_px": float(np.median(error[came])),
        "back_2px": float((error[came] < 2).mean()),
    }  # fmt: skip


def show(rows: list[Row]) -> str:
    """The rows as one or two tables in Markdown."""
    lines = []
    with_truth = [row for row in rows if "epe" in row]
    if with_truth:
        lines += [
            "| tracks | points | 3D error mean, median | within 1 %, 5 % | 2D error mean, median px "
            "| visible: right, precision, recall | frames seen (truth) |",
            "|" + " --- |" * 7,
        ]  # fmt: skip
    for r in with_truth:
        lines.append(
            f"| {r['tracks']} | {r['points']:.0f} | {r['epe']:.2%}, {r['median']:.2%} | {r['in1']:.1%}, {r['in5']:.1%} "
            f"| {r['px']:.2f}, {r['px_median']:.2f} | {r['accuracy']:.1%}, {r['precision']:.1%}, {r['recall']:.1%} "
            f"| {r['frames']:.1f} ({r['true_frames']:.1f}) |"
        )
    without = [row for row in rows if "back" in row]
    if without:
        lines += ["", "| tracks | tracks | frames each | tracks a frame | came back | median px | within 2 px |",
                  "|" + " --- |" * 7]  # fmt: skip
    for r in without:
        lines.append(
            f"| {r['tracks']} | {r['points']:.0f} | {r['frames']:.1f} | {r['live']:.0f} | {r['back']:.1%} "
            f"| {r['back_px']:.2f} | {r['back_2px']:.1%} |"
        )
    return "\n".join(lines)


def measure_clip(name: str, config: MatchingConfig) -> list[Row]:
    """A scene by its name, or a clip folder: geometry is made here."""
    label = Path(name).name
    drawn = draw(build_scene(name)) if name in SCENES else None
    clip = drawn.clip if drawn else load_clip(name)
    matches = match_clip(clip, config)
    found = frames_from_depth(clip, GeometryConfig())
    rows: list[Row] = []
    if drawn:
        true = drawn.scene.tracks
        rows = against_truth(
            label, matches, found.points, found.cameras, world=true.xyz, seen=true.visible, uv=true.uv
        )  # fmt: skip
    begin = time.process_time()
    tracks = track_points(matches, found.points, clip.height, clip.width, len(clip))
    print(
        f"{label}: {len(matches)} matches, tracks in {time.process_time() - begin:.1f} s of the processor", flush=True
    )
    return [*rows, there_and_back(f"{label}, there and back", tracks, matches, found.points, clip)]


def measure_run(run: Path, truth_folder: Path | None) -> list[Row]:
    clip = load_clip(json.loads((run / "run.json").read_text())["clip"]["source"])
    points = artifacts.load(run / "geometry/frame_points.npz", FramePoints)
    matches = artifacts.load(run / "geometry/correspondences.npz", Correspondences)
    if truth_folder is None:
        tracks = track_points(matches, points, clip.height, clip.width, len(clip))
        return [there_and_back(f"{run.name}, there and back", tracks, matches, points, clip)]
    truth = load_truth(truth_folder)
    if truth.tracks_world is None or truth.visible is None or truth.uv is None or truth.cameras is None:
        raise SystemExit(f"{truth_folder} has no tracks.npz with uv, or no cameras.json")
    return against_truth(
        run.name, matches, points, truth.cameras, world=truth.tracks_world, seen=truth.visible, uv=truth.uv, run=run,
        clip=clip,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*")
    parser.add_argument("--run", type=Path, help="a finished run, all frames selected, with given cameras")
    parser.add_argument("--truth", type=Path, help="its truth folder")
    parser.add_argument("--matches", type=int, default=1000, help="matches kept for each ordered pair")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[Row] = []
    if args.run is not None:
        rows += measure_run(args.run, args.truth)
    config = replace(MatchingConfig(), max_per_pair=args.matches)
    for name in args.clips or ([] if args.run else ["creature", "worm", "turntable"]):
        rows += measure_clip(name, config)
    print(show(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
