"""Meshes and scenes as other libraries read them: PLY by plyfile, GLB by trimesh and by its own parts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pygltflib
import pytest
import torch
from plyfile import PlyData

from dyn4d.core.cameras import look_at
from dyn4d.core.errors import RunError
from dyn4d.core.types import Camera
from dyn4d.io import glb
from dyn4d.io.glb import camera_lines, upright, write_mesh_glb, write_scene_glb, write_tracks_glb
from dyn4d.io.meshes import Mesh, write_mesh_ply

trimesh = pytest.importorskip("trimesh")


def tetrahedron() -> Mesh:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
    normals = np.full((4, 3), 1 / math.sqrt(3), np.float32)
    rgb = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.25, 0.02]], np.float32)
    return Mesh(vertices, faces, normals, rgb)


def cameras(poses: torch.Tensor) -> Camera:
    K = torch.tensor([[80.0, 0, 30], [0, 90, 25], [0, 0, 1]], dtype=torch.float64)
    return Camera(K.expand(len(poses), 3, 3).clone(), poses, 60, 50)


def z_up(count: int = 4) -> Camera:
    """Round an object that stands on z = 0."""
    up, centre = torch.tensor([0.0, 0, 1]).double(), torch.zeros(3).double()
    eyes = [torch.tensor([3 * math.cos(a), 3 * math.sin(a), 1.0]).double() for a in np.linspace(0.1, 0.8, count)]
    return cameras(torch.stack([look_at(eye, centre, up) for eye in eyes]))


def root_matrix(path: Path) -> np.ndarray:
    document = pygltflib.GLTF2().load(str(path))
    assert document is not None
    return np.array(document.nodes[document.scenes[0].nodes[0]].matrix).reshape(4, 4).T


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_tracks_are_nodes_that_an_animation_moves(tmp_path: Path, frames: int) -> None:
    rng = np.random.default_rng(1)
    xyz, rgb = rng.normal(size=(frames, 5, 3)).astype(np.float32), rng.random((5, 3))
    path, seconds = tmp_path / "t.glb", np.linspace(-0.5, 1.0, frames)
    write_tracks_glb(path, xyz, rgb, [f"p{i}" for i in range(5)], radius=0.01, seconds=seconds, cameras=z_up())
    document = pygltflib.GLTF2().load(str(path))
    assert document is not None and document.binary_blob() is not None
    blob = document.binary_blob()

    def floats(index: int) -> np.ndarray:
        accessor = document.accessors[index]
        view = document.bufferViews[accessor.bufferView]
        return np.frombuffer(blob[view.byteOffset : view.byteOffset + view.byteLength], np.float32)

    nodes = {node.name: at for at, node in enumerate(document.nodes)}
    for i in range(5):
        np.testing.assert_allclose(document.nodes[nodes[f"p{i}"]].translation, xyz[0, i], rtol=1e-6)
    assert len(document.animations) == (1 if frames > 1 else 0)
    for animation in document.animations:
        moved = {channel.target.node: animation.samplers[channel.sampler] for channel in animation.channels}
        assert all(channel.target.path == "translation" for channel in animation.channels) and len(moved) == 5
        for i in range(5):
            sampler = moved[nodes[f"p{i}"]]
            np.testing.assert_allclose(floats(sampler.input), seconds + 0.5, atol=1e-6)
            np.testing.assert_array_equal(floats(sampler.output).reshape(-1, 3), xyz[:, i])
    scene = trimesh.load(path)
    low, high = scene.bounds
    turned = xyz.reshape(-1, 3) @ root_matrix(path)[:3, :3].T
    if frames > 1:  # the lines hold all places
        assert (low <= turned.min(0) + 1e-5).all() and (high >= turned.max(0) - 1e-5).all()


def test_a_mesh_as_ply(tmp_path: Path) -> None:
    mesh = tetrahedron()
    write_mesh_ply(tmp_path / "m.ply", mesh)
    file = PlyData.read(str(tmp_path / "m.ply"))
    assert not file.text and file.byte_order == "<"
    vertex = file["vertex"]
    np.testing.assert_array_equal(np.stack([vertex[n] for n in "xyz"], -1), mesh.vertices)
    np.testing.assert_array_equal(np.stack([vertex[n] for n in ("nx", "ny", "nz")], -1), mesh.normals)
    colours = np.stack([vertex[n] for n in ("red", "green", "blue")], -1)
    np.testing.assert_array_equal(colours, np.round(mesh.rgb * 255).astype(np.uint8))
    np.testing.assert_array_equal(np.stack(file["face"]["vertex_indices"]), mesh.faces)
    loaded = trimesh.load(tmp_path / "m.ply", process=False)
    assert loaded.is_watertight and loaded.volume == pytest.approx(1 / 6)


def test_an_empty_mesh_is_a_whole_ply(tmp_path: Path) -> None:
    none = np.zeros((0, 3), np.float32)
    write_mesh_ply(tmp_path / "m.ply", Mesh(none, np.zeros((0, 3), np.int32), none, none))
    file = PlyData.read(str(tmp_path / "m.ply"))
    assert file["vertex"].count == 0 and file["face"].count == 0
    with pytest.raises(ValueError, match=r"Mesh\.rgb"):
        Mesh(none, np.zeros((0, 3), np.int32), none, np.zeros((2, 3), np.float32))


def test_a_mesh_as_glb(tmp_path: Path) -> None:
    mesh, camera = tetrahedron(), z_up()
    write_mesh_glb(tmp_path / "m.glb", mesh, camera)
    loaded = trimesh.load(tmp_path / "m.glb", process=False).to_geometry()
    assert loaded.is_watertight and loaded.volume == pytest.approx(1 / 6)  # turned, not mirrored
    turn = upright(camera)[:3, :3]
    np.testing.assert_allclose(loaded.vertices, mesh.vertices @ turn.T, atol=1e-6)
    np.testing.assert_array_equal(loaded.faces, mesh.faces)
    assert loaded.vertices[3, 1] == pytest.approx(1)  # the world's z is up


def test_colours_are_linear_and_fine_enough_for_dark_ones(tmp_path: Path) -> None:
    rgb = np.repeat(np.arange(256)[:, None] / 255, 3, axis=1)
    write_scene_glb(tmp_path / "s.glb", np.random.default_rng(0).normal(size=(256, 3)), rgb, z_up())
    document = pygltflib.GLTF2().load(str(tmp_path / "s.glb"))
    assert document is not None
    points = document.meshes[0].primitives[0]
    accessor = document.accessors[points.attributes.COLOR_0]
    view = document.bufferViews[accessor.bufferView]
    raw = document.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]  # type: ignore[index]
    linear = np.frombuffer(raw, "<f4").reshape(-1, 3)[:, 0]
    back = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_array_equal(np.round(back * 255), np.arange(256))
    read = np.asarray(trimesh.load(tmp_path / "s.glb").geometry["points"].colors)[:, 0]
    assert np.abs(read / 255 - linear).max() <= 1 / 255
    assert points.mode == pygltflib.POINTS
    assert document.materials[points.material].extensions == {"KHR_materials_unlit": {}}


def test_a_scene_has_points_frusta_path_and_cameras(tmp_path: Path) -> None:
    camera, xyz = z_up(5), np.random.default_rng(0).normal(size=(300, 3)) * 0.3
    xyz[7] = np.nan
    poses = camera.world_from_cam.clone()
    poses[2] = torch.nan
    camera = cameras(poses)
    names = [f"f{i}" for i in range(5)]
    write_scene_glb(tmp_path / "s.glb", xyz, np.full((300, 3), 0.5), camera, names=names)
    scene = trimesh.load(tmp_path / "s.glb")
    assert {n: len(g.vertices) for n, g in scene.geometry.items()} == {"points": 299, "frusta": 4 * 16, "path": 3 * 2}
    turn = upright(camera)[:3, :3]
    where = scene.graph.get(scene.graph.geometry_nodes["points"][0])[0]
    seen = trimesh.transform_points(scene.geometry["points"].vertices, where)
    np.testing.assert_allclose(seen, np.delete(xyz, 7, axis=0) @ turn.T, atol=1e-5)
    document = pygltflib.GLTF2().load(str(tmp_path / "s.glb"))
    assert document is not None
    nodes = [node for node in document.nodes if node.camera is not None]
    assert [node.name for node in nodes] == ["f0", "f1", "f3", "f4"]
    for node, row in zip(nodes, (0, 1, 3, 4)):
        matrix = np.array(node.matrix).reshape(4, 4).T
        pose = poses[row].numpy()
        np.testing.assert_allclose(matrix[:3, 3], pose[:3, 3])
        np.testing.assert_allclose(-matrix[:3, 2], pose[:3, 2])  # looks along its own -z
        np.testing.assert_allclose(matrix[:3, 1], -pose[:3, 1])  # its own y is up
    lens = document.cameras[0].perspective
    assert lens is not None and lens.yfov == pytest.approx(2 * math.atan(25 / 90))


def test_the_file_is_laid_out_as_the_format_wants(tmp_path: Path) -> None:
    write_scene_glb(tmp_path / "s.glb", np.eye(3), np.eye(3), z_up())
    data = (tmp_path / "s.glb").read_bytes()
    assert data[:4] == b"glTF" and int.from_bytes(data[4:8], "little") == 2
    assert int.from_bytes(data[8:12], "little") == len(data)
    document = pygltflib.GLTF2().load(str(tmp_path / "s.glb"))
    assert document is not None
    sizes = {pygltflib.FLOAT: 4, pygltflib.UNSIGNED_INT: 4}
    widths = {"SCALAR": 1, "VEC3": 3}
    for accessor in document.accessors:
        view = document.bufferViews[accessor.bufferView]
        assert view.byteOffset % 4 == 0
        assert view.byteLength == accessor.count * sizes[accessor.componentType] * widths[accessor.type]
        assert view.byteOffset + view.byteLength <= document.buffers[0].byteLength
    length = int.from_bytes(data[12:16], "little")
    plain = json.loads(data[20 : 20 + length])
    places = {part["attributes"]["POSITION"] for mesh in plain["meshes"] for part in mesh["primitives"]}
    assert {n for n, accessor in enumerate(plain["accessors"]) if "min" in accessor} == places
    assert document.extensionsUsed == ["KHR_materials_unlit"] and not document.extensionsRequired


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_up_is_the_axis_that_the_cameras_hold_upwards(axis: int, sign: float) -> None:
    up = torch.zeros(3).double()
    up[axis] = sign
    side = torch.roll(up, 1)
    eyes = [3 * side + 0.8 * up + 0.3 * k * torch.roll(up, 2) for k in range(3)]
    camera = cameras(torch.stack([look_at(eye, torch.zeros(3).double(), up) for eye in eyes]))
    turn = upright(camera)
    assert np.linalg.det(turn[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(turn[:3, :3] @ up.numpy(), [0, 1, 0])
    ahead = turn[:3, :3] @ camera.world_from_cam[0, :3, 2].numpy()
    assert ahead[2] < -0.8


def test_a_world_with_a_cameras_axes_is_turned_about_x(tmp_path: Path) -> None:
    still = cameras(torch.eye(4).double().repeat(3, 1, 1))
    np.testing.assert_array_equal(upright(still), np.diag([1.0, -1, -1, 1]))
    unknown = cameras(torch.full((2, 4, 4), torch.nan).double())
    np.testing.assert_array_equal(upright(unknown), np.diag([1.0, -1, -1, 1]))
    write_scene_glb(tmp_path / "s.glb", np.array([[0, 0, 2.0]]), np.ones((1, 3)), still)
    np.testing.assert_array_equal(root_matrix(tmp_path / "s.glb"), np.diag([1.0, -1, -1, 1]))
    scene = trimesh.load(tmp_path / "s.glb")
    assert set(scene.geometry) == {"points", "frusta"}  # a camera that stands still has no path
    write_scene_glb(tmp_path / "n.glb", np.zeros((0, 3)), np.zeros((0, 3)), unknown)
    assert pygltflib.GLTF2().load(str(tmp_path / "n.glb")) is not None


def test_frusta_end_on_the_picture_s_corners() -> None:
    camera = z_up(2)
    K, poses = camera.K.numpy(), camera.world_from_cam.numpy()
    lines = camera_lines(K, poses, camera.width, camera.height, 0.4)
    assert lines.frusta.shape == (32, 3) == lines.frusta_rgb.shape and lines.path.shape == (2, 3)
    inside = (lines.frusta[16:] - poses[1, :3, 3]) @ poses[1, :3, :3]
    eye = np.abs(inside).max(-1) < 1e-12
    assert eye.sum() == 4
    np.testing.assert_allclose(inside[~eye, 2], 0.4)
    uv = inside[~eye] @ K[1].T / 0.4
    corners = {(0, 0), (60, 0), (60, 50), (0, 50)}
    assert {(round(u), round(v)) for u, v, _ in uv} == corners


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(glb.gltf.GLTF2, "save_to_bytes", full)
    with pytest.raises(RunError, match="disk full"):
        write_mesh_glb(tmp_path / "m.glb", tetrahedron(), z_up())
    assert list(tmp_path.iterdir()) == []
