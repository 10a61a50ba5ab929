"""Recordings of the iOS app Record3D: a .r3d file (a zip), or the folder that it unpacks to.

`metadata` is JSON: K (3x3, column by column), w, h, fps, poses [qx qy qz qw px py pz] (camera to world, OpenGL's axes),
dw, dh, and in newer versions perFrameIntrinsicCoeffs [fx fy cx cy] and frameTimestamps. `rgbd/<n>.jpg` are pictures,
`rgbd/<n>.depth` float32 metres packed with LZFSE, `rgbd/<n>.conf` bytes 0 to 2 packed likewise. Depth is coarser than
the pictures and is brought to their size. Format: the app's own notes and the readers of nerfstudio and DyCheck; ARKit
counts the principal point from the picture's corner.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dyn4d.core.errors import InputError
from dyn4d.io.importers.lens import Lens
from dyn4d.io.importers.options import ImportOptions
from dyn4d.io.importers.sequence import OPENCV_FROM_OPENGL, Pixels, Sequence4D, SourceFrame, from_quaternion

CODECS = ("lzfse", "liblzfse")
PACKED = (b"bvx1", b"bvx2", b"bvxn", b"bvx-", b"bvx$")  # how LZFSE streams begin


@dataclass(frozen=True)
class _Store:
    """The files of a recording. `names`: those in it; `read(name)`: the bytes of one."""

    path: Path
    names: frozenset[str]
    read: Callable[[str], bytes]


def open_store(source: Path) -> _Store:
    """A .r3d file or its unpacked folder. Raises `InputError` where it is neither, or damaged."""
    if source.is_dir():
        names = frozenset(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        return _Store(source, names, lambda name: (source / name).read_bytes())
    try:
        with zipfile.ZipFile(source) as archive:
            names = frozenset(archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{source} is no .r3d recording, or is cut short ({error}); export it again") from error

    def read(name: str) -> bytes:
        try:
            with zipfile.ZipFile(source) as archive:
                return archive.read(name)
        except (OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise InputError(f"{source}: {name} is damaged or cut short; export the recording again") from error

    return _Store(source, names, read)


def _decompressor(source: Path) -> Callable[[bytes], bytes]:
    name = next((name for name in CODECS if find_spec(name) is not None), None)
    if name is None:
        raise InputError(
            f"{source}: the depth is packed with LZFSE, for which a package is missing: pip install 'dyn4d[recordings]'"
        )
    return import_module(name).decompress


def unpack(data: bytes, decompress: Callable[[bytes], bytes], where: str) -> bytes:
    """LZFSE's content; what is not packed is left as it is. Raises `InputError` where it is damaged."""
    if data[:4] not in PACKED:
        return data
    try:
        return decompress(data)
    except Exception as error:  # the codec's own kind of error has no public name
        raise InputError(f"{where} cannot be unpacked; export the recording again") from error


def read_record3d(source: Path, options: ImportOptions) -> Sequence4D:
    """Every picture of the recording, with depth, intrinsics and pose.

    Raises:
        InputError: the file is damaged, keys are missing, or the package that unpacks depth is not installed.
    """
    store = open_store(source)
    name = next((n for n in ("metadata", "metadata.json") if n in store.names), None)
    if name is None:
        raise InputError(f"{source} is no Record3D recording: it has no metadata")
    try:
        meta = json.loads(store.read(name).decode("utf-8"))
    except ValueError as error:
        raise InputError(f"{source}: metadata is no JSON ({error}); export the recording again") from error
    if not isinstance(meta, dict):
        raise InputError(f"{source}: metadata holds no object")
    rows = sorted(int(Path(n).stem) for n in store.names if n.startswith("rgbd/") and _picture(n))
    if not rows:
        raise InputError(f"{source}: rgbd/ holds no pictures (rgbd/0.jpg ...)")
    suffix = next(Path(n).suffix for n in sorted(store.names) if n.startswith("rgbd/") and _picture(n))
    lenses, poses, times = _lenses(meta, rows, source), _poses(meta, rows, source), _times(meta, rows, source)
    packed = [f"rgbd/{row}.depth" for row in rows]
    decompress = _decompressor(source) if any(n in store.names for n in packed) else None
    frames = []
    for at, row in enumerate(rows):
        depth = None
        if decompress is not None and packed[at] in store.names:
            depth = _depth(store, row, meta, lenses[at], decompress, options.min_confidence)
        rgb = _rgb(store, f"rgbd/{row}{suffix}")
        frames.append(SourceFrame(f"{row:05d}", times[at], rgb, None, depth, lenses[at], poses[at]))
    notes = ("the recording has no poses",) if poses[0] is None else ()
    return Sequence4D("record3d", source, tuple(frames), notes=notes)


def _picture(name: str) -> bool:
    return name.lower().endswith((".jpg", ".jpeg", ".png")) and Path(name).stem.isdigit()


def _numbers(value: Any, shape: tuple[int, ...], source: Path, key: str) -> np.ndarray:
    """`value` as an array; -1 in `shape` fits any length."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    fits = array.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, array.shape))
    if not fits or not np.isfinite(array).all():
        raise InputError(f"{source}: metadata's {key} has not the shape {shape}; export the recording again")
    return array


def _lenses(meta: dict[str, Any], rows: list[int], source: Path) -> list[Lens]:
    w, h = (int(_numbers(meta.get(key), (), source, key)) for key in ("w", "h"))
    if meta.get("perFrameIntrinsicCoeffs"):
        each = _numbers(meta["perFrameIntrinsicCoeffs"], (-1, 4), source, "perFrameIntrinsicCoeffs")
        if len(each) > rows[-1]:
            return [Lens(w, h, fx, fy, cx, cy) for fx, fy, cx, cy in each[rows].tolist()]
    K = meta.get("K")
    flat = np.ravel(K) if isinstance(K, list) else K
    columns = _numbers(flat, (9,), source, "K").reshape(3, 3).T
    if min(columns[0, 0], columns[1, 1]) <= 0:
        raise InputError(f"{source}: metadata's K has no focal length")
    return [Lens(w, h, columns[0, 0], columns[1, 1], columns[0, 2], columns[1, 2])] * len(rows)


def _poses(meta: dict[str, Any], rows: list[int], source: Path) -> list[np.ndarray | None]:
    if not meta.get("poses"):
        return [None] * len(rows)
    table = _numbers(meta["poses"], (-1, 7), source, "poses")
    if len(table) <= rows[-1]:
        raise InputError(f"{source}: metadata has {len(table)} poses, rgbd/ goes to {rows[-1]}; export it again")
    out: list[np.ndarray | None] = []
    for row in rows:
        x, y, z, w, *centre = table[row]
        out.append(from_quaternion([w, x, y, z], centre, f"{source}: pose {row}") @ OPENCV_FROM_OPENGL)
    return out


def _times(meta: dict[str, Any], rows: list[int], source: Path) -> list[float]:
    stamps = meta.get("frameTimestamps")
    if stamps:
        seconds = _numbers(stamps, (-1,), source, "frameTimestamps")
        if len(seconds) > rows[-1] and bool((np.diff(seconds[rows]) > 0).all()):
            return [float(seconds[row] - seconds[rows[0]]) for row in rows]
    fps = float(_numbers(meta.get("fps", 30), (), source, "fps"))
    if fps <= 0:
        raise InputError(f"{source}: metadata's fps is {fps:g}")
    return [row / fps for row in rows]


def _rgb(store: _Store, name: str) -> Pixels:
    def read() -> np.ndarray:
        try:
            with Image.open(io.BytesIO(store.read(name))) as picture:
                return np.array(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"{store.path}: {name} is no picture that can be read; export it again") from error

    return Pixels(read, f"{store.path}, {name}", store.path / name if store.path.is_dir() else None)


def _depth(
    store: _Store, row: int, meta: dict[str, Any], lens: Lens, decompress: Callable[[bytes], bytes], least: int
) -> Pixels:
    where = f"{store.path}, rgbd/{row}.depth"

    def read() -> np.ndarray:
        values = np.frombuffer(unpack(store.read(f"rgbd/{row}.depth"), decompress, where), dtype="<f4")
        depth = values.reshape(_shape(values.size, meta, lens, where))
        sure = f"rgbd/{row}.conf"
        if least and sure in store.names:
            marks = np.frombuffer(unpack(store.read(sure), decompress, f"{store.path}, {sure}"), np.uint8)
            if marks.size == depth.size:
                depth = np.where(marks.reshape(depth.shape) >= least, depth, 0)
        return np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)

    return Pixels(read, where)


def _shape(count: int, meta: dict[str, Any], lens: Lens, where: str) -> tuple[int, int]:
    """Rows and columns of a depth map: those that metadata says, else the only ones with the picture's shape."""
    if meta.get("dw") and meta.get("dh"):
        shape = int(meta["dh"]), int(meta["dw"])
    else:
        height = round((count * lens.height / lens.width) ** 0.5)
        shape = height, count // max(height, 1)
    if shape[0] * shape[1] != count or count == 0:
        raise InputError(f"{where} has {count} values, not {shape[1]} x {shape[0]}; export the recording again")
    return shape
