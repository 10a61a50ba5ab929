"""How right the matches of R2D2 are, with several weights: against truth that is exact, by the gap between frames.

    python benchmarks/r2d2.py [--weights small FILE ...] [--reference DIR] [--pairs 6] [--json OUT]

Three kinds of truth. `room`: the static background of the clip gt_horse_room, by its depth maps and cameras (the object
is masked out; points that are hidden or out of the picture in the other frame do not count). `own`: the moving objects
of dyn4d's synthetic scenes at seed 0, by the triangle and the place on it that each pixel shows. `plane`: frames of the
gt_* and DAVIS clips against themselves under a homography and other light, inside the object's mask; the gap is then
that between the strength of the changes. The gt_* clips have no tracks of the moving objects' points.

For each kind, weights and gap: matches a pair, the share of them within 1, 3 and 5 px of the truth, and the number
within 3 px. `small` is the network that comes with dyn4d. All weights get the same thresholds, sizes and number of
keypoints.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from matching import Drawn, draw, true_points
from running import add_reference, need_reference

from dyn4d.core.cameras import project, unproject
from dyn4d.io.clips import load_clip
from dyn4d.matching.r2d2_match import R2D2Matcher
from dyn4d.matching.r2d2_weights import load_r2d2
from dyn4d.synthetic import build_scene

GAPS = (1, 4, 8, 16, 32)
NEAR = (1.0, 3.0, 5.0)
DEPTH_SLACK = 0.02  # of the depth: nearer than this to the surface seen there counts as seen
PLANE_CLIPS = ("gt_fox_run", "gt_cesiumman_walk", "gt_snake_dance", "gt_horse_room", "real_camel", "real_dog")
SCENES = ("creature", "worm", "turntable")

Truth = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A pair of pictures (H, W, 3) uint8 with masks (H, W) bool.

    Attributes:
        truth: places (M, 2) in a -> places in b, NaN where they are not seen there.
    """

    kind: str
    clip: str
    gap: int
    a: np.ndarray
    b: np.ndarray
    mask_a: np.ndarray
    mask_b: np.ndarray
    truth: Truth


def starts(frames: int, gap: int, count: int) -> list[int]:
    """At most `count` first frames of pairs, evenly over the clip."""
    if gap >= frames:
        return []
    return sorted({int(v) for v in np.linspace(0, frames - 1 - gap, count).round()})


def room_cases(reference: Path, count: int) -> Iterator[Case]:
    clip = load_clip(reference / "data" / "gt_horse_room")
    assert clip.depth is not None and clip.cameras is not None
    K, pose = clip.cameras.K.double(), clip.cameras.world_from_cam.double()
    for gap in GAPS:
        for i in starts(len(clip), gap, count):
            j = i + gap
            depth_a, depth_b, object_b = (np.asarray(v) for v in (clip.depth[i], clip.depth[j], clip.masks[j]))

            def truth(
                xy: np.ndarray, i: int = i, j: int = j, depth_a: np.ndarray = depth_a, depth_b: np.ndarray = depth_b,
                object_b: np.ndarray = object_b,
            ) -> np.ndarray:  # fmt: skip
                depth = bilinear_depth(depth_a, xy)
                place = unproject(K[i], pose[i], torch.from_numpy(xy), torch.from_numpy(depth))
                uv, z = project(K[j], torch.linalg.inv(pose[j]), place)
                return where_seen(uv.numpy(), z.numpy(), depth_b, ~object_b)

            yield Case("room", clip.name, gap, np.asarray(clip.images[i]), np.asarray(clip.images[j]),
                       ~np.asarray(clip.masks[i]), ~object_b, truth)  # fmt: skip


def bilinear_depth(depth: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(M,) depth at places; NaN where a neighbour has none or lies on another surface."""
    x, y = np.clip(xy[:, 0] - 0.5, 0, depth.shape[1] - 1), np.clip(xy[:, 1] - 0.5, 0, depth.shape[0] - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, low = np.minimum(left + 1, depth.shape[1] - 1), np.minimum(top + 1, depth.shape[0] - 1)
    corners = np.stack([depth[top, left], depth[top, right], depth[low, left], depth[low, right]]).astype(float)
    u, v = x - left, y - top
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])
    value = (weights * corners).sum(0)
    bad = (corners.min(0) <= 0) | (corners.max(0) > corners.min(0) * (1 + 2 * DEPTH_SLACK))
    return np.where(bad, np.nan, value)


def where_seen(uv: np.ndarray, z: np.ndarray, depth: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Places (M, 2) with those set to NaN that are outside, not `allowed`, or behind what the picture shows there."""
    cell = np.floor(np.nan_to_num(uv, nan=-1.0)).astype(int)
    height, width = depth.shape
    inside = (cell >= 0).all(-1) & (cell < [width, height]).all(-1) & np.isfinite(uv).all(-1)
    cell = np.clip(cell, 0, [width - 1, height - 1])
    front = depth[cell[:, 1], cell[:, 0]]
    seen = inside & allowed[cell[:, 1], cell[:, 0]] & (front > 0) & (np.abs(z - front) < DEPTH_SLACK * front)
    return np.where(seen[:, None], uv, np.nan)


def own_cases(count: int) -> Iterator[Case]:
    for name in SCENES:
        drawn = draw(build_scene(name, frames=48, size=256, background="room"))
        clip = drawn.clip
        assert clip.depth is not None
        for gap in GAPS:
            for i in starts(len(clip), gap, count):
                depth = np.asarray(clip.depth[i + gap])

                def truth(
                    xy: np.ndarray, i: int = i, j: int = i + gap, drawn: Drawn = drawn, depth: np.ndarray = depth
                ) -> np.ndarray:
                    # Pixels are what the truth is known of: the part of one beyond its centre is carried along.
                    column, row = np.clip(np.floor(xy).astype(int), 0, 255).T
                    on = drawn.face[i][row, column] >= 0
                    moved = np.full((len(xy), 3), np.nan)
                    moved[on] = true_points(drawn, i, j, xy[on])
                    cameras = drawn.scene.cameras
                    uv, z = project(cameras.K[j], cameras.cam_from_world[j], torch.from_numpy(moved))
                    uv = uv.numpy() + (xy - np.floor(xy) - 0.5)
                    return where_seen(uv, z.numpy(), depth, np.asarray(drawn.clip.masks[j]))

                yield Case("own", name, gap, clip.images[i], clip.images[i + gap], clip.masks[i],
                           clip.masks[i + gap], truth)  # fmt: skip


def plane_cases(reference: Path, count: int) -> Iterator[Case]:
    for name in PLANE_CLIPS:
        if not (reference / "data" / name).is_dir():
            continue
        clip = load_clip(reference / "data" / name, max_size=480)
        for gap in GAPS:
            strength = gap / max(GAPS)
            for i in starts(len(clip), gap, max(count // 2, 1)):
                rng = np.random.default_rng([gap, i])
                image, mask = np.asarray(clip.images[i]), np.asarray(clip.masks[i])
                h = random_homography(rng, mask, 0.15 + 0.85 * strength)
                size = (image.shape[1], image.shape[0])
                b = cv2.warpPerspective(image, h, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
                light = rng.normal(0, 0.1 * strength, 3) + rng.normal(0, 0.15 * strength)
                value = (b / 255.0) ** np.exp(light) + rng.normal(0, 0.005 + 0.015 * strength, b.shape)
                b = np.clip(np.rint(value * 255), 0, 255).astype(np.uint8)
                mask_b = cv2.warpPerspective(mask.astype(np.uint8), h, size, flags=cv2.INTER_NEAREST) > 0

                def truth(xy: np.ndarray, h: np.ndarray = h, mask_b: np.ndarray = mask_b) -> np.ndarray:
                    moved = np.c_[xy - 0.5, np.ones(len(xy))] @ h.T
                    uv = moved[:, :2] / moved[:, 2:] + 0.5
                    whole = np.ones(mask_b.shape)
                    return where_seen(uv, np.ones(len(uv)), whole, mask_b)

                yield Case("plane", name, gap, image, b, mask, mask_b, truth)


def random_homography(rng: np.random.Generator, mask: np.ndarray, strength: float) -> np.ndarray:
    """About the middle of the object: rotation to 40 degrees, scale to 1.5, a little perspective, at strength 1."""
    rows, columns = np.nonzero(mask)
    centre = np.array([columns.mean(), rows.mean()])
    half = 0.5 * max(np.ptp(columns), np.ptp(rows), 16)
    turn = np.radians(40) * strength * rng.choice([-1, 1]) * rng.uniform(0.5, 1)
    scale = np.exp(strength * rng.uniform(-1, 1) * np.log(1.5))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1.0]]) * half
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = (corners * scale) @ spin.T + rng.uniform(-1, 1, (4, 2)) * 0.2 * strength * half + rng.uniform(-5, 5, 2)
    return cv2.getPerspectiveTransform((corners + centre).astype(np.float32), (moved + centre).astype(np.float32))


def measure(cases: list[Case], matcher: R2D2Matcher) -> dict[tuple[str, str, int], list[np.ndarray]]:
    """Errors in pixels of the matches whose truth is known, pair by pair."""
    out: dict[tuple[str, str, int], list[np.ndarray]] = {}
    for case in cases:
        found = matcher(case.a, case.b, case.mask_a, case.mask_b)
        xy_a, xy_b = found.xy_a.numpy().astype(float), found.xy_b.numpy().astype(float)
        true = case.truth(xy_a) if len(xy_a) else np.zeros((0, 2))
        known = np.isfinite(true).all(-1)
        out.setdefault((case.kind, case.clip, case.gap), []).append(np.linalg.norm(true - xy_b, axis=-1)[known])
    return out


def rows_of(errors: dict[tuple[str, str, int], list[np.ndarray]]) -> list[dict[str, float | str | int]]:
    """One row for each kind, clip and gap, and one for each kind and gap, over its clips ("all")."""
    grouped: dict[tuple[str, str, int], list[np.ndarray]] = {}
    for (kind, clip, gap), parts in errors.items():
        grouped.setdefault((kind, clip, gap), []).extend(parts)
        grouped.setdefault((kind, "all", gap), []).extend(parts)
    out: list[dict[str, float | str | int]] = []
    for (kind, clip, gap), parts in sorted(grouped.items()):
        flat = np.concatenate(parts)
        row: dict[str, float | str | int] = {"kind": kind, "clip": clip, "gap": gap, "pairs": len(parts),
                                             "matches": len(flat) / len(parts)}  # fmt: skip
        for limit in NEAR:
            row[f"within_{limit:g}"] = float((flat <= limit).mean()) if len(flat) else 0.0
        row["right_a_pair"] = float((flat <= 3.0).sum() / len(parts))
        out.append(row)
    return out


def show(tables: dict[str, list[dict[str, float | str | int]]], *, clips: bool) -> None:
    print("kind  clip               gap  " + "  ".join(f"{name[:34]:>34s}" for name in tables))
    print(" " * 29 + "  ".join(f"{'matches  <1px  <3px  <5px   right':>34s}" for _ in tables))
    for rows in zip(*tables.values()):
        first = rows[0]
        if first["clip"] != "all" and not clips:
            continue
        cells = [
            f"{row['matches']:8.0f} {100 * float(row['within_1']):5.1f} {100 * float(row['within_3']):5.1f} "
            f"{100 * float(row['within_5']):5.1f} {row['right_a_pair']:7.1f}"
            for row in rows
        ]
        print(f"{first['kind']:5s} {first['clip']:18s} {first['gap']:3d}  " + "  ".join(f"{c:>34s}" for c in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["small"])
    add_reference(parser)
    parser.add_argument("--kinds", nargs="+", default=["room", "own", "plane"], choices=["room", "own", "plane"])
    parser.add_argument("--pairs", type=int, default=6, help="of a clip and gap")
    parser.add_argument("--clips", action="store_true", help="a row for each clip too")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases: list[Case] = []
    if "room" in args.kinds:
        cases += room_cases(need_reference(parser, args.reference), args.pairs)
    if "own" in args.kinds:
        cases += own_cases(args.pairs)
    if "plane" in args.kinds:
        cases += plane_cases(need_reference(parser, args.reference), args.pairs)
    tables = {}
    for name in args.weights:
        matcher = R2D2Matcher(load_r2d2(None if name == "small" else name))
        begin = time.process_time()
        tables[Path(name).name] = rows_of(measure(cases, matcher))
        print(f"{Path(name).name}: {(time.process_time() - begin) / len(cases):.2f} s a pair (processor time)")
    show(tables, clips=args.clips)
    if args.json:
        args.json.write_text(json.dumps(tables, indent=1))


if __name__ == "__main__":
    main()
