"""Pictures of any file of Gaussians or points, drawn by our own rasteriser: from six sides, or turning.

Colours are those without their view-dependent part. Points are drawn as small round Gaussians. What is in the picture
is told by robust bounds (`dyn4d.core.clusters.robust_bounds`), and what lies between them and the camera is not
drawn, so that a few floaters neither shrink the object nor hide it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.cameras import look_at
from dyn4d.core.clusters import robust_bounds, sample, spacing
from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.export.pictures import SEA, colour_map
from dyn4d.io import ply_fields as pf
from dyn4d.io.rows import Rows, require_gaussians, require_positions
from dyn4d.raster import rasterization

AXES = ("x", "-x", "y", "-y", "z", "-z")
FIELD_OF_VIEW = 24.0  # degrees: nearly without perspective, so that sides can be compared
MARGIN = 1.06
SLAB = 400_000  # Gaussians drawn at a time: bounds the memory
FAINT = 0.05  # Gaussians below this opacity do not count for the bounds
WIDEST_PAD = 0.1  # of the box: a few huge Gaussians should not make the rest small
POINT_SIGMA = 0.6  # of the spacing
POINT_OPACITY = 0.95
DARK = 1e-3  # light that still comes through; less is not looked for


@dataclass(frozen=True)
class PreviewOptions:
    """How to draw.

    Attributes:
        size: side of one view, pixels. up: the axis that points up in the world, one of `AXES`; "-y" is that of
            OpenCV's cameras. background: (3,) sRGB in [0, 1]. frames: of a turntable. elevation: of its camera,
            degrees.
    """

    size: int = 384
    up: str = "-y"
    background: tuple[float, float, float] = (0.957, 0.961, 0.969)
    frames: int = 72
    elevation: float = 15.0

    def __post_init__(self) -> None:
        if self.up not in AXES:
            raise InputError(f"--up {self.up}: wanted one of {', '.join(AXES)}")
        if not 16 <= self.size <= 4096:
            raise InputError(f"--size {self.size}: wanted 16 to 4096 pixels")
        if not 1 <= self.frames <= 3600:
            raise InputError(f"--frames {self.frames}: wanted 1 to 3600")
        if not -89 <= self.elevation <= 89:
            raise InputError(f"--elevation {self.elevation:g}: wanted -89 to 89 degrees")


@dataclass(frozen=True)
class Drawable:
    """Gaussians as the rasteriser takes them (N rows, float32), and the box of their centres that the picture should
    show.

    `pad`: how far the Gaussians reach beyond that box, world units. `left_out`: rows of the file that cannot be drawn
    (NaN, Inf).
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    rgb: Tensor
    low: np.ndarray
    high: np.ndarray
    pad: float
    left_out: int

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def centre(self) -> np.ndarray:
        return (self.low + self.high) / 2

    @property
    def half(self) -> np.ndarray:
        """Half of the box's sides with what the Gaussians add, none of them 0."""
        sides = (self.high - self.low) / 2 + self.pad
        return np.maximum(sides, max(float(sides.max()) * 1e-3, 1e-9))


@dataclass(frozen=True)
class View:
    """A picture (H, W, 3) float in [0, 1] over the background, and how much of each pixel is covered (H, W)."""

    rgb: np.ndarray
    alpha: np.ndarray

    def as_bytes(self) -> np.ndarray:
        return np.round(np.clip(self.rgb, 0, 1) * 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------- reading


def load_drawable(rows: Rows, *, up: str = "-y") -> Drawable:
    """Read what is drawn of Gaussians or points, a block at a time (56 bytes a row are kept).

    Raises:
        InputError: no positions, Gaussians with fields missing, nothing that can be drawn, or a damaged file.
    """
    require_positions(rows)
    if pf.is_gaussian(rows.names):
        require_gaussians(rows, "drawing")
        return _load_gaussians(rows)
    return _load_points(rows, up)


def _load_gaussians(rows: Rows) -> Drawable:
    wide = {"means": 3, "quats": 4, "scales": 3, "opacities": 1, "rgb": 3}
    table = {name: np.empty((rows.count, columns), np.float32) for name, columns in wide.items()}
    at = 0
    for block in rows.blocks():
        block = block[pf.drawable(block)]
        part = slice(at, at + len(block))
        rgb = pf.colours(block)
        assert rgb is not None, "Gaussians have colours"
        values = {"means": pf.columns(block, pf.POSITION), "quats": pf.unit_quats(block), "scales": pf.scales(block),
                  "opacities": pf.opacities(block)[:, None], "rgb": np.maximum(rgb, 0)}  # fmt: skip
        for name, found in values.items():
            table[name][part] = found
        at += len(block)
    _require_some(rows, at)
    solid = np.flatnonzero(table["opacities"][:at, 0] > FAINT)
    solid = solid if len(solid) else np.arange(at)
    low, high = robust_bounds(table["means"][solid])
    pad = 2 * float(np.quantile(table["scales"][solid].max(-1), 0.9))
    if (longest := float((high - low).max())) > 0:
        pad = min(pad, WIDEST_PAD * longest)
    tensors = {name: torch.from_numpy(values[:at]) for name, values in table.items()}
    return Drawable(tensors["means"], tensors["quats"], tensors["scales"], tensors["opacities"][:, 0], tensors["rgb"],
                    low, high, pad, rows.count - at)  # fmt: skip


def _load_points(rows: Rows, up: str) -> Drawable:
    names = rows.names
    coloured = pf.colour_names(names) is not None
    means, rgb = np.empty((rows.count, 3), np.float32), np.empty((rows.count, 3), np.float32)
    at = 0
    for block in rows.blocks():
        block = block[np.isfinite(pf.columns(block, pf.POSITION)).all(-1)]
        means[at : at + len(block)] = pf.columns(block, pf.POSITION)
        found = pf.colours(block)
        rgb[at : at + len(block)] = 0.5 if found is None else np.nan_to_num(found)
        at += len(block)
    _require_some(rows, at)
    means, rgb = means[:at], rgb[:at]
    low, high = robust_bounds(means)
    if not coloured:  # height tells the shape where nothing else does
        axis, sign = "xyz".index(up[-1]), -1 if up[0] == "-" else 1
        height = (means[:, axis] - low[axis]) / max(high[axis] - low[axis], 1e-12)
        rgb = colour_map(height if sign > 0 else 1 - height, SEA).astype(np.float32) / 255
    few = means[sample(at)]
    sigma = POINT_SIGMA * spacing(few) * math.sqrt(len(few) / at) or 1e-3 * float((high - low).max()) or 1e-3
    return Drawable(
        torch.from_numpy(means), torch.tensor([[1.0, 0, 0, 0]]).expand(at, 4), torch.full((1, 3), sigma).expand(at, 3),
        torch.full((at,), POINT_OPACITY), torch.from_numpy(np.ascontiguousarray(rgb)), low, high, 2 * sigma,
        rows.count - at,
    )  # fmt: skip


def _require_some(rows: Rows, count: int) -> None:
    if count == 0:
        why = "it has no rows" if rows.count == 0 else f"all of its {rows.count:,} rows have NaN or Inf"
        raise InputError(f"{rows.path} holds nothing to draw: {why}")


# --------------------------------------------------------------------------------------------- drawing


def axis_vector(name: str) -> np.ndarray:
    """(3,) of "x", "-y" ..."""
    out = np.zeros(3)
    out["xyz".index(name[-1])] = -1 if name[0] == "-" else 1
    return out


def opposite(name: str) -> str:
    return name[1:] if name[0] == "-" else f"-{name}"


def side_names(up: str) -> tuple[str, ...]:
    """Where the camera of each of the six sides stands: front, right, back, left, above, below.

    The front is that of a camera before the world: at -z, or at -y where z is up.
    """
    front = "-y" if up[-1] == "z" else "-z"
    ahead = -axis_vector(front)
    right = np.cross(ahead, axis_vector(up))
    at = int(np.abs(right).argmax())
    right_name = ("" if right[at] > 0 else "-") + "xyz"[at]
    return front, right_name, opposite(front), opposite(right_name), up, opposite(up)


def draw_view(
    what: Drawable, towards: np.ndarray, up: np.ndarray, size: int, reach: float, options: PreviewOptions
) -> View:
    """One square picture, the camera in the direction `towards` (3,) from the middle of the box.

    Args:
        up: (3,) upwards in the picture. size: pixels. reach: half of what the picture shows, world units.
    """
    towards = towards / np.linalg.norm(towards)
    depth = float((np.abs(towards) * what.half).sum())
    distance = MARGIN * reach / math.tan(math.radians(FIELD_OF_VIEW / 2)) + depth
    eye = torch.from_numpy(what.centre + distance * towards).float()
    pose = look_at(eye.double(), torch.from_numpy(what.centre), torch.from_numpy(up)).float()
    rotation = pose[:3, :3].T
    view = torch.eye(4)
    view[:3, :3], view[:3, 3] = rotation, -rotation @ eye
    focal = size / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    near = max(distance - 1.25 * depth - 0.1 * reach, 1e-3 * distance)  # what hides the box from outside is left out
    rgb, alpha = _composite(what, view, K, size, near)
    background = torch.tensor(options.background)
    return View((rgb + (1 - alpha) * background).numpy(), alpha[..., 0].numpy())


def _composite(what: Drawable, view: Tensor, K: Tensor, size: int, near: float) -> tuple[Tensor, Tensor]:
    """Colour times coverage (H, W, 3), and coverage (H, W, 1). Many Gaussians are drawn in slabs from front to back,
    which is what drawing them at once does, since their order is that of their centres' depths anyway."""
    depth = what.means @ view[2, :3] + view[2, 3]
    seen = torch.nonzero(depth > near)[:, 0]
    if len(seen) > SLAB:
        seen = seen[torch.argsort(depth[seen])]
    rgb, light = torch.zeros(size, size, 3), torch.ones(size, size, 1)
    for at in range(0, len(seen), SLAB):
        rows = seen[at : at + SLAB]
        drawn, alpha, _ = rasterization(
            what.means[rows], what.quats[rows], what.scales[rows], what.opacities[rows], what.rgb[rows], view[None],
            K[None], size, size, near_plane=near,
        )  # fmt: skip
        rgb = rgb + light * drawn[0]
        light = light * (1 - alpha[0])
        if float(light.max()) < DARK:
            break
    return rgb, 1 - light


def _axes_of(towards: np.ndarray, up: np.ndarray) -> np.ndarray:
    right = np.cross(-towards, up)
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(right, -towards)])


def six_views(what: Drawable, options: PreviewOptions, *, sides: int = 6) -> list[tuple[str, View]]:
    """The first so many of `side_names`, all at the same scale, by where the camera stands."""
    up = axis_vector(options.up)
    chosen = []
    for name in side_names(options.up)[:sides]:
        towards = axis_vector(name)
        # from above, what is ahead of the front camera is upwards in the picture
        upward = up if abs(towards @ up) < 0.5 else -axis_vector(side_names(options.up)[0]) * float(towards @ up)
        chosen.append((name, towards, upward))
    reach = max(float((np.abs(_axes_of(towards, upward)) @ what.half).max()) for _, towards, upward in chosen)
    return [(name, draw_view(what, towards, upward, options.size, reach, options)) for name, towards, upward in chosen]


def turntable(what: Drawable, options: PreviewOptions, progress: Progress | None = None) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 of the object turning once about the upward axis, which loop."""
    progress = progress or SilentProgress()
    up, front = axis_vector(options.up), axis_vector(side_names(options.up)[0])
    side = np.cross(up, front)
    lift = math.radians(options.elevation)
    flat = np.linalg.norm(what.half * (1 - np.abs(up)))
    tall = float(np.abs(up) @ what.half)
    reach = max(float(flat), math.cos(lift) * tall + math.sin(abs(lift)) * float(flat))
    progress.start("preview", options.frames)
    for frame in range(options.frames):
        angle = 2 * math.pi * frame / options.frames
        around = math.cos(angle) * front + math.sin(angle) * side
        towards = math.cos(lift) * around + math.sin(lift) * up
        yield draw_view(what, towards, up, options.size, reach, options).as_bytes()
        progress.update()
    progress.finish()
