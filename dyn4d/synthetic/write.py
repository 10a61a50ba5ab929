"""Writing a scene as a clip folder and a truth folder (formats in `docs/files.md`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.io.atomic import atomic_folder, write_json
from dyn4d.io.images import write_png
from dyn4d.synthetic.scene import Picture, Scene


@dataclass(frozen=True)
class SceneFolders:
    """Where a scene was written. `truth` is None where it was not asked for."""

    clip: Path
    truth: Path | None


def write_scene(scene: Scene, out: str | Path, truth: bool = True, *, progress: Progress | None = None) -> SceneFolders:
    """Write `out/clip` and, if `truth`, `out/truth`; each appears whole or not at all and replaces what was there.

    Args:
        scene: from `build_scene`. out: folder, made if needed. truth: also the held-out views, cameras and tracks.
        progress: told of every picture.

    Raises:
        RunError: the folders cannot be written.
    """
    out, progress = Path(out), progress or SilentProgress()
    views = scene.held_out() if truth else []
    progress.start("synthetic clip", len(scene) + len(views))
    folders = SceneFolders(out / "clip", out / "truth" if truth else None)
    with atomic_folder(folders.clip) as folder:
        entries = []
        for frame in range(len(scene)):
            files = _write_picture(folder, f"{frame:05d}", scene.draw(frame), scene.config.depth_div)
            entries.append(_entry(scene, frame, scene.rig.pose(frame), files))
            progress.update()
        write_json(folder / "cameras.json", {**_header(scene), "frames": entries})
    if folders.truth is not None:
        with atomic_folder(folders.truth) as folder:
            shown = []
            for frame, view, pose in views:
                picture = scene.draw(frame, pose)
                files = _write_picture(folder, f"{view}_{frame:05d}", picture, scene.config.depth_div)
                shown.append({"view": view, **_entry(scene, frame, pose, files)})
                progress.update()
            write_json(folder / "views.json", {**_header(scene), "views": shown})
            own = [_entry(scene, i, scene.rig.pose(i), {"rgb": f"rgb/{i:05d}.png"}) for i in range(len(scene))]
            write_json(folder / "cameras.json", {**_header(scene), "frames": own})
            tracks = scene.tracks
            np.savez_compressed(
                folder / "tracks.npz",
                tracks_world=tracks.xyz.astype(np.float32),
                visible=tracks.visible,
                uv=tracks.uv.astype(np.float32),
            )
    progress.finish()
    return folders


def encode_depth(depth: np.ndarray, depth_div: float) -> np.ndarray:
    """Depth in metres (H, W) as 16-bit units; what is too far for them becomes 0, what is seen at least 1."""
    units = np.rint(depth * depth_div)
    units = np.where((depth > 0) & (units < 1), 1, units)
    return np.where(units <= 65535, units, 0).astype(np.uint16)


def _write_picture(folder: Path, stem: str, picture: Picture, depth_div: float) -> dict[str, str]:
    names = {kind: f"{kind}/{stem}.png" for kind in ("rgb", "mask", "depth")}
    write_png(folder / names["rgb"], picture.rgb)
    write_png(folder / names["mask"], picture.mask.astype(np.uint8) * 255)
    write_png(folder / names["depth"], encode_depth(picture.depth, depth_div))
    return names


def _entry(scene: Scene, frame: int, pose: np.ndarray, files: dict[str, str]) -> dict[str, Any]:
    """One entry of `frames` or `views`."""
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = pose[:3, :3].T
    cam_from_world[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return {"index": frame, "time": float(scene.seconds[frame]), **files, "w2c": cam_from_world.tolist()}


def _header(scene: Scene) -> dict[str, Any]:
    """What `cameras.json` and `views.json` say about all their pictures."""
    config = scene.config
    return {
        "clip": f"synthetic_{config.scene}",
        "width": config.size,
        "height": config.size,
        "fps": config.fps,
        "num_frames": len(scene),
        "K": scene.K.tolist(),
        "pixel_centre": "half-integer: the centre of the top-left pixel is (0.5, 0.5)",
        "camera": "OpenCV (x right, y down, z forward); X_cam = w2c @ X_world; world is Z up, metres",
        "depth": "uint16 PNG, planar z at the pixel centre; metres = value / depth_div; 0 = no surface",
        "depth_div": config.depth_div,
        "mask": "255 = the object, decided at the pixel centre (hard)",
        "rgb": f"sRGB, anti-aliased, object over {'grey 128' if scene.room is None else 'a textured room'}",
        "object_size": scene.extent(),
        "source": f"dyn4d.synthetic, scene {config.scene}, seed {config.seed}",
    }
