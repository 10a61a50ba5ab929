"""The `pointmaps` source: depth or points that another estimator left → cameras and the object's points.

Every map is brought to planar depth at the picture's pixels and then treated as the `rgbd` source treats depth maps;
how far the estimator trusted itself multiplies the points' confidence. One map is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.listing import listed
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Camera, Clip, FramePoints, GeometryResult
from dyn4d.geometry.config import USUAL_DEPTH_ERROR, GeometryConfig
from dyn4d.geometry.estimator_cameras import MapFacts, focal_intrinsics, pose_of_points, sample_points, world_intrinsics
from dyn4d.geometry.estimator_maps import (
    FLOOR,
    Box,
    Placement,
    confidence_kind,
    count_inside,
    depth_to_picture,
    map_box,
    sample_trust,
    trust_of,
    usable_depth,
)
from dyn4d.geometry.rgbd import join_frames, points_of_frame
from dyn4d.io.clips import load_clip
from dyn4d.io.pointmaps import EstimatedMap, EstimatedMaps, find_pointmaps, open_pointmaps
from dyn4d.io.readers import LazyFrames
from dyn4d.matching.config import MatchingConfig

_Seen = tuple[np.ndarray, Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], int]]
_FORMULA = {"unit": "c", "above_one": "1 - 1/c", "log": "1 - exp(-c)"}


def require_pointmaps(clip: Clip, config: GeometryConfig) -> EstimatedMaps:
    """The clip's maps.

    Raises:
        InputError: there are none, or they are damaged or do not go with the clip; says what to do.
    """
    path = find_pointmaps(clip.source, config.pointmaps)
    if path is None:
        raise InputError(
            f"{clip.source}: source pointmaps: there are none: put pointmaps.npz or a folder pointmaps/ with one .npz "
            "a frame into the clip folder, or name them or an estimator's export with --geometry.pointmaps"
        )
    return open_pointmaps(path, clip)


@dataclass(frozen=True)
class _Survey:
    """All that is known of a clip's maps before any depth is used.

    Attributes:
        maps: the files. facts: of each selected frame, None where it has no map. kind: how confidence counts.
        notes: lines for the user.
    """

    maps: EstimatedMaps
    facts: tuple[MapFacts | None, ...]
    kind: str
    notes: tuple[str, ...]

    @property
    def posed(self) -> bool:
        return any(fact is not None and fact.world_from_cam is not None for fact in self.facts)


def frames_from_estimate(
    clip: Clip,
    config: GeometryConfig,
    seed: int = 0,
    *,
    matching: MatchingConfig | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    cache: Path | None = None,
) -> GeometryResult:
    """Masked points of every frame and the cameras, from an estimator's maps.

    Poses are those of the maps; where these have none, the clip's; where it has none, they are solved from depth and
    optical flow, as they also are with `config.anchor` "object" and, in part or anew, with `config.poses`. Points
    in the world without poses tell the poses by themselves. K comes with the poses; else it is the maps', the clip's,
    or the points tell the focal length.

    Args:
        matching: of the flow, where poses are solved. device: where a network for it runs. cache: a folder for what
            takes long.

    Raises:
        InputError: maps that cannot be used, no K, or no frame has a usable point on the object.
    """
    from dyn4d.geometry.depth_cameras import depth_cameras

    progress = progress or SilentProgress()
    survey = _look(require_pointmaps(clip, config), clip, config, progress)
    own, notes = _cameras(clip, survey)
    solved = own is not clip.cameras
    depth = _DepthOf(survey, own, clip, config)
    reader = LazyFrames([f"map of {name}" for name in clip.names], lambda row: depth(row)[0].astype(np.float32))
    cameras, more, changed = depth_cameras(
        replace(clip, depth=reader, cameras=own), config, given=True, matching=matching, seed=seed, device=device,
        progress=progress, cache=None if cache is None else cache / "poses",
    )  # fmt: skip
    notes, solved = [*notes, *more], solved or changed
    points, more = _points(clip, cameras, depth, config, progress)
    notes = (*survey.notes, *notes, *more)
    return GeometryResult(points, cameras, "pointmaps", notes, poses_solved=solved, depth=reader,
                          depth_error=USUAL_DEPTH_ERROR)  # fmt: skip


# ---------------------------------------------------------------------------------------- first look


def _picture_size(clip: Clip) -> tuple[int, int]:
    """Of the clip's pictures before `--max-size`: what an estimator was given."""
    if not clip.source.exists():
        return clip.width, clip.height
    whole = load_clip(clip.source, mask="none")
    return whole.width, whole.height


def _look(maps: EstimatedMaps, clip: Clip, config: GeometryConfig, progress: Progress) -> _Survey:
    """Read every map once: where it lies, its camera, a sample of its points, how confidence counts."""
    filmed, facts, words = _picture_size(clip), [], {}
    progress.start("pointmaps", len(clip))
    for row in range(len(clip)):
        found = maps[row]
        fact = None
        if found is not None:
            fact, word = _facts(found, maps.estimator, clip, filmed, config)
            words[found.width, found.height, word] = None
        facts.append(fact)
        progress.update()
    progress.finish()
    ranges = [fact.conf for fact in facts if fact is not None and fact.conf is not None]
    kind = config.pointmaps_conf
    if kind == "auto":
        kind = confidence_kind(min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else "unit"
    shown = "; ".join(f"{w}x{h}, {word}" for w, h, word in list(words)[:3])
    what = "" if maps.estimator == "dyn4d" else f" of {maps.estimator}"
    notes = [f"pointmaps: maps{what} from {maps.source} ({shown}) for {filmed[0]}x{filmed[1]} pictures"]
    if ranges:
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        notes.append(f"pointmaps: confidence c from {low:.3g} to {high:.3g} is taken as {_FORMULA[kind]}")
    return _Survey(maps, tuple(facts), kind, tuple(notes))


def _facts(
    found: EstimatedMap, estimator: str, clip: Clip, filmed: tuple[int, int], config: GeometryConfig
) -> tuple[MapFacts, str]:
    if found.crop is None or config.pointmaps_fit != "auto":
        box, word = map_box((found.width, found.height), filmed, config.pointmaps_fit, estimator)
        picture = filmed
    else:
        box, word, picture = found.crop, "with a box of its own", found.picture or filmed
    sx, sy = clip.width / picture[0], clip.height / picture[1]
    scaled: Box = (box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy)
    place = Placement((found.width, found.height), scaled, (clip.width, clip.height))
    xy, points = np.zeros((0, 2)), np.zeros((0, 3))
    if found.points is not None:
        xy, points = sample_points(found.points, found.conf, place)
    sure = found.conf[np.isfinite(found.conf)] if found.conf is not None else np.zeros(0)
    K = None if found.K is None else place.K_to_picture(found.K)
    span = (float(sure.min()), float(sure.max())) if len(sure) else None
    return MapFacts(place, K, found.world_from_cam, xy, points, found.in_world, span), word


# ------------------------------------------------------------------------------------------- cameras


def _cameras(clip: Clip, survey: _Survey) -> tuple[Camera, list[str]]:
    """Cameras before anything is solved from depth: NaN poses where none is known. And lines for the user."""
    facts, size = survey.facts, (clip.width, clip.height)
    given = clip.cameras
    in_world = any(fact is not None and fact.in_world for fact in facts)
    if given is not None and clip.poses_given and not survey.posed and not in_world:
        return given, ["pointmaps: cameras are the clip's; depth has to be in the unit of their poses"]
    K, whose = _intrinsics(clip, survey)
    poses = np.full((len(clip), 4, 4), np.nan)
    notes = [f"pointmaps: K is {whose}"]
    if survey.posed:
        for row, fact in enumerate(facts):
            if fact is not None and fact.world_from_cam is not None:
                poses[row] = fact.world_from_cam
        notes.append("pointmaps: poses are those that came with the maps")
    elif in_world:
        misses = []
        for row, fact in enumerate(facts):
            pose, miss = (None, np.inf) if fact is None else pose_of_points(fact, K[row])
            if pose is not None:
                poses[row] = pose
                misses.append(miss)
        if not misses:
            raise InputError(f"{survey.maps.source}: the points in the world fit no camera; give K or poses with them")
        notes.append(f"pointmaps: poses from points in the world; half of them are within {np.median(misses):.2f} px")
    return Camera(torch.from_numpy(K), torch.from_numpy(poses), *size), notes


def _intrinsics(clip: Clip, survey: _Survey) -> tuple[np.ndarray, str]:
    """(T, 3, 3) of the clip's pictures, and whose they are."""
    facts, size = survey.facts, (clip.width, clip.height)
    known = [None if fact is None else fact.K for fact in facts]
    rest: np.ndarray | None = None
    if all(fact is None or fact.K is not None for fact in facts):
        whose = "that of the maps"
    elif clip.cameras is not None:
        known, whose = list(clip.cameras.K.double().cpu().numpy()), "the clip's"
    else:
        rest = focal_intrinsics(facts, size)
        rest = world_intrinsics(facts, size) if rest is None else rest
        if rest is None and not any(K is not None for K in known):
            raise InputError(
                f"{survey.maps.source}: there is no K: add K (3x3, pixels of the map) to the maps, or cameras.json "
                "with K to the clip; only maps of points tell the focal length themselves"
            )
        whose = "that of the maps; those without have their neighbour's"
        if rest is not None:
            whose = f"estimated from the points: focal length {rest[0, 0]:.1f} px"
    first = next((K for K in known if K is not None), rest)
    assert first is not None
    filled, last = [], first  # a frame without a map has no points; its K only has to be sensible
    for K in known:
        last = K if K is not None else (last if rest is None else rest)
        filled.append(last)
    return np.stack(filled), whose


# -------------------------------------------------------------------------------------------- points


def _nothing(size: tuple[int, int]) -> _Seen:
    return np.zeros(size), lambda xy: np.ones(len(xy)), lambda mask: 0


class _DepthOf:
    """Depth (H, W) of a selected frame at the picture's pixels; its trust at some of them (N, 2); and how many flying
    pixels of its map were dropped inside a mask (H, W)."""

    def __init__(self, survey: _Survey, cameras: Camera, clip: Clip, config: GeometryConfig) -> None:
        self.survey, self.config, self.size = survey, config, (clip.height, clip.width)
        self.K = cameras.K.double().cpu().numpy()
        self.cam_from_world = cameras.cam_from_world.double().cpu().numpy()

    def __call__(self, row: int) -> _Seen:
        found, fact = self.survey.maps[row], self.survey.facts[row]
        if found is None or fact is None:
            return _nothing(self.size)
        if found.depth is not None:
            depth = found.depth
        else:
            assert found.points is not None
            depth = found.points[..., 2]
            if found.in_world:  # NaN, so none, where the pose is not known
                inverse = self.cam_from_world[row]
                depth = found.points @ inverse[2, :3] + inverse[2, 3]
                depth = np.where((found.points != 0).any(-1), depth, 0)
        trust = None if found.conf is None else trust_of(found.conf, self.survey.kind)
        depth = usable_depth(depth, trust, self.config.pointmaps_min_conf)
        depth, flying = depth_to_picture(depth, fact.place, self.K[row], self.config.max_slope_deg)

        def sampled(xy: np.ndarray) -> np.ndarray:
            return np.ones(len(xy)) if trust is None else sample_trust(trust, fact.place, xy)

        return depth, sampled, lambda mask: count_inside(flying, fact.place, mask)


def _points(
    clip: Clip, cameras: Camera, depth_of: _DepthOf, config: GeometryConfig, progress: Progress
) -> tuple[FramePoints, list[str]]:
    parts, dropped = [], 0
    registered = cameras.registered.tolist()
    progress.start("points", len(clip))
    for row in range(len(clip)):
        depth, trust, gone = depth_of(row) if registered[row] else _nothing((clip.height, clip.width))
        mask, image = np.asarray(clip.masks[row]).astype(bool), np.asarray(clip.images[row])
        part, flying = points_of_frame(depth, mask, image, cameras.K[row], cameras.world_from_cam[row], config=config)
        sure = torch.from_numpy(trust(part.xy.double().numpy())).float()
        part = replace(part, conf=(part.conf * sure).clamp(FLOOR, 1.0))
        dropped += gone(mask) + flying
        parts.append(part)
        progress.update(points=float(len(part)))
    progress.finish()
    points = join_frames(parts)
    if len(points) == 0:
        raise InputError(
            f"{depth_of.survey.maps.source}: no frame has a usable point on the object; check that maps, masks and "
            "frames belong together, and geometry.pointmaps_min_conf"
        )
    notes = [f"pointmaps: {len(points)} points of {len(clip)} frames, {dropped} flying pixels dropped"]
    absent = [name for name, fact in zip(clip.names, depth_of.survey.facts) if fact is None]
    bare = [name for name, part in zip(clip.names, parts) if len(part) == 0 and name not in set(absent)]
    for names, why in ((absent, "have no map"), (bare, "have no points (no pose, no mask or nothing usable there)")):
        if names:
            notes.append(f"pointmaps: {len(names)} frames {why}: {listed(names)}")
    return points, notes
