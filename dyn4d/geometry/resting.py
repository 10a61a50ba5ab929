"""How far a moving object is in a world that its surroundings hold: one picture at a time cannot tell, as a toy near by
looks like a house far away. But it stands before what is around it, and mostly on something.

So its size is the largest at which its outline is nowhere behind the surroundings beside it. Of what flies this is too
large; there a network's word of both together is a better one.
"""

from __future__ import annotations

import cv2
import numpy as np

REACH = 8.0  # px of a picture of 256 pixels: standard deviation of what is looked at beside an outline
LEAST_SUPPORT = 0.02  # share of that which has to be known surroundings
TOUCHES = 0.015  # share of an outline that touches something, at the least
TIGHTEST = 0.2  # each frame says how large the object is at the most; this share of them may say too little
LEAST_OUTLINE = 20  # pixels
DEGREE = 2  # of the curve that an object's path is like
LEAST_FRAMES = 8
ALIKE = 0.7  # correlation of what the camera does beside such a curve with what the object seems to do
FLIES = 1.6  # by so much more than the network says the object is not made larger


def beside(inverse: np.ndarray, known: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W) map carried on into what is unknown of it, linearly: weighted regression around each pixel, weights
    falling with the distance as a Gaussian. NaN where too little is near.

    Args:
        inverse: (H, W) inverse depth, which is linear on planes. known: (H, W) bool.
    """
    height, width = inverse.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float64) / sigma
    w, v = known.astype(np.float64), np.where(known, inverse, 0.0)

    def blur(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)

    # moments about each pixel itself, out of those about the picture's corner
    s, sx, sy, sxx, sxy, syy = (blur(w * m) for m in (1.0, x, y, x * x, x * y, y * y))
    t, tx, ty = (blur(v * m) for m in (1.0, x, y))
    sxx, sxy, syy = sxx - 2 * x * sx + x * x * s, sxy - x * sy - y * sx + x * y * s, syy - 2 * y * sy + y * y * s
    tx, ty = tx - x * t, ty - y * t
    sx, sy = sx - x * s, sy - y * s
    ridge = 1e-3 * s
    sxx, syy = sxx + ridge, syy + ridge
    # the constant of [s sx sy; sx sxx sxy; sy sxy syy] (c, a, b) = (t, tx, ty)
    c0, c1, c2 = sxx * syy - sxy * sxy, sxy * sy - sx * syy, sx * sxy - sxx * sy
    whole = s * c0 + sx * c1 + sy * c2
    good = (s > LEAST_SUPPORT) & (whole > 1e-12)
    value = (t * c0 + tx * c1 + ty * c2) / np.where(good, whole, 1.0)
    return np.where(good, value, np.nan)


def outline_ratios(mask: np.ndarray, around: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(N,) depth of the surroundings beside each pixel of an object's outline over the object's own.

    Args:
        mask: (H, W) bool. around: (H, W) depth of the surroundings, 0 = unknown. own: (H, W) depth of the object in
            any unit, 0 = unknown.
    """
    known = (around > 0) & ~mask
    inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)  # the picture's edge is none
    outline = mask & (inside == 0) & (own > 0)
    if not known.any() or not outline.any():
        return np.zeros(0)
    sigma = max(REACH * max(mask.shape) / 256, 2.0)
    there = beside(np.where(known, 1 / np.where(known, around, 1.0), 0.0), known, sigma)[outline]
    good = there > 1e-9
    return 1 / (there[good] * own[outline][good])


def resting_scale(ratios: list[np.ndarray], said: float) -> tuple[float, bool]:
    """What an object's own depth is multiplied by to be that of the world, and whether it rests on something so.

    Args:
        ratios: of each frame, see `outline_ratios`. said: the same factor by the network's word.
    """
    touching = [float(np.quantile(one, TOUCHES)) for one in ratios if len(one) >= LEAST_OUTLINE]
    if not touching:
        return said, False
    found = float(np.quantile(touching, TIGHTEST))
    if np.isfinite(said) and found > FLIES * said:
        return said, False
    return found, True


def path_scale(cameras: np.ndarray, arms: np.ndarray, times: np.ndarray) -> float:
    """The same where nothing is known around the object, by its path: taken too small it goes along with each turn and
    bob of the camera, too large against it. At the right size its path through the world is the plainest: nearest to
    a curve of second degree in time (the cameras' path must not be one). NaN where that says nothing.

    Args:
        cameras: (T, 3) centres, world. arms: (T, 3) from there to the object's middle, world axes, in the object's
            unit. times: (T,).
    """
    if len(times) < LEAST_FRAMES:
        return float("nan")
    basis, _ = np.linalg.qr(np.vander((times - times[0]) / max(np.ptp(times), 1e-12), DEGREE + 1))
    own, there = (part - basis @ (basis.T @ part) for part in (cameras, arms))
    both, far = float((own * there).sum()), float((there * there).sum())
    alike = -both / max(np.sqrt(far * float((own * own).sum())), 1e-12)
    return -both / far if alike > ALIKE else float("nan")
