"""The only place that opens data files: clips, truth, run artifacts, checkpoints, PLY, COLMAP models, video.

Everything is written under a temporary name and renamed, so that no reader ever sees half a file. Names are loaded
when first used: importing this package imports neither torch nor a codec.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyn4d.io.cameras_json import CameraFile, read_cameras, write_cameras
    from dyn4d.io.check import Finding, check_clip, refuse_errors
    from dyn4d.io.clips import load_clip
    from dyn4d.io.ply import PointCloud, read_ply, write_ply, write_points_ply
    from dyn4d.io.ply_compare import Comparison, compare_files
    from dyn4d.io.ply_convert import Conversion, convert_file
    from dyn4d.io.ply_info import PlyInfo, rows_info
    from dyn4d.io.ply_select import merge, select
    from dyn4d.io.row_writers import WriteOptions, Written, write_rows
    from dyn4d.io.rows import Rows, open_rows
    from dyn4d.io.selection import Selection
    from dyn4d.io.truth import Truth, load_truth, write_truth

_HOME = {
    "CameraFile": "cameras_json",
    "read_cameras": "cameras_json",
    "write_cameras": "cameras_json",
    "Finding": "check",
    "check_clip": "check",
    "refuse_errors": "check",
    "load_clip": "clips",
    "PointCloud": "ply",
    "read_ply": "ply",
    "write_ply": "ply",
    "write_points_ply": "ply",
    "Comparison": "ply_compare",
    "compare_files": "ply_compare",
    "Conversion": "ply_convert",
    "convert_file": "ply_convert",
    "PlyInfo": "ply_info",
    "rows_info": "ply_info",
    "Selection": "selection",
    "merge": "ply_select",
    "select": "ply_select",
    "WriteOptions": "row_writers",
    "Written": "row_writers",
    "write_rows": "row_writers",
    "Rows": "rows",
    "open_rows": "rows",
    "Truth": "truth",
    "load_truth": "truth",
    "write_truth": "truth",
}

__all__ = [
    "CameraFile",
    "Comparison",
    "Conversion",
    "Finding",
    "PlyInfo",
    "PointCloud",
    "Rows",
    "Selection",
    "Truth",
    "WriteOptions",
    "Written",
    "check_clip",
    "compare_files",
    "convert_file",
    "load_clip",
    "load_truth",
    "merge",
    "open_rows",
    "read_cameras",
    "read_ply",
    "refuse_errors",
    "rows_info",
    "select",
    "write_cameras",
    "write_ply",
    "write_points_ply",
    "write_rows",
    "write_truth",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
