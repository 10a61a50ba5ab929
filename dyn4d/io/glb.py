"""glTF 2.0 files in their binary form (.glb): meshes, and clouds with the cameras that saw them.

Vertices keep the world's own coordinates. One node above everything turns them into glTF's axes (y up, z towards the
viewer, a camera looks along -z): see `upright`. Vertex colours are linear in glTF, so sRGB is converted, to floats.
Format: registry.khronos.org/glTF/specs/2.0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pygltflib as gltf
import torch

from dyn4d.core.types import Camera
from dyn4d.io.atomic import atomic_path
from dyn4d.io.meshes import Mesh

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenCV's camera axes and glTF's
_FIRST, _LAST = np.array([0.27, 0.33, 0.95]), np.array([0.95, 0.35, 0.25])  # colours of the cameras, over time


def upright(cameras: Camera) -> np.ndarray:
    """(4, 4) float64 rotation from the world to glTF's axes, of the 24 that take axes to axes.

    Of those the one that turns the cameras' mean upward direction most nearly to +y, and then the first camera's
    viewing direction most nearly to -z. With no pose known: that of a world with OpenCV's axes.
    """
    poses = cameras.world_from_cam[cameras.registered].double().cpu().numpy()
    if len(poses) == 0:
        return _FLIP
    up, ahead = -poses[:, :3, 1].mean(0), poses[0, :3, 2]
    best, most = _FLIP[:3, :3], -math.inf
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            turn = np.diag(signs)[:, order]
            score = 10 * (turn @ up)[1] - (turn @ ahead)[2]
            if np.linalg.det(turn) > 0 and score > most + 1e-9:
                best, most = turn, score
    out = np.eye(4)
    out[:3, :3] = best
    return out


def _linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] (N, 3) as linear float32: 8 bits would be too coarse where it is dark, 16 some readers cut off."""
    value = np.clip(rgb.astype(np.float64), 0, 1)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


class _Builder:
    """A glTF document as it grows: one buffer, one node that turns the axes, everything else below it."""

    def __init__(self, turn: np.ndarray) -> None:
        # not "world": readers that name their own base frame so (trimesh 4) would pass over the turn
        root = gltf.Node(name="upright", matrix=_matrix(turn), children=[])
        self.root = root
        self.document = gltf.GLTF2(
            asset=gltf.Asset(version="2.0", generator="dyn4d"), scene=0, scenes=[gltf.Scene(nodes=[0])], nodes=[root]
        )
        self.parts: list[bytes] = []

    def _accessor(self, values: np.ndarray, kind: str, target: int | None, *, bounds: bool = False) -> int:
        """Append an array of float32 or uint32."""
        doc, data = self.document, values.tobytes()
        offset = sum(map(len, self.parts))
        self.parts.append(data)
        doc.bufferViews.append(gltf.BufferView(buffer=0, byteOffset=offset, byteLength=len(data), target=target))
        component = gltf.FLOAT if values.dtype == np.float32 else gltf.UNSIGNED_INT
        accessor = gltf.Accessor(
            bufferView=len(doc.bufferViews) - 1, componentType=component, count=len(values), type=kind
        )
        if bounds:
            accessor.min, accessor.max = values.min(0).tolist(), values.max(0).tolist()
        doc.accessors.append(accessor)
        return len(doc.accessors) - 1

    def add(
        self, name: str, mode: int, xyz: np.ndarray, rgb: np.ndarray, *, normals: np.ndarray | None = None,
        faces: np.ndarray | None = None, targets: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Points, lines (each two rows one line) or triangles; what has no normals is shown as it is, not lit.
        `targets` (K, N, 3) are offsets that an animation can add."""
        if len(xyz) == 0:
            return
        doc = self.document
        look = gltf.Attributes(
            POSITION=self._accessor(xyz.astype(np.float32), gltf.VEC3, gltf.ARRAY_BUFFER, bounds=True),
            COLOR_0=self._accessor(_linear(rgb), gltf.VEC3, gltf.ARRAY_BUFFER),
        )
        surface = gltf.PbrMetallicRoughness(metallicFactor=0.0, roughnessFactor=1.0)
        material = gltf.Material(name=name, pbrMetallicRoughness=surface, alphaCutoff=None)
        if normals is not None:
            look.NORMAL = self._accessor(normals.astype(np.float32), gltf.VEC3, gltf.ARRAY_BUFFER)
        else:
            material.extensions = {"KHR_materials_unlit": {}}
            doc.extensionsUsed = ["KHR_materials_unlit"]
        indices = None
        if faces is not None:
            indices = self._accessor(faces.reshape(-1).astype(np.uint32), gltf.SCALAR, gltf.ELEMENT_ARRAY_BUFFER)
        material.doubleSided = material.doubleSided or mode == gltf.TRIANGLES  # what no camera saw is open
        doc.materials.append(material)
        part = gltf.Primitive(attributes=look, indices=indices, mode=mode, material=len(doc.materials) - 1)
        mesh = gltf.Mesh(name=name, primitives=[part])
        if targets is not None and len(targets):
            offsets = [
                self._accessor(one.astype(np.float32), gltf.VEC3, gltf.ARRAY_BUFFER, bounds=True) for one in targets
            ]
            part.targets = [gltf.Attributes(POSITION=one) for one in offsets]
            mesh.weights = [0.0] * len(targets)
        doc.meshes.append(mesh)
        self._node(gltf.Node(name=name, mesh=len(doc.meshes) - 1))

    def animate(self, name: str, node: int, seconds: np.ndarray, weights: np.ndarray) -> None:
        """Morph weights (F, K) of a node's mesh at `seconds` (F,), linear in between."""
        when = self._accessor(seconds.astype(np.float32)[:, None], gltf.SCALAR, None, bounds=True)
        value = self._accessor(weights.astype(np.float32).reshape(-1, 1), gltf.SCALAR, None)
        sampler = gltf.AnimationSampler(input=when, output=value, interpolation="LINEAR")
        target = gltf.AnimationChannelTarget(node=node, path="weights")
        self.document.animations.append(
            gltf.Animation(name=name, samplers=[sampler], channels=[gltf.AnimationChannel(sampler=0, target=target)])
        )

    def add_moving(
        self, xyz: np.ndarray, rgb: np.ndarray, names: list[str], radius: float, seconds: np.ndarray
    ) -> None:
        """A node for each of N points, whose translation goes through `xyz` (F, N, 3) at `seconds` (F,)."""
        doc = self.document
        corners = radius * np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
        sides = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]])
        shape = self._accessor(corners, gltf.VEC3, gltf.ARRAY_BUFFER, bounds=True)
        faces = self._accessor(sides.reshape(-1).astype(np.uint32), gltf.SCALAR, gltf.ELEMENT_ARRAY_BUFFER)
        doc.extensionsUsed = ["KHR_materials_unlit"]
        animation, when = gltf.Animation(name="motion"), None
        if len(seconds) > 1:
            when = self._accessor(seconds.astype(np.float32)[:, None], gltf.SCALAR, None, bounds=True)
        for i, name in enumerate(names):
            colour = gltf.PbrMetallicRoughness(
                baseColorFactor=[*_linear(rgb[i]).tolist(), 1.0], metallicFactor=0.0, roughnessFactor=1.0
            )
            doc.materials.append(
                gltf.Material(pbrMetallicRoughness=colour, alphaCutoff=None, extensions={"KHR_materials_unlit": {}})
            )
            part = gltf.Primitive(
                attributes=gltf.Attributes(POSITION=shape), indices=faces, material=len(doc.materials) - 1
            )
            doc.meshes.append(gltf.Mesh(name=name, primitives=[part]))
            self._node(gltf.Node(name=name, mesh=len(doc.meshes) - 1, translation=xyz[0, i].astype(float).tolist()))
            if when is not None:
                where = self._accessor(np.ascontiguousarray(xyz[:, i], np.float32), gltf.VEC3, None)
                animation.samplers.append(gltf.AnimationSampler(input=when, output=where, interpolation="LINEAR"))
                target = gltf.AnimationChannelTarget(node=len(doc.nodes) - 1, path="translation")
                animation.channels.append(gltf.AnimationChannel(sampler=i, target=target))
        if animation.channels:
            doc.animations.append(animation)

    def add_camera(self, name: str, K: np.ndarray, world_from_cam: np.ndarray, width: int, height: int) -> None:
        """A camera to look through; glTF has no place for a principal point beside the centre."""
        lens = gltf.Perspective(
            aspectRatio=width / height, yfov=2 * math.atan(height / (2 * K[1, 1])), znear=1e-3, zfar=None
        )
        self.document.cameras.append(gltf.Camera(name=name, type="perspective", perspective=lens))
        pose = world_from_cam @ _FLIP
        self._node(gltf.Node(name=name, camera=len(self.document.cameras) - 1, matrix=_matrix(pose)))

    def _node(self, node: gltf.Node) -> None:
        self.document.nodes.append(node)
        assert self.root.children is not None
        self.root.children.append(len(self.document.nodes) - 1)

    def write(self, path: str | Path) -> None:
        blob = b"".join(self.parts)
        self.document.buffers = [gltf.Buffer(byteLength=len(blob))] if blob else []
        self.document.set_binary_blob(blob)
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"".join(self.document.save_to_bytes()))


def _matrix(pose: np.ndarray) -> list[float]:
    """Column by column, as glTF wants it."""
    return pose.T.reshape(-1).tolist()


def write_mesh_glb(path: str | Path, mesh: Mesh, cameras: Camera) -> None:
    """Write a mesh with normals and vertex colours, atomically. The cameras only tell which way is up."""
    builder = _Builder(upright(cameras))
    builder.add("mesh", gltf.TRIANGLES, mesh.vertices, mesh.rgb, normals=mesh.normals, faces=mesh.faces)
    builder.write(path)


def write_morphing_glb(
    path: str | Path, vertices: np.ndarray, faces: np.ndarray, rgb: np.ndarray, *, targets: np.ndarray,
    weights: np.ndarray, seconds: np.ndarray, cameras: Camera,
) -> None:  # fmt: skip
    """Write a mesh that an animation of morph weights moves, atomically. It is shown as it is coloured, not lit.

    Args:
        vertices: (V, 3) world, the mesh without any morph. faces: (T, 3). rgb: (V, 3) sRGB in [0, 1].
        targets: (K, V, 3) what each morph adds. weights: (F, K) at `seconds` (F,), linear in between; times before 0,
            which glTF does not know, are shifted. cameras: only tell which way is up.
    """
    builder = _Builder(upright(cameras))
    builder.add("mesh", gltf.TRIANGLES, vertices, rgb, faces=faces, targets=targets)
    if len(seconds) > 1 and len(targets):
        builder.animate("motion", 1, seconds - min(float(seconds[0]), 0.0), weights)
    builder.write(path)


def write_tracks_glb(
    path: str | Path, xyz: np.ndarray, rgb: np.ndarray, names: list[str], *, radius: float, seconds: np.ndarray,
    cameras: Camera,
) -> None:  # fmt: skip
    """Write N points that move, atomically: each a node with a small octahedron, moved by an animation of its
    translation, linear in between; and their whole ways as lines.

    Args:
        xyz: (F, N, 3) world, finite. rgb: (N, 3) sRGB in [0, 1]. names: N, of the nodes. radius: of an octahedron,
            world units. seconds: (F,), shifted as of `write_morphing_glb`. cameras: only tell which way is up.
    """
    builder = _Builder(upright(cameras))
    steps = np.stack([xyz[:-1], xyz[1:]], axis=2).transpose(1, 0, 2, 3).reshape(-1, 3)  # (N, F - 1, 2, 3)
    builder.add("paths", gltf.LINES, steps, np.repeat(rgb, 2 * (len(xyz) - 1), axis=0))
    builder.add_moving(xyz, rgb, names, radius, seconds - min(float(seconds[0]), 0.0))
    builder.write(path)


def write_scene_glb(
    path: str | Path, xyz: np.ndarray, rgb: np.ndarray, cameras: Camera, *, names: list[str] | None = None
) -> None:
    """Write points, the cameras' frusta and path as lines, and the cameras themselves, atomically.

    Args:
        xyz: (N, 3) world. rgb: (N, 3) sRGB in [0, 1]. cameras: T; those without a pose are left out. names: T of them.
    """
    finite = np.isfinite(xyz).all(-1)
    xyz, rgb = xyz[finite], rgb[finite]
    builder = _Builder(upright(cameras))
    builder.add("points", gltf.POINTS, xyz, rgb)
    rows = torch.nonzero(cameras.registered)[:, 0].tolist()
    K, poses = cameras.K.double().cpu().numpy()[rows], cameras.world_from_cam.double().cpu().numpy()[rows]
    if rows:
        lines = camera_lines(K, poses, cameras.width, cameras.height, frustum_depth(xyz, poses))
        builder.add("frusta", gltf.LINES, lines.frusta, lines.frusta_rgb)
        builder.add("path", gltf.LINES, lines.path, lines.path_rgb)
    for row, k, pose in zip(rows, K, poses):
        builder.add_camera(names[row] if names else f"{row:06d}", k, pose, cameras.width, cameras.height)
    builder.write(path)


def frustum_depth(xyz: np.ndarray, poses: np.ndarray) -> float:
    """How long frusta are drawn: a tenth of the way from a camera to the points, or of the cameras' own spread."""
    eyes = poses[:, :3, 3]
    if len(xyz):
        return 0.1 * float(np.median(np.linalg.norm(eyes - np.median(xyz, axis=0), axis=-1))) or 0.1
    return 0.1 * (float(np.ptp(eyes, axis=0).max()) or 1.0)


@dataclass(frozen=True)
class CameraLines:
    """Ends of lines, two rows each: (L, 3) world, and their colours."""

    frusta: np.ndarray
    frusta_rgb: np.ndarray
    path: np.ndarray
    path_rgb: np.ndarray


def camera_lines(K: np.ndarray, poses: np.ndarray, width: int, height: int, depth: float) -> CameraLines:
    """Eight lines a camera (T of them), and one from each camera to the next; blue at first, red at last."""
    uv = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
    corners = depth * np.einsum("tij,cj->tci", np.linalg.inv(K), uv)
    corners = np.einsum("tij,tcj->tci", poses[:, :3, :3], corners) + poses[:, None, :3, 3]
    eyes = np.broadcast_to(poses[:, None, :3, 3], corners.shape)
    sides = np.stack([eyes, corners], axis=2), np.stack([corners, np.roll(corners, -1, axis=1)], axis=2)
    frusta = np.concatenate(sides, axis=1)  # (T, 8, 2, 3)
    share = np.linspace(0, 1, len(poses))[:, None]
    colour = (1 - share) * _FIRST + share * _LAST
    path = np.stack([poses[:-1, :3, 3], poses[1:, :3, 3]], axis=1)
    path_rgb = np.stack([colour[:-1], colour[1:]], axis=1)
    moved = (path[:, 0] != path[:, 1]).any(-1)
    path, path_rgb = path[moved], path_rgb[moved]
    return CameraLines(
        frusta.reshape(-1, 3), np.repeat(colour, 16, axis=0), path.reshape(-1, 3), path_rgb.reshape(-1, 3)
    )
