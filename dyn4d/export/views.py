"""Cameras to look at the result from: the clip's own with gaps filled, a fixed one, and an orbit."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dyn4d.core.cameras import look_at, orbit
from dyn4d.core.errors import RunError
from dyn4d.core.rotations import matrix_to_wxyz, slerp, wxyz_to_matrix
from dyn4d.core.types import Camera

ORBIT_MARGIN = 1.08  # the object's sphere takes up to 1 / 1.08 of the picture's shorter side


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


def orbit_views(camera: Camera, low: Tensor, high: Tensor, *, turns: float, count: int) -> Camera:
    """`count` cameras round an object, starting from the side and height of the clip's middle camera.

    Args:
        camera: the clip's cameras, all with poses (T, ...).
        low, high: corners (3,) of the bounding box of the object over the clip.
        turns: full turns; the last camera is one step short of the end, so that one turn loops.
        count: how many.
    """
    middle = camera[len(camera) // 2]
    up = upward(camera)
    centre = ((low + high) / 2).to(middle.world_from_cam)
    radius = float((high - low).norm()) / 2
    K = middle.K.clone()
    K[0, 2], K[1, 2] = middle.width / 2, middle.height / 2
    half = min(middle.width / 2 / float(K[0, 0]), middle.height / 2 / float(K[1, 1]))
    distance = ORBIT_MARGIN * radius * (1 + half**2) ** 0.5 / half
    direction = middle.world_from_cam[:3, 3] - centre
    if float(direction.norm()) < 1e-9:
        direction = -middle.world_from_cam[:3, 2]
    direction = torch.nn.functional.normalize(direction, dim=0)
    pose = look_at(centre + distance * direction, centre, up)
    angles = [360.0 * turns * i / max(count, 1) for i in range(count)]
    return orbit(replace(middle, K=K, world_from_cam=pose), centre, up, angles)
