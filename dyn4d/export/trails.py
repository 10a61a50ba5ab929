"""`renders/tracks.mp4`: the input video with coloured trails of where points of the object came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from dyn4d.core.cameras import project, scale_camera
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Camera, Clip, Timeline
from dyn4d.export.pictures import side_by_side
from dyn4d.export.renders import is_whole, stored_pictures
from dyn4d.export.tracks import rainbow, spread_rows
from dyn4d.export.views import fill_poses
from dyn4d.io.images import write_png
from dyn4d.io.video import write_mp4

LEAST_SIDE = 512  # px: the longest side of a picture; smaller ones are enlarged
MOST = 150  # trails in a picture: more cover what they show
DIM = 0.35  # of the picture that is replaced by white
HIDDEN_ALPHA = 0.3
DASH = 2  # hidden parts: one stretch in so many is drawn
_BITS = 3  # OpenCV takes places in fractions of 1 / 2^3 pixel


@dataclass(frozen=True)
class DrawnTracks:
    """Tracks as they are drawn.

    Attributes:
        xyz: (F, N, 3) world, NaN where unknown. visible: (F, N) bool. start: (N, 3) the first place that is known.
    """

    xyz: np.ndarray
    visible: np.ndarray
    start: np.ndarray


def choose_tracks(xyz: np.ndarray, visible: np.ndarray, most: int = MOST) -> DrawnTracks:
    """Up to `most` tracks whose starts are spread over the object, without the quarter that is known most shortly.

    Args:
        xyz: (F, N, 3) world, NaN where unknown. visible: (F, N) bool.
    """
    known = np.isfinite(xyz[..., 0])
    alive = np.flatnonzero(known.sum(0) >= min(2, len(xyz)))
    if len(alive) == 0:
        return DrawnTracks(xyz[:, :0], visible[:, :0], np.zeros((0, 3)))
    if len(alive) > 2 * most:  # the shortest flicker
        length = known[:, alive].sum(0)
        alive = alive[length >= np.percentile(length, 25)]
    start = xyz[known[:, alive].argmax(0), alive]
    rows = spread_rows(start, most)
    return DrawnTracks(xyz[:, alive[rows]], visible[:, alive[rows]], start[rows])


def draw_over(
    picture: np.ndarray, tracks: DrawnTracks, camera: Camera, *, colours: np.ndarray, frame: int, trail: int
) -> np.ndarray:
    """Where the tracks were in the last `trail` frames up to `frame`, over a picture that is paled a little.

    All places are projected with the camera of this frame, so that only the object's own motion shows. What was seen is
    a full line, what was hidden a faint dashed one; heads of points that are seen now are dots, of hidden ones rings.

    Args:
        picture: (H, W, 3) uint8, of the camera's size. camera: one camera. colours: (N, 3) uint8.
    """
    paled = cv2.addWeighted(picture, 1 - DIM, np.full_like(picture, 255), DIM, 0.0)
    start = max(0, frame - trail)
    places = torch.from_numpy(np.nan_to_num(tracks.xyz[start : frame + 1], nan=0.0)).double()
    pixels, depth = project(camera.K.double().cpu(), camera.cam_from_world.double().cpu(), places)
    usable = np.isfinite(tracks.xyz[start : frame + 1, :, 0]) & (depth.numpy() > 0)
    # places far outside overflow OpenCV's integers
    spots = np.round(np.clip(pixels.numpy() - 0.5, -4e3, 3e4) * (1 << _BITS)).astype(np.int32)
    seen = tracks.visible[start : frame + 1]
    line = max(1, round(min(picture.shape[:2]) / 320))
    full, faint = paled.copy(), paled.copy()
    inks = [tuple(int(c) for c in colour) for colour in colours]
    steps = len(spots) - 1
    for step in range(steps):
        both = usable[step] & usable[step + 1]
        for i in np.flatnonzero(both).tolist():
            clear = seen[step, i] and seen[step + 1, i]
            if not clear and (start + step) % DASH:
                continue
            # older parts fade into the picture
            colour = _mix(inks[i], 0.35 + 0.65 * (step + 1) / steps)
            a, b = spots[step, i].tolist(), spots[step + 1, i].tolist()
            cv2.line(full if clear else faint, a, b, colour, line, cv2.LINE_AA, _BITS)
    for i in np.flatnonzero(usable[-1]).tolist():
        head, radius = spots[-1, i].tolist(), int((1.6 * line + 0.6) * (1 << _BITS))
        if seen[-1, i]:
            cv2.circle(full, head, radius, inks[i], -1, cv2.LINE_AA, _BITS)
        else:
            cv2.circle(faint, head, radius, inks[i], 1, cv2.LINE_AA, _BITS)
    hidden = cv2.addWeighted(faint, HIDDEN_ALPHA, paled, 1 - HIDDEN_ALPHA, 0.0)
    changed = (full != paled).any(-1, keepdims=True)
    return np.where(changed, full, hidden)


def _mix(colour: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round(share * c + (1 - share) * 255) for c in colour)


def write_track_movie(
    clip: Clip,
    timeline: Timeline,
    cameras: Camera,
    tracks: Sequence[DrawnTracks],
    *,
    out: Path,
    trail: int,
    fps: float,
    progress: Progress | None = None,
) -> Path:
    """Write `out/tracks/000000.png ...` for each frame and `out/tracks.mp4`; pictures that are there are kept.

    Args:
        clip: all F frames of the clip. cameras: F; those without a pose are interpolated.
        tracks: drawn side by side, each over the same picture. trail: frames.
    """
    progress = progress or SilentProgress()
    folder = out / "tracks"
    folder.mkdir(parents=True, exist_ok=True)
    filled = fill_poses(cameras)
    ratio = max(1.0, LEAST_SIDE / max(clip.width, clip.height))
    size = (round(clip.width * ratio), round(clip.height * ratio))
    filled = scale_camera(filled, *size)
    # one scale of colours for all panels
    inks = np.split(rainbow(np.concatenate([t.start for t in tracks])), np.cumsum([len(t.start) for t in tracks])[:-1])
    todo = [i for i in range(len(timeline)) if not is_whole(folder / f"{i:06d}.png")]
    progress.start("tracks", len(timeline), len(timeline) - len(todo))
    for frame in todo:
        picture = cv2.resize(np.ascontiguousarray(clip.images[frame]), size, interpolation=cv2.INTER_CUBIC)
        panels = [
            draw_over(picture, one, filled[frame], colours=ink, frame=frame, trail=trail)
            for one, ink in zip(tracks, inks, strict=True)
        ]
        write_png(folder / f"{frame:06d}.png", side_by_side(panels, gap=4))
        progress.update()
    progress.finish()
    video = out / "tracks.mp4"
    if todo or not is_whole(video):
        write_mp4(video, stored_pictures(folder, len(timeline)), fps)
    return video
