"""What an alignment hands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.core.errors import RunError
from dyn4d.core.listing import listed
from dyn4d.geometry.bundle import Bundle, BundleState
from dyn4d.geometry.pair_results import PairFrame

NEIGHBOURS = 4  # frames whose median scale stands in for that of one that nothing ties


@dataclass(frozen=True)
class Note:
    """A line for the user, whose frames the caller may name.

    Attributes:
        text: `{frames}` and `{pairs}` stand for the lists.
        frames: rows of the frames that were aligned. pairs: two rows each.
    """

    text: str
    frames: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()

    def line(self, names: Sequence[str] | None = None) -> str:
        """The text with the names (T of them; None: the rows' numbers), at most eight of them."""

        def name(row: int) -> str:
            return str(row) if names is None else names[row]

        out = self.text.replace("{frames}", listed([name(row) for row in self.frames]))
        return out.replace("{pairs}", listed([f"{name(a)}-{name(b)}" for a, b in self.pairs]))


@dataclass(frozen=True)
class Alignment:
    """The cameras of T frames and what their kept pixels (P of each, `PairFrame.pixels`) see.

    Attributes:
        K: (T, 3, 3) float64 px of the views, half-integer pixel centres.
        world_from_cam: (T, 4, 4) float64; NaN where a frame could not be placed.
        depth: (P,) float64 planar z of each frame in world units; NaN where unknown.
        conf: (P,) float64 confidence, 0 where the depth is unknown.
        pixel_error: of the matches, standard deviation along an axis in px; NaN where it is not measured.
        remarks: what the user should know.
    """

    K: Tensor
    world_from_cam: Tensor
    depth: tuple[Tensor, ...]
    conf: tuple[Tensor, ...]
    pixel_error: float
    remarks: tuple[Note, ...] = ()

    def __post_init__(self) -> None:
        check_shape("Alignment.K", self.K, ("T", 3, 3))
        check_shape("Alignment.world_from_cam", self.world_from_cam, (len(self.K), 4, 4))

    @property
    def registered(self) -> Tensor:
        """(T,) bool: is the pose known?"""
        return torch.isfinite(self.world_from_cam).flatten(1).all(-1)

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user, frames by their rows."""
        return self.named_notes(None)

    def named_notes(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """Lines for the user with the names (T,) of the frames."""
        return tuple(note.line(names) for note in self.remarks)


def neighbour_scales(scale: Tensor) -> Tensor:
    """(T,) scales with each unknown one (NaN) replaced by the median of the few known ones that are nearest in time, so
    that a frame that nothing ties is as large as those around it. NaN where none is known."""
    out = scale.clone()
    known = torch.nonzero(torch.isfinite(scale)).squeeze(-1)
    for row in torch.nonzero(~torch.isfinite(scale)).squeeze(-1).tolist() if len(known) else []:
        near = known[torch.argsort((known - row).abs(), stable=True)[:NEIGHBOURS]]
        out[row] = torch.exp(torch.log(scale[near]).quantile(0.5))
    return out


def bundle_result(
    frames: Sequence[PairFrame], bundle: Bundle, state: BundleState, remarks: Sequence[Note], placed: Tensor
) -> Alignment:
    """What a solved bundle says of every kept pixel.

    Args:
        placed: (T,) bool, the frames whose pose, scale and focal length are those of the state.

    Raises:
        RunError: it is not finite.
    """
    problem, count = bundle.problem, len(frames)
    K = torch.zeros(count, 3, 3, dtype=torch.float64)
    K[:, 0, 0], K[:, 1, 1] = (state.focal[:, None] * state.aspect).unbind(-1)
    K[:, :2, 2], K[:, 2, 2] = state.principal_point, 1
    pose = torch.where(placed[:, None, None], state.world_from_cam, torch.nan)
    depths, confs = [], []
    for n, (frame, view) in enumerate(zip(frames, problem.views)):
        size = int(frame.kept.sum())
        depth = torch.full((size,), torch.nan, dtype=torch.float64)
        conf = torch.zeros(size, dtype=torch.float64)
        if bool(placed[n]):
            rows = torch.searchsorted(frame.pixels, view.pixels)
            depth[rows] = state.depth(n, view.anchor_depth[view.anchor], view.anchor, view.ratio)
            conf[rows] = view.conf
        depths.append(depth)
        confs.append(conf)
    values = [K, pose[placed], *(d[torch.isfinite(d)] for d in depths)]
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise RunError("alignment: the solution is not finite")
    return Alignment(K, pose, tuple(depths), tuple(confs), bundle.pixel_error, tuple(remarks))
