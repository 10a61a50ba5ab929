"""Matches between the frames of a clip by the matchers that the configuration names.

Flow follows what moves a little from frame to frame; descriptors find the same spot again over any time, so that a clip
is held together over more frames than flow can be carried. Each frame is described once; both kinds are brought to one
scale of weights and merged, frame after frame: of the pictures only a few are in memory at a time.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Matcher, Progress, SilentProgress
from dyn4d.core.types import Clip, Correspondences, FrameReader
from dyn4d.matching.calibration import ErrorTable, RawMatches, flow_quality, rate, tables_of, weights_note
from dyn4d.matching.chain import rate_and_cut, weight_quality
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.describe import (
    Describer,
    KeypointMatches,
    R2D2Describer,
    describe_matches,
    match_keypoints,
    mirrored,
)
from dyn4d.matching.estimators import FlowEstimator
from dyn4d.matching.flow import match_clip
from dyn4d.matching.merge import RatedMatches, merge_matches
from dyn4d.matching.pairs import pair_graph
from dyn4d.matching.r2d2_extract import R2D2Features
from dyn4d.matching.r2d2_weights import load_r2d2, weights_file
from dyn4d.matching.stored import load_columns, save_columns

KEPT = 12  # frames whose keypoints, and pairs whose matches, stay in memory
_FEATURES = tuple(field.name for field in fields(R2D2Features))
_MATCHES = tuple(field.name for field in fields(Correspondences))


def far_pairs(count: int, config: MatchingConfig) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, sorted, that descriptors look at: `far_strides`, and where they are alone those of the flow
    too. A clip too short for any stride has its first and last frame joined."""
    strides = set(config.far_strides)
    if "flow" in config.matcher:
        return pair_graph(count, 0, sorted(strides))
    return pair_graph(count, config.window, sorted(strides | set(config.strides)))


def match_frames(
    clip: Clip,
    config: MatchingConfig,
    seed: int = 0,
    *,
    device: torch.device | str = "cpu",
    describer: Describer | None = None,
    matcher: Matcher | None = None,
    estimator: FlowEstimator | None = None,
    first: FrameReader | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Correspondences:
    """Matches between the frames of a clip, inside the masks, in both directions, by `config.matcher`.

    Args:
        clip: T frames; where a mask is empty the frame has no matches.
        config: see `MatchingConfig`. seed: of what the flow keeps.
        device: of a network that describes, or that finds the flow. describer: instead of R2D2 with `config.weights`.
        matcher: of pairs of pictures, for a chain with `mast3r`. estimator: who finds the flow, see `match_clip`.
        first: pixels whose matches by the flow stay, see `match_clip`.
        cache: a folder of its own for this clip, config and seed; a killed run goes on from what is there.

    Returns:
        Correspondences sorted by (frame_a, frame_b). Of the flow alone they are those of `match_clip`, with its own
        weights; else the weights are calibrated (`dyn4d.matching.calibration`).

    Raises:
        InputError: the weights of a network, or the calibration, are missing or unusable.
    """
    progress = progress or SilentProgress()
    names = config.matcher.split("+")
    if names == ["flow"]:
        return match_clip(
            clip, config, seed, device=device, estimator=estimator, first=first, progress=progress, cache=cache
        )
    tables = tables_of(config.calibration)
    if names[-1] == "r2d2" and (note := weights_note("r2d2", weights_file(config.weights), config.calibration)):
        progress.note(note)
    look = _looker(clip, config, names[-1], device, describer, matcher)
    flow = Correspondences.empty()
    if "flow" in names:
        own = None if cache is None else cache / "flow"
        flow = match_clip(clip, config, seed, device=device, estimator=estimator, progress=progress, cache=own)
    with _folder(cache) as folder:
        far = _match_far(clip, config, look, progress, folder)
        return _merged(clip.frames, flow, far, names[-1], config, tables, progress)


def make_describer(config: MatchingConfig, device: torch.device | str = "cpu") -> R2D2Describer:
    """R2D2 with the weights of the configuration. Raises `InputError` where they are missing or unusable."""
    return R2D2Describer(load_r2d2(config.weights or None, device), size=config.descriptor_size)


# ------------------------------------------------------------------------------------ who looks at a pair of frames

Looker = Callable[[int, int, Path], RawMatches]


def _looker(
    clip: Clip, config: MatchingConfig, name: str, device: torch.device | str, describer: Describer | None,
    matcher: Matcher | None,
) -> Looker:  # fmt: skip
    if name == "mast3r":
        if matcher is None:
            raise InputError("matching.matcher mast3r: needs a pair network; give --geometry.weights FILE")

        def by_matcher(i: int, j: int, folder: Path) -> RawMatches:
            frames = [np.ascontiguousarray(clip.images[k]) for k in (i, j)]
            masks = [np.asarray(clip.masks[k], dtype=bool) for k in (i, j)]
            found = matcher(frames[0], frames[1], masks[0], masks[1])
            return weight_quality(Correspondences(found.frame_a * 0 + i, found.frame_b * 0 + j, found.xy_a,
                                                  found.xy_b, found.weight))  # fmt: skip

        return by_matcher
    if describer is None:
        describer = make_describer(config, device)
    keypoints = _Keypoints(clip, describer)

    def by_keypoints(i: int, j: int, folder: Path) -> RawMatches:
        a, b, found = keypoints.of(i, folder), keypoints.of(j, folder), keypoints.match(i, j, folder)
        over = None
        if j - i > 1:
            k = (i + j) // 2
            over = keypoints.of(k, folder), keypoints.match(i, k, folder), keypoints.match(k, j, folder)
        return describe_matches(a, b, found, over=over, frames=(i, j))

    return by_keypoints


class _Keypoints:
    """Each frame's keypoints, extracted once and kept on disk; the latest used, and their matches, stay in memory."""

    def __init__(self, clip: Clip, describer: Describer) -> None:
        self.clip, self.describer = clip, describer
        self._features: OrderedDict[int, R2D2Features] = OrderedDict()
        self._matches: OrderedDict[tuple[int, int], KeypointMatches] = OrderedDict()

    def of(self, frame: int, folder: Path) -> R2D2Features:
        if frame not in self._features:
            file = folder / f"keypoints_{frame:06d}.npz"
            saved = load_columns(file, _FEATURES)
            if saved is None:
                mask = np.asarray(self.clip.masks[frame], dtype=bool)
                found = self.describer.features(np.ascontiguousarray(self.clip.images[frame]), mask)
                saved = {name: getattr(found, name).numpy() for name in _FEATURES}
                save_columns(file, saved)
            _keep(self._features, frame, R2D2Features(*(torch.from_numpy(saved[name]) for name in _FEATURES)))
        self._features.move_to_end(frame)
        return self._features[frame]

    def match(self, i: int, j: int, folder: Path) -> KeypointMatches:
        if (i, j) not in self._matches:
            _keep(self._matches, (i, j), match_keypoints(self.of(i, folder), self.of(j, folder)))
        return self._matches[i, j]


def _keep(store: OrderedDict, key: object, value: object) -> None:
    store[key] = value
    while len(store) > KEPT:
        store.popitem(last=False)


# --------------------------------------------------------------------------------------------- frame after frame


@contextmanager
def _folder(cache: Path | None) -> Iterator[Path]:
    """A folder for keypoints: the cache, or one that goes when all is done."""
    if cache is not None:
        (cache / "far").mkdir(parents=True, exist_ok=True)
        yield cache / "far"
        return
    with tempfile.TemporaryDirectory(prefix="dyn4d_matching_") as name:
        yield Path(name)


def _match_far(
    clip: Clip, config: MatchingConfig, look: Looker, progress: Progress, folder: Path
) -> dict[int, RawMatches]:
    """Matches i→j, i < j, of all far pairs, by their first frame."""
    present = [bool(np.asarray(clip.masks[i]).any()) for i in range(len(clip))]
    partners: dict[int, list[int]] = {}
    for i, j in far_pairs(len(clip), config):
        if present[i] and present[j]:
            partners.setdefault(i, []).append(j)
    out: dict[int, RawMatches] = {}
    progress.start("far matches", len(partners))
    for i, later in sorted(partners.items()):
        file = folder / f"matches_{i:06d}.npz"
        saved = load_columns(file, _MATCHES)
        if saved is None:
            parts = [look(i, j, folder) for j in later]
            found = Correspondences.concatenate([part.matches for part in parts])
            saved = {name: getattr(found, name).numpy() for name in _MATCHES}
            for name in parts[0].quality:
                saved[f"quality_{name}"] = np.concatenate([part.quality[name] for part in parts])
            save_columns(file, saved)
        matches = Correspondences(*(torch.from_numpy(saved[name]) for name in _MATCHES))
        quality = {name[8:]: values for name, values in saved.items() if name.startswith("quality_")}
        out[i] = RawMatches(matches, quality)
        progress.update(matches=float(len(matches)))
    progress.finish()
    return out


def _merged(
    frames: np.ndarray, flow: Correspondences, far: dict[int, RawMatches], name: str, config: MatchingConfig,
    tables: Mapping[str, ErrorTable], progress: Progress,
) -> Correspondences:  # fmt: skip
    """Both kinds of matches, rated and merged; source frame after source frame, so that only the result is whole.
    `frames`: (T,) those of the clip that the matches count."""
    count = len(frames)
    rated = {i: rate_and_cut(raw, name, max_error=config.max_error, tables=tables) for i, raw in far.items()}
    there = _by_frame(count, rated)
    bounds = np.searchsorted(flow.frame_a.numpy(), np.arange(count + 1))
    parts, both = [], 0
    for i in range(count):
        mine = flow_quality(flow.select(torch.arange(int(bounds[i]), int(bounds[i + 1]))), frames=frames)
        ready = [rate(mine, "flow", tables), *there.get(i, [])]
        merged = merge_matches(_same_source(ready), most=[np.inf, config.max_error])
        both += sum(len(part) for part in ready) - len(merged)
        parts.append(merged.matches)
    total = sum(len(part) for part in rated.values())
    progress.note(f"matching: {len(flow)} by flow and {2 * total} by {name}, less {both} that were double or refuted")
    return Correspondences.concatenate(parts)


def _by_frame(count: int, rated: dict[int, RatedMatches]) -> dict[int, list[RatedMatches]]:
    """The matches and their mirror images by their own first frame."""
    out: dict[int, list[RatedMatches]] = {}
    for i, part in rated.items():
        out.setdefault(i, []).append(part)
        back = mirrored(RawMatches(part.matches, {})).matches
        for j in back.frame_a.unique().tolist():
            rows = (back.frame_a == j).nonzero()[:, 0]
            out.setdefault(j, []).append(RatedMatches(back.select(rows), part.error[rows]))
    return out


def _same_source(parts: list[RatedMatches]) -> list[RatedMatches]:
    """The first part, and all others as one: those of one matcher."""
    others = parts[1:]
    matches = Correspondences.concatenate([part.matches for part in others])
    error = torch.cat([part.error for part in others]) if others else torch.zeros(0)
    return [parts[0], RatedMatches(matches, error)]
