"""What a pair network of the DUSt3R family is made of: its sizes, and the texts they are published in. Free of torch.

Checkpoints name their network in one of two ways: a constructor call kept as text in `.pth` files, such as
`AsymmetricMASt3R(enc_depth=24, ..., depth_mode=('exp', -inf, inf))`, and the same arguments as JSON in the
`config.json` of a model on the hub. Both are only ever parsed; nothing is evaluated.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dyn4d.core.errors import InputError

HEAD_TYPES = ("dpt", "linear", "catmlp+dpt", "rays")
WITH_DESCRIPTORS = ("catmlp+dpt", "rays")
PATCH_EMBEDS = ("PatchEmbed", "PatchEmbedDust3R", "ManyAR_PatchEmbed")  # one and the same at inference
Mode = tuple[str, float, float]


@dataclass(frozen=True)
class PairNetworkConfig:
    """Sizes and output modes of a pair network. The defaults are those of all published models where these agree.

    Attributes:
        head_type: "dpt" or "linear" (DUSt3R), "catmlp+dpt" (MASt3R: descriptors too), "rays" (dyn4d's own small masked
            MASt3R, see `masked_network`).
        desc_dim: of a descriptor; 0 without descriptors.
        enc_*, dec_*: width, blocks and attention heads of the encoder and of each of the two decoders.
        patch_size: pixels a side of a token. mlp_ratio: hidden over outer width of the MLPs.
        rope_base: base of the frequencies of the rotary position embedding.
        img_size: (height, width) px of the training pictures; any multiple of `patch_size` works.
        depth_mode, conf_mode, desc_conf_mode: (name, least, greatest) of the outputs' ranges.
        two_confs: do the descriptors have a confidence of their own?
        dpt_layer_dims, dpt_feature_dim, dpt_head_dims: channels of the DPT head: of the four reassembled maps, of their
            fusion, and of the two convolutions that make the output.
        stem, stem_units, fusion_dim: of "rays" alone: channels of the convolutions at 1/2, 1/4 and 1/8 of the size,
            pairs of convolutions at 1/8 and 1/16, channels of its head.
    """

    head_type: str = "dpt"
    desc_dim: int = 0
    enc_embed_dim: int = 1024
    enc_depth: int = 24
    enc_num_heads: int = 16
    dec_embed_dim: int = 768
    dec_depth: int = 12
    dec_num_heads: int = 12
    patch_size: int = 16
    mlp_ratio: float = 4.0
    rope_base: float = 100.0
    img_size: tuple[int, int] = (512, 512)
    depth_mode: Mode = ("exp", -math.inf, math.inf)
    conf_mode: Mode = ("exp", 1.0, math.inf)
    desc_conf_mode: Mode = ("exp", 0.0, math.inf)
    two_confs: bool = False
    dpt_layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    dpt_feature_dim: int = 256
    dpt_head_dims: tuple[int, int] = (128, 128)
    stem: tuple[int, int, int] = (0, 0, 0)
    stem_units: tuple[int, int] = (1, 0)
    fusion_dim: int = 0

    def __post_init__(self) -> None:
        if self.head_type not in HEAD_TYPES:
            raise InputError(f"head_type {self.head_type!r}: wanted one of {', '.join(HEAD_TYPES)}")
        if (self.desc_dim > 0) != (self.head_type in WITH_DESCRIPTORS):
            raise InputError(f"head_type {self.head_type!r} does not go with descriptors of {self.desc_dim} numbers")
        # The upper bounds only keep a damaged file from asking for a network that no machine could hold.
        for name, limit in (("enc_depth", 256), ("dec_depth", 256), ("enc_embed_dim", 1 << 16),
                            ("dec_embed_dim", 1 << 16), ("patch_size", 256)):  # fmt: skip
            if not 1 <= getattr(self, name) <= limit:
                raise InputError(f"{name} {getattr(self, name)}: wanted a number from 1 to {limit}")
        for side in ("enc", "dec"):
            width, heads = getattr(self, f"{side}_embed_dim"), getattr(self, f"{side}_num_heads")
            if heads < 1 or width % heads or (width // heads) % 4:  # two axes, and pairs of numbers on each
                wanted = "wanted heads of equal width, a multiple of 4"
                raise InputError(f"{side}_num_heads {heads} does not fit {side}_embed_dim {width}: {wanted}")
        if self.depth_mode != ("exp", -math.inf, math.inf):
            raise InputError(f"depth_mode {self.depth_mode}: only ('exp', -inf, inf) is supported")
        for name in ("conf_mode", "desc_conf_mode"):
            kind, low, high = getattr(self, name)
            if kind != "exp" or not math.isfinite(low) or high != math.inf:
                raise InputError(f"{name} {getattr(self, name)}: only ('exp', a number, inf) is supported")
        if not 0 < self.mlp_ratio <= 64 or not self.rope_base > 0:
            raise InputError(f"mlp_ratio {self.mlp_ratio}, rope_base {self.rope_base}: wanted numbers above 0")
        if min(*self.dpt_layer_dims, *self.dpt_head_dims, self.dpt_feature_dim) < 1:
            raise InputError("the sizes of the DPT head have to be numbers from 1")
        if self.head_type == "rays" and (min(*self.stem, self.fusion_dim) < 1 or self.patch_size != 16):
            raise InputError(
                f"head_type 'rays' with stem {self.stem}, fusion_dim {self.fusion_dim}, patch_size {self.patch_size}: "
                "wanted numbers from 1, and patches of 16"
            )

    @property
    def name(self) -> str:
        """The published model that has these sizes, or "custom"."""
        return next((name for name, preset in PRESETS.items() if preset == self), "custom")

    @property
    def masked(self) -> bool:
        """Is it told the mask and the lens of each picture?"""
        return self.head_type == "rays"

    @property
    def hooks(self) -> tuple[int, int, int, int]:
        """Which token lists the DPT head reads: 0 is the encoder's, n the output of the n-th decoder block."""
        return (0, self.dec_depth // 2, 3 * self.dec_depth // 4, self.dec_depth)

    def official_kwargs(self) -> dict[str, Any]:
        """The constructor arguments that the published checkpoints carry, for inference."""
        kwargs: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("enc_depth", "dec_depth", "enc_embed_dim", "dec_embed_dim", "enc_num_heads", "dec_num_heads")
        }
        number = int(self.rope_base) if float(self.rope_base).is_integer() else self.rope_base
        kwargs |= {
            "pos_embed": f"RoPE{number}",
            "img_size": self.img_size,
            "head_type": self.head_type,
            "output_mode": f"pts3d+desc{self.desc_dim}" if self.desc_dim else "pts3d",
            "depth_mode": self.depth_mode,
            "conf_mode": self.conf_mode,
            "patch_embed_cls": "PatchEmbedDust3R",
            "landscape_only": False,
        }
        if self.desc_dim:
            kwargs |= {"two_confs": self.two_confs, "desc_conf_mode": self.desc_conf_mode}
        if self.mlp_ratio != 4.0:
            kwargs["mlp_ratio"] = self.mlp_ratio
        if self.patch_size != 16:
            kwargs["patch_size"] = self.patch_size
        return kwargs

    def constructor(self) -> str:
        """The text that a published `.pth` would name this network by."""
        kind = "AsymmetricMASt3R" if self.desc_dim else "AsymmetricCroCo3DStereo"
        return f"{kind}({', '.join(f'{key}={value!r}' for key, value in self.official_kwargs().items())})"

    def hub_json(self) -> str:
        """The text of a `config.json` as on the hub, infinities as the tokens Infinity and -Infinity."""
        return json.dumps(self.official_kwargs(), indent=2)


_DUST3R = PairNetworkConfig()
PRESETS: dict[str, PairNetworkConfig] = {
    "MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric": replace(
        _DUST3R, head_type="catmlp+dpt", desc_dim=24, two_confs=True
    ),
    "DUSt3R_ViTLarge_BaseDecoder_512_dpt": _DUST3R,
    "DUSt3R_ViTLarge_BaseDecoder_512_linear": replace(_DUST3R, head_type="linear"),
    "DUSt3R_ViTLarge_BaseDecoder_224_linear": replace(_DUST3R, head_type="linear", img_size=(224, 224)),
}
"""The published models, by the names of their files."""


# -------------------------------------------------------------------------------------------- the texts


def parse_constructor(text: str, where: str) -> dict[str, Any]:
    """The keyword arguments of a constructor call written as text.

    Args:
        text: one call; arguments may be numbers, also signed or `inf`, strings, booleans, None, tuples and lists.
        where: the file, for messages.

    Raises:
        InputError: anything else stands in it.
    """
    if len(text) > 20_000:
        raise InputError(f"{where}: the text that names its network has {len(text):,} characters; not a known network")
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{where}: the text that names its network cannot be read: {_short(text)}") from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise InputError(f"{where}: wanted a constructor call with named arguments, found {_short(text)}")
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise InputError(f"{where}: wanted named arguments only, found {_short(text)}")
        try:
            found[keyword.arg] = _literal(keyword.value)
        except (ValueError, RecursionError) as error:
            source = _short(ast.get_source_segment(text.strip(), keyword.value))
            raise InputError(f"{where}: {keyword.arg} is not a plain value: {source}") from error
    return found


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (bool, int, float, str))):
        return node.value
    if isinstance(node, ast.Name) and node.id in ("inf", "Infinity"):
        return math.inf
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _literal(node.operand)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_literal(element) for element in node.elts)
    raise ValueError("not a plain value")


def parse_hub_json(text: str, where: str) -> dict[str, Any]:
    """The constructor arguments in the text of a hub `config.json`. Raises `InputError` where it is no JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not whole JSON ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise InputError(f"{where}: wanted a JSON object {{…}} at the top, found a {type(found).__name__}")
    return found


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return repr(line if len(line) <= 120 else line[:117] + "...")


# ------------------------------------------------------------------------------- arguments → the dataclass

_NEEDED = ("enc_embed_dim", "enc_depth", "enc_num_heads", "dec_embed_dim", "dec_depth", "dec_num_heads")
_MODES = ("depth_mode", "conf_mode", "desc_conf_mode")
# Arguments that decide nothing at inference, and what a hub adds to its configurations.
_UNUSED = ("landscape_only", "freeze", "mask_ratio", "architectures", "model_type", "torch_dtype",
           "transformers_version", "library_name", "license", "tags")  # fmt: skip
_FIXED: dict[str, tuple[Any, ...]] = {
    "norm_im2_in_dec": (True,),
    "desc_mode": ("norm",),
    "patch_embed_cls": PATCH_EMBEDS,
}


def network_config(kwargs: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str) -> PairNetworkConfig:
    """The configuration that constructor arguments and the shapes of the tensors give together.

    Args:
        kwargs: named as in the published checkpoints. shapes: of the tensors, by key; they fill in what `kwargs` leave
            open (all sizes of the DPT head, for one, which no constructor text holds).
        where: the file, for messages.

    Raises:
        InputError: an argument is unknown or of the wrong kind, or something is given by neither.
    """
    given = {**sizes_from_shapes(shapes), **_fields_from_kwargs(kwargs, where)}
    missing = [name for name in (*_NEEDED, "head_type") if name not in given]
    if missing:
        raise InputError(f"{where}: neither its configuration nor its tensors give {', '.join(missing)}")
    if given.get("desc_dim") and "desc_conf_mode" not in given and "conf_mode" in given:
        given["desc_conf_mode"] = given["conf_mode"]  # as the published network does where it is not said
    try:
        return PairNetworkConfig(**given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _fields_from_kwargs(kwargs: Mapping[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in kwargs.items():
        wrong = InputError(f"{where}: {name} is {_short(repr(value))}, which is not supported")
        if name in _NEEDED or name == "patch_size":
            found[name] = _integer(value, wrong)
        elif name in _MODES:
            found[name] = _mode(value, wrong)
        elif name == "head_type":
            if value not in HEAD_TYPES:
                raise InputError(f"{where}: head_type {value!r}: wanted one of {', '.join(HEAD_TYPES)}")
            found[name] = value
        elif name == "two_confs":
            if not isinstance(value, bool):
                raise wrong
            found[name] = value
        elif name == "mlp_ratio":
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise wrong
            found[name] = float(value)
        elif name == "img_size":
            sides = value if isinstance(value, (tuple, list)) else (value, value)
            if len(sides) != 2:
                raise wrong
            found[name] = (_integer(sides[0], wrong), _integer(sides[1], wrong))
        elif name == "pos_embed":
            match = re.fullmatch(r"RoPE(\d+(?:\.\d+)?)", value) if isinstance(value, str) else None
            if match is None:
                raise wrong
            found["rope_base"] = float(match[1])
        elif name == "output_mode":
            match = re.fullmatch(r"pts3d(?:\+desc(\d{1,6}))?", value) if isinstance(value, str) else None
            if match is None:
                raise wrong
            found["desc_dim"] = int(match[1] or 0)
        elif name in _FIXED:
            if not any(value is allowed or value == allowed for allowed in _FIXED[name]):
                raise wrong
        elif name not in _UNUSED and not name.startswith("_"):
            raise InputError(f"{where}: {name} is not an argument of a DUSt3R or MASt3R network")
    return found


def _integer(value: Any, wrong: InputError) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong
    return value


def _mode(value: Any, wrong: InputError) -> Mode:
    if not isinstance(value, (tuple, list)) or len(value) != 3 or not isinstance(value[0], str):
        raise wrong
    if any(isinstance(limit, bool) or not isinstance(limit, (int, float)) for limit in value[1:]):
        raise wrong
    return (value[0], float(value[1]), float(value[2]))


# ----------------------------------------------------------------------------------- shapes → the dataclass


def sizes_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The fields of `PairNetworkConfig` that the shapes of the tensors tell: all sizes but the attention heads'."""
    found: dict[str, Any] = {}

    def read(field: str, key: str, axis: int) -> None:
        shape = shapes.get(key, ())
        if len(shape) > axis:
            found[field] = int(shape[axis])

    read("enc_embed_dim", "patch_embed.proj.weight", 0)
    read("patch_size", "patch_embed.proj.weight", 3)
    read("dec_embed_dim", "decoder_embed.weight", 0)
    for field, prefix in (("enc_depth", "enc_blocks"), ("dec_depth", "dec_blocks")):
        numbers = [int(m[1]) for key in shapes if (m := re.match(rf"{prefix}\.(\d{{1,4}})\.", key))]
        if numbers:
            found[field] = 1 + max(numbers)
    hidden, width = shapes.get("enc_blocks.0.mlp.fc1.weight", ())[:1], found.get("enc_embed_dim", 0)
    if hidden and width and hidden[0]:
        found["mlp_ratio"] = hidden[0] / width
    head = "downstream_head1."
    if f"{head}proj.weight" in shapes:
        found["head_type"] = "linear"
    elif any(key.startswith(f"{head}dpt.") for key in shapes):
        rows = shapes.get(f"{head}head_local_features.fc2.weight", ())[:1]
        found["head_type"] = "catmlp+dpt" if rows else "dpt"
        found.update(_dpt_sizes(shapes, f"{head}dpt."))
    return found


def _dpt_sizes(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, Any]:
    def first(*keys: str) -> int:
        return next((int(shapes[prefix + key][0]) for key in keys if shapes.get(prefix + key)), 0)

    layers = tuple(first(f"act_postprocess.{i}.0.weight") for i in range(4))
    feature = first("scratch.layer1_rn.weight", "scratch.layer_rn.0.weight")
    heads = (first("head.0.weight"), first("head.2.weight"))
    found = {"dpt_layer_dims": layers, "dpt_feature_dim": feature, "dpt_head_dims": heads}
    # What a damaged file lacks keeps its usual size here, so that the missing tensor is what gets reported.
    return {name: value for name, value in found.items() if (min(value) if isinstance(value, tuple) else value) > 0}
