"""Masks from a screen or a flat background: what is not its colour is the object."""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.types import FrameReader

NAMED = {"green": (0, 177, 64), "blue": (0, 71, 187)}  # of usual screens
LIGHT = {"chroma": 0.15, "background": 0.7}  # how much lightness counts: screens are lit unevenly
FLAT = 12.0  # Lab: a border that differs more than this from its own middle colour is not flat
SHARE = 0.3  # of the way from the background's colour to the object's
LEAST, MOST = 6.0, 45.0  # Lab: range of tolerances
LOOKED = 12  # frames from which colour and tolerance are found
USELESS = 0.05  # score of a frame whose object and background are not told apart


def parse_colour(text: str, option: str) -> tuple[int, int, int]:
    """The colour that `green`, `blue` or `#rrggbb` names."""
    if text.lower() in NAMED:
        return NAMED[text.lower()]
    found = re.fullmatch(r"#?([0-9a-fA-F]{6})", text)
    if not found:
        raise InputError(f"{option} {text}: wanted {', '.join(NAMED)} or a colour such as #00ff00")
    return tuple(int(found[1][i : i + 2], 16) for i in (0, 2, 4))  # type: ignore[return-value]


def _lab(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(rgb).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


@dataclass(frozen=True)
class Keyer:
    """Tells a background's colour.

    Attributes:
        lab: (3,) of the background. tolerance: Lab distance beyond which a pixel is object. light: weight of lightness.
    """

    lab: np.ndarray
    tolerance: float
    light: float

    def distance(self, image: np.ndarray) -> np.ndarray:
        """(H, W) float32 from the background's colour."""
        away = _lab(image) - self.lab
        away[..., 0] *= self.light
        return np.linalg.norm(away, axis=-1).astype(np.float32)

    def mask(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """The mask (H, W) bool of a picture (H, W, 3) uint8, and how sure it is, 0 to 1: the fewer pixels lie between
        the two colours against the length of the outline, the surer."""
        away = self.distance(image)
        smooth = cv2.GaussianBlur(away, (0, 0), 0.8)
        mask = smooth > self.tolerance
        side = max(3, 2 * round(max(mask.shape) / 500) + 1)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        mask = cv2.morphologyEx(
            cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel), cv2.MORPH_CLOSE, kernel
        )
        rim = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)).astype(bool)
        doubtful = (np.abs(smooth / self.tolerance - 1) < 0.35) & ~rim
        if not mask.any():
            return mask.astype(bool), 0.0
        return mask.astype(bool), float(np.exp(-2 * doubtful.sum() / max(int(rim.sum()), 1)))


def _rows(images: FrameReader) -> list[int]:
    return np.unique(np.linspace(0, len(images) - 1, min(LOOKED, len(images))).round().astype(int)).tolist()


def _border(image: np.ndarray) -> np.ndarray:
    wide = max(1, round(0.02 * max(image.shape[:2])))
    return np.concatenate([part.reshape(-1, 3) for part in
                           (image[:wide], image[-wide:], image[:, :wide], image[:, -wide:])])  # fmt: skip


def make_keyer(images: FrameReader, kind: str, colour: str) -> Keyer:
    """A keyer for a clip.

    Args:
        images: T frames (H, W, 3) uint8. kind: "chroma" or "background". colour: a name, #rrggbb, or auto: the colour
            of the frames' borders.

    Raises:
        InputError: the border has no one colour, the colour is not in the frames, or the object does not part from it.
    """
    option = f"--{kind}"
    rows = _rows(images)
    borders = _lab(np.concatenate([_border(images[row]) for row in rows])[:, None])[:, 0]
    light = LIGHT[kind]
    scale = np.array([light, 1, 1], np.float32)
    if colour == "auto":
        lab = np.median(borders, axis=0)
        spread = float(np.percentile(np.linalg.norm((borders - lab) * scale, axis=-1), 70))
        if spread > FLAT:
            raise InputError(
                f"{option} auto: the borders of the frames are not of one colour; give the colour, or a --box"
            )
    else:
        given = _lab(np.array([[parse_colour(colour, option)]], np.uint8))[0, 0]
        near = borders[np.linalg.norm((borders - given) * scale, axis=-1) < 60]
        if len(near) < 0.02 * len(borders):
            raise InputError(f"{option} {colour}: this colour is not at the borders of the frames; try {option} auto")
        lab = np.median(near, axis=0)  # the screen as it was filmed
    keyer = Keyer(lab, _tolerance(images, rows, Keyer(lab, 1.0, light)), light)
    if max(keyer.mask(_smaller(images[row]))[1] for row in rows) < USELESS:
        raise InputError(
            f"{option} {colour}: nothing stands out from this colour in any of the {len(rows)} frames looked at: "
            "they show no screen of it; give the background's colour, or a --box round the object"
        )
    return keyer


def _smaller(image: np.ndarray) -> np.ndarray:
    step = max(1, round(max(image.shape[:2]) / 400))
    return image[::step, ::step]


def _tolerance(images: FrameReader, rows: list[int], keyer: Keyer) -> float:
    """A share of the way to the object's colours, parted from the background's by Otsu's method (1979); no less
    than the background's noise."""
    away = []
    for row in rows:
        away.append(keyer.distance(_smaller(images[row])).ravel())
    values = np.clip(np.concatenate(away), 0, 100)
    cut, _ = cv2.threshold((values * 2.55).astype(np.uint8)[None], 0, 255, cv2.THRESH_OTSU)
    back, front = values[values <= cut / 2.55], values[values > cut / 2.55]
    noise = float(np.percentile(back, 95)) if len(back) else 0.0
    apart = float(np.median(front)) if len(front) else 0.0
    return float(np.clip(max(SHARE * apart, 1.3 * noise), LEAST, MOST))
