"""A picture of where the cameras were and what they saw: frusta, their path and the object, from three sides.

All three views are without perspective and of one scale, so that lengths can be compared between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dyn4d.core.types import Camera, FramePoints
from dyn4d.export.pictures import PAPER
from dyn4d.export.tracks import SUPERSAMPLE
from dyn4d.export.views import upward

PANEL = 420  # px: the side of one view
MARGIN = 26  # px around what is drawn in a view
FRUSTA = 24  # at most so many are drawn, and fewer where they would cover each other; the path goes through all
FRUSTUM = 0.09  # their size, as a share of what is shown
FAR = 8.0  # cameras further from the middle than so many times the usual distance are left out, and counted
POINTS = 60_000  # of the object that are drawn
PALE = 0.75  # how much of the colour of other frames' points is replaced by paper
INK, SOFT = (26, 34, 51), (120, 130, 146)
FIRST, MIDDLE, LAST = (31, 146, 84), (59, 111, 212), (214, 69, 56)  # of cameras, from the first to the last


@dataclass(frozen=True)
class CameraPicture:
    """The picture, and what it shows.

    Attributes:
        picture: (H, W, 3) uint8. text: one line: how many cameras, how many frames have none, what else to know.
    """

    picture: np.ndarray
    text: str


@dataclass(frozen=True)
class _View:
    """One side: the directions (3,) that go right, down and away in its picture."""

    title: str
    axes: np.ndarray  # (3, 3) rows right, down, away


@dataclass(frozen=True)
class _Scene:
    """What is drawn, in the world: xyz (P, 3), rgb (P, 3) uint8 and pale (P,) bool of the object's points; centres
    (C, 3) of the cameras in order of time, corners (C, 4, 3) of their frusta, place (C,) in [0, 1] in the clip."""

    xyz: np.ndarray
    rgb: np.ndarray
    pale: np.ndarray
    centres: np.ndarray
    corners: np.ndarray
    place: np.ndarray
    still: bool


def draw_cameras(cameras: Camera, points: FramePoints | None = None, *, frame: int | None = None) -> CameraPicture:
    """Draw the cameras of a clip and its object, obliquely from above, from above, and from the front.

    "Up" is guessed from the cameras, and "front" is the side they look from.

    Args:
        cameras: F of them; NaN poses are frames without one, which are counted and left out.
        points: the object's; none are drawn if None.
        frame: of `points.frame`: its points keep their colours, all others are paled. None = all keep theirs.
    """
    known = torch.nonzero(cameras.registered).flatten().cpu()
    poses = cameras.world_from_cam[known].double().cpu()
    xyz, rgb, pale = _cloud(points, frame)
    near = _near(poses[:, :3, 3].numpy(), xyz)
    centres = poses[near, :3, 3].numpy()
    size = _size(np.concatenate([centres, xyz])) if len(centres) or len(xyz) else 1.0
    still = len(centres) > 1 and float(np.ptp(centres, axis=0).max()) < 1e-3 * size
    corners = _corners(cameras.K[known].double().cpu()[near], poses[near], cameras, size * FRUSTUM)
    place = known.numpy()[near] / max(len(cameras) - 1, 1)
    scene = _Scene(xyz, rgb, pale, centres, corners, place, still)
    views = _views(cameras[known[torch.from_numpy(near)].tolist()] if near.any() else None, xyz, centres)
    low, high = _bounds(scene, views)
    scale = (PANEL - 2 * MARGIN) / max(float((high - low).max()), 1e-12)
    drawn = [_draw(scene, view, (low[i] + high[i]) / 2, scale) for i, view in enumerate(views)]
    names = ("camera",) if still or len(centres) == 1 else ("first camera", "last camera")
    whole = _with_text(drawn, views, scale, names=names if len(centres) else ())
    return CameraPicture(whole, _describe(len(cameras), len(known), int((~near).sum()), still))


def _describe(count: int, known: int, far: int, still: bool) -> str:
    def frames(number: int) -> str:
        return f"{number} frame" if number == 1 else f"{number} frames"

    text = f"cameras of {frames(known)}" if known else "no camera"
    text += ", all in one place" if still else ""
    if known < count:
        text += f"; {frames(count - known)} without a pose"
    return text + (f"; {far} far away and not shown" if far else "")


def _cloud(points: FramePoints | None, frame: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some of the points: xyz (P, 3) float64, rgb (P, 3) uint8, and which belong to other frames than `frame`."""
    if points is None or len(points) == 0:
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0, bool)
    number = points.frame.numpy()
    parts = [np.arange(len(number))] if frame is None else [np.flatnonzero(number == frame)]
    if frame is not None:
        parts.append(np.flatnonzero(number != frame))
    rows = np.concatenate([part[:: max(1, -(-len(part) // POINTS))] for part in parts])
    xyz = points.xyz[rows].double().numpy()
    good = np.isfinite(xyz).all(-1)
    rgb = np.rint(255 * points.rgb[rows].clamp(0, 1).numpy()).astype(np.uint8)
    pale = np.zeros(len(rows), bool) if frame is None else number[rows] != frame
    return xyz[good], rgb[good], pale[good]


def _near(centres: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """Which cameras (C,) are not so far away that nothing else could be seen in a picture with them."""
    if len(centres) == 0:
        return np.zeros(0, dtype=bool)
    away = np.linalg.norm(centres - np.median(xyz if len(xyz) else centres, axis=0), axis=-1)
    extent = _size(xyz) if len(xyz) else 0.0
    return away <= FAR * max(float(np.median(away)), extent) + 1e-12


def _size(xyz: np.ndarray) -> float:
    """The largest side of the box around the points, without the outermost of very many."""
    low, high = np.percentile(xyz, [0.2, 99.8], axis=0) if len(xyz) > 2000 else (xyz.min(0), xyz.max(0))
    return max(float((high - low).max()), 1e-9)


def _corners(K: Tensor, poses: Tensor, cameras: Camera, length: float) -> np.ndarray:
    """(C, 4, 3) the corners of each camera's picture, held before it so that its longer side is about `length`."""
    ends = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]]).double() * torch.tensor([cameras.width, cameras.height])
    rays = torch.stack([(ends[:, 0] - K[:, :1, 2]) / K[:, :1, 0], (ends[:, 1] - K[:, 1:2, 2]) / K[:, 1:2, 1]], -1)
    wide = (rays[:, 2] - rays[:, 0]).abs().amax(-1)
    depth = (length / wide).clamp(max=1.5 * length)[:, None, None]
    inside = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1) * depth
    return (inside @ poses[:, :3, :3].transpose(-1, -2) + poses[:, None, :3, 3]).numpy()


def _views(cameras: Camera | None, xyz: np.ndarray, centres: np.ndarray) -> list[_View]:
    if cameras is None:
        up, look = np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, 1.0])  # OpenCV's axes
    else:
        up = upward(cameras).double().cpu().numpy()
        look = cameras.world_from_cam[:, :3, 2].double().cpu().numpy().mean(0)
        if len(xyz) and np.linalg.norm(look) < 0.5:  # all round the object: from the first camera's side
            look = np.median(xyz, axis=0) - centres[0]
    look = look - (look @ up) * up
    if np.linalg.norm(look) < 1e-3:  # straight down: any side does
        look = np.eye(3)[int(np.abs(up).argmin())]
        look = look - (look @ up) * up
    look /= np.linalg.norm(look)
    right = np.cross(-up, look)  # right, down, away are a right-handed system
    turn, tilt = np.radians(35.0), np.radians(28.0)
    level = np.cos(turn) * look + np.sin(turn) * right
    away = np.cos(tilt) * level - np.sin(tilt) * up
    aside = np.cross(-up, level)
    return [
        _View("obliquely", np.stack([aside, np.cross(away, aside), away])),
        _View("from above", np.stack([right, -look, -up])),
        _View("from the front", np.stack([right, -up, look])),
    ]


def _bounds(scene: _Scene, views: list[_View]) -> tuple[np.ndarray, np.ndarray]:
    """(3, 2) the lowest and highest place right and down of what each view shows."""
    frusta = np.concatenate([scene.centres, scene.corners.reshape(-1, 3)])
    low, high = np.zeros((3, 2)), np.zeros((3, 2))
    for i, view in enumerate(views):
        ends = []
        if len(scene.xyz):
            ends += list(np.percentile(scene.xyz @ view.axes[:2].T, [0.2, 99.8], axis=0))
        if len(frusta):
            flat = frusta @ view.axes[:2].T
            ends += [flat.min(0), flat.max(0)]
        if ends:
            low[i], high[i] = np.min(ends, axis=0), np.max(ends, axis=0)
    return low, high


def _draw(scene: _Scene, view: _View, middle: np.ndarray, scale: float) -> np.ndarray:
    """One view (side, side, 3) uint8, `SUPERSAMPLE` times as large as it will be: what is far first."""
    side = PANEL * SUPERSAMPLE
    canvas = np.full((side, side, 3), PAPER, dtype=np.uint8)

    def place(xyz: np.ndarray) -> np.ndarray:
        return (xyz @ view.axes[:2].T - middle) * scale * SUPERSAMPLE + side / 2

    behind = scene.centres @ view.axes[2]
    border = np.median(scene.xyz @ view.axes[2]) if len(scene.xyz) else -np.inf
    _path(canvas, place(scene.centres), scene.place, behind > border)
    for row in _shown(scene, behind > border, behind):
        _frustum(canvas, place(scene.centres[row]), place(scene.corners[row]), scene.place[row])
    for pale in (True, False):
        mine = scene.pale == pale
        _splat(canvas, place(scene.xyz[mine]), scene.xyz[mine] @ view.axes[2], _coloured(scene.rgb[mine], pale))
    _path(canvas, place(scene.centres), scene.place, behind <= border)
    for row in _shown(scene, behind <= border, behind):
        _frustum(canvas, place(scene.centres[row]), place(scene.corners[row]), scene.place[row])
    return canvas


def _coloured(rgb: np.ndarray, pale: bool) -> np.ndarray:
    return (rgb * (1 - PALE) + np.array(PAPER) * PALE).astype(np.uint8) if pale else rgb


def _shown(scene: _Scene, wanted: np.ndarray, behind: np.ndarray) -> list[int]:
    """The cameras whose frusta are drawn, far ones first, the ends of the path last."""
    count = len(scene.centres)
    ends = [0, count - 1] if count > 1 else [0] * count
    steps = np.linalg.norm(np.diff(scene.centres, axis=0), axis=-1)
    side = float(np.linalg.norm(scene.corners[:1, 1] - scene.corners[:1, 0], axis=-1).sum())
    room = int(steps.sum() / max(0.6 * side, 1e-12)) + 1
    some = np.unique(np.linspace(0, count - 1, min(count, FRUSTA, room)).round()).astype(int).tolist()
    inner = sorted((row for row in some if row not in ends), key=lambda row: -behind[row])
    ends = ends[:1] if scene.still else ends[::-1]
    return [row for row in [*inner, *ends] if wanted[row]]


def _colour(place: float) -> tuple[int, int, int]:
    """From that of the first camera over that of the middle to that of the last."""
    low, high, share = (FIRST, MIDDLE, 2 * place) if place < 0.5 else (MIDDLE, LAST, 2 * place - 1)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high))
    return red, green, blue


def _line(canvas: np.ndarray, ends: np.ndarray, colour: tuple[int, int, int], width: float) -> None:
    # 4 bits below the pixel; far ends are cut so that they fit OpenCV's numbers
    start, end = (tuple(int(v) for v in np.clip(p * 16, -1e6, 1e6)) for p in ends)
    cv2.line(canvas, start, end, colour, max(1, round(width * SUPERSAMPLE)), cv2.LINE_AA, shift=4)


def _path(canvas: np.ndarray, centres: np.ndarray, place: np.ndarray, wanted: np.ndarray) -> None:
    """The line through the cameras; each piece goes by the depth of its start."""
    for row in range(len(centres) - 1):
        if wanted[row]:
            _line(canvas, centres[row : row + 2], _colour((place[row] + place[row + 1]) / 2), 1.4)


def _frustum(canvas: np.ndarray, centre: np.ndarray, corners: np.ndarray, place: float) -> None:
    """A pyramid with a shaded picture side and a dot at the camera; the ends of the clip are bolder."""
    end = place in (0.0, 1.0)
    colour, width = _colour(place), 1.5 if end else 0.5
    shade = canvas.copy()
    cv2.fillPoly(shade, [np.clip(corners, -1e5, 1e5).astype(np.int32)], colour, cv2.LINE_AA)
    cv2.addWeighted(shade, 0.35 if end else 0.15, canvas, 0.65 if end else 0.85, 0.0, dst=canvas)
    for i in range(4):
        _line(canvas, np.stack([corners[i], corners[(i + 1) % 4]]), colour, width)
        _line(canvas, np.stack([centre, corners[i]]), colour, width)
    dot = tuple(int(v) for v in np.clip(centre * 16, -1e6, 1e6))
    radius = round((4.0 if end else 2.0) * SUPERSAMPLE * 16)
    cv2.circle(canvas, dot, radius, colour, cv2.FILLED, cv2.LINE_AA, shift=4)


def _splat(canvas: np.ndarray, xy: np.ndarray, depth: np.ndarray, rgb: np.ndarray) -> None:
    """Points as squares that about touch each other; the nearest wins."""
    if len(xy) == 0:
        return
    side = canvas.shape[0]
    area = float(np.prod(np.ptp(np.percentile(xy, [5, 95], axis=0), axis=0)))
    half = int(np.clip(np.sqrt(area / len(xy)), 1.0, 2.0 * SUPERSAMPLE))
    order = np.argsort(-depth, kind="stable")
    at = np.floor(xy[order]).astype(np.int64)
    buffer = np.full(canvas.shape[:2], -1, dtype=np.int64)
    for dy in range(-half + 1, half + 1):
        for dx in range(-half + 1, half + 1):
            column, row = at[:, 0] + dx, at[:, 1] + dy
            inside = np.flatnonzero((column >= 0) & (column < side) & (row >= 0) & (row < side))
            # rows go from far to near: the highest number that falls on a pixel is the nearest point
            np.maximum.at(buffer, (row[inside], column[inside]), inside)
    hit = buffer >= 0
    canvas[hit] = rgb[order][buffer[hit]]


def _nice(length: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most `length`."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(power * max(step for step in (1, 2, 5) if step * power <= length * (1 + 1e-9)))


def _with_text(drawn: list[np.ndarray], views: list[_View], scale: float, *, names: tuple[str, ...]) -> np.ndarray:
    """The views side by side with their titles, a length and what the colours of the cameras mean."""
    gap = 6
    whole = np.full((PANEL, 3 * PANEL + 2 * gap, 3), 255, dtype=np.uint8)
    for i, picture in enumerate(drawn):
        small = Image.fromarray(picture).resize((PANEL, PANEL), Image.Resampling.LANCZOS)
        whole[:, i * (PANEL + gap) : i * (PANEL + gap) + PANEL] = np.asarray(small)
    image = Image.fromarray(whole)
    pen, font = ImageDraw.Draw(image), _font(13)
    for i, view in enumerate(views):
        pen.text((i * (PANEL + gap) + 10, 7), view.title, fill=INK, font=font)
    length = _nice(0.3 * PANEL / scale)
    right, low = PANEL - 12, PANEL - 14
    pen.line([right - length * scale, low, right, low], fill=SOFT, width=2)
    pen.text((right - length * scale / 2, low - 4), f"{length:g}", fill=SOFT, font=font, anchor="ms")
    for row, (name, colour) in enumerate(zip(names, (FIRST, LAST))):
        y = PANEL - 40 + 17 * (row + 2 - len(names))
        pen.ellipse([10, y + 3, 18, y + 11], fill=colour)
        pen.text((24, y), name, fill=SOFT, font=font)
    return np.asarray(image)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow 10.0 has one size
        return ImageFont.load_default()
