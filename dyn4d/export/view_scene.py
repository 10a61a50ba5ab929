"""What the viewer shows of a run, finished or not, as arrays per frame. Knows nothing of what draws them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from dyn4d.core.errors import Dyn4DError, InputError, RunError
from dyn4d.core.protocols import Field
from dyn4d.core.rotations import wxyz_to_matrix
from dyn4d.core.types import Camera, FramePoints, GaussianCloud, Timeline
from dyn4d.deformation.files import load_field
from dyn4d.export.run import load_drawn_tracks, load_result, timeline_of
from dyn4d.export.tracks import rainbow
from dyn4d.export.trails import DrawnTracks
from dyn4d.export.views import fill_poses, upward
from dyn4d.gaussians.warp import covariance, move_cloud
from dyn4d.io import artifacts
from dyn4d.io.atomic import read_json
from dyn4d.io.cameras_json import read_cameras
from dyn4d.raster.sh import sh_colors

Layer = Literal["gaussians", "field", "points"]
STAGES = ("geometry", "deformation", "gaussians")  # folders that the viewer reads
WATCHED = (
    "geometry/cameras.json", "geometry/frame_points.npz", "deformation/field.safetensors", "deformation/tracks.npz",
    "gaussians/canonical.ply", "gaussians/field.safetensors",
)  # fmt: skip
MOST_POINTS = 100_000  # of one frame, and of the points that the field moves: browsers draw them at every step
KEPT = 512 * 2**20  # bytes of moved frames that are kept
FADE = 0.1  # below the least confidence, in which things go from solid to unseen


@dataclass(frozen=True)
class Splats:
    """Gaussians of one moment: `centres` (G, 3) world, `covariances` (G, 3, 3), `rgb` (G, 3) in [0, 1], `opacity` (G,),
    `conf` (G,) in [0, 1], 1 where nobody has said."""

    centres: np.ndarray
    covariances: np.ndarray
    rgb: np.ndarray
    opacity: np.ndarray
    conf: np.ndarray


@dataclass(frozen=True)
class Points:
    """Points of one moment: `xyz` (N, 3) world, `rgb` (N, 3) in [0, 1], `conf` (N,) in (0, 1]; `frame` of the clip that
    saw them, None where they come from all frames."""

    xyz: np.ndarray
    rgb: np.ndarray
    conf: np.ndarray
    frame: int | None = None

    def select(self, rows: np.ndarray) -> Points:
        return replace(self, xyz=self.xyz[rows], rgb=self.rgb[rows], conf=self.conf[rows])


@dataclass(frozen=True)
class Framing:
    """Where the object is over the clip: `centre` (3,) world, and `size`, the largest side of its box, > 0."""

    centre: np.ndarray
    size: float


def fade(conf: np.ndarray, least: float) -> np.ndarray:
    """Factors (N,) for opacities: 1 from confidence `least` on, 0 from `FADE` below it; all 1 for `least` = 0."""
    return np.clip((conf - least) / FADE + 1.0, 0.0, 1.0) if least > 0 else np.ones_like(conf)


def fingerprint(run: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes when a stage that the viewer reads is finished or replaced: its marker and files, not their content."""
    found = []
    for name in (*(f"{stage}/.stage.json" for stage in STAGES), *WATCHED):
        try:
            status = (run / name).stat()
        except OSError:
            continue
        found.append((name, status.st_mtime_ns, status.st_size))
    return tuple(found)


class Scene:
    """A run as far as it has got. Arrays are in the clip's own world and units.

    Attributes:
        timeline: F frames. cameras: F, poses filled in; None if no pose is known. registered: (F,) bool, pose known.
        layers: what can be shown, the furthest stage first. up: (3,) unit. framing: where the object is.
        tracks: trails to draw, or None. track_rgb: (N, 3) uint8.
    """

    def __init__(
        self, timeline: Timeline, cameras: Camera, *, cloud: GaussianCloud | None = None, field: Field | None = None,
        points: FramePoints | None = None, selected: np.ndarray | None = None, tracks: DrawnTracks | None = None,
    ) -> None:  # fmt: skip
        self.timeline, self.tracks = timeline, tracks
        self.registered = cameras.registered.numpy()
        self.cameras = fill_poses(cameras) if self.registered.any() else None
        self.up = np.array([0.0, -1.0, 0.0]) if self.cameras is None else upward(self.cameras).double().numpy()
        self._cloud, self._field = cloud, field
        self._points = finite(points) if points is not None else None
        self._selected = selected if selected is not None else np.arange(len(timeline))
        self._seeds: Points | None = None
        self._moved: OrderedDict[tuple[int, bool], Splats] = OrderedDict()
        self.layers = self._find_layers()
        if not self.layers:
            raise RunError(
                "the run has neither points nor Gaussians to show; run the geometry stage again (--overwrite)"
            )
        self.track_rgb = rainbow(tracks.start) if tracks is not None else np.zeros((0, 3), np.uint8)
        self.framing = self._frame()

    def __len__(self) -> int:
        return len(self.timeline)

    def _find_layers(self) -> tuple[Layer, ...]:
        found: list[Layer] = []
        if self._cloud is not None and self._field is not None and len(self._cloud):
            found.append("gaussians")
        if self._points is not None and len(self._points):
            if self._field is not None:
                found.append("field")
            found.append("points")
        return tuple(found)

    def _frame(self) -> Framing:
        """Without the outermost 1 % at each side, which a few stray points may hold."""
        if self._points is not None and len(self._points):
            xyz = self._points.xyz[:: max(1, len(self._points) // MOST_POINTS)].numpy()
        else:
            ends = [self.splats(i).centres for i in sorted({0, len(self) // 2, len(self) - 1})]
            xyz = np.concatenate(ends)
        low, high = np.percentile(xyz, [1, 99], axis=0)
        size = float((high - low).max())
        return Framing((low + high) / 2, size if np.isfinite(size) and size > 0 else 1.0)

    # ------------------------------------------------------------------------------------ per frame

    def splats(self, frame: int, *, canonical: bool = False) -> Splats:
        """The Gaussians at a frame's time, or in canonical space. Colours are those that the frame's own camera sees,
        as in the renders of the input's views. Gaussians with numbers that are not finite are left out."""
        if self._cloud is None or self._field is None:
            raise RunError("there are no Gaussians yet; finish the gaussians stage first")
        # with colours that change with the view, canonical space differs from frame to frame too
        key = (0 if canonical and self._cloud.sh_degree == 0 else frame, canonical)
        if key not in self._moved:
            cloud = (
                self._cloud if canonical else move_cloud(self._cloud, self._field, float(self.timeline.times[frame]))
            )
            self._moved[key] = self._as_splats(cloud, frame)
            bytes_each = 4 * 17 * max(len(cloud), 1)
            while len(self._moved) > max(1, KEPT // bytes_each):
                self._moved.popitem(last=False)
        self._moved.move_to_end(key)
        return self._moved[key]

    def _as_splats(self, cloud: GaussianCloud, frame: int) -> Splats:
        eye = self.cameras.world_from_cam[frame, :3, 3] if self.cameras is not None else torch.zeros(3)
        covars = covariance(wxyz_to_matrix(cloud.quats_wxyz), cloud.scales)
        rgb = sh_colors(cloud.sh_degree, cloud.means - eye.to(cloud.means), cloud.sh).clamp(0, 1)
        conf = cloud.confidence if cloud.confidence is not None else torch.ones_like(cloud.opacities)
        parts = [cloud.means, covars, rgb, cloud.opacities, conf]
        arrays = [part.detach().float().cpu().numpy() for part in parts]
        good = np.all([np.isfinite(a).reshape(len(a), -1).all(1) for a in arrays], axis=0)
        return Splats(*(a[good] for a in arrays))

    def frame_points(self, frame: int) -> Points:
        """What the geometry stage found in this frame, or, where it was left out, in the last one before it that was
        not. At most `MOST_POINTS`, evenly thinned."""
        if self._points is None:
            raise RunError("there are no points; finish the geometry stage first")
        at = max(int(np.searchsorted(self._selected, frame, side="right")) - 1, 0)
        rows = torch.nonzero(self._points.frame == at).flatten()
        return _points_of(self._points, _thin(rows), int(self._selected[at]))

    def field_points(self, frame: int, *, canonical: bool = False) -> Points:
        """Points of all frames, taken to canonical space and from there to this frame's time by the field."""
        seeds = self._canonical_points()
        if canonical or self._field is None:
            return seeds
        with torch.no_grad():
            xyz = self._field.from_canonical(torch.from_numpy(seeds.xyz), float(self.timeline.times[frame]))
        return _keep_finite(replace(seeds, xyz=xyz.float().numpy()))

    def _canonical_points(self) -> Points:
        if self._points is None or self._field is None:
            raise RunError("there is no field yet; finish the deform stage first")
        if self._seeds is None:
            rows = _thin(torch.arange(len(self._points)))
            found, frames = _points_of(self._points, rows, None), self._points.frame[rows].numpy()
            xyz = found.xyz.copy()
            with torch.no_grad():
                for at in np.unique(frames):
                    t = float(self.timeline.times[self._selected[at]])
                    mine = frames == at
                    xyz[mine] = self._field.to_canonical(torch.from_numpy(found.xyz[mine]), t).float().numpy()
            self._seeds = _keep_finite(replace(found, xyz=xyz))
        return self._seeds

    def trails(self, frame: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Where tracks were in the last `length` frames up to `frame`: segments (S, 2, 3) world and colours (S, 2, 3)
        uint8, paler where a point was hidden. Stretches of which an end is unknown are left out."""
        if self.tracks is None:
            return np.zeros((0, 2, 3), np.float32), np.zeros((0, 2, 3), np.uint8)
        start = max(0, frame - length)
        xyz, seen = self.tracks.xyz[start : frame + 1], self.tracks.visible[start : frame + 1]
        ends = np.stack([xyz[:-1], xyz[1:]], axis=2)  # (steps, N, 2, 3)
        known = np.isfinite(ends).all((-1, -2))
        clear = (seen[:-1] & seen[1:])[..., None]
        ink = np.where(clear, self.track_rgb, self.track_rgb // 3 + 170).astype(np.uint8)
        return ends[known].astype(np.float32), np.repeat(ink[known][:, None], 2, axis=1)


def finite(points: FramePoints) -> FramePoints:
    """Without rows whose place or colour is not a number."""
    good = torch.isfinite(points.xyz).all(-1) & torch.isfinite(points.rgb).all(-1)
    return points if bool(good.all()) else points.select(good)


def _thin(rows: torch.Tensor) -> torch.Tensor:
    return rows[:: max(1, -(-len(rows) // MOST_POINTS))]


def _points_of(points: FramePoints, rows: torch.Tensor, frame: int | None) -> Points:
    some = points.select(rows)
    return Points(some.xyz.float().numpy(), some.rgb.float().clamp(0, 1).numpy(), some.conf.float().numpy(), frame)


def _keep_finite(points: Points) -> Points:
    return points.select(np.asarray(np.isfinite(points.xyz).all(1)))


# ------------------------------------------------------------------------------------------------ loading


def load_scene(run: Path) -> Scene:
    """What the finished stages of a run amount to, the geometry stage at least.

    Raises:
        RunError: nothing can be shown yet; says which stage to run. InputError: a file is damaged.
    """
    run = Path(run)
    if not run.is_dir():
        raise InputError(f"{run} is no run folder; give the folder that dyn4d run wrote")
    path = run / "geometry/cameras.json"
    if not path.is_file():
        raise RunError(f"{run}: nothing to look at yet; finish the geometry stage first (dyn4d geometry {run})")
    points_file = run / "geometry/frame_points.npz"
    points = artifacts.load(points_file, FramePoints) if points_file.is_file() else None
    selected, tracks = _selected(run), load_drawn_tracks(run, before=False)
    if not tracks:  # before the field is there, those that the matches alone made
        tracks = load_drawn_tracks(run, before=True)
    drawn = tracks[0] if tracks and tracks[0].xyz.shape[1] else None
    if (run / "gaussians/canonical.ply").is_file() and (run / "gaussians/field.safetensors").is_file():
        result = load_result(run)
        return Scene(
            result.timeline, result.cameras, cloud=result.cloud, field=result.field, points=points, selected=selected,
            tracks=drawn,
        )  # fmt: skip
    file = read_cameras(path)
    cameras = file.camera()
    if cameras is None:
        raise RunError(f"{path} holds no cameras; run the geometry stage again with --overwrite")
    fitted = run / "deformation/field.safetensors"
    field = load_field(fitted) if fitted.is_file() else None
    return Scene(timeline_of(file), cameras, field=field, points=points, selected=selected, tracks=drawn)


def _selected(run: Path) -> np.ndarray | None:
    """The frames of the clip that the run was fitted on, in order."""
    path = run / "prepare/clip.json"
    rows = read_json(path).get("selected") if path.is_file() else None
    return np.asarray(rows, dtype=np.int64) if rows else None


class LiveScene:
    """A scene that is loaded again when a stage of its run is finished or replaced."""

    def __init__(self, run: Path, load: Callable[[Path], Scene] = load_scene) -> None:
        self.run, self._load = Path(run), load
        self._seen = fingerprint(self.run)
        self.scene = load(self.run)

    def refresh(self) -> bool:
        """Has something new been loaded? While a stage is being replaced the files may not fit together: the old scene
        then stays, and the next call tries again."""
        now = fingerprint(self.run)
        if now == self._seen:
            return False
        try:
            self.scene = self._load(self.run)
        except (Dyn4DError, OSError):
            return False
        self._seen = now
        return True
