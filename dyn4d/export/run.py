"""The stages that read a run folder: renders, per-frame PLYs and tracks, figures and report, evaluation.

Each is a thin layer: it loads what the earlier stages left and calls a function with explicit inputs. `out` is the
(partial) folder of the stage; the caller renames it when it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyn4d.core.cameras import orbit, scale_camera
from dyn4d.core.errors import InputError, RunError
from dyn4d.core.listing import counted
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Camera, Clip, GaussianCloud, Timeline
from dyn4d.deformation.files import load_field
from dyn4d.deformation.tracks import Tracks
from dyn4d.export import formats
from dyn4d.export import metrics as run_metrics
from dyn4d.export.config import RENDER_NAMES, ExportConfig, RenderConfig
from dyn4d.export.evaluate import UNKNOWN, Reconstruction, evaluate, object_size
from dyn4d.export.geometry_pictures import geometry_pictures
from dyn4d.export.left_out import evaluate_left_out
from dyn4d.export.pictures import depth_picture, error_picture, side_by_side
from dyn4d.export.player import write_player
from dyn4d.export.renders import background_colour, find_extent, render_cloud, to_uint8, write_movies, write_renders
from dyn4d.export.report import PLAYER, FramePictures, ReportContent, find_warnings, write_report
from dyn4d.export.report_story import FurtherRender
from dyn4d.export.sequence import write_sequence
from dyn4d.export.story import Story
from dyn4d.export.tracks import draw_trails, gaussian_tracks, rainbow, spread_rows
from dyn4d.export.trails import DrawnTracks, choose_tracks, write_track_movie
from dyn4d.export.view_limit import view_limit
from dyn4d.export.views import fill_poses, upward
from dyn4d.gaussians.metrics import mpsnr
from dyn4d.gaussians.warp import move_cloud
from dyn4d.geometry.point_tracks import PointTracks
from dyn4d.io import artifacts
from dyn4d.io.atomic import read_json, write_json
from dyn4d.io.cameras_json import CameraFile, read_cameras
from dyn4d.io.images import read_rgb, write_png
from dyn4d.io.ply import read_ply
from dyn4d.io.truth import load_truth

REPORT_MOVIES = ("input", "fixed", "orbit")
MOVIE_FRAMES = 60  # longer clips are thinned in the report
ASIDE = 30  # degrees round the object, to both sides, from which the report shows it; less where less is trusted
MOTION_FRAMES = 3  # that show in the report how far points move
TRAILS = 150  # tracks in a picture
TRAIL_PANEL = 520  # px: the longest side of one picture of trails is at least this
FILES = (
    ("renders/input.mp4, fixed.mp4, orbit.mp4", "videos, with their frames as PNGs in folders of the same names"),
    ("renders/tracks.mp4", "the input video with trails of points of the object: dashed where they are hidden"),
    (PLAYER, "the moving object, to turn, zoom and scrub in a browser; no server or network needed"),
    ("export/ply/frame_0000.ply ...", "every frame as a standard 3DGS PLY; drop them all on an editor to play them"),
    ("gaussians/canonical.ply", "the Gaussians in canonical space"),
    ("gaussians/field.safetensors", "the field that moves them: dyn4d.deformation.load_field"),
    ("export/tracks.npz", "trajectories of Gaussians: xyz (frame, track, 3), and each one's row in the PLYs"),
    ("geometry/", "cameras, points of each frame, correspondences, motion against the cameras, COLMAP model"),
    *formats.FILES,
    ("metrics.json", "the figures of this page"),
)


def timeline_of(cameras: CameraFile) -> Timeline:
    """The clip's frames and times from the run's `geometry/cameras.json`, one entry a frame in order."""
    entries = cameras.frames
    if not entries:
        raise RunError(f"{cameras.source} lists no frames; run the geometry stage again with --overwrite")
    fps = cameras.fps or 24.0
    seconds = np.array([i / fps if e.time is None else e.time for i, e in enumerate(entries)], dtype=np.float64)
    span = seconds[-1] - seconds[0]
    times = (seconds - seconds[0]) / span if len(entries) > 1 else np.zeros(1)
    names = tuple(Path(e.rgb).stem if e.rgb else f"{i:06d}" for i, e in enumerate(entries))
    return Timeline(times, seconds, names)


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def load_result(run: Path, device: torch.device | str = "cpu") -> Reconstruction:
    """What the finished stages of a run amount to. Raises `RunError` naming the stage that is missing."""
    run = Path(run)
    wanted = (
        ("geometry", "geometry/cameras.json"), ("gaussians", "gaussians/canonical.ply"),
        ("gaussians", "gaussians/field.safetensors"),
    )  # fmt: skip
    if not run.is_dir():
        raise InputError(f"{run} is no run folder; give the folder that dyn4d run wrote")
    for stage, name in wanted:
        if not (run / name).is_file():
            raise RunError(f"{run / name} is not there; finish the {stage} stage first (dyn4d {stage} {run})")
    file = read_cameras(run / "geometry/cameras.json")
    cameras = file.camera()
    if cameras is None:
        raise RunError(f"{file.source} holds no cameras; run the geometry stage again with --overwrite")
    cloud = read_ply(run / "gaussians/canonical.ply")
    if not isinstance(cloud, GaussianCloud):
        raise InputError(f"{run / 'gaussians/canonical.ply'} holds points, not Gaussians; run dyn4d gaussians again")
    colour = _optional_json(run / "gaussians/metrics.json").get("background") or (0.5, 0.5, 0.5)
    head = read_json(file.source)
    return Reconstruction(
        cloud=cloud.to(device),
        field=load_field(run / "gaussians/field.safetensors", device),
        timeline=timeline_of(file),
        cameras=cameras,
        poses_given=head.get("poses", "given") != "solved",
        background=tuple(float(c) for c in colour),
        depth_error=head.get("depth_error"),
    )


def render_run(
    run: Path, out: Path, config: RenderConfig, *, clip: Clip | None = None, device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> list[Path]:  # fmt: skip
    """The render stage: fill `out` with pictures and videos, going on where an interrupted call stopped.

    Args:
        clip: all frames of the run's clip, which tracks are drawn over; without it they are left out, and asking for
            compare is an `InputError`.
    """
    result = load_result(run, device)
    videos = write_renders(
        result.cloud, result.field, result.timeline, cameras=result.cameras, out=out, config=config,
        clip_colour=result.background, clip=clip, depth_error=result.depth_error, progress=progress,
    )  # fmt: skip
    tracks = load_drawn_tracks(Path(run), before=config.tracks_before) if "tracks" in config.which else []
    if clip is not None and tracks:
        video = write_track_movie(
            clip, result.timeline, result.cameras, tracks, out=out, trail=config.trail,
            fps=config.fps or result.timeline.fps, progress=progress,
        )  # fmt: skip
        if config.gif:
            count, fps = len(result.timeline), config.fps or result.timeline.fps
            write_movies(out, "tracks", count, fps, gif=True, changed=False)
        videos.append(video)
    return videos


def load_drawn_tracks(run: Path, *, before: bool) -> list[DrawnTracks]:
    """The tracks that the deformation stage left; `before`: ahead of them those of the geometry stage."""
    sources: list[tuple[Path, type[Tracks] | type[PointTracks]]] = [(run / "deformation/tracks.npz", Tracks)]
    if before:
        sources.insert(0, (run / "geometry/tracks.npz", PointTracks))
    found = [artifacts.load(path, kind) for path, kind in sources if path.is_file()]
    return [choose_tracks(tracks.xyz.numpy(), tracks.visible.numpy()) for tracks in found]


def tracks_picture(
    result: Reconstruction, tracks: Mapping[str, np.ndarray], *, frames: Sequence[int], background: tuple[float, ...]
) -> np.ndarray:
    """Trails at some frames side by side, each seen by that frame's own camera over its render."""
    xyz = tracks["xyz"]
    cameras = fill_poses(result.cameras)
    rows = spread_rows(xyz[len(xyz) // 2], TRAILS)
    xyz = xyz[:, rows]
    colours = rainbow(xyz[len(xyz) // 2])
    size = object_size(xyz)
    longest = max(cameras.width, cameras.height)
    ratio = max(1.0, TRAIL_PANEL / longest)
    cameras = scale_camera(cameras, round(cameras.width * ratio), round(cameras.height * ratio))
    panels = []
    for frame in frames:
        moved = move_cloud(result.cloud, result.field, float(result.timeline.times[frame]))
        drawn = render_cloud(moved, cameras[frame], background)
        panels.append(
            draw_trails(
                to_uint8(drawn.rgb[0]), xyz, cameras[frame], colours=colours, frame=frame,
                depth=drawn.depth[0, ..., 0], tolerance=0.03 * size, length=max(6, len(xyz) // 4),
            )
        )  # fmt: skip
    return side_by_side(panels, gap=4)


def export_run(
    run: Path,
    out: Path,
    config: ExportConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    clip: Callable[[], Clip] | None = None,
    progress: Progress | None = None,
) -> None:
    """The export stage's own folder: `out/player.html`, `out/ply/frame_0000.ply ...`, `out/tracks.npz`,
    `out/tracks.png`, and what `config.formats` names. Files that are there already are kept.

    Args:
        clip: opens all frames of the run's clip; only asked where a format names pictures.
    """
    progress = progress or SilentProgress()
    result = load_result(run, device)
    out.mkdir(parents=True, exist_ok=True)
    if config.player and not (out / "player.html").is_file():
        write_player(out / "player.html", result, name=_title(Path(run)), progress=progress)
    if config.ply:
        write_sequence(result.cloud, result.field, result.timeline, out=out / "ply", progress=progress)
    if config.tracks and not (out / "tracks.png").is_file():
        tracks = gaussian_tracks(result.cloud, result.field, result.timeline, count=config.tracks, seed=seed)
        artifacts.save(out / "tracks.npz", tracks)
        count = len(result.timeline)
        frames = sorted({count // 2, max(0, (3 * count) // 4), count - 1})
        write_png(out / "tracks.png", tracks_picture(result, tracks, frames=frames, background=(1.0, 1.0, 1.0)))
    formats.write_formats(formats.FormatJob(run, out, config, result, clip, progress))


def _title(run: Path) -> str:
    """The clip's name, or the run's where the clip is a folder of the run; of the demo what it shows."""
    scene = _optional_json(run / "demo.json").get("scene")
    if scene:
        return f"{scene} (demo)"
    name = str(_optional_json(run / "prepare/clip.json").get("name", ""))
    return name if name not in ("", "clip") else run.resolve().name


def renders_aside(
    moved: GaussianCloud, camera: Camera, up: torch.Tensor, background: tuple[float, ...], aside: int = ASIDE
) -> dict[int, np.ndarray]:
    """A moved cloud from `camera` (one pose) and from `aside` degrees to both sides of it, turned about the object's
    middle."""
    angles = (-aside, 0, aside)
    solid = moved.means[moved.opacities > 0.1]
    middle = (solid if len(solid) else moved.means).median(dim=0).values.to(camera.world_from_cam)
    views = orbit(camera, middle, up.to(middle), [float(angle) for angle in angles])
    return {angle: to_uint8(render_cloud(moved, views[i], background).rgb[0]) for i, angle in enumerate(angles)}


def compare_frames(
    result: Reconstruction, clip: Clip, *, count: int, background: tuple[float, ...]
) -> list[FramePictures]:
    """Input, render, error and depth of `count` of the clip's selected frames, spread over it.

    The error is that of the render over the clip's own background colour; `background` is what is shown.
    """
    cameras = fill_poses(result.cameras)
    up = upward(cameras)
    rows = np.unique(np.linspace(0, len(clip) - 1, min(count + 2, len(clip))).round().astype(int))
    rows = rows[1:-1] if len(rows) > count else rows  # the ends are seen in the movies
    limit = _view_limit(result)
    aside = ASIDE if limit is None else max(1, min(ASIDE, int(limit)))
    out = []
    for row in rows.tolist():
        frame = int(clip.frames[row])
        moved = move_cloud(result.cloud, result.field, float(result.timeline.times[frame]))
        own = render_cloud(moved, cameras[frame], result.background)
        shown = render_cloud(moved, cameras[frame], background)
        image, mask = np.asarray(clip.images[row]), np.asarray(clip.masks[row])
        picture = own.rgb[0].clamp(0, 1).cpu()
        score = float(
            mpsnr(picture, torch.from_numpy(np.ascontiguousarray(image)).float() / 255, torch.from_numpy(mask))
        )
        out.append(
            FramePictures(
                index=frame, input=image, render=to_uint8(shown.rgb[0]),
                error=error_picture(to_uint8(picture), image, mask),
                depth=depth_picture(own.depth[0, ..., 0].cpu().numpy(), own.alpha[0, ..., 0].cpu().numpy()),
                mpsnr=score, aside=renders_aside(moved, cameras[frame], up, background, aside),
            )
        )  # fmt: skip
    return out


def _movies(renders: Path, count: int) -> tuple[dict[str, list[np.ndarray]], int]:
    """Pictures of each render that is there, thinned to `MOVIE_FRAMES`, and the step between them."""
    step = max(1, -(-count // MOVIE_FRAMES))
    movies = {}
    for name in REPORT_MOVIES:
        paths = [renders / name / f"{i:06d}.png" for i in range(0, count, step)]
        if all(path.is_file() for path in paths):
            movies[name] = [read_rgb(path) for path in paths]
    return movies, step


def _further(renders: Path) -> list[FurtherRender]:
    """What was rendered beside the three movies that the report holds itself, and GIFs and pictures with alpha."""
    order = {name: at for at, name in enumerate(RENDER_NAMES)}
    folders = [p for p in renders.glob("*") if p.is_dir() and not p.name.startswith(".")]
    names = sorted(
        (p.name for p in folders if not p.name.endswith("_alpha")),
        key=lambda name: (order.get(name.partition("_")[0], len(order)), name),
    )
    out = []
    for name in names:
        beside = [(f"{name}.mp4", "video"), (f"{name}.gif", "GIF"), (f"{name}_alpha", "pictures with alpha")]
        files = [(f"renders/{file}", what) for file, what in beside if (renders / file).exists()]
        if name in REPORT_MOVIES and len(files) == 1:
            continue  # shown above
        pictures = sorted((renders / name).glob("*.png"))
        still = read_rgb(pictures[len(pictures) // 2]) if pictures else None
        out.append(FurtherRender(name, still, files))
    return out


def summarise_run(
    run: Path,
    config: ExportConfig,
    *,
    clip: Clip,
    seconds: Mapping[str, float],
    render: RenderConfig | None = None,
    settings: str = "",
    facts: Sequence[tuple[str, str]] = (),
    warnings: Sequence[str] = (),
    story: Story | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Write `RUN/metrics.json` and, if asked for, `RUN/report.html`, from what the stages left. The end of a run.

    Args:
        seconds: stage -> computing time so far. settings: the resolved configuration as text.
        facts: (label, text) lines about the run. warnings: what earlier stages want a person to see.
        story: what the report tells of input, stages and licences.

    Returns:
        the content of `metrics.json`.
    """
    run = Path(run)
    gaussians = _optional_json(run / "gaussians/metrics.json")
    deformation = _optional_json(run / "deformation/metrics.json")
    evaluation = _optional_json(run / "eval.json") or None
    figures = run_metrics.assemble(gaussians, deformation, seconds, evaluation=evaluation)
    write_json(run / "metrics.json", figures)
    if not config.report:
        return figures
    result = load_result(run, device)
    background = background_colour(render or RenderConfig(), result.background)
    movies, step = _movies(run / "renders", len(result.timeline))
    unregistered = torch.nonzero(~result.cameras.registered).flatten().tolist()
    trails = run / "export/tracks.png"
    training = dict(gaussians.get("curves") or {})
    grown = training.pop("count", None)
    curves = {
        "Fitting the deformation": deformation.get("curves") or {},
        "Training the Gaussians with the field": training,
        "Number of Gaussians": {"Gaussians": grown} if grown else {},
    }
    content = ReportContent(
        name=_title(run),
        facts=(*_facts(clip, result), *_found_again(deformation), *facts),
        metrics=figures,
        evaluation=evaluation,
        frames=compare_frames(result, clip, count=config.report_frames, background=background),
        movies=movies,
        fps=(render.fps if render is not None and render.fps else result.timeline.fps) / step,
        curves={title: found for title, found in curves.items() if found},
        linear=("Number of Gaussians",),
        per_frame=run_metrics.per_frame_mpsnr(gaussians),
        tracks=read_rgb(trails) if trails.is_file() else None,
        geometry=geometry_pictures(run / "geometry", clip, result.cameras, count=MOTION_FRAMES),
        config=settings,
        files=[
            entry for entry in FILES if entry[0] == "metrics.json" or (run / entry[0].split(",")[0].split()[0]).exists()
        ],
        warnings=[*warnings, *find_warnings(figures, unregistered=unregistered)],
        further=_further(run / "renders"),
        story=story,
    )
    write_report(run / "report.html", content)
    return figures


def _facts(clip: Clip, result: Reconstruction) -> list[tuple[str, str]]:
    whole, used = len(result.timeline), len(clip)
    frames = f"{used} of {whole} used for fitting" if used != whole else f"{whole}"
    return [
        ("clip", f"{clip.name}, {clip.width} x {clip.height} pixels"),
        ("frames", f"{frames}, {result.timeline.fps:.3g} a second"),
        ("Gaussians", f"{len(result.cloud):,}, colours of degree {result.cloud.sh_degree}"),
        *_trust(result),
    ]


def _view_limit(result: Reconstruction) -> float | None:
    """See `view_limit`."""
    extent = find_extent(result.cloud, result.field, result.timeline.times)
    return view_limit(result.cameras, extent, result.depth_error)


def _trust(result: Reconstruction) -> list[tuple[str, str]]:
    """From how far beside the input's cameras a result of estimated depth can be looked at."""
    if result.depth_error is None:
        return []
    limit = _view_limit(result)
    text = f"estimated from the pictures by a network that is usually off by {result.depth_error:.1%}"
    trusted = "" if limit is None else f"; sides more than {limit:.0f}° from the input's cameras are not to be trusted"
    return [("depth", text + trusted)]


def _found_again(deformation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the fit says of parts that went out of sight and came out elsewhere."""
    frames = [(found["gone"], found["back"]) for found in deformation.get("reunions", ()) if found["followed"]]
    text = "; ".join(
        f"what hid after frame {gone} is what came out before frame {back}" for gone, back in sorted(frames)
    )
    return [("found again", text)] if frames else []


def why_nothing_left_out(clip: Clip | None, used: Sequence[int] | None) -> str:
    """Why no frame was compared, and what to do."""
    left_out = 0 if clip is None or used is None else len(clip) - len(used)
    if left_out and clip is not None and not clip.poses_given:
        return (
            f"the {counted(left_out, 'frame')} left out {'has' if left_out == 1 else 'have'} no camera, for the clip "
            "gives no poses, and a run solves those of the frames that it uses; give --truth FOLDER, or poses in "
            "cameras.json"
        )
    return (
        "the run left out no frame that has a mask and a camera; give --truth FOLDER, or make a run with --hold-out 8"
    )


def evaluate_run(
    run: Path, truth_folder: Path | None, *, clip: Clip | None = None, used: Sequence[int] | None = None,
    device: torch.device | str = "cpu", progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compare a finished run with ground truth and with the frames that it left out, write `RUN/eval.json` and the
    track error into `RUN/metrics.json`.

    Args:
        truth_folder: None where there is no ground truth. clip: all frames of the run's clip, used: those that the
            run was fitted on; without them nothing is said of frames left out.

    Returns:
        the content of `eval.json`; `evaluate.format_table` makes a table of it.
    """
    run = Path(run)
    result = load_result(run, device)
    size = _optional_json(run / "deformation/metrics.json").get("object_size")
    left_out = None
    if clip is not None and used is not None:
        left_out = evaluate_left_out(result, clip, used, size=size, progress=progress)
    if truth_folder is None and left_out is None:
        raise InputError(f"{run}: there is nothing to compare with: {why_nothing_left_out(clip, used)}")
    known = UNKNOWN if truth_folder is None else evaluate(result, load_truth(truth_folder), progress=progress)
    content = {**known, "left_out": left_out}
    write_json(run / "eval.json", content)
    figures = _optional_json(run / "metrics.json")
    if figures:
        write_json(run / "metrics.json", {**figures, "track": {"epe_rel": content["track"]["epe_rel"]}})
    return content
