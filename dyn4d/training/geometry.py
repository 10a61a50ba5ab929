"""The training of a small masked pair network, step by step, and a state to go on from.

Everything follows from the settings: samples by their number, weights by the seed. Stopped and gone on with, a training
on one device and number of threads gives the same weights, bit for bit, as an unbroken one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.errors import InputError, RunError
from dyn4d.core.types import PairPrediction
from dyn4d.geometry.masked_network import MaskedPairNetwork
from dyn4d.geometry.network import ViewHints
from dyn4d.geometry.network_config import PairNetworkConfig
from dyn4d.geometry.own_weights import save_own_weights
from dyn4d.geometry.pair_losses import (
    MatchTargets,
    PairTruth,
    PixelLosses,
    confidence_loss,
    matching_loss,
    pointmap_regression,
)
from dyn4d.geometry.weights import load_pair_network
from dyn4d.io.checkpoint import adam_tensors, load_tensors, restore_adam, save_tensors
from dyn4d.training.depth_losses import depth_loss, relief_loss
from dyn4d.training.geometry_config import GeometryTraining, NetworkSizes, ObjectPairs
from dyn4d.training.geometry_data import GeometrySample
from dyn4d.training.muon import Muon
from dyn4d.training.single_views import (
    Echo,
    camera_points,
    earliest,
    relief_weight,
    sample_hints,
    single_losses,
    to_views,
)

STATE = "dyn4d-geometry-training/1"
ENDS = ("stem.to_half", "head.to_shape", "head.local.out", "head.vote.3")  # layers that touch inputs and answers
FREE = ("samples", "save_every", "workers", "evaluate_every", "held_out")  # what may change on the way


@dataclass(frozen=True)
class Batch:
    """B samples as the network takes them: first all first views, then all second ones.

    Attributes:
        images: (2 B, 3, S, S) in [0, 1]. hints: of all. there, back: the truth of the pairs (a, b) and (b, a).
        matches: from a to b.
    """

    images: Tensor
    hints: ViewHints
    there: PairTruth
    back: PairTruth
    matches: MatchTargets

    def to(self, device: torch.device) -> Batch:
        def moved(value: Any) -> Any:
            names = value.__dataclass_fields__
            parts = {name: getattr(value, name) for name in names}
            return replace(value, **{k: v.to(device) for k, v in parts.items() if isinstance(v, Tensor)})

        return Batch(self.images.to(device), *(moved(getattr(self, n)) for n in ("hints", "there", "back", "matches")))


def network_config(sizes: NetworkSizes, size: int) -> PairNetworkConfig:
    return PairNetworkConfig(
        head_type="rays", desc_dim=sizes.descriptor, two_confs=True, enc_embed_dim=sizes.width,
        enc_depth=sizes.encoder, enc_num_heads=sizes.heads, dec_embed_dim=sizes.width, dec_depth=sizes.decoder,
        dec_num_heads=sizes.heads, img_size=(size, size), stem=sizes.stem, stem_units=sizes.units,
        fusion_dim=sizes.fusion,
    )  # fmt: skip


def to_batch(samples: Sequence[GeometrySample], matches: int, first: int) -> Batch:
    """Args: matches: pairs of pixels of each sample. first: number of the first sample, which draws these pairs."""
    sides: dict[str, list[np.ndarray]] = {"a": [], "b": [], "b_in_a": [], "a_in_b": []}
    xy_a, xy_b, valid = (np.zeros((len(samples), matches, *tail), kind) for tail, kind in
                         (((2,), np.int64), ((2,), np.int64), ((), np.bool_)))  # fmt: skip
    for row, sample in enumerate(samples):
        a, b = (camera_points(d, K) for d, K in zip(sample.depth.astype(np.float64), sample.K))
        to_a, to_b = sample.a_from_b, np.linalg.inv(sample.a_from_b)
        for name, points in (("a", a), ("b", b), ("b_in_a", b @ to_a[:3, :3].T + to_a[:3, 3]),
                             ("a_in_b", a @ to_b[:3, :3].T + to_b[:3, 3])):  # fmt: skip
            sides[name].append(points.astype(np.float32))
        ya, xa, at = matched_pixels(sample, matches, np.random.default_rng([first + row, 47]))
        count = len(at)
        xy_a[row, :count], xy_b[row, :count], valid[row, :count] = np.stack([xa, ya], 1), at, True
    a, b, b_in_a, a_in_b = (torch.from_numpy(np.stack(sides[name])) for name in ("a", "b", "b_in_a", "a_in_b"))
    mask_a, mask_b = (torch.from_numpy(np.stack([s.mask[side] for s in samples])) for side in (0, 1))
    images = np.concatenate([np.stack([s.image[side] for s in samples]) for side in (0, 1)])
    return Batch(
        torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, sample_hints(samples),
        PairTruth(a, b_in_a, mask_a, mask_b), PairTruth(b, a_in_b, mask_b, mask_a),
        MatchTargets(torch.from_numpy(xy_a), torch.from_numpy(xy_b), torch.from_numpy(valid)),
    )  # fmt: skip


def matched_pixels(
    sample: GeometrySample, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns in a and (N, 2) whole pixels (column, row) in b, at most one pair for a pixel of b."""
    ya, xa = np.nonzero(np.isfinite(sample.flow[..., 0]))
    at = np.floor(sample.flow[ya, xa]).astype(np.int64)
    at = at.clip(0, sample.mask.shape[-1] - 1)  # what lies on the very edge may be rounded off the picture
    good = sample.mask[1][at[:, 1], at[:, 0]]
    ya, xa, at = ya[good], xa[good], at[good]
    order = rng.permutation(len(at))
    _, once = np.unique(at[order] @ [1, sample.mask.shape[-1]], return_index=True)
    pick = order[rng.permutation(once)[:most]]
    return ya[pick], xa[pick], at[pick]


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
        low = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        with low:
            if self.samples < config.alone_samples:
                if self._echo is None:
                    self._echo = Echo(self.source, self.samples, config.echo)
                views = to_views(self._echo.batch(config.batch)).to(self.device)
                losses = single_losses(self.network, views, config)
            else:
                self._echo = None
                samples = [self.source(row) for row in range(self.samples, self.samples + config.batch)]
                batch = to_batch(samples, config.data.matches, self.samples).to(self.device)
                losses = geometry_losses(predict(self.network, batch), batch, config, self.temperature())
        total = losses["points"] + losses["matches"] + losses["relief"] + losses["depth"]
        if not bool(torch.isfinite(total)):
            raise RunError(
                f"the training broke down at step {self.step}: the loss is {float(total.detach())}; lower "
                "--training.matrix-rate and --training.rate, or start from an earlier state"
            )
        total.backward()
        length = torch.nn.utils.clip_grad_norm_(list(self._named.values()), config.clip)
        for optimiser in self._optimisers.values():
            optimiser.step()
        self.step += 1
        self.samples += config.batch
        self._follow()
        figures = {name: float(value.detach()) for name, value in losses.items()}
        return {
            "step": self.step,
            "samples": self.samples,
            "rate": pace * config.rate,
            "gradient": float(length),
            **figures,
        }

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
            tensors |= adam_tensors(name, optimiser, self._named)
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
            restore_adam(name, optimiser, self._named, saved.tensors)
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
