"""How good the matches are: against the exact motion of synthetic scenes, stride by stride.

    python benchmarks/matching.py [--scenes creature worm turntable] [--frames 48] [--size 256] [--json OUT]

For each scene and stride: matches per ordered pair, their number relative to the pixels seen in both frames (with --all
nothing is thinned, then this is the recall), the end-point error in pixels (median, 95th percentile), the share of
outliers (more than 3 px off), and after lifting to 3D the same relative to the object's size (outliers: more than 3 %).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dyn4d.core.cameras import project, unproject
from dyn4d.core.types import Clip, Correspondences, LiftedPairs, Timeline
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.lift import lift
from dyn4d.geometry.rgbd import frames_from_depth
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.flow import match_clip
from dyn4d.synthetic import Scene, build_scene

OUTLIER_PX = 3.0
OUTLIER_3D = 0.03


@dataclass(frozen=True)
class Drawn:
    """A scene with all its pictures and, for each pixel of the object, where on the surface it is."""

    scene: Scene
    clip: Clip
    face: list[np.ndarray]  # T maps (H, W) int32, -1 = none
    bary: list[np.ndarray]  # T maps (H, W, 3)


def draw(scene: Scene) -> Drawn:
    pictures = [scene.draw(i) for i in range(len(scene))]
    cameras = scene.cameras
    faces = np.asarray(scene.model.faces)
    barycentric = []
    for i, picture in enumerate(pictures):
        rows, columns = np.nonzero(picture.mask)
        xy = torch.from_numpy(np.stack([columns, rows], -1) + 0.5)
        depth = torch.from_numpy(np.asarray(picture.depth, dtype=np.float64)[rows, columns])
        xyz = unproject(cameras.K[i], cameras.world_from_cam[i], xy, depth).numpy()
        corners = scene.shapes[i][faces[picture.face[rows, columns]]]
        e1, e2, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], xyz - corners[:, 0]
        d11, d12, d22 = (e1 * e1).sum(-1), (e1 * e2).sum(-1), (e2 * e2).sum(-1)
        v1, v2 = (v * e1).sum(-1), (v * e2).sum(-1)
        det = np.maximum(d11 * d22 - d12 * d12, 1e-30)
        b1, b2 = (d22 * v1 - d12 * v2) / det, (d11 * v2 - d12 * v1) / det
        full = np.zeros((*picture.mask.shape, 3))
        full[rows, columns] = np.stack([1 - b1 - b2, b1, b2], -1)
        barycentric.append(full)
    size = scene.config.size
    clip = Clip(
        name=scene.config.scene, source=Path(scene.config.scene), images=[p.rgb for p in pictures],
        masks=[p.mask for p in pictures], frames=np.arange(len(scene)),
        timeline=Timeline(scene.times, scene.seconds, tuple(f"{i:05d}" for i in range(len(scene)))),
        width=size, height=size, depth=[p.depth.astype(np.float32) for p in pictures], cameras=cameras,
        all_cameras=cameras, poses_given=True,
    )  # fmt: skip
    return Drawn(scene, clip, [p.face for p in pictures], barycentric)


def true_points(drawn: Drawn, a: int, b: int, xy: np.ndarray) -> np.ndarray:
    """Where the surface under pixel centres `xy` (M, 2) of frame a is in the world at frame b: (M, 3)."""
    column, row = np.floor(xy).astype(int).T
    corners = drawn.scene.shapes[b][np.asarray(drawn.scene.model.faces)[drawn.face[a][row, column]]]
    return (corners * drawn.bary[a][row, column][..., None]).sum(1)


def seen_in_both(drawn: Drawn, a: int, b: int) -> int:
    """How many object pixels of frame a show a point that frame b shows too."""
    rows, columns = np.nonzero(np.asarray(drawn.clip.masks[a]))
    moved = true_points(drawn, a, b, np.stack([columns, rows], -1) + 0.5)
    cameras = drawn.scene.cameras
    uv, depth = project(cameras.K[b], cameras.cam_from_world[b], torch.from_numpy(moved))
    cell = torch.floor(uv).long()
    size = drawn.scene.config.size
    inside = ((cell >= 0) & (cell < size)).all(-1)
    cell = cell.clamp(0, size - 1)
    assert drawn.clip.depth is not None
    front = torch.from_numpy(np.array(drawn.clip.depth[b]))[cell[:, 1], cell[:, 0]]
    return int((inside & (front > 0) & (depth < front + 0.02 * drawn.scene.extent())).sum())


def measure(drawn: Drawn, matches: Correspondences, lifted: LiftedPairs) -> list[dict[str, float]]:
    """One row a stride."""
    cameras, extent = drawn.scene.cameras, drawn.scene.extent()
    errors: dict[int, list[np.ndarray]] = {}
    errors_3d: dict[int, list[np.ndarray]] = {}
    seen: dict[int, list[int]] = {}
    gap = (matches.frame_b - matches.frame_a).abs()
    for a, b in {(int(a), int(b)) for a, b in zip(matches.frame_a, matches.frame_b)}:
        rows = (matches.frame_a == a) & (matches.frame_b == b)
        truth = true_points(drawn, a, b, matches.xy_a[rows].numpy())
        uv, _ = project(cameras.K[b], cameras.cam_from_world[b], torch.from_numpy(truth))
        errors.setdefault(abs(a - b), []).append((uv - matches.xy_b[rows]).norm(dim=-1).numpy())
        seen.setdefault(abs(a - b), []).append(seen_in_both(drawn, a, b))
        rows = (lifted.frame_a == a) & (lifted.frame_b == b)
        uv_a, _ = project(cameras.K[a], cameras.cam_from_world[a], lifted.xyz_a[rows].double())
        truth = true_points(drawn, a, b, uv_a.numpy())
        errors_3d.setdefault(abs(a - b), []).append(
            np.linalg.norm(lifted.xyz_b[rows].numpy() - truth, axis=-1) / extent
        )
    table = []
    for stride in sorted(int(g) for g in gap.unique()):
        flat, spatial = np.concatenate(errors[stride]), np.concatenate(errors_3d[stride])
        spatial = spatial if len(spatial) else np.array([np.nan])
        table.append({
            "stride": stride, "matches": len(flat) / len(errors[stride]),
            "recall": len(flat) / max(sum(seen[stride]), 1),
            "median_px": float(np.median(flat)), "p95_px": float(np.percentile(flat, 95)),
            "outliers": float((flat > OUTLIER_PX).mean()), "lifted": len(spatial) / len(errors[stride]),
            "median_3d": float(np.median(spatial)), "mean_3d": float(spatial.mean()),
            "outliers_3d": float((spatial > OUTLIER_3D).mean()),
        })  # fmt: skip
    return table


def show(table: list[dict[str, float]]) -> None:
    print("stride  matches  recall  median px  p95 px  >3px %  lifted  median3d %  mean3d %  >3% %")
    for row in table:
        print(
            f"{row['stride']:6d} {row['matches']:8.0f} {row['recall']:7.2f} {row['median_px']:10.3f} "
            f"{row['p95_px']:7.2f} {100 * row['outliers']:7.2f} {row['lifted']:7.0f} {100 * row['median_3d']:11.3f} "
            f"{100 * row['mean_3d']:9.3f} {100 * row['outliers_3d']:6.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", default=["creature", "worm", "turntable"])
    parser.add_argument("--background", default="grey")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--all", action="store_true", help="keep every match, so that recall counts all pixels")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = {}
    for name in args.scenes:
        drawn = draw(build_scene(name, frames=args.frames, size=args.size, background=args.background))
        config = MatchingConfig()
        if args.all:
            config = replace(config, max_per_pair=10**6)
        begin = time.perf_counter()
        matches = match_clip(drawn.clip, config)
        middle = time.perf_counter()
        points = frames_from_depth(drawn.clip, GeometryConfig()).points
        lifted = lift(matches, points, drawn.clip.height, drawn.clip.width, len(drawn.clip))
        seconds = {"matching": middle - begin, "depth and lifting": time.perf_counter() - middle}
        print(f"{name}: {len(matches)} matches, " + ", ".join(f"{k} {v:.1f} s" for k, v in seconds.items()))
        table = measure(drawn, matches, lifted)
        show(table)
        report[name] = {"seconds": seconds, "strides": table}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
