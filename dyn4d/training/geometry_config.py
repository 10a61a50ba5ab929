"""Settings of the training of a small pair network. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from dyn4d.synthetic.config import PEOPLE


@dataclass(frozen=True)
class ObjectPairs:
    """How pairs of frames are made. Lengths are pixels of the views unless they are said to be shares."""

    size: int = 112
    """Side of the square views in pixels, a multiple of 16."""
    first_size: int = 96
    """The same at first, see `training.growth`: smaller views teach more a second."""
    bodies: int = 3000
    """Bodies that the samples go through, each in many poses, paints and lights."""
    reuse: int = 12
    """About how many samples are made of one body; more is quicker."""
    people: float = PEOPLE
    """Share of the bodies that are people."""
    textures: int = 400
    """Procedural textures that bodies are painted with."""
    turn: float = 40.0
    """How far the camera goes around the object between the two frames, at most, in degrees."""
    focal: tuple[float, float] = (0.7, 2.5)
    """Focal length over the longest side of the picture."""
    margin: tuple[float, float] = (0.04, 0.2)
    """Of the view around the object, on each side, as a share of its box."""
    scenes: float = 0.1
    """Share of the samples that are whole rooms without a mask, in which one body moves."""
    known: float = 0.35
    """Share of the samples whose intrinsics the network is told."""
    photometric: float = 0.7
    """Strength of the changes of light, colour, blur and noise of each frame; 0 = none."""
    matches: int = 640
    """Pairs of pixels of each sample that descriptors are trained on."""

    def __post_init__(self) -> None:
        for name, least in (
            ("size", 32),
            ("first_size", 32),
            ("bodies", 1),
            ("reuse", 1),
            ("textures", 1),
            ("matches", 8),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"training.data.{name}: {getattr(self, name)}; wanted at least {least}")
        for name in ("size", "first_size"):
            if getattr(self, name) % 16:
                raise ValueError(f"training.data.{name}: {getattr(self, name)}; wanted a multiple of 16")
        for name, least, most in (("focal", 0.3, 20.0), ("margin", 0.0, 1.0)):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"training.data.{name}: {low}, {high}; wanted two numbers from {least:g} to {most:g}, the smaller "
                    "first"
                )
        for name, most in (("turn", 90.0), ("scenes", 1.0), ("known", 1.0), ("photometric", 2.0), ("people", 1.0)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"training.data.{name}: {getattr(self, name)}; wanted a number from 0 to {most:g}")


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes of the network; see `PairNetworkConfig`."""

    stem: tuple[int, int, int] = (16, 32, 64)
    """Channels of the convolutions at 1/2, 1/4 and 1/8 of the size."""
    units: tuple[int, int] = (2, 2)
    """Pairs of convolutions at 1/8 and at 1/16 of the size."""
    width: int = 192
    """Of the tokens, in encoder and decoder."""
    encoder: int = 2
    """Blocks of the encoder."""
    decoder: int = 3
    """Blocks of the decoder, which both sides share."""
    heads: int = 3
    """Attention heads."""
    fusion: int = 32
    """Channels of the head at 1/4 of the size."""
    descriptor: int = 24
    """Numbers in a descriptor."""

    def __post_init__(self) -> None:
        for name in ("width", "encoder", "decoder", "heads", "fusion", "descriptor"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.network.{name}: {getattr(self, name)}; wanted at least 1")
        if min(self.stem) < 1:
            raise ValueError(f"training.network.stem: {self.stem}; wanted numbers from 1")
        if self.units[0] < 1 or self.units[1] < 0:
            raise ValueError(f"training.network.units: {self.units}; wanted a number from 1 and one from 0")
        if self.width % (4 * self.heads):
            raise ValueError(
                f"training.network.width: {self.width}; wanted a multiple of four times the attention heads"
            )


@dataclass(frozen=True)
class GeometryTraining:
    """How a small masked pair network is trained.

    A sample is two frames of an object that moves, looked at in both orders.
    """

    samples: int = 22_000
    """Samples in the whole training; the learning rate falls to nothing over them."""
    seed: int = 0
    """Of the first weights and of all samples."""
    batch: int = 4
    """Samples in a step."""
    alone: float = 0.7
    """Share of the training, its beginning, in which single views are learnt by themselves: depth alone, at less
    than half of the time a sample."""
    echo: int = 256
    """In that, samples after which the views of each are shown once more, mirrored; 0 = never. To draw views takes
    longer than to learn from them."""
    growth: float = 0.0
    """Share of the training whose views are of `training.data.first_size`."""
    matrix_rate: float = 0.015
    """Learning rate at its highest, of Muon, which trains all matrices but those of the first and last layers."""
    rate: float = 1e-3
    """The same of AdamW, which trains the rest."""
    warmup: int = 800
    """Samples over which the learning rate rises."""
    weight_decay: float = 0.05
    """Of Muon."""
    clip: float = 1.0
    """Longest gradient, all weights together."""
    average: float = 0.998
    """Of the moving average of the weights, which is what is shipped: the share that stays at each step."""
    alpha: float = 0.2
    """What being sure of a point costs (DUSt3R eq. 4)."""
    points_weight: float = 0.1
    """Of the loss of the points (DUSt3R eq. 4)."""
    match_weight: float = 0.5
    """Of the descriptors' loss beside that of the points (MASt3R, from trained points: 0.075)."""
    relief_weight: float = 2.0
    """Of the loss of the depth's steps from pixel to pixel and beyond, which see an object's shape apart from its
    distance."""
    depth_weight: float = 2.0
    """Of the loss of the depth's logarithm less its mean over the object, every pixel counting alike."""
    match_share: float = 0.0
    """Share of the descriptors' gradient that reaches what they have in common with the shapes. Below 1 they learn from
    what shapes need."""
    temperature: tuple[float, float] = (0.2, 0.05)
    """Of the descriptors' loss, at first and in the end (MASt3R: 0.05). Descriptors that are still bad learn nothing
    from a low one but to be alike."""
    cooling: float = 0.2
    """Share of the training over which the temperature falls."""
    evaluate_every: int = 2000
    """Samples between looks at samples that are never trained on."""
    held_out: int = 64
    """How many of those there are."""
    save_every: float = 300.0
    """Seconds between checkpoints."""
    workers: int = 0
    """Processes that make samples ahead; 0 = they are made between the steps. What they make is the same."""
    network: NetworkSizes = NetworkSizes()
    """Sizes of the network."""
    data: ObjectPairs = ObjectPairs()
    """How the samples are made."""

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("batch", 1), ("warmup", 0), ("echo", 0), ("evaluate_every", 1),
                            ("held_out", 1), ("workers", 0)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"training.{name}: {getattr(self, name)}; wanted at least {least}")
        for name in ("rate", "matrix_rate", "average"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"training.{name}: {getattr(self, name)}; wanted a number between 0 and 1")
        if not 0 < self.temperature[1] <= self.temperature[0] <= 1:
            raise ValueError(
                f"training.temperature: {self.temperature}; wanted two numbers between 0 and 1, the larger first"
            )
        for name in ("alone", "cooling", "growth", "match_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"training.{name}: {getattr(self, name)}; wanted a number from 0 to 1")
        for name in ("weight_decay", "alpha", "points_weight", "match_weight", "relief_weight", "depth_weight",
                     "save_every"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name}: {getattr(self, name)}; wanted a number from 0")
        if self.clip <= 0:
            raise ValueError(f"training.clip: {self.clip}; wanted a number above 0")

    @property
    def small_samples(self) -> int:
        """How many samples, from the first on, have views of `training.data.first_size`: whole steps."""
        return int(self.growth * self.samples) // self.batch * self.batch

    @property
    def alone_samples(self) -> int:
        """How many samples, from the first on, are of single views: whole steps."""
        return int(self.alone * self.samples) // self.batch * self.batch
