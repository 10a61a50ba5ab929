"""Options of the Gaussian stage. Free of torch, so that the help text is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MOST_POINTS = 400_000  # that the first Gaussians are made of; there are never more of them


@dataclass(frozen=True)
class GaussiansConfig:
    """The canonical 3D Gaussians and their training together with the field."""

    initial: int = 10000
    """Gaussians at the start, made from all frames' points in canonical space; no more than `maximum`, than
    there are points, and than 400,000."""
    maximum: int = 16000
    """Most Gaussians there ever are."""
    sh_degree: int = 0
    """Degree of the spherical harmonics of the colours, 0 to 3. 0: the same colour from everywhere. Bands are opened
    one after another, each 15 % of the steps after the one before."""
    steps: int = 2000
    """Training steps; each draws one frame."""
    lr_means: float = 8e-4
    """Learning rate of the means, relative to the object's half size; decays to a hundredth."""
    lr_sh: float = 1e-2
    """Learning rate of the colours (higher bands: a twentieth); this and the next three decay to a tenth."""
    lr_opacity: float = 5e-2
    """Learning rate of the opacities (as logits)."""
    lr_scale: float = 1e-2
    """Learning rate of the scales (as logarithms)."""
    lr_quat: float = 2e-3
    """Learning rate of the rotations."""
    lr_field: float = 1e-3
    """Learning rate of the deformation field (of its coarsest splines); decays to a twentieth."""
    l1: float = 1.0
    """Weight of the mean absolute colour error."""
    ssim: float = 0.2
    """Weight of 1 - SSIM."""
    silhouette: float = 0.3
    """Weight of the difference between coverage and mask."""
    depth: float = 1.5
    """Weight of the difference to the depth map, relative to the object's half size."""
    depth_order: float = 0.02
    """Weight of pairs of pixels being in the depth map's order."""
    depth_order_form: Literal["logistic", "tanh"] = "logistic"
    """logistic: a pair pulls for as long as its order is wrong, and lets go once it is right; tanh: the published form,
    which says nothing about pairs that are far in the wrong order."""
    needles: float = 0.1
    """Weight of how far, as a logarithm, each Gaussian's longest axis is over four times its second: a needle that one
    camera sees end on is a spike for all others."""
    opacity: float = 0.0
    """Weight of the mean opacity: drops Gaussians that nothing needs."""
    scale: float = 0.0
    """Weight of the mean scale, relative to the object's half size: keeps Gaussians small."""
    exposure: bool = False
    """Find a brightness for each frame and channel, for cameras that adapt theirs; means over the clip stay."""
    flatten: float = 0.0
    """Weight of each Gaussian's smallest scale, relative to the object's half size."""
    field: float = 1.0
    """Weight of the field's own terms (correspondences, isometry, silhouettes) during co-training."""
    field_every: int = 4
    """The field's own terms are evaluated at every n-th step, n times as strongly."""
    random_background: bool = True
    """Draw a new background colour at each step, so that the object does not become transparent."""
    densify_from: float = 0.1
    """Share of the steps before the first densification."""
    densify_until: float = 0.6
    """Share of the steps after the last one."""
    densify_every: int = 100
    """Steps between two densifications."""
    densify_share: float = 0.08
    """Share of the Gaussians, those with the strongest screen-space gradients, that is split each time."""
    prune_opacity: float = 0.02
    """Gaussians below this opacity are dropped."""
    margin: int = 12
    """Pixels round the object that are drawn and compared at each step."""
    checkpoint_seconds: float = 20.0
    """How often training saves its state, so that a killed run goes on from there."""

    @property
    def begin(self) -> int:
        """Gaussians to begin with."""
        return min(self.initial, self.maximum)

    def __post_init__(self) -> None:
        if not 0 <= self.sh_degree <= 3:
            raise ValueError(f"gaussians.sh_degree must be 0, 1, 2 or 3, not {self.sh_degree}")
        for name in ("initial", "maximum", "densify_every", "field_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"gaussians.{name} must be at least 1, not {getattr(self, name)}")
        weights = "l1 ssim silhouette depth depth_order flatten needles opacity scale field"
        for name in ("steps", "margin", *weights.split()):
            if getattr(self, name) < 0:
                raise ValueError(f"gaussians.{name} must not be negative, but is {getattr(self, name)}")
        for name in ("densify_from", "densify_until", "densify_share", "prune_opacity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"gaussians.{name} must be between 0 and 1, not {getattr(self, name)}")
