"""Options of the deformation stage. Free of torch, so that the help text is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ESTIMATED_TRUST = 0.1


@dataclass(frozen=True)
class DeformationConfig:
    """The invertible field between each frame's time and canonical space, and how it is fitted."""

    kind: Literal["realnvp", "none", "mlp", "modgs"] = "realnvp"
    """realnvp: our invertible field. To compare with: none (nothing moves), mlp (a network adds offsets; trained with
    the Gaussians only) and modgs (the published invertible field and how it is fitted; of the options below it knows
    steps, pairs_per_step times points_per_pair, tracks)."""
    layers: int = 6
    """Coupling layers; each moves one coordinate, in the fixed order x y z x y z ..."""
    cells: int = 64
    """Cells a side of the finest splines that say how far a layer moves: 4, 8, 16 ... They span 1.3 times the
    object's box, and all coarser levels are there too. The finest is left to the training with the Gaussians."""
    time_features: int = 32
    """Length of the Gabor time code."""
    time_scale: float = 0.4
    """Bandwidth of the time features: their input scale is this times the clip's number of frames."""
    root: bool = True
    """Take the object's dominant rigid motion out first, in closed form, so that the splines model only the rest."""
    steps: int = 600
    """Optimisation steps of the fit."""
    pairs_per_step: int = 24
    """Frame pairs drawn at each step."""
    points_per_pair: int = 384
    """Correspondences drawn from each pair."""
    lr: float = 1e-2
    """Learning rate of the coarsest splines, decayed to a thirtieth by a cosine; each finer level has 0.7 of it, the
    time code a fifth."""
    robust: float = 0.01
    """Length, relative to the object's half size, beyond which a wrong correspondence stops pulling harder."""
    depth_trust: float = 0.0
    """Share of what a point is off by along the line of sight that counts, here and in gaussians.depth, up to 1. 0: all
    of it where depth was measured, a tenth where it was estimated from the pictures."""
    isometry: float = 0.3
    """Weight of keeping distances between near-by points of a frame as they move."""
    silhouette: float = 0.3
    """Weight of staying inside the masks and behind the depth maps of all other frames."""
    smooth: float = 0.02
    """Weight of the trajectories' acceleration."""
    reunions: bool = True
    """Look for parts that go out of sight and come out elsewhere with no match between, and make matches of them."""
    tracks: int = 2000
    """Points whose trajectories are written to tracks.npz."""
    checkpoint_seconds: float = 20.0
    """How often the fit saves its state, so that a killed run goes on from there."""

    def trust(self, depth_error: float | None) -> float:
        """`depth_trust` with depth that is expected to be off by this share of itself; None = it was measured."""
        return self.depth_trust or (1.0 if depth_error is None else ESTIMATED_TRUST)

    def __post_init__(self) -> None:
        for name in ("layers", "time_features", "pairs_per_step", "points_per_pair"):
            if getattr(self, name) < 1:
                raise ValueError(f"deformation.{name} must be at least 1, not {getattr(self, name)}")
        if self.cells < 4 or self.cells & (self.cells - 1):
            raise ValueError(f"deformation.cells must be 4, 8, 16 ..., not {self.cells}")
        for name in ("steps", "tracks", "isometry", "silhouette", "smooth"):
            if getattr(self, name) < 0:
                raise ValueError(f"deformation.{name} must not be negative, but is {getattr(self, name)}")
        if not 0 <= self.depth_trust <= 1:
            raise ValueError(f"deformation.depth_trust must be between 0 and 1, not {self.depth_trust}")
        for name in ("lr", "robust", "time_scale", "checkpoint_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"deformation.{name} must be above 0, not {getattr(self, name)}")
