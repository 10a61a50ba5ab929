from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import SMALL, SMALL_DPT, SMALL_DUST3R, picture, small_network
from torch import Tensor

from dyn4d.core.errors import InputError
from dyn4d.core.types import PairPrediction
from dyn4d.geometry.heads import DptPointHead, to_confidence, to_descriptors, to_points, unfold_patches
from dyn4d.geometry.network import EncodedImages, PairNetwork
from dyn4d.geometry.network_config import PRESETS, PairNetworkConfig, network_config, parse_constructor, parse_hub_json
from dyn4d.geometry.transformer import patch_positions, rotate, rotation_of

FULL = {
    "mast3r": "MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
    "dust3r_dpt": "DUSt3R_ViTLarge_BaseDecoder_512_dpt",
    "dust3r_linear": "DUSt3R_ViTLarge_BaseDecoder_512_linear",
}


# ------------------------------------------------------------------------------ parity with reference numbers


class Golden:
    """The reference network and what it said."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "config_json"}
            kwargs = json.loads(str(file["config_json"]))
        for name in ("depth_mode", "conf_mode", "desc_conf_mode"):
            kwargs[name] = (kwargs[name][0], *map(float, kwargs[name][1:]))
        state = {name[3:]: value for name, value in self.arrays.items() if name.startswith("sd/")}
        self.config = network_config(kwargs, {name: tuple(value.shape) for name, value in state.items()}, "golden")
        self.network = PairNetwork(self.config)
        self.network.load_state_dict(state)

    def image(self, case: str, side: int) -> Tensor:
        return (self.arrays[f"{case}/img{side}"] + 1) / 2  # stored as the network takes it, in [-1, 1]

    def view(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def golden(reference: Path) -> Golden:
    path = reference / "golden" / "mast3r_micro.npz"
    if not path.exists():
        pytest.skip(f"{path.name} is not among the reference data")
    return Golden(path)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest error, of vectors relative to their length."""
    assert ours.shape == theirs.shape
    if ours.dim() == 4:
        return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())
    return float(((ours - theirs).abs() / theirs.abs()).max())


def assert_view(pair: PairPrediction, side: str, expected: dict[str, Tensor], label: str) -> None:
    points = pair.points_a if side == "a" else pair.points_b_in_a
    theirs = expected.get("pts3d", expected.get("pts3d_in_other_view"))
    assert theirs is not None
    errors = {"points": relative(points, theirs)}
    for name in ("conf", "desc", "desc_conf"):
        errors[name] = relative(getattr(pair, f"{name}_{side}"), expected[name])
    assert max(errors.values()) < 1e-4, f"{label}: {errors}"


@pytest.mark.parametrize("case", ["c1_landscape", "c2_symmetrised", "c3_portrait", "c4_mixed_odd"])
def test_predictions_are_those_of_the_published_code(golden: Golden, case: str) -> None:
    pair = golden.network.predict_pair(golden.image(case, 1), golden.image(case, 2))
    assert_view(pair, "a", golden.view(f"{case}/view1."), case)
    assert_view(pair, "b", golden.view(f"{case}/view2."), case)


def test_a_portrait_stored_on_its_side_gives_the_same_on_its_side(golden: Golden) -> None:
    """Case c5: training stores portraits transposed. Upright, they need no mode of their own."""
    case = "c5_manyar"
    upright, turned = [], []
    for side in (1, 2):
        height, width = golden.arrays[f"{case}/true_shape{side}"][0].tolist()
        image = golden.image(case, side)
        turned.append(height > width)
        upright.append(image.transpose(-1, -2) if turned[-1] else image)
    assert turned == [True, False]
    pair = golden.network.predict_pair(*upright)
    back = PairPrediction(*(getattr(pair, field.name).transpose(1, 2) for field in fields(PairPrediction)))
    assert_view(back, "a", golden.view(f"{case}/view1."), case)
    assert_view(pair, "b", golden.view(f"{case}/view2."), case)


def test_symmetric_prediction_is_that_of_the_published_code(golden: Golden) -> None:
    case, network = "c6_symmetric_inference", golden.network
    first, second = golden.image("c1_landscape", 1), golden.image("c1_landscape", 2)
    there, back = network.predict_symmetric(network.encode(first), network.encode(second))
    for pair, side, name in ((there, "a", "11"), (there, "b", "21"), (back, "a", "22"), (back, "b", "12")):
        assert_view(pair, side, golden.view(f"{case}/{name}."), name)


def test_the_steps_between_are_those_of_the_published_code(golden: Golden) -> None:
    network, mid = golden.network, golden.view("c1_landscape/mid.")
    a, b = (network.encode(golden.image("c1_landscape", side)) for side in (1, 2))
    torch.testing.assert_close(a.tokens, mid["enc1"], rtol=1e-4, atol=1e-5)
    assert torch.equal(a.positions, mid["pos1"][0]) and torch.equal(b.positions, mid["pos2"][0])
    for side, tokens in zip("12", network.decode(a, b)):
        for number, layer in enumerate(tokens):
            torch.testing.assert_close(layer, mid[f"dec{side}.{number}"], rtol=1e-4, atol=1e-5)
    head = network.downstream_head1
    assert isinstance(head, DptPointHead)
    raw = head.dpt(network.decode(a, b)[0], a.grid)
    torch.testing.assert_close(raw, mid["dpt1_raw"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FULL)
def test_full_size_networks_have_the_published_tensors(reference: Path, name: str) -> None:
    path = reference / "golden" / f"{name}_full_keys.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not among the reference data")
    published = json.loads(path.read_text(encoding="utf-8"))
    with torch.device("meta"):
        network = PairNetwork(PRESETS[FULL[name]])
    ours = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert ours == published["keys"] and list(ours) == list(published["keys"])
    assert sum(parameter.numel() for parameter in network.parameters()) == published["n_params_unique"]
    # The arguments stored with it, all of them text, and the shapes give the preset back.
    arguments = ", ".join(
        f"{key}={value if key not in TEXTS else repr(value)}" for key, value in published["constructor"].items()
    )
    shapes = {key: tuple(shape) for key, shape in published["keys"].items()}
    assert network_config(parse_constructor(f"Network({arguments})", name), shapes, name) == PRESETS[FULL[name]]


TEXTS = ("pos_embed", "patch_embed_cls", "head_type", "output_mode")


@pytest.mark.parametrize(
    ("name", "count"), [("mast3r", 688_638_856), ("dust3r_dpt", 571_171_208), ("dust3r_linear", 532_342_784)]
)
def test_full_size_parameter_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in PairNetwork(PRESETS[FULL[name]]).parameters()) == count


# ----------------------------------------------------------------------------------------- rotary positions


def test_positions_count_rows_then_columns() -> None:
    assert patch_positions(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_rotation_by_hand() -> None:
    """A head of 8: numbers 0 to 3 are turned by the row, 4 to 7 by the column; k is paired with k + 2."""
    x = torch.arange(1.0, 9.0).reshape(1, 1, 1, 8)
    row, column = 2, 3
    turned = rotate(x, rotation_of(torch.tensor([[row, column]]), 8, 100.0)).flatten()
    for half, position in ((0, row), (4, column)):
        for k in range(2):
            angle = position * 100.0 ** (-2 * k / 4)
            a, b = float(x[..., half + k]), float(x[..., half + k + 2])
            expected = (a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle))
            assert float(turned[half + k]) == pytest.approx(expected[0], rel=1e-5)
            assert float(turned[half + k + 2]) == pytest.approx(expected[1], rel=1e-5)


@pytest.mark.parametrize("head_dim", [4, 16, 64])
def test_products_depend_on_differences_of_positions_only(head_dim: int) -> None:
    q, k = torch.randn(2, 1, 1, 20, head_dim, dtype=torch.float64)
    at = patch_positions(4, 5)
    shifted = at + torch.tensor([7, 11])

    def products(positions: Tensor) -> Tensor:
        rotation = rotation_of(positions, head_dim, 100.0)
        return rotate(q, rotation) @ rotate(k, rotation).transpose(-1, -2)

    torch.testing.assert_close(products(at), products(shifted), rtol=0, atol=2e-5)
    assert not torch.allclose(products(at), q @ k.transpose(-1, -2), atol=1e-2)


def test_rotation_keeps_lengths_and_leaves_the_origin() -> None:
    x = torch.randn(2, 3, 6, 16)
    turned = rotate(x, rotation_of(patch_positions(2, 3), 16, 100.0))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])


# -------------------------------------------------------------------------------------- ranges of the outputs


def test_points_keep_their_direction() -> None:
    raw = torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.0, 0.8], [0.0, 0.0, 0.0]]) * math.expm1(5.0)
    torch.testing.assert_close(to_points(raw), expected)


def test_a_zero_descriptor_stays_zero() -> None:
    desc = to_descriptors(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    torch.testing.assert_close(desc, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


def test_confidence_by_mode() -> None:
    torch.testing.assert_close(to_confidence(torch.tensor([0.0]), ("exp", 1.0, math.inf)), torch.tensor([2.0]))
    torch.testing.assert_close(to_confidence(torch.tensor([0.0]), ("exp", 0.0, math.inf)), torch.tensor([1.0]))


def test_patches_are_unfolded_as_by_pixel_shuffle() -> None:
    tokens = torch.randn(2, 6, 5 * 4)
    expected = torch.nn.functional.pixel_shuffle(tokens.transpose(1, 2).reshape(2, 20, 2, 3), 2)
    assert torch.equal(unfold_patches(tokens, (2, 3), 2), expected.permute(0, 2, 3, 1))


# ------------------------------------------------------------------------------------------ pairs of pictures


def same(a: PairPrediction, b: PairPrediction) -> None:
    for field in fields(PairPrediction):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        assert (ours is None) == (theirs is None)
        assert ours is None or relative(ours, theirs) < 1e-4


@pytest.mark.parametrize("config", [SMALL, SMALL_DUST3R, SMALL_DPT])
def test_symmetric_is_two_single_predictions(config: PairNetworkConfig) -> None:
    network = small_network(config)
    image_a, image_b = picture(32, 48, 1, batch=2), picture(32, 48, 2, batch=2)
    there, back = network.predict_symmetric(network.encode(image_a), network.encode(image_b))
    same(there, network.predict_pair(image_a, image_b))
    same(back, network.predict_pair(image_b, image_a))
    assert (there.desc_a is None) == (config.desc_dim == 0)


def test_the_order_of_a_pair_counts() -> None:
    network = small_network()
    there = network.predict_pair(picture(32, 32, 1), picture(32, 32, 2))
    back = network.predict_pair(picture(32, 32, 2), picture(32, 32, 1))
    assert not torch.allclose(there.points_a, back.points_b_in_a, rtol=1e-2)


def test_each_pair_of_a_batch_is_on_its_own() -> None:
    network = small_network()
    a, b = picture(48, 32, 1, batch=3), picture(48, 32, 2, batch=3)
    together = network.predict_pair(a, b)
    for i in range(3):
        alone = network.predict_pair(a[i : i + 1], b[i : i + 1])
        assert relative(together.points_b_in_a[i : i + 1], alone.points_b_in_a) < 1e-4


@pytest.mark.parametrize("sizes", [((48, 64), (80, 48)), ((16, 16), (16, 112)), ((64, 48), (48, 64)), ((16, 16),) * 2])
def test_any_size_and_orientation(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    network = small_network()
    a, b = (network.encode(picture(*size, seed=i)) for i, size in enumerate(sizes))
    there, back = network.predict_symmetric(a, b)
    assert there.points_a.shape == (1, *sizes[0], 3) and there.points_b_in_a.shape == (1, *sizes[1], 3)
    assert back.points_a.shape == (1, *sizes[1], 3) and there.desc_b is not None
    assert there.desc_b.shape == (1, *sizes[1], 8)
    torch.testing.assert_close(there.desc_b.norm(dim=-1), torch.ones(1, *sizes[1]))
    assert bool((there.conf_a > 1).all()) and there.desc_conf_a is not None and bool((there.desc_conf_a > 0).all())


def test_a_frame_of_many_pairs_is_encoded_once() -> None:
    network = small_network()
    before = network.images_encoded
    encoded = [network.encode(picture(32, 32, seed)) for seed in range(4)]
    for i in range(4):
        for j in range(i):
            network.predict_symmetric(encoded[i], encoded[j])
    assert network.images_encoded == before + 4
    network.predict_pair(picture(32, 32, batch=2), picture(32, 32, batch=2))
    assert network.images_encoded == before + 8


def test_heads_stay_in_float32_under_autocast() -> None:
    network = small_network()
    a, b = picture(32, 48, 1), picture(32, 48, 2)
    exact = network.predict_pair(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network.predict_pair(a, b)
    for field in fields(PairPrediction):
        assert getattr(rough, field.name).dtype == torch.float32
    assert float((rough.desc_a * exact.desc_a).sum(-1).min()) > 0.98  # type: ignore[operator]
    assert relative(rough.points_a, exact.points_a) < 0.2


def test_gradients_reach_the_pictures_and_not_the_weights() -> None:
    network = small_network()
    image = picture(32, 32).requires_grad_()
    network.predict_pair(image, picture(32, 32, 1)).points_b_in_a.sum().backward()
    assert image.grad is not None and bool(image.grad.abs().sum() > 0)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_without_a_second_confidence_descriptors_take_that_of_the_points() -> None:
    pair = small_network(replace(SMALL, two_confs=False)).predict_pair(picture(16, 32), picture(16, 32, 1))
    assert pair.desc_conf_a is not None and torch.equal(pair.desc_conf_a, pair.conf_a)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (torch.rand(1, 3, 30, 32), r"32 x 30 pixels; width and height have to be multiples of 16"),
        (torch.rand(1, 3, 32, 17), r"17 x 32 pixels"),
        (torch.rand(3, 32, 32), r"wanted shape \(B, 3, H, W\), found \(3, 32, 32\)"),
        (torch.rand(1, 1, 32, 32), r"wanted shape"),
        (torch.rand(1, 3, 0, 32), r"wanted shape"),
        (torch.rand(0, 3, 32, 32), r"wanted shape"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"divide by 255"),
        (torch.rand(1, 3, 32, 32) * 255, r"wanted values in \[0, 1\]"),
        (torch.rand(1, 3, 32, 32) * 2 - 1, r"wanted values in \[0, 1\]"),
        (torch.full((1, 3, 32, 32), math.nan), r"wanted values in \[0, 1\], found nan"),
    ],
)
def test_pictures_that_do_not_fit(image: Tensor, text: str) -> None:
    network = small_network()
    with pytest.raises(ValueError, match=text):
        network.predict_pair(image, picture(32, 32))
    with pytest.raises(ValueError, match=text):
        network.predict_pair(picture(32, 32), image)


def test_batches_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 first and 1 second pictures"):
        small_network().predict_pair(picture(32, 32, batch=2), picture(32, 32))
    with pytest.raises(ValueError, match="tokens: wanted"):
        EncodedImages(torch.zeros(1, 5, 8), (2, 3))


# --------------------------------------------------------------------------------------------- configurations

OFFICIAL = (  # as published, but for the spaces and the line breaks
    "AsymmetricMASt3R(enc_depth=24, dec_depth=12, enc_embed_dim=1024, dec_embed_dim=768, enc_num_heads=16, "
    "dec_num_heads=12, pos_embed='RoPE100', img_size=(512, 512), head_type='catmlp+dpt', output_mode='pts3d+desc24', "
    "depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), patch_embed_cls='ManyAR_PatchEmbed', two_confs=True, "
    "desc_conf_mode=('exp', 0, inf))"
)


def test_the_published_constructor_text_is_the_preset() -> None:
    assert network_config(parse_constructor(OFFICIAL, "f"), {}, "f") == PRESETS[FULL["mast3r"]]


@pytest.mark.parametrize("config", [*PRESETS.values(), SMALL_DUST3R])
def test_texts_there_and_back(config: PairNetworkConfig) -> None:
    for kwargs in (parse_constructor(config.constructor(), "f"), parse_hub_json(config.hub_json(), "f")):
        assert network_config(kwargs, {}, "f") == config
    assert "Infinity" in config.hub_json() and "-inf" in config.constructor()


def test_presets_know_their_names() -> None:
    assert all(config.name == name for name, config in PRESETS.items())
    assert SMALL.name == "custom"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("__import__('os').system('touch hacked')", "named arguments"),
        ("Net(a=__import__('os').system('touch hacked'))", "a is not a plain value"),
        ("Net(enc_depth=[x for x in (1,)])", "enc_depth is not a plain value"),
        ("Net(enc_depth=1+1)", "enc_depth is not a plain value"),
        ("Net(**{'a': 1})", "named arguments only"),
        ("Net(3)", "named arguments"),
        ("lambda: 0", "constructor call"),
        ("Net(", "cannot be read"),
        ("Net(a=" + "(" * 5000, "cannot be read"),
        ("Net(a=" + "-" * 15000 + "1)", "f: "),
        ("", "cannot be read"),
        ("N" * 30_000, "30,000 characters"),
        ("Net(enc_depth=True)", "enc_depth is 'True'"),
        ("Net(surprise=1)", "surprise is not an argument"),
        ("Net(pos_embed='cosine')", "pos_embed"),
        ("Net(head_type='vgg')", "head_type 'vgg'"),
        ("Net(output_mode='pts3d+rgb')", "output_mode"),
        ("Net(depth_mode=('linear', -inf, inf))", "depth_mode"),
        ("Net(conf_mode=('sigmoid', 0, 1))", "conf_mode"),
        ("Net(conf_mode=None)", "conf_mode"),
        ("Net(norm_im2_in_dec=False)", "norm_im2_in_dec"),
        ("Net(patch_embed_cls='PatchEmbedDune')", "patch_embed_cls"),
        ("Net(enc_num_heads=7)", "enc_num_heads 7 does not fit enc_embed_dim 1024"),
        ("Net(enc_depth=1000000000)", "enc_depth 1000000000"),
        ("Net(img_size=(1, 2, 3))", "img_size"),
    ],
)
def test_texts_that_name_no_network(text: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^f:? ") as caught:
        kwargs = parse_constructor(text, "f")
        network_config({**parse_constructor(OFFICIAL, "f"), **kwargs}, {}, "f")
    assert wanted in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"enc_depth": '])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match=r"^f"):
        parse_hub_json(text, "f")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="neither its configuration nor its tensors give enc_embed_dim, enc_depth"):
        network_config({}, {}, "f")
    with pytest.raises(InputError, match="give enc_num_heads, dec_num_heads"):
        shapes = {name: tuple(tensor.shape) for name, tensor in small_network().state_dict().items()}
        network_config({}, shapes, "f")
