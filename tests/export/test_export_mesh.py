"""The mesh that moves: its shape, its way, and the animated GLB as its bytes and other software have it."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from export_scenes import Carousel, arc, ball, timeline

from dyn4d.core.errors import RunError
from dyn4d.core.types import GaussianCloud
from dyn4d.export.morphs import find_morphs
from dyn4d.export.moving_mesh import cut_bridges, make_moving_mesh, quietest_frame
from dyn4d.io.glb import write_morphing_glb

COUNT = 4
SMALL = {"views": 24, "pixels": 160, "voxels": 64}


def solid(means, size):
    """Opaque grey-green Gaussians at (N, 3)."""
    count = len(means)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    sh = torch.tensor([-0.8, 0.9, 0.0]).expand(count, 1, 3)
    return GaussianCloud(means, quats, torch.full((count, 3), size), torch.full((count,), 0.98), sh)


def body_with_a_limb():
    """A ball of radius 0.3 with a rod 0.5 long and about 0.03 thick."""
    rod = torch.zeros(60, 3)
    rod[:, 0] = torch.linspace(0.28, 0.8, 60)
    skin = ball(800, radius=0.28)
    return solid(torch.cat([skin.means, rod]), 0.018)


class Scissors:
    """Two halves of the x axis that come apart along y: they touch at t = 0 only."""

    invertible = True

    def from_canonical(self, xyz, t):
        return xyz + t * torch.stack([xyz[..., 0] * 0, torch.sign(xyz[..., 0]), xyz[..., 0] * 0], dim=-1)

    def to_canonical(self, xyz, t):
        return self.from_canonical(xyz, -t)

    def jacobian(self, xyz, t):
        return torch.eye(3).to(xyz).expand(*xyz.shape[:-1], 3, 3)

    def motion(self, xyz, t):
        return self.from_canonical(xyz, t), self.jacobian(xyz, t)


def test_a_ball_becomes_a_ball_that_goes_where_the_field_says():
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    pytest.importorskip("fast_simplification", reason="fast-simplification is not installed")
    field, times = Carousel(turn=1.2, shift=0.4), timeline(COUNT)
    made = make_moving_mesh(ball(1500), field, times, faces=3000, **SMALL)
    assert made.vertices.shape[0] == COUNT and 1000 < len(made.faces) <= 3000
    for frame, t in enumerate(times.times):
        back = field.to_canonical(torch.from_numpy(made.vertices[frame]), float(t))
        radius = back.norm(dim=-1).numpy()
        assert radius.min() > 0.48 and radius.max() < 0.66  # 0.5 and what Gaussians of 0.07 add
        np.testing.assert_allclose(back.numpy(), field.to_canonical(
            torch.from_numpy(made.vertices[0]), float(times.times[0])).numpy(), atol=1e-5)  # fmt: skip
    own = made.at(made.frame)
    surface = trimesh.Trimesh(own.vertices, own.faces, process=False)
    assert surface.is_watertight and surface.volume > 0.4  # outwards: a ball of 0.5 has 0.52
    assert (np.einsum("ij,ij->i", own.normals, own.vertices - own.vertices.mean(0)) > 0).mean() > 0.99
    # the ball is coloured by its directions, in canonical space
    direction = torch.nn.functional.normalize(
        field.to_canonical(torch.from_numpy(own.vertices), float(times.times[made.frame])), dim=-1
    )
    assert np.abs(made.rgb - (0.5 + 0.45 * direction.numpy())).mean() < 0.05


def test_thin_limbs_survive():
    pytest.importorskip("fast_simplification", reason="fast-simplification is not installed")
    made = make_moving_mesh(body_with_a_limb(), Carousel(turn=0.0, shift=0.0), timeline(1), faces=4000, **SMALL)
    xyz = made.vertices[0]
    assert xyz[:, 0].max() > 0.78
    rod = xyz[(xyz[:, 0] > 0.4) & (xyz[:, 0] < 0.7)]
    across = np.linalg.norm(rod[:, 1:], axis=-1)
    assert len(rod) > 20 and 0.01 < np.median(across) < 0.05  # thin, and no blob
    assert made.rgb[:, 1].mean() > made.rgb[:, 0].mean() + 0.2


def test_the_mesh_is_made_when_parts_are_apart():
    halves = solid(torch.cat([torch.rand(200, 3) * 0.4, torch.rand(200, 3) * 0.4 * torch.tensor([-1.0, 1, 1])]), 0.02)
    frame, size = quietest_frame(halves, Scissors(), timeline(5).times)
    assert frame > 0 and size == pytest.approx(2.4, abs=0.15)
    assert quietest_frame(ball(), Carousel(), timeline(5).times)[0] == 2  # nothing comes apart: the middle


def test_bridges_are_cut():
    faces = np.array([[0, 1, 2], [1, 2, 3]])
    still = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0.1, 0.1, 0]], np.float32)
    apart = still.copy()
    apart[3, 2] = 2
    np.testing.assert_array_equal(cut_bridges(np.stack([still, still]), faces, reach=0.05), faces)
    np.testing.assert_array_equal(cut_bridges(np.stack([still, apart]), faces, reach=0.05), faces[:1])
    assert len(cut_bridges(np.stack([0.001 * still, 0.01 * still]), faces, reach=0.05)) == 2  # too small to matter


def test_nothing_to_make_a_mesh_of():
    with pytest.raises(RunError, match="no Gaussians"):
        make_moving_mesh(ball(300).select(torch.zeros(0).long()), Carousel(), timeline(2), faces=100, **SMALL)
    faint = replace(ball(300), opacities=torch.full((300,), 0.01))
    with pytest.raises(RunError, match="no surface"):
        make_moving_mesh(faint, Carousel(), timeline(2), faces=100, **SMALL)


# ------------------------------------------------------------------------------------------- morphs


def moving(frames=9, vertices=40):
    """A cloud of points that turns and bends."""
    start = np.random.default_rng(0).normal(size=(vertices, 3))
    out = []
    for t in np.linspace(0, 1, frames):
        c, s = np.cos(t), np.sin(t)
        place = start @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        out.append(place + 0.2 * np.sin(3 * t) * start[:, 2:] ** 2 * np.array([0, 0, 1]))
    return np.stack(out).astype(np.float32)


@pytest.mark.parametrize("tolerance", [0.3, 0.01, 0.0])
def test_morphs_give_every_frame_back(tolerance):
    vertices = moving()
    morphs = find_morphs(vertices, 4, tolerance=tolerance)
    found = morphs.base + np.einsum("fk,kvc->fvc", morphs.weights, morphs.targets)
    error = np.linalg.norm(found - vertices, axis=-1).max()
    assert error <= tolerance + 1e-5 and morphs.error == pytest.approx(error, abs=1e-5)
    np.testing.assert_array_equal(morphs.base, vertices[4])
    assert morphs.weights.min() >= 0 and morphs.weights.max() <= 1 + 1e-6
    assert len(morphs.targets) <= (4 if tolerance else 9)  # a turn and a bend: three shapes, and one always on


def test_morphs_of_what_stands_still():
    still = np.repeat(moving(1), 3, axis=0)
    assert len(find_morphs(still, 1, tolerance=0.01).targets) == 0
    assert find_morphs(still[:1], 0, tolerance=0.0).weights.shape == (1, 0)


# ---------------------------------------------------------------------------------------------- GLB


def parse(path):
    """A GLB by its specification: the document, and its accessors as arrays."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    document = json.loads(data[20 : 20 + size])
    blob = data[28 + size :]

    def accessor(index):
        one = document["accessors"][index]
        view = document["bufferViews"][one["bufferView"]]
        width = {"SCALAR": 1, "VEC3": 3}[one["type"]]
        kind = {5126: "<f4", 5125: "<u4"}[one["componentType"]]
        values = np.frombuffer(blob, kind, one["count"] * width, view.get("byteOffset", 0))
        return values.reshape(-1, width)

    return document, accessor


def written(tmp_path, seconds):
    vertices = moving(len(seconds))
    faces = np.random.default_rng(1).permuted(np.tile(np.arange(40), (30, 1)), axis=1)[:, :3].astype(np.int32)
    morphs = find_morphs(vertices, 0, tolerance=0.01)
    rgb = np.random.default_rng(2).random((40, 3))
    path = tmp_path / "a mesh.glb"
    write_morphing_glb(
        path, morphs.base, faces, rgb, targets=morphs.targets, weights=morphs.weights, seconds=seconds,
        cameras=arc(3),
    )  # fmt: skip
    return path, vertices, faces


def test_the_animation_plays_the_frames_at_their_seconds(tmp_path):
    seconds = 1.5 + np.array([0.0, 0.1, 0.3, 0.35, 0.5])
    path, vertices, faces = written(tmp_path, seconds)
    document, accessor = parse(path)
    part = document["meshes"][0]["primitives"][0]
    sampler = document["animations"][0]["samplers"][0]
    assert sampler["interpolation"] == "LINEAR"
    np.testing.assert_allclose(accessor(sampler["input"])[:, 0], seconds, atol=1e-6)
    weights = accessor(sampler["output"]).reshape(len(seconds), -1)
    targets = np.stack([accessor(target["POSITION"]) for target in part["targets"]])
    base = accessor(part["attributes"]["POSITION"])
    played = base + np.einsum("fk,kvc->fvc", weights, targets)
    assert np.linalg.norm(played - vertices, axis=-1).max() <= 0.01 + 1e-5
    np.testing.assert_array_equal(accessor(part["indices"]).reshape(-1, 3), faces)
    assert not any(document["meshes"][0]["weights"])  # without the animation it is the mesh at its own frame


def test_trimesh_opens_the_mesh_at_its_own_frame(tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    path, vertices, faces = written(tmp_path, np.arange(4) / 10)
    scene = trimesh.load(path, process=False)
    (mesh,) = scene.geometry.values()
    np.testing.assert_allclose(mesh.vertices, vertices[0], atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, faces)
    (node,) = scene.graph.nodes_geometry
    turned = trimesh.transform_points(mesh.vertices, scene.graph[node][0])  # world up is +z, glTF's +y
    np.testing.assert_allclose(turned[:, 1], vertices[0][:, 2], atol=1e-5)


def test_one_frame_has_no_animation_and_early_times_are_shifted(tmp_path):
    document, _ = parse(written(tmp_path, np.array([0.0]))[0])
    assert not document.get("animations") and "targets" not in document["meshes"][0]["primitives"][0]
    document, accessor = parse(written(tmp_path, np.array([-0.5, 0.0, 0.25]))[0])
    when = accessor(document["animations"][0]["samplers"][0]["input"])[:, 0]
    np.testing.assert_allclose(when, [0, 0.5, 0.75])


@pytest.mark.external
def test_the_gltf_validator_has_nothing_to_say(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not on the PATH")
    if subprocess.run([node, "-e", "require('gltf-validator')"], capture_output=True).returncode:
        pytest.skip("gltf-validator (npm) is not on node's path (NODE_PATH)")
    path, _, _ = written(tmp_path, np.arange(4) / 10)
    script = """const v = require('gltf-validator'), fs = require('fs');
        v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
         .then(r => console.log(JSON.stringify(r.issues)));"""
    done = subprocess.run([node, "-e", script, str(path)], capture_output=True, text=True, check=True)
    issues = json.loads(done.stdout)
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]
