"""Scenes: an object, cameras, a background; pictures are drawn when asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from dyn4d.core.types import Camera
from dyn4d.synthetic import raster, shading
from dyn4d.synthetic.config import SyntheticConfig
from dyn4d.synthetic.creature import build_creature
from dyn4d.synthetic.dancer import build_dancer
from dyn4d.synthetic.model import Model
from dyn4d.synthetic.snapper import build_snapper
from dyn4d.synthetic.turntable import build_turntable
from dyn4d.synthetic.views import HELD_OUT, Rig, film, intrinsics
from dyn4d.synthetic.worm import build_worm

_BUILDERS = {"creature": build_creature, "worm": build_worm, "turntable": build_turntable, "dancer": build_dancer,
             "snapper": build_snapper}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One exact picture.

    Attributes:
        rgb: (H, W, 3) uint8, anti-aliased. mask: (H, W) bool, the object at the pixel centre.
        depth: (H, W) float64 planar z in metres at the pixel centre, 0 = nothing.
        face: (H, W) int32, the object's triangle at the pixel centre, -1 = none.
    """

    rgb: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    face: np.ndarray


@dataclass(frozen=True)
class Tracks:
    """True paths of surface points.

    Attributes:
        xyz: (T, N, 3) float64 world. visible: (T, N) bool from the filmed camera. uv: (T, N, 2) px, also where hidden.
        face: (N,) the triangle each point lies in. bary: (N, 3) its place there.
    """

    xyz: np.ndarray
    visible: np.ndarray
    uv: np.ndarray
    face: np.ndarray
    bary: np.ndarray


@dataclass(frozen=True)
class Room:
    """Walls at x, y = ± half, floor z = 0, boxes (B, 6) as low and high corners; metres."""

    half: float
    boxes: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A filmed synthetic object.

    Attributes:
        config: how it was made. model: the object. times: (T,) in [0, 1]. seconds: (T,).
        shapes: T vertex arrays (V, 3) float64, world, nowhere below z = 0. rig: the cameras.
        room: None for the grey background.
    """

    config: SyntheticConfig
    model: Model
    times: np.ndarray
    seconds: np.ndarray
    shapes: list[np.ndarray]
    rig: Rig
    room: Room | None

    def __len__(self) -> int:
        return len(self.times)

    @property
    def K(self) -> np.ndarray:
        """(3, 3) the intrinsics of all pictures."""
        return intrinsics(self.config.size)

    @cached_property
    def cameras(self) -> Camera:
        """The T filmed cameras, float64."""
        poses = np.stack([self.rig.pose(frame) for frame in range(len(self))])
        return self._camera(poses)

    def held_out(self) -> list[tuple[int, str, np.ndarray]]:
        """(frame, view name, world_from_cam (4, 4)) of every held-out picture, frame after frame."""
        return [
            (frame, name, self.rig.pose(frame, *turn))
            for frame in range(0, len(self), self.config.held_out_every)
            for name, turn in HELD_OUT.items()
        ]

    def _camera(self, poses: np.ndarray) -> Camera:
        K = torch.from_numpy(np.repeat(self.K[None], len(poses), axis=0))
        return Camera(K, torch.from_numpy(poses), self.config.size, self.config.size)

    def extent(self) -> float:
        """The object's size: the largest side of the bounding box of its surface over the clip, metres."""
        low = np.min([shape.min(0) for shape in self.shapes], axis=0)
        high = np.max([shape.max(0) for shape in self.shapes], axis=0)
        return float((high - low).max())

    def draw(self, frame: int, world_from_cam: np.ndarray | None = None) -> Picture:
        """The picture of a frame from the filmed camera, or from another pose (4, 4)."""
        pose = self.rig.pose(frame) if world_from_cam is None else world_from_cam
        size, samples, model = self.config.size, self.config.supersample, self.model
        shape = self.shapes[frame]
        xy, z = raster.project(shape, self.K, np.linalg.inv(pose))
        face, inverse = raster.z_buffer(xy, z, model.faces, size, size, 1)
        fine = face if samples == 1 else raster.z_buffer(xy, z, model.faces, size, size, samples)[0]
        depth = np.divide(1.0, inverse, out=np.zeros_like(inverse), where=inverse > 0)
        mask = face >= 0
        colour, cover = shading.shade_object(
            fine, xy, z, model.faces, model.rest, raster.vertex_normals(shape, model.faces), model.occlusion,
            model.marks, model.paint, self.config.seed, samples,
        )  # fmt: skip
        if self.room is None:
            colour += (1.0 - cover[..., None]) * shading.GREY
        else:
            half, boxes = self.room.half, self.room.boxes
            ray = pose[:3, :3] @ np.linalg.inv(self.K)
            eye = np.ascontiguousarray(pose[:3, 3])
            depth = np.where(mask, depth, shading.room_depth(size, size, half, boxes, eye, ray))
            shadow = _shadow(shape, half)
            colour += shading.shade_room(fine, samples, half, boxes, shadow, self.config.seed, eye, ray)
        rgb = np.clip(np.rint(colour * 255), 0, 255).astype(np.uint8)
        return Picture(rgb, mask, depth, face)

    @cached_property
    def tracks(self) -> Tracks:
        """Points spread evenly over the surface and followed through all frames."""
        face, bary = _scatter(self.shapes[0], self.model.faces, self.config.tracks, self.config.seed)
        corners = self.model.faces[face]
        size = self.config.size
        xyz, uv, visible = [], [], []
        for frame, shape in enumerate(self.shapes):
            points = np.einsum("nk,nkd->nd", bary, shape[corners])
            cam_from_world = np.linalg.inv(self.rig.pose(frame))
            pixels, depth = raster.project(points, self.K, cam_from_world)
            xy, z = raster.project(shape, self.K, cam_from_world)
            seen = raster.visible_points(
                xy, z, self.model.faces, points=pixels, depth=depth, own=face, width=size, height=size
            )
            xyz.append(points)
            uv.append(pixels)
            visible.append(seen)
        return Tracks(np.stack(xyz), np.stack(visible), np.stack(uv), face, bary)


def build_scene(
    name: str | None = None, *, frames: int | None = None, size: int | None = None, background: str | None = None,
    seed: int | None = None, config: SyntheticConfig | None = None,
) -> Scene:  # fmt: skip
    """Make a scene; nothing is drawn yet. The same arguments give the same scene to the last bit.

    Args:
        name: creature, worm, turntable, dancer or snapper. frames, size, background, seed: as in `SyntheticConfig`.
        config: the other options; arguments that are given win over it.

    Raises:
        ValueError: an option is out of range.
    """
    given = {"scene": name, "frames": frames, "size": size, "background": background, "seed": seed}
    config = replace(config or SyntheticConfig(), **{k: v for k, v in given.items() if v is not None})
    cell = min(max(0.0135 * 256 / config.size, 0.010), 0.026)
    model = _BUILDERS[config.scene](cell, config.seed)
    times = np.linspace(0.0, 1.0, config.frames) if config.frames > 1 else np.zeros(1)
    shapes = [model.pose(float(t)) for t in times]
    lift = np.array([0.0, 0.0, -min(float(shape[:, 2].min()) for shape in shapes)])  # the lowest point stands on z = 0
    shapes = [shape + lift for shape in shapes]
    targets = np.stack([model.path(float(t)) for t in times]) + lift
    rig = film(shapes, targets, times, static=model.camera_static, seed=config.seed)
    room = _room(rig) if config.background == "room" else None
    return Scene(config, model, times, np.arange(config.frames) / config.fps, shapes, rig, room)


def _room(rig: Rig) -> Room:
    """A room that holds every camera, with three crates on the far side of the object."""
    half = float(np.abs(rig.targets[:, :2]).max()) + rig.distance + 0.7
    boxes = []
    for angle, radius, width, height in ((150.0, 1.9, 0.45, 0.5), (100.0, 2.1, 0.6, 0.85), (195.0, 2.0, 0.5, 0.35)):
        x, y = radius * np.cos(np.radians(angle)), radius * np.sin(np.radians(angle))
        boxes.append([x - width / 2, y - width / 2, 0.0, x + width / 2, y + width / 2, height])
    return Room(half, np.array(boxes))


def _shadow(shape: np.ndarray, half: float, cell: float = 0.02) -> np.ndarray:
    """Soft darkening (n, n) in [0, 1] of the floor under the object; lower parts count more."""
    count = int(np.ceil(2 * half / cell))
    spot = ((shape[:, :2] - 0.12 * shape[:, 2:] * np.array([-0.35, -0.55]) + half) / (2 * half) * count).astype(int)
    inside = ((spot >= 0) & (spot < count)).all(1)
    blob = np.zeros((count, count))
    np.maximum.at(blob, tuple(spot[inside].T), np.exp(-shape[inside, 2] / 0.45))
    return np.clip(1.3 * gaussian_filter(blob, 2.5) ** 0.8, 0.0, 1.0)


def _scatter(shape: np.ndarray, faces: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random points of a surface, uniform by area, stratified: faces (N,) and barycentric places (N, 3)."""
    a, b, c = (shape[faces[:, i]] for i in range(3))
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    rng = np.random.default_rng(seed + 1000)
    level = (np.arange(count) + rng.uniform(size=count)) / count
    face = np.searchsorted(np.cumsum(area) / area.sum(), level).clip(max=len(faces) - 1)
    root, other = np.sqrt(rng.uniform(size=count)), rng.uniform(size=count)
    return face, np.stack([1 - root, root * (1 - other), root * other], axis=1)
