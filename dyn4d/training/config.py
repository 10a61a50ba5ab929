"""Settings of the training of a small R2D2. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PairConfig:
    """How pairs of pictures are made. Lengths are pixels of the crops."""

    textures: int = 300
    """Procedural pictures that pairs are cut from, at least 1."""
    frames: int = 96
    """Frames of dyn4d's own synthetic scenes that pairs are cut from."""
    picture: int = 384
    """Side of those pictures in pixels, at least 64."""
    zoom: tuple[float, float] = (0.7, 1.5)
    """Scale of the first crop, as pixels of the picture for one of the crop."""
    scale: tuple[float, float] = (0.6, 1.6)
    """Scale between the crops."""
    rotation: float = 40.0
    """Rotation between the crops, at most, in degrees."""
    perspective: float = 0.25
    """How far the corners of a crop move at most, as a share of half its side."""
    elastic: float = 2.5
    """Amplitude of the smooth waves that bend the first crop, at most."""
    layers: float = 0.35
    """Share of the pairs in which something in front moves otherwise than what is behind it."""
    photometric: float = 1.0
    """Strength of the changes of light, colour, blur and noise; 0 = none."""

    def __post_init__(self) -> None:
        for name, least in (("textures", 1), ("frames", 0), ("picture", 64)):
            if getattr(self, name) < least:
                raise ValueError(f"pairs.{name}: {getattr(self, name)}; wanted at least {least}")
        for name in ("zoom", "scale"):
            low, high = getattr(self, name)
            if not 0.1 <= low <= high <= 10:
                raise ValueError(f"pairs.{name}: {low}, {high}; wanted two numbers from 0.1 to 10, the smaller first")
        for name, most in (("rotation", 180.0), ("perspective", 0.5), ("elastic", 5.0), ("layers", 1.0),
                           ("photometric", 2.0)):  # fmt: skip
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"pairs.{name}: {getattr(self, name)}; wanted a number from 0 to {most:g}")


@dataclass(frozen=True)
class MatcherTraining:
    """How a small R2D2 is trained.

    Two kinds of steps take turns. Most train descriptors and their reliability on every fourth pixel of large crops,
    which costs a tenth (`R2D2Network.forward_grid`); every `dense_every`-th trains everything on all pixels of small
    ones.
    """

    pairs: int = 7_500
    """Pairs of pictures in the whole training; the learning rate falls to nothing over them."""
    seed: int = 0
    """Of the first weights and of all pairs."""
    widths: tuple[int, ...] = (16, 16, 32, 32, 64, 64, 64, 64, 128)
    """Channels after each convolution; the last number is that of the descriptors."""
    batch: int = 8
    """Pairs in a step on the grid."""
    crop: int = 160
    """Side of its crops in pixels, a multiple of 4."""
    dense_batch: int = 4
    """Pairs in a dense step."""
    dense_crop: int = 96
    """Side of its crops."""
    dense_every: int = 5
    """Every how many steps one is dense."""
    rate: float = 2e-3
    """Learning rate at its highest."""
    warmup: int = 400
    """Pairs over which the learning rate rises."""
    weight_decay: float = 1e-4
    """Of Adam."""
    kappa: float = 0.3
    """Average precision from which claiming reliability pays."""
    kappa_warmup: float = 0.3
    """Share of the training over which kappa rises from 0."""
    plain: float = 0.5
    """Share of the loss in which reliability plays no part: descriptors that are still bad are trained all the same."""
    patch: int = 12
    """Side of the patches in which keypoints are to be peaks."""
    save_every: float = 120.0
    """Seconds between checkpoints."""
    data: PairConfig = PairConfig()
    """How the pairs are made."""

    def __post_init__(self) -> None:
        for name, least in (("pairs", 1), ("batch", 1), ("crop", 64), ("dense_batch", 1), ("dense_crop", 64),
                            ("dense_every", 1), ("warmup", 0), ("patch", 2)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"training.{name}: {getattr(self, name)}; wanted at least {least}")
        for name in ("crop", "dense_crop"):
            if getattr(self, name) % 4:
                raise ValueError(f"training.{name}: {getattr(self, name)}; wanted a multiple of 4")
        if len(self.widths) != 9 or min(self.widths) < 1:
            raise ValueError(f"training.widths: {self.widths}; wanted 9 numbers from 1")
        if not 0 < self.rate < 1:
            raise ValueError(f"training.rate: {self.rate}; wanted a number between 0 and 1")
        for name in ("kappa", "kappa_warmup", "plain", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"training.{name}: {getattr(self, name)}; wanted a number from 0 to 1")
        if self.save_every < 0:
            raise ValueError(f"training.save_every: {self.save_every}; wanted seconds from 0")
