"""Cameras to look at the result from: the clip's own with gaps filled, a fixed one, and an orbit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dyn4d.core.cameras import look_at, orbit, project
from dyn4d.core.errors import RunError
from dyn4d.core.rotations import matrix_to_wxyz, slerp, wxyz_to_matrix
from dyn4d.core.types import Camera

ORBIT_MARGIN = 1.08  # the object's sphere takes up to 1 / 1.08 of the picture's shorter side
FIXED_MARGIN = 0.97  # the object's boxes end within this share of the way to the border
FIXED_LEAST = 0.4  # the fixed view's focal length is not made shorter than this share of the clip's


def fill_poses(camera: Camera) -> Camera:
    """T cameras of which some have no pose -> T with poses interpolated between the neighbours that have one.

    Before the first and after the last known pose the nearest one holds. Raises `RunError` if none is known.
    """
    known = torch.nonzero(camera.registered).flatten()
    if len(known) == 0:
        raise RunError("geometry/cameras.json: no frame has a camera pose; nothing can be drawn from the clip's views")
    if len(known) == len(camera):
        return camera
    rows = torch.arange(len(camera), device=known.device)
    right = torch.searchsorted(known, rows).clamp(max=len(known) - 1)
    left = (torch.searchsorted(known, rows, right=True) - 1).clamp(min=0)
    low, high = known[left], known[right]
    span = (high - low).clamp(min=1)
    fraction = ((rows - low) / span).clamp(0, 1).to(camera.world_from_cam)
    start, end = camera.world_from_cam[low], camera.world_from_cam[high]
    poses = start.clone()
    quats = slerp(matrix_to_wxyz(start[:, :3, :3]), matrix_to_wxyz(end[:, :3, :3]), fraction)
    poses[:, :3, :3] = wxyz_to_matrix(quats)
    poses[:, :3, 3] = torch.lerp(start[:, :3, 3], end[:, :3, 3], fraction.unsqueeze(-1))
    poses[known] = camera.world_from_cam[known]
    return replace(camera, world_from_cam=poses)


def upward(camera: Camera) -> Tensor:
    """The direction (3,) that is most likely up, from cameras with poses (T, ...).

    A camera held level has its x axis across "up": where the x axes spread enough they determine it. Otherwise
    it is the world axis nearest to the pictures' mean up, if one is within 40 degrees, or that mean.
    """
    across = camera.world_from_cam[:, :3, 0].double()
    mean_up = torch.nn.functional.normalize(-camera.world_from_cam[:, :3, 1].double().mean(0), dim=0)
    values, vectors = torch.linalg.eigh(across.T @ across / len(across))
    if values[1] > 0.02 and values[0] < 0.1 * values[1]:
        axis = vectors[:, 0] * torch.sign(vectors[:, 0] @ mean_up)
        if float(axis @ mean_up) > 0.5:
            return axis.to(camera.world_from_cam)
    best = int(mean_up.abs().argmax())
    if float(mean_up[best].abs()) > 0.766:
        mean_up = torch.zeros_like(mean_up).index_fill(0, torch.tensor(best), float(torch.sign(mean_up[best])))
    return mean_up.to(camera.world_from_cam)


@dataclass(frozen=True)
class Extent:
    """Where the object is over the clip.

    Attributes:
        centres: (F, 3) middle of its bounding box at each frame. radius: largest distance from it, over the clip.
        points: (S, 3) corners of its bounding boxes at some times.
    """

    centres: Tensor
    radius: float
    points: Tensor


def orbit_views(camera: Camera, extent: Extent, *, turns: float) -> Camera:
    """F cameras round the object, which follow it, starting from the side and height of the clip's middle camera.

    Args:
        camera: the clip's cameras, all with poses (F, ...).
        turns: full turns over the clip; the last camera is one step short of the end, so that one turn loops.
    """
    middle = camera[len(camera) // 2]
    count, up = len(extent.centres), upward(camera)
    centres = extent.centres.to(middle.world_from_cam)
    K = middle.K.clone()
    K[0, 2], K[1, 2] = middle.width / 2, middle.height / 2
    half = min(middle.width / 2 / float(K[0, 0]), middle.height / 2 / float(K[1, 1]))
    distance = ORBIT_MARGIN * extent.radius * (1 + half**2) ** 0.5 / half
    direction = middle.world_from_cam[:3, 3] - centres[count // 2]
    if float(direction.norm()) < 1e-9:
        direction = -middle.world_from_cam[:3, 2]
    direction = torch.nn.functional.normalize(direction, dim=0)
    poses = []
    for i, centre in enumerate(centres):
        start = replace(middle, K=K, world_from_cam=look_at(centre + distance * direction, centre, up))
        poses.append(orbit(start, centre, up, [360.0 * turns * i / count]).world_from_cam)
    return replace(camera, K=K.expand(count, 3, 3), world_from_cam=torch.cat(poses))


def fixed_view(camera: Camera, extent: Extent) -> Camera:
    """The clip's middle camera, its field of view widened where the object would otherwise leave the picture."""
    middle = camera[len(camera) // 2]
    points = extent.points.to(middle.K)
    pixels, depth = project(middle.K, middle.cam_from_world, points)
    offset = (pixels - middle.K[:2, 2])[depth > 0]
    if len(offset) == 0:
        return middle
    size = torch.tensor([middle.width, middle.height]).to(offset)
    room = torch.where(offset > 0, size - middle.K[:2, 2], middle.K[:2, 2]) * FIXED_MARGIN
    zoom = float((room / offset.abs().clamp_min(1e-6)).amin().clamp(FIXED_LEAST, 1.0))
    K = middle.K.clone()
    K[0, :2] *= zoom
    K[1, 1] *= zoom
    return replace(middle, K=K)
