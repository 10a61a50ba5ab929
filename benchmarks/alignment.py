"""How the time and memory of the alignment grow with the clip, and how near it comes to the truth.

    python benchmarks/alignment.py [--frames 10 30 100] [--size 128x96] [--window 4] [--noise 0.01] [--wrong 0]
        [--threads N] [--only growth|scenes] [--json OUT]

Cameras walk around a ball on a floor in a round hall, 3 degrees a frame. A pair network's predictions are the truth
with depth noise along the rays and a scale of their own for each pass (5 %); matches are true, to the nearest pixel,
but for a share (`--wrong`). Each frame is paired with the next `window`. Every length of clip runs in a fresh process;
memory is what the alignment adds at its peak to that of the predictions, which wait in memory.

Prints a markdown table: seconds of the processor, milliseconds and megabytes a pair; matches a pair; and, after the
best similarity, the largest error of rotation and centre (relative to the distance of neighbours), the median error of
the depth, and the error of the focal length. Then, where DYN4D_REFERENCE names the reference data, a table of our
alignment and the published ones on its scenes (`alignment_scenes.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import peak_memory
from raster_report import about
from torch import Tensor

from dyn4d.core.cameras import invert_rigid, look_at, pixel_grid, project, transform, unproject
from dyn4d.core.rotations import rotation_angle, similarity_fit
from dyn4d.geometry.alignment import Alignment, align
from dyn4d.geometry.pair_results import PairFrame, PairResult, PairResultList
from dyn4d.matching.image_size import InputView

DEGREES = 3.0  # between neighbours
SEED_STEP = 5  # pixels between the starts of the true matches, from both sides
SIDES = (("a_in_a", "a", "a"), ("b_in_a", "b", "a"), ("b_in_b", "b", "b"), ("a_in_b", "a", "b"))


@dataclass(frozen=True)
class World:
    """T cameras K (3, 3), world_from_cam (T, 4, 4), and what they see: depth (T, H * W)."""

    K: Tensor
    world_from_cam: Tensor
    depth: Tensor
    width: int
    height: int

    def points(self, frame: int) -> Tensor:
        xy = pixel_grid(self.height, self.width, dtype=torch.float64).reshape(-1, 2)
        return unproject(self.K, self.world_from_cam[frame], xy, self.depth[frame])


def make_world(count: int, width: int, height: int) -> World:
    """Unit ball on the floor y = 1 within a sphere of radius 6; cameras some 4 from the ball."""
    focal = 1.15 * width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    up, target = torch.tensor([0.0, -1, 0], dtype=torch.float64), torch.tensor([0.0, 0.2, 0], dtype=torch.float64)
    grid = pixel_grid(height, width, dtype=torch.float64).reshape(-1, 2)
    poses, depths = [], []
    for number in range(count):
        angle = np.radians(DEGREES * number)
        eye = [4 * np.sin(angle), -0.7 - 0.3 * np.sin(0.2 * number), -4 * np.cos(angle)]
        centre = torch.tensor(eye, dtype=torch.float64)
        pose = look_at(centre, target, up)
        ray = unproject(K, pose, grid, torch.ones(len(grid), dtype=torch.float64)) - centre
        a, b, c = ray.square().sum(-1), ray @ centre, centre @ centre
        floor = torch.where(ray[:, 1] > 0, (1.0 - centre[1]) / ray[:, 1], torch.inf)
        hall = (-b + (b * b - a * (c - 36)).sqrt()) / a
        ball = (-b - (b * b - a * (c - 1)).clamp_min(0).sqrt()) / a
        depths.append(torch.where(b * b > a * (c - 1), ball, torch.minimum(floor, hall)))
        poses.append(pose)
    return World(K, torch.stack(poses), torch.stack(depths), width, height)


def matches(world: World, a: int, b: int, wrong: float, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """xy_a, xy_b (M, 2) int64 and weights (M,)."""
    found = []
    for one, other in ((a, b), (b, a)):
        rows, columns = torch.meshgrid(
            torch.arange(SEED_STEP // 2, world.height, SEED_STEP),
            torch.arange(SEED_STEP // 2, world.width, SEED_STEP),
            indexing="ij",
        )
        start = (rows * world.width + columns).flatten()
        at, depth = project(world.K, invert_rigid(world.world_from_cam[other]), world.points(one)[start])
        cell = at.floor().long()
        seen = (depth > 0) & (cell >= 0).all(-1) & (cell[:, 0] < world.width) & (cell[:, 1] < world.height)
        start, depth, end = start[seen], depth[seen], (cell[:, 1] * world.width + cell[:, 0])[seen]
        seen = (world.depth[other][end] / depth - 1).abs() < 0.02
        both = torch.stack([start, end], -1)[seen]
        found.append(both if one == a else both.flip(-1))
    pairs = torch.unique(torch.cat(found), dim=0)
    lost = torch.rand(len(pairs), generator=random) < wrong
    pairs[lost, 1] = torch.randint(world.width * world.height, (int(lost.sum()),), generator=random)
    xy = torch.stack([pairs % world.width, pairs // world.width], -1)
    return xy[:, 0], xy[:, 1], torch.full((len(pairs),), 10.0)


def predictions(world: World, window: int, noise: float, wrong: float) -> tuple[list[PairFrame], PairResultList]:
    random = torch.Generator().manual_seed(0)
    size, box = (world.width, world.height), (0, 0, world.width, world.height)
    view = InputView(size, box, size, box)
    everything = np.ones((world.height, world.width), dtype=bool)
    image = np.zeros((world.height, world.width, 3), dtype=np.uint8)
    frames = [PairFrame(view, image, everything, everything) for _ in world.depth]
    points = [world.points(n) for n in range(len(frames))]
    results = []
    for a in range(len(frames)):
        for b in range(a + 1, min(a + 1 + window, len(frames))):
            rows = {"a": a, "b": b}
            scale = {side: torch.exp(0.05 * torch.randn((), generator=random)) for side in "ab"}
            fields: dict[str, Any] = {}
            for name, of, camera in SIDES:
                seen = transform(invert_rigid(world.world_from_cam[rows[camera]]), points[rows[of]]) * scale[camera]
                error = 1 + noise * torch.randn(len(seen), 1, generator=random, dtype=torch.float64)
                fields[name] = (seen * error).float()
                fields[f"conf_{name}"] = torch.full((len(seen),), 12.0 if of == camera else 10.0)
            xy_a, xy_b, weight = matches(world, a, b, wrong, random)
            results.append(PairResult(a, b, **fields, xy_a=xy_a, xy_b=xy_b, weight=weight))
    return frames, PairResultList(tuple(results))


def errors(world: World, found: Alignment) -> dict[str, float]:
    there = torch.nonzero(found.registered).squeeze(-1)
    ours, true = found.world_from_cam[there], world.world_from_cam[there]
    R, t, scale = similarity_fit(ours[:, :3, 3], true[:, :3, 3])
    centre = (scale * ours[:, :3, 3] @ R.T + t - true[:, :3, 3]).norm(dim=-1)
    depth = torch.cat([(scale * found.depth[n] / world.depth[n] - 1).abs() for n in there.tolist()])
    return {
        "registered": len(there),
        "rotation_deg": float(torch.rad2deg(rotation_angle(R @ ours[:, :3, :3], true[:, :3, :3])).max()),
        "centre": float(centre.max() / true[:, :3, 3].diff(dim=0).norm(dim=-1).mean()),
        "depth": float(depth.nanmedian()),
        "focal": float((found.K[there, 0, 0] / world.K[0, 0] - 1).abs().max()),
        "pixel_error": found.pixel_error,
    }


def probe(args: argparse.Namespace) -> dict[str, Any]:
    """One clip, in this process."""
    torch.set_num_threads(args.threads)
    width, height = (int(side) for side in args.size.split("x"))
    small = make_world(3, 64, 48)
    align(*predictions(small, 1, args.noise, 0.0))  # the first calls of a process are slow
    world = make_world(args.probe, width, height)
    frames, results = predictions(world, args.window, args.noise, args.wrong)
    before, start = peak_memory(), time.process_time()
    found = align(frames, results)
    seconds, after = time.process_time() - start, peak_memory()
    return {
        "frames": args.probe,
        "pairs": len(results),
        "matches": sum(len(result.weight) for result in results) / len(results),
        "seconds": seconds,
        "bytes": None if before is None or after is None else after - before,
        **errors(world, found),
    }


def in_fresh_process(args: argparse.Namespace, count: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--probe", str(count), "--size", args.size, "--window", str(args.window),
               "--noise", str(args.noise), "--wrong", str(args.wrong), "--threads", str(args.threads)]  # fmt: skip
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--size", default="128x96", help="width x height in pixels")
    parser.add_argument("--window", type=int, default=4, help="frames after it that a frame is paired with")
    parser.add_argument("--noise", type=float, default=0.01, help="standard deviation of the depth, as a share of it")
    parser.add_argument("--wrong", type=float, default=0.0, help="share of matches that end at a random pixel")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("growth", "scenes"), help="one of the two tables")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--probe", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        print(json.dumps(probe(args)))
        return
    facts, rows, scenes = about(args.threads), [], []
    if args.only != "scenes":
        rows = growth(args)
    if args.only != "growth" and os.environ.get("DYN4D_REFERENCE"):
        from alignment_scenes import HEADS, line, scene_rows

        torch.set_num_threads(args.threads)
        print(f"\n{HEADS}", flush=True)
        for row in scene_rows(Path(os.environ["DYN4D_REFERENCE"])):
            scenes.append(row)
            print(line(row), flush=True)
    if args.json:
        found = {"machine": facts, "rows": rows, "scenes": scenes}
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def growth(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The table of lengths of clips."""
    print(f"{args.size}, window {args.window}, noise {args.noise}, wrong {args.wrong}, {args.threads} threads\n")
    print("| frames | pairs | matches a pair | seconds | ms a pair | MB | MB a pair | rot ° | centre | depth | focal |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    rows = []
    for count in args.frames:
        rows.append(row := in_fresh_process(args, count))
        memory = float("nan") if row["bytes"] is None else row["bytes"] / 1e6
        print(
            f"| {row['frames']} | {row['pairs']} | {row['matches']:.0f} | {row['seconds']:.1f} "
            f"| {1000 * row['seconds'] / row['pairs']:.0f} | {memory:.0f} | {memory / row['pairs']:.2f} "
            f"| {row['rotation_deg']:.3f} | {row['centre']:.4f} | {row['depth']:.4f} | {row['focal']:.4f} |",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
