"""dyn4d's own masked network: what it may not see, what its points obey, and how it is loaded and asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dyn4d.core.errors import InputError
from dyn4d.geometry import own_weights
from dyn4d.geometry.masked_network import MaskedPairNetwork, RayHead, make_network, usual_hints
from dyn4d.geometry.network import PairNetwork, ViewHints
from dyn4d.geometry.network_config import PairNetworkConfig
from dyn4d.geometry.own_weights import LICENCE, save_own_weights
from dyn4d.geometry.pair_config import PairConfig
from dyn4d.geometry.pair_frames import make_pair_frame
from dyn4d.geometry.pair_hints import frame_hints, suited
from dyn4d.geometry.pair_inference import look_at_pairs
from dyn4d.geometry.weights import describe_weights, load_pair_network, random_weights

TINY = PairNetworkConfig(
    head_type="rays", desc_dim=8, two_confs=True, enc_embed_dim=32, enc_depth=2, enc_num_heads=2, dec_embed_dim=32,
    dec_depth=2, dec_num_heads=2, img_size=(64, 64), stem=(8, 8, 16), fusion_dim=8,
)  # fmt: skip


@pytest.fixture
def network() -> PairNetwork:
    made = make_network(TINY)
    made.load_state_dict({name: 0.5 * value for name, value in random_weights(TINY, 1).items()})
    return made


def hints(mask: torch.Tensor, *, known: bool = True, focal: float = 70.0) -> ViewHints:
    batch, height, width = mask.shape
    centre = torch.tensor([[0.4 * width, 0.6 * height]]).repeat(batch, 1)
    return ViewHints(mask, torch.full((batch, 2), focal), centre, torch.full((batch,), known))


def half_mask(batch: int = 1, height: int = 64, width: int = 64) -> torch.Tensor:
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    mask[:, 8:50, 10:40] = True
    return mask


def test_untrained_it_says_a_plane() -> None:
    said = MaskedPairNetwork(TINY).predict_pair(torch.rand(2, 3, 64, 48), torch.rand(2, 3, 64, 48))
    assert torch.allclose(said.points_a[..., 2], torch.ones(2, 64, 48))
    normal = torch.linalg.svdvals(said.points_b_in_a.flatten(1, 2) - said.points_b_in_a.flatten(1, 2).mean(1)[:, None])
    assert float(normal[:, 2].max()) < 1e-4 * float(normal[:, 1].min())


def test_the_background_has_no_influence(network: PairNetwork) -> None:
    mask, picture = half_mask(2), torch.rand(2, 3, 64, 64)
    other = torch.where(mask[:, None], picture, torch.rand(2, 3, 64, 64))
    a, b = (network.encode(each, hints(mask)) for each in (picture, other))
    assert torch.equal(a.tokens, b.tokens) and all(torch.equal(x, y) for x, y in zip(a.maps, b.maps))
    changed = network.encode(torch.where(mask[:, None], 1 - picture, picture), hints(mask))
    assert not torch.allclose(a.tokens, changed.tokens, atol=1e-3)


def test_points_of_a_lie_on_the_rays_of_a_known_lens(network: PairNetwork) -> None:
    told = hints(half_mask())
    a = network.encode(torch.rand(1, 3, 64, 64), told)
    b = network.encode(torch.rand(1, 3, 64, 64), told)
    points = network.predict_encoded(a, b).points_a[0]
    x = told.focal[0, 0] * points[..., 0] / points[..., 2] + told.centre[0, 0]
    y = told.focal[0, 1] * points[..., 1] / points[..., 2] + told.centre[0, 1]
    columns, rows = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="xy")
    assert torch.allclose(x, columns, atol=1e-3) and torch.allclose(y, rows, atol=1e-3)
    assert float(points[..., 2].std()) > 1e-3


def test_points_of_b_differ_from_its_own_by_one_similarity(network: PairNetwork) -> None:
    """All distances between them change by the same factor."""
    told = hints(half_mask())
    a = network.encode(torch.rand(1, 3, 64, 64), told)
    b = network.encode(torch.rand(1, 3, 64, 64), told)
    captured: list[torch.Tensor] = []
    head = network.head
    assert isinstance(head, RayHead)
    plain = head._points

    def caught(*args: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        captured.append(plain(*args)[0])
        return plain(*args)

    head._points = caught  # type: ignore[method-assign]
    moved = network.predict_encoded(a, b).points_b_in_a[0].reshape(-1, 3)
    own = captured[0][1].reshape(-1, 3)
    rows = torch.randint(0, len(own), (30,), generator=torch.Generator().manual_seed(0))
    before, after = torch.pdist(own[rows]), torch.pdist(moved[rows])
    assert torch.allclose(after, before * (after.sum() / before.sum()), atol=1e-3)
    assert not torch.allclose(own, moved, atol=1e-2)


def test_both_orders_in_one_batch_and_sizes_that_differ(network: PairNetwork) -> None:
    a, b = network.encode(torch.rand(2, 3, 64, 48)), network.encode(torch.rand(2, 3, 64, 48))
    there, back = network.predict_symmetric(a, b)
    assert torch.allclose(there.points_b_in_a, network.predict_encoded(a, b).points_b_in_a, atol=1e-5)
    assert torch.allclose(back.points_a, network.predict_encoded(b, a).points_a, atol=1e-5)
    narrow = network.encode(torch.rand(2, 3, 32, 80))
    said = network.predict_encoded(a, narrow)
    assert (
        said.points_b_in_a.shape == (2, 32, 80, 3) and said.desc_a is not None and said.desc_a.shape == (2, 64, 48, 8)
    )
    assert bool((said.conf_a >= 1).all())


def test_hints_of_another_size_are_refused(network: PairNetwork) -> None:
    with pytest.raises(ValueError, match=r"hints\.mask"):
        network.encode(torch.rand(1, 3, 64, 64), usual_hints(torch.rand(1, 3, 32, 32)))


def test_frames_tell_mask_and_lens() -> None:
    mask = np.zeros((120, 200), bool)
    mask[30:80, 100:140] = True
    config = PairConfig(size=64, view="square")
    K = torch.tensor([[300.0, 0, 95], [0, 310, 62], [0, 0, 1]])
    known, guessed = (make_pair_frame(np.zeros((120, 200, 3), np.uint8), mask, config, k) for k in (K, None))
    assert (known.width, known.height) == (64, 64)
    told = frame_hints([known, guessed])
    assert told.known.tolist() == [True, False]
    scale = known.view.scale[0]
    assert torch.allclose(told.focal[0], torch.tensor([300.0, 310.0]) * scale)
    assert torch.allclose(told.focal[1], torch.full((2,), 1.2 * 200 * scale))
    assert torch.allclose(told.centre[1], guessed.view.to_view(torch.tensor([100.0, 60.0])))


def test_a_clip_is_looked_at_with_masks_and_from_the_cache(network: PairNetwork, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), bool)
    mask[10:50, 12:44] = True
    config = PairConfig(size=64, graph="complete")
    frames = [make_pair_frame(rng.integers(0, 255, (64, 64, 3), np.uint8), mask, config) for _ in range(3)]
    plain = look_at_pairs(network, frames, config)
    stored = look_at_pairs(network, frames, config, cache=tmp_path)
    before = network.images_encoded
    again = look_at_pairs(network, frames, config, cache=tmp_path)
    assert network.images_encoded == before
    for one, two, three in zip(plain, stored, again):
        assert torch.allclose(one.a_in_a, two.a_in_a, atol=1e-5) and torch.equal(two.a_in_a, three.a_in_a)
    black = [replace(f, image=np.where(f.kept[..., None], f.image, 0).astype(np.uint8)) for f in frames]
    for one, two in zip(plain, look_at_pairs(network, black, config)):
        assert torch.equal(one.b_in_a, two.b_in_a)
    told = [replace(f, K=torch.tensor([[90.0, 0, 32], [0, 90, 32], [0, 0, 1]])) for f in frames]
    look_at_pairs(network, told, config, cache=tmp_path)
    assert network.images_encoded > before + 3  # another lens is another question


def test_views_are_square_unless_asked_otherwise(network: PairNetwork) -> None:
    assert suited(network.config, PairConfig()) == PairConfig(size=64, view="square", graph="swin-2-noncyclic")
    assert suited(network.config, PairConfig(size=128)).size == 128
    assert suited(PairNetworkConfig(), PairConfig()) == PairConfig()


def test_weights_come_back_with_their_configuration_and_terms(network: PairNetwork, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_own_weights(file, TINY, network.state_dict(), {"samples": 3})
    assert file.stat().st_size < 2 * sum(p.numel() for p in network.parameters()) + 20_000
    loaded = load_pair_network(file)
    assert loaded.config == TINY and loaded.notes == (f"weights: {LICENCE}",)
    picture = torch.rand(1, 3, 64, 64)
    assert torch.allclose(loaded.predict_pair(picture, picture).points_a,
                          network.predict_pair(picture, picture).points_a, rtol=0.02, atol=0.02)  # fmt: skip
    info = describe_weights(file)
    assert info.licence == LICENCE and info.dtypes == ("float16",)


def test_damage_is_named(network: PairNetwork, tmp_path: Path) -> None:
    tensors = dict(network.state_dict())
    tensors.pop("decoder_embed.bias")
    save_own_weights(tmp_path / "less.safetensors", TINY, tensors)
    with pytest.raises(InputError, match=r"decoder_embed.bias\) missing"):
        load_pair_network(tmp_path / "less.safetensors")
    whole = tmp_path / "whole.safetensors"
    save_own_weights(whole, TINY, network.state_dict())
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cut\.safetensors"):
        load_pair_network(tmp_path / "cut.safetensors")


def test_small_is_what_comes_with_the_package(
    network: PairNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "small.safetensors"
    monkeypatch.setattr(own_weights, "SMALL", file)
    with pytest.raises(InputError, match="do not come with this copy"):
        load_pair_network("small")
    save_own_weights(file, TINY, network.state_dict())
    assert load_pair_network("small").config == TINY


def test_sizes_that_make_no_network_are_refused() -> None:
    with pytest.raises(InputError, match="stem"):
        replace(TINY, stem=(0, 8, 8))
    with pytest.raises(InputError, match="descriptors"):
        replace(TINY, desc_dim=0)
