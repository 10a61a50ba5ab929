"""A picture of the matches between two pictures: the objects side by side, all else dimmed, points coloured by their
place in A.

Points that match have one colour on both sides: the direction from the middle of A's object gives the hue, the distance
its strength. So the colours of B show the parts of A carried over, even where no line is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dyn4d.export.tracks import SUPERSAMPLE, spread_rows
from dyn4d.matching.windows import mask_box

INK, PALE, GREY = (16, 18, 23), (240, 242, 246), (150, 156, 168)
WIDTH = 1920  # of the drawing, at most, in pixels
TALLEST = 960  # of a picture in it
ENLARGEMENT = 4.0  # small pictures grow at most so much
MARGIN = 0.25  # of the picture that is shown around an object, as a share of its longest side
GAP, STRIP = 12, 54  # between the pictures; height of the two lines of text
Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two exclusive


@dataclass(frozen=True)
class MatchText:
    """What is written on the drawing.

    Attributes:
        title: at the top left, large. detail: at the top right. name_a, name_b: below the pictures.
    """

    title: str = ""
    detail: str = ""
    name_a: str = "A"
    name_b: str = "B"


@dataclass(frozen=True)
class _Panel:
    """Where a part of a picture is in the drawing.

    Attributes:
        box: the part, in pixels of the picture. left, top, width, height: in those of the drawing.
    """

    box: Box
    left: int
    top: int
    width: int
    height: int

    @property
    def scale(self) -> np.ndarray:
        """(2,) pixels of the drawing per pixel of the picture, along x and y."""
        return np.array([self.width / (self.box[2] - self.box[0]), self.height / (self.box[3] - self.box[1])])

    def place(self, xy: np.ndarray) -> np.ndarray:
        """(M, 2) pixels of the picture → of the supersampled drawing."""
        return ((xy - self.box[:2]) * self.scale + [self.left, self.top]) * SUPERSAMPLE

    def cut(self, values: np.ndarray) -> np.ndarray:
        """The part out of (H, W, ...)."""
        return values[self.box[1] : self.box[3], self.box[0] : self.box[2]]


def draw_matches(
    pictures: tuple[np.ndarray, np.ndarray],
    masks: tuple[np.ndarray, np.ndarray],
    xy: tuple[np.ndarray, np.ndarray],
    text: MatchText | None = None,
    *,
    lines: int = 40,
) -> np.ndarray:
    """Draw two pictures of any sizes and what matches between them. What is far from an object is left out.

    Args:
        pictures: A and B, (H, W, 3) uint8. masks: (H, W) bool, True = object; the rest is dimmed.
        xy: (M, 2) pixels of A and (M, 2) pixels of B, half-integer centres; M may be 0.
        lines: how many matches, spread over the object, are joined by a line.

    Returns:
        (H, W, 3) uint8, at most 1920 pixels wide, whatever the size of the pictures.
    """
    text = text or MatchText()
    width, height, panels = _layout(shown_boxes(masks))
    canvas = Image.new("RGB", (width * SUPERSAMPLE, height * SUPERSAMPLE), INK)
    for picture, mask, panel in zip(pictures, masks, panels):
        size = panel.width * SUPERSAMPLE, panel.height * SUPERSAMPLE
        shown = _dimmed(*_resized(panel.cut(picture), panel.cut(mask), *size))
        canvas.paste(Image.fromarray(shown), (panel.left * SUPERSAMPLE, panel.top * SUPERSAMPLE))
    places = [panel.place(np.asarray(ends, dtype=np.float64).reshape(-1, 2)) for panel, ends in zip(panels, xy)]
    colours = place_colours(np.asarray(xy[0], dtype=np.float64).reshape(-1, 2), masks[0])
    canvas = _with_marks(canvas, places, colours, masks[0].sum() * float(np.prod(panels[0].scale)), lines)
    drawing = canvas.resize((width, height), Image.Resampling.LANCZOS)
    _write(drawing, text, panels)
    return np.asarray(drawing)


def shown_boxes(masks: tuple[np.ndarray, np.ndarray]) -> list[Box]:
    """The part of each picture that holds its object and some of what is around it; all of it where the mask is empty.
    In pictures of one size both parts have one size too, so that the objects can be compared."""
    found = [mask_box(mask) or (0, 0, mask.shape[1], mask.shape[0]) for mask in masks]
    sides = [np.array([box[2] - box[0], box[3] - box[1]]) for box in found]
    sides = [np.ceil(side + 2 * MARGIN * side.max()).astype(np.int64) for side in sides]
    if masks[0].shape == masks[1].shape:
        sides = [np.maximum(*sides)] * 2
    boxes = []
    for mask, box, side in zip(masks, found, sides):
        picture = np.array(mask.shape[::-1])
        side = np.minimum(side, picture)
        corner = np.clip((np.array(box[:2]) + box[2:] - side) // 2, 0, picture - side)
        left, top, right, bottom = (int(value) for value in (*corner, *(corner + side)))
        boxes.append((left, top, right, bottom))
    return boxes


def _layout(boxes: list[Box]) -> tuple[int, int, list[_Panel]]:
    """Width and height of the drawing, and a panel for each part; both have one height, as far as the enlargement
    allows it."""
    sides = [(right - left, bottom - top) for left, top, right, bottom in boxes]
    tall = min(TALLEST, (WIDTH - 3 * GAP) / sum(width / height for width, height in sides))
    sizes = []
    for width, height in sides:
        down = min(tall, ENLARGEMENT * height)
        sizes.append((max(round(down * width / height), 1), max(round(down), 1)))
    wanted = sum(across for across, _ in sizes) + 3 * GAP
    total, row = max(wanted, 640), max(down for _, down in sizes)
    panels, left = [], GAP + (total - wanted) // 2
    for box, (across, down) in zip(boxes, sizes):
        panels.append(_Panel(box, left, STRIP + (row - down) // 2, across, down))
        left += across + GAP
    return total, row + 2 * STRIP - GAP, panels


def _resized(picture: np.ndarray, mask: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture (height, width, 3) float32 in [0, 1], and the share of object in each pixel (height, width)."""
    rgb = Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BICUBIC)
    share = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(rgb, dtype=np.float32) / 255, np.asarray(share, dtype=np.float32) / 255


def _dimmed(rgb: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The object a little paler, so that points stand out, the rest dark and grey; (H, W, 3) uint8."""
    grey = rgb.mean(-1, keepdims=True)
    inside = 0.82 * (grey + 0.45 * (rgb - grey)) + 0.03
    outside = grey * 0.26 + np.array(INK, dtype=np.float32) / 255 * 0.8
    return np.clip(np.rint(255 * (outside + share[..., None] * (inside - outside))), 0, 255).astype(np.uint8)


def place_colours(xy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A colour (M, 3) uint8 for each place (M, 2) px on the object: hue by direction from its middle, strength by
    distance. All are equally light."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return np.full((len(xy), 3), 255, dtype=np.uint8)
    low = np.array([columns[0], rows[0]], dtype=np.float64)
    side = np.array([columns[-1] + 1, rows[-1] + 1]) - low
    away = (xy - low - side / 2) / (side / 2)
    radius = np.minimum(np.linalg.norm(away, axis=-1), 1.0)
    angle = np.arctan2(away[:, 1], away[:, 0])
    chroma = 0.05 + 0.15 * np.sqrt(radius)
    return _oklab_to_srgb(np.stack([np.full(len(xy), 0.80), chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1))


def _oklab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """OKLab (M, 3) → sRGB (M, 3) uint8, clipped to what a screen can show. (B. Ottosson, "A perceptual color space for
    image processing", 2020.)"""
    to_cone = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728],
                        [1, -0.0894841775, -1.2914855480]])  # fmt: skip
    to_linear = np.array([[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
                          [-0.0041960863, -0.7034186147, 1.7076147010]])  # fmt: skip
    linear = np.clip((lab @ to_cone.T) ** 3 @ to_linear.T, 0, 1)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * coded).astype(np.uint8)


def _with_marks(
    canvas: Image.Image, places: list[np.ndarray], colours: np.ndarray, area: float, lines: int
) -> Image.Image:
    """Dots for all matches, lines for a few of them, over the pictures.

    Args:
        places: (M, 2) px of the canvas, twice. area: of A's object in the drawing, in pixels: how large dots may be.
    """
    count = len(colours)
    if count == 0:
        return canvas
    dot = SUPERSAMPLE * float(np.clip(0.30 * np.sqrt(area / count), 1.0, 3.2))
    shades = [tuple(int(value) for value in colour) for colour in colours]
    layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    for ends in places:
        for (x, y), shade in zip(ends.tolist(), shades):
            pen.ellipse([x - dot, y - dot, x + dot, y + dot], fill=(*shade, 215))
    canvas = Image.alpha_composite(canvas.convert("RGBA"), layer)
    layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    joined = spread_rows(places[0], lines)
    for row in joined.tolist():
        start, end = tuple(places[0][row]), tuple(places[1][row])
        pen.line([start, end], fill=(*INK, 120), width=2 * SUPERSAMPLE + 2)
        pen.line([start, end], fill=(*shades[row], 185), width=SUPERSAMPLE + 1)
    knob = max(1.25 * dot, 4.0 * SUPERSAMPLE)
    for row in joined.tolist():
        for x, y in (tuple(ends[row]) for ends in places):
            rim = knob + 1.25 * SUPERSAMPLE
            pen.ellipse([x - rim, y - rim, x + rim, y + rim], fill=(*INK, 235))
            pen.ellipse([x - knob, y - knob, x + knob, y + knob], fill=(*shades[row], 255))
    return Image.alpha_composite(canvas, layer).convert("RGB")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow 10.0 has one size
        return ImageFont.load_default()


def _plain(text: str) -> str:
    """What Pillow's own font can show; other letters become question marks."""
    return text.encode("ascii", "replace").decode("ascii")


def _write(drawing: Image.Image, text: MatchText, panels: list[_Panel]) -> None:
    """The title and detail above the pictures, their names below."""
    pen = ImageDraw.Draw(drawing)
    large, small = _font(26), _font(18)
    left, right = panels[0].left, panels[1].left + panels[1].width
    pen.text((left, 13), _plain(text.title), fill=PALE, font=large)
    start = right - pen.textlength(_plain(text.detail), font=small)
    if start > left + pen.textlength(_plain(text.title), font=large) + 2 * GAP:
        pen.text((start, 19), _plain(text.detail), fill=GREY, font=small)
    bottom = max(panel.top + panel.height for panel in panels)
    for panel, name in zip(panels, (text.name_a, text.name_b)):
        name = _plain(name)
        while len(name) > 1 and pen.textlength(name, font=small) > panel.width:
            name = f"{name[: len(name) // 2 - 2]}...{name[len(name) // 2 + 2 :]}" if len(name) > 8 else name[:-1]
        pen.text((panel.left, bottom + 9), name, fill=GREY, font=small)
