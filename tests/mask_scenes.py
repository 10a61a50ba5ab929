"""A textured disc that moves over a textured ground which the camera passes: pictures and exact masks."""

from __future__ import annotations

import cv2
import numpy as np

WIDTH, HEIGHT, RADIUS = 128, 96, 17.0


def noise(seed: int, height: int, width: int, tint: tuple[int, int, int]) -> np.ndarray:
    """(height, width, 3) uint8: smooth noise round a colour."""
    random = np.random.default_rng(seed)
    grey = cv2.GaussianBlur(random.normal(size=(height, width)).astype(np.float32), (0, 0), 1.6)
    return np.clip(np.array(tint) + 45 * (grey / grey.std())[..., None] * [1.0, 0.8, 0.6], 0, 255).astype(np.uint8)


def disc_clip(
    count: int = 8, *, gone_from: int | None = None, scale: int = 1, flat: tuple[int, int, int] | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """`count` pictures (96 scale, 128 scale, 3) and masks; the disc is away from frame `gone_from` on."""
    ground, coat = noise(1, HEIGHT + 40, WIDTH + 80, (90, 120, 90)), noise(2, 40, 40, (190, 110, 60))
    images, masks = [], []
    v, u = np.mgrid[0 : HEIGHT * scale, 0 : WIDTH * scale]
    for i in range(count):
        picture = ground[10 : 10 + HEIGHT, 3 * i : 3 * i + WIDTH].copy()
        if flat is not None:
            picture[:] = flat
        x, y = 34.0 + 5 * i, 44.0 + 6 * np.sin(i / 2)
        mask = (u + 0.5 - x * scale) ** 2 + (v + 0.5 - y * scale) ** 2 < (RADIUS * scale) ** 2
        if gone_from is not None and i >= gone_from:
            mask[:] = False
        big = cv2.resize(picture, (WIDTH * scale, HEIGHT * scale), interpolation=cv2.INTER_CUBIC)
        shift = np.array([[scale, 0, (x - 20) * scale], [0, scale, (y - 20) * scale]], np.float32)
        disc = cv2.warpAffine(coat, shift, (WIDTH * scale, HEIGHT * scale), borderMode=cv2.BORDER_REPLICATE)
        images.append(np.where(mask[..., None], disc, big).astype(np.uint8))
        masks.append(mask)
    return images, masks


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))
