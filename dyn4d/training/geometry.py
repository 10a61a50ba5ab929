"""The training of a small masked pair network, step by step, and a state to go on from.

Everything follows from the settings: samples by their number, weights by the seed. Stopped and gone on with, a training
on one device and number of threads gives the same weights, bit for bit, as an unbroken one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyn4d.core.errors import InputError, RunError
from dyn4d.core.types import PairPrediction
from dyn4d.geometry.masked_network import MaskedPairNetwork
from dyn4d.geometry.network_config import PairNetworkConfig
from dyn4d.geometry.own_weights import save_own_weights
from dyn4d.geometry.pair_losses import (
    PixelLosses,
    confidence_loss,
    matching_loss,
    pointmap_regression,
)
from dyn4d.geometry.weights import load_pair_network
from dyn4d.io.checkpoint import load_tensors, optimiser_tensors, restore_optimiser, save_tensors
from dyn4d.training.depth_losses import depth_loss, relief_loss, relief_weight
from dyn4d.training.geometry_batch import Batch, to_batch, to_views
from dyn4d.training.geometry_config import GeometryTraining, NetworkSizes, ObjectPairs
from dyn4d.training.geometry_data import GeometrySample
from dyn4d.training.muon import Muon
from dyn4d.training.single_views import Echo, earliest, single_losses

STATE = "dyn4d-geometry-training/1"
ENDS = ("stem.to_half", "head.to_shape", "head.local.out", "head.vote.3")  # layers that touch inputs and answers
FREE = ("samples", "save_every", "workers", "evaluate_every", "held_out")  # what may change on the way


def network_config(sizes: NetworkSizes, size: int) -> PairNetworkConfig:
    return PairNetworkConfig(
        head_type="rays", desc_dim=sizes.descriptor, two_confs=True, enc_embed_dim=sizes.width,
        enc_depth=sizes.encoder, enc_num_heads=sizes.heads, dec_embed_dim=sizes.width, dec_depth=sizes.decoder,
        dec_num_heads=sizes.heads, img_size=(size, size), stem=sizes.stem, stem_units=sizes.units,
        fusion_dim=sizes.fusion,
    )  # fmt: skip


def predict(network: MaskedPairNetwork, batch: Batch) -> tuple[PairPrediction, PairPrediction]:
    """What the network says of the pairs (a, b) and (b, a), every picture encoded once."""
    encoded = network.encode(batch.images, batch.hints)
    count = len(encoded) // 2
    return network.predict_symmetric(encoded.rows(slice(0, count)), encoded.rows(slice(count, None)))


def geometry_losses(
    predictions: tuple[PairPrediction, PairPrediction], batch: Batch, config: GeometryTraining, temperature: float
) -> dict[str, Tensor]:
    """Losses by name: MASt3R's, with distances counted in sizes of the object rather than distances from the camera."""
    points = relief = depth = distance = torch.zeros((), device=batch.images.device)
    matches = matching_loss(predictions[0], batch.matches, temperature=temperature)  # turned, it is the same
    for said, truth in zip(predictions, (batch.there, batch.back)):
        weight = relief_weight(truth.points_a, truth.valid_a)[:, None, None]
        plain = pointmap_regression(said, truth)
        losses = PixelLosses(plain[0].value * weight, plain[0].counted), PixelLosses(plain[1].value * weight,
                                                                                     plain[1].counted)  # fmt: skip
        points = points + confidence_loss(said, losses, alpha=config.alpha) / 2
        z = said.points_a[..., 2], truth.points_a[..., 2], truth.valid_a, weight
        relief = relief + relief_loss(*z) / 2
        if config.depth_weight > 0:
            depth = depth + depth_loss(*z) / 2
        distance = distance + (losses[0].mean() + losses[1].mean()).detach() / 4
    return {"points": config.points_weight * points, "matches": config.match_weight * matches,
            "relief": config.relief_weight * relief, "depth": config.depth_weight * depth,
            "distance": distance}  # fmt: skip


class GeometryTrainer:
    """A training at some step.

    Attributes:
        config: its settings. source: makes sample number i. network: being trained. average: its moving average, by
            name. step: steps done. samples: samples seen.
    """

    def __init__(
        self, config: GeometryTraining, source: Callable[[int], GeometrySample] | None,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.config, self.source, self.device = config, source, torch.device(device)
        before = torch.random.get_rng_state()
        torch.manual_seed(config.seed)
        network = MaskedPairNetwork(network_config(config.network, config.data.size))
        torch.random.set_rng_state(before)
        network.head.local.teaches = config.match_share
        self.network = network.to(self.device).requires_grad_(True).train()
        self._named = dict(self.network.named_parameters())
        self.average = {name: value.detach().clone() for name, value in self._named.items()}
        hidden = {name: p for name, p in self._named.items() if p.dim() > 1 and not name.startswith(ENDS)}
        rest = [p for name, p in self._named.items() if name not in hidden]
        self._optimisers: dict[str, torch.optim.Optimizer] = {
            "hidden": Muon(hidden.values(), config.matrix_rate, decay=config.weight_decay),
            "rest": torch.optim.AdamW(rest, lr=config.rate, betas=(0.9, 0.95), weight_decay=0.0),
        }
        self._highest = {"hidden": config.matrix_rate, "rest": config.rate}
        self.step = self.samples = 0
        self._echo: Echo | None = None  # while single views are learnt

    def start_from(self, file: Path) -> None:
        """Weights of an earlier training in place of random ones. Raises `InputError` where they are of other sizes, or
        cannot be read."""
        earlier = load_pair_network(file, self.device)
        mine, theirs = (replace(n.config, img_size=(0, 0)) for n in (self.network, earlier))
        if mine != theirs:
            raise InputError(f"{file} is of a network of other sizes; give them as --training.network, or another file")
        self.network.load_state_dict(earlier.state_dict())
        self.average = {name: value.detach().clone() for name, value in self._named.items()}

    @property
    def done(self) -> bool:
        return self.samples >= self.config.samples

    @property
    def next_sample(self) -> int:
        """Number of the first sample that it asks its source for."""
        return earliest(self.samples, self.config.echo) if self.samples < self.config.alone_samples else self.samples

    def pace(self) -> float:
        """The learning rate now over its highest: up in a line, down along half a cosine."""
        config = self.config
        up = min((self.samples + config.batch) / max(config.warmup, 1), 1.0)
        return up * (0.5 + 0.5 * math.cos(math.pi * min(self.samples / config.samples, 1.0)))

    def temperature(self) -> float:
        """Of the descriptors' loss now."""
        (first, last), begin = self.config.temperature, self.config.alone_samples
        cooling = self.config.cooling * (self.config.samples - begin)
        share = min(max(self.samples - begin, 0) / cooling, 1.0) if cooling > 0 else 1.0
        return float(first * (last / first) ** share)

    def _broke_down(self, loss: str) -> RunError:
        return RunError(
            f"the training broke down at step {self.step}: the loss is {loss}; lower --training.matrix-rate and "
            "--training.rate, or start from an earlier state"
        )

    def train_step(self) -> dict[str, float]:
        """One step; what it measured, by name."""
        config = self.config
        if self.source is None:
            raise ValueError("source: there is none to train from")
        pace = self.pace()
        for name, optimiser in self._optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = pace * self._highest[name]
            optimiser.zero_grad(set_to_none=True)
        try:
            losses = self._losses(self.source)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]  some refuse NaN
            raise self._broke_down("no number") from error
        total = losses["points"] + losses["matches"] + losses["relief"] + losses["depth"]
        if not bool(torch.isfinite(total)):
            raise self._broke_down(str(float(total.detach())))
        total.backward()
        length = torch.nn.utils.clip_grad_norm_(list(self._named.values()), config.clip)
        for optimiser in self._optimisers.values():
            optimiser.step()
        self.step += 1
        self.samples += config.batch
        self._follow()
        figures = {name: float(value.detach()) for name, value in losses.items()}
        head = {
            "step": self.step,
            "samples": self.samples,
            "rate": pace * config.rate,
            "gradient": float(length),
            "loss": float(total.detach()),
        }
        return {**head, **figures}

    def _losses(self, source: Callable[[int], GeometrySample]) -> dict[str, Tensor]:
        """Of the next samples. The network may be in half precision, losses are not."""
        config = self.config
        low = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        if self.samples < config.alone_samples:
            if self._echo is None:
                self._echo = Echo(source, self.samples, config.echo)
            views = to_views(self._echo.batch(config.batch)).to(self.device)
            with low:
                depth = self.network.depth_alone(views.images, views.hints)
            return single_losses(depth, views, config)
        self._echo = None
        samples = [source(row) for row in range(self.samples, self.samples + config.batch)]
        batch = to_batch(samples, config.data.matches, self.samples).to(self.device)
        with low:
            predictions = predict(self.network, batch)
        return geometry_losses(predictions, batch, config, self.temperature())

    @torch.no_grad()
    def _follow(self) -> None:
        stays = min(self.config.average, self.step / (self.step + 9))
        for name, value in self._named.items():
            self.average[name].lerp_(value, 1 - stays)

    def averaged(self) -> MaskedPairNetwork:
        """A network with the averaged weights, for inference."""
        network = MaskedPairNetwork(self.network.config)
        network.load_state_dict(self.average)
        return network.to(self.device)

    def save(self, file: Path) -> None:
        """What `resume` goes on from."""
        tensors = {f"network|{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average|{name}": value for name, value in self.average.items()}
        for name, optimiser in self._optimisers.items():
            tensors |= optimiser_tensors(name, optimiser, self._named)
        head = {"training": asdict(self.config), "step": self.step, "samples": self.samples}
        save_tensors(file, tensors, head, STATE)

    def save_weights(self, file: Path, figures: dict[str, float] | None = None) -> None:
        """The averaged weights, as they are shipped; `figures`: what they were last measured at."""
        about = {"samples": self.samples, "training": asdict(self.config), "metrics": figures or {}}
        save_own_weights(file, self.network.config, self.average, about)

    def resume(self, file: Path) -> None:
        """Put back what `save` wrote. Raises `InputError` where the file is none, or of other settings."""
        saved = load_tensors(file, STATE)
        mine, theirs = (json.loads(json.dumps(c)) for c in (asdict(self.config), saved.config.get("training", {})))
        other = [k for k in {*mine, *theirs} - set(FREE) if mine.get(k) != theirs.get(k)]
        if other:
            raise InputError(
                f"{file} is of a training with another {', '.join(sorted(other))}; give the same options, or "
                "--overwrite to start anew"
            )
        for prefix, target in (("network|", self.network.state_dict()), ("average|", self.average)):
            for name, value in target.items():
                value.copy_(saved.tensors[prefix + name])
        for name, optimiser in self._optimisers.items():
            for group in optimiser.param_groups:  # which makes its tensors at its first step
                for parameter in group["params"]:
                    optimiser.state[parameter] = {}
            restore_optimiser(name, optimiser, self._named, saved.tensors)
        self.step, self.samples = int(saved.config["step"]), int(saved.config["samples"])


def saved_config(file: Path) -> GeometryTraining:
    """The settings of the training that a state is of. Raises `InputError` where it is none."""
    values: Any = load_tensors(file, STATE).config.get("training")

    def plain(mapping: dict[str, Any]) -> dict[str, Any]:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in mapping.items()}

    try:
        parts = plain(values)
        network, data = NetworkSizes(**plain(parts.pop("network"))), ObjectPairs(**plain(parts.pop("data")))
        return GeometryTraining(**parts, network=network, data=data)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(f"{file} is of a training of another version of dyn4d ({error}); start anew") from error
