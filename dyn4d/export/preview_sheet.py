"""Views of a preview put together: a sheet with captions, files of a turntable, and half blocks for the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dyn4d.export.ply_preview import View
from dyn4d.io.atomic import atomic_folder, atomic_path

ACROSS = 3
GAP = 8
INK, PALE = (40, 44, 52), (120, 126, 138)
FAINT = 0.02  # coverage that counts as something
COVERED = 0.35  # share of a half block from which it is painted
LEVELS = (0, 95, 135, 175, 215, 255)  # of the 256-colour palette's cube


def contact_sheet(views: list[tuple[str, View]], title: str, background: tuple[float, float, float]) -> np.ndarray:
    """Views in rows of three with where the camera stands, and a line about the file: (H, W, 3) uint8. All keep their
    scale; what is empty above and below a whole row is cut away."""
    side = views[0][1].rgb.shape[0]
    size = max(11, min(20, side // 22))
    font, line = ImageFont.load_default(size), round(1.7 * size)
    across = min(ACROSS, len(views))
    paper = tuple(round(255 * value) for value in background)
    rows = [views[at : at + across] for at in range(0, len(views), across)]
    cuts = [_filled([view for _, view in row]) for row in rows]
    height = sum(low - top + line for top, low in cuts) + 2 * GAP + line
    sheet = Image.new("RGB", (across * side + (across + 1) * GAP, height), paper)
    draw = ImageDraw.Draw(sheet)
    below = GAP + line
    for row, (top, low) in zip(rows, cuts):
        for at, (name, view) in enumerate(row):
            left = GAP + at * (side + GAP)
            draw.text((left + 4, below), f"from {name if name[0] == '-' else '+' + name}", font=font, fill=PALE)
            sheet.paste(Image.fromarray(view.as_bytes()[top:low]), (left, below + line))
        below += low - top + line
    while len(title) > 8 and draw.textlength(title, font=font) > sheet.width - 2 * GAP:
        title = title[:-4].rstrip() + "..."
    draw.text((GAP + 4, GAP), title, font=font, fill=INK if sum(paper) > 382 else (226, 228, 233))
    return np.asarray(sheet)


def _filled(views: list[View]) -> tuple[int, int]:
    """Rows of pixels (from, to) outside of which all views are empty, with some room."""
    side = views[0].alpha.shape[0]
    covered = np.flatnonzero(np.max([view.alpha for view in views], axis=0).max(-1) > FAINT)
    if len(covered) == 0:
        return 0, side
    room = side // 24
    return max(0, int(covered[0]) - room), min(side, int(covered[-1]) + room + 1)


def write_gif(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Frames (H, W, 3) uint8 as a looping GIF, atomically. Times are in hundredths of a second, as GIF has them."""
    pictures = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames]
    with atomic_path(path) as temporary:
        pictures[0].save(temporary, "GIF", save_all=True, append_images=pictures[1:], loop=0,
                         duration=10 * max(2, round(100 / fps)), disposal=1)  # fmt: skip


def write_frames(path: str | Path, frames: Iterable[np.ndarray]) -> None:
    """Frames (H, W, 3) uint8 as 0000.png ... in a folder that takes the place of `path`, atomically."""
    with atomic_folder(path) as folder:
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{number:04d}.png")


def half_blocks(views: list[View], *, columns: int, colours: int = 1 << 24, gap: int = 2) -> str:
    """Views side by side as text of at most so many columns, two pixels in each character.

    Args:
        views: of one size. columns: of the terminal. colours: 1 << 24, or 256.
    """
    each = max(8, (columns - gap * (len(views) - 1)) // len(views))
    each -= each % 2
    small = [_shrunk(view, each) for view in views]
    top = min(_first_row(alpha) for _, alpha in small) // 2 * 2
    low = each - min(_first_row(alpha[::-1]) for _, alpha in small) // 2 * 2
    lines = []
    for row in range(top, max(low, top + 2), 2):
        parts = ["".join(_cell(rgb[row : row + 2, at], alpha[row : row + 2, at], colours) for at in range(each))
                 for rgb, alpha in small]  # fmt: skip
        lines.append((" " * gap).join(parts).rstrip())
    return "\n".join(lines)


def _shrunk(view: View, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours (side, side, 3) uint8 of what covers, and coverage (side, side)."""
    size = (side, side)
    alpha = np.asarray(Image.fromarray(view.alpha.astype(np.float32)).resize(size, Image.Resampling.BOX))
    covered = (view.rgb * view.alpha[..., None]).astype(np.float32)
    channels = [np.asarray(Image.fromarray(covered[..., c]).resize(size, Image.Resampling.BOX)) for c in range(3)]
    rgb = np.stack(channels, axis=-1) / np.maximum(alpha, 1e-6)[..., None]
    return np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8), alpha


def _first_row(alpha: np.ndarray) -> int:
    rows = np.flatnonzero((alpha >= COVERED).any(-1))
    return int(rows[0]) if len(rows) else len(alpha) - 2


def _cell(rgb: np.ndarray, alpha: np.ndarray, colours: int) -> str:
    upper, lower = alpha >= COVERED
    if not upper and not lower:
        return " "
    if upper and lower:
        return f"\x1b[{_code(rgb[0], 38, colours)};{_code(rgb[1], 48, colours)}m▀\x1b[0m"
    at, block = (0, "▀") if upper else (1, "▄")
    return f"\x1b[{_code(rgb[at], 38, colours)}m{block}\x1b[0m"


def _code(rgb: np.ndarray, what: int, colours: int) -> str:
    red, green, blue = (int(v) for v in rgb)
    if colours > 256:
        return f"{what};2;{red};{green};{blue}"
    steps = [int(np.argmin([abs(v - level) for level in LEVELS])) for v in (red, green, blue)]
    return f"{what};5;{16 + 36 * steps[0] + 6 * steps[1] + steps[2]}"


def terminal_colours(environment: Mapping[str, str] = os.environ) -> int:
    """How many colours the terminal says it has: all, or 256."""
    return 1 << 24 if environment.get("COLORTERM", "").lower() in ("truecolor", "24bit") else 256
