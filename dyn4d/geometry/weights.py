"""Weights of pair networks: the published files read, checked, described and converted. Nothing in them is ever run.

Three forms are known: `.pth` files ({"args": Namespace, "model": tensors}, with the network's constructor call as text
in `args.model`), folders or files of safetensors with a `config.json` (as on the hub), and hub ids. A file has to hold
exactly the tensors of its network; what is missing or left over is named.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.listing import tensor_list
from dyn4d.core.protocols import resolve_device
from dyn4d.geometry.config import USUAL_DEPTH_ERROR
from dyn4d.geometry.masked_network import make_network
from dyn4d.geometry.network import PairNetwork
from dyn4d.geometry.network_config import PairNetworkConfig, network_config, parse_constructor, parse_hub_json
from dyn4d.geometry.own_weights import NAME, own_network, require_small
from dyn4d.io.atomic import atomic_folder, atomic_path
from dyn4d.io.tensor_files import file_kind, file_sha256, read_pth, read_safetensors, write_safetensors

log = logging.getLogger(__name__)

TENSORS, CONFIG = "model.safetensors", "config.json"
PICKLES = (".pth", ".pt")
ALIAS = re.compile(r"(.*\.scratch)\.layer_rn\.([0-3])\.weight")
UNUSED = re.compile(r"mask_token|downstream_head[12]\.dpt\.scratch\.refinenet4\.resConfUnit1\..*")
COPIED = "it has one decoder (no dec_blocks2): both sides of a pair use copies of it"


@dataclass(frozen=True)
class SavedWeights:
    """A checked weights file.

    Attributes:
        file: that holds the tensors. kind: "pth" or "safetensors". config: of its network.
        tensors: by key, mapped from the file where it can be; of keys with two spellings the one with `layer1_rn`.
        notes: lines for the user. licence: that the file names itself; "" = none. depth_error: relative error that the
            network's depth is expected to have.
    """

    file: Path
    kind: str
    config: PairNetworkConfig
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]
    licence: str = ""
    depth_error: float = USUAL_DEPTH_ERROR

    def complete(self) -> dict[str, Tensor]:
        """The tensors, the second decoder copied from the first where the file has none, unless one serves both sides
        by design."""
        return dict(self.tensors) if self.config.masked else _with_second_decoder(self.tensors)


@dataclass(frozen=True)
class WeightsInfo:
    """A weights file in figures.

    Attributes:
        file: that holds the tensors. bytes: its size. sha256: of its bytes. kind: "pth" or "safetensors".
        config: of its network. model: the published model that has these sizes, or "custom".
        parameters: of the network, each counted once. dtypes: of the tensors. licence: what is known of the terms.
        notes: lines for the user.
    """

    file: Path
    bytes: int
    sha256: str
    kind: str
    config: PairNetworkConfig
    model: str
    parameters: int
    dtypes: tuple[str, ...]
    licence: str
    notes: tuple[str, ...] = ()

    def format(self) -> str:
        """Lines for the terminal, no newline at the end."""
        c = self.config
        decoders = 1 if c.masked else 2  # one may serve both sides
        head = c.head_type + (f", descriptors of {c.desc_dim}" if c.desc_dim else "")
        rows = [
            ("file", f"{self.file} ({self.bytes / 1e6:,.1f} MB, {self.kind})"),
            ("sha256", self.sha256),
            ("sizes of", self.model),
            ("parameters", f"{self.parameters:,} ({', '.join(self.dtypes)})"),
            ("encoder", f"{c.enc_depth} blocks, width {c.enc_embed_dim}, {c.enc_num_heads} heads"),
            ("decoders", f"{decoders} x {c.dec_depth} blocks, width {c.dec_embed_dim}, {c.dec_num_heads} heads"),
            ("heads", head),
            ("trained at", f"{max(c.img_size)} px, patches of {c.patch_size}"),
            ("licence", self.licence),
            *(("note", note) for note in self.notes),
        ]
        return "\n".join(f"{label:<11} {text}" for label, text in rows)


def licence_of(config: PairNetworkConfig) -> str:
    """What is known of the terms of weights of these sizes. A file itself says nothing of them."""
    if config.name == "custom":
        return (
            "unknown: no published model has these sizes. Weights trained further from published DUSt3R or MASt3R ones "
            "stay under CC BY-NC-SA 4.0"
        )
    return (
        f"CC BY-NC-SA 4.0 (not for commercial use) if these are the published weights of {config.name}; the terms of "
        "their training data hold too. MASt3R's notice names those of CroCo, CO3Dv2, ARKitScenes, ScanNet++, "
        "BlendedMVS, HM3D/Habitat, MegaDepth, StaticThings3D, WildRGB-D, TartanAir, UnrealStereo4K, Virtual KITTI 2, "
        "DL3DV, Niantic Map-free (very restrictive), SegFormer and CosXL"
    )


# -------------------------------------------------------------------------------------------- what users call


def load_pair_network(path_or_hub_id: str | Path, device: torch.device | str = "cpu") -> PairNetwork:
    """A pair network with the weights of a file, in float32, ready for inference.

    Args:
        path_or_hub_id: "small", the network that comes with dyn4d; a `.pth` file, a `.safetensors` file of dyn4d's or
            with its configuration beside it, a folder with `model.safetensors` and `config.json`, or the id of a model
            on the hub, such as "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric" (fetched; needs
            `huggingface_hub`).
        device: "auto", "cpu", "cuda" …

    Raises:
        InputError: the file is missing, damaged, holds anything but tensors and a configuration, or not exactly the
            tensors of its network.
    """
    where = resolve_device(str(device))
    saved = read_weights(_from_anywhere(path_or_hub_id))
    with torch.device("meta"):
        network = make_network(saved.config)
    network.to_empty(device=where)
    tensors = saved.complete()
    for name, parameter in network.named_parameters():
        if name not in tensors:
            parameter.zero_()  # never used
            continue
        parameter.copy_(tensors[name])
        if not torch.isfinite(parameter).all():
            raise InputError(f"{saved.file} is damaged: {name} is not finite everywhere; fetch it again")
    network.notes = (f"weights: {saved.licence or licence_of(saved.config)}", *saved.notes)
    network.depth_error = saved.depth_error
    for note in network.notes:
        log.info("%s: %s", saved.file, note)
    return network


def describe_weights(path: str | Path) -> WeightsInfo:
    """What is in a weights file. Raises `InputError` where it cannot be loaded."""
    saved = read_weights(path)
    tensors = saved.complete()
    return WeightsInfo(
        file=saved.file,
        bytes=saved.file.stat().st_size,
        sha256=file_sha256(saved.file),
        kind=saved.kind,
        config=saved.config,
        model=saved.config.name,
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        dtypes=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})),
        licence=saved.licence or licence_of(saved.config),
        notes=saved.notes,
    )


def convert_weights(src: str | Path, dst: str | Path) -> Path:
    """Write weights in another form, the tensors bit by bit the same.

    Args:
        src: a file or folder. dst: a `.pth` file, else a folder for `model.safetensors` and `config.json`; it must not
            be there yet.

    Returns:
        `dst`. Raises `InputError` where `src` cannot be loaded or `dst` is there.
    """
    saved = read_weights(src)
    if saved.config.masked:
        raise InputError(f"{saved.file} is dyn4d's own network, which has no other form")
    return save_pair_weights(dst, saved.config, saved.tensors)


def save_pair_weights(path: str | Path, config: PairNetworkConfig, tensors: Mapping[str, Tensor]) -> Path:
    """Write weights in one of the published forms, atomically.

    Args:
        path: a `.pth` file, else a folder for `model.safetensors` and `config.json`; it must not be there yet.
        config: of the network. tensors: by key; of keys with two spellings either or both.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} is there already; choose another name or remove it")
    plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    if path.suffix.lower() in PICKLES:
        with atomic_path(path) as temporary:
            torch.save({"args": argparse.Namespace(model=config.constructor()), "model": plain}, str(temporary))
    elif path.suffix.lower() in (".safetensors", ".json", ".bin"):  # a folder's name may have dots too
        raise InputError(f"{path}: wanted a folder, for {TENSORS} and {CONFIG}, or a name that ends in .pth")
    else:
        with atomic_folder(path) as temporary:
            write_safetensors(temporary / TENSORS, _one_spelling(plain, path), {"licence": licence_of(config)})
            (temporary / CONFIG).write_text(config.hub_json() + "\n", encoding="utf-8")
    return path


def random_weights(config: PairNetworkConfig, seed: int = 0) -> dict[str, Tensor]:
    """Weights without training, with the keys of the published files and outputs of a moderate size: for tests."""
    with torch.device("meta"):
        network = make_network(config)
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
            parameter.normal_(0, fan_in**-0.5, generator=generator)
        else:
            is_norm = re.search(r"norm\w*\.weight$", name) is not None
            parameter.normal_(float(is_norm), 0.05, generator=generator)
    return dict(network.state_dict())


# ----------------------------------------------------------------------------------------------- reading


def read_weights(path: str | Path) -> SavedWeights:
    """Read and check a file or folder of weights. Raises `InputError` as `load_pair_network` does."""
    file = _tensor_file(Path(path).expanduser())
    kind, own = file_kind(file), None
    if kind != "pth" and (own := own_network(file)) is not None:
        raw, kwargs = read_safetensors(file), {}
    elif kind == "pth":
        raw, kwargs = _read_official(file)
    else:
        raw, kwargs = read_safetensors(file), _config_beside(file)
    for name, tensor in raw.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise InputError(f"{file}: {name} is not a tensor of real numbers; not weights of a pair network")
    tensors = _one_spelling(raw, file)
    if own is not None:
        _check_keys(own.config, tensors, file)
        return SavedWeights(file, kind, own.config, tensors, (), own.licence, own.depth_error)
    config = network_config(kwargs, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, str(file))
    complete = _with_second_decoder(tensors)
    _check_keys(config, complete, file)
    return SavedWeights(file, kind, config, tensors, () if len(complete) == len(tensors) else (COPIED,))


def _tensor_file(path: Path) -> Path:
    """The file with the tensors: `path` itself, or the one in that folder."""
    if not path.is_dir():
        return path
    if (path / TENSORS).exists():
        return path / TENSORS
    found = [p for p in sorted(path.iterdir()) if p.suffix.lower() in (".safetensors", *PICKLES)]
    if len(found) != 1:
        names = f"found {', '.join(p.name for p in found[:5])}" if found else "found no weights"
        raise InputError(f"{path}: wanted {TENSORS} and {CONFIG} in this folder, {names}; give the file itself")
    return found[0]


def _read_official(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and constructor arguments of a `.pth`."""
    content = read_pth(file, [argparse.Namespace])
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(name, str) for name in model):
        raise InputError(
            f'{file} is not in the form of the published weights, a dictionary with "args" and "model"; if it is a '
            f"network of yours, save it as safetensors with a {CONFIG}"
        )
    args = content.get("args")
    text = args.get("model") if isinstance(args, dict) else getattr(args, "model", None)
    if not isinstance(text, str):
        return model, _config_beside(file)
    return model, parse_constructor(text, str(file))


def _config_beside(file: Path) -> dict[str, Any]:
    for config in (file.with_suffix(".json"), file.with_name(CONFIG)):
        if config.is_file():
            try:
                return parse_hub_json(config.read_text(encoding="utf-8-sig"), str(config))
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{config} cannot be read ({error}); fetch it again") from error
    raise InputError(f"{file} does not say what network it is for; put the {CONFIG} that goes with it beside it")


def _one_spelling(tensors: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Keys that checkpoints hold twice, under one name: `layer_rn.0` is `layer1_rn`."""
    out = {name: tensor for name, tensor in tensors.items() if not ALIAS.fullmatch(name)}
    for name, tensor in tensors.items():
        if match := ALIAS.fullmatch(name):
            first = f"{match[1]}.layer{int(match[2]) + 1}_rn.weight"
            if first in out and not _equal(out[first], tensor):
                raise InputError(
                    f"{where} is damaged: {first} and {name} are the same layer, but differ; fetch it again"
                )
            out.setdefault(first, tensor)
    return out


def _equal(a: Tensor, b: Tensor) -> bool:
    same_place = a.shape == b.shape and a.stride() == b.stride() and a.data_ptr() == b.data_ptr()
    return same_place or torch.equal(a, b)


def _with_second_decoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if any(name.startswith("dec_blocks2.") for name in tensors):
        return dict(tensors)
    prefix = "dec_blocks."
    copies = {f"dec_blocks2.{k.removeprefix(prefix)}": v for k, v in tensors.items() if k.startswith(prefix)}
    return {**tensors, **copies}


@lru_cache(maxsize=8)
def _shapes(config: PairNetworkConfig) -> dict[str, tuple[int, ...]]:
    """Of all parameters of a network, those with two keys under the first."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in make_network(config).named_parameters()}


def _check_keys(config: PairNetworkConfig, tensors: Mapping[str, Tensor], file: Path) -> None:
    wanted = _shapes(config)
    missing = [name for name in wanted if name not in tensors and not UNUSED.fullmatch(name)]
    extra = [name for name in tensors if name not in wanted]
    if missing or extra:
        parts = [f"{tensor_list(missing)} missing"] * bool(missing) + [f"{tensor_list(extra)} too many"] * bool(extra)
        raise InputError(
            f"{file} does not fit its own configuration (head {config.head_type}, {config.enc_depth} + "
            f"{config.dec_depth} blocks): {'; '.join(parts)}; fetch it again, or mend the configuration"
        )
    for name, shape in wanted.items():
        if name in tensors and tuple(tensors[name].shape) != shape:
            raise InputError(
                f"{file} does not fit its own configuration: {name} has shape {tuple(tensors[name].shape)}, wanted "
                f"{shape}; fetch it again, or mend the configuration"
            )


# ----------------------------------------------------------------------------------------------- the hub


def require_weights(path_or_hub_id: str | Path) -> bool:
    """Is this the id of a model on the hub (True) or a path that is there (False)? Reads and fetches nothing.

    Raises:
        InputError: neither.
    """
    path, text = Path(path_or_hub_id).expanduser(), str(path_or_hub_id)
    if path.exists():
        return False
    if text == NAME:
        require_small()
        return False
    is_file_name = isinstance(path_or_hub_id, Path) or path.suffix.lower() in (".safetensors", *PICKLES)
    if not is_file_name and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text):
        return True
    raise InputError(
        f"{path} is not there; give a .pth file, a folder with {TENSORS} and {CONFIG}, or a hub id naver/…"
    )


def _from_anywhere(path_or_hub_id: str | Path) -> Path:
    if require_weights(path_or_hub_id):
        return _from_hub(str(path_or_hub_id))
    if str(path_or_hub_id) == NAME and not Path(NAME).exists():
        return require_small()
    return Path(path_or_hub_id).expanduser()


def _from_hub(model: str) -> Path:
    """The folder with the files of a model on the hub, fetched into the hub's own cache if they are not there."""
    mend = f"get {TENSORS} and {CONFIG} of this model, put them into a folder, and give that folder"
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            f"{model} is not a file here, and fetching it from the hub needs huggingface_hub (pip install "
            f"huggingface_hub); or {mend}"
        ) from error
    log.info("%s: fetching it from the hub, unless it is in its cache; its terms are those of its authors", model)
    try:
        hub.hf_hub_download(model, CONFIG)
        return Path(hub.hf_hub_download(model, TENSORS)).parent
    except Exception as error:  # many kinds: no network, no such model, no permission, no space
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"{model} could not be fetched from the hub ({reason}); or {mend}") from error
