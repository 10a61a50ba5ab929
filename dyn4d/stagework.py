"""What each stage of the pipeline does: read the run's earlier folders, fill its own.

Each function takes a `StageContext` whose `config` is a `dyn4d.config.Config`. Heavy packages are imported where they
are used, so that reading a run's state needs none of them.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyn4d.config import Config, as_plain, dump_config
from dyn4d.io.atomic import read_json, write_json
from dyn4d.repeat import repeat_command
from dyn4d.runner import StageContext
from dyn4d.runs import RunFolder, RunState

if TYPE_CHECKING:
    import torch

    from dyn4d.core.types import Camera, Clip, Correspondences, FramePoints, FrameReader, GeometryResult, LiftedPairs

log = logging.getLogger(__name__)

COLMAP_POINTS = 100_000  # more only make the model slow to open
COTRAIN_SHARE = 0.25  # of the fit's batch size; the field is fitted already and only has to be held


def open_clip(config: Config) -> Clip:
    """The clip that the options name, with the frames and size they ask for."""
    from dyn4d.io.clips import load_clip

    return load_clip(
        config.clip, mask=config.mask, frames=config.frames, hold_out=config.hold_out, max_size=config.max_size
    )  # fmt: skip


def open_whole_clip(config: Config) -> Clip:
    """The clip that the options name, with all its frames."""
    return open_clip(replace(config, frames=None, hold_out=0))


def device_of(config: Config) -> torch.device:
    """The device of the run. Raises `InputError` where it is not there."""
    from dyn4d.core.protocols import resolve_device

    return resolve_device(config.device)


# ------------------------------------------------------------------------------------------ prepare


def prepare(ctx: StageContext) -> None:
    """Read every frame once, warn or refuse, and write down what the clip is. Frames that are held out are looked at
    too: without them the others would seem to jump, and the result is measured on them."""
    from dyn4d.io.check import check_clip, refuse_errors
    from dyn4d.io.clip_findings import Risks

    clip = open_clip(ctx.config)
    looked_at = open_clip(replace(ctx.config, hold_out=0)) if ctx.config.hold_out else clip
    risks = Risks(looked_at)
    refusing = check_clip(looked_at, progress=ctx.progress, watch=risks.add)
    findings = [*refusing, *risks.found()]
    for finding in findings:
        if finding.severity == "warning" or (finding.severity == "error" and finding not in refusing):
            log.warning("%s", finding.told())
        elif finding.kind in ("parallax", "static camera"):  # what a run can show at all hangs on it
            ctx.progress.note(finding.told())
    refuse_errors(refusing)  # risks may be wrong, and keep nobody from trying
    if ctx.config.hold_out and not clip.poses_given:
        log.warning(
            "--hold-out %d: the clip gives no camera poses, so the frames held out have none, and dyn4d eval cannot "
            "compare them", ctx.config.hold_out,
        )  # fmt: skip
    timeline = clip.timeline
    facts = {
        "name": clip.name,
        "source": str(clip.source),
        "width": clip.width,
        "height": clip.height,
        "frames": len(timeline),
        "selected": clip.frames.tolist(),
        "depth": clip.depth is not None,
        "poses_given": clip.poses_given,
    }
    # t = (seconds - first) / (last - first): fixed by the whole clip, whatever frames are selected
    time = {
        "first": float(timeline.seconds[0]),
        "last": float(timeline.seconds[-1]),
        "fps": timeline.fps,
        "seconds": timeline.seconds.tolist(),
    }
    write_json(ctx.out / "clip.json", {**facts, "time": time, "findings": [f.told() for f in findings]})
    ctx.state.update(clip=facts, time=time)


# ----------------------------------------------------------------------------------------- geometry


def geometry(ctx: StageContext) -> None:
    """Cameras, points of every frame, and matches between frames."""
    from dyn4d.geometry.consistency import check_views
    from dyn4d.geometry.dense_output import write_dense
    from dyn4d.geometry.region_flow import Regions, Seeds, finds_seeds_again
    from dyn4d.geometry.sources import choose_source, solve_geometry
    from dyn4d.io import artifacts
    from dyn4d.io.cameras_json import write_cameras

    config: Config = ctx.config
    clip = open_clip(config)
    ctx.state.update(licences=[])
    shared = config.matching.matcher == "flow" and finds_seeds_again(config.matching)
    shared = shared and choose_source(clip, config.geometry) == "mast3r"  # which may let these matches hold the frames
    first = Seeds.of(Regions(replace(clip, depth=None), "object")) if shared else None
    matches = find_matches(ctx, clip, first)
    found = solve_geometry(
        clip, config.geometry, config.seed, matching=config.matching, matches=matches if shared else None,
        device=device_of(config), progress=ctx.progress, cache=ctx.scratch / "geometry",
    )  # fmt: skip
    found, rigidity = check_views(clip, found, config.geometry, ctx.progress)
    ctx.state.update(licences=list(dict.fromkeys((*found.licences, *ctx.state.data.get("licences", [])))))
    cameras = all_cameras(clip, found)
    extra = {"poses": "solved" if found.poses_solved else "given", "source": found.source,
             "depth_error": found.depth_error}  # fmt: skip
    write_cameras(ctx.out / "cameras.json", cameras, clip.timeline, extra=extra)
    artifacts.save(ctx.out / "frame_points.npz", found.points, source=found.source)
    ctx.progress.note(f"geometry: {len(found.points)} points, {len(matches)} matches between frames")
    if len(matches) == 0 and len(clip) > 1:
        log.warning("no matches between frames: nothing tells how the object moves")
    artifacts.save(ctx.out / "correspondences.npz", matches)
    write_motion(ctx, found, matches)
    write_tracks(ctx, clip, found.points, matches)
    write_points(ctx.out / "points", clip, found.points)
    write_colmap(ctx.out / "sparse", clip, cameras, found.points)
    write_dense(ctx.out, clip, found, rigidity, config.geometry, ctx.progress)


def find_matches(ctx: StageContext, clip: Clip, first: FrameReader | None = None) -> Correspondences:
    """Matches between the frames by `matching.matcher`; a pair network takes the weights of the geometry, and its
    options `geometry.pairs`. The terms of the weights that are used are added to the run's `licences`. `first`: pixels
    whose matches by the flow stay."""
    from dyn4d.matching.clip_matching import make_describer, match_frames
    from dyn4d.matching.estimators import make_estimator

    config: Config = ctx.config
    device, network, describer, estimator = device_of(config), None, None, None
    licences: list[str] = list(ctx.state.data.get("licences", []))
    if "flow" in config.matching.matcher:
        estimator = make_estimator(config.matching, device)
        licences += [f"matching: {estimator.licence}"] if estimator.licence else []
    if "r2d2" in config.matching.matcher:
        describer = make_describer(config.matching, device)
        licences.append(f"matching: {describer.r2d2.licence}")
    if "mast3r" in config.matching.matcher:
        from dyn4d.geometry.pair_matcher import PairNetworkMatcher
        from dyn4d.geometry.weights import load_pair_network

        network = PairNetworkMatcher(load_pair_network(pair_weights(config), device), config.geometry.pairs)
        licences += network.notes
    ctx.state.update(licences=list(dict.fromkeys(licences)))  # those of the geometry may be the same
    return match_frames(
        clip, config.matching, config.seed, device=device, describer=describer, matcher=network, estimator=estimator,
        first=first, progress=ctx.progress, cache=ctx.scratch / "matches",
    )  # fmt: skip


def pair_weights(config: Config) -> str:
    """Where the weights of the matching's pair network are. Raises `InputError` where the options name none."""
    from dyn4d.core.errors import InputError

    if not config.geometry.weights:
        raise InputError(
            f"matching.matcher {config.matching.matcher}: no weights of a pair network: give --geometry.weights FILE, "
            "or --matching.matcher flow"
        )
    return config.geometry.weights


def check_matching(config: Config, clip: Clip) -> None:
    """Look whether what the matching needs is there, before the geometry is solved. Raises `InputError`."""
    from dyn4d.matching.requirements import require_matching

    if "mast3r" in config.matching.matcher:
        from dyn4d.geometry.weights import require_weights

        require_weights(pair_weights(config))
    require_matching(clip, config.matching)


def write_motion(ctx: StageContext, found: GeometryResult, matches: Correspondences) -> None:
    """How far each point moves against the cameras, as a table beside that of the points."""
    from dyn4d.geometry.motion import score_motion
    from dyn4d.io import artifacts

    motion = score_motion(found.points, found.cameras, matches, progress=ctx.progress)
    artifacts.save(ctx.out / "motion.npz", motion)
    ctx.progress.note(motion.note())


def all_cameras(clip: Clip, found: GeometryResult) -> Camera:
    """Cameras of all F frames of the clip: those found; of frames that were not selected those given, unless the poses
    were solved and are in another world; else NaN."""
    import torch

    from dyn4d.core.types import Camera

    count = len(clip.timeline)
    K = found.cameras.K[:1].double().expand(count, 3, 3).clone()
    poses = torch.full((count, 4, 4), float("nan"), dtype=torch.float64)
    if clip.all_cameras is not None and not found.poses_solved:
        K, poses = clip.all_cameras.K.double().clone(), clip.all_cameras.world_from_cam.double().clone()
    rows = torch.as_tensor(clip.frames, dtype=torch.int64)
    K[rows], poses[rows] = found.cameras.K.double().cpu(), found.cameras.world_from_cam.double().cpu()
    return Camera(K, poses, clip.width, clip.height)


def write_points(folder: Path, clip: Clip, points: FramePoints) -> None:
    """One PLY for each selected frame, named by its index in the clip."""
    from dyn4d.io.ply import write_points_ply

    folder.mkdir(exist_ok=True)
    for row, frame in enumerate(clip.frames.tolist()):
        mine = points.select(points.frame == row)
        write_points_ply(folder / f"{frame:06d}.ply", mine.xyz, mine.rgb, normal=mine.normal, conf=mine.conf)


def write_tracks(ctx: StageContext, clip: Clip, points: FramePoints, matches: Correspondences) -> None:
    """Long tracks by the matches alone, over all frames of the clip."""
    from dyn4d.geometry.point_tracks import track_points
    from dyn4d.io import artifacts

    config: Config = ctx.config
    if config.geometry.tracks:
        tracks = track_points(
            matches, points, clip.height, clip.width, len(clip), count=config.geometry.tracks, seed=config.seed,
            progress=ctx.progress,
        )  # fmt: skip
        artifacts.save(ctx.out / "tracks.npz", tracks.spread(clip.frames, len(clip.timeline)))


def write_colmap(folder: Path, clip: Clip, cameras: Camera, points: FramePoints) -> None:
    """The frames with a pose, and some of all frames' points, as a COLMAP model; each point has the one observation
    that it was made from."""
    import torch

    from dyn4d.io.colmap import Observations, write_model

    some = points.select(torch.arange(0, len(points), max(1, -(-len(points) // COLMAP_POINTS))))
    seen = Observations(torch.arange(len(some)).numpy(), clip.frames[some.frame.numpy()], some.xy.double().numpy())
    write_model(
        folder, cameras, [f"{name}.png" for name in clip.timeline.names], xyz=some.xyz.numpy(), rgb=some.rgb.numpy(),
        observations=seen,
    )  # fmt: skip


# ------------------------------------------------------------------------- reading what geometry left


def load_geometry(run: RunFolder, clip: Clip) -> tuple[FramePoints, Camera, LiftedPairs]:
    """All frames' points, the selected frames' cameras, and the matches lifted to the world."""
    from dyn4d.core.errors import RunError
    from dyn4d.core.types import Correspondences, FramePoints
    from dyn4d.geometry.lift import lift
    from dyn4d.io import artifacts
    from dyn4d.io.cameras_json import read_cameras

    points = artifacts.load(run.geometry / "frame_points.npz", FramePoints)
    matches = artifacts.load(run.geometry / "correspondences.npz", Correspondences)
    cameras = read_cameras(run.geometry / "cameras.json").camera()
    if cameras is None:
        raise RunError(f"{run.geometry / 'cameras.json'} has no cameras; run dyn4d geometry {run.root} --overwrite")
    pairs = lift(matches, points, clip.height, clip.width, len(clip))
    return points, cameras[clip.frames.tolist()], pairs


def with_trust(config: Config, run: RunFolder) -> Config:
    """Depth that the geometry stage estimated holds the points less firmly than depth that was measured."""
    trust = config.deformation.trust(read_json(run.geometry / "cameras.json").get("depth_error"))
    return replace(
        config, deformation=replace(config.deformation, depth_trust=trust),
        gaussians=replace(config.gaussians, depth=trust * config.gaussians.depth),
    )  # fmt: skip


def deform(ctx: StageContext) -> None:
    """Fit the field on the lifted matches, measure it, and carry tracks through the clip."""
    from dyn4d.deformation.fit import fit_field
    from dyn4d.deformation.tracks import make_tracks
    from dyn4d.io import artifacts

    config = with_trust(ctx.config, ctx.run)
    clip = open_clip(config)
    points, cameras, pairs = load_geometry(ctx.run, clip)
    fitted = fit_field(
        pairs, points, cameras, clip.masks, clip.times, config.deformation, device=device_of(config),
        seed=config.seed, progress=ctx.progress, checkpoint=ctx.scratch / "fit.safetensors",
    )  # fmt: skip
    for reunion in fitted.metrics.get("reunions", ()):
        reunion |= {name: int(clip.frames[reunion[name]]) for name in ("gone", "back")}
        if reunion["followed"]:
            ctx.progress.note("deformation: what hid at frame {gone} was found again at frame {back}".format(**reunion))
    fitted.field.save(ctx.out / "field.safetensors")
    tracks = make_tracks(
        fitted.field.cpu(), points, cameras, frames=clip.frames, frame_times=clip.times,
        all_times=clip.timeline.times, count=config.deformation.tracks, seed=config.seed, masks=clip.masks, pairs=pairs,
    )  # fmt: skip
    artifacts.save(ctx.out / "tracks.npz", tracks)
    write_json(ctx.out / "metrics.json", fitted.metrics)


def gaussians(ctx: StageContext) -> None:
    """Make Gaussians from all frames' points and train them together with the field."""
    from dyn4d.deformation.files import load_field
    from dyn4d.deformation.fit import build_objective, measure
    from dyn4d.gaussians.cotrain import cotrain
    from dyn4d.io.ply import write_ply

    config = with_trust(ctx.config, ctx.run)
    clip, device = open_clip(config), device_of(config)
    points, cameras, pairs = load_geometry(ctx.run, clip)
    field = load_field(ctx.run.deformation / "field.safetensors")
    objective = build_objective(
        pairs, points, cameras, clip.masks, clip.times, config.deformation, device=device
    )  # fmt: skip

    def hold(field: Any, seed: int) -> Any:
        assert objective is not None
        return objective(field, seed, share=COTRAIN_SHARE).weighted(config.deformation)

    trained = cotrain(
        clip, points, field, cameras, config.gaussians, regulariser=hold if objective is not None else None,
        device=device, seed=config.seed, progress=ctx.progress, checkpoint=ctx.out / "checkpoint.safetensors",
    )  # fmt: skip
    write_ply(ctx.out / "canonical.ply", trained.cloud)
    field = field.cpu()  # trained in place
    field.save(ctx.out / "field.safetensors")
    after = measure(field, points, clip.times, pairs)
    write_json(ctx.out / "metrics.json", {**trained.metrics, "cycle": after["cycle"], "transport": after["transport"]})


def forget_evaluation(run: RunFolder, config: Any, state: RunState) -> None:
    """An evaluation of the Gaussians before these is not one of these."""
    run.eval.unlink(missing_ok=True)


# --------------------------------------------------------------------------------- render and export


def render(ctx: StageContext) -> None:
    """Pictures and videos of the Gaussians from the input's cameras and others, and over the input's pictures."""
    from dyn4d.export.run import render_run

    config: Config = ctx.config
    clip = open_whole_clip(config) if {"tracks", "compare"} & set(config.render.which) else None
    render_run(
        ctx.run.root, ctx.out, config.render, clip=clip, device=device_of(config), progress=ctx.progress
    )  # fmt: skip


def export(ctx: StageContext) -> None:
    """Per-frame PLYs, tracks, and the formats that are asked for."""
    from dyn4d.export.run import export_run

    config: Config = ctx.config
    export_run(
        ctx.run.root, ctx.out, config.export, seed=config.seed, device=device_of(config), progress=ctx.progress,
        clip=lambda: open_whole_clip(config),
    )  # fmt: skip


def _shown(path: Path | str) -> str:
    """As it is called from here, or its name alone: a page that is given away should not tell how this computer's
    folders are called."""
    path = Path(path).absolute()
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name


def summarise(run: RunFolder, config: Config, state: RunState) -> None:
    """Write `metrics.json` and `report.html` from what all stages left."""
    from dyn4d.export.run import summarise_run
    from dyn4d.export.story import tell

    demo = run.root / "demo.json"
    told = replace(config, clip=_shown(config.clip))
    command = repeat_command(told, _shown(run.root), demo=read_json(demo) if demo.is_file() else None)
    seconds = state.seconds()
    facts = [
        ("device", str(state.data.get("device", config.device))),
        ("seed", str(config.seed)),
        ("dyn4d", str(state.data.get("versions", {}).get("dyn4d", ""))),
    ]
    summarise_run(
        run.root, config.export, clip=open_clip(config), seconds=seconds, render=config.render,
        settings=dump_config(told), facts=facts, warnings=[str(w["text"]) for w in state.data["warnings"]],
        story=tell(run.root, as_plain(config), command), device=device_of(config),
    )  # fmt: skip


def read_metrics(run: RunFolder) -> dict[str, Any]:
    """The figures of a finished run."""
    return read_json(run.metrics)
