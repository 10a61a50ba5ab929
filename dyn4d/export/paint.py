"""How a drawn cloud becomes a picture: its colours, its depth, its confidence, beside the input, with alpha."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Field
from dyn4d.core.types import Camera, Clip, GaussianCloud, RenderOutput, Timeline
from dyn4d.export.config import OPAQUE, RenderName
from dyn4d.export.pictures import colour_map, side_by_side

SOLID = 0.5  # alpha from which a pixel has a depth and a confidence
GAP = 4  # px between the input and the render
SH0 = 0.28209479177387814
SAMPLES = 24  # frames at most from which the scale of depth is found


def _table(name: int) -> tuple[tuple[int, int, int], ...]:
    """256 colours of one of OpenCV's maps, rgb."""
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], name)[:, 0]
    return tuple((int(r), int(g), int(b)) for b, g, r in bgr)


VIRIDIS = _table(cv2.COLORMAP_VIRIDIS)  # both are perceptually even and rise in lightness
PLASMA = _table(cv2.COLORMAP_PLASMA)


@dataclass(frozen=True)
class DepthScale:
    """The planar z, world units, that the brightest (near) and the darkest (far) colour stand for."""

    near: float
    far: float


@torch.no_grad()
def depth_scale(cloud: GaussianCloud, field: Field, timeline: Timeline, cameras: Camera) -> DepthScale:
    """One scale for all frames: the middle 99.8 % of the solid Gaussians' z, with some room on both sides.

    Args:
        cameras: F, all with poses.
    """
    solid = cloud.means[cloud.opacities > 0.1]
    means = solid if len(solid) >= 8 else cloud.means
    near, far = [], []
    for row in np.unique(np.linspace(0, len(timeline) - 1, min(SAMPLES, len(timeline))).round().astype(int)).tolist():
        moved = field.from_canonical(means, float(timeline.times[row])).double()
        pose = cameras[row].cam_from_world.to(moved)
        z = (moved @ pose[2, :3] + pose[2, 3]).sort().values
        cut = len(z) // 1000
        z = z[cut : len(z) - cut]
        z = z[z > 0]
        if len(z):
            near.append(float(z[0]))
            far.append(float(z[-1]))
    if not near:
        return DepthScale(0.0, 1.0)
    low, high = min(near), max(far)
    room = 0.02 * (high - low) + 1e-6 * high
    return DepthScale(max(0.0, low - room), high + room)


def confidence_cloud(cloud: GaussianCloud) -> GaussianCloud:
    """The cloud with its confidence as a grey colour, the same from all sides."""
    if cloud.confidence is None:
        raise InputError(
            "render.which: confidence: gaussians/canonical.ply holds no confidence; run dyn4d gaussians with "
            "--overwrite, or leave confidence out"
        )
    grey = (cloud.confidence.clamp(0, 1).nan_to_num(0.0) - 0.5) / SH0
    return replace(cloud, sh=grey[:, None, None].expand(-1, 1, 3).contiguous().to(cloud.sh))


def to_uint8(rgb: Tensor) -> np.ndarray:
    """Colours (..., 3) in [0, 1] -> uint8, clamped and rounded."""
    return (rgb.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class Painter:
    """Makes pictures of what was drawn.

    Attributes:
        background: rgb in [0, 1] over which it was drawn. scale: of depth. clip: all frames of the clip, for compare.
    """

    background: tuple[float, ...]
    scale: DepthScale | None = None
    clip: Clip | None = None

    def opaque(self, name: RenderName, drawn: RenderOutput, frame: int) -> np.ndarray:
        """The picture (H, W, 3) uint8, or (H, 2 W + GAP, 3) of compare."""
        if name in ("depth", "confidence"):
            colours, solid = self._map(name, drawn)
            return np.where(solid[..., None], colours, to_uint8(torch.tensor(self.background)))
        picture = to_uint8(drawn.rgb[0])
        if name != "compare":
            return picture
        if self.clip is None:
            raise InputError("render.which: compare needs the clip's pictures, and the clip cannot be read")
        given = np.ascontiguousarray(self.clip.images[frame])
        height, width = picture.shape[:2]
        if given.shape[:2] != (height, width):
            given = cv2.resize(given, (width, height), interpolation=cv2.INTER_AREA)
        return side_by_side([given, picture], gap=GAP)

    def transparent(self, name: RenderName, drawn: RenderOutput) -> np.ndarray:
        """The picture without its background (H, W, 4) uint8, alpha straight: not multiplied into the colours."""
        if name in OPAQUE:
            raise ValueError(f"{name} has no transparent background")
        if name in ("depth", "confidence"):
            colours, solid = self._map(name, drawn)
            return np.concatenate([np.where(solid[..., None], colours, 0), solid[..., None] * 255], -1).astype(np.uint8)
        alpha = drawn.alpha[0].clamp(0, 1)
        behind = torch.tensor(self.background).to(alpha)
        own = (drawn.rgb[0] - (1 - alpha) * behind) / alpha.clamp_min(1e-4)
        own = torch.where(alpha > 1 / 510, own, torch.zeros_like(own))  # what rounds to nothing has no colour
        return np.concatenate([to_uint8(own), to_uint8(alpha)], axis=-1)

    def _map(self, name: RenderName, drawn: RenderOutput) -> tuple[np.ndarray, np.ndarray]:
        """Colours (H, W, 3) uint8 of a quantity, and where (H, W) there is something."""
        alpha = drawn.alpha[0, ..., 0].cpu().numpy()
        if name == "depth":
            assert self.scale is not None, "depth is drawn to a scale"
            depth = drawn.depth[0, ..., 0].cpu().numpy()
            place = (self.scale.far - depth) / max(self.scale.far - self.scale.near, 1e-12)
            return colour_map(place, VIRIDIS), (alpha > SOLID) & (depth > 0)
        grey = drawn.rgb[0, ..., 0].cpu().numpy() - (1 - alpha) * self.background[0]
        return colour_map(grey / np.maximum(alpha, 1e-4), PLASMA), alpha > SOLID
