"""Endless pairs of pictures with exact flow, by seed and number: the same pair whenever it is asked for.

Both crops of a pair are cut from one procedural picture or one frame of dyn4d's synthetic scenes: the first by a
similarity and a smooth bend, the second by a homography more. In some pairs something in front moves otherwise than
what is behind it, so that there is something hidden. Then each crop gets light, colour, blur, noise and compression of
its own. Nothing is read from disk: no picture or film of others is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.synthetic import SyntheticConfig, build_scene
from dyn4d.synthetic.views import HELD_OUT
from dyn4d.training.config import PairConfig
from dyn4d.training.textures import Rng, make_texture, octaves

SCENES = ("creature", "worm", "turntable")
SCENE_SEEDS = (101, 102, 103, 104)  # none that a test, a demo or a benchmark uses
MOMENTS = 12  # of each scene's motion


@dataclass(frozen=True)
class TrainingPair:
    """Two crops, S x S.

    Attributes:
        a, b: (S, S, 3) uint8. aflow: (S, S, 2) float32 where in b each pixel of a is, (x, y) from the centre of the
            top-left pixel; NaN where b does not show it.
    """

    a: np.ndarray
    b: np.ndarray
    aflow: np.ndarray


class PairSource:
    """Pairs by number, cut from pictures that are made once.

    Attributes:
        pictures: N pictures (size, size, 3) uint8; the same for the same settings and seed.
    """

    def __init__(self, config: PairConfig, seed: int, progress: Progress | None = None) -> None:
        progress = progress or SilentProgress()
        self.config, self.seed = config, seed
        self.pictures: list[np.ndarray] = []
        progress.start("pictures", config.textures + config.frames)
        for picture in _pictures(config, seed):
            self.pictures.append(picture)
            progress.update()
        progress.finish()
        # Half as large, for crops that are zoomed out: sampling every other pixel would alias.
        self._halves = [cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for p in self.pictures]

    def __call__(self, index: int, size: int) -> TrainingPair:
        """Pair number `index` with crops of this side."""
        config, rng = self.config, np.random.default_rng([self.seed, 29, index])
        cut = _Cut(rng, config, size)
        a, behind = self._cut(rng, cut)
        b = self._sample(behind, cut.to_source(cut.back(cut.pixels)))
        aflow = cut.forth(cut.bent)
        if rng.random() < config.layers:
            front = _Cut(rng, config, size)
            a_front, before = self._cut(rng, front)
            b_front = self._sample(before, front.to_source(front.back(front.pixels)))
            shape = _Outline(rng, size)
            cover_a, cover_b = shape(front.bent), shape(front.back(front.pixels))
            a = _over(a_front, cover_a, a)
            b = _over(b_front, cover_b, b)
            hidden = _sample_map(cover_b, aflow) > 0.1
            aflow = np.where(hidden[..., None], np.nan, aflow)
            of_front = front.forth(front.bent)
            aflow = np.where((cover_a > 0.9)[..., None], of_front, aflow)
            edge = (cover_a > 0.1) & (cover_a <= 0.9)
            aflow = np.where(edge[..., None], np.nan, aflow)
        inside = np.all((aflow >= 0) & (aflow <= size - 1), axis=-1)
        aflow = np.where(inside[..., None], aflow, np.nan).astype(np.float32)
        return TrainingPair(photometric(rng, a, config.photometric), photometric(rng, b, config.photometric), aflow)

    def _cut(self, rng: Rng, cut: _Cut) -> tuple[np.ndarray, int]:
        number = int(rng.integers(len(self.pictures)))
        return self._sample(number, cut.to_source(cut.bent)), number

    def _sample(self, number: int, places: np.ndarray) -> np.ndarray:
        """(S, S, 3) uint8 of a picture at (S, S, 2) places, counted in picture sizes; mirrored beyond its edges."""
        step = np.linalg.norm(places[1:, 1:] - places[:-1, :-1], axis=-1).mean() / np.sqrt(2)
        picture = self.pictures[number]
        if step * picture.shape[0] > 1.4:
            picture = self._halves[number]
        xy = (places * picture.shape[0] - 0.5).astype(np.float32)
        return cv2.remap(picture, *_xy(xy), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


class _Cut:
    """Where the pixels of two crops lie in a picture.

    Between them is a plane whose unit is the pixel. Crop a shows it bent (`bent`: the plane's place of each of its
    pixels); crop b through a homography (`forth`: from the plane to b's pixels, `back`: the other way).
    """

    def __init__(self, rng: Rng, config: PairConfig, size: int) -> None:
        row, column = np.mgrid[0:size, 0:size].astype(np.float64)
        self.pixels = np.stack([column, row], -1)
        self.bent = self.pixels + _bend(rng, size, config.elastic)
        half = (size - 1) / 2
        scale = np.exp(rng.uniform(*np.log(config.scale)))
        turn = np.radians(rng.uniform(-config.rotation, config.rotation) * rng.choice([0.3, 1.0]))
        c, s = scale * np.cos(turn), scale * np.sin(turn)
        shift = rng.uniform(-0.2, 0.2, 2) * size
        centred = np.array([[1, 0, -half], [0, 1, -half], [0, 0, 1.0]])
        similar = np.array([[c, -s, shift[0]], [s, c, shift[1]], [0, 0, 1.0]])
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1.0]]) * half
        moved = corners + rng.uniform(-1, 1, (4, 2)) * half * config.perspective * rng.choice([0.3, 1.0])
        tilt = cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))
        self._forth = np.linalg.inv(centred) @ similar @ tilt @ centred
        self._back = np.linalg.inv(self._forth)
        zoom, angle = np.exp(rng.uniform(*np.log(config.zoom))), rng.uniform(-np.pi, np.pi) * (rng.random() < 0.3)
        self._zoom = zoom / config.picture
        self._turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self._flip = -1.0 if rng.random() < 0.5 else 1.0
        self._centre, self._half = rng.uniform(0.2, 0.8, 2), half

    def forth(self, xy: np.ndarray) -> np.ndarray:
        return _project(self._forth, xy)

    def back(self, xy: np.ndarray) -> np.ndarray:
        return _project(self._back, xy)

    def to_source(self, xy: np.ndarray) -> np.ndarray:
        """From the plane to the picture, whose sides count as 1."""
        return ((xy - self._half) * [self._flip, 1.0]) @ self._turn.T * self._zoom + self._centre


class _Outline:
    """A random closed shape in the plane; called with places (S, S, 2) it says how much of them it covers."""

    def __init__(self, rng: Rng, size: int) -> None:
        self.centre = rng.uniform(0.25, 0.75, 2) * size
        self.radius = rng.uniform(0.15, 0.4) * size
        self.waves = rng.normal(0, 1, 5) / np.arange(1, 6) * rng.uniform(0, 0.3)
        self.phases = rng.uniform(0, 2 * np.pi, 5)

    def __call__(self, xy: np.ndarray) -> np.ndarray:
        away = xy - self.centre
        angle = np.arctan2(away[..., 1], away[..., 0])
        edge = 1 + sum(w * np.cos((k + 1) * angle + p) for k, (w, p) in enumerate(zip(self.waves, self.phases)))
        return np.clip(self.radius * np.maximum(edge, 0.2) - np.linalg.norm(away, axis=-1) + 0.5, 0, 1)


def _project(h: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """A homography at (..., 2); NaN behind the viewer."""
    mapped = xy @ h[:, :2].T + h[:, 2]
    depth = mapped[..., 2:]
    return mapped[..., :2] / np.where(depth > 1e-3, depth, np.nan)


def _bend(rng: Rng, size: int, amplitude: float) -> np.ndarray:
    """(S, S, 2) smooth displacement, so gentle that nothing folds."""
    if amplitude == 0 or rng.random() < 0.4:
        return np.zeros((size, size, 2))
    waves = np.stack([octaves(rng, size, 1, 0.5) for _ in range(2)], -1)
    return waves.astype(np.float64) * rng.uniform(0, amplitude)


def _xy(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(places[..., 0]), np.ascontiguousarray(places[..., 1])


def _sample_map(values: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """A map (S, S) at places (S, S, 2); 1 outside and where the place is unknown."""
    safe = np.nan_to_num(xy, nan=-1e4).astype(np.float32)
    return cv2.remap(
        values.astype(np.float32), *_xy(safe), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(1.0,)
    )


def _over(front: np.ndarray, cover: np.ndarray, behind: np.ndarray) -> np.ndarray:
    share = cover[..., None]
    return np.rint(front * share + behind * (1 - share)).astype(np.uint8)


def photometric(rng: Rng, image: np.ndarray, strength: float) -> np.ndarray:
    """Light, colour, blur, noise and compression, as a camera and a codec would change them."""
    if strength == 0:
        return image
    value = image.astype(np.float32) / 255
    if rng.random() < 0.8:
        gamma, gain = np.exp(rng.normal(0, 0.2 * strength)), np.exp(rng.normal(0, 0.15 * strength))
        tint = np.exp(rng.normal(0, 0.06 * strength, 3)).astype(np.float32)
        value = np.clip(value, 0, 1) ** np.float32(gamma) * np.float32(gain) * tint
        value += np.float32(rng.normal(0, 0.05 * strength))
    if rng.random() < 0.3:  # a shade across
        value *= 1 + np.float32(0.25 * strength) * octaves(rng, image.shape[0], 1, 0.5, first=2.0)[..., None]
    if rng.random() < 0.1:
        value[:] = value.mean(-1, keepdims=True)
    pick = rng.random()
    if pick < 0.35:
        value = cv2.GaussianBlur(value, (0, 0), float(rng.uniform(0.3, 1.3)) * max(strength, 0.1))
    elif pick < 0.45:  # motion
        length = int(rng.integers(2, 5))
        kernel = np.eye(length, dtype=np.float32) if rng.random() < 0.5 else np.ones((1, length), np.float32)
        value = cv2.filter2D(value, -1, kernel / kernel.sum())
    if rng.random() < 0.7:
        value += rng.normal(0, rng.uniform(0, 0.03) * strength, value.shape).astype(np.float32)
    out = np.clip(np.rint(value * 255), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        good, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if good else None
        return out if decoded is None else np.asarray(decoded, dtype=np.uint8)
    return out


def _pictures(config: PairConfig, seed: int) -> Iterator[np.ndarray]:
    """Textures, then frames of the synthetic scenes."""
    for index in range(config.textures):
        yield make_texture(seed, index, config.picture)
    count = len(SCENES) * len(SCENE_SEEDS)
    for number in range(min(count, config.frames)):
        name, scene_seed = SCENES[number % len(SCENES)], SCENE_SEEDS[number // len(SCENES)]
        rng = np.random.default_rng([seed, 17, number])
        settings = SyntheticConfig(
            name, MOMENTS, config.picture, "room" if rng.random() < 0.75 else "grey", scene_seed, supersample=2
        )
        scene, turns = build_scene(config=settings), list(HELD_OUT.values())
        for _ in range(config.frames // count + (number < config.frames % count)):
            frame, turn = int(rng.integers(MOMENTS)), turns[int(rng.integers(len(turns)))]
            yield scene.draw(frame, scene.rig.pose(frame, *turn)).rgb
