"""What a result is worth when geometry comes from the pictures alone, beside the same with true depth and cameras.

    python benchmarks/plain_video.py [gt_horse_room gt_cesiumman_walk creature ...] [--inputs depth rgb rgb+K rgb+poses]
        [--weights small|FILE] [--preset quick] [--reference DIR] [--out runs/plain] [-- --geometry.anchor object ...]

A clip is a synthetic scene (made here, with its truth) or the name of a folder of the reference data. Inputs: `depth`,
the whole clip; `rgb`, frames and masks alone; `rgb+K`, also the lens; `rgb+poses`, also where the cameras stood. Every
run holds out each 8th frame. Runs that are finished are not made again.

All views are drawn from the true cameras, over which the run's are laid by one similarity. `held out`: PSNR inside the
true mask of the frames held out. `near`: of views beside the input's (10 degrees beyond either end of its arc, and 15
degrees above and below its middle). Synthetic scenes have true pictures of such views; of other clips the run with true
depth takes their place, whose own errors then count too. `mean colour`: the same for one colour inside the mask.
`by frame`: the same near views, each placed beside the run's own camera of its frame, with one scale for the clip (that
of the depth): what an object's motion is apart from its camera's, nothing tells where no background is seen.
Depth: of the geometry stage, inside the mask, after one scale a clip.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from running import add_reference, dyn4d, label, make_scene, parse

from dyn4d.core.cameras import orbit
from dyn4d.core.types import Camera, Clip, FramePoints
from dyn4d.export.align import align_cameras, camera_errors
from dyn4d.export.evaluate import Reconstruction, object_size
from dyn4d.export.renders import find_extent, render_cloud
from dyn4d.export.run import load_result
from dyn4d.export.views import fill_poses, upward
from dyn4d.gaussians.warp import move_cloud
from dyn4d.io import artifacts
from dyn4d.io.clips import load_clip
from dyn4d.synthetic.config import SCENES

INPUTS = ("depth", "rgb", "rgb+K", "rgb+poses")
HOLD_OUT = 8
BESIDE, ABOVE = 10.0, 15.0  # degrees
GREY = (0.5, 0.5, 0.5)


def bare_clip(source: Path, kind: str, folder: Path) -> Path:
    """A copy of a clip that has only what an input of this kind has."""
    if (folder / "done").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("rgb", "mask"):
        shutil.copytree(source / name, folder / name)
    said = json.loads((source / "cameras.json").read_text())
    kept = {k: said[k] for k in ("width", "height", "fps") if k in said}
    if kind != "rgb":
        kept |= {k: said[k] for k in ("K", "pixel_centre") if k in said}
    if kind == "rgb+poses":
        kept |= {k: said[k] for k in ("camera",) if k in said}
    names = ("index", "time", "rgb", "mask", "K", "w2c") if kind == "rgb+poses" else ("index", "time", "rgb", "mask")
    if "frames" in said:
        kept["frames"] = [{k: frame[k] for k in names if k in frame} for frame in said["frames"]]
    (folder / "cameras.json").write_text(json.dumps(kept))
    (folder / "done").touch()
    return folder


# ------------------------------------------------------------------------------------------- views beside the input's


@dataclass(frozen=True)
class NearView:
    """A camera beside the input's, the frame whose time it shows, its picture (H, W, 3) in [0, 1] and mask (H, W)."""

    camera: Camera
    frame: int
    picture: np.ndarray
    mask: np.ndarray


def near_views(result: Reconstruction) -> list[NearView]:
    """Views of a run that was given true depth, as truth for others."""
    cameras = fill_poses(result.cameras)
    extent = find_extent(result.cloud, result.field, result.timeline.times)
    centres, up, count = extent.centres.double(), upward(cameras).double(), len(cameras)
    away = cameras.world_from_cam[:, :3, 3].double() - centres
    across = torch.linalg.cross(up.expand_as(away), away)
    first = away[0] - (away[0] @ up) * up
    side = torch.linalg.cross(up, first)
    turned = torch.atan2(away @ side / side.norm(), away @ first / first.norm())
    least, most = int(turned.argmin()), int(turned.argmax())
    out: list[NearView] = []
    for frame in range(HOLD_OUT // 2, count, HOLD_OUT):
        paths = [(least, up, -BESIDE), (most, up, BESIDE)]
        middle = count // 2
        paths += [(middle, across[middle] / across[middle].norm(), angle) for angle in (ABOVE, -ABOVE)]
        for row, axis, angle in paths:
            start = replace(cameras[row], world_from_cam=cameras.world_from_cam[row].double())
            moved = replace(start, world_from_cam=start.world_from_cam.clone())
            moved.world_from_cam[:3, 3] += centres[frame] - centres[row]  # the object goes, the view goes with it
            camera = orbit(moved, centres[frame], axis, [angle])[0]
            drawn = render_cloud(
                move_cloud(result.cloud, result.field, float(result.timeline.times[frame])), camera, GREY
            )
            mask = drawn.alpha[0, ..., 0].numpy() > 0.5
            out.append(NearView(camera, frame, drawn.rgb[0].clamp(0, 1).numpy(), mask))
    return out


def psnr(errors: np.ndarray) -> float:
    return -10 * math.log10(max(float(np.mean(errors)), 1e-10))


def held_out_views(clip: Clip, used: Clip) -> list[NearView]:
    """The frames that a run was not shown."""
    assert clip.cameras is not None
    return [
        NearView(clip.cameras[row], row, np.asarray(clip.images[row]) / 255, np.asarray(clip.masks[row], dtype=bool))
        for row in sorted(set(range(len(clip))) - set(used.frames.tolist()))
    ]


@torch.no_grad()
def near_psnr(result: Reconstruction, views: list[NearView], true: Camera) -> float:
    """Mean PSNR inside the masks, dB, after one similarity of the cameras."""
    placed = align_cameras(result.cameras, true)
    values = []
    for view in views:
        cloud = move_cloud(result.cloud, result.field, float(result.timeline.times[view.frame]))
        drawn = render_cloud(cloud, placed.camera_to_run(view.camera), GREY).rgb[0].clamp(0, 1).numpy()
        values.append(psnr((drawn - view.picture)[view.mask] ** 2))
    return float(np.mean(values))


@torch.no_grad()
def psnr_by_frame(result: Reconstruction, views: list[NearView], true: Camera, scale: float) -> float:
    """Mean PSNR inside the masks, dB, of views that stand to the run's camera of their frame as they stand to the true
    one. scale: true length over the run's."""
    own = fill_poses(result.cameras)
    values = []
    for view in views:
        pose = torch.linalg.inv(true.world_from_cam[view.frame].double()) @ view.camera.world_from_cam.double()
        pose[:3, 3] /= scale
        pose = own.world_from_cam[view.frame].double() @ pose
        zoom = own.K[view.frame].double() @ torch.linalg.inv(true.K[view.frame].double())
        K = zoom @ view.camera.K.double()
        camera = replace(view.camera, world_from_cam=pose, K=K)
        cloud = move_cloud(result.cloud, result.field, float(result.timeline.times[view.frame]))
        drawn = render_cloud(cloud, camera, GREY).rgb[0].clamp(0, 1).numpy()
        values.append(psnr((drawn - view.picture)[view.mask] ** 2))
    return float(np.mean(values))


def mean_colour(views: list[NearView]) -> float:
    return float(np.mean([psnr((v.picture[v.mask] - v.picture[v.mask].mean(0)) ** 2) for v in views]))


# ------------------------------------------------------------------------------------------- geometry


def depth_error(folder: Path, clip: Clip, cameras: Camera) -> tuple[float, float]:
    """Median relative error of the depth of all points after one scale for the clip, and that scale."""
    points = artifacts.load(folder / "geometry" / "frame_points.npz", FramePoints)
    assert clip.depth is not None
    said, true = [], []
    for row, frame in enumerate(clip.frames.tolist()):
        mine = points.frame == row
        pose = torch.linalg.inv(cameras.world_from_cam[frame].double())
        if not bool(mine.any()) or not bool(pose.isfinite().all()):
            continue
        x, y = points.xy[mine].floor().long().unbind(-1)
        depth = torch.from_numpy(np.asarray(clip.depth[row]).astype(np.float64))[y, x]
        said.append((points.xyz[mine].double() @ pose[2, :3] + pose[2, 3])[depth > 0])
        true.append(depth[depth > 0])
    z, depth = torch.cat(said), torch.cat(true)
    scale = (depth / z).median()
    return float(((scale * z - depth).abs() / depth).median()), float(scale)


# ------------------------------------------------------------------------------------------- rows


def run(name: str, kind: str, given: argparse.Namespace, extra: list[str]) -> tuple[Path, Path, Path | None]:
    """A finished run's folder, the whole clip's, and that of its truth."""
    source, truth = (given.reference or Path()) / "data" / name, None
    if name in SCENES:
        source, truth = make_scene(name, given.out / "scenes" / name)
    folder = given.out / label(name, kind, given.preset, extra=[] if kind == "depth" else extra)
    clip = source if kind == "depth" else bare_clip(source, kind, given.out / "clips" / label(name, kind, extra=[]))
    options = ["--preset", given.preset, "--hold-out", str(HOLD_OUT), "--quiet"]
    if kind != "depth":
        options += ["--geometry.source", "mast3r", "--geometry.weights", given.weights, *extra]
    dyn4d("run", str(clip), "--out", str(folder), *options)
    if truth is not None:
        dyn4d("eval", str(folder), "--quiet", "--truth", str(truth))
    return folder, source, truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", default=["gt_horse_room", "gt_cesiumman_walk"])
    parser.add_argument("--inputs", nargs="+", default=["rgb"], choices=INPUTS)
    parser.add_argument("--weights", default="small")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--out", type=Path, default=Path("runs/plain"))
    add_reference(parser)
    given, extra = parse(parser, sys.argv[1:])
    print(
        "clip                input      held out  near   by frame  mean colour  depth    camera centre, rotation  "
        "geometry s"
    )
    for name in given.clips:
        reference, source, truth = run(name, "depth", given, extra)
        best = load_result(reference)
        views = near_views(best)
        for kind in dict.fromkeys(["depth", *given.inputs]):
            folder = reference if kind == "depth" else run(name, kind, given, extra)[0]
            result = load_result(folder)
            metrics = json.loads((folder / "metrics.json").read_text())
            clip, used = load_clip(source), load_clip(source, hold_out=HOLD_OUT)
            assert clip.cameras is not None
            if truth is not None:
                near = json.loads((folder / "eval.json").read_text())["near"]["mpsnr"]
            else:
                near = math.nan if kind == "depth" else near_psnr(result, views, clip.cameras)
            held_out = near_psnr(result, held_out_views(clip, used), clip.cameras)
            error, scale = depth_error(folder, used, result.cameras)
            beside = math.nan if kind == "depth" else psnr_by_frame(result, views, clip.cameras, scale)
            off = camera_errors(
                result.cameras, clip.cameras, align_cameras(result.cameras, clip.cameras), object_size(best.cloud.means)
            )
            centre, turned = (math.nan if off[k] is None else off[k] for k in ("centre_rel", "rotation_deg"))
            print(
                f"{name:18s}  {kind:9s}  {held_out:8.2f}  {near:5.2f}  {beside:8.2f}  {mean_colour(views):11.2f}  "
                f"{error:6.2%}  {centre:13.1%} {turned:8.2f}°  {metrics['seconds']['geometry']:10.0f}", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
