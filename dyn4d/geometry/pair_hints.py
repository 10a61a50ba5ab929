"""What a masked network is told of a clip's frames besides their colours, and the views that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import torch

from dyn4d.geometry.masked_network import USUAL_FOCAL
from dyn4d.geometry.network import ViewHints
from dyn4d.geometry.network_config import PairNetworkConfig
from dyn4d.geometry.pair_config import PairConfig
from dyn4d.geometry.pair_results import PairFrame

GRAPH = "swin-2-noncyclic"


def frame_hints(frames: Sequence[PairFrame]) -> ViewHints:
    """Mask and lens of frames of one size; where K is not known, a usual lens and the middle of the picture."""
    focal, centre = torch.zeros(len(frames), 2), torch.zeros(len(frames), 2)
    for row, frame in enumerate(frames):
        if frame.K is not None:
            focal[row], centre[row] = frame.K.diagonal()[:2].float(), frame.K[:2, 2].float()
        else:
            size = torch.tensor(frame.view.source, dtype=torch.float32)
            focal[row] = USUAL_FOCAL * size.max() * torch.tensor(frame.view.scale)
            centre[row] = frame.view.to_view(size / 2)
    mask = torch.from_numpy(np.stack([np.asarray(frame.kept, dtype=bool) for frame in frames]))
    return ViewHints(mask, focal, centre, torch.tensor([frame.K is not None for frame in frames]))


def hints_text(frame: PairFrame) -> str:
    """All that `frame_hints` says of a frame, for names in a cache."""
    hints = frame_hints([frame])
    told = [getattr(hints, f.name).tolist() for f in fields(hints) if f.name != "mask"]
    return f"{told} {np.packbits(frame.kept).tobytes().hex()}"


def suited(network: PairNetworkConfig, config: PairConfig) -> PairConfig:
    """`config` as a network wants it: a masked one looks at squares around the object, of the size that it was trained
    at, and at fewer pairs, as the flow ties the frames; unless something else than the defaults was asked for. (These
    are those of the published networks; to ask for them by name is as not to ask.)"""
    usual = PairConfig()
    if not network.masked:
        return config
    if config.graph == usual.graph:
        config = replace(config, graph=GRAPH)
    if (config.size, config.view) != (usual.size, usual.view):
        return config
    return replace(config, size=max(network.img_size), view="square")
