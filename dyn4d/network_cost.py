"""What a pair network costs: measured on its own weights with one pair of pictures, and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from dyn4d.config import Config
from dyn4d.core.errors import Dyn4DError
from dyn4d.io.atomic import read_json, write_json
from dyn4d.speed import cache_folder
from dyn4d.workload import ClipSize

PATCH = 16


@dataclass(frozen=True)
class NetworkCost:
    """Seconds to encode a picture and to decode a pair both ways; bytes of weights and of one pair's decoding."""

    encode: float
    decode: float
    bytes: float

    def seconds(self, frames: int, ordered_pairs: int) -> float:
        """For a clip's frames and its pairs, each counted in both orders."""
        return frames * self.encode + ordered_pairs / 2 * self.decode


def _grid(size: ClipSize, longest: int, square: bool) -> tuple[int, int]:
    """Height and width in pixels that the network is given."""
    if square:
        return longest, longest
    scale = longest / max(size.width, size.height, 1)
    height, width = (max(PATCH, round(side * scale / PATCH) * PATCH) for side in (size.height, size.width))
    return height, width


def _weights(config: Config) -> Path:
    """The file or folder that `geometry.weights` names; a model's id is none."""
    from dyn4d.geometry.own_weights import NAME, small_weights

    name = config.geometry.weights or NAME
    return small_weights() or Path(name) if name == NAME else Path(name)


def suited_config(config: Config) -> Config:
    """With the views and pairs that the geometry stage will give the network."""
    from dyn4d.geometry.own_weights import own_network
    from dyn4d.geometry.pair_hints import suited

    path = _weights(config)
    own = own_network(path) if path.is_file() else None
    if own is None:
        return config
    return replace(config, geometry=replace(config.geometry, pairs=suited(own.config, config.geometry.pairs)))


def _place(config: Config, grid: tuple[int, int], device: torch.device) -> Path:
    path = _weights(config)
    files = [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
    what = [str(path.absolute()), str(grid), str(device), config.geometry.pairs.precision, str(torch.get_num_threads())]
    what += [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return cache_folder() / f"network-{hashlib.sha256('|'.join(what).encode()).hexdigest()[:12]}.json"


def network_cost(config: Config, size: ClipSize, device: torch.device, *, measure: bool) -> NetworkCost | None:
    """The cost of `geometry.weights` for pictures of this size; None where it is not known and not to be measured.

    Raises:
        InputError: the weights cannot be read.
    """
    grid = _grid(size, config.geometry.pairs.size, config.geometry.pairs.view == "square")
    try:
        place = _place(config, grid, device)
        kept = read_json(place)
        return NetworkCost(**{name: float(kept[name]) for name in ("encode", "decode", "bytes")})
    except (Dyn4DError, OSError, RuntimeError, KeyError, TypeError, ValueError):
        if not measure:
            return None
    cost = _measure(config, grid, device)
    with contextlib.suppress(Dyn4DError, OSError, RuntimeError):  # else it is measured again the next time
        write_json(_place(config, grid, device), asdict(cost))
    return cost


@torch.inference_mode()
def _measure(config: Config, grid: tuple[int, int], device: torch.device) -> NetworkCost:
    from dyn4d.geometry.own_weights import NAME
    from dyn4d.geometry.pair_inference import autocast, pair_memory, resolve_precision
    from dyn4d.geometry.weights import load_pair_network

    network = load_pair_network(config.geometry.weights or NAME, device)
    picture = torch.rand(1, 3, *grid, generator=torch.Generator().manual_seed(0)).to(device)

    def seconds(start: float) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    with autocast(resolve_precision(config.geometry.pairs.precision, device), device):
        encoded = network.encode(picture)
        start = time.perf_counter()
        encoded = network.encode(picture)
        encode = seconds(start)
        start = time.perf_counter()
        network.predict_symmetric(encoded, encoded)
        decode = seconds(start)
    held = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return NetworkCost(encode, decode, float(held + pair_memory(network, encoded.grid, encoded.grid)))
