"""All frames' depth as one surface: a truncated signed distance on sparse blocks of voxels, and its zero level.

Curless and Levoy, "A volumetric method for building complex models from range images" (SIGGRAPH 1996), with the
distance to the tangent plane of each point, weights by confidence and angle, and masks: a ray that passes the object
carves. The object has to be rigid in the world that the cameras are in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.geometry.marching import surface
from dyn4d.geometry.tsdf_kernels import add_colours, integrate
from dyn4d.geometry.view_maps import FrameViews, ViewMap
from dyn4d.io.meshes import Mesh

SIDE = 8  # voxels along a block
MOST_VOXELS = 48_000_000  # in all blocks: 8 bytes each
SLAB = 16_000_000  # voxels of the dense slabs that are meshed one after the other
REACH = 4.0  # voxels: how far from a surface distances count
REACH_PIXELS = 3.0  # and at least what this many pixels span
FINEST = 0.5  # pixels: no voxel is smaller
CARVE = 0.5  # weight of a ray that passes the object; a point seen from the front has at most 1
LEAST = 1e-3  # voxels of less weight are not known
OUTLIERS = 0.001  # share of points at either end that may not stretch the volume by more than a tenth
ISLANDS = 0.01  # pieces with fewer faces than this share of the largest one's are dropped
UNKNOWN_COSINE = 0.5  # for points without a normal


@dataclass(frozen=True)
class _Volume:
    """Sparse voxels.

    Attributes:
        origin: (3,) world, centre of voxel (0, 0, 0). voxel, reach: world units.
        shape: blocks along each axis. corner: (B, 3) int32, first voxels of the blocks.
        value: (B, 8, 8, 8) float32 signed distance over reach, negative inside. weight: the same shape.
    """

    origin: np.ndarray
    voxel: float
    reach: float
    shape: tuple[int, int, int]
    corner: np.ndarray
    value: np.ndarray
    weight: np.ndarray


def fuse_mesh(views: FrameViews, voxels: int = 256, *, progress: Progress | None = None) -> Mesh | None:
    """The surface that all frames agree on, with normals and colours; None where there is none.

    What no frame saw stays open. Memory is bounded: a volume that would need more gets larger voxels, and none is
    smaller than half of what a pixel spans.

    Args:
        voxels: cells along the object's longest side.
    """
    progress = progress or SilentProgress()
    volume = _allocate(views, voxels)
    if volume is None:
        return None
    progress.start("fusion", 2 * len(views.frames))
    for frame in views.frames:
        view = views[frame]
        integrate(
            volume.value, volume.weight, volume.corner, volume.origin, volume.voxel, volume.reach,
            view.cam_from_world, view.K, view.free, view.row, view.xyz, _normals(view), _trust(view), CARVE,
        )  # fmt: skip
        progress.update()
    vertices, faces = _largest(*surface(_slabs(volume)))
    if len(faces) == 0:
        progress.finish()
        return None
    vertices = (volume.origin + volume.voxel * vertices).astype(np.float32)
    normals = vertex_normals(vertices, faces)
    rgb = _colours(views, vertices, normals, near=2 * volume.voxel, progress=progress)
    progress.finish()
    return Mesh(vertices, faces, normals, rgb)


def _normals(view: ViewMap) -> np.ndarray:
    """(n, 3) float32; 0 where unknown, and where the surface is seen so obliquely that its plane says little."""
    return np.where((view.cosine > 0.1)[:, None], view.points.normal.numpy(), 0).astype(np.float32)


def _trust(view: ViewMap) -> np.ndarray:
    """(n,) float32 weights: confidence times the cosine of the angle of view."""
    cosine = np.where(view.cosine < 0, UNKNOWN_COSINE, np.maximum(view.cosine, 0.05))
    conf = view.points.conf.numpy()
    return (np.where(np.isfinite(conf), conf, 0) * cosine).astype(np.float32)


# ------------------------------------------------------------------------------------------- volume


def _finite(view: ViewMap) -> np.ndarray:
    """(m, 3) float64 points that are in the map."""
    return view.xyz[view.row[view.row >= 0]].astype(np.float64)


def _bounds(views: FrameViews) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Low and high corner of what is fused, and what a pixel spans on the object."""
    ends, some, spans = [], [], []
    for frame in views.frames:
        view = views[frame]
        xyz = _finite(view)
        if len(xyz):
            ends.append((xyz.min(0), xyz.max(0)))
            some.append(xyz[:: max(1, len(xyz) // 4000)])
            spans.append(view.footprint * float(np.median(view.free[view.row >= 0])))
    if not some:
        return None
    low, high = np.quantile(np.concatenate(some), [OUTLIERS, 1 - OUTLIERS], axis=0)
    margin = 0.1 * float((high - low).max())
    low = np.maximum(low - margin, np.min([end[0] for end in ends], axis=0))
    high = np.minimum(high + margin, np.max([end[1] for end in ends], axis=0))
    return low, high, float(np.median(spans))


def _allocate(views: FrameViews, voxels: int) -> _Volume | None:
    """Blocks around all points."""
    found = _bounds(views)
    if found is None or not float((found[1] - found[0]).max()) > 0:
        return None
    low, high, span = found
    voxel = max(float((high - low).max()) / voxels, FINEST * span)
    while True:
        reach = max(REACH * voxel, REACH_PIXELS * span)
        origin = low - 3 * voxel
        count = np.ceil((high + 3 * voxel - origin) / (SIDE * voxel)).astype(int) + 1
        used = np.zeros(tuple(count), bool)
        for frame in views.frames:
            place = (_finite(views[frame]) - origin) / voxel
            for offset in np.stack(np.meshgrid(*[(-2, 2)] * 3), -1).reshape(-1, 3):
                block = np.floor((place + offset) / SIDE).astype(int)
                block = block[((block >= 0) & (block < count)).all(-1)]
                used[tuple(block.T)] = True
        total = int(used.sum()) * SIDE**3
        if total <= MOST_VOXELS:
            break
        voxel *= max(1.05, (total / MOST_VOXELS) ** 0.5)
    corner = SIDE * np.argwhere(used).astype(np.int32)
    cells = (len(corner), SIDE, SIDE, SIDE)
    shape = (int(count[0]), int(count[1]), int(count[2]))
    return _Volume(origin, voxel, reach, shape, corner, np.ones(cells, np.float32), np.zeros(cells, np.float32))


def _slabs(volume: _Volume) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Dense slices across the first axis, each with the next one's first layer."""
    blocks = volume.corner // SIDE
    layers, rows, columns = volume.shape
    thick = max(1, SLAB // (SIDE**3 * rows * columns))
    for first in range(0, layers, thick):
        last = min(first + thick, layers)
        shape = (last - first + 1, SIDE, rows, SIDE, columns, SIDE)
        values, known = np.ones(shape, np.float32), np.zeros(shape, bool)
        mine = np.flatnonzero((blocks[:, 0] >= first) & (blocks[:, 0] <= last))
        x, y, z = blocks[mine].T
        values[x - first, :, y, :, z, :] = volume.value[mine]
        known[x - first, :, y, :, z, :] = volume.weight[mine] > LEAST
        dense = ((last - first + 1) * SIDE, rows * SIDE, columns * SIDE)
        end = (last - first) * SIDE + 1
        yield first * SIDE, values.reshape(dense)[:end], known.reshape(dense)[:end]


# --------------------------------------------------------------------------------------------- mesh


def _largest(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without crumbs, and without vertices that no face uses."""
    if len(faces) == 0:
        return vertices, faces
    ends = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_array((np.ones(len(ends), np.int8), tuple(ends.T)), shape=(len(vertices),) * 2)
    _, piece = connected_components(graph, directed=False)
    size = np.bincount(piece[faces[:, 0]])
    faces = faces[size[piece[faces[:, 0]]] >= ISLANDS * size.max()]
    used, index = np.unique(faces, return_inverse=True)
    return vertices[used], index.reshape(-1, 3).astype(np.int32)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) float32 unit: the mean of the faces' around each vertex, by area."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    across = np.cross(b - a, c - a)
    total = np.stack(
        [np.bincount(faces.reshape(-1), np.repeat(across[:, i], 3), len(vertices)) for i in range(3)], axis=-1
    )
    return (total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-30)).astype(np.float32)


def _colours(
    views: FrameViews, vertices: np.ndarray, normals: np.ndarray, *, near: float, progress: Progress
) -> np.ndarray:
    """(V, 3) float32: the mean over the frames that see a vertex; of the nearest coloured one where none does."""
    total, weight = np.zeros((len(vertices), 3)), np.zeros(len(vertices))
    for frame in views.frames:
        view = views[frame]
        add_colours(
            vertices, normals, view.cam_from_world, view.eye, view.K, view.free, view.row, view.points.rgb.numpy(),
            _trust(view), near, total, weight,
        )  # fmt: skip
        progress.update()
    seen = weight > 0
    rgb = np.full(total.shape, 0.5)
    rgb[seen] = total[seen] / weight[seen, None]
    if seen.any() and not seen.all():
        rgb[~seen] = rgb[seen][KDTree(vertices[seen]).query(vertices[~seen])[1]]
    return rgb.astype(np.float32)
