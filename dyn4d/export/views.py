"""Cameras to look at the result from: the clip's own with gaps filled, a fixed one, and paths round the object."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dyn4d.core.cameras import look_at, orbit, project
from dyn4d.core.errors import RunError
from dyn4d.core.rotations import matrix_to_wxyz, slerp, wxyz_to_matrix
from dyn4d.core.types import Camera

ORBIT_MARGIN = 1.08  # the object's sphere takes up to 1 / 1.08 of the picture's shorter side
SPIRAL_WAVES = 2  # times that the spiral goes up and down over the clip
SPIRAL_RISE = 30.0  # degrees above and below the horizon through the object
SPIRAL_SHARE = 0.7  # of the swing and of the rise, where both together have to stay near
SPIRAL_BACK = 0.35  # the spiral is this share of the orbit's distance farther away at its farthest
DOLLY_FILL = 0.85  # the object's points end within this share of the picture's limiting side where the dolly is nearest
DOLLY_FAR = 2.0  # it starts so many times as far away
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
        offsets: (P, 3) of parts of it from the middle of the box at their time.
    """

    centres: Tensor
    radius: float
    points: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class Stand:
    """A place from which the whole object is seen at all times, at the side and height of the clip's middle camera.

    Attributes:
        camera: its lens, with the pose of the clip's middle camera. up: (3,) unit. direction: (3,) unit, from the
            object's middle to the place. distance: of the two, more than the object's radius.
    """

    camera: Camera
    up: Tensor
    direction: Tensor
    distance: float

    def towards(self, centre: Tensor, angle: float, *, direction: Tensor | None = None, farther: float = 1.0) -> Tensor:
        """world_from_cam (4, 4) of a camera that looks at `centre`, turned by `angle` degrees about up."""
        direction = self.direction if direction is None else direction
        eye = centre + self.distance * farther * direction
        start = replace(self.camera, world_from_cam=look_at(eye, centre, self.up))
        return orbit(start, centre, self.up, [angle]).world_from_cam[0]

    def path(self, poses: list[Tensor]) -> Camera:
        """A camera for each pose."""
        return replace(self.camera, K=self.camera.K.expand(len(poses), 3, 3), world_from_cam=torch.stack(poses))


def find_stand(camera: Camera, extent: Extent) -> Stand:
    """Where the paths round the object start. `camera`: the clip's cameras, all with poses (F, ...)."""
    middle = camera[len(camera) // 2]
    K = middle.K.clone()
    K[0, 2], K[1, 2] = middle.width / 2, middle.height / 2
    half = min(middle.width / 2 / float(K[0, 0]), middle.height / 2 / float(K[1, 1]))
    distance = ORBIT_MARGIN * extent.radius * (1 + half**2) ** 0.5 / half
    centres = extent.centres.to(middle.world_from_cam)
    direction = middle.world_from_cam[:3, 3] - centres[len(centres) // 2]
    if float(direction.norm()) < 1e-9:
        direction = -middle.world_from_cam[:3, 2]
    direction = torch.nn.functional.normalize(direction, dim=0)
    return Stand(replace(middle, K=K), upward(camera), direction, distance)


@dataclass(frozen=True)
class Swing:
    """How far a path may turn from where the clip's middle camera stands: from `low` to `high` degrees about the up
    axis, so that it stays within `limit` degrees of some input camera."""

    low: float
    high: float
    limit: float


def sweep(count: int, turns: float, within: Swing | None) -> list[float]:
    """`count` angles in degrees: all round `turns` times, or to and fro as often between the ends of `within`."""
    if within is None:
        return [360.0 * turns * i / count for i in range(count)]
    middle, half = (within.low + within.high) / 2, (within.high - within.low) / 2
    return [middle + half * math.sin(2 * math.pi * turns * i / count) for i in range(count)]


def orbit_views(camera: Camera, extent: Extent, *, turns: float, within: Swing | None = None) -> Camera:
    """F cameras round the object, which follow it, starting from the side and height of the clip's middle camera.

    Args:
        camera: the clip's cameras, all with poses (F, ...).
        turns: full turns over the clip; the last camera is one step short of the end, so that one turn loops.
        within: where to swing instead of turning.
    """
    stand = find_stand(camera, extent)
    centres = extent.centres.to(stand.direction)
    angles = sweep(len(centres), turns, within)
    return stand.path([stand.towards(centre, angle) for centre, angle in zip(centres, angles)])


def bullet_views(
    camera: Camera, extent: Extent, *, frame: int, turns: float, count: int, within: Swing | None = None
) -> Camera:
    """`count` cameras round the place where the object is at one frame; the first is where the orbit starts."""
    stand = find_stand(camera, extent)
    centre = extent.centres[frame].to(stand.direction)
    return stand.path([stand.towards(centre, angle) for angle in sweep(count, turns, within)])


def spiral_views(camera: Camera, extent: Extent, *, turns: float, within: Swing | None = None) -> Camera:
    """F cameras that go round the object as the orbit does, and up and down, nearer and farther meanwhile.

    Heights are within `SPIRAL_RISE` degrees of the horizon; the orbit's distance is the nearest. Where it may not go
    all round they are about the height of the clip's middle camera, and it turns less, so that both together stay near.
    """
    stand = find_stand(camera, extent)
    level = stand.direction - (stand.direction @ stand.up) * stand.up
    if float(level.norm()) < 1e-3:  # the clip looks straight down: any side is as good
        level = torch.linalg.cross(stand.up, stand.camera.world_from_cam[:3, 0])
    level = torch.nn.functional.normalize(level, dim=0)
    height = 0.0 if within is None else math.asin(max(-1.0, min(1.0, float(stand.direction @ stand.up))))
    reach = SPIRAL_RISE if within is None else min(SPIRAL_RISE, SPIRAL_SHARE * within.limit)
    if within is not None:
        less = (1 - SPIRAL_SHARE) * within.limit
        within = replace(within, low=min(within.low + less, 0.0), high=max(within.high - less, 0.0))
    angles = sweep(len(extent.centres), turns, within)
    centres = extent.centres.to(stand.direction)
    count, poses = len(centres), []
    for i, centre in enumerate(centres):
        wave = 2 * math.pi * SPIRAL_WAVES * i / count
        rise = height + math.radians(reach) * math.sin(wave)
        farther = 1 + SPIRAL_BACK * (1 - math.cos(wave)) / 2
        direction = math.cos(rise) * level + math.sin(rise) * stand.up
        poses.append(stand.towards(centre, angles[i], direction=direction, farther=farther))
    return stand.path(poses)


def _filling(stand: Stand, extent: Extent, share: float) -> float:
    """The distance at which the object at any time, seen round its middle, just ends within `share` of the picture."""
    offset = extent.offsets.to(stand.direction)
    pose = stand.towards(torch.zeros_like(stand.direction), 0.0)
    aside = offset @ pose[:3, :3]  # in the camera's axes: right, down, forwards
    K = stand.camera.K
    slopes = torch.stack([stand.camera.width / K[0, 0], stand.camera.height / K[1, 1]]) / 2 * share
    needed = (aside[:, :2].abs() / slopes).amax(dim=-1) - aside[:, 2]
    return max(float(needed.max()), 1.05 * float(offset.norm(dim=-1).max()))


def dolly_views(camera: Camera, extent: Extent) -> Camera:
    """F cameras on a line towards the object, which follow it, without a jerk where the film loops. The lens stays as
    it is. At the near end the object, at any time, takes up to `DOLLY_FILL` of the picture's limiting side;
    the far end is `DOLLY_FAR` times as far."""
    stand = find_stand(camera, extent)
    stand = replace(stand, distance=_filling(stand, extent, DOLLY_FILL))
    centres = extent.centres.to(stand.direction)
    share = [(1 + math.cos(2 * math.pi * i / len(centres))) / 2 for i in range(len(centres))]
    farther = [1 + (DOLLY_FAR - 1) * part for part in share]
    return stand.path([stand.towards(c, 0.0, farther=f) for c, f in zip(centres, farther, strict=True)])


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
