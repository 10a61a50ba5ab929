"""Tracks as they leave a run: Gaussians' and observed points', with what is known of their visibility and confidence,
and their CSV file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dyn4d.core.checks import check_shape
from dyn4d.core.types import GaussianCloud, Timeline
from dyn4d.deformation.tracks import Tracks
from dyn4d.io import artifacts
from dyn4d.io.atomic import atomic_path

HEAD = ("track", "frame", "seconds", "x", "y", "z", "visible", "confidence")


@dataclass(frozen=True)
class TrackTable:
    """N points followed over all F frames of a clip.

    Attributes:
        name: what they are: `gaussians` or `points`.
        xyz: (F, N, 3) float32 world. rgb: (N, 3) in [0, 1]. seconds: (F,) of the clip.
        identity: (N,) what each is called: the row in the PLYs for Gaussians, else its number.
        visible: (F, N) bool, or None where nobody looked. confidence: (F, N) in [0, 1], or None where unknown.
    """

    name: str
    xyz: np.ndarray
    rgb: np.ndarray
    seconds: np.ndarray
    identity: np.ndarray
    visible: np.ndarray | None = None
    confidence: np.ndarray | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("xyz", ("F", "N", 3)), ("rgb", ("N", 3)), ("seconds", ("F",)), ("identity", ("N",)),
                             ("visible", ("F", "N")), ("confidence", ("F", "N"))):  # fmt: skip
            if getattr(self, label) is not None:
                check_shape(f"TrackTable.{label}", getattr(self, label), shape, sizes)


def gaussian_table(tracks: Path, cloud: GaussianCloud, timeline: Timeline) -> TrackTable:
    """`export/tracks.npz` as a table; a Gaussian's confidence is the same in all frames."""
    found = artifacts.load(tracks, dict)
    rows = found["gaussian"]
    confidence = None
    if cloud.confidence is not None:
        one = cloud.confidence.cpu().numpy()[rows]
        confidence = np.broadcast_to(one, (len(timeline), len(rows)))
    return TrackTable("gaussians", found["xyz"], found["rgb"], timeline.seconds, rows, None, confidence)


def point_table(tracks: Path, timeline: Timeline) -> TrackTable:
    """`deformation/tracks.npz` as a table."""
    found = artifacts.load(tracks, Tracks)
    count = found.xyz.shape[1]
    return TrackTable(
        "points", found.xyz.numpy(), found.rgb.numpy(), timeline.seconds, np.arange(count), found.visible.numpy(),
        found.conf.numpy(),
    )  # fmt: skip


def write_csv(path: str | Path, table: TrackTable) -> None:
    """Write one line for each track and frame, atomically, frame after frame.

    Columns: track (`TrackTable.identity`), frame of the clip, seconds, x y z in world units to 7 digits, visible (0, 1
    or empty where unknown), confidence (to 4 places, or empty).
    """
    frames, count = table.xyz.shape[:2]
    names = table.identity.tolist()
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(",".join(HEAD) + "\n")
        for frame in range(frames):
            seen = [""] * count if table.visible is None else table.visible[frame].astype(int).tolist()
            conf = [""] * count
            if table.confidence is not None:
                conf = [f"{value:.4f}" if np.isfinite(value) else "" for value in table.confidence[frame].tolist()]
            when = f"{frame},{table.seconds[frame]:.9g}"
            stream.writelines(
                f"{name},{when},{x:.7g},{y:.7g},{z:.7g},{v},{c}\n"
                for name, (x, y, z), v, c in zip(names, table.xyz[frame].tolist(), seen, conf)
            )
