"""Camera poses from depth and optical flow alone, on clips whose poses are known and withheld.

    python benchmarks/poses.py [CLIP ...] [--frames a:b:s] [--anchor auto|background|object] [--json OUT]

A clip is a folder with depth and cameras.json; `turntable` and `room` are made here: the turntable is anchored on the
object, whose own motion counts as the camera's, the room on its background. Errors are after the best similarity
between the camera centres; the centre's as a share of the object's size.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.cameras import unproject
from dyn4d.core.rotations import rigid_fit, rotation_angle, similarity_fit
from dyn4d.core.types import Camera, Clip
from dyn4d.geometry.depth_alignment import solve_depth_poses
from dyn4d.io.clips import load_clip

SCENES = {"turntable": ("turntable", "grey", "object"), "room": ("creature", "room", "background")}


def make_scene(name: str, folder: Path) -> Path:
    """The folder of a procedural clip; its truth lies beside it."""
    from dyn4d.synthetic import build_scene, write_scene

    scene, background, _ = SCENES[name]
    write_scene(build_scene(scene, background=background), folder)
    return folder / "clip"


def seen_from_the_object(cameras: Camera, tracks: Path, frames: np.ndarray) -> Camera:
    """Cameras relative to a rigid object, from its true tracks."""
    with np.load(tracks) as data:
        points = torch.from_numpy(data["tracks_world"]).double()[torch.from_numpy(frames)]
    poses = cameras.world_from_cam.double().clone()
    for row in range(len(points)):
        motion = torch.eye(4, dtype=torch.float64)
        motion[:3, :3], motion[:3, 3] = rigid_fit(points[0], points[row])
        poses[row] = torch.linalg.inv(motion) @ poses[row]
    return replace(cameras, world_from_cam=poses)


def object_size(clip: Clip) -> float:
    """Largest side of the box around the object's points in the first, middle and last frame."""
    assert clip.depth is not None and clip.cameras is not None
    parts: list[Tensor] = []
    for row in {0, len(clip) // 2, len(clip) - 1}:
        depth, mask = np.asarray(clip.depth[row]), np.asarray(clip.masks[row])
        y, x = np.nonzero(mask & (depth > 0))
        xy = torch.from_numpy(np.stack([x, y], -1) + 0.5)
        z = torch.from_numpy(depth[y, x].astype(np.float64))
        parts.append(unproject(clip.cameras.K[row].double(), clip.cameras.world_from_cam[row].double(), xy, z))
    points = torch.cat(parts)
    return float((points.amax(0) - points.amin(0)).max())


def measure(clip: Clip, true: Camera, anchor: str) -> dict[str, Any]:
    """One row."""
    unknown = replace(true, world_from_cam=torch.full_like(true.world_from_cam, torch.nan))
    start, worked = time.perf_counter(), time.process_time()
    found = solve_depth_poses(replace(clip, cameras=unknown, poses_given=False), anchor=anchor)
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    placed = found.cameras.registered
    ours, theirs = found.cameras.world_from_cam[placed], true.world_from_cam[placed].double()
    R, t, s = similarity_fit(ours[:, :3, 3], theirs[:, :3, 3])
    centre = (s * ours[:, :3, 3] @ R.T + t - theirs[:, :3, 3]).norm(dim=-1) / object_size(clip)
    turned = torch.rad2deg(rotation_angle(R @ ours[:, :3, :3], theirs[:, :3, :3]))
    return {
        "clip": clip.name, "anchor": found.notes[0].split(" on the ")[1].split()[0], "placed": int(placed.sum()),
        "frames": len(clip), "centre_mean": float(centre.mean()), "centre_max": float(centre.max()),
        "rotation_mean": float(turned.mean()), "rotation_max": float(turned.max()), "scale": float(s),
        "pixel_error": found.pixel_error, "seconds": seconds, "processor_seconds": worked,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="*", default=list(SCENES))
    parser.add_argument("--frames", help="start:stop:step")
    parser.add_argument("--anchor", default="auto", choices=("auto", "background", "object"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    heads = ("clip", "anchor", "placed", "centre mean, max (of the object's size)", "rotation mean, max °", "scale")
    print("| " + " | ".join((*heads, "s", "s of the processor")) + " |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.clips:
            made = name in SCENES
            folder = make_scene(name, Path(scratch) / name) if made else Path(name)
            clip = load_clip(folder, frames=options.frames)
            assert clip.cameras is not None
            anchor, true = SCENES[name][2] if made else options.anchor, clip.cameras
            if name == "turntable":
                true = seen_from_the_object(true, folder.parent / "truth" / "tracks.npz", clip.frames)
            row = {**measure(clip, true, anchor), "clip": name if made else folder.name}
            rows.append(row)
            print(
                f"| {row['clip']} | {row['anchor']} | {row['placed']}/{row['frames']} | {row['centre_mean']:.2%}, "
                f"{row['centre_max']:.2%} | {row['rotation_mean']:.3f}, {row['rotation_max']:.3f} | {row['scale']:.4f} "
                f"| {row['seconds']:.0f} | {row['processor_seconds']:.0f} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
