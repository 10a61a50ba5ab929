"""PLY files: standard 3D Gaussian Splatting clouds and plain point clouds.

The Gaussian layout is the one every viewer reads: one `vertex` element, all `float`, in the order x y z, nx ny nz
(zeros), f_dc_0..2, f_rest_* (all red coefficients, then green, then blue), opacity (logit), scale_0..2 (natural
logarithm of the standard deviation in world units), rot_0..3 (w, x, y, z). Rows keep their order, so that row i of a
sequence is one trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.core.errors import InputError
from dyn4d.core.types import GaussianCloud
from dyn4d.io.atomic import atomic_path
from dyn4d.io.ply_body import check_size, element_blocks
from dyn4d.io.ply_fields import (
    DC,
    GAUSSIAN_FIELDS,
    NORMAL,
    OPACITY_EDGE,
    POSITION,
    REST_COUNTS,
    ROTATION,
    SCALE,
    colour_names,
    confidence_name,
    is_gaussian,
    rest_count,
    rest_names,
)
from dyn4d.io.ply_header import read_header

# smallest standard deviation: keeps the logarithm finite
_SMALLEST_SCALE = 1e-20


@dataclass(frozen=True)
class PointCloud:
    """Points of a PLY file that holds no Gaussians.

    Attributes:
        xyz: (N, 3) float32 world. rgb: (N, 3) float32 in [0, 1], or None. normal: (N, 3), or None.
        conf: (N,), or None.
    """

    xyz: Tensor
    rgb: Tensor | None = None
    normal: Tensor | None = None
    conf: Tensor | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        check_shape("PointCloud.xyz", self.xyz, ("N", 3), sizes)
        for label, shape in (("rgb", ("N", 3)), ("normal", ("N", 3)), ("conf", ("N",))):
            if getattr(self, label) is not None:
                check_shape(f"PointCloud.{label}", getattr(self, label), shape, sizes)

    def __len__(self) -> int:
        return self.xyz.shape[0]


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def _write(path: str | Path, vertices: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        PlyData([PlyElement.describe(vertices, "vertex")], text=False, byte_order="<").write(stream)


def write_ply(path: str | Path, cloud: GaussianCloud) -> None:
    """Write a cloud in the standard 3DGS layout, atomically; a confidence is one property more, at the end.

    Opacities are kept 1e-7 off 0 and 1, whose logits are infinite; quaternions are written with length 1.
    """
    _write(path, gaussian_rows(cloud))


def gaussian_rows(cloud: GaussianCloud) -> np.ndarray:
    """A cloud as the records (N,) of a 3DGS PLY, little-endian float32; see `write_ply`."""
    count = len(cloud)
    rest = _array(cloud.sh[:, 1:].transpose(1, 2).reshape(count, 3 * (cloud.sh.shape[1] - 1)).float())
    opacity = cloud.opacities.double().clamp(OPACITY_EDGE, 1 - OPACITY_EDGE)
    columns = [
        (POSITION, _array(cloud.means)),
        (NORMAL, np.zeros((count, 3))),
        (DC, _array(cloud.sh[:, 0])),
        (rest_names(rest.shape[1]), rest),
        (("opacity",), _array(torch.logit(opacity))[:, None]),
        (SCALE, _array(cloud.scales.double().clamp_min(_SMALLEST_SCALE).log())),
        (ROTATION, _array(torch.nn.functional.normalize(cloud.quats_wxyz.double(), dim=-1))),
    ]
    if cloud.confidence is not None:
        columns.append((("confidence",), _array(cloud.confidence)[:, None]))
    names = [name for group, _ in columns for name in group]
    table = np.concatenate([values.astype("<f4") for _, values in columns], axis=1)
    # All fields are floats in a row: the table already has the bytes of the records.
    return np.ascontiguousarray(table).view([(name, "<f4") for name in names]).reshape(count)


def write_points_ply(
    path: str | Path,
    xyz: Tensor | np.ndarray,
    rgb: Tensor | np.ndarray | None = None,
    *,
    normal: Tensor | np.ndarray | None = None,
    conf: Tensor | np.ndarray | None = None,
) -> None:
    """Write points (N, 3) with colours (N, 3) (uint8, or float in [0, 1]), normals (N, 3) and confidences (N,)."""
    groups: list[tuple[tuple[str, ...], str, np.ndarray]] = [(POSITION, "<f4", _points(xyz))]
    if normal is not None:
        groups.append((NORMAL, "<f4", _points(normal)))
    if rgb is not None:
        colours = _points(rgb)
        if colours.dtype != np.uint8:
            colours = np.round(np.clip(colours, 0, 1) * 255).astype(np.uint8)
        groups.append((("red", "green", "blue"), "u1", colours))
    if conf is not None:
        groups.append((("confidence",), "<f4", _points(conf)[:, None]))
    vertices = np.empty(len(groups[0][2]), dtype=[(name, kind) for names, kind, _ in groups for name in names])
    for names, _, values in groups:
        if values.shape != (len(vertices), len(names)):
            raise ValueError(f"write_points_ply: {names} has shape {values.shape}, xyz {len(vertices)} rows")
        for column, name in enumerate(names):
            vertices[name] = values[:, column]
    _write(path, vertices)


def _points(value: Tensor | np.ndarray) -> np.ndarray:
    return _array(value) if isinstance(value, Tensor) else np.asarray(value)


def read_elements(path: str | Path) -> PlyData:
    """The parsed file. Raises one `InputError` for whatever is wrong with it, with the byte, row or line."""
    header = read_header(path)
    check_size(header)
    try:
        return PlyData.read(str(header.path))
    # plyfile passes on whatever its parsing trips over (ValueError, UnicodeDecodeError, MemoryError …)
    except Exception as error:
        if header.find("vertex") is not None:
            for _ in element_blocks(header, "vertex"):  # says where, if the fault is there
                pass
        raise InputError(f"{path} is damaged or cut short ({error}); write or copy it again") from error


def read_vertices(path: str | Path) -> np.ndarray:
    """The `vertex` element as a structured array. Raises `InputError` naming the file."""
    elements = read_elements(path)
    if "vertex" not in elements:
        raise InputError(f"{path} has no element 'vertex', so no points; its elements: "
                         f"{', '.join(e.name for e in elements.elements) or 'none'}")  # fmt: skip
    return elements["vertex"].data


def _columns(vertices: np.ndarray, names: tuple[str, ...]) -> Tensor:
    return torch.from_numpy(np.stack([vertices[name].astype(np.float32) for name in names], axis=-1))


def read_ply(path: str | Path) -> GaussianCloud | PointCloud:
    """Read Gaussians (activated values) or points, rows in the file's order.

    Quaternions are normalised; zero ones become the identity.

    Raises:
        InputError: missing, empty, damaged or cut short; fields that a Gaussian needs are missing; no x, y, z.
    """
    vertices = read_vertices(path)
    names = tuple(vertices.dtype.names or ())
    if any(name.startswith("packed_") for name in names):
        raise InputError(f"{path} is a compressed PLY; convert it to a plain 3DGS PLY first: dyn4d ply convert IN OUT")
    missing = [name for name in POSITION if name not in names]
    if not missing and not is_gaussian(names):
        return _read_points(path, vertices, names)
    missing = [name for name in GAUSSIAN_FIELDS if name not in names]
    if missing:
        kind = "a Gaussian" if is_gaussian(names) else "a point"
        raise InputError(f"{path}: {kind} needs the fields {', '.join(missing)}; found {', '.join(names) or 'none'}")
    rest = rest_count(names)
    if rest not in REST_COUNTS or any(name not in names for name in rest_names(rest)):
        raise InputError(f"{path}: {rest} fields f_rest_*; wanted f_rest_0 … of 0, 9, 24, 45 or 72 coefficients")
    count = len(vertices)
    sh = _columns(vertices, DC)[:, None]
    if rest:
        bands = _columns(vertices, rest_names(rest)).reshape(count, 3, rest // 3).transpose(1, 2)
        sh = torch.cat([sh, bands], dim=1)
    quats = _columns(vertices, ROTATION)
    length = quats.norm(dim=-1, keepdim=True)
    identity = torch.tensor([1.0, 0.0, 0.0, 0.0])
    return GaussianCloud(
        means=_columns(vertices, POSITION),
        quats_wxyz=torch.where(length > 0, quats / length.clamp_min(1e-30), identity),
        scales=_columns(vertices, SCALE).exp(),
        opacities=_columns(vertices, ("opacity",))[:, 0].sigmoid(),
        sh=sh.contiguous(),
        confidence=_columns(vertices, ("confidence",))[:, 0] if "confidence" in (vertices.dtype.names or ()) else None,
    )


def _read_points(path: str | Path, vertices: np.ndarray, names: tuple[str, ...]) -> PointCloud:
    rgb = None
    colour = colour_names(names)
    if colour is not None:
        rgb = _columns(vertices, colour)
        kind = vertices.dtype[colour[0]]
        if kind.kind in "iu":
            rgb = rgb / float(np.iinfo(kind).max)
    conf = confidence_name(names)
    for name in (*POSITION, *([conf] if conf else [])):
        if vertices.dtype[name].kind not in "fiu":
            raise InputError(f"{path}: the field {name} is a list; wanted one number a point")
    return PointCloud(
        xyz=_columns(vertices, POSITION),
        rgb=rgb,
        normal=_columns(vertices, NORMAL) if all(name in names for name in NORMAL) else None,
        conf=_columns(vertices, (conf,))[:, 0] if conf else None,
    )
