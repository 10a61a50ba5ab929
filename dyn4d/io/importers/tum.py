"""Folders of the TUM RGB-D benchmark: rgb.txt, depth.txt, groundtruth.txt.

Lists hold `timestamp file`, the trajectory `timestamp tx ty tz qx qy qz qw`: the colour camera in the world, OpenCV's
axes. Depth PNGs count 5000 to the metre and are registered to the colour pictures. Format: the benchmark's pages "File
formats" and "Useful tools". The folders hold no intrinsics; the benchmark recommends those of ROS for its pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.io.images import image_size
from dyn4d.io.importers.lens import Lens
from dyn4d.io.importers.options import ImportOptions
from dyn4d.io.importers.pixels import depth_pixels, picture_pixels
from dyn4d.io.importers.sequence import Sequence4D, SourceFrame, from_quaternion, numbers

DEPTH_DIV = 5000.0
REACH = 0.02  # seconds: the benchmark's own tools pair what is no farther apart
ROS_DEFAULT = (525.0, 525.0, 319.5, 239.5)  # integer pixel centres, 640x480


def given_lens(options: ImportOptions, size: tuple[int, int]) -> Lens | None:
    """The lens of `--intrinsics`."""
    if not options.intrinsics:
        return None
    fx, fy, cx, cy = options.intrinsics
    shift = 0.5 if options.pixel_centre == "integer" else 0.0
    return Lens(size[0], size[1], fx, fy, cx + shift, cy + shift)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error
    return [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]


def read_list(path: Path) -> list[tuple[float, Path]]:
    """(seconds, file) of the lines, by time. Raises `InputError` naming file and line."""
    found = []
    for number, line in _lines(path):
        words = line.split(maxsplit=1)
        if len(words) != 2:
            raise InputError(f"{path}, line {number}: wanted a timestamp and a file, found {line[:60]!r}")
        file = path.parent / words[1].strip()
        if not file.is_file():
            raise InputError(
                f"{file} is not there, but {path.name}, line {number} names it; add it or take the line out"
            )
        found.append((numbers(words[0], 1, f"{path}, line {number}")[0], file))
    return sorted(found, key=lambda item: item[0])


def read_trajectory(path: Path) -> list[tuple[float, np.ndarray]]:
    """(seconds, world_from_cam) of the lines, by time. Raises `InputError` naming file and line."""
    found = []
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        time, tx, ty, tz, qx, qy, qz, qw = numbers(line, 8, where)
        found.append((time, from_quaternion([qw, qx, qy, qz], [tx, ty, tz], where)))
    return sorted(found, key=lambda item: item[0])


def nearest(times: Sequence[float], wanted: Sequence[float], reach: float) -> list[int | None]:
    """For each wanted time the row of the nearest of `times` (increasing), None where it is farther than `reach`."""
    if not times:
        return [None] * len(wanted)
    known = np.asarray(times)
    after = np.clip(np.searchsorted(known, wanted), 0, len(known) - 1)
    before = np.maximum(after - 1, 0)
    rows = np.where(np.abs(known[before] - wanted) <= np.abs(known[after] - wanted), before, after)
    far = np.abs(known[rows] - wanted) > reach + 1e-9
    return [None if off else int(row) for row, off in zip(rows, far)]


def read_tum(source: Path, options: ImportOptions) -> Sequence4D:
    """Every colour picture is a frame, with the depth and the pose nearest in time, up to 20 ms away.

    Raises:
        InputError: a list or a file is missing or damaged; names file and line.
    """
    pictures = read_list(source / "rgb.txt")
    if not pictures:
        raise InputError(f"{source / 'rgb.txt'} lists no pictures")
    depths = read_list(source / "depth.txt") if (source / "depth.txt").is_file() else []
    poses = read_trajectory(source / "groundtruth.txt") if (source / "groundtruth.txt").is_file() else []
    div = options.depth_div or DEPTH_DIV
    times = [time for time, _ in pictures]
    of_depth = nearest([time for time, _ in depths], times, REACH)
    of_pose = nearest([time for time, _ in poses], times, REACH)
    size = image_size(pictures[0][1])
    lens = given_lens(options, size)
    notes = []
    if lens is None:
        if size != (640, 480):
            raise InputError(
                f"{source}: the pictures are {size[0]}x{size[1]}, not 640x480, so their intrinsics are not known; give "
                "them with --intrinsics FX FY CX CY"
            )
        fx, fy, cx, cy = ROS_DEFAULT
        lens = Lens(640, 480, fx, fy, cx + 0.5, cy + 0.5)
        notes.append("intrinsics: ROS' 525, 525, 319.5, 239.5, as the benchmark recommends (--intrinsics: others)")
    frames = []
    for (time, file), d, p in zip(pictures, of_depth, of_pose):
        frames.append(
            SourceFrame(
                name=file.stem, seconds=time, rgb=picture_pixels(file), lens=lens,
                depth=None if d is None else depth_pixels(depths[d][1], div),
                world_from_cam=None if p is None else poses[p][1],
            )
        )  # fmt: skip
    if poses:
        lost = sum(p is None for p in of_pose)
        notes += [f"{lost} of {len(frames)} pictures have no pose within {REACH * 1000:g} ms"] if lost else []
    return Sequence4D("tum", source, tuple(frames), depth_div=div, notes=tuple(notes))
