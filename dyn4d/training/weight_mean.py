"""The mean of the weights of several trainings that began with the same ones.

Where pictures are of another kind than those of the training, the mean of two such networks is often better than either
(Wortsman et al., "Model soups", ICML 2022, and "Robust fine-tuning of zero-shot models", CVPR 2022: there of the
weights that a training began with and those that it came to).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.geometry.masked_network import MaskedPairNetwork
from dyn4d.geometry.own_weights import save_own_weights
from dyn4d.geometry.weights import load_pair_network
from dyn4d.training.geometry_config import GeometryTraining
from dyn4d.training.geometry_eval import evaluate
from dyn4d.training.geometry_run import held_out_samples


def mean_weights(
    files: Sequence[Path], config: GeometryTraining, out: Path, *, device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, float]:  # fmt: skip
    """Write the mean of some small pair networks' weights, and what it is measured at.

    Args:
        files: weights of networks of the same sizes; one named twice counts twice. config: whose held-out samples the
            mean is measured on. out: the file.

    Returns:
        what `evaluate` says of it.

    Raises:
        InputError: weights that cannot be read, or are of networks of other sizes.
    """
    networks = [load_pair_network(file, device) for file in files]
    sizes = [replace(network.config, img_size=(0, 0)) for network in networks]
    for file, network, size in zip(files, networks, sizes):
        if not isinstance(network, MaskedPairNetwork):
            raise InputError(f"{file} is not of a small pair network of dyn4d; wanted what train-geometry writes")
        if size != sizes[0]:
            raise InputError(f"{file} is of a network of other sizes than {files[0]}; only the same have a mean")
    parts = [network.state_dict() for network in networks]
    mean = {name: torch.stack([part[name].float() for part in parts]).mean(0) for name in parts[0]}
    network = MaskedPairNetwork(networks[0].config)
    network.load_state_dict(mean)
    network = network.to(device).eval()
    figures = evaluate(network, held_out_samples(config, progress or SilentProgress()))
    save_own_weights(out, network.config, mean, {"mean_of": [file.name for file in files], "metrics": figures})
    return figures
