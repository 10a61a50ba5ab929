"""A pair network over a clip: every frame encoded once, every pair decoded once in both orders, results kept on disk.

Stopped at any time, the next call goes on with the pairs that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.errors import InputError, RunError
from dyn4d.core.listing import counted
from dyn4d.core.memory import free_memory, ran_out
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import PairPrediction
from dyn4d.geometry.network import EncodedImages, PairNetwork
from dyn4d.geometry.pair_cache import (
    PairCache,
    StoredPairResults,
    frame_digest,
    image_digest,
    load_result,
    load_tokens,
    save_result,
    save_tokens,
)
from dyn4d.geometry.pair_config import PairConfig
from dyn4d.geometry.pair_hints import frame_hints, hints_text
from dyn4d.geometry.pair_results import PairFrame, PairResult, PairResultList
from dyn4d.matching.pairs import Prefilter, listed_pairs, scene_pairs
from dyn4d.matching.reciprocal import WeightedMatches, extract_correspondences, fast_reciprocal_matches

SHARE_OF_FREE = 0.6  # of the free memory that a batch may take
MOST = {"cpu": 8, "cuda": 64}  # larger batches gain nothing
POOL = 4  # frames ahead of need that are encoded at a time, at most; more would only hold tokens


# ---------------------------------------------------------------------------------------- precision and memory


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "fp32" or "bf16": what "auto" means on a device. Emulated bf16 is slower than fp32, by far."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    has_amx: Callable[[], bool] | None = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return "bf16" if device.type == "cpu" and has_amx is not None and has_amx() else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Where the network runs in: nothing for fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def pair_memory(network: PairNetwork, grid_a: tuple[int, int], grid_b: tuple[int, int]) -> int:
    """About how many bytes one symmetric pair takes while it is decoded, at the most: the last layers of the heads, of
    two pictures at a time, and what comes out of both."""
    config = network.config
    patches = grid_a[0] * grid_a[1] + grid_b[0] * grid_b[1]
    pixels = patches * config.patch_size**2
    if config.head_type == "linear":
        wide = 8.0
    else:
        first, last = config.dpt_head_dims
        wide = 2.0 * first + 2.0 * last + config.dpt_feature_dim  # in and out of the widest convolutions, at full size
    described = 6.0 * (config.desc_dim + 1) if config.desc_dim else 0.0
    transformer = (
        2 * patches * (2 * config.enc_embed_dim + (config.dec_depth + 8 * config.mlp_ratio) * config.dec_embed_dim)
    )
    return int(4 * (pixels * (wide + described + 8) + transformer))


def batch_size(network: PairNetwork, grid_a: tuple[int, int], grid_b: tuple[int, int], asked: int = 0) -> int:
    """How many pairs to decode at a time: as many as were asked for, or as fit into the free memory."""
    if asked > 0:
        return asked
    free = free_memory(network.device)
    if free is None:
        return 1
    fits = int(SHARE_OF_FREE * free / pair_memory(network, grid_a, grid_b))
    return max(1, min(fits, MOST.get(network.device.type, 1)))


# ----------------------------------------------------------------------------------------------- one pair's result


def _matches(
    ab: PairPrediction, ba: PairPrediction, index: int, a: PairFrame, b: PairFrame, config: PairConfig
) -> WeightedMatches:
    device = ab.points_a.device
    masks = torch.from_numpy(a.matched).to(device), torch.from_numpy(b.matched).to(device)
    if ab.desc_a is not None:
        second = None if ba.desc_b is ab.desc_a else ba  # one pass for both orders says nothing new the second time
        return extract_correspondences(
            ab, second, masks, subsample=config.subsample, max_rounds=config.max_rounds, border=config.border,
            weights="sqrt", index=index,
        )  # fmt: skip
    # no descriptors: the same spot of a rigid scene has the same place in a's camera
    found = fast_reciprocal_matches(
        ab.points_a[index], ab.points_b_in_a[index], mask_a=masks[0], mask_b=masks[1], dist="l2",
        subsample=config.subsample, max_rounds=config.max_rounds, border=config.border,
    )  # fmt: skip
    (xa, ya), (xb, yb) = found.xy_a.unbind(-1), found.xy_b.unbind(-1)
    weight = torch.minimum(ab.conf_a[index, ya, xa], ab.conf_b[index, yb, xb]).float()
    good = torch.isfinite(weight)
    return WeightedMatches(found.xy_a[good], found.xy_b[good], weight[good])


def _no_matches() -> WeightedMatches:
    nothing = torch.zeros(0, 2, dtype=torch.int64)
    return WeightedMatches(nothing, nothing, torch.zeros(0))


def pair_result(
    ab: PairPrediction,
    ba: PairPrediction,
    index: int,
    pair: tuple[int, int],
    a: PairFrame,
    b: PairFrame,
    config: PairConfig,
    *,
    matched: bool = True,
) -> PairResult:
    """What counts of one pair of a batch, on the CPU. matched: look for matches, too."""
    matches = _matches(ab, ba, index, a, b, config) if matched else _no_matches()
    pixels_a, pixels_b = a.pixels, b.pixels

    def points(values: Tensor, pixels: Tensor) -> Tensor:
        return values[index].reshape(-1, 3)[pixels.to(values.device)].float().cpu()

    def conf(values: Tensor, pixels: Tensor) -> Tensor:
        return values[index].reshape(-1)[pixels.to(values.device)].float().cpu()

    return PairResult(
        *pair,
        points(ab.points_a, pixels_a), points(ab.points_b_in_a, pixels_b),
        points(ba.points_a, pixels_b), points(ba.points_b_in_a, pixels_a),
        conf(ab.conf_a, pixels_a), conf(ab.conf_b, pixels_b), conf(ba.conf_a, pixels_b), conf(ba.conf_b, pixels_a),
        matches.xy_a.cpu(), matches.xy_b.cpu(), matches.weight.cpu(),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- a whole clip


@dataclass
class _Encoder:
    """Tokens of the frames that are still needed: encoded once, kept on the CPU, dropped after their last pair."""

    network: PairNetwork
    frames: Sequence[PairFrame]
    cache: PairCache | None
    low: Callable[[], AbstractContextManager[Any]]

    def __post_init__(self) -> None:
        self.tokens: dict[int, EncodedImages] = {}
        self.files = [None if self.cache is None else self.cache.tokens_file(self._digest(f)) for f in self.frames]

    def _digest(self, frame: PairFrame) -> str:
        return image_digest(frame) + (hints_text(frame) if self.network.config.masked else "")

    def prepare(self, rows: Iterable[int]) -> None:
        """Have these frames encoded; those of one size together."""
        groups: dict[tuple[int, int], list[int]] = {}
        for row in sorted(set(rows) - set(self.tokens)):
            file = self.files[row]
            kept = load_tokens(file) if file is not None and file.is_file() else None
            if kept is not None:
                self.tokens[row] = kept
            else:
                groups.setdefault((self.frames[row].height, self.frames[row].width), []).append(row)
        for group in groups.values():
            for start in range(0, len(group), POOL):
                self._encode(group[start : start + POOL])

    def _encode(self, rows: list[int]) -> None:
        images = torch.from_numpy(np.stack([self.frames[row].image for row in rows]))
        hints = frame_hints([self.frames[row] for row in rows]) if self.network.config.masked else None
        pictures = images.permute(0, 3, 1, 2).to(self.network.device).float() / 255
        with torch.no_grad(), self.low():
            # Networks of others may take pictures alone.
            encoded = self.network.encode(pictures) if hints is None else self.network.encode(pictures, hints)
        for at, row in enumerate(rows):
            self.tokens[row] = encoded.rows(slice(at, at + 1)).float().to("cpu")
            file = self.files[row]
            if file is not None:
                save_tokens(file, self.tokens[row])

    def of(self, rows: Sequence[int]) -> EncodedImages:
        parts = EncodedImages.concatenate(*(self.tokens[row] for row in rows))
        return parts.to(self.network.device)

    def forget(self, needed: set[int]) -> None:
        for row in set(self.tokens) - needed:
            del self.tokens[row]

    def remove_files(self) -> None:
        for file in self.files:
            if file is not None:
                file.unlink(missing_ok=True)


def choose_pairs(
    count: int, config: PairConfig, listed: Iterable[Sequence[int]] | None = None
) -> list[tuple[int, int]]:
    """The unordered pairs (i, j), i < j, that a clip of `count` frames is looked at in; `listed` replaces the graph."""
    near = config.prefilter or None
    if listed is not None:
        found = listed_pairs(listed, count, Prefilter.parse(near) if near else None, symmetrize=False)
    else:
        found = scene_pairs(count, config.graph, prefilter=near, symmetrize=False)
    return list(dict.fromkeys((min(pair), max(pair)) for pair in found))


def look_at_pairs(
    network: PairNetwork,
    frames: Sequence[PairFrame],
    config: PairConfig | None = None,
    *,
    pairs: Iterable[Sequence[int]] | None = None,
    matches: bool = True,
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> StoredPairResults | PairResultList:
    """Everything that a pair network says of a clip, at the pixels that count.

    Args:
        network: on the device that is to do the work; see `load_pair_network`.
        frames: of `clip_pair_frames`. Frames without a pixel that counts are legal and are in no pair.
        pairs: (i, j) of one's own instead of `config.graph`; unordered, both orders are looked at.
        matches: False where another matcher holds the frames: the results then have none, which takes less time.
        cache: a folder. Results are written there as they come and read from it when they are asked for, so that
            memory does not grow with the pairs. None: all of them in memory.

    Raises:
        InputError: an option or pair makes no sense, or the network takes other patches than the frames have.
        RunError: too little memory for a single pair; the disk is full.
    """
    config, progress = config or PairConfig(), progress or SilentProgress()
    chosen = choose_pairs(len(frames), config, pairs)
    seen = [bool(frame.kept.any()) for frame in frames]
    todo = [pair for pair in chosen if seen[pair[0]] and seen[pair[1]]]
    if len(todo) < len(chosen):
        gone = ", ".join(str(row) for row in range(len(frames)) if not seen[row])
        gone = f"frames {gone} have an empty mask, or one too thin to be seen at this size, and are left out"
        progress.note(f"pairs: {gone} ({len(chosen) - len(todo)} pairs)")
    for frame in frames:
        if frame.height % network.config.patch_size or frame.width % network.config.patch_size:
            raise InputError(
                f"frames of {frame.width} x {frame.height} pixels: this network takes multiples of "
                f"{network.config.patch_size}; choose another geometry.pairs.size"
            )
    precision = resolve_precision(config.precision, network.device)
    store = None if cache is None else PairCache.of(cache, network, _options(config, matches), precision)
    told = network.config.masked
    digests = [frame_digest(f) + (hints_text(f) if told else "") for f in frames] if store is not None else []
    files = tuple(store.pair_file(digests[a], digests[b]) for a, b in todo) if store is not None else ()
    missing = [at for at in range(len(todo)) if not _usable(files, at, todo, frames, progress)]
    progress.note(
        f"pairs of frames: {len(todo)} for {counted(len(frames), 'frame')}, each in both orders"
        + (f", {len(todo) - len(missing)} of them known" if len(missing) < len(todo) else "")
        + f"; {precision} on {network.device}"
    )
    found: dict[int, PairResult] = {}
    encoder = _Encoder(network, frames, store, lambda: autocast(precision, network.device))
    progress.start("pairs", len(todo), done=len(todo) - len(missing))
    try:
        _decode(network, frames, config, todo, missing, encoder, files, found, matches, progress)
    finally:
        progress.finish()
    encoder.remove_files()
    if store is not None:
        return StoredPairResults(files, tuple(todo), tuple(frames))
    return PairResultList(tuple(found[at] for at in range(len(todo))))


def _options(config: PairConfig, matches: bool) -> dict[str, Any]:
    """What a result depends on besides frames (which hold size, view, fill and masks), weights and precision."""
    if not matches:
        return {"matches": False}
    return {"subsample": config.subsample, "max_rounds": config.max_rounds, "border": config.border}


def _usable(
    files: Sequence[Path], at: int, pairs: Sequence[tuple[int, int]], frames: Sequence[PairFrame], progress: Progress
) -> bool:
    if not files or not files[at].is_file():
        return False
    try:
        load_result(files[at], pairs[at], frames)
    except InputError as error:
        progress.note(f"pairs: computed again: {error}")
        return False
    return True


def _decode(
    network: PairNetwork, frames: Sequence[PairFrame], config: PairConfig, pairs: Sequence[tuple[int, int]],
    missing: Sequence[int], encoder: _Encoder, files: Sequence[Path], found: dict[int, PairResult],
    matched: bool, progress: Progress,
) -> None:  # fmt: skip
    at, limit = 0, max(len(pairs), 1)
    low, patch = resolve_precision(config.precision, network.device), network.config.patch_size
    while at < len(missing):
        a, b = (frames[row] for row in pairs[missing[at]])
        grids = [(frame.height // patch, frame.width // patch) for frame in (a, b)]
        most = min(limit, batch_size(network, grids[0], grids[1], config.batch))
        group = _same_sizes(frames, pairs, missing[at : at + most])
        try:
            encoder.prepare(row for one in group for row in pairs[one])
            first, second = (encoder.of([pairs[one][side] for one in group]) for side in (0, 1))
            with torch.no_grad(), autocast(low, network.device):
                ab, ba = network.predict_symmetric(first, second)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            if len(group) == 1:
                raise RunError(
                    f"too little memory for one pair of {a.width} x {a.height} pixels; choose a "
                    "smaller geometry.pairs.size"
                ) from error
            limit = len(group) // 2
            continue
        for index, one in enumerate(group):
            i, j = pairs[one]
            result = pair_result(ab, ba, index, (i, j), frames[i], frames[j], config, matched=matched)
            if files:
                save_result(files[one], result)
            else:
                found[one] = result
            progress.update(**({"matches": float(len(result.weight))} if matched else {}))
        at += len(group)
        encoder.forget({row for one in missing[at:] for row in pairs[one]})


def _same_sizes(frames: Sequence[PairFrame], pairs: Sequence[tuple[int, int]], rows: Sequence[int]) -> list[int]:
    """The first rows, as long as their pairs have the sizes of the first one's."""
    sizes = [tuple(frames[frame].image.shape for frame in pairs[row]) for row in rows]
    end = next((at for at, size in enumerate(sizes) if size != sizes[0]), len(rows))
    return list(rows[:end])
