"""Cameras in the files of other programs: transforms.json (nerfstudio, instant-ngp) and TUM trajectories.

Poses are those of the clip's own world: nothing is recentred or scaled. Frames without a pose are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyn4d.core.rotations import matrix_to_wxyz
from dyn4d.core.types import Camera, Timeline
from dyn4d.io.atomic import atomic_path, write_json

OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # of a camera's axes: y up, z towards the viewer


def write_transforms(
    path: str | Path, camera: Camera, timeline: Timeline, pictures: Sequence[str], *,
    held_out: Collection[int] = (), masks: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Write `transforms.json`: for each frame with a pose `transform_matrix`, world from camera, with OpenGL's camera
    axes (x right, y up, z backwards), and intrinsics in pixels with half-integer pixel centres.

    Format: docs.nerf.studio, "Custom data format". `time` in [0, 1] is the clip's, as D-NeRF data sets have it;
    `seconds` and `frame_index` are ours, which readers ignore.

    Args:
        camera: F. timeline: of F frames. pictures: F file names, as seen from the folder of `path`. masks: the same.
        held_out: frames that were not used: named as `test_filenames` (and `val_filenames`), all others as
            `train_filenames`.
    """
    _check("write_transforms", camera, timeline, pictures, masks or pictures)
    K = camera.K.double().cpu().numpy()
    rows = torch.nonzero(camera.registered).flatten().tolist()
    shared = len({K[row].tobytes() for row in rows}) <= 1
    head: dict[str, Any] = {"camera_model": "OPENCV", "w": camera.width, "h": camera.height}
    head |= {"k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    if shared and rows:
        head |= _lens(K[rows[0]])
    poses = camera.world_from_cam.double().cpu().numpy() @ OPENGL_FROM_OPENCV
    frames = []
    for row in rows:
        frame: dict[str, Any] = {"file_path": pictures[row]}
        if masks is not None:
            frame["mask_path"] = masks[row]
        frame |= {} if shared else _lens(K[row])
        frame |= {"time": float(timeline.times[row]), "seconds": float(timeline.seconds[row]), "frame_index": row}
        frames.append({**frame, "transform_matrix": poses[row].tolist()})
    if held_out:
        out = [pictures[row] for row in rows if row in held_out]
        head["train_filenames"] = [pictures[row] for row in rows if row not in held_out]
        head["val_filenames"] = head["test_filenames"] = out
    write_json(path, {**head, "frames": frames})


def _lens(K: np.ndarray) -> dict[str, float]:
    return {"fl_x": float(K[0, 0]), "fl_y": float(K[1, 1]), "cx": float(K[0, 2]), "cy": float(K[1, 2])}


def write_tum(path: str | Path, camera: Camera, timeline: Timeline) -> None:
    """Write a trajectory as lines `timestamp tx ty tz qx qy qz qw`: seconds of the clip, and the pose of the camera in
    the world (world from camera, OpenCV axes, the quaternion's real part last).

    Format: the TUM RGB-D benchmark's, read by evo and most SLAM tools.
    """
    _check("write_tum", camera, timeline)
    poses = camera.world_from_cam.double().cpu()
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    for row in torch.nonzero(camera.registered).flatten().tolist():
        w, x, y, z = matrix_to_wxyz(poses[row, :3, :3]).tolist()
        numbers = [*poses[row, :3, 3].tolist(), x, y, z, w]
        lines.append(" ".join([f"{timeline.seconds[row]:.9f}", *(f"{value:.12g}" for value in numbers)]))
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _check(name: str, camera: Camera, *others: Timeline | Sequence[str]) -> None:
    if any(len(other) != len(camera) for other in others):
        raise ValueError(f"{name}: {len(camera)} cameras, but {[len(other) for other in others]} names or times")
