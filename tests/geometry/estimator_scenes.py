"""A ball that moves before a slanted wall, seen by a camera that moves: its exact maps at any size, and as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dyn4d.core.cameras import look_at
from dyn4d.core.types import Clip
from dyn4d.io.cameras_json import write_cameras
from dyn4d.io.clips import load_clip

WALL = np.array([0.2, 0.1, -1.0]) / np.linalg.norm([0.2, 0.1, -1.0])  # WALL . X = -3


@dataclass(frozen=True)
class BallScene:
    """`count` frames of `width` x `height` pixels; lengths in world units, pixel centres half-integer."""

    width: int = 96
    height: int = 64
    count: int = 4
    focal: float = 90.0
    centre: tuple[float, float] | None = None
    radius: float = 0.5

    @property
    def K(self) -> np.ndarray:
        x, y = self.centre or (self.width / 2, self.height / 2)
        return np.array([[self.focal, 0, x], [0, self.focal, y], [0, 0, 1]])

    def pose(self, frame: int) -> np.ndarray:
        """world_from_cam (4, 4)."""
        eye = torch.tensor([0.25 * frame, -0.1 * frame, -0.6], dtype=torch.float64)
        target = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
        return look_at(eye, target, torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)).numpy()

    def ball(self, frame: int) -> np.ndarray:
        return np.array([0.05 * frame, 0.0, 1.6])

    def see(
        self, frame: int, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(h, w) planar depth and (h, w) bool, the ball, of a map of `size` (width, height) that covers `box`."""
        left, top, right, bottom = box or (0, 0, self.width, self.height)
        columns = left + (np.arange(size[0]) + 0.5) * (right - left) / size[0]
        rows = top + (np.arange(size[1]) + 0.5) * (bottom - top) / size[1]
        u, v = np.meshgrid(columns, rows)
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(self.K).T  # z = 1: their length is depth
        pose = self.pose(frame)
        rays, eye = rays @ pose[:3, :3].T, pose[:3, 3]
        depth = (-3 - eye @ WALL) / (rays @ WALL)
        to = eye - self.ball(frame)
        a, b, c = (rays**2).sum(-1), (rays * to).sum(-1), to @ to - self.radius**2
        inside = b * b - a * c
        ball = inside > 0
        return np.where(ball, (-b - np.sqrt(np.maximum(inside, 0))) / a, depth), ball

    def map_K(self, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> np.ndarray:
        """(3, 3) intrinsics of such a map."""
        left, top, right, bottom = box or (0, 0, self.width, self.height)
        sx, sy = size[0] / (right - left), size[1] / (bottom - top)
        return np.array([[sx, 0, -left * sx], [0, sy, -top * sy], [0, 0, 1]]) @ self.K

    def points(
        self, frame: int, size: tuple[int, int], box: tuple[float, float, float, float] | None = None, *, world: bool
    ) -> np.ndarray:
        """(h, w, 3) of the map's pixels in the camera or in the world."""
        depth, _ = self.see(frame, size, box)
        u, v = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(self.map_K(size, box)).T
        points = rays * depth[..., None]
        pose = self.pose(frame)
        return points @ pose[:3, :3].T + pose[:3, 3] if world else points

    def distance(self, xyz: torch.Tensor, frame: int) -> np.ndarray:
        """How far points (N, 3) are from the ball's surface."""
        return np.abs(np.linalg.norm(xyz.double().numpy() - self.ball(frame), axis=-1) - self.radius)

    @property
    def whole(self) -> tuple[int, int]:
        return self.width, self.height

    def write(self, folder: Path, *, cameras: str = "") -> Path:
        """A clip folder without depth: textured pictures, masks and, as `cameras` names, "K" or "poses" too."""
        texture = np.random.default_rng(0).integers(40, 215, (self.height, self.width, 3)).astype(np.uint8)
        for name in ("rgb", "mask"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for frame in range(self.count):
            _, ball = self.see(frame, self.whole)
            Image.fromarray(texture).save(folder / "rgb" / f"{frame:05d}.png")
            Image.fromarray(ball.astype(np.uint8) * 255).save(folder / "mask" / f"{frame:05d}.png")
        if cameras:
            poses = torch.tensor(np.stack([self.pose(frame) for frame in range(self.count)]))
            if cameras == "K":
                poses = torch.full_like(poses, torch.nan)
            from dyn4d.core.types import Camera

            camera = Camera(torch.tensor(self.K).expand(self.count, 3, 3), poses, *self.whole)
            write_cameras(folder / "cameras.json", camera)
        return folder

    def clip(self, folder: Path, *, cameras: str = "", **options: object) -> Clip:
        return load_clip(self.write(folder, cameras=cameras), **options)  # type: ignore[arg-type]


EXPORTS = ("VGGT", "Depth Anything 3", "MonST3R", "CUT3R")


def write_export(scene: BallScene, folder: Path, estimator: str) -> Path:
    """A scene's exact maps in the form that an estimator's program writes, at the size it works in; confidence is 5."""
    folder.mkdir(parents=True)
    size, box = {
        "VGGT": vggt_view,
        "Depth Anything 3": long_side_504,
        "MonST3R": long_side_512,
        "CUT3R": long_side_512,
    }[estimator](scene)
    frames = range(scene.count)
    depth = np.stack([scene.see(i, size, box)[0] for i in frames]).astype(np.float32)
    conf, K = np.full(depth.shape, 5.0, np.float32), np.stack([scene.map_K(size, box)] * scene.count)
    poses = np.stack([scene.pose(i) for i in frames])
    w2c = np.linalg.inv(poses)[:, :3]
    from_corner = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # the DUSt3R family counts from pixel centres
    if estimator == "VGGT":
        world = np.stack([scene.points(i, size, box, world=True) for i in frames]).astype(np.float32)
        tables = {
            "depth": depth[None, ..., None], "depth_conf": conf[None], "world_points": world[None] + 1,
            "world_points_conf": conf[None] + 7, "extrinsic": w2c[None], "intrinsic": K[None],
            "images": np.zeros((1, scene.count, 3, 2, 2)),
        }  # fmt: skip
        np.savez(folder / "predictions.npz", **tables)
        return folder / "predictions.npz"
    if estimator == "Depth Anything 3":
        (folder / "exports" / "mini_npz").mkdir(parents=True)
        file = folder / "exports" / "mini_npz" / "results.npz"
        np.savez_compressed(file, depth=depth, conf=conf, extrinsics=w2c, intrinsics=K)
        return folder
    if estimator == "MonST3R":
        from dyn4d.core.rotations import matrix_to_wxyz

        quats = matrix_to_wxyz(torch.from_numpy(poses[:, :3, :3])).numpy()
        rows = np.concatenate([np.arange(scene.count)[:, None], poses[:, :3, 3], quats], axis=1)
        np.savetxt(folder / "pred_traj.txt", rows)
        np.savetxt(folder / "pred_intrinsics.txt", from_corner.reshape(-1, 9))
        for i in frames:
            np.save(folder / f"frame_{i:04d}.npy", depth[i])
            np.save(folder / f"conf_{i}.npy", conf[i])
        return folder
    for name in ("depth", "conf", "camera"):
        (folder / name).mkdir()
    for i in frames:
        np.save(folder / "depth" / f"{i:06d}.npy", depth[i])
        np.save(folder / "conf" / f"{i:06d}.npy", conf[i])
        np.savez(folder / "camera" / f"{i:06d}.npz", pose=poses[i], intrinsics=from_corner[i])
    return folder


Placed = tuple[tuple[int, int], tuple[float, float, float, float]]


def vggt_view(scene: BallScene) -> Placed:
    """518 wide, the height a multiple of 14; what is higher than 518 is cut to its middle."""
    tall = round(scene.height * 518 / scene.width / 14) * 14
    kept = min(tall, 518)
    top = (tall - kept) // 2 * scene.height / tall
    return (518, kept), (0, top, scene.width, top + kept * scene.height / tall)


def long_side_504(scene: BallScene) -> Placed:
    """The long side 504, the other a multiple of 14; all of the picture."""
    ratio = 504 / max(scene.whole)
    return (round(scene.width * ratio / 14) * 14, round(scene.height * ratio / 14) * 14), (0, 0, *scene.whole)


def long_side_512(scene: BallScene) -> Placed:
    """The long side 512; both are cut around the middle to multiples of 16."""
    ratio = 512 / max(scene.whole)
    across, down = round(scene.width * ratio), round(scene.height * ratio)
    w, h = across // 16 * 16, down // 16 * 16
    sx, sy = scene.width / across, scene.height / down
    left, top = (across // 2 - w // 2) * sx, (down // 2 - h // 2) * sy
    return (w, h), (left, top, left + w * sx, top + h * sy)
