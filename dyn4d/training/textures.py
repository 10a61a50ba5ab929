"""Procedural pictures of many kinds, by seed: what a small matcher is trained on besides rendered frames.

None of them shows anything; together they have what local descriptors see of real pictures: edges and corners at all
sizes and contrasts, fine grain, repetition, occlusion (dead leaves), soft shade.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Rng = np.random.Generator


def make_texture(seed: int, index: int, size: int) -> np.ndarray:
    """(size, size, 3) uint8, the same for the same arguments."""
    rng = np.random.default_rng([seed, 11, index])
    picture = _kind(rng)(rng, size)
    if rng.random() < 0.45:  # one kind over, beside or through another
        other, mask = _kind(rng)(rng, size), _blend_mask(rng, size)
        picture = picture * (1 - mask) + other * mask
    if rng.random() < 0.5:
        picture = picture + rng.uniform(0.02, 0.10) * octaves(rng, size, 5, rng.uniform(0.7, 1.0))[..., None]
    if rng.random() < 0.6:  # uneven light
        picture = picture * (1 + rng.uniform(0.1, 0.5) * octaves(rng, size, 2, 0.5)[..., None])
    centre = picture.mean((0, 1))
    if rng.random() < 0.35:  # plain things must be told apart too
        picture = centre + (picture - centre) * rng.uniform(0.15, 0.6)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)


def _kind(rng: Rng) -> Callable[[Rng, int], np.ndarray]:
    return KINDS[int(rng.choice(len(KINDS), p=SHARES))]


def _colour(rng: Rng) -> np.ndarray:
    """Any colour; greyish ones are as common as in pictures."""
    return np.clip(rng.uniform(0.02, 0.98) + rng.normal(0, rng.choice([0.04, 0.12, 0.3]), 3), 0, 1)


def octaves(rng: Rng, size: int, octaves: int, fall: float, first: float = 4.0) -> np.ndarray:
    """(size, size) float32 smooth noise around 0, roughly in [-1, 1]; `fall`: amplitude from an octave to the next."""
    total, weight, cells = np.zeros((size, size), np.float32), 0.0, first * rng.uniform(0.7, 1.5)
    for number in range(octaves):
        across = max(int(min(cells, size)), 2)
        grid = rng.uniform(-1, 1, (across, across)).astype(np.float32)
        amplitude = fall**number
        total += amplitude * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        weight += amplitude**2
        cells *= 2
    return total / np.float32(np.sqrt(weight) + 1e-6)


def _noise(rng: Rng, size: int) -> np.ndarray:
    count, fall = int(rng.integers(4, 8)), rng.uniform(0.5, 1.0)
    if rng.random() < 0.5:  # a ramp between colours
        value = 0.5 + 0.5 * octaves(rng, size, count, fall)
        stops = np.stack([_colour(rng) for _ in range(int(rng.integers(2, 6)))])
        place = np.clip(value, 0, 1) * (len(stops) - 1)
        return np.stack([np.interp(place, np.arange(len(stops)), stops[:, c]) for c in range(3)], -1)
    base = _colour(rng)
    return base + rng.uniform(0.1, 0.35) * np.stack([octaves(rng, size, count, fall) for _ in range(3)], -1)


def _shape(rng: Rng, centre: np.ndarray, radius: float) -> np.ndarray:
    """(n, 2) int32 corners of a polygon in 1/16 pixels."""
    corners = int(rng.integers(3, 8)) if rng.random() < 0.7 else 24
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners)) if corners < 24 else np.linspace(0, 2 * np.pi, 24)
    reach = radius * (rng.uniform(0.5, 1.2, corners) if corners < 24 else 1.0)
    stretch = rng.uniform(0.4, 1.0)
    turn = rng.uniform(0, np.pi)
    x, y = reach * np.cos(angle), stretch * reach * np.sin(angle)
    xy = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], -1) + centre
    return np.rint(xy * 16).astype(np.int32)


def _leaves(rng: Rng, size: int) -> np.ndarray:
    """Dead leaves: shapes of all sizes, the later over the earlier, many with a pattern of their own."""
    picture = np.full((size, size, 3), _colour(rng), np.float64)
    grain = octaves(rng, size, 6, 0.9)
    smallest, power = rng.uniform(2, 8), rng.uniform(1.0, 2.2)
    for _ in range(int(rng.integers(60, 350))):
        radius = min(smallest / (1 - rng.random()) ** (1 / power), size / 3)
        polygon = _shape(rng, rng.uniform(0, size, 2), radius)
        low = np.clip(polygon.min(0) // 16, 0, size - 1)
        high = np.clip(polygon.max(0) // 16 + 2, 1, size)
        if (high - low).min() < 1:
            continue
        alpha = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.fillPoly(alpha, [polygon - low.astype(np.int32) * 16], 255, cv2.LINE_AA, 4)
        cover = (alpha / 255.0)[..., None]
        colour = _colour(rng) + rng.choice([0.0, 0.05, 0.15]) * grain[low[1] : high[1], low[0] : high[0], None]
        part = picture[low[1] : high[1], low[0] : high[0]]
        picture[low[1] : high[1], low[0] : high[0]] = part * (1 - cover) + colour * cover
    return picture


def _drawn(rng: Rng, size: int) -> np.ndarray:
    """A few polygons, lines and rings on a plain or noisy ground."""
    ground = _noise(rng, size) if rng.random() < 0.5 else np.full((size, size, 3), _colour(rng))
    picture = np.ascontiguousarray(np.clip(ground, 0, 1).astype(np.float32) * 255)
    for _ in range(int(rng.integers(8, 60))):
        colour = tuple(float(v) * 255 for v in _colour(rng))
        centre, radius, pick = rng.uniform(0, size, 2), rng.uniform(4, size / 5), rng.random()
        picture8 = picture.astype(np.uint8)
        if pick < 0.5:
            cv2.fillPoly(picture8, [_shape(rng, centre, radius)], colour, cv2.LINE_AA, 4)
        elif pick < 0.8:
            ends = np.rint(np.stack([centre, centre + rng.normal(0, size / 4, 2)])).astype(int)
            cv2.line(picture8, tuple(map(int, ends[0])), tuple(map(int, ends[1])), colour, int(rng.integers(1, 5)),
                     cv2.LINE_AA)  # fmt: skip
        else:
            place = tuple(map(int, centre))
            cv2.circle(picture8, place, int(radius / 2), colour, int(rng.integers(1, 5)), cv2.LINE_AA)
        picture = picture8.astype(np.float32)
    return picture.astype(np.float64) / 255


def _glyphs(rng: Rng, size: int) -> np.ndarray:
    """Rows of signs made of a few strokes, like writing in no language."""
    paper, ink = _colour(rng), _colour(rng)
    picture = np.full((size, size, 3), paper * 255, np.uint8)
    height = int(rng.integers(8, 36))
    alphabet = [rng.uniform(0, 1, (int(rng.integers(1, 4)), int(rng.integers(2, 5)), 2)) for _ in range(24)]
    thick, y = max(height // int(rng.integers(6, 12)), 1), int(rng.integers(0, height))
    while y < size:
        x = int(rng.integers(0, height * 2))
        while x < size:
            if rng.random() < 0.15:
                x += height
                continue
            sign = alphabet[int(rng.integers(len(alphabet)))]
            place = (sign * [0.7 * height, height] + [x, y]) * 16
            for stroke in place:
                cv2.polylines(picture, [np.rint(stroke).astype(np.int32)], False, tuple(ink * 255), thick,
                              cv2.LINE_AA, 4)  # fmt: skip
            x += height
        y += int(height * rng.uniform(1.3, 1.8))
    return picture / 255.0


def _checkers(rng: Rng, size: int) -> np.ndarray:
    """Boards, tiles and bricks, bent a little, some of the tiles of their own colour."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float64)
    bend = rng.uniform(0, 8)
    x, y = x + bend * octaves(rng, size, 2, 0.5), y + bend * octaves(rng, size, 2, 0.5)
    turn, cell = rng.uniform(0, np.pi), rng.uniform(8, 48)
    u, v = (
        (x * np.cos(turn) + y * np.sin(turn)) / cell,
        (y * np.cos(turn) - x * np.sin(turn)) / cell * rng.uniform(0.5, 2),
    )
    row = np.floor(v).astype(np.int64)
    u = u + (row % 2) * rng.choice([0.0, 0.5])
    column = np.floor(u).astype(np.int64)
    table = np.stack([_colour(rng) for _ in range(64)])
    keep = rng.random(64) < rng.uniform(0, 1)
    table[keep & (np.arange(64) % 2 == 0)] = table[0]
    table[keep & (np.arange(64) % 2 == 1)] = table[1]
    number = ((column * 7 + row * 13) // 2 * 2 + (column + row) % 2) % 64
    picture = table[number]
    joint = rng.uniform(0, 0.12)
    gap = np.minimum(u - column, v - row) < joint
    return np.where(gap[..., None], _colour(rng), picture)


def _cells(rng: Rng, size: int) -> np.ndarray:
    """Voronoi cells: scales, stones, cracked ground."""
    count = int(np.exp(rng.uniform(np.log(30), np.log(1500))))
    seeds = np.full((size, size), 255, np.uint8)
    seeds[tuple(rng.integers(0, size, (2, count)))] = 0
    distance, number = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    label = np.asarray(number, dtype=np.int64)
    base, spread = _colour(rng), rng.choice([0.05, 0.15, 0.3])
    table = base + rng.normal(0, spread, (label.max() + 1, 3))
    picture = table[label]
    edge = cv2.dilate(label.astype(np.float32), np.ones((3, 3))) != label
    if rng.random() < 0.6:
        width = cv2.GaussianBlur(edge.astype(np.float32), (0, 0), rng.uniform(0.6, 1.6))
        picture = picture + (np.clip(2 * width, 0, 1)[..., None]) * (_colour(rng) - picture)
    scale = np.sqrt(size * size / count)
    return picture * (1 - rng.uniform(0, 0.4) * np.clip(distance / scale, 0, 1)[..., None])


def _waves(rng: Rng, size: int) -> np.ndarray:
    """Gradients and stripes, bent."""
    y, x = np.mgrid[0:size, 0:size] / size
    picture = np.zeros((size, size, 3)) + _colour(rng)
    for _ in range(int(rng.integers(1, 5))):
        turn, many = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.5), np.log(40)))
        phase = (x * np.cos(turn) + y * np.sin(turn)) * many + rng.uniform(0, 1.5) * octaves(rng, size, 3, 0.6)
        wave = np.sin(2 * np.pi * phase)
        if rng.random() < 0.4:
            wave = np.clip(wave * 4, -1, 1)
        picture = picture + 0.5 * wave[..., None] * (_colour(rng) - 0.5)
    return np.clip(picture, 0, 1)


def _blend_mask(rng: Rng, size: int) -> np.ndarray:
    """(size, size, 1) in [0, 1]: patches with sharp or soft edges, or a constant."""
    if rng.random() < 0.3:
        return np.full((size, size, 1), rng.uniform(0.2, 0.8))
    value = octaves(rng, size, int(rng.integers(1, 5)), 0.6, first=3.0)
    return np.clip(0.5 + value * rng.choice([1.0, 4.0, 40.0]), 0, 1)[..., None]


KINDS = (_leaves, _noise, _drawn, _glyphs, _checkers, _cells, _waves)
SHARES = np.array([0.40, 0.14, 0.12, 0.08, 0.08, 0.12, 0.06])
