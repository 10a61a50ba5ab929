"""Endless pairs of frames of moving bodies with exact truth, by seed and number: the same whenever one is asked for.

A body of `synthetic.bodies` in two moments is drawn into two pictures of one imagined camera, and each picture is cut
around the object as the `square` view of a clip is. A share of the samples are whole rooms with bodies in them. Nothing
is read from disk: no picture, model or film of others is trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from dyn4d.synthetic.bodies import Body, Rng, make_body
from dyn4d.synthetic.body_motion import rotation_matrix, two_moments
from dyn4d.synthetic.raster import vertex_normals, visible_points, z_buffer
from dyn4d.synthetic.surface_paint import Light, Paint, draw_surface
from dyn4d.training.geometry_config import ObjectPairs
from dyn4d.training.r2d2_data import photometric
from dyn4d.training.textures import make_texture

TEXTURE = 128  # side of a texture in pixels
HELD_OUT = 1 << 40  # numbers from here on are of samples and bodies that no training sees
TRIES = 12
AT_ONCE = 128  # bodies that samples in a row are made of
LEAST_SHARE = 0.06  # of the view that the object has to cover


@dataclass(frozen=True)
class Layer:
    """One painted surface.

    Attributes:
        vertices: (2, V, 3) at both moments, world. faces: (F, 3). surface: rest places, rest normals, openness.
    """

    vertices: np.ndarray
    faces: np.ndarray
    surface: tuple[np.ndarray, np.ndarray, np.ndarray]
    paint: Paint


@dataclass(frozen=True)
class FilmedPair:
    """What is in front of the camera at two moments, and where it stands.

    Attributes:
        layers: painted surfaces. cam_from_world: (2, 4, 4). K: (2, 3, 3) of the views, pixels. unit: (2,) pixels of the
            view that are the longest side of the picture. light: in the first camera's frame. whole: no mask.
    """

    layers: list[Layer]
    cam_from_world: np.ndarray
    K: np.ndarray
    unit: np.ndarray
    light: Light
    whole: bool

    @property
    def faces(self) -> np.ndarray:
        """(F, 3) of all layers together."""
        sizes = np.cumsum([0, *(layer.vertices.shape[1] for layer in self.layers)])
        return np.concatenate([layer.faces + start for layer, start in zip(self.layers, sizes)])

    def in_camera(self, moment: int) -> np.ndarray:
        """(V, 3) of all layers together."""
        pose = self.cam_from_world[moment]
        return np.concatenate([layer.vertices[moment] for layer in self.layers]) @ pose[:3, :3].T + pose[:3, 3]


@dataclass(frozen=True)
class GeometrySample:
    """Two views, S x S, and the truth about them.

    Attributes:
        image: (2, S, S, 3) uint8. mask: (2, S, S) bool. depth: (2, S, S) float32 planar, 0 where not in the mask.
        K: (2, 3, 3) float64. unit: (2,) see `FilmedPair`. known: the network may be told K.
        a_from_b: (4, 4) float64 camera b to camera a.
        flow: (S, S, 2) float32 where in b the surface point under the centre of each pixel of a is, half-integer
            pixels; NaN where b does not show it.
    """

    image: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    K: np.ndarray
    unit: np.ndarray
    known: bool
    a_from_b: np.ndarray
    flow: np.ndarray


class SampleSource:
    """Samples by number; see the module. Free of state but for what it remembers to be quick.

    Args:
        small: how many, from the first on, have views of `config.first_size`.
    """

    def __init__(self, config: ObjectPairs, seed: int, small: int = 0) -> None:
        self.config, self.seed, self.small = config, seed, small

    def __call__(self, index: int) -> GeometrySample:
        """Sample number `index`."""
        config = self._config_of(index)
        for attempt in range(TRIES):  # a body may hide behind the edge of the picture
            rng = np.random.default_rng([self.seed, 43, index, attempt])
            sample = draw_pair(rng, film_pair(rng, config, self.seed, index), config)
            if sample is not None:
                return sample
        raise RuntimeError(f"sample {index} of seed {self.seed}: nothing to see in {TRIES} tries")

    def filmed(self, index: int) -> FilmedPair:
        """What sample `index` is drawn from, if its first try succeeds."""
        return film_pair(np.random.default_rng([self.seed, 43, index, 0]), self._config_of(index), self.seed, index)

    def _config_of(self, index: int) -> ObjectPairs:
        return replace(self.config, size=self.config.first_size) if index < self.small else self.config


def body_number(config: ObjectPairs, index: int) -> int:
    """Which body sample `index` shows: one of `AT_ONCE` that new ones join and old ones leave, each shown `reuse` times
    or so, as making it is dear. Few at once might be learnt by heart and forgotten for the next."""
    if index >= HELD_OUT:
        return index
    drawn = ((index + 1) * 2654435761 % 2**32) >> 8  # Knuth's multiplicative hash
    return (index // config.reuse + drawn % AT_ONCE) % config.bodies


_body = lru_cache(maxsize=AT_ONCE + 32)(make_body)
_texture = lru_cache(maxsize=512)(make_texture)


# ------------------------------------------------------------------------------------------- what is filmed


def film_pair(rng: Rng, config: ObjectPairs, seed: int, index: int) -> FilmedPair:
    """Bodies, paint, light and cameras of a sample."""
    body = _body(seed, body_number(config, index), config.people)
    whole = bool(rng.random() < config.scenes)
    moments = np.stack(two_moments(body, rng))
    layers = [_layer(body, moments, rng, config, seed)]
    focal, wide = float(np.exp(rng.uniform(*np.log(config.focal)))), _shape_of_picture(rng, whole)
    share = float(rng.uniform(0.2, 0.5) if whole else rng.uniform(0.25, 1.0))  # of the short side, that the body takes
    reach = float(np.linalg.norm(moments[0], axis=1).max())
    distance = max(2 * focal * reach / (share * min(wide)), 1.35 * reach)
    stands = "room" if whole else "ground" if body.gait is not None and rng.random() < 0.85 else "air"
    poses = _cameras(rng, config, moments, distance, focal, wide, stands)
    if whole:
        layers += _surroundings(rng, config, seed, index, moments, poses)
    views = [_whole_view(wide, config.size)] * 2 if whole else [
        _view(rng, m @ p[:3, :3].T + p[:3, 3], focal, wide, config) for m, p in zip(moments, poses)
    ]  # fmt: skip
    K = np.stack([_intrinsics(focal, wide, view, config.size) for view in views])
    unit = np.array([config.size / view[2] for view in views])
    return FilmedPair(layers, poses, K, unit, _light(rng), whole)


def _shape_of_picture(rng: Rng, square: bool) -> tuple[float, float]:
    """Width and height, the longer one 1."""
    if square or rng.random() < 0.4:
        return 1.0, 1.0
    short = float(rng.choice([0.5625, 0.66, 0.75]))
    return (1.0, short) if rng.random() < 0.7 else (short, 1.0)


def _cameras(
    rng: Rng, config: ObjectPairs, moments: np.ndarray, distance: float, focal: float, wide: tuple[float, float],
    stands: Literal["room", "ground", "air"],
) -> np.ndarray:  # fmt: skip
    """(2, 4, 4) cam_from_world of two cameras that look at the body, which is off the pictures' middle. stands: what is
    on the ground is filmed as people film."""
    level = stands == "room"
    turn = math.radians(config.turn) * float(rng.choice([0.15, 0.5, 1.0], p=[0.25, 0.25, 0.5])) * rng.uniform(0, 1)
    azimuth, elevation = (
        rng.uniform(0, 2 * math.pi),
        math.radians(rng.uniform(*{"room": (4, 45), "ground": (-5, 30), "air": (-20, 60)}[stands])),
    )
    tilt = rng.uniform(-0.35, 0.35) if level else rng.uniform(-math.pi, math.pi)
    step = turn * np.array([math.cos(tilt), 0.5 * math.sin(tilt)])
    roll = np.zeros(2) if level else rng.normal(0, 0.08) + rng.normal(0, 0.05, 2)
    if stands == "air" and rng.random() < 0.15:
        roll = roll + rng.uniform(-math.pi, math.pi)
    room = 0.5 - 0.3 * min(1.0, 2 * focal / distance)
    offset = rng.uniform(-room, room, 2) * wide * (0.4 if level else rng.choice([0.3, 1.0, 1.4]))
    out = []
    for moment in range(2):
        up = elevation + moment * step[1]
        up = float(np.clip(up, 0.05, 1.4)) if level else up
        around = azimuth + moment * step[0]
        away = np.array([math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)])
        right = np.array([-math.sin(around), math.cos(around), 0.0])
        axes = np.stack([right, np.cross(-away, right), -away])  # rows: x right, y down, z forward
        axes = rotation_matrix(np.array([0, 0, roll[moment]])) @ axes
        far = distance * (1.0 if moment == 0 else float(np.exp(rng.uniform(-0.16, 0.16))))
        at = offset + moment * rng.normal(0, 0.04, 2)
        aim = rotation_matrix(np.array([math.atan2(at[1], focal), -math.atan2(at[0], focal), 0.0]))
        pose = np.eye(4)
        pose[:3, :3] = aim.T @ axes  # the body moves to `at` as the camera turns from it
        middle = (moments[moment].max(0) + moments[moment].min(0)) / 2
        pose[:3, 3] = aim.T @ np.array([0, 0, far]) - pose[:3, :3] @ middle
        out.append(pose)
    return np.stack(out)


def _view(
    rng: Rng, points: np.ndarray, focal: float, wide: tuple[float, float], config: ObjectPairs
) -> tuple[float, float, float]:
    """Left, top and side of the square around what the picture shows of the body, in longest sides of the picture."""
    size = np.array(wide)
    front = points[points[:, 2] > 0.05]
    xy = focal * front[:, :2] / front[:, 2:] + size / 2 if len(front) else np.zeros((1, 2))
    low, high = np.clip(xy.min(0), 0, size), np.clip(xy.max(0), 0, size)
    margin = float(rng.uniform(*config.margin))
    side = float(np.clip((high - low).max() * (1 + 2 * margin), 0.05, size.min()))
    left, top = np.clip((low + high) / 2 - side / 2 + rng.normal(0, 0.01, 2) * side, 0, size - side)
    return float(left), float(top), side


def _whole_view(wide: tuple[float, float], size: int) -> tuple[float, float, float]:
    return 0.0, 0.0, max(wide)


def _intrinsics(focal: float, wide: tuple[float, float], view: tuple[float, float, float], size: int) -> np.ndarray:
    scale = size / view[2]
    return np.array([
        [focal * scale, 0, (wide[0] / 2 - view[0]) * scale], [0, focal * scale, (wide[1] / 2 - view[1]) * scale],
        [0, 0, 1],
    ])  # fmt: skip


def _layer(body: Body, vertices: np.ndarray, rng: Rng, config: ObjectPairs, seed: int) -> Layer:
    paint = replace(_paint(rng, config, seed, len(body.rest)), parts=_clothes(rng, body))
    return Layer(vertices, body.faces, (body.rest, body.normals, body.occlusion), paint)


def _clothes(rng: Rng, body: Body) -> np.ndarray:
    """(V, 4) colours of the bones' parts, both sides alike, as of shirts, gloves, paws and manes; see `Paint`."""
    parts = np.zeros((len(body.rest), 4))
    if rng.random() < 0.5:
        return parts
    colours = np.clip(rng.uniform(0.05, 1.0, (int(rng.integers(2, 6)), 1)) + rng.normal(0, 0.2, (1, 3)), 0, 1)
    colours = np.clip(colours + rng.normal(0, rng.choice([0.05, 0.3]), colours.shape), 0, 1)
    covers = rng.choice([0.0, 0.5, 0.85, 1.0], len(colours))
    picked: dict[tuple[int, ...], int] = {}
    owner = body.weights.argmax(1)
    for bone, joint in enumerate(body.joint - body.joint[0]):
        both = (joint[0], abs(joint[1]), joint[2])  # the same for a left and a right limb
        pick = picked.setdefault(tuple(round(20 * v) for v in both), int(rng.integers(len(colours))))
        parts[owner == bone] = [*colours[pick], covers[pick]]
    return parts


def _paint(rng: Rng, config: ObjectPairs, seed: int, vertices: int, scale: float = 1.0) -> Paint:
    textures = np.stack([_texture(seed, int(n), TEXTURE) for n in rng.integers(0, config.textures, 2)])
    if rng.random() < 0.3:  # hardly any texture
        plain = textures.mean((1, 2), keepdims=True)
        textures = np.clip(plain + (textures - plain) * rng.uniform(0.03, 0.4), 0, 255).astype(np.uint8)
    wave = rng.normal(0, 1, 3) * rng.uniform(1, 5) / scale
    tint = np.exp(rng.normal(0.2, 0.35, (2, 1)) + rng.normal(0, 0.08, (2, 3)))
    return Paint(
        textures, float(np.exp(rng.uniform(np.log(0.35), np.log(2.5)))) / scale, rng.uniform(0, 2, 3),
        rotation_matrix(rng.normal(0, 1.5, 3)), wave, float(rng.uniform(0, 6.3)), float(rng.choice([0.0, 0.5, 4.0])),
        tint, np.zeros((vertices, 4)),
    )  # fmt: skip


def _light(rng: Rng) -> Light:
    up = rotation_matrix(rng.normal(0, 0.3, 3)) @ np.array([0, -1.0, 0])
    sun = up * rng.uniform(0.2, 1.2) + rng.normal(0, 0.6, 3) - [0, 0, rng.uniform(0, 0.8)]
    ambient = rng.uniform(0.4, 1.0)
    gloss = float(rng.choice([0.0, 1.0], p=[0.55, 0.45]) * rng.uniform(0, 0.5))
    return Light(sun / np.linalg.norm(sun), up, float(rng.uniform(0.3, 1.6 - ambient)), float(ambient), gloss,
                 float(rng.uniform(5, 60)))  # fmt: skip


# ------------------------------------------------------------------------------------------- rooms


def _surroundings(
    rng: Rng, config: ObjectPairs, seed: int, index: int, moments: np.ndarray, poses: np.ndarray
) -> list[Layer]:
    """A floor, walls behind the cameras too, and bodies that stand still."""
    floor = float(moments[..., 2].min())
    centres = np.stack([-p[:3, :3].T @ p[:3, 3] for p in poses])
    far = float(np.abs(centres[:, :2]).max())
    half = max(far * rng.uniform(1.05, 1.6), rng.uniform(2.0, 4.0))
    high = max(float(centres[:, 2].max()) - floor, 2.0) * rng.uniform(1.1, 1.8)
    out = [
        _sheet(corner, u, v, rng, config, seed)
        for corner, u, v in (
            ((-half, -half, floor), (2 * half, 0, 0), (0, 2 * half, 0)),
            ((-half, -half, floor), (0, 2 * half, 0), (0, 0, high)),
            ((half, -half, floor), (0, 0, high), (0, 2 * half, 0)),
            ((-half, -half, floor), (0, 0, high), (2 * half, 0, 0)),
            ((-half, half, floor), (2 * half, 0, 0), (0, 0, high)),
            ((-half, -half, floor + high), (0, 2 * half, 0), (2 * half, 0, 0)),
        )
    ]
    for number in range(int(rng.integers(0, 4))):
        body = _body(seed, body_number(config, index) + 1 + number, config.people)
        still = body.rest * rng.uniform(0.4, 1.3)
        angle = rng.uniform(0, 2 * math.pi)
        place = rng.uniform(1.3, max(half - 0.6, 1.4)) * np.array([math.cos(angle), math.sin(angle)])
        if np.linalg.norm(centres[:, :2] - place, axis=1).min() < 1.2:
            continue
        still = still @ rotation_matrix(np.array([0, 0, rng.uniform(0, 6.3)])).T
        still = still + np.array([place[0], place[1], floor - still[:, 2].min()])
        out.append(_layer(body, np.stack([still, still]), rng, config, seed))
    return out


def _sheet(
    corner: tuple[float, ...], u: tuple[float, ...], v: tuple[float, ...], rng: Rng, config: ObjectPairs, seed: int
) -> Layer:
    """A flat wall, cut into cells so that what is behind the camera can be left out."""
    cells = 12
    i, j = (g.reshape(-1, 1) / cells for g in np.mgrid[0 : cells + 1, 0 : cells + 1])
    points = np.array(corner) + i * np.array(u) + j * np.array(v)
    at = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).reshape(-1, 1)
    faces = np.concatenate([at + np.array(corners) for corners in ((0, cells + 1, cells + 2), (0, cells + 2, 1))])
    normal = np.cross(u, v) / np.linalg.norm(np.cross(u, v))
    paint = replace(_paint(rng, config, seed, len(points), float(rng.uniform(1.0, 3.0))), frame=np.eye(3))
    surface = (points, np.broadcast_to(normal, points.shape).copy(), np.ones(len(points)))
    return Layer(np.stack([points, points]), faces.astype(np.int64), surface, paint)


# ------------------------------------------------------------------------------------------- drawing


def draw_pair(rng: Rng, filmed: FilmedPair, config: ObjectPairs) -> GeometrySample | None:
    """Pictures and truth; None where there is too little of the object in one of them."""
    size, faces = config.size, filmed.faces
    shapes = [_projected(filmed.in_camera(moment), filmed.K[moment]) for moment in range(2)]
    buffers = [z_buffer(xy, z, faces, size, size, 1) for xy, z in shapes]
    if min(float((face >= 0).mean()) for face, _ in buffers) < LEAST_SHARE:
        return None
    images, shares = [], []
    behind, develop = _backdrop(rng, size), int(rng.integers(1 << 60))
    alike = rng.random() < 0.6  # as neighbouring frames of a film are
    for moment, (xy, z) in enumerate(shapes):
        image, share = _colours(filmed, moment, buffers[moment][0], xy, z)
        own = np.random.default_rng([develop, 0 if alike else moment])
        images.append(_developed(own, image, buffers[moment][0] >= 0, behind, config.photometric))
        shares.append(share)
    depth = np.stack([np.where(near > 0, 1 / np.where(near > 0, near, 1), 0) for _, near in buffers])
    flow = _flow(buffers[0][0], shares[0], faces, shapes[1], size)
    return GeometrySample(
        np.stack(images), np.stack([face >= 0 for face, _ in buffers]), depth.astype(np.float32), filmed.K, filmed.unit,
        bool(rng.random() < config.known), filmed.cam_from_world[0] @ np.linalg.inv(filmed.cam_from_world[1]), flow,
    )  # fmt: skip


def _projected(points: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = points[:, 2].copy()
    safe = np.where(np.abs(z) > 1e-6, z, 1e-6)
    z[z < 0.02] = 0.0  # behind the camera: its triangles are left out
    return np.stack([K[0, 0] * points[:, 0] / safe + K[0, 2], K[1, 1] * points[:, 1] / safe + K[1, 2]], 1), z


def _colours(
    filmed: FilmedPair, moment: int, face: np.ndarray, xy: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(S, S, 3) in [0, 1] and (S, S, 2) weights of the first two corners of what is seen."""
    size = face.shape
    image, share = np.zeros((*size, 3), np.float32), np.zeros((*size, 2))
    pose, first = filmed.cam_from_world[moment], filmed.cam_from_world[0]
    turned = pose[:3, :3] @ first[:3, :3].T  # light stands still in the world
    light = replace(filmed.light, sun=turned @ filmed.light.sun, up=turned @ filmed.light.up)
    start, corner = 0, 0
    for layer in filmed.layers:
        count, vertices = len(layer.faces), layer.vertices[moment]
        mine = (face >= start) & (face < start + count)
        if mine.any():
            points = vertices @ pose[:3, :3].T + pose[:3, 3]
            rows = slice(corner, corner + len(vertices))
            colours, weights = draw_surface(
                np.where(mine, face - start, -1).astype(np.int32), xy[rows], z[rows], points, layer.faces,
                layer.surface, vertex_normals(points, layer.faces), layer.paint, light,
            )  # fmt: skip
            image += colours
            share += weights
        start, corner = start + count, corner + len(vertices)
    return image, share


def _backdrop(rng: Rng, size: int) -> np.ndarray:
    """What shows through at the object's rim; everything else of it is masked."""
    plain = np.ones((size, size, 3), np.float32) * rng.uniform(0, 1, 3).astype(np.float32)
    if rng.random() < 0.5:
        return plain
    coarse = rng.uniform(0, 1, (int(rng.integers(2, 24)), int(rng.integers(2, 24)), 3)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _developed(rng: Rng, image: np.ndarray, mask: np.ndarray, behind: np.ndarray, strength: float) -> np.ndarray:
    """uint8, with soft edges, and what a camera and a codec do."""
    flat = np.where(mask[..., None], image, behind)
    soft = cv2.GaussianBlur(flat, (0, 0), float(rng.uniform(0.3, 0.6)))
    return photometric(rng, np.clip(np.rint(soft * 255), 0, 255).astype(np.uint8), strength)


def _flow(
    face: np.ndarray, share: np.ndarray, faces: np.ndarray, second: tuple[np.ndarray, np.ndarray], size: int
) -> np.ndarray:
    """Where the surface points under the first view's pixels are in the second, NaN where it does not show them."""
    flow = np.full((size, size, 2), np.nan, np.float32)
    rows, columns = np.nonzero(face >= 0)
    own = face[rows, columns]
    wa, wb = share[rows, columns].T
    weights = np.stack([wa, wb, 1 - wa - wb], 1)
    xy, z = second
    corners = faces[own]
    infront = (z[corners] > 0).all(1)
    safe = np.where(z > 0, z, 1.0)
    depth = (weights * z[corners]).sum(1)
    # A point's place in the picture: corners count by weight and depth.
    at = ((weights * safe[corners])[..., None] * xy[corners]).sum(1) / np.where(depth > 0, depth, 1.0)[:, None]
    usable = np.flatnonzero(infront)
    kept = np.asarray((z[faces] > 0).all(1))
    number = np.cumsum(kept) - 1  # of each triangle among those in front of the camera
    seen = visible_points(
        xy, safe, faces[kept], points=at[usable], depth=depth[usable], own=number[own[usable]], width=size, height=size
    )
    good = usable[seen]
    flow[rows[good], columns[good]] = at[good]
    return flow
