"""Cameras as other programs describe them, with distortion, and pictures without it.

Brown's model with OpenCV's names: radial k1 ... k6 (the last three below the line), tangential p1, p2. Half-integer
pixel centres, as everywhere in this package.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dyn4d.core.errors import InputError

NO_RADIAL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Lens:
    """Intrinsics in pixels of a picture of `width` x `height`.

    Attributes:
        fx, fy, cx, cy, skew: of K. radial: k1 ... k6. tangential: p1, p2.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    skew: float = 0.0
    radial: tuple[float, ...] = NO_RADIAL
    tangential: tuple[float, float] = (0.0, 0.0)

    @property
    def plain(self) -> bool:
        """Is it a pinhole without skew?"""
        return not (self.skew or any(self.radial) or any(self.tangential))

    @property
    def K(self) -> np.ndarray:
        """(3, 3) of the pinhole part."""
        return np.array([[self.fx, self.skew, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    def pixels(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of rays (x, y, 1) in the camera's axes (OpenCV)."""
        k1, k2, k3, k4, k5, k6 = self.radial
        p1, p2 = self.tangential
        r = x * x + y * y
        gain = (1 + r * (k1 + r * (k2 + r * k3))) / (1 + r * (k4 + r * (k5 + r * k6)))
        bent_x = x * gain + 2 * p1 * x * y + p2 * (r + 2 * x * x)
        bent_y = y * gain + 2 * p2 * x * y + p1 * (r + 2 * y * y)
        return self.fx * bent_x + self.skew * bent_y + self.cx, self.fy * bent_y + self.cy

    def scaled(self, width: int, height: int, where: str) -> Lens:
        """The same lens for pictures of another size. Raises `InputError` where their shape differs."""
        if (width, height) == (self.width, self.height):
            return self
        a, b = width / self.width, height / self.height
        # Whole pixels: a picture halved from 1079 rows has 539 or 540.
        if abs(self.width * b - width) > 2 and abs(self.height * a - height) > 2:
            raise InputError(
                f"{where} is {width}x{height}, its camera is for {self.width}x{self.height}: another shape of picture; "
                "give the pictures that the cameras were made for"
            )
        return replace(
            self, width=width, height=height, fx=self.fx * a, fy=self.fy * b, cx=self.cx * a, cy=self.cy * b,
            skew=self.skew * a,
        )  # fmt: skip

    def straight(self, where: str) -> Lens:
        """The pinhole of the same size and principal point whose picture is cut out of this one's and shows as much as
        can be without blank pixels. Raises `InputError` where the distortion is none that a picture could have."""
        if self.plain:
            return self
        low, high = _bracket(self)
        if high is None:
            raise InputError(f"{where}: distortion {self.radial[:3]}, {self.tangential} folds the picture; look at it")
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if _filled(self, middle) else (middle, high)
        return Lens(self.width, self.height, high * self.fx, high * self.fy, self.cx, self.cy)


def _bracket(lens: Lens) -> tuple[float, float | None]:
    """A zoom that shows blank pixels (or the farthest tried out), and one that does not."""
    zoom = 1.0
    if _filled(lens, zoom):
        while zoom > 0.5 and _filled(lens, zoom * 0.98):
            zoom *= 0.98
        return zoom * 0.98, zoom
    while zoom < 2:  # a picture that would be enlarged more is none of this lens
        zoom *= 1.02
        if _filled(lens, zoom):
            return zoom / 1.02, zoom
    return zoom, None


def _filled(lens: Lens, zoom: float) -> bool:
    """Do the border's pixels of the straight picture lie in this one, and does nothing fold over before them?"""
    columns, rows = np.arange(lens.width) + 0.5, np.arange(lens.height) + 0.5
    u = np.concatenate([columns, columns, np.full(len(rows), 0.5), np.full(len(rows), lens.width - 0.5)])
    v = np.concatenate([np.full(len(columns), 0.5), np.full(len(columns), lens.height - 0.5), rows, rows])
    x, y = (u - lens.cx) / (zoom * lens.fx), (v - lens.cy) / (zoom * lens.fy)
    at_u, at_v = lens.pixels(x, y)
    inside = (at_u >= 0.5) & (at_u <= lens.width - 0.5) & (at_v >= 0.5) & (at_v <= lens.height - 0.5)
    far = np.hypot(at_u - lens.cx, at_v - lens.cy)
    for share in (0.97, 0.8, 0.6):
        less_u, less_v = lens.pixels(share * x, share * y)
        near = np.hypot(less_u - lens.cx, less_v - lens.cy)
        if bool((near > far).any()):
            return False
        far = near
    return bool(inside.all())


@dataclass(frozen=True)
class Straightener:
    """Takes pictures of one lens to its pinhole. `columns`, `rows` (H, W) float32: where pixels come from, counted from
    the centre of the first, as OpenCV does."""

    lens: Lens
    columns: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, lens: Lens, where: str) -> Straightener:
        target = lens.straight(where)
        u, v = np.meshgrid(np.arange(lens.width) + 0.5, np.arange(lens.height) + 0.5)
        at_u, at_v = lens.pixels((u - target.cx) / target.fx, (v - target.cy) / target.fy)
        return cls(target, (at_u - 0.5).astype(np.float32), (at_v - 0.5).astype(np.float32))

    def _move(self, values: np.ndarray, *, smooth: bool) -> np.ndarray:
        import cv2

        how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
        return cv2.remap(values, self.columns, self.rows, how, borderMode=cv2.BORDER_REPLICATE)

    def rgb(self, picture: np.ndarray) -> np.ndarray:
        return self._move(picture, smooth=True)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        return self._move(mask.astype(np.float32), smooth=True) > 0.5

    def depth(self, depth: np.ndarray) -> np.ndarray:
        """Nearest: a mean across an edge would be a surface between two others. Planar z stays what it is."""
        return self._move(depth, smooth=False)
