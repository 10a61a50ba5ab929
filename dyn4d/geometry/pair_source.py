"""The `mast3r` source: frames and masks → a pair network → alignment → cameras and the object's points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from dyn4d.core.errors import Dyn4DError, RunError
from dyn4d.core.listing import listed
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Camera, Clip, Correspondences, FramePoints, GeometryResult
from dyn4d.geometry.alignment import Alignment, AlignmentConfig, align
from dyn4d.geometry.alignment_result import neighbour_scales
from dyn4d.geometry.bundle import BundleConfig
from dyn4d.geometry.canonical import canonical_views
from dyn4d.geometry.config import GeometryConfig
from dyn4d.geometry.flow_ties import ties_all
from dyn4d.geometry.isometry import AS_ONE, EvenDepth, even_out
from dyn4d.geometry.measured_relief import MeasuredDepth, through_matches
from dyn4d.geometry.network import PairNetwork
from dyn4d.geometry.object_distance import object_distance
from dyn4d.geometry.own_weights import NAME
from dyn4d.geometry.pair_agreement import matches_off
from dyn4d.geometry.pair_config import PairConfig
from dyn4d.geometry.pair_frames import clip_pair_frames
from dyn4d.geometry.pair_hints import suited
from dyn4d.geometry.pair_inference import look_at_pairs
from dyn4d.geometry.pair_results import PairFrame, PairResult, PairResultList, PairResults
from dyn4d.geometry.region_flow import Regions, Seeds, Where, from_seeds, seed_matches, textured_shares
from dyn4d.geometry.rgbd import join_frames, points_of_frame
from dyn4d.geometry.view_depth import ObjectDepth, ViewDepth
from dyn4d.geometry.weights import load_pair_network
from dyn4d.io.readers import LazyFrames
from dyn4d.matching.config import MatchingConfig

RIM = 5  # pixels of the view around the object that belong to neither it nor the background
LEAST_BACKGROUND = 0.25  # share of the view that has to be background, for `auto` to try it
LEAST_TEXTURE = 0.1  # share of the picture that has to be background with texture, where flow holds the frames
FREE = 0.3  # standard deviation of the logarithm of depths that nothing is known of
FLOW_PIXELS = 0.05  # px of the view: so closely flow on what stands still is believed
FLOW_SUBSAMPLE = 4  # px between anchors there: about one seed each
LEAST_PLACED = 0.8  # share of the frames that the background has to place, for `auto` to keep it
CONTRADICTS = 2.0  # px in the median that matches are off by at given poses: what is matched moves, or these are wrong


@dataclass(frozen=True)
class _Restricted:
    """Results with fewer pixels: `rows` are, for each frame, those of its kept pixels that still count."""

    results: PairResults
    rows: tuple[Tensor, ...]

    @property
    def pairs(self) -> Sequence[tuple[int, int]]:
        return self.results.pairs

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> PairResult:
        whole = self.results[index]
        side = {"a": self.rows[whole.frame_a], "b": self.rows[whole.frame_b]}
        names = [f.name for f in fields(PairResult) if "_in_" in f.name]
        return replace(whole, **{name: getattr(whole, name)[side[name.split("_in_")[0][-1]]] for name in names})

    def __iter__(self) -> Iterator[PairResult]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class _Placed:
    """T views with cameras and the depth of their pixels in world units.

    Attributes:
        seen: all that the views show. object: the object alone, where it was looked at by itself.
        off: px in the median that matches are off by at poses that had to stay; NaN where nothing was measured.
    """

    alignment: Alignment
    seen: ViewDepth
    object: ObjectDepth | None = None
    off: float = math.nan
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        return float(self.alignment.registered.double().mean())


def frames_from_pairs(
    clip: Clip,
    config: GeometryConfig,
    seed: int = 0,
    *,
    matching: MatchingConfig | None = None,
    matches: Correspondences | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    cache: Path | None = None,
) -> GeometryResult:
    """Masked points of every frame and the cameras, from the pictures alone.

    Args:
        clip: K is used where it is known, and so are poses, as `config.poses` and `config.anchor` have it.
        matching: of the flow, where its matches hold the frames; which frames are matched is decided here.
        matches: the flow's on the object, if they are known already.
        cache: a folder for what the network says and for the flow; a stopped run goes on from there.

    Raises:
        InputError: weights that cannot be read. RunError: the frames cannot be tied together.
    """
    progress = progress or SilentProgress()
    network = load_pair_network(config.weights or NAME, device)
    config = replace(config, pairs=suited(network.config, config.pairs))
    for line in network.notes:
        progress.note(line)
    if not config.weights:
        progress.note(
            "geometry: the small network that comes with dyn4d; the published MASt3R is better by far, where its terms "
            "allow it (--geometry.weights FILE_OR_HUB_ID)"
        )
    task = _Task(network, device, clip, config, matching or MatchingConfig(), matches, seed, progress, cache)
    placed, anchor, why = _place(task)
    notes = [f"geometry: anchored on the {anchor} ({why})", *placed.notes]
    if math.isfinite(placed.alignment.pixel_error):
        notes[0] += f"; matches agree to {placed.alignment.pixel_error:.2f} px"
    cameras = _clip_cameras(clip, placed)
    parts, flying = [], 0
    for row in range(len(clip)):
        part, dropped = _points(clip, row, placed, cameras, config)
        parts.append(part)
        flying += dropped
    points = join_frames(parts)
    if len(points) == 0:
        raise RunError("geometry: no frame has a usable point of the object; look at the masks and at the weights")
    lost = [clip.names[row] for row in range(len(clip)) if not bool(cameras.registered[row])]
    notes.append(f"geometry: {len(points)} points of {len(clip) - len(lost)} frames, {flying} flying pixels dropped")
    if lost:
        notes.append(f"geometry: {len(lost)} frames could not be placed: {listed(lost)}")
    if placed.off > CONTRADICTS:
        notes.append(
            f"geometry: at the given poses matches on the object are off by {placed.off:.1f} px in the median: it "
            "moves, or the poses are wrong; its place along the line of sight is unsure (--geometry.anchor object lets "
            "its motion go into the poses)"
        )
    fixed = _known_poses(clip, config) is not None and config.poses == "given"
    notes = [*placed.alignment.named_notes(clip.names), *notes]
    return GeometryResult(
        points, cameras, "mast3r", tuple(notes), tuple(network.notes), poses_solved=not fixed,
        depth=_depth_maps(clip, placed), depth_error=network.depth_error,
    )  # fmt: skip


def _depth_maps(clip: Clip, placed: _Placed) -> LazyFrames:
    """(H, W) depth of each picture, 0 where nothing was said that counts."""

    def read(row: int) -> np.ndarray:
        depth = placed.seen.picture(row)[0].astype(np.float32)
        if placed.object is None:
            return depth
        own = placed.object.picture(row)[0].astype(np.float32)
        return np.where(np.asarray(clip.masks[row], dtype=bool), own, depth)

    return LazyFrames([f"depth of {name}" for name in clip.names], read)


@dataclass(frozen=True)
class _Task:
    """What is to be done, and with what."""

    network: PairNetwork
    device: torch.device | str
    clip: Clip
    config: GeometryConfig
    matching: MatchingConfig
    matches: Correspondences | None
    seed: int
    progress: Progress
    cache: Path | None

    @cached_property
    def background_shows(self) -> tuple[bool, str]:
        """Is there enough of it to try it first? And why."""
        if _by_flow(self):
            share, _ = textured_shares(Regions(replace(self.clip, depth=None), "background"))
            return share >= LEAST_TEXTURE, f"the background with texture covers {share:.0%} of the picture"
        pairs = self.config.pairs
        frames = clip_pair_frames(self.clip, replace(_of_background(pairs), mask_confidence=True))
        share = float(np.median([(~_near(frame.kept)).mean() for frame in frames]))
        return share >= LEAST_BACKGROUND, f"the background covers {share:.0%} of the view"


def _place(task: _Task) -> tuple[_Placed, str, str]:
    """Also the anchor and why it was chosen."""
    clip, config = task.clip, task.config
    known = _known_poses(clip, config)
    if config.anchor == "auto" and len(clip) == 1 and task.network.config.masked:
        return _on_object(task, known), "object", "a single frame"  # there is no motion to tell apart
    if config.anchor == "object":
        return _on_object(task, known), "object", "as asked for"
    if config.anchor == "background":
        return _on_background(task, known), "background", "as asked for"
    enough, seen = task.background_shows
    if not enough and known is None:
        return _on_object(task, known), "object", seen
    first: _Placed | None = None
    try:
        first = _on_background(task, known)
        why = f"it places {first.share:.0%} of the frames"
        if first.share >= LEAST_PLACED:
            return first, "background", why
        failed = f"the background places only {first.share:.0%} of the frames"
    except Dyn4DError as error:
        why, failed = "", f"the background does not hold the cameras: {error}"
    try:
        second = _on_object(task, known)
    except Dyn4DError as error:
        if first is None:
            raise RunError(f"geometry: {failed}; nor does the object: {error}") from error
        return first, "background", f"{why}; the object holds none: {error}"
    if first is not None and (second.share < first.share or second.off > CONTRADICTS):
        return first, "background", f"{why}; the object does not do better"
    return second, "object", failed


def _of_background(pairs: PairConfig) -> PairConfig:
    """How frames are looked at where the background counts: whole, where the object would be cut out in a square."""
    return replace(pairs, fill="none", view="full" if pairs.view == "square" else pairs.view)


def _near(mask: np.ndarray) -> np.ndarray:
    """A mask and its rim."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8)) > 0


def _known_poses(clip: Clip, config: GeometryConfig) -> Tensor | None:
    """(T, 4, 4) given poses that count, NaN where unknown. They say nothing of an object whose motion is to go into the
    poses, unless they are only where to begin."""
    counts = config.poses == "refine" or (config.poses == "given" and config.anchor != "object")
    if not counts or not clip.poses_given or clip.cameras is None or not bool(clip.cameras.registered.any()):
        return None
    return clip.cameras.world_from_cam.double().cpu()


def _on_object(task: _Task, known: Tensor | None) -> _Placed:
    """Matching and alignment on the object alone: its rigid motion goes into the poses, as far as these may change."""
    config = task.config
    frames = clip_pair_frames(task.clip, config.pairs)
    shown = [row for row, frame in enumerate(frames) if frame.kept.any()]
    if len(frames) > 1 and len(shown) == 1:
        row, name = task.clip.frames[shown[0]], task.clip.names[shown[0]]
        alone = f"--frames {row}:{row + 1}"
        raise RunError(f"only frame {name} shows the object: take it alone ({alone}), or mend the masks")
    flow = _flow(task, "object")
    stays = known is not None and config.poses == "given" and len(frames) > 1
    results = _look(task, frames, flow, matches=stays)
    found = _align(task, frames, results, known, "object", flow)
    off = matches_off(frames, results, found) if stays else math.nan
    placed = _Placed(found, ViewDepth.of_kept(frames, list(found.depth), list(found.conf)), off=off)
    if flow is None or (stays and not off > CONTRADICTS):
        return placed
    lens = _clip_cameras(task.clip, placed)
    if stays:  # it moves by itself: at poses that are not its own nothing of it is measured
        return _evened(task, placed, [MeasuredDepth(placed.seen, [None] * len(frames), placed.seen)], flow, lens)
    said = ViewDepth.of_kept(frames, *_network_depth(frames, results, config.subsample))
    measured = through_matches(said, placed.seen, task.clip.masks, flow, lens)
    found = _evened(task, replace(placed, object=measured[0]), measured, flow, lens)
    if not isinstance(found.object, EvenDepth):
        return found
    poses = found.object.moved(placed.alignment.world_from_cam)
    return replace(found, alignment=replace(placed.alignment, world_from_cam=poses))


def _evened(
    task: _Task, placed: _Placed, measured: list[MeasuredDepth], flow: Correspondences, lens: Camera
) -> _Placed:
    """With depth whose distances on the object are the same at all times, unless it moves as one.

    measured: what it may begin with. flow: on the object.
    """
    if measured[0].agree > AS_ONE:
        return placed
    even = even_out(measured, task.clip.masks, flow, lens.K, seed=task.seed, progress=task.progress)
    if even is None:
        return placed
    before, after = even.uneven
    note = f"geometry: distances on the object change by {before:.1%} between frames; "
    note += f"evened out, by {after:.1%}" if after != before else "its matches do not agree on other ones"
    return replace(placed, object=even, notes=(*placed.notes, note))


def _network_depth(frames: list[PairFrame], results: PairResults, subsample: int) -> tuple[list[Tensor], list[Tensor]]:
    """Depth and confidence of the kept pixels of each frame in its own unit, NaN = none, as all its pairs say it."""
    views = canonical_views(frames if len(frames) > 1 else [*frames, *frames], results, subsample=subsample)
    depths, confs = [], []
    for frame, view in zip(frames, views):
        depth = torch.full((frame.kept.size,), torch.nan, dtype=torch.float64)
        conf = torch.zeros_like(depth)
        depth[view.pixels], conf[view.pixels] = view.points[:, 2], view.conf.double()
        depths.append(depth[frame.pixels])
        confs.append(conf[frame.pixels])
    return depths, confs


def _on_background(task: _Task, known: Tensor | None) -> _Placed:
    """Matching and alignment on everything but the object. Its depth is the network's own, in the background's scale:
    what other frames say of it there holds only if it did not move. Small networks, which flow helps out, look at it by
    itself too (`_by_itself`)."""
    config = task.config
    objects = clip_pair_frames(task.clip, _of_background(config.pairs))
    everything = [np.ones_like(frame.kept) for frame in objects]
    background = [~_near(frame.kept) if config.pairs.mask_confidence else ~_near(frame.matched) for frame in objects]
    if not any(back.any() for back in background):
        raise RunError("there is none: the masks fill the pictures")
    frames = [replace(f, kept=all_, matched=back) for f, all_, back in zip(objects, everything, background)]
    flow = _flow(task, "background")
    results = _look(task, frames, flow)
    still = [replace(f, kept=back) for f, back in zip(frames, background)]
    rows = tuple(frame.pixels for frame in still)  # rows of all pixels are the pixels themselves
    twice = rows if len(rows) > 1 else (*rows, *rows)
    found = _align(task, still, _Restricted(results, twice), known, "background", flow)
    own, confs = _network_depth(frames, results, config.subsample)
    ratios = [aligned / depth[back] for aligned, depth, back in zip(found.depth, own, rows)]
    none = torch.full((1,), torch.nan, dtype=torch.float64)
    scale = torch.stack([torch.cat([ratio, none]).nanmedian() for ratio in ratios])
    scale = neighbour_scales(scale)  # frames that are all object have no background to tell
    seen = ViewDepth.of_kept(frames, [depth * s for depth, s in zip(own, scale)], confs)
    placed = _Placed(found, seen)
    if flow is None:
        return placed
    try:
        return _by_itself(task, placed, flow)
    except Dyn4DError as error:
        return replace(placed, notes=(f"geometry: the object's own alignment says nothing: {error}",))


def _by_itself(task: _Task, placed: _Placed, flow: Correspondences) -> _Placed:
    """With the object's depth as it follows from the object alone, all frames together: what of its motion is rigid
    tells how its distance changes. How large it is then, one factor for the clip, `object_distance` tells. flow: of
    the background."""
    clip = task.clip
    lens = _clip_cameras(clip, placed)
    alone = replace(task, clip=replace(clip, cameras=replace(lens, world_from_cam=lens.world_from_cam * math.nan)))
    itself = _on_object(alone, None)
    own = itself.object
    assert own is not None
    found = object_distance(clip, lens, own, placed.seen, flow, background=task.background_shows[0])
    if found is None:
        return placed
    # frames that the object's alignment leaves out keep what the network says, in the same unit
    chosen = own.times(found.scale).filled(placed.seen.times(found.scale / found.said))
    note = f"geometry: the object is {found.scale / found.said:.2f} times as far as the network says: it {found.why}"
    return replace(placed, object=chosen, notes=(*itself.notes, note))


def _look(task: _Task, frames: list[PairFrame], flow: Correspondences | None, *, matches: bool = False) -> PairResults:
    """What the network says of the pairs; its matches where the flow does not tie the frames, or where asked for."""
    network, pairs, cache = task.network, task.config.pairs, task.cache
    matches = matches or flow is None or not ties_all(flow, frames)
    if len(frames) > 1:
        return look_at_pairs(network, frames, pairs, matches=matches, cache=cache, progress=task.progress)
    # A single frame is looked at together with itself.
    found = look_at_pairs(
        network, [*frames, *frames], pairs, pairs=[(0, 1)], matches=matches, cache=cache, progress=task.progress
    )  # fmt: skip
    if not len(found):
        raise RunError(
            f"geometry: the object of {task.clip.names[0]} is too thin to be seen at {pairs.size} pixels; crop the "
            "picture around it, or give depth"
        )
    return PairResultList((found[0],))


def _align(
    task: _Task, frames: list[PairFrame], results: PairResults, known: Tensor | None, where: Where,
    matches: Correspondences | None,
) -> Alignment:  # fmt: skip
    """`where`: what holds the cameras. matches: of the flow there, if it is to hold the frames."""
    config, progress = task.config, task.progress
    lens = BundleConfig(
        shared_intrinsics=config.focal == "shared", refine_principal_point=config.principal_point == "refine"
    )  # fmt: skip
    subsample, fusions = config.subsample, config.fusions
    if _by_flow(task) and where == "background":
        # what stands still and is matched so closely needs no word on its depth, least of all a wrong one
        lens = replace(lens, depth_sigma=FREE, depth_sigma_limits=(FREE, FREE), least_pixel_error=FLOW_PIXELS)
        subsample, fusions = min(subsample, FLOW_SUBSAMPLE), 0  # no pass's depth counts there
    elif _by_flow(task):  # close matches of a thing that bends are met by any focal length but the right one
        lens = replace(lens, refine_focal=False)
    settings = AlignmentConfig(
        config.alignment, subsample, fusions=fusions, bundle=lens, optimise_depth=config.optimise_depth,
        depth_rank=config.depth_rank,
    )  # fmt: skip
    fix = known is not None and config.poses == "given"
    if len(frames) > 1:
        return align(
            frames, results, settings, world_from_cam=known, fix_poses=fix, matches=matches, progress=progress
        )  # fmt: skip
    twice = None if known is None else known.repeat(2, 1, 1)
    both = align([*frames, *frames], results, settings, world_from_cam=twice, fix_poses=fix, progress=progress)
    remarks = tuple(note for note in both.remarks if not note.frames and not note.pairs)  # there is no second frame
    return replace(
        both, K=both.K[:1], world_from_cam=both.world_from_cam[:1], depth=both.depth[:1], conf=both.conf[:1],
        remarks=remarks,
    )  # fmt: skip


def _by_flow(task: _Task) -> bool:
    """Does the optical flow hold the frames?"""
    asked = task.config.alignment_matches
    return task.config.alignment == "sparse" and (
        asked == "flow" or (asked == "auto" and task.network.config.masked)
    )  # fmt: skip


def _flow(task: _Task, where: Where) -> Correspondences | None:
    """Matches of the optical flow on what holds the cameras; None where the network's own are to hold them."""
    if not _by_flow(task) or len(task.clip) < 2:
        return None
    regions = Regions(replace(task.clip, depth=None), where)
    seeds = Seeds.of(regions)
    if where == "object" and task.matches is not None:
        return from_seeds(seeds, task.matches)
    cache = None if task.cache is None else task.cache / f"flow-{where}"
    return seed_matches(seeds, task.matching, task.seed, task.device, task.progress, cache)


def _clip_cameras(clip: Clip, placed: _Placed) -> Camera:
    """The views' cameras as those of the clip's pictures."""
    K = torch.stack([frame.view.K_to_source(K) for frame, K in zip(placed.seen.frames, placed.alignment.K)])
    return Camera(K, placed.alignment.world_from_cam, clip.width, clip.height)


def _points(clip: Clip, row: int, placed: _Placed, cameras: Camera, config: GeometryConfig) -> tuple[FramePoints, int]:
    """One frame's points at the pixels of the clip, and how many flying pixels were dropped."""
    mask = np.asarray(clip.masks[row], dtype=bool)
    if not bool(cameras.registered[row]):
        mask = np.zeros_like(mask)
    depth, conf = (placed.object or placed.seen).picture(row)
    image = np.asarray(clip.images[row])
    part, dropped = points_of_frame(
        depth, mask, image, cameras.K[row], cameras.world_from_cam[row].nan_to_num(), config=config
    )
    if len(part) == 0:
        return part, dropped
    x, y = part.xy.floor().long().unbind(-1)
    own = torch.from_numpy(conf)[y, x].float()
    sure = own / (own + own.median())  # 1/2 for a usual pixel of the frame
    return replace(part, conf=(2 * part.conf * sure).clamp(1e-3, 1.0)), dropped
