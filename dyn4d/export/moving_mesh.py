"""One mesh of the object, with the same triangles at all times, carried by the field.

The Gaussians are drawn from all around at one instant. Depths become points, points a truncated signed distance, and
that a surface (`geometry.tsdf`): what no view sees, such as the inside, is not there. Every vertex then goes through
canonical space to the other frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from dyn4d.core.cameras import look_at
from dyn4d.core.errors import RunError
from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.types import Camera, FramePoints, GaussianCloud, Timeline
from dyn4d.export.renders import render_cloud, to_uint8
from dyn4d.gaussians.warp import move_cloud
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.rgbd import join_frames, points_of_frame
from dyn4d.geometry.tsdf import fuse_mesh, vertex_normals
from dyn4d.geometry.view_maps import FrameViews
from dyn4d.io.meshes import Mesh

VIEWS, PIXELS, VOXELS = 60, 448, 256  # of pictures all around, their side, and along the object's longest side
COVERED = 0.5  # alpha from which a pixel is the object
SURE = 0.8  # and from which its depth, a mean along the ray, is that of one surface and not between two
SOLID = 0.1  # opacity from which a Gaussian tells how large the object is
CANDIDATES = 12  # instants that are asked for the mesh
SAMPLE = 3000  # Gaussians that are asked whether they touch
TOUCH, APART = 0.02, 0.06  # of the object's size: as near as this at one time, and further than this at another
STRETCH, LONG = 8.0, 0.05  # an edge that grows by more than this, to more of the size than this, bridged two parts


@dataclass(frozen=True)
class MovingMesh:
    """Attributes:
    vertices: (F, V, 3) float32 world at each frame of the clip. faces: (T, 3) int32, counter-clockwise from outside.
    rgb: (V, 3) float32 sRGB in [0, 1]. frame: the one that the mesh was made at. size: the object's, world units.
    """

    vertices: np.ndarray
    faces: np.ndarray
    rgb: np.ndarray
    frame: int
    size: float

    def at(self, frame: int) -> Mesh:
        """The mesh at one frame, with normals."""
        xyz = self.vertices[frame]
        return Mesh(xyz, self.faces, vertex_normals(xyz, self.faces), self.rgb)


@torch.no_grad()
def make_moving_mesh(
    cloud: GaussianCloud, field: Field, timeline: Timeline, *, faces: int, views: int = VIEWS, pixels: int = PIXELS,
    voxels: int = VOXELS, progress: Progress | None = None,
) -> MovingMesh:  # fmt: skip
    """The mesh and where its vertices are at all frames. Raises `RunError` where the Gaussians make no surface.

    Args:
        faces: at most this many triangles. Parts that touch when the mesh is made, and come apart at other times, are
            cut where they touched.
        views, pixels: how many pictures of which size the surface is made from. voxels: along its longest side.
    """
    progress = progress or SilentProgress()
    frame, size = quietest_frame(cloud, field, timeline.times)
    moved = move_cloud(cloud, field, float(timeline.times[frame])).to("cpu")
    mesh = mesh_of_cloud(moved, views=views, pixels=pixels, voxels=voxels, progress=progress)
    if mesh is None:
        raise RunError("mesh: the Gaussians make no surface; look at renders/ whether the object is there")
    mesh = decimate(mesh, faces)
    t = float(timeline.times[frame])
    device = cloud.means.device
    canonical = field.to_canonical(torch.from_numpy(mesh.vertices).to(device), t)
    vertices = np.stack([field.from_canonical(canonical, float(s)).float().cpu().numpy() for s in timeline.times])
    whole = cut_bridges(vertices, mesh.faces, reach=LONG * size)
    used, corners = np.unique(whole, return_inverse=True)
    progress.note(f"mesh: {len(used)} vertices, {len(whole)} faces, made at frame {frame}")
    return MovingMesh(
        np.ascontiguousarray(vertices[:, used]), corners.reshape(-1, 3).astype(np.int32), mesh.rgb[used], frame, size
    )


def quietest_frame(cloud: GaussianCloud, field: Field, times: np.ndarray) -> tuple[int, float]:
    """The frame at which the fewest Gaussians touch others that they are apart from at other times; of equals the one
    nearest to the middle of the clip. And the object's size: the largest side of its box over the clip."""
    solid = cloud.means[cloud.opacities > SOLID]
    means = solid if len(solid) >= 8 else cloud.means
    if len(means) == 0:
        raise RunError("mesh: there are no Gaussians")
    means = means[torch.linspace(0, len(means) - 1, min(len(means), SAMPLE)).long()]
    picked = np.unique(np.linspace(0, len(times) - 1, min(len(times), CANDIDATES)).round().astype(int))
    places = [field.from_canonical(means, float(times[row])).double().cpu().numpy() for row in picked]
    low, high = np.quantile(np.concatenate(places), [0.002, 0.998], axis=0)
    size = float((high - low).max())
    touching = []
    for place in places:
        pairs = KDTree(place).query_pairs(TOUCH * size, output_type="ndarray")
        away = np.max([np.linalg.norm(p[pairs[:, 0]] - p[pairs[:, 1]], axis=-1) for p in places], axis=0)
        touching.append(int((away > APART * size).sum()))
    middle = (len(times) - 1) / 2
    best = min(range(len(picked)), key=lambda row: (touching[row], abs(picked[row] - middle)))
    return int(picked[best]), size


# ------------------------------------------------------------------------------------------ surface


def views_around(means: Tensor, *, count: int = VIEWS, pixels: int = PIXELS) -> Camera:
    """Cameras spread evenly over a sphere round points (N, 3), each of which has them all in its picture."""
    xyz = means.double()
    middle = torch.quantile(xyz, torch.tensor([0.001, 0.999], dtype=torch.float64), dim=0).mean(dim=0)
    reach = float(torch.quantile((xyz - middle).norm(dim=-1), 0.999)) * 1.1 or 1.0
    distance = 4 * reach  # so far that perspective hardly hides anything
    rows = torch.arange(count, dtype=torch.float64) + 0.5
    height, turn = 1 - 2 * rows / count, math.pi * (1 + 5**0.5) * rows
    across = (1 - height.square()).sqrt()
    directions = torch.stack([across * turn.cos(), across * turn.sin(), height], dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    poses = torch.stack([look_at(middle + distance * way, middle, up) for way in directions])
    focal = 0.5 * pixels * math.sqrt(distance**2 - reach**2) / reach
    K = torch.tensor([[focal, 0, pixels / 2], [0, focal, pixels / 2], [0, 0, 1]], dtype=torch.float64)
    return Camera(K.expand(count, 3, 3).clone(), poses, pixels, pixels)


@torch.no_grad()
def mesh_of_cloud(
    cloud: GaussianCloud, *, views: int = VIEWS, pixels: int = PIXELS, voxels: int = VOXELS,
    progress: Progress | None = None,
) -> Mesh | None:  # fmt: skip
    """The surface that a cloud (world, on the CPU) shows from all around; None where there is none."""
    progress = progress or SilentProgress()
    solid = cloud.means[cloud.opacities > SOLID]
    cameras = views_around(solid if len(solid) >= 8 else cloud.means, count=views, pixels=pixels)
    config = replace(GeometryConfig(), erode=1, min_conf=0.05)
    parts: list[FramePoints] = []
    masks: list[np.ndarray] = []
    progress.start("mesh: views", len(cameras))
    for i in range(len(cameras)):
        drawn = render_cloud(cloud, cameras[i], (0.0, 0.0, 0.0))
        alpha = drawn.alpha[0, ..., 0].numpy()
        mask = alpha > COVERED
        rgb = to_uint8(drawn.rgb[0] / drawn.alpha[0].clamp_min(COVERED))  # without the black behind
        depth = np.where(alpha > SURE, drawn.depth[0, ..., 0].numpy(), 0)
        part, _ = points_of_frame(depth, mask, rgb, cameras.K[i], cameras.world_from_cam[i], config=config)
        parts.append(part)
        masks.append(mask)
        progress.update()
    progress.finish()
    beyond = float(cameras.world_from_cam[:, :3, 3].abs().max()) * 100 + 100
    return fuse_mesh(FrameViews(join_frames(parts), cameras, masks, empty=beyond), voxels, progress=progress)


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """At most `faces` triangles (quadric edge collapse); a vertex has the mean colour of those it stands for."""
    if len(mesh.faces) <= faces:
        return mesh
    from fast_simplification import simplify

    thinned = simplify(mesh.vertices, mesh.faces, target_count=faces)
    vertices, corners = np.asarray(thinned[0], np.float32), np.asarray(thinned[1], np.int32)
    nearest = KDTree(vertices).query(mesh.vertices)[1]
    total = np.stack([np.bincount(nearest, mesh.rgb[:, i], len(vertices)) for i in range(3)], axis=-1)
    number = np.bincount(nearest, minlength=len(vertices))
    alone = number == 0
    rgb = total / np.maximum(number, 1)[:, None]
    rgb[alone] = mesh.rgb[KDTree(mesh.vertices).query(vertices[alone])[1]]
    return Mesh(vertices, corners, vertex_normals(vertices, corners), rgb.astype(np.float32))


def cut_bridges(vertices: np.ndarray, faces: np.ndarray, *, reach: float) -> np.ndarray:
    """The faces (T, 3) without those that bridge parts which come apart: an edge of theirs grows, over the frames of
    `vertices` (F, V, 3), to more than `STRETCH` times its shortest length and more than `reach`."""
    shortest = np.full(faces.shape, np.inf)
    longest = np.zeros(faces.shape)
    for xyz in vertices:
        length = np.linalg.norm(xyz[faces] - xyz[np.roll(faces, -1, axis=1)], axis=-1)
        shortest, longest = np.minimum(shortest, length), np.maximum(longest, length)
    bridge = (longest > STRETCH * shortest) & (longest > reach)
    return faces[~bridge.any(axis=1)]
