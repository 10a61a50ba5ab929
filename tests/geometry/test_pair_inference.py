"""Pairs of a clip through a network: masks in three places, each frame encoded once, results kept and found again."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_network import SMALL, SMALL_DPT, SMALL_DUST3R, small_network

from dyn4d.core.errors import InputError, RunError
from dyn4d.core.types import Camera, Clip, Timeline
from dyn4d.geometry import pair_inference
from dyn4d.geometry.network import PairNetwork
from dyn4d.geometry.pair_cache import PairCache, StoredPairResults, frame_digest
from dyn4d.geometry.pair_config import PairConfig
from dyn4d.geometry.pair_frames import clip_pair_frames, fill_background, make_pair_frame
from dyn4d.geometry.pair_inference import batch_size, choose_pairs, look_at_pairs, pair_memory
from dyn4d.geometry.pair_matcher import PairNetworkMatcher
from dyn4d.geometry.pair_results import PairFrame, PairResult, PairResultList
from dyn4d.geometry.weights import random_weights

CONFIG = PairConfig(graph="complete", size=64, subsample=4, border=0, precision="fp32")


def noise(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blob(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A random ellipse, about a quarter of the picture."""
    rng = np.random.default_rng(100 + seed)
    y, x = np.mgrid[:height, :width] + 0.5
    cx, cy = rng.uniform(0.35, 0.65, 2) * (width, height)
    return ((x - cx) / (0.3 * width)) ** 2 + ((y - cy) / (0.35 * height)) ** 2 < 1


def frames_of(config: PairConfig, count: int = 4, masks: list[np.ndarray] | None = None) -> list[PairFrame]:
    masks = masks or [blob(i) for i in range(count)]
    return [make_pair_frame(noise(i), masks[i], config) for i in range(count)]


def fresh_network(seed: int = 0) -> PairNetwork:
    network = PairNetwork(SMALL)
    network.load_state_dict(random_weights(SMALL, seed))
    return network


def same(one: PairResult, other: PairResult) -> bool:
    return all(
        torch.equal(torch.as_tensor(getattr(one, f.name)), torch.as_tensor(getattr(other, f.name)))
        for f in fields(PairResult)
    )


def all_same(one: Any, other: Any) -> bool:
    return list(one.pairs) == list(other.pairs) and all(same(a, b) for a, b in zip(one, other))


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Relative to the points' own distance, as rounding is."""
    wide = found.dim() == 2
    error, size = (
        ((found - wanted).norm(dim=-1), wanted.norm(dim=-1)) if wide else ((found - wanted).abs(), wanted.abs())
    )
    return found.shape == wanted.shape and bool((error <= 1e-4 * size + 1e-6).all())


class Note:
    """Remembers what it is told; stops the work after `stop_after` pairs."""

    def __init__(self, stop_after: int = 1 << 30) -> None:
        self.lines: list[str] = []
        self.total = self.known = self.steps = 0
        self.stop_after = stop_after

    def start(self, label: str, total: int, done: int = 0) -> None:
        self.total, self.known = total, done

    def update(self, **values: float) -> None:
        self.steps += 1
        if self.steps >= self.stop_after:
            raise KeyboardInterrupt

    def finish(self) -> None: ...

    def note(self, line: str) -> None:
        self.lines.append(line)


# ------------------------------------------------------------------------------------------------ what comes out


def test_results_are_the_networks_own_at_kept_pixels() -> None:
    network, frames = small_network(), frames_of(CONFIG, 2)
    (result,) = look_at_pairs(network, frames, CONFIG)
    a, b = (torch.tensor(f.image).permute(2, 0, 1)[None].float() / 255 for f in frames)
    ab, ba = network.predict_pair(a, b), network.predict_pair(b, a)
    kept_a, kept_b = (torch.from_numpy(f.kept) for f in frames)
    for found, wanted in (
        (result.a_in_a, ab.points_a[0][kept_a]), (result.b_in_a, ab.points_b_in_a[0][kept_b]),
        (result.b_in_b, ba.points_a[0][kept_b]), (result.a_in_b, ba.points_b_in_a[0][kept_a]),
        (result.conf_a_in_a, ab.conf_a[0][kept_a]), (result.conf_b_in_a, ab.conf_b[0][kept_b]),
        (result.conf_b_in_b, ba.conf_a[0][kept_b]), (result.conf_a_in_b, ba.conf_b[0][kept_a]),
    ):  # fmt: skip
        assert close(found, wanted)
    assert len(result.weight) > 5


@pytest.mark.parametrize("batch", [2, 5])
def test_batches_change_nothing_but_rounding(batch: int) -> None:
    frames = frames_of(CONFIG)
    one = look_at_pairs(small_network(), frames, replace(CONFIG, batch=1))
    many = look_at_pairs(small_network(), frames, replace(CONFIG, batch=batch))
    assert one.pairs == many.pairs
    for a, b in zip(one, many):
        assert close(a.a_in_b, b.a_in_b)
        pairs_a, pairs_b = (set(map(tuple, torch.cat([r.xy_a, r.xy_b], 1).tolist())) for r in (a, b))
        assert len(pairs_a & pairs_b) >= 0.95 * max(len(pairs_a), 1)


@pytest.mark.parametrize("graph", ["complete", "swin-2-noncyclic", "logwin-2", "oneref-1"])
def test_every_frame_is_encoded_once(graph: str) -> None:
    network, frames = fresh_network(), frames_of(CONFIG, 6)
    results = look_at_pairs(network, frames, replace(CONFIG, graph=graph))
    assert network.images_encoded == 6
    assert len(results) == len(set(results.pairs)) == len(choose_pairs(6, replace(CONFIG, graph=graph)))
    assert all(a < b for a, b in results.pairs)


def test_views_of_other_sizes_and_orientations_go_together() -> None:
    sizes = [(48, 64), (64, 48), (48, 64), (32, 64)]
    frames = [make_pair_frame(noise(i, *size), blob(i, *size), CONFIG) for i, size in enumerate(sizes)]
    network = fresh_network()
    results = look_at_pairs(network, frames, CONFIG)
    assert network.images_encoded == 4 and len(results) == 6
    for result in results:
        assert len(result.a_in_a) == frames[result.frame_a].kept.sum()


@pytest.mark.parametrize("config", [SMALL_DUST3R, SMALL_DPT], ids=["linear", "dpt"])
def test_networks_without_descriptors_match_by_points(config: Any) -> None:
    frames = frames_of(CONFIG, 3)
    for result in look_at_pairs(small_network(config), frames, CONFIG):
        assert bool(torch.isfinite(result.weight).all()) and bool((result.weight > 1).all())
        assert frames[result.frame_a].matched[result.xy_a[:, 1], result.xy_a[:, 0]].all()


def test_a_list_of_ones_own_and_a_prefilter() -> None:
    frames = frames_of(CONFIG)
    found = look_at_pairs(small_network(), frames, CONFIG, pairs=[(3, 0), (0, 3), (1, 2)])
    assert found.pairs == [(0, 3), (1, 2)]
    assert choose_pairs(4, replace(CONFIG, prefilter="seq1")) == [(0, 1), (1, 2), (2, 3)]
    with pytest.raises(InputError, match=r"\(0, 9\)"):
        look_at_pairs(small_network(), frames, CONFIG, pairs=[(0, 9)])


def test_one_frame_and_no_frame_are_legal() -> None:
    for count in (0, 1):
        assert len(look_at_pairs(small_network(), frames_of(CONFIG, count), CONFIG)) == 0


def test_swapped_is_the_other_way_round() -> None:
    (result,) = look_at_pairs(small_network(), frames_of(CONFIG, 2), CONFIG)
    assert same(result.swapped().swapped(), result)
    assert torch.equal(result.swapped().a_in_b, result.b_in_a) and torch.equal(result.swapped().xy_a, result.xy_b)


# ------------------------------------------------------------------------------------------------------- masks


def masks_for_properties() -> list[tuple[str, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    one_pixel, border, full = (np.zeros((48, 64), bool) for _ in range(3))
    one_pixel[20, 30] = True
    border[:, :3] = border[:2] = True
    full[:] = True
    return [
        ("pixel", one_pixel, blob(1)),
        ("border", border, border),
        ("full", full, blob(2)),
        ("blobs", blob(3), blob(4)),
        *((f"random {p}", rng.random((48, 64)) < p, rng.random((48, 64)) < p) for p in (0.02, 0.5)),
    ]


CASES = masks_for_properties()
SIZES = {"as it is": (48, 64), "made smaller": (100, 140), "enlarged": (30, 41)}
FILLS = [("grey", "whole"), ("mean", "whole"), ("black", "object"), ("white", "object")]


@pytest.mark.parametrize(("name", "mask_a", "mask_b"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("fill", ["none", "grey"])
def test_no_match_has_an_end_outside(name: str, mask_a: np.ndarray, mask_b: np.ndarray, fill: str) -> None:
    config = replace(CONFIG, fill=fill)
    frames = frames_of(config, 2, [mask_a, mask_b])
    (result,) = look_at_pairs(small_network(), frames, config)
    assert len(result.weight) > 0
    assert mask_a[result.xy_a[:, 1], result.xy_a[:, 0]].all() and mask_b[result.xy_b[:, 1], result.xy_b[:, 0]].all()
    assert len(result.a_in_a) == mask_a.sum() and len(result.b_in_a) == mask_b.sum()
    assert all(bool(torch.isfinite(getattr(result, f.name)).all()) for f in fields(result)[2:])


@pytest.mark.parametrize("size", [(48, 64), (90, 150), (33, 40)], ids=["as it is", "made smaller", "enlarged"])
def test_no_match_has_an_end_outside_whatever_the_resizing(size: tuple[int, int]) -> None:
    masks = [blob(i, *size) & (np.random.default_rng(i).random(size) < 0.9) for i in range(2)]
    found = PairNetworkMatcher(small_network(), CONFIG)(noise(0, *size), noise(1, *size), *masks)
    for xy, mask in ((found.xy_a, masks[0]), (found.xy_b, masks[1])):
        column, row = xy.floor().long().unbind(-1)
        assert mask[row, column].all()
    assert len(found) > 0


def test_full_masks_change_nothing() -> None:
    """With every switch on, a mask that covers everything gives what is had with every switch off."""
    full = [np.ones((48, 64), bool)] * 3
    on = replace(CONFIG, fill="grey")
    off = replace(CONFIG, fill="none", mask_confidence=False, mask_matching=False)
    masked = look_at_pairs(small_network(), frames_of(on, 3, full), on)
    assert all_same(masked, look_at_pairs(small_network(), frames_of(off, 3, full), off))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("fill", "view"), FILLS)
def test_background_changes_nothing_once_it_is_filled(fill: str, view: str, size: tuple[int, int]) -> None:
    config = replace(CONFIG, fill=fill, view=view)
    masks = [blob(i, *size) for i in range(3)]
    found = []
    for background in (50, 60):
        pictures = [np.where(masks[i][..., None], noise(i, *size), noise(background + i, *size)) for i in range(3)]
        frames = [make_pair_frame(picture, mask, config) for picture, mask in zip(pictures, masks)]
        found.append(look_at_pairs(small_network(), frames, config))
    assert all_same(*found)
    assert sum(len(result.weight) for result in found[0]) > 0


def test_background_is_seen_where_it_is_not_filled() -> None:
    """The check above could fail."""
    mask = [blob(0), blob(1)]
    pictures = [[np.where(mask[i][..., None], noise(i), noise(b + i)) for i in range(2)] for b in (50, 60)]
    found = [
        look_at_pairs(small_network(), [make_pair_frame(p, m, CONFIG) for p, m in zip(both, mask)], CONFIG)
        for both in pictures
    ]
    assert not torch.equal(found[0][0].a_in_a, found[1][0].a_in_a)


def test_each_switch_does_its_own_part() -> None:
    masks = [blob(0), blob(1)]
    counts = [int(mask.sum()) for mask in masks]
    off = replace(CONFIG, mask_confidence=False, mask_matching=False)
    (free,) = look_at_pairs(small_network(), frames_of(off, 2, masks), off)
    assert len(free.a_in_a) == 48 * 64 and not masks[0][free.xy_a[:, 1], free.xy_a[:, 0]].all()
    matching = replace(off, mask_matching=True)
    (result,) = look_at_pairs(small_network(), frames_of(matching, 2, masks), matching)
    assert len(result.a_in_a) == 48 * 64 and masks[0][result.xy_a[:, 1], result.xy_a[:, 0]].all()
    confidence = replace(off, mask_confidence=True)
    (result,) = look_at_pairs(small_network(), frames_of(confidence, 2, masks), confidence)
    assert [len(result.a_in_a), len(result.b_in_b)] == counts
    assert torch.equal(result.xy_a, free.xy_a) and torch.equal(result.xy_b, free.xy_b)


def test_empty_masks_leave_a_frame_out_with_a_line() -> None:
    masks = [blob(0), np.zeros((48, 64), bool), blob(2)]
    note, network = Note(), fresh_network()
    results = look_at_pairs(network, frames_of(CONFIG, 3, masks), CONFIG, progress=note)
    assert results.pairs == [(0, 2)] and network.images_encoded == 2
    assert any("frames 1 have an empty mask" in line and "2 pairs" in line for line in note.lines)


def test_fill_colours_only_the_background() -> None:
    image, mask = noise(0), blob(0)
    for fill, colour in (("black", 0), ("white", 255), ("grey", 128)):
        out = fill_background(image, mask, fill)
        assert (out[mask] == image[mask]).all() and (out[~mask] == colour).all()
    mean = fill_background(image, mask, "mean")
    np.testing.assert_allclose(mean[~mask][0], image[mask].mean(0), atol=0.5)
    assert (fill_background(image, np.zeros_like(mask), "mean") == 128).all()
    assert fill_background(image, mask, "none") is image


def test_the_object_view_carries_K_exactly() -> None:
    """A 3D point of the object falls on the same spot of the object in the whole picture and in the view."""
    K = torch.tensor([[80.0, 0, 70], [0, 82.0, 44], [0, 0, 1]], dtype=torch.float64)
    mask = np.zeros((96, 128), bool)
    mask[30:60, 80:120] = True
    frame = make_pair_frame(noise(0, 96, 128), mask, replace(CONFIG, view="object"), K)
    point = torch.tensor([0.4, 0.05, 1.0], dtype=torch.float64)
    uv = (K @ point)[:2]
    assert frame.K is not None
    torch.testing.assert_close((frame.K @ point)[:2], frame.view.to_view(uv), rtol=0, atol=1e-9)
    assert frame.kept.mean() > 0.3 > mask.mean()


# ------------------------------------------------------------------------------------------------- kept on disk


def test_the_second_time_nothing_is_computed(tmp_path: Path) -> None:
    network, frames = fresh_network(), frames_of(CONFIG)
    first = look_at_pairs(network, frames, CONFIG, cache=tmp_path)
    in_memory = look_at_pairs(network, frames, CONFIG)
    assert isinstance(first, StoredPairResults) and isinstance(in_memory, PairResultList)
    assert all_same(first, in_memory)
    before, note = network.images_encoded, Note()
    again = look_at_pairs(network, frames, CONFIG, cache=tmp_path, progress=note)
    assert network.images_encoded == before and note.known == note.total == 6 and note.steps == 0
    assert all_same(first, again)
    assert not list(tmp_path.glob("encoded-*")) and len(list(tmp_path.glob("pair-*"))) == 6


def test_without_matches_the_rest_is_the_same_and_kept_by_itself(tmp_path: Path) -> None:
    network, frames = fresh_network(), frames_of(CONFIG)
    whole = look_at_pairs(network, frames, CONFIG, cache=tmp_path)
    bare = look_at_pairs(network, frames, CONFIG, matches=False, cache=tmp_path)
    assert len(list(tmp_path.glob("pair-*"))) == 12
    for one, other in zip(whole, bare):
        assert len(one.weight) > 0 == len(other.weight) == len(other.xy_a) == len(other.xy_b)
        assert torch.equal(one.a_in_b, other.a_in_b) and torch.equal(one.conf_b_in_a, other.conf_b_in_a)
    assert all_same(bare, look_at_pairs(network, frames, CONFIG, matches=False, cache=tmp_path))


def test_stopped_it_goes_on_and_encodes_nothing_twice(tmp_path: Path) -> None:
    network, frames = fresh_network(), frames_of(CONFIG, 5)
    config = replace(CONFIG, batch=2)
    with pytest.raises(KeyboardInterrupt):
        look_at_pairs(network, frames, config, cache=tmp_path, progress=Note(stop_after=4))
    assert len(list(tmp_path.glob("pair-*"))) == 4
    note = Note()
    results = look_at_pairs(network, frames, config, cache=tmp_path, progress=note)
    assert note.known == 4 and note.steps == 6 and network.images_encoded == 5
    whole = look_at_pairs(network, frames, config)
    for one, other in zip(results, whole):
        assert close(one.a_in_b, other.a_in_b)


def test_names_depend_on_all_that_matters(tmp_path: Path) -> None:
    network, frames = fresh_network(), frames_of(CONFIG, 2)
    moved = frames[0].kept.copy()
    moved[:, 1:] = frames[0].kept[:, :-1]
    other_pixel = frames[0].image.copy()
    other_pixel[0, 0, 0] ^= 1
    edited = fresh_network()
    edited.dec_norm.bias[3] += 1e-3

    def names(
        network: PairNetwork, first: PairFrame, second: PairFrame = frames[1], precision: str = "fp32", **options: int
    ) -> str:
        cache = PairCache.of(tmp_path, network, {"subsample": 8, **options}, precision)
        return cache.pair_file(frame_digest(first), frame_digest(second)).name

    all_names = [
        names(network, frames[0]),
        names(network, replace(frames[0], kept=moved)),
        names(network, replace(frames[0], matched=moved)),
        names(network, replace(frames[0], image=other_pixel)),
        names(network, frames[1], frames[0]),
        names(network, frames[0], precision="bf16"),
        names(network, frames[0], subsample=4),
        names(edited, frames[0]),
    ]
    assert len(set(all_names)) == len(all_names)
    assert names(fresh_network(), make_pair_frame(noise(0), blob(0), CONFIG)) == all_names[0]


def test_damaged_files_are_computed_again_with_a_line(tmp_path: Path) -> None:
    network, frames = fresh_network(), frames_of(CONFIG, 3)
    first = list(look_at_pairs(network, frames, CONFIG, cache=tmp_path))
    files = sorted(tmp_path.glob("pair-*"))
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:-200])
    note = Note()
    again = look_at_pairs(network, frames, CONFIG, cache=tmp_path, progress=note)
    assert note.known == 1 and sum("computed again" in line for line in note.lines) == 2
    for one, other in zip(first, again):
        assert close(one.a_in_a, other.a_in_a)


def test_a_damaged_encoded_frame_is_encoded_again(tmp_path: Path) -> None:
    network, frames = fresh_network(), frames_of(CONFIG, 3)
    with pytest.raises(KeyboardInterrupt):
        look_at_pairs(network, frames, replace(CONFIG, batch=1), cache=tmp_path, progress=Note(stop_after=1))
    for file in tmp_path.glob("encoded-*"):
        file.write_bytes(b"nothing")
    look_at_pairs(network, frames, CONFIG, cache=tmp_path)
    assert network.images_encoded == 5  # two before, three after


# --------------------------------------------------------------------------------------------- memory and precision


def test_too_little_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    network, sizes = fresh_network(), []
    whole = network.predict_symmetric

    def narrow(a: Any, b: Any) -> Any:
        sizes.append(len(a))
        if len(a) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return whole(a, b)

    monkeypatch.setattr(network, "predict_symmetric", narrow)
    results = look_at_pairs(network, frames_of(CONFIG), replace(CONFIG, batch=6))
    assert len(results) == 6 and max(sizes[2:]) <= 2 and network.images_encoded == 4

    def never(a: Any, b: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(network, "predict_symmetric", never)
    with pytest.raises(RunError, match="too little memory for one pair of 64 x 48"):
        look_at_pairs(network, frames_of(CONFIG), CONFIG)


def test_the_batch_grows_with_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network, grid = small_network(), (3, 4)
    need = pair_memory(network, grid, grid)
    assert pair_memory(network, (6, 8), grid) > need > 4 * 48 * 64 * 3
    for free, wanted in ((None, 1), (0, 1), (10 * need, 6), (1000 * need, 8)):
        monkeypatch.setattr(pair_inference, "free_memory", lambda device, free=free: free)
        assert batch_size(network, grid, grid) == wanted
    assert batch_size(network, grid, grid, asked=3) == 3


def test_bf16_is_close_to_fp32() -> None:
    frames = frames_of(CONFIG, 2)
    (full,) = look_at_pairs(small_network(), frames, CONFIG)
    (half,) = look_at_pairs(small_network(), frames, replace(CONFIG, precision="bf16"))
    error = (full.a_in_a - half.a_in_a).norm(dim=-1) / full.a_in_a.norm(dim=-1)
    assert half.a_in_a.dtype == torch.float32 and 0 < float(error.median()) < 0.04


# -------------------------------------------------------------------------------------------------- clips, the matcher


def test_a_clip_gives_its_frames_with_K() -> None:
    K = torch.tensor([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]], dtype=torch.float64).repeat(3, 1, 1)
    timeline = Timeline(np.arange(3) / 2, np.arange(3) / 24, ("a", "b", "c"))
    clip = Clip(
        "clip", Path("clip"), [noise(i) for i in range(3)], [blob(i) for i in range(3)], np.arange(3), timeline, 64, 48,
        cameras=Camera(K, torch.eye(4, dtype=torch.float64).repeat(3, 1, 1), 64, 48),
    )  # fmt: skip
    frames = clip_pair_frames(clip, CONFIG)
    assert len(frames) == 3
    for row, frame in enumerate(frames):
        wanted = make_pair_frame(noise(row), blob(row), CONFIG, K[row])
        assert (frame.image == wanted.image).all() and frame.K is not None and wanted.K is not None
        assert torch.equal(frame.K, wanted.K)


def test_the_matcher_is_legal_without_anything_to_match() -> None:
    matcher = PairNetworkMatcher(small_network(), CONFIG)
    assert len(matcher(noise(0), noise(1), np.zeros((48, 64), bool), blob(0))) == 0
    found = matcher(noise(0), noise(1, 64, 48), blob(0), blob(1, 64, 48))
    assert set(found.frame_a.tolist()) == {0} and set(found.frame_b.tolist()) == {1}


@pytest.mark.parametrize(
    "wrong", [{"size": 50}, {"fill": "pink"}, {"view": "half"}, {"precision": "fp8"}, {"subsample": 0}, {"margin": -1}]
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"geometry\.pairs\.{next(iter(wrong))}"):
        PairConfig(**wrong)
