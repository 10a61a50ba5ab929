"""The dataclasses that cross stages. Shapes are checked when they are made.

Units and frames are those of `docs/conventions.md`: OpenCV cameras, half-integer pixel centres, planar depth,
wxyz quaternions, colours in sRGB, lengths in world units, time in [0, 1] over the whole clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.checks import check_shape

T = TypeVar("T")


class FrameReader(Protocol):
    """Frames that are read when asked for; a list of arrays fits too."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Camera:
    """One pinhole camera or a batch of them that share a picture size.

    Attributes:
        K: (..., 3, 3) intrinsics in pixels, half-integer pixel centres.
        world_from_cam: (..., 4, 4) rigid poses. NaN where the pose of a frame is unknown.
        width, height: picture size in pixels.
    """

    K: Tensor
    world_from_cam: Tensor
    width: int
    height: int

    def __post_init__(self) -> None:
        check_shape("Camera.K", self.K, ("...", 3, 3))
        check_shape("Camera.world_from_cam", self.world_from_cam, ("...", 4, 4))
        if self.K.shape[:-2] != self.world_from_cam.shape[:-2]:
            raise ValueError(f"Camera: K is {tuple(self.K.shape)}, world_from_cam {tuple(self.world_from_cam.shape)}")

    def __len__(self) -> int:
        return self.K.shape[0]

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> Camera:
        return replace(self, K=self.K[index], world_from_cam=self.world_from_cam[index])

    @property
    def cam_from_world(self) -> Tensor:
        """(..., 4, 4) the inverse poses, gsplat's `viewmats`."""
        rotation = self.world_from_cam[..., :3, :3].transpose(-1, -2)
        out = torch.zeros_like(self.world_from_cam)
        out[..., :3, :3] = rotation
        out[..., :3, 3] = -(rotation @ self.world_from_cam[..., :3, 3:]).squeeze(-1)
        out[..., 3, 3] = 1
        return out

    @property
    def registered(self) -> Tensor:
        """(...,) bool: is the pose known?"""
        return torch.isfinite(self.world_from_cam).all(-1).all(-1)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Camera:
        return replace(self, K=self.K.to(device, dtype), world_from_cam=self.world_from_cam.to(device, dtype))


@dataclass(frozen=True)
class Timeline:
    """All frames of a clip before any selection: what fixes the meaning of time.

    Attributes:
        times: (F,) float64 in [0, 1], strictly increasing (one frame: 0).
        seconds: (F,) float64, the same instants in seconds.
        names: F file stems.
    """

    times: np.ndarray
    seconds: np.ndarray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {"F": len(self.names)}
        check_shape("Timeline.times", self.times, ("F",), sizes)
        check_shape("Timeline.seconds", self.seconds, ("F",), sizes)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fps(self) -> float:
        """Mean frames a second; 24 for a single frame."""
        span = float(self.seconds[-1] - self.seconds[0])
        return (len(self) - 1) / span if len(self) > 1 and span > 0 else 24.0


@dataclass(frozen=True)
class Clip:
    """A filmed object: T selected frames, read lazily.

    Attributes:
        name: the clip's name. source: where it was read from.
        images: T frames (H, W, 3) uint8 sRGB.
        masks: T masks (H, W) bool, True = object.
        frames: (T,) int64, the index of each selected frame in the whole clip.
        timeline: all F frames of the clip.
        width, height: of images, masks, depth and K alike (after any resizing).
        depth: T maps (H, W) float32 planar z in world units, 0 = none; or None.
        cameras: T cameras (float64); or None where nothing is known. `world_from_cam` is NaN where only K is known.
        all_cameras: the same for all F frames of the clip, or None.
        poses_given: the poses are given or static by the clip's word, not to be solved.
    """

    name: str
    source: Path
    images: FrameReader
    masks: FrameReader
    frames: np.ndarray
    timeline: Timeline
    width: int
    height: int
    depth: FrameReader | None = None
    cameras: Camera | None = None
    all_cameras: Camera | None = None
    poses_given: bool = False

    def __post_init__(self) -> None:
        count = len(self.frames)
        for label in ("images", "masks", "depth", "cameras"):
            value = getattr(self, label)
            if value is not None and len(value) != count:
                raise ValueError(f"Clip.{label} has {len(value)} frames, Clip.frames has {count}")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def times(self) -> np.ndarray:
        """(T,) float64 in [0, 1]: the times of the selected frames."""
        return self.timeline.times[self.frames]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.timeline.names[i] for i in self.frames)


def _select(value: T, rows: Tensor) -> T:
    values = {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]
    changes = {name: column[rows] for name, column in values.items() if column is not None}
    return replace(value, **changes)  # type: ignore[type-var]


@dataclass(frozen=True)
class FramePoints:
    """The object's points as each frame saw them, frame after frame.

    Attributes:
        xyz: (N, 3) float32 world. rgb: (N, 3) float32 in [0, 1]. normal: (N, 3) unit, towards the camera, 0 = unknown.
        frame: (N,) int64, row in the clip's *selected* frames. xy: (N, 2) pixel centre. conf: (N,) in (0, 1].
    """

    xyz: Tensor
    rgb: Tensor
    normal: Tensor
    frame: Tensor
    xy: Tensor
    conf: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("xyz", ("N", 3)), ("rgb", ("N", 3)), ("normal", ("N", 3)), ("frame", ("N",)),
                             ("xy", ("N", 2)), ("conf", ("N",))):  # fmt: skip
            check_shape(f"FramePoints.{label}", getattr(self, label), shape, sizes)

    def __len__(self) -> int:
        return self.xyz.shape[0]

    def select(self, rows: Tensor) -> FramePoints:
        """The rows that an index or a boolean mask names."""
        return _select(self, rows)

    def extent(self) -> float:
        """The object's size: the largest side of the bounding box of all points."""
        return float((self.xyz.amax(0) - self.xyz.amin(0)).max()) if len(self) else 0.0


@dataclass(frozen=True)
class PairPrediction:
    """What a pair network says of B pairs of pictures (a, b).

    Attributes:
        points_a: (B, Ha, Wa, 3) points of a's pixels and points_b_in_a: (B, Hb, Wb, 3) of b's, both in a's camera.
        conf_a: (B, Ha, Wa), conf_b: (B, Hb, Wb) confidence of the points, above 1.
        desc_a: (B, Ha, Wa, D), desc_b: (B, Hb, Wb, D) unit descriptors and desc_conf_a, desc_conf_b: (B, H, W) their
            confidence, above 0; all four None where the network has none (DUSt3R).
    """

    points_a: Tensor
    points_b_in_a: Tensor
    conf_a: Tensor
    conf_b: Tensor
    desc_a: Tensor | None = None
    desc_b: Tensor | None = None
    desc_conf_a: Tensor | None = None
    desc_conf_b: Tensor | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        shapes = (("points_a", ("B", "Ha", "Wa", 3)), ("points_b_in_a", ("B", "Hb", "Wb", 3)),
                  ("conf_a", ("B", "Ha", "Wa")), ("conf_b", ("B", "Hb", "Wb")), ("desc_a", ("B", "Ha", "Wa", "D")),
                  ("desc_b", ("B", "Hb", "Wb", "D")), ("desc_conf_a", ("B", "Ha", "Wa")),
                  ("desc_conf_b", ("B", "Hb", "Wb")))  # fmt: skip
        for label, shape in shapes:
            if getattr(self, label) is not None:
                check_shape(f"PairPrediction.{label}", getattr(self, label), shape, sizes)


@dataclass(frozen=True)
class Correspondences:
    """Matched pixels between two frames of one clip, inside the object mask, sorted by (frame_a, frame_b).

    Attributes:
        frame_a, frame_b: (M,) int64 rows in the clip's selected frames.
        xy_a, xy_b: (M, 2) float32 pixels. weight: (M,) float32 > 0.
    """

    frame_a: Tensor
    frame_b: Tensor
    xy_a: Tensor
    xy_b: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("frame_a", ("M",)), ("frame_b", ("M",)), ("xy_a", ("M", 2)), ("xy_b", ("M", 2)),
                             ("weight", ("M",))):  # fmt: skip
            check_shape(f"Correspondences.{label}", getattr(self, label), shape, sizes)

    def __len__(self) -> int:
        return self.frame_a.shape[0]

    def select(self, rows: Tensor) -> Correspondences:
        return _select(self, rows)

    @staticmethod
    def empty() -> Correspondences:
        return Correspondences(
            torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0),
        )  # fmt: skip

    @staticmethod
    def concatenate(parts: Sequence[Correspondences]) -> Correspondences:
        if not parts:
            return Correspondences.empty()
        return Correspondences(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Correspondences)))


@dataclass(frozen=True)
class LiftedPairs:
    """Matched points in the world: the same spot of the object at two times, sorted by (frame_a, frame_b).

    Attributes:
        frame_a, frame_b: (M,) int64 rows in the clip's selected frames.
        xyz_a, xyz_b: (M, 3) float32 world. weight: (M,) float32 > 0.
    """

    frame_a: Tensor
    frame_b: Tensor
    xyz_a: Tensor
    xyz_b: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("frame_a", ("M",)), ("frame_b", ("M",)), ("xyz_a", ("M", 3)), ("xyz_b", ("M", 3)),
                             ("weight", ("M",))):  # fmt: skip
            check_shape(f"LiftedPairs.{label}", getattr(self, label), shape, sizes)

    def __len__(self) -> int:
        return self.frame_a.shape[0]

    def select(self, rows: Tensor) -> LiftedPairs:
        """The rows that an index or a boolean mask names."""
        return _select(self, rows)


def join_pairs(lists: Sequence[LiftedPairs]) -> LiftedPairs:
    """Several lists (at least one) in one, sorted again."""
    columns = {f.name: torch.cat([getattr(pairs, f.name) for pairs in lists]) for f in fields(LiftedPairs)}
    order = torch.argsort(columns["frame_a"] * (int(columns["frame_b"].max()) + 1) + columns["frame_b"], stable=True)
    return LiftedPairs(**{name: column[order] for name, column in columns.items()})


@dataclass(frozen=True)
class GeometryResult:
    """What a geometry source found.

    Attributes:
        points: the object's points of all T selected frames.
        cameras: T cameras of the selected frames; NaN poses where a frame could not be placed.
        source: the source's name, `rgbd` and so on.
        notes: one line for the user each: what was chosen and why, what was dropped.
        licences: one line each on the terms of the weights that were used.
        poses_solved: the cameras' poses are not those that came with the clip.
        depth: T depth maps (H, W) of the pictures in the cameras' unit, 0 = not known, where the source has any beside
            the object; they tell what stands before it. Not saved.
        depth_error: relative error that the points' depth is expected to have, where it was estimated from pictures.
    """

    points: FramePoints
    cameras: Camera
    source: str
    notes: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    poses_solved: bool = False
    depth: FrameReader | None = None
    depth_error: float | None = None


@dataclass(frozen=True)
class GaussianCloud:
    """3D Gaussians with activated values.

    Attributes:
        means: (G, 3) world units. quats_wxyz: (G, 4) of any length > 0. scales: (G, 3) > 0, standard deviations.
        opacities: (G,) in [0, 1]. sh: (G, K, 3) spherical-harmonics coefficients, K = (degree + 1)²;
            rgb = 0.5 + 0.28209479 · sh[:, 0] + higher bands.
        confidence: (G,) in [0, 1], how often and how well each was seen, or None where nobody has said.
    """

    means: Tensor
    quats_wxyz: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor
    confidence: Tensor | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for label, shape in (("means", ("G", 3)), ("quats_wxyz", ("G", 4)), ("scales", ("G", 3)),
                             ("opacities", ("G",)), ("sh", ("G", "K", 3))):  # fmt: skip
            check_shape(f"GaussianCloud.{label}", getattr(self, label), shape, sizes)
        if sizes["K"] not in (1, 4, 9, 16, 25):
            raise ValueError(f"GaussianCloud.sh: {sizes['K']} coefficients; wanted 1, 4, 9, 16 or 25")
        if self.confidence is not None:
            check_shape("GaussianCloud.confidence", self.confidence, ("G",), sizes)

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        return round(self.sh.shape[1] ** 0.5) - 1

    def select(self, rows: Tensor) -> GaussianCloud:
        return _select(self, rows)

    def to(self, device: torch.device | str) -> GaussianCloud:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: column.to(device) for name, column in values.items() if column is not None})


@dataclass(frozen=True)
class RenderOutput:
    """What a rasteriser drew for C cameras.

    Attributes:
        rgb: (C, H, W, 3) over the background asked for. alpha: (C, H, W, 1). depth: (C, H, W, 1) expected planar z,
            0 where nothing is. means2d: (C, G, 2) px. radii: (C, G, 2) px, 0 = not drawn.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    means2d: Tensor
    radii: Tensor
