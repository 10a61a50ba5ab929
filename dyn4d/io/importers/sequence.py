"""What every importer makes: frames with functions that read them, in this package's conventions.

Poses are world_from_cam with OpenCV axes, pixel centres half-integer, depth planar z in world units with 0 = none,
times in seconds, increasing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io.importers.lens import Lens
from dyn4d.io.importers.options import DEFAULT_FPS, ImportOptions
from dyn4d.io.layout import natural_key

OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # of a camera's axes; its own inverse


@dataclass(frozen=True)
class Pixels:
    """A picture or map that is read when asked for.

    Attributes:
        read: gives it. label: names it in messages.
        file: holds exactly that and may be copied as it is; or None.
    """

    read: Callable[[], np.ndarray]
    label: str
    file: Path | None = None


@dataclass(frozen=True)
class SourceFrame:
    """One picture of a source.

    Attributes:
        name: its stem. seconds: when. rgb: (H, W, 3) uint8, or (H, W, 4) with straight alpha, which is the mask.
        mask: (H, W) bool. depth: (h, w) float32. Both may have another size than rgb. Or None.
        lens, world_from_cam: or None where unknown.
        view: of held-out pictures, the name of their group.
    """

    name: str
    seconds: float
    rgb: Pixels
    mask: Pixels | None = None
    depth: Pixels | None = None
    lens: Lens | None = None
    world_from_cam: np.ndarray | None = None
    view: str = ""


@dataclass(frozen=True)
class Sequence4D:
    """A source as read; pictures stay where they are.

    Attributes:
        format: its name. source: where it lies. frames: of the clip, by time. held_out: pictures of other cameras.
        depth_div: of depth files that may be copied; None: depth is kept as floats.
        alpha: an alpha channel of the pictures is the mask.
        extra: more files: name in the clip folder -> file. notes: what a person should know.
    """

    format: str
    source: Path
    frames: tuple[SourceFrame, ...]
    held_out: tuple[SourceFrame, ...] = ()
    depth_div: float | None = None
    alpha: bool = False
    extra: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def rigid(matrix: object, where: str) -> np.ndarray:
    """(4, 4) rigid, from 3x4 or 4x4 numbers; rotations off by rounding are mended.

    Raises:
        InputError: another shape, not finite, scaled or mirrored.
    """
    try:
        values = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape not in ((3, 4), (4, 4)) or not np.isfinite(values).all():
        raise InputError(f"{where} is not a 4x4 matrix of finite numbers")
    out = np.eye(4)
    left, _, right = np.linalg.svd(values[:3, :3])
    out[:3, :3] = left @ right
    off = float(np.abs(out[:3, :3] - values[:3, :3]).max())
    if off > 1e-2 or np.linalg.det(out[:3, :3]) < 0:
        raise InputError(f"{where} is not rigid (its rotation is off by {off:.2g}); poses must not scale or mirror")
    out[:3, 3] = values[:3, 3]
    return out


def from_quaternion(wxyz: Sequence[float] | np.ndarray, centre: Sequence[float] | np.ndarray, where: str) -> np.ndarray:
    """(4, 4) of a rotation and a translation; raises `InputError` where the quaternion is not one."""
    import torch

    from dyn4d.core.rotations import wxyz_to_matrix

    turn = np.asarray(wxyz, np.float64)
    if not (np.isfinite(turn).all() and np.isfinite(np.asarray(centre, np.float64)).all()):
        raise InputError(f"{where} is not finite")
    length = float(np.linalg.norm(turn))
    if not 0.9 < length < 1.1:
        raise InputError(f"{where}: {turn.tolist()} is no unit quaternion (length {length:.3g})")
    out = np.eye(4)
    out[:3, :3] = wxyz_to_matrix(torch.from_numpy(turn / length)).numpy()
    out[:3, 3] = centre
    return out


def inverse(pose: np.ndarray) -> np.ndarray:
    """Of a rigid (4, 4)."""
    out = np.eye(4)
    out[:3, :3] = pose[:3, :3].T
    out[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return out


def by_name(frames: Sequence[SourceFrame]) -> list[SourceFrame]:
    """In natural order of their pictures' names."""
    return sorted(frames, key=lambda frame: natural_key(Path(frame.name)))


def steady(frames: Sequence[SourceFrame], options: ImportOptions) -> list[SourceFrame]:
    """Frames without times, evenly spaced."""
    fps = options.fps or DEFAULT_FPS
    return [replace(frame, seconds=row / fps) for row, frame in enumerate(frames)]


def spread(
    frames: Sequence[SourceFrame], held_out: Sequence[SourceFrame], options: ImportOptions
) -> tuple[list[SourceFrame], list[SourceFrame]]:
    """Times of unknown unit (such as fractions of the clip) as seconds: `options.fps` is the clip's mean frame rate."""
    times = np.unique([frame.seconds for frame in frames])
    span = float(times[-1] - times[0])
    scale = (len(times) - 1) / (options.fps or DEFAULT_FPS) / span if span > 0 else 1.0
    parts = [[replace(f, seconds=(f.seconds - float(times[0])) * scale) for f in part] for part in (frames, held_out)]
    return parts[0], parts[1]


def one_per_instant(
    frames: Sequence[SourceFrame], view: str
) -> tuple[list[SourceFrame], list[SourceFrame], tuple[str, ...]]:
    """Frames by time, one an instant; those of further cameras at the same instant, as held-out pictures of the group
    `view`; and a line that says so."""
    kept: list[SourceFrame] = []
    more: list[SourceFrame] = []
    for frame in sorted(frames, key=lambda f: f.seconds):
        if kept and frame.seconds - kept[-1].seconds < 1e-9:
            more.append(replace(frame, view=view))
        else:
            kept.append(frame)
    if not more:
        return kept, more, ()
    note = (
        f"{len(more)} of {len(frames)} pictures show an instant that another one shows too; they are held-out views "
        f"({view}), because a clip has one picture an instant"
    )
    return kept, more, (note,)


def numbers(text: str, count: int, where: str) -> list[float]:
    """`count` numbers of a line of text; raises `InputError` where they are not there."""
    try:
        values = [float(word) for word in text.replace(",", " ").split()[:count]]
    except ValueError:
        values = []
    if len(values) != count:
        raise InputError(f"{where}: {text.strip()[:80]!r} does not hold the {count} numbers that belong there")
    return values
