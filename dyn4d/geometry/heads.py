"""The heads of a pair network: tokens → points, confidences and descriptors for every pixel.

The dense prediction transformer is that of Ranftl et al. 2021; the ranges of the outputs are those of DUSt3R (Wang et
al. 2024) and MASt3R (Leroy et al. 2024). Modules are named so that their state dicts have the keys of the published
checkpoints. Token lists: entry 0 is the encoder's output, entry n that of the n-th decoder block, each (B, N, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyn4d.geometry.network_config import Mode, PairNetworkConfig
from dyn4d.geometry.transformer import Mlp

LEAST_LENGTH = 1e-8  # of a vector that is divided by its length


@dataclass(frozen=True)
class ViewPrediction:
    """What a head says of B pictures: points (B, H, W, 3), conf (B, H, W); descriptors (B, H, W, D) and their
    confidence (B, H, W), or None."""

    points: Tensor
    conf: Tensor
    desc: Tensor | None
    desc_conf: Tensor | None

    def rows(self, which: slice) -> ViewPrediction:
        """Some of the B pictures."""
        desc = None if self.desc is None else self.desc[which]
        desc_conf = None if self.desc_conf is None else self.desc_conf[which]
        return ViewPrediction(self.points[which], self.conf[which], desc, desc_conf)


# --------------------------------------------------------------------------------- ranges of the outputs


def to_points(raw: Tensor) -> Tensor:
    """Raw vectors (..., 3) → points: the direction is kept, the length r becomes exp(r) - 1."""
    length = raw.norm(dim=-1, keepdim=True)
    return raw / length.clamp_min(LEAST_LENGTH) * torch.expm1(length)


def to_confidence(raw: Tensor, mode: Mode) -> Tensor:
    """Raw numbers → confidences above the least value of the mode."""
    return mode[1] + raw.exp()


def to_descriptors(raw: Tensor) -> Tensor:
    """Raw descriptors (..., D) → unit length. A zero vector stays zero: it matches nothing, and is no NaN."""
    return raw / raw.norm(dim=-1, keepdim=True).clamp_min(LEAST_LENGTH)


def unfold_patches(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Tokens (B, N, C · patch²), channels first within a token, → (B, H, W, C)."""
    rows, columns = grid
    maps = tokens.reshape(len(tokens), rows, columns, -1, patch, patch)
    return maps.permute(0, 1, 4, 2, 5, 3).reshape(len(tokens), rows * patch, columns * patch, -1)


# --------------------------------------------------------------------------------------------- the DPT head


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Double(nn.Module):
    """Twice the size, bilinear, corners on corners."""

    def forward(self, x: Tensor) -> Tensor:
        return _double(x)


class ResidualUnit(nn.Module):
    """x + conv2(relu(conv1(relu x)))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Adds a finer map to a coarser one and doubles the size."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(dim, dim, 1)
        self.resConfUnit1 = ResidualUnit(dim)  # the coarsest map has nothing to add: its unit is never used
        self.resConfUnit2 = ResidualUnit(dim)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        return self.out_conv(_double(self.resConfUnit2(x)))


class Scratch(nn.Module):
    """The part of the DPT head that works on maps of equal width."""

    def __init__(self, layer_dims: Sequence[int], dim: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(width, dim, 3, padding=1, bias=False) for width in layer_dims]
        for number, layer in enumerate(layers, start=1):
            self.add_module(f"layer{number}_rn", layer)
        self.layer_rn = nn.ModuleList(layers)  # the same four again: checkpoints hold both names
        self.refinenet1, self.refinenet2 = Fusion(dim), Fusion(dim)
        self.refinenet3, self.refinenet4 = Fusion(dim), Fusion(dim)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        l1, l2, l3, l4 = (layer(x) for layer, x in zip(self.layer_rn, maps))
        x = self.refinenet4(l4)[..., : l3.shape[-2], : l3.shape[-1]]  # an odd grid was rounded up when halved
        return self.refinenet1(self.refinenet2(self.refinenet3(x, l3), l2), l1)


class DptHead(nn.Module):
    """Four token lists → (B, 4, H, W): three coordinates and a confidence, raw."""

    def __init__(self, config: PairNetworkConfig) -> None:
        super().__init__()
        self.hooks = config.hooks
        sources = (config.enc_embed_dim, *[config.dec_embed_dim] * 3)
        d1, d2, d3, d4 = config.dpt_layer_dims
        feature, (first, last) = config.dpt_feature_dim, config.dpt_head_dims
        self.scratch = Scratch(config.dpt_layer_dims, feature)
        self.head = nn.Sequential(
            nn.Conv2d(feature, first, 3, padding=1),
            Double(),
            nn.Conv2d(first, last, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(last, 4, 1),
        )
        self.act_postprocess = nn.ModuleList([
            nn.Sequential(nn.Conv2d(sources[0], d1, 1), nn.ConvTranspose2d(d1, d1, 4, stride=4)),
            nn.Sequential(nn.Conv2d(sources[1], d2, 1), nn.ConvTranspose2d(d2, d2, 2, stride=2)),
            nn.Sequential(nn.Conv2d(sources[2], d3, 1)),
            nn.Sequential(nn.Conv2d(sources[3], d4, 1), nn.Conv2d(d4, d4, 3, stride=2, padding=1)),
        ])  # fmt: skip

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        maps = [
            reassemble(tokens[hook].transpose(1, 2).unflatten(-1, grid))
            for hook, reassemble in zip(self.hooks, self.act_postprocess)
        ]
        return self.head(self.scratch(maps))


# ------------------------------------------------------------------------------ heads of the published models


class LinearPointHead(nn.Module):
    """DUSt3R's smallest head: one linear layer on the last tokens."""

    def __init__(self, config: PairNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.proj = nn.Linear(config.dec_embed_dim, 4 * config.patch_size**2)

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> ViewPrediction:
        raw = unfold_patches(self.proj(tokens[-1]), grid, self.config.patch_size)
        return ViewPrediction(to_points(raw[..., :3]), to_confidence(raw[..., 3], self.config.conf_mode), None, None)


class DptPointHead(nn.Module):
    """DUSt3R's DPT head, and with descriptors MASt3R's, where an MLP on the first and last tokens makes them."""

    def __init__(self, config: PairNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.dpt = DptHead(config)
        if config.desc_dim:
            dim = config.enc_embed_dim + config.dec_embed_dim
            channels = config.desc_dim + int(config.two_confs)
            self.head_local_features = Mlp(dim, round(4 * dim), channels * config.patch_size**2)

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> ViewPrediction:
        config = self.config
        raw = self.dpt(tokens, grid).permute(0, 2, 3, 1)
        points, conf = to_points(raw[..., :3]), to_confidence(raw[..., 3], config.conf_mode)
        if not config.desc_dim:
            return ViewPrediction(points, conf, None, None)
        both = torch.cat([tokens[0], tokens[-1]], dim=-1)
        local = unfold_patches(self.head_local_features(both), grid, config.patch_size)
        # Without a confidence of their own, descriptors are as sure as the points of their pixels.
        desc_conf = to_confidence(local[..., -1], config.desc_conf_mode) if config.two_confs else conf
        return ViewPrediction(points, conf, to_descriptors(local[..., : config.desc_dim]), desc_conf)


def make_head(config: PairNetworkConfig) -> LinearPointHead | DptPointHead:
    """One of the two heads of a network."""
    return LinearPointHead(config) if config.head_type == "linear" else DptPointHead(config)
