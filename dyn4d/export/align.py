"""From the run's world to the true world: one similarity where the cameras were solved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.rotations import rotation_angle, similarity_fit
from dyn4d.core.types import Camera

GIVEN = "given cameras"
FROM_CENTRES = "similarity from camera centres"
FROM_ROTATIONS = "similarity from camera rotations and centres"
SPREAD = 0.02  # second singular value of the centres, relative to the first, below which they lie on a line


@dataclass(frozen=True)
class Alignment:
    """x_true = scale · rotation x_run + translation, and a few words on where it comes from.

    Attributes:
        rotation: (3, 3) float64. translation: (3,). scale: > 0.
    """

    rotation: Tensor
    translation: Tensor
    scale: float
    aligned_by: str

    @staticmethod
    def identity(aligned_by: str = GIVEN) -> Alignment:
        return Alignment(torch.eye(3).double(), torch.zeros(3).double(), 1.0, aligned_by)

    def to_true(self, points: Tensor) -> Tensor:
        """Points (..., 3) of the run's world in the true world, float64."""
        return self.scale * points.double() @ self.rotation.T + self.translation

    def to_run(self, points: Tensor) -> Tensor:
        """Points (..., 3) of the true world in the run's world, float64."""
        return (points.double() - self.translation) @ self.rotation / self.scale

    def camera_to_run(self, camera: Camera) -> Camera:
        """True cameras as cameras of the run's world that draw the same picture."""
        pose = camera.world_from_cam.double().clone()
        pose[..., :3, :3] = self.rotation.T @ pose[..., :3, :3]
        pose[..., :3, 3] = self.to_run(camera.world_from_cam[..., :3, 3])
        return replace(camera, world_from_cam=pose)

    def camera_to_true(self, camera: Camera) -> Camera:
        """Cameras of the run's world in the true world."""
        pose = camera.world_from_cam.double().clone()
        pose[..., :3, :3] = self.rotation @ pose[..., :3, :3]
        pose[..., :3, 3] = self.to_true(camera.world_from_cam[..., :3, 3])
        return replace(camera, world_from_cam=pose)


def align_cameras(run: Camera, true: Camera) -> Alignment:
    """The similarity that takes the run's solved cameras (T,) to the true ones (T,).

    From the camera centres (Umeyama) where they spread over a plane at least. On a line, or all at one place, their
    rotation is not determined: then it is the mean of the cameras' own rotations, the scale the ratio of the
    centres' spread (1 where they do not move) and the translation joins the mean centres.

    Raises `InputError` where no frame has both cameras.
    """
    both = run.registered & true.registered
    if not bool(both.any()):
        raise InputError("eval: no frame has both a solved and a true camera; cannot align the run with the truth")
    a, b = run.world_from_cam[both].double(), true.world_from_cam[both].double()
    centres_a, centres_b = a[:, :3, 3], b[:, :3, 3]
    spread = [torch.linalg.svdvals(c - c.mean(0)) for c in (centres_a, centres_b)]
    if len(centres_a) >= 3 and all(float(s[1]) > SPREAD * float(s[0]) and float(s[0]) > 1e-9 for s in spread):
        rotation, translation, scale = similarity_fit(centres_a, centres_b)
        return Alignment(rotation, translation, float(scale), FROM_CENTRES)
    rotation = _mean_rotation(b[:, :3, :3] @ a[:, :3, :3].transpose(-1, -2))
    lengths = [float((c - c.mean(0)).square().sum().sqrt()) for c in (centres_a, centres_b)]
    scale = lengths[1] / lengths[0] if min(lengths) > 1e-9 else 1.0
    translation = centres_b.mean(0) - scale * rotation @ centres_a.mean(0)
    return Alignment(rotation, translation, scale, FROM_ROTATIONS)


def _mean_rotation(rotations: Tensor) -> Tensor:
    """Chordal mean (3, 3) of rotations (T, 3, 3)."""
    u, _, vt = torch.linalg.svd(rotations.mean(0))
    sign = torch.ones(3, dtype=u.dtype)
    sign[2] = torch.sign(torch.linalg.det(u @ vt))
    return u @ torch.diag(sign) @ vt


def camera_errors(run: Camera, true: Camera, alignment: Alignment, size: float | None) -> dict[str, float | None]:
    """`centre_rel`: mean distance of the aligned camera centres relative to the object's size; `rotation_deg`: mean
    angle between the aligned and the true rotations. None where it cannot be known."""
    both = run.registered & true.registered
    if not bool(both.any()):
        return {"centre_rel": None, "rotation_deg": None}
    aligned = alignment.camera_to_true(run).world_from_cam[both]
    truth = true.world_from_cam[both].double()
    distance = float((aligned[:, :3, 3] - truth[:, :3, 3]).norm(dim=-1).mean())
    angle = float(torch.rad2deg(rotation_angle(aligned[:, :3, :3], truth[:, :3, :3])).mean())
    return {"centre_rel": distance / size if size else None, "rotation_deg": angle}
