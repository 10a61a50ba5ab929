"""The training of a small R2D2, step by step: two kinds of steps in turn, and a state to go on from.

Everything follows from the settings: pairs by their number, weights by the seed. Stopped and gone on with, a training
on one device and number of threads gives the same weights, bit for bit, as an unbroken one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.errors import InputError, RunError
from dyn4d.io.checkpoint import load_tensors, optimiser_tensors, restore_optimiser, save_tensors
from dyn4d.matching.r2d2_losses import average_precision, peakiness_loss, reliability_loss, similarity_loss
from dyn4d.matching.r2d2_network import GRID_START, GRID_STEP, R2D2Network, RawMaps, normalise
from dyn4d.matching.r2d2_sampling import MapPair, Samples, SubSampler
from dyn4d.matching.r2d2_warp import warp
from dyn4d.matching.r2d2_weights import load_r2d2
from dyn4d.training.config import MatcherTraining, PairConfig
from dyn4d.training.r2d2_data import TrainingPair

STATE = "dyn4d-r2d2-training/1"
BORDER = 16  # pixels of a crop's rim from which no query is taken: the network sees the edge there
GRID_SAMPLER = SubSampler(4, 2, BORDER // GRID_STEP, whole_batch=True)  # queries every 16th pixel, database every 8th
DENSE_SAMPLER = SubSampler(8, 4, BORDER, whole_batch=True)


@dataclass(frozen=True)
class Batch:
    """B pairs as the network takes them: images (B, 3, S, S), normalised; aflow (B, 2, S, S)."""

    a: Tensor
    b: Tensor
    aflow: Tensor


def to_batch(pairs: list[TrainingPair]) -> Batch:
    a, b = (
        torch.from_numpy(np.stack([getattr(pair, side) for pair in pairs])).permute(0, 3, 1, 2).float() / 255
        for side in ("a", "b")
    )
    aflow = torch.from_numpy(np.stack([pair.aflow for pair in pairs])).permute(0, 3, 1, 2).contiguous()
    return Batch(normalise(a), normalise(b), aflow)


def _both(network: Callable[[Tensor], RawMaps], batch: Batch) -> tuple[RawMaps, RawMaps]:
    """One pass for both pictures, so that the norms see both."""
    images = torch.cat([batch.a, batch.b]).contiguous(memory_format=torch.channels_last)
    count = len(batch.a)
    maps = network(images)
    return RawMaps(*(m[:count] for m in maps)), RawMaps(*(m[count:] for m in maps))


def _paired(a: RawMaps, b: RawMaps, aflow: Tensor, step: int, start: int) -> tuple[MapPair, Tensor]:
    """The maps of b warped onto a, and its repeatability. Descriptors between pixels are made unit length again."""
    moved, valid = warp(torch.cat([*b], dim=1), aflow, step=step, start=start)
    features, reliability, repeatability = moved.split([b.features.shape[1], 1, 1], dim=1)
    desc_b = RawMaps(features, reliability, repeatability).descriptors()
    return MapPair(a.descriptors(), desc_b, a.reliability, reliability, valid), repeatability


def grid_samples(network: R2D2Network, batch: Batch) -> Samples:
    """Queries and database of a step that looks at every fourth pixel alone."""
    a, b = _both(network.forward_grid, batch)
    aflow = batch.aflow[..., GRID_START::GRID_STEP, GRID_START::GRID_STEP]
    return GRID_SAMPLER(_paired(a, b, aflow, GRID_STEP, GRID_START)[0])


def dense_losses(network: R2D2Network, batch: Batch, *, kappa: float, plain: float, patch: int) -> dict[str, Tensor]:
    """The losses of R2D2 by name, on all pixels."""
    a, b = _both(network, batch)
    maps, moved = _paired(a, b, batch.aflow, 1, 0)
    peaky = (peakiness_loss(a.repeatability, patch=patch) + peakiness_loss(b.repeatability, patch=patch)) / 2
    return {
        "reliability": reliability_loss(DENSE_SAMPLER(maps), kappa=kappa, plain=plain),
        "similarity": similarity_loss(a.repeatability, moved, maps.valid, patch=patch),
        "peakiness": peaky,
    }


class MatcherTrainer:
    """A training at some step.

    Attributes:
        config: its settings. source: makes pair number i with crops of side s. network: being trained. step: steps
            done. pairs: pairs seen.
    """

    def __init__(self, config: MatcherTraining, source: Callable[[int, int], TrainingPair] | None) -> None:
        self.config, self.source = config, source
        generator_state = torch.random.get_rng_state()
        torch.manual_seed(config.seed)
        network = R2D2Network(config.widths)
        torch.random.set_rng_state(generator_state)
        self.network = network.to(memory_format=torch.channels_last).train()  # pyright: ignore
        self._named = dict(self.network.named_parameters())
        self._adam = torch.optim.Adam(
            self._named.values(), lr=config.rate, weight_decay=config.weight_decay
        )  # fmt: skip
        self.step = self.pairs = 0

    @property
    def done(self) -> bool:
        return self.pairs >= self.config.pairs

    def start_from(self, file: Path) -> None:
        """Weights of an earlier training in place of random ones. Raises `InputError` where they are of other widths,
        or cannot be read."""
        network = load_r2d2(file).network
        if network.widths != tuple(self.config.widths):
            raise InputError(f"{file} has the widths {network.widths}; give them as --training.widths, or another file")
        self.network.load_state_dict(network.state_dict())

    def rate(self) -> float:
        """The learning rate now: up in a line, down along half a cosine."""
        config = self.config
        up = min((self.pairs + config.batch) / max(config.warmup, 1), 1.0)
        return config.rate * up * (0.5 + 0.5 * math.cos(math.pi * min(self.pairs / config.pairs, 1.0)))

    def kappa(self) -> float:
        config = self.config
        share = self.pairs / config.pairs
        return config.kappa * (min(share / config.kappa_warmup, 1.0) if config.kappa_warmup > 0 else 1.0)

    def train_step(self) -> dict[str, float]:
        """One step; what it measured, by name."""
        config = self.config
        if self.source is None:
            raise ValueError("source: there is none to train from")
        dense = self.step % config.dense_every == config.dense_every - 1
        count, size = (config.dense_batch, config.dense_crop) if dense else (config.batch, config.crop)
        kappa, rate = self.kappa(), self.rate()
        batch = to_batch([self.source(self.pairs + row, size) for row in range(count)])
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.zero_grad(set_to_none=True)
        out: dict[str, float] = {}
        if dense:
            losses = dense_losses(self.network, batch, kappa=kappa, plain=config.plain, patch=config.patch)
        else:
            samples = grid_samples(self.network, batch)
            losses = {"reliability": reliability_loss(samples, kappa=kappa, plain=config.plain)}
            out.update(_figures(samples))
        total = torch.stack(list(losses.values())).sum()
        if not bool(torch.isfinite(total)):
            raise RunError(
                f"the training broke down at step {self.step}: the loss is {float(total.detach())}; lower --rate"
            )
        total.backward()
        self._adam.step()
        self.step += 1
        self.pairs += count
        out.update({name: float(value.detach()) for name, value in losses.items()})
        return {"step": self.step, "pairs": self.pairs, "dense": float(dense), "rate": rate, "kappa": kappa, **out}

    def state(self) -> dict[str, Tensor]:
        tensors = {f"network|{name}": value for name, value in self.network.state_dict().items()}
        return {**tensors, **optimiser_tensors("all", self._adam, self._named)}

    def save(self, file: Path) -> None:
        """What `resume` goes on from."""
        save_tensors(file, self.state(), {"training": asdict(self.config), "step": self.step, "pairs": self.pairs},
                     STATE)  # fmt: skip

    def resume(self, file: Path) -> None:
        """Put back what `save` wrote. Raises `InputError` where the file is none, or of other settings."""
        saved = load_tensors(file, STATE)
        mine, theirs = (json.loads(json.dumps(c)) for c in (asdict(self.config), saved.config.get("training", {})))
        ignored = {"save_every"}
        other = [k for k in {*mine, *theirs} - ignored if mine.get(k) != theirs.get(k)]
        if other:
            names = ", ".join(sorted(other))
            raise InputError(
                f"{file} is of a training with another {names}; give the same options, or --overwrite to start anew"
            )
        prefix = "network|"
        own = {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}
        self.network.load_state_dict(own)
        for parameter in self._named.values():  # Adam makes its tensors at its first step
            self._adam.state[parameter] = {}
        restore_optimiser("all", self._adam, self._named, saved.tensors)
        self.step, self.pairs = int(saved.config["step"]), int(saved.config["pairs"])


def _figures(samples: Samples) -> dict[str, float]:
    """How well the queries of a step find their partners."""
    with torch.no_grad():
        known = samples.known
        scores = torch.where(samples.usable, samples.scores, samples.scores.new_tensor(-2.0))
        hit = (scores.argmax(1) == samples.partner)[known].float().mean()
        precision = average_precision(samples.scores, samples.partner, samples.usable)[known].mean()
        return {"ap": float(precision), "hit": float(hit), "trust": float(samples.reliability[known].mean())}


def saved_config(file: Path) -> MatcherTraining:
    """The settings of the training that a state is of. Raises `InputError` where it is none."""
    values: Any = load_tensors(file, STATE).config.get("training")
    try:
        plain: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        data: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.pop("data").items()}
        return MatcherTraining(**plain, data=PairConfig(**data))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(f"{file} is of a training of another version of dyn4d ({error}); start anew") from error
