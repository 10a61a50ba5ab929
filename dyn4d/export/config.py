"""Options of the render and export stages. Free of torch, so that the help text is quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

RenderName = Literal["input", "fixed", "orbit", "tracks", "spiral", "dolly", "bullet", "compare", "depth", "confidence"]
RENDER_NAMES: tuple[RenderName, ...] = (
    "input", "fixed", "orbit", "tracks", "spiral", "dolly", "bullet", "compare", "depth", "confidence",
)  # fmt: skip
DEFAULT_RENDERS: tuple[RenderName, ...] = ("input", "fixed", "orbit", "tracks")
OPAQUE: tuple[RenderName, ...] = ("tracks", "compare")  # show the clip's own pictures
FormatName = Literal["cameras", "images", "csv", "spz", "4dgs", "usd", "mesh", "mesh-usd", "mesh-frames", "tracks-gltf"]
FORMAT_NAMES: tuple[FormatName, ...] = (
    "cameras", "images", "csv", "spz", "4dgs", "usd", "mesh", "mesh-usd", "mesh-frames", "tracks-gltf",
)  # fmt: skip


@dataclass(frozen=True)
class RenderConfig:
    """The pictures and videos of the render stage, one picture for each frame of the clip."""

    which: tuple[RenderName, ...] = DEFAULT_RENDERS
    """input: the clip's own cameras. fixed: the middle camera at all times. orbit: round the object as time plays.
    tracks: the input video with trails of points of the object. spiral: the orbit, also up and down. dolly: towards
    the object and back. bullet: round it while time stands still. compare: the input video beside the input's views.
    depth: distance from the clip's own cameras, near is bright. confidence: the orbit, well-seen parts bright. They are
    added to those that a finished stage has."""
    bullet_frame: int = -1
    """Of bullet: the clip's frame, from 0, at which time stands still; -1: the middle one."""
    gif: bool = False
    """Each video also as an animated GIF of at most 480 pixels."""
    alpha: bool = False
    """Pictures also as PNGs with a transparent background, in <name>_alpha/; not of tracks and compare."""
    orbit_turns: float = 1.0
    """Full turns of the orbit over the clip; negative turns the other way."""
    view_limit: float = -1.0
    """Of orbit, spiral, bullet and confidence: how far from the input's cameras they go, in degrees. -1: all round;
    but where depth was estimated by a network, as far as that can be trusted. 180: all round whatever it was."""
    fps: float = 0.0
    """Frames a second of the videos; 0 takes the clip's own."""
    trail: int = 12
    """Of tracks: length of the trails in frames."""
    tracks_before: bool = False
    """Of tracks: draw those of the matches alone, before the deformation was fitted, on the left."""
    background: Literal["white", "grey", "black", "clip"] = "white"
    """Colour behind the object; clip: the mean colour outside the clip's masks."""

    def __post_init__(self) -> None:
        if not self.which:
            raise ValueError(f"render.which must name at least one of {', '.join(RENDER_NAMES)}")
        for name in self.which:
            if name not in RENDER_NAMES:
                raise ValueError(f"render.which: {name!r} is not one of {', '.join(RENDER_NAMES)}")
        if self.bullet_frame < -1:
            raise ValueError(f"render.bullet_frame must be a frame from 0, or -1 (middle), not {self.bullet_frame}")
        if self.view_limit != -1 and not 0 < self.view_limit <= 180:
            raise ValueError(f"render.view_limit must be -1 or above 0 and up to 180, not {self.view_limit:g}")
        if self.trail < 0:
            raise ValueError(f"render.trail must not be negative, but is {self.trail}")
        if not 0 <= self.fps <= 240:
            raise ValueError(f"render.fps must be between 0 (the clip's own) and 240, not {self.fps}")

    def with_made(self, parts: Sequence[str]) -> RenderConfig:
        """With the renders among these parts named too, those that are there first."""
        there = [name for name in RENDER_NAMES if name in parts]
        return replace(self, which=tuple(dict.fromkeys((*there, *self.which))))

    def file_name(self, name: RenderName) -> str:
        """What the folder and the video of a render are called. Bullets of several frames lie beside each other."""
        return f"bullet_{self.bullet_frame:06d}" if name == "bullet" and self.bullet_frame >= 0 else name

    def parts(self) -> tuple[str, ...]:
        """What is asked for, each independent of the others: renders, GIFs of them, their pictures with alpha."""
        out: list[str] = []
        for name in dict.fromkeys(self.which):
            file = self.file_name(name)
            out.append(file)
            out += [f"{file}.gif"] if self.gif else []
            out += [f"{file}_alpha"] if self.alpha and name not in OPAQUE else []
        return tuple(out)


@dataclass(frozen=True)
class ExportConfig:
    """What the export stage writes."""

    player: bool = True
    """Write export/player.html: the moving object on one page, to turn, zoom and scrub in a browser without network."""
    ply: bool = True
    """Write export/ply/frame_0000.ply ... : every frame as a standard 3DGS PLY, row i the same Gaussian in all."""
    report: bool = True
    """Write report.html: pictures, curves and figures on one page that needs no network."""
    report_frames: int = 4
    """Frames that the report shows from the input's cameras, spread over the clip."""
    tracks: int = 1500
    """Gaussians whose trajectories are written to export/tracks.npz and drawn; 0 for none."""
    formats: tuple[FormatName, ...] = ("cameras",)
    """Files beside these. cameras: COLMAP, transforms.json, TUM trajectory. images: the frames for them, where the clip
    has no picture files that fit. csv: tracks as tables. spz: every frame as SPZ. 4dgs: one file of all. usd: moving
    Gaussians and tracks. mesh: a mesh that moves, as animated GLB; mesh-usd: the same as USD; mesh-frames: a PLY of it
    for every frame. tracks-gltf: some tracks as nodes of an animated GLB. A finished export gets those added that it
    lacks."""
    mesh_faces: int = 40_000
    """Of the mesh: at most this many triangles."""

    def with_made(self, parts: Sequence[str]) -> ExportConfig:
        """With the formats among these parts named too, those that are there first."""
        there = [name for name in FORMAT_NAMES if name in parts]
        return replace(self, formats=tuple(dict.fromkeys((*there, *self.formats))))

    def __post_init__(self) -> None:
        if self.report_frames < 1:
            raise ValueError(f"export.report_frames must be at least 1, not {self.report_frames}")
        if self.tracks < 0:
            raise ValueError(f"export.tracks must not be negative, but is {self.tracks}")
        for name in self.formats:
            if name not in FORMAT_NAMES:
                raise ValueError(f"export.formats: {name!r} is not one of {', '.join(FORMAT_NAMES)}")
        if self.mesh_faces < 100:
            raise ValueError(f"export.mesh_faces must be at least 100, not {self.mesh_faces}")
