"""Arguments of the commands, which `dyn4d.cli_parse` fills. Those of `dyn4d ply` are in `dyn4d.ply_args`.

What `PLACES`, `NAMES` and `NEEDS` mean, and that field docstrings are the help text, is told there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dyn4d.config import Options
from dyn4d.training.config import MatcherTraining
from dyn4d.training.geometry_config import GeometryTraining

Preset = Literal["quick", "default", "quality"]


@dataclass(frozen=True)
class Common:
    """Arguments of every command that works for a while."""

    quiet: bool = False
    """Say nothing but warnings and errors."""
    debug: bool = False
    """Show where an error comes from."""


@dataclass(frozen=True)
class RunArgs(Common):
    """Everything from a clip to the report. Called again, it goes on where it was stopped."""

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
class PrepareArgs(RunArgs):
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
    """Folder with views.json, cameras.json and tracks.npz. Without it only the frames that the run left out
    (--hold-out) are compared."""


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
class CheckArgs(Common):
    """Look at every frame of a clip."""

    PLACES: ClassVar[dict[str, str]] = {"clip": "CLIP"}

    clip: str = ""
    """Clip folder, video file, or folder of pictures."""
    frames: str | None = None
    """Only these frames: start:stop:step."""
    max_size: int | None = None
    """As it would be with this longest side, in pixels."""
    mask: str = "auto"
    """auto, alpha, none, or a folder or video."""


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
