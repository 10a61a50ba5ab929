"""The viewer in a browser, drawn by viser: the only module that imports it. Serves to this machine alone."""

from __future__ import annotations

import contextlib
import io
import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.rotations import matrix_to_wxyz
from dyn4d.core.types import Clip
from dyn4d.export.requirements import require_viewer
from dyn4d.export.view_scene import Layer, LiveScene, Points, Scene, fade

HOST = "127.0.0.1"
PORTS = 100  # that are tried from the wanted one on
POLL = 3.0  # seconds between two looks at the run's stages
SPAN = 10.0  # the object's size in the viewer: its Gaussians' covariances are sent as 16-bit floats
CAMERAS, THUMBNAIL = 24, 128  # at most so many frustums, with pictures of so many pixels
NAMES: dict[Layer, str] = {
    "gaussians": "Gaussians", "field": "points, moved by the field", "points": "points of each frame"
}  # fmt: skip
STAGE: dict[Layer, str] = {"gaussians": "gaussians", "field": "deform", "points": "geometry"}


def free_port(wanted: int) -> int:
    """The first port from `wanted` on that nobody uses on this machine; 0: any."""
    if not 0 <= wanted <= 65535:
        raise InputError(f"--port {wanted}: ports are 1 to 65535, or 0 for any that is free")
    for port in [0] if wanted == 0 else range(wanted, min(wanted + PORTS, 65536)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise InputError(f"--port {wanted}: neither it nor those after it can be used; choose another with --port")


@dataclass
class Settings:
    """What the controls say; it outlives the scene when a stage is finished."""

    frame: int = 0
    play: bool = True
    speed: float = 1.0
    layer: Layer | None = None  # None: the furthest that there is
    canonical: bool = False
    cameras: bool = True
    trails: bool = True
    trail: int = 12
    least: float = 0.0


class Viewer:
    """A server with one scene, the same for all browsers that look at it.

    The object is moved to the origin and scaled to `SPAN`, with its axes as they are.

    Args:
        live: the run. port: the first to try. clip: opens all frames of the run's clip, for the pictures in the
            cameras; None where it is gone.

    Raises:
        InputError: viser is missing, or no port is free.
    """

    def __init__(self, live: LiveScene, *, port: int = 8080, clip: Callable[[], Clip | None] | None = None) -> None:
        require_viewer()
        self.live, self.settings = live, Settings()
        self._clip = clip
        self._thumbnails: dict[int, np.ndarray] = {}
        self._changed, self._framing = threading.Event(), live.scene.framing
        self.server = _local_server(free_port(port))
        self._nodes: dict[str, Any] = {}
        self._controls: dict[str, Any] = {}
        self._poses = np.zeros((0, 4)), np.zeros((0, 3))
        self._furthest = live.scene.layers[0]
        try:
            self._build()
        except BaseException:
            self.stop()
            raise

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server.get_port()}"

    @property
    def scene(self) -> Scene:
        return self.live.scene

    # ---------------------------------------------------------------------------------------- running

    def serve(self) -> None:
        """Draw what the controls ask for, until KeyboardInterrupt."""
        looked, due = time.monotonic(), time.monotonic()
        while True:
            now = time.monotonic()
            pause = POLL - (now - looked)
            if self.settings.play and len(self.scene) > 1:
                pause = min(pause, due - now)
            touched = self._changed.wait(max(pause, 0.001))
            now = time.monotonic()
            if now - looked >= POLL:
                self.poll()
                looked = time.monotonic()
            if self.settings.play and len(self.scene) > 1 and now >= due:
                due = now + 1 / max(self.scene.timeline.fps * self.settings.speed, 0.1)
                self.settings.frame = (self.settings.frame + 1) % len(self.scene)
                self._controls["frame"].value = self.settings.frame
                touched = True
            if touched:
                self._changed.clear()
                self.draw()

    def poll(self) -> bool:
        """Look for stages that were finished; rebuild the page where there are any."""
        if not self.live.refresh():
            return False
        if self.settings.layer not in self.scene.layers or self.scene.layers[0] != self._furthest:
            self.settings.layer = None  # show what is new
        self._furthest = self.scene.layers[0]
        self.settings.frame = min(self.settings.frame, len(self.scene) - 1)
        self._build()
        return True

    def stop(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it says goodbye
            self.server.stop()

    # ---------------------------------------------------------------------------------------- building

    def _build(self) -> None:
        """The controls and the nodes of the present scene, from nothing."""
        server, scene = self.server, self.scene
        with server.atomic():
            server.gui.reset()
            server.scene.reset()
            self._nodes.clear()
            server.scene.set_up_direction(scene.up)
            server.scene.world_axes.visible = False
            self._add_controls()
            self._add_cameras()
            self._place_browser()
        self.draw()

    def _add_controls(self) -> None:
        gui, scene, now = self.server.gui, self.scene, self.settings
        count = len(scene)
        layer = now.layer or scene.layers[0]
        found: dict[str, Any] = {}
        with gui.add_folder("Time"):
            found["frame"] = gui.add_slider("frame", 0, max(count - 1, 1), 1, now.frame, disabled=count == 1)
            found["play"] = gui.add_checkbox("play", now.play and count > 1, disabled=count == 1)
            found["speed"] = gui.add_slider("speed", 0.1, 4.0, 0.1, now.speed, disabled=count == 1)
        with gui.add_folder("Show"):
            names = tuple(NAMES[one] for one in scene.layers)
            found["layer"] = gui.add_dropdown("object", names, initial_value=NAMES[layer])
            moving = any(one != "points" for one in scene.layers)
            found["canonical"] = gui.add_checkbox("canonical space", now.canonical and moving, disabled=not moving)
            found["least"] = gui.add_slider("least confidence", 0.0, 1.0, 0.01, now.least)
            found["cameras"] = gui.add_checkbox("cameras", now.cameras, disabled=scene.cameras is None)
            nothing = scene.tracks is None
            found["trails"] = gui.add_checkbox("tracks", now.trails, disabled=nothing)
            longest = max(count - 1, 2)
            trail = min(now.trail, longest)
            found["trail"] = gui.add_slider("trail in frames", 1, longest, 1, trail, disabled=nothing)
        for control in found.values():
            control.on_update(self._read)
        self._controls = {**found, "text": gui.add_markdown("")}

    def _read(self, _: object) -> None:
        """Called by viser's threads: only notes what was asked for."""
        found, now = dict(self._controls), self.settings
        names: dict[str, Layer] = {name: layer for layer, name in NAMES.items()}
        now.frame, now.layer = min(int(found["frame"].value), len(self.scene) - 1), names[found["layer"].value]
        for name in ("play", "speed", "canonical", "cameras", "trails", "trail", "least"):
            setattr(now, name, found[name].value)
        self._changed.set()

    def _inside(self, xyz: np.ndarray) -> np.ndarray:
        """World places (..., 3) -> those in the viewer."""
        return ((xyz - self._framing.centre) * (SPAN / self._framing.size)).astype(np.float32)

    def _place_browser(self) -> None:
        """Start behind and above the clip's middle camera, from where the cameras do not hide the object."""
        cameras = self.scene.cameras
        start = self.server.initial_camera
        start.look_at = (0.0, 0.0, 0.0)
        if cameras is None:
            start.position = (0.0, 0.0, -2 * SPAN)
            return
        middle = cameras[len(cameras) // 2]
        eye = self._inside(middle.world_from_cam[:3, 3].numpy()).astype(float)
        start.position = 1.6 * eye + 0.7 * max(float(np.linalg.norm(eye)), SPAN) * self.scene.up
        start.fov = max(2 * math.atan(middle.height / 2 / float(middle.K[1, 1])), math.radians(35))

    def _add_cameras(self) -> None:
        cameras = self.scene.cameras
        if cameras is None:
            return
        known = np.flatnonzero(self.scene.registered)
        rows = known[np.unique(np.linspace(0, len(known) - 1, min(CAMERAS, len(known))).round().astype(int))]
        pictures = self._pictures(rows)
        quats = matrix_to_wxyz(cameras.world_from_cam[:, :3, :3].double()).numpy()
        places = self._inside(cameras.world_from_cam[:, :3, 3].numpy())
        near = float(np.linalg.norm(places, axis=1).min())
        scale = min(SPAN / 20, max(near, 1e-3) / 8)
        for row in [*rows.tolist(), -1]:  # -1: that of the frame shown, moved at each step
            at = 0 if row < 0 else row
            fov = 2 * math.atan(cameras.height / 2 / float(cameras.K[at, 1, 1]))
            self._nodes[f"camera {row}"] = self.server.scene.add_camera_frustum(
                "/cameras/now" if row < 0 else f"/cameras/{row:06d}", fov, cameras.width / cameras.height,
                scale=scale * (1.25 if row < 0 else 1.0), thickness=SPAN * (0.004 if row < 0 else 0.0015),
                color=(220, 60, 20) if row < 0 else (90, 90, 90), image=pictures.get(row), format="jpeg",
                wxyz=quats[at], position=places[at],
            )  # fmt: skip
        self._poses = quats, places

    def _pictures(self, rows: np.ndarray) -> dict[int, np.ndarray]:
        """Small pictures (h, w, 3) uint8 of frames; none where the clip is gone. Kept: reading a video takes time."""
        missing = [row for row in rows.tolist() if row not in self._thumbnails]
        clip = self._clip() if missing and self._clip is not None else None
        if clip is not None and len(clip) == len(self.scene):
            size = THUMBNAIL / max(clip.width, clip.height)
            for row in missing:
                with contextlib.suppress(InputError, OSError):  # a frame that cannot be read has no picture
                    small = (max(1, round(clip.width * size)), max(1, round(clip.height * size)))
                    picture = np.ascontiguousarray(clip.images[row])
                    self._thumbnails[row] = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
        elif missing:
            self._clip = None
        return self._thumbnails

    # ---------------------------------------------------------------------------------------- drawing

    def draw(self) -> None:
        """Send what the settings ask for."""
        scene, now = self.scene, self.settings
        layer = now.layer if now.layer in scene.layers else scene.layers[0]
        canonical = now.canonical and layer != "points"
        with self.server.atomic():
            text = self._draw_object(layer, canonical)
            self._draw_trails(visible=now.trails and not canonical)
            for name, node in self._nodes.items():
                if name.startswith("camera "):
                    node.visible = now.cameras and not canonical
            if "camera -1" in self._nodes:
                quats, places = self._poses
                self._nodes["camera -1"].wxyz, self._nodes["camera -1"].position = quats[now.frame], places[now.frame]
            self._controls["text"].content = f"**{self.live.run.name}**: {text}"

    def _draw_object(self, layer: Layer, canonical: bool) -> str:
        scene, now = self.scene, self.settings
        where = "canonical space" if canonical else f"frame {now.frame}, {scene.timeline.seconds[now.frame]:.2f} s"
        if layer == "gaussians":
            splats = scene.splats(now.frame, canonical=canonical)
            opacity = (splats.opacity * fade(splats.conf, now.least))[:, None]
            ratio = SPAN / self._framing.size
            arrays = (self._inside(splats.centres), splats.covariances * ratio**2, splats.rgb, opacity)
            if "splats" in self._nodes:
                self._nodes["splats"].set_gaussians(*arrays)
                self._nodes["splats"].visible = True
            elif len(splats.centres):
                self._nodes["splats"] = self.server.scene.add_gaussian_splats("/splats", *arrays)
            self._draw_points(None)
            return f"{len(opacity):,} Gaussians, {where}"
        if "splats" in self._nodes:
            self._nodes["splats"].visible = False
        moving = layer == "field"
        points = scene.field_points(now.frame, canonical=canonical) if moving else scene.frame_points(now.frame)
        points = points.select(points.conf >= now.least)
        self._draw_points(points)
        left_out = points.frame is not None and points.frame != now.frame
        return f"{len(points.xyz):,} points, {where}" + (f" (points of frame {points.frame})" if left_out else "")

    def _draw_points(self, points: Points | None) -> None:
        self._remove("points")
        if points is not None and len(points.xyz):
            colours = (points.rgb * 255).round().astype(np.uint8)
            self._nodes["points"] = self.server.scene.add_point_cloud(
                "/points", self._inside(points.xyz), colours, point_size=SPAN / 250, point_shape="circle",
                point_shading="flat", precision="float32",
            )  # fmt: skip

    def _draw_trails(self, *, visible: bool) -> None:
        self._remove("trails")
        if visible and self.scene.tracks is not None:
            ends, colours = self.scene.trails(self.settings.frame, self.settings.trail)
            if len(ends):
                self._nodes["trails"] = self.server.scene.add_line_segments(
                    "/trails", self._inside(ends), colours, thickness=SPAN / 500
                )

    def _remove(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        if node is not None:
            node.remove()


def _local_server(port: int) -> Any:
    """A viser server on this machine's own address, without its service that shows a scene to the world."""
    import viser

    class LocalServer(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> str | None:
            return None

    with contextlib.redirect_stdout(io.StringIO()):  # it greets
        server = LocalServer(host=HOST, port=port, label="dyn4d", verbose=False)
    server.gui.configure_theme(show_share_button=False, show_logo=False)
    return server
