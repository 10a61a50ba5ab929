"""Arguments of the commands, which `dyn4d.cli_parse` fills. Those of `dyn4d ply` are in `dyn4d.ply_args`.

What `PLACES`, `NAMES` and `NEEDS` mean, and that field docstrings are the help text, is told there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dyn4d.config import Options
from dyn4d.segmentation.config import MaskConfig
from dyn4d.training.config import MatcherTraining
from dyn4d.training.geometry_config import GeometryTraining

Preset = Literal["quick", "default", "quality"]
SourceFormat = Literal[
    "auto", "blender", "nerfstudio", "colmap", "nerfies", "record3d", "realsense", "tum", "davis", "video", "images"
]


@dataclass(frozen=True)
class Common:
    """Arguments of every command that works for a while."""

    quiet: bool = False
    """Say nothing but warnings and errors."""
    debug: bool = False
    """Show where an error comes from."""


@dataclass(frozen=True)
class ClipRunArgs(Common):
    """What commands share that make a run of a clip."""

    PLACES: ClassVar[dict[str, str]] = {"clip": "CLIP"}
    NAMES: ClassVar[dict[str, str]] = {"options": ""}

    clip: str = ""
    """Clip folder, video file, or folder of pictures."""
    out: str | None = None
    """The run folder. Default: runs/<clip name>."""
    preset: Preset = "default"
    """Values that the options below start from."""
    overwrite: bool = False
    """Replace finished stages that were made with other settings."""
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class RunArgs(ClipRunArgs):
    """Everything from a clip to the report. Called again, it goes on where it was stopped."""

    estimate: bool = False
    """Only say how long it would take here, and how much memory and disk; write nothing."""
    ignore_estimate: bool = False
    """Begin although memory or disk are expected not to do."""


@dataclass(frozen=True)
class PrepareArgs(ClipRunArgs):
    """Make a run: every frame of the clip is looked at, and its time is fixed."""

    NEEDS: ClassVar[tuple[str, ...]] = ("out",)


@dataclass(frozen=True)
class StageArgs(Common):
    """One stage of a run. Options start from those of the run."""

    PLACES: ClassVar[dict[str, str]] = {"run": "RUN"}
    NAMES: ClassVar[dict[str, str]] = {"options": ""}

    run: str = ""
    """The run folder."""
    overwrite: bool = False
    """Replace the finished stage if it was made with other settings."""
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class DemoArgs(Common):
    """Make a procedural clip, reconstruct it, and compare with the truth."""

    NAMES: ClassVar[dict[str, str]] = {"options": ""}

    out: str = "runs/demo"
    """The run folder; the clip and its truth are put into it too."""
    preset: Preset = "quick"
    """Values that the options below start from."""
    scene: Literal["creature", "worm", "turntable", "dancer", "snapper"] = "creature"
    """What moves."""
    backdrop: Literal["grey", "room"] = "grey"
    """What is behind it."""
    length: int = 48
    """Frames of the clip."""
    size: int = 256
    """Width and height of its pictures in pixels."""
    overwrite: bool = False
    """Replace finished stages that were made with other settings."""
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class EvalArgs(Common):
    """Compare a finished run with ground truth."""

    PLACES: ClassVar[dict[str, str]] = {"run": "RUN"}

    run: str = ""
    """The run folder."""
    truth: str = ""
    """Folder with views.json, cameras.json and tracks.npz; the demo brings its own. Without it only the frames that the
    run left out (--hold-out) are compared."""


@dataclass(frozen=True)
class StatusArgs(Common):
    """What is done, how long it took, what would run again and why."""

    PLACES: ClassVar[dict[str, str]] = {"run": "RUN"}

    run: str = ""
    """The run folder."""


@dataclass(frozen=True)
class ViewArgs(Common):
    """Look at a run in a browser on this machine, while it is still going too. Ctrl-C ends it."""

    PLACES: ClassVar[dict[str, str]] = {"run": "RUN"}

    run: str = ""
    """The run folder."""
    port: int = 8080
    """The first port to try."""
    browser: bool = True
    """Open it in the browser; else only the address is printed."""


@dataclass(frozen=True)
class ImportArgs(Common):
    """Make a clip folder of a recording or data set: D-NeRF and Blender, nerfstudio, COLMAP, Nerfies and DyCheck,
    Record3D, RealSense, TUM RGB-D, DAVIS, a video, a folder of pictures."""

    PLACES: ClassVar[dict[str, str]] = {"source": "SOURCE"}
    NEEDS: ClassVar[tuple[str, ...]] = ("out",)

    source: str = ""
    """The file or folder."""
    out: str = ""
    """The clip folder to write."""
    format: SourceFormat = "auto"
    """What SOURCE is. auto: by what lies there."""
    frames: str | None = None
    """Only these frames: start:stop:step."""
    max_size: int | None = None
    """Longest side in pixels; larger frames are made smaller."""
    fps: float | None = None
    """Sources without times: their frames a second (default 24). Videos and recordings: how many frames a second to
    take at most."""
    sequence: str | None = None
    """davis: the sequence's name."""
    object_id: tuple[int, ...] = ()
    """davis: labels of the object. Default: everything that is labelled."""
    masks: str | None = None
    """Folder or video of masks, white on the object, one a frame of SOURCE."""
    images: str | None = None
    """colmap: folder of the pictures."""
    image_scale: int | None = None
    """nerfies: 2 reads rgb/2x. Default: the largest pictures."""
    background: Literal["white", "black", "grey"] = "white"
    """Behind pictures whose alpha channel is the mask."""
    intrinsics: tuple[float, float, float, float] | None = None
    """FX FY CX CY in pixels of SOURCE's pictures, where it does not hold them."""
    pixel_centre: Literal["integer", "half-integer"] = "integer"
    """What CX CY count from: the centre of the top-left pixel (as OpenCV) or its corner (as COLMAP)."""
    depth_div: float | None = None
    """tum, nerfstudio: units of depth in one world unit. Default: 5000, 1000."""
    min_confidence: Literal[0, 1, 2] = 1
    """record3d: depth rated lower (0 low, 1 medium, 2 high) is left out."""
    static: bool = False
    """The camera stands still: all poses are the identity."""
    overwrite: bool = False
    """Replace a clip that was imported to the same place."""


@dataclass(frozen=True)
class CheckArgs(Common):
    """Look at every frame of a clip: what is wrong or risky, what follows from it, and how to mend it."""

    PLACES: ClassVar[dict[str, str]] = {"clip": "CLIP"}

    clip: str = ""
    """Clip folder, video file, or folder of pictures."""
    frames: str | None = None
    """Only these frames: start:stop:step."""
    max_size: int | None = None
    """As it would be with this longest side, in pixels."""
    mask: str = "auto"
    """auto, alpha, none, or a folder or video."""
    json: str | None = None
    """Write what was found to this file too; - prints that instead of the table."""


@dataclass(frozen=True)
class MaskArgs(Common):
    """Masks of the object for every frame of a clip, a score for each of them, and a page to correct them."""

    PLACES: ClassVar[dict[str, str]] = {"clip": "CLIP"}
    NAMES: ClassVar[dict[str, str]] = {"options": ""}
    AGAIN: ClassVar[dict[str, str]] = {"box": "X0 Y0 X1 Y1", "frame": "N", "point": "X Y", "not_point": "X Y"}

    clip: str = ""
    """Clip folder, video file, or folder of pictures."""
    out: str | None = None
    """The folder that mask/ is put into. Default: CLIP, where that is a folder with rgb/."""
    box: tuple[tuple[float, float, float, float], ...] = ()
    """A box round the object, pixels; again for further key frames."""
    frame: tuple[int, ...] = ()
    """The frame of the box or the points, from 0; once for each box. Default: 0."""
    point: tuple[tuple[float, float], ...] = ()
    """A place on the object; may be given again."""
    not_point: tuple[tuple[float, float], ...] = ()
    """A place beside the object; may be given again."""
    key_masks: str | None = None
    """Finished masks of some frames: a folder of pictures with their names, or one file (of --frame)."""
    keys: str | None = None
    """Boxes, points and masks of several frames: a JSON file, see docs/masks.md."""
    alpha: bool = False
    """Masks are the frames' alpha channel."""
    chroma: str | None = None
    """The object is before a screen: green, blue, #rrggbb, or auto."""
    background: str | None = None
    """The object is before a flat background: auto, or #rrggbb."""
    masks: str | None = None
    """Masks that another program made: a folder of PNGs, also with a palette (DAVIS, SAM 2), a video, RLE in JSON."""
    object_id: int | None = None
    """Which object of these."""
    method: Literal["auto", "grabcut", "sam2"] = "auto"
    """Who follows the object. auto: SAM 2 where its package and weights are there, else grabcut: GrabCut and flow."""
    sam2_weights: str | None = None
    """A checkpoint of SAM 2 on disk; also in the variable DYN4D_SAM2_WEIGHTS."""
    sam2_config: str | None = None
    """The configuration of the package sam2 that fits it. Default: by the checkpoint's name."""
    device: str = "auto"
    """Of SAM 2: auto, cpu or cuda."""
    edit: bool = False
    """Open a page on this machine to correct the masks with a brush. Ctrl-C ends it."""
    port: int = 8090
    """With --edit: the first port to try."""
    browser: bool = True
    """With --edit: open it in the browser; else only the address is printed."""
    overwrite: bool = False
    """Replace masks that are there."""
    options: MaskConfig = field(default_factory=MaskConfig)


@dataclass(frozen=True)
class MatchArgs(Common):
    """Find what two pictures of an object have in common; writes a file of matches and a picture of them."""

    PLACES: ClassVar[dict[str, str]] = {"a": "A", "b": "B"}

    a: str = ""
    """The first picture."""
    b: str = ""
    """The second picture; it may have another size."""
    mask_a: str | None = None
    """Mask of A, white on the object, or none. Default: the alpha channel of A if there is one, else all of A."""
    mask_b: str | None = None
    """The same for B."""
    matcher: Literal["mast3r", "r2d2", "flow", "flow+r2d2"] | None = None
    """mast3r needs --weights. flow and r2d2 need none; flow is for frames of one video. Default: mast3r with --weights,
    else flow."""
    weights: str | None = None
    """Weights of mast3r (a .pth file or a folder), or of r2d2 (a .pt or .safetensors file) in place of those that come
    with dyn4d."""
    out: str | None = None
    """A folder, or a name for both files, which end in .npz and .png. Default: matches_A_B in this folder."""
    size: int | None = None
    """Longest side in pixels of what the matcher looks at. Default: 512 for mast3r, 1024 for r2d2, 640 for flow and
    flow+r2d2."""
    coarse_to_fine: bool = True
    """mast3r: look at pictures larger than --size as a whole, then at full resolution, window by window."""
    device: str = "auto"
    """auto, cpu or cuda."""
    lines: int = 40
    """Lines in the picture."""
    overwrite: bool = False
    """Replace files that are there."""


@dataclass(frozen=True)
class WeightsArgs(Common):
    """What is in a file of network weights, or the same weights in another form."""

    PLACES: ClassVar[dict[str, str]] = {"action": "{info,convert}", "file": "FILE"}

    action: Literal["info", "convert"] = "info"
    """What to do."""
    file: str = ""
    """A .pth or .safetensors file, or a folder of model.safetensors and config.json."""
    out: str | None = None
    """With convert: the folder to write, or a name that ends in .pth. Default: a folder beside FILE, of its name."""


@dataclass(frozen=True)
class TrainMatcherArgs(Common):
    """Train a small R2D2 network on pictures that dyn4d makes itself, as the one was that comes with dyn4d. Stopped
    with Ctrl-C, the same command goes on."""

    NEEDS: ClassVar[tuple[str, ...]] = ("out",)

    out: str = ""
    """The weights to write, ending in .safetensors. Beside them come the log (.jsonl) and, until done, the state
    (.state)."""
    resume: str | None = None
    """A state elsewhere to go on from; the settings are then those of its training."""
    init: str | None = None
    """Weights of an earlier training to start from, instead of random ones."""
    pairs: int | None = None
    """Pairs of pictures in the whole training. Default: training.pairs."""
    threads: int = 1
    """Of torch. Another number gives other weights in their last bits."""
    overwrite: bool = False
    """Replace weights that are there."""
    training: MatcherTraining = field(default_factory=MatcherTraining)
    """What the network is taught, and how."""


@dataclass(frozen=True)
class TrainGeometryArgs(Common):
    """Train a small masked MASt3R on moving bodies that dyn4d makes itself. Stopped with Ctrl-C or by --minutes, the
    same command goes on."""

    NEEDS: ClassVar[tuple[str, ...]] = ("out",)

    out: str = ""
    """The weights to write, ending in .safetensors. Beside them come the log (.jsonl) and, until done, the state
    (.state)."""
    resume: str | None = None
    """A state elsewhere to go on from; the settings are then those of its training."""
    init: str | None = None
    """Weights of an earlier training to start from, instead of random ones."""
    mean: tuple[str, ...] = ()
    """Train nothing; write the mean of these weights, of trainings that began with the same ones."""
    samples: int | None = None
    """Samples in the whole training. Default: training.samples."""
    minutes: float | None = None
    """Stop after this many minutes, everything saved."""
    threads: int = 2
    """Of torch. Another number gives other weights in their last bits."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Replace weights that are there, and start anew."""
    training: GeometryTraining = field(default_factory=GeometryTraining)
    """What the network is taught, and how."""
