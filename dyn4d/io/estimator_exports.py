"""What VGGT, Depth Anything 3, MonST3R and CUT3R leave on disk, recognised by the names of files and arrays.

Written from public descriptions of these files, without their programs; `docs/geometry.md` lists what is recognised.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.io.layout import list_files, natural_key
from dyn4d.io.npz import NpzFile, read_npy
from dyn4d.io.pointmaps import ArrayNames, EstimatedMap, StackedMaps, checked_intrinsics, checked_pose

Export = tuple[str, Path, int, Callable[[int], EstimatedMap | None]]
CORNER = 0.5  # the DUSt3R family counts pixels from the centre of the first one

VGGT = ArrayNames(
    "VGGT",
    {"depth": "depth", "world_points": "points_world", "extrinsic": "cam_from_world", "intrinsic": "K"},
    conf_of={"depth": "depth_conf", "world_points": "world_points_conf"},
)
DEPTH_ANYTHING = ArrayNames(
    "Depth Anything 3",
    {
        "depth": "depth", "conf": "conf", "extrinsics": "cam_from_world", "exts": "cam_from_world", "intrinsics": "K",
        "ixts": "K",
    },
)  # fmt: skip
_INSIDE = ("predictions.npz", "exports/npz/results.npz", "exports/mini_npz/results.npz", "results.npz")


def find_export(path: Path) -> Export | None:
    """(estimator, file or folder, number of maps, reader of one map) if `path` is a known export, else None.

    Raises:
        InputError: it is one, but damaged or not whole.
    """
    if path.is_dir():
        if (path / "depth").is_dir() and (path / "camera").is_dir():
            return _cut3r(path)
        if any(path.glob("frame_*.npy")):
            return _monst3r(path)
        file = next((path / name for name in _INSIDE if (path / name).is_file()), None)
        alone = list_files(path, (".npz",))
        if file is None and len(alone) == 1:
            file = alone[0]
        return None if file is None else _npz(file)
    if path.suffix.lower() != ".npz":
        raise InputError(f"{path} is no .npz; give an .npz, a folder of them or an estimator's export")
    return _npz(path)


def _npz(path: Path) -> Export | None:
    file = NpzFile(path)
    if "extrinsic" in file.names and file.names & {"depth", "world_points"}:
        names = VGGT
    elif "depth" in file.names and file.names & {"extrinsics", "exts", "intrinsics", "ixts"}:
        names = DEPTH_ANYTHING
    else:
        return None
    stack = StackedMaps(file, names)
    return names.estimator, path, len(stack), stack


def _depth(path: Path) -> np.ndarray:
    return _plane(path, "depth")


def _plane(path: Path, what: str) -> np.ndarray:
    values = read_npy(path)
    while values.ndim > 2 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "fiu" or 0 in values.shape:
        raise InputError(f"{path}: {what} of shape {values.shape} and type {values.dtype}; wanted numbers (H, W)")
    return np.array(values, dtype=np.float64)


def _confidence(path: Path | None, depth: np.ndarray) -> np.ndarray | None:
    if path is None:
        return None
    conf = _plane(path, "confidence")
    if conf.shape != depth.shape:
        raise InputError(f"{path} is of shape {conf.shape}, its depth {depth.shape}; they belong together")
    return conf


def _same_count(folder: Path, count: int, other: int, what: str) -> None:
    if other != count:
        raise InputError(f"{folder} has {count} depth maps, but {other} {what}; export it again")


# ------------------------------------------------------------------------------------------- MonST3R


def _monst3r(folder: Path) -> Export:
    """`frame_0000.npy` depth, `conf_0.npy`, `pred_traj.txt` (t x y z qw qx qy qz, camera to world) and
    `pred_intrinsics.txt` (nine numbers a frame, pixels of the depth map)."""
    depths = sorted(folder.glob("frame_*.npy"), key=natural_key)
    confs = sorted(folder.glob("conf_*.npy"), key=natural_key)
    if confs:
        _same_count(folder, len(depths), len(confs), "confidences (conf_*.npy)")
    poses, K = _trajectory(folder / "pred_traj.txt"), _intrinsics(folder / "pred_intrinsics.txt")
    for values, name in ((poses, "poses in pred_traj.txt"), (K, "intrinsics in pred_intrinsics.txt")):
        if values is not None:
            _same_count(folder, len(depths), len(values), name)

    def read(row: int) -> EstimatedMap:
        path = depths[row]
        depth = _depth(path)
        return EstimatedMap(
            str(path),
            depth,
            None,
            conf=_confidence(confs[row] if confs else None, depth),
            K=None if K is None else checked_intrinsics(K[row], f"{path}, its K in pred_intrinsics.txt", CORNER),
            world_from_cam=None if poses is None else checked_pose(poses[row], f"{path}, its pose in pred_traj.txt"),
        )

    return "MonST3R", folder, len(depths), read


def _numbers(path: Path) -> np.ndarray | None:
    """The numbers of a text file, a row a line; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        lines = [line.split("#")[0].replace(",", " ").split() for line in path.read_text(encoding="utf-8").splitlines()]
        return np.array([[float(word) for word in line] for line in lines if line], dtype=np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no table of numbers; export it again") from error


def _trajectory(path: Path) -> np.ndarray | None:
    table = _numbers(path)
    if table is None:
        return None
    if table.ndim != 2 or table.shape[1] != 8 or not (np.linalg.norm(table[:, 4:], axis=1) > 1e-6).all():
        raise InputError(f"{path}: wanted lines of eight numbers: t x y z qw qx qy qz")
    poses = np.tile(np.eye(4), (len(table), 1, 1))
    poses[:, :3, :3] = wxyz_to_matrix(torch.from_numpy(table[:, 4:])).numpy()
    poses[:, :3, 3] = table[:, 1:4]
    return poses


def _intrinsics(path: Path) -> np.ndarray | None:
    table = _numbers(path)
    if table is None:
        return None
    if table.ndim != 2 or table.shape[1] not in (3, 9) or table.size % 9:
        raise InputError(f"{path}: wanted nine numbers for each frame, K row by row")
    return table.reshape(-1, 3, 3)


# --------------------------------------------------------------------------------------------- CUT3R


def _cut3r(folder: Path) -> Export:
    """`depth/*.npy`, `conf/*.npy` and `camera/*.npz` with `pose` (camera to world) and `intrinsics`."""
    depths, cameras = list_files(folder / "depth", (".npy",)), list_files(folder / "camera", (".npz",))
    confs = list_files(folder / "conf", (".npy",)) if (folder / "conf").is_dir() else []
    if not depths:
        raise InputError(f"{folder / 'depth'} holds no depth maps (.npy); export it again")
    _same_count(folder, len(depths), len(cameras), "cameras (camera/*.npz)")
    if confs:
        _same_count(folder, len(depths), len(confs), "confidences (conf/*.npy)")

    def read(row: int) -> EstimatedMap:
        depth, camera = _depth(depths[row]), NpzFile(cameras[row])
        where = str(cameras[row])
        return EstimatedMap(
            str(depths[row]),
            depth,
            None,
            conf=_confidence(confs[row] if confs else None, depth),
            K=checked_intrinsics(_matrix(camera, "intrinsics", ((3, 3),)), where, CORNER),
            world_from_cam=checked_pose(_matrix(camera, "pose", ((4, 4), (3, 4))), where),
        )

    return "CUT3R", folder, len(depths), read


def _matrix(file: NpzFile, name: str, shapes: tuple[tuple[int, int], ...]) -> np.ndarray | None:
    if name not in file.names:
        return None
    values = file.array(name)
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.shape not in shapes or values.dtype.kind not in "fiu":
        wanted = " or ".join(f"{a}x{b}" for a, b in shapes)
        raise InputError(
            f"{file.path}: {name} of shape {values.shape} and type {values.dtype}; wanted {wanted} numbers"
        )
    return np.array(values, dtype=np.float64)
