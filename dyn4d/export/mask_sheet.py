"""A picture to judge masks by: frames with the object's outline and the score, the doubtful ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

ACROSS, TILE, GAP, LINE = 4, 300, 8, 22
WORST, EVEN = 8, 16  # tiles of doubtful frames, and of frames all over the clip
PAPER, INK, PALE, ALARM = (252, 252, 252), (40, 44, 52), (120, 126, 138), (200, 30, 40)
GOOD_LINE, BAD_LINE = (20, 220, 90), (255, 40, 60)


@dataclass(frozen=True)
class Tile:
    """One frame of the sheet: its name, picture (H, W, 3) uint8, mask (H, W) bool, score, and how it was made."""

    name: str
    image: np.ndarray
    mask: np.ndarray
    score: float
    doubtful: bool
    key: bool = False


def chosen_frames(scores: Sequence[float], least: float, keys: Sequence[int] = ()) -> tuple[list[int], list[int]]:
    """Which frames to show: those below `least`, worst first, and others of the whole clip in order, with the first
    key frames among them."""
    order = np.argsort(np.asarray(scores), kind="stable")
    worst = [int(frame) for frame in order if scores[frame] < least][:WORST]
    rest = np.setdiff1d(np.arange(len(scores)), worst)
    even = np.unique(np.linspace(0, max(len(rest) - 1, 0), min(EVEN, len(rest))).round().astype(int))
    return worst, sorted({*rest[even].tolist(), *(set(keys[:WORST]) - set(worst))})


def mask_sheet(doubtful: Sequence[Tile], others: Sequence[Tile], title: str) -> np.ndarray:
    """(H, W, 3) uint8."""
    tiles = [_tile(tile) for tile in (*doubtful, *others)]
    across = min(ACROSS, max(len(doubtful), len(others), 1))
    height = max((tile.shape[0] for tile in tiles), default=TILE)
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    groups = [("to look at, the worst first", doubtful, ALARM), ("all over the clip", others, PALE)]
    groups = [group for group in groups if group[1]]
    rows = sum(-(-len(group[1]) // across) for group in groups)
    width = max(across * (TILE + GAP) + GAP, 480)
    sheet = Image.new("RGB", (width, 2 * LINE + GAP + len(groups) * (LINE + GAP) + rows * (height + LINE + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, font=font, fill=INK)
    top, drawn = GAP + LINE + GAP, iter(tiles)
    for label, group, colour in groups:
        draw.text((GAP, top), label, font=small, fill=colour)
        top += LINE
        for at, tile in enumerate(group):
            left, row = GAP + at % across * (TILE + GAP), top + at // across * (height + LINE + GAP)
            sheet.paste(Image.fromarray(next(drawn)), (left, row + LINE))
            text = f"{tile.name}   {_words(tile)}"
            draw.text((left, row + 3), text, font=small, fill=ALARM if tile.doubtful else INK)
        top += -(-len(group) // across) * (height + LINE + GAP) + GAP
    return np.asarray(sheet)


def _words(tile: Tile) -> str:
    """A key frame that was found from a box or points has a score; one that was given as a mask, or drawn, has 1."""
    score = f"score {tile.score:.2f}"
    if not tile.key:
        return score
    return f"key frame, {score}" if tile.score < 1 else "key frame"


def _tile(tile: Tile) -> np.ndarray:
    """The frame, TILE pixels wide, darker outside the mask, with its outline."""
    height, width = tile.mask.shape
    size = (TILE, max(1, min(round(TILE * height / width), 2 * TILE)))
    picture = cv2.resize(np.ascontiguousarray(tile.image), size, interpolation=cv2.INTER_AREA)
    share = cv2.resize(tile.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    picture = (picture * (0.45 + 0.55 * share[..., None])).astype(np.uint8)
    outlines = cv2.findContours((share > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    cv2.drawContours(picture, outlines, -1, BAD_LINE if tile.doubtful else GOOD_LINE, 1, cv2.LINE_AA)
    return picture
