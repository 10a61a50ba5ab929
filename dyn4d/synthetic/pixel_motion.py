"""Where each pixel of a synthetic clip's object goes: the exact truth for whatever matches pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dyn4d.core.cameras import project, unproject
from dyn4d.core.types import Clip, Timeline
from dyn4d.synthetic.scene import Scene

HIDDEN = 0.02  # of the object's size: what lies this far behind the surface that is seen is hidden by it


@dataclass(frozen=True)
class DrawnScene:
    """A scene with all its pictures and, for each pixel of the object, what triangle is seen there.

    Attributes:
        scene: what was drawn. clip: its pictures, masks, depth and cameras, in memory.
        face: T maps (H, W) int32, the triangle at the pixel centre, -1 = none.
    """

    scene: Scene
    clip: Clip
    face: list[np.ndarray]

    def moved(self, a: int, b: int, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the surface under pixels of frame a is at frame b.

        Args:
            xy: (M, 2) px of frame a. Parts of pixels count: the line of sight is cut with the plane of the triangle
                that is seen at the centre of the pixel.

        Returns:
            xyz (M, 3) world and xy_b (M, 2) px, NaN where no object is; seen (M,) bool: does frame b show it?
        """
        size, cameras = self.scene.config.size, self.scene.cameras
        cell = np.clip(np.floor(xy).astype(np.int64), 0, size - 1)
        face = self.face[a][cell[:, 1], cell[:, 0]]
        corners = np.asarray(self.scene.model.faces)[face]
        pose = cameras.world_from_cam[a]
        sight = unproject(
            cameras.K[a], pose, torch.from_numpy(np.asarray(xy, np.float64)), torch.ones(len(xy)).double()
        )
        share = _cut(pose[:3, 3].numpy(), sight.numpy(), self.scene.shapes[a][corners])
        xyz = (self.scene.shapes[b][corners] * share[..., None]).sum(1)
        uv, depth = (t.numpy() for t in project(cameras.K[b], cameras.cam_from_world[b], torch.from_numpy(xyz)))
        at = np.floor(uv).astype(np.int64)
        inside = ((at >= 0) & (at < size)).all(-1) & (face >= 0)
        at = np.clip(at, 0, size - 1)
        assert self.clip.depth is not None
        front = np.asarray(self.clip.depth[b])[at[:, 1], at[:, 0]]
        mask = np.asarray(self.clip.masks[b])[at[:, 1], at[:, 0]]
        xyz[face < 0], uv[face < 0] = np.nan, np.nan
        return xyz, uv, inside & mask & (depth < front + HIDDEN * self.scene.extent())


def draw_scene(scene: Scene, count: int | None = None) -> DrawnScene:
    """Draw a scene, or its first `count` frames; takes some 12 bytes a pixel and frame."""
    pictures = [scene.draw(i) for i in range(len(scene) if count is None else count)]
    size, cameras, drawn = scene.config.size, scene.cameras[: len(pictures)], len(pictures)
    clip = Clip(
        name=scene.config.scene, source=Path(scene.config.scene), images=[p.rgb for p in pictures],
        masks=[p.mask for p in pictures], frames=np.arange(drawn),
        timeline=Timeline(scene.times[:drawn], scene.seconds[:drawn], tuple(f"{i:05d}" for i in range(drawn))),
        width=size, height=size, depth=[p.depth.astype(np.float32) for p in pictures], cameras=cameras,
        all_cameras=cameras, poses_given=True,
    )  # fmt: skip
    return DrawnScene(scene, clip, [p.face for p in pictures])


def _cut(eye: np.ndarray, through: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Barycentric places (M, 3) where lines from `eye` (3,) through points (M, 3) cut the planes of triangles
    (M, 3, 3); not far outside the triangle where a plane is seen edge on."""
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    columns = np.stack([e1, e2, eye - through], -1)  # corner + b1 e1 + b2 e2 = eye + s (through - eye)
    flat = np.abs(np.linalg.det(columns)) < 1e-15
    columns[flat] = np.eye(3)
    b1, b2 = np.linalg.solve(columns, (eye - corners[:, 0])[..., None])[:, :2, 0].T
    b1, b2 = np.where(flat, 1 / 3, np.clip(b1, -2, 3)), np.where(flat, 1 / 3, np.clip(b2, -2, 3))
    return np.stack([1 - b1 - b2, b1, b2], -1)
