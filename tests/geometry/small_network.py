"""A pair network small enough for tests, and random pictures for it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from dyn4d.geometry.network import PairNetwork
from dyn4d.geometry.network_config import PairNetworkConfig
from dyn4d.geometry.weights import random_weights

SMALL = PairNetworkConfig(
    head_type="catmlp+dpt", desc_dim=8, two_confs=True, enc_embed_dim=32, enc_depth=2, enc_num_heads=2,
    dec_embed_dim=24, dec_depth=4, dec_num_heads=3, img_size=(64, 64), dpt_layer_dims=(8, 12, 16, 20),
    dpt_feature_dim=16, dpt_head_dims=(8, 6),
)  # fmt: skip
SMALL_DUST3R = PairNetworkConfig(
    head_type="linear", enc_embed_dim=16, enc_depth=1, enc_num_heads=2, dec_embed_dim=8, dec_depth=2, dec_num_heads=1,
    img_size=(64, 64),
)  # fmt: skip
SMALL_DPT = replace(
    SMALL_DUST3R, head_type="dpt", dec_depth=3, dpt_layer_dims=(8, 12, 16, 20), dpt_feature_dim=16, dpt_head_dims=(8, 6)
)


@cache
def small_network(config: PairNetworkConfig = SMALL, seed: int = 0) -> PairNetwork:
    """Tests share it: they read it only."""
    network = PairNetwork(config)
    network.load_state_dict(random_weights(config, seed))
    return network


def picture(height: int, width: int, seed: int = 0, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
