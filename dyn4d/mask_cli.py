"""What `dyn4d mask` does: masks of a clip from a prompt, an import or its background. Free of torch until it is called;
returns the text to print.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dyn4d import __version__
from dyn4d.core.errors import InputError
from dyn4d.core.listing import counted, listed
from dyn4d.core.protocols import Progress
from dyn4d.runs import locked_folder
from dyn4d.segmentation.config import MaskConfig

if TYPE_CHECKING:
    from dyn4d.core.types import Clip
    from dyn4d.io.mask_folder import MaskFolder
    from dyn4d.segmentation.first import Prompt
    from dyn4d.segmentation.results import FrameMask

Method = Literal["auto", "grabcut", "sam2"]
Box = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class MaskRequest:
    """What masks to make; see `dyn4d mask --help`.

    Attributes:
        clip: clip folder, video or folder of pictures. out: None: the clip folder itself.
        box, frame: one frame for each box; no frame: 0. point, not_point: on the first of these frames.
        key_masks: file or folder. keys: a JSON file. alpha, chroma, background, masks, object_id: other sources.
    """

    clip: str
    out: str | None = None
    box: tuple[Box, ...] = ()
    frame: tuple[int, ...] = ()
    point: tuple[Point, ...] = ()
    not_point: tuple[Point, ...] = ()
    key_masks: str | None = None
    keys: str | None = None
    alpha: bool = False
    chroma: str | None = None
    background: str | None = None
    masks: str | None = None
    object_id: int | None = None
    method: Method = "auto"
    sam2_weights: str | None = None
    sam2_config: str | None = None
    device: str = "auto"
    overwrite: bool = False
    options: MaskConfig = field(default_factory=MaskConfig)

    @property
    def makes(self) -> bool:
        """Does it say how to make masks, or only of which clip they are?"""
        bare = MaskRequest(self.clip, self.out, overwrite=self.overwrite, options=self.options)
        return self != bare


@dataclass(frozen=True)
class Made:
    """How masks come to be: one a frame in order, the method's name, and what else the record says."""

    masks: Iterable[FrameMask]
    method: str
    details: dict[str, Any]
    licences: tuple[str, ...] = ()


def make_masks(request: MaskRequest, progress: Progress) -> str:
    """Make the masks of all frames; writes `mask/`, `masks.json` and `mask_sheet.png`.

    Returns:
        Lines for the terminal.

    Raises:
        InputError: something given cannot be used; nothing was written.
    """
    source = _source(request)
    clip = open_clip(request.clip)
    folder = mask_folder(clip, request.clip, request.out)
    folder.require_free(overwrite=request.overwrite)
    with alone(folder):
        begin = time.monotonic()
        made = _made(source, request, clip, progress)
        for line in made.licences:
            progress.note(line)
        return write_masks(made, clip, folder, request.options.min_score, begin)


def alone(folder: MaskFolder) -> AbstractContextManager[None]:
    """Keeps masks that are there from being replaced while they are corrected, and from being corrected twice at a
    time. Raises `InputError` on entering."""
    return locked_folder(folder.root, "works on these masks") if folder.masks.is_dir() else nullcontext()


def open_clip(path: str) -> Clip:
    """The frames alone. Raises `InputError`."""
    from dyn4d.io.clips import load_clip

    return load_clip(Path(path).expanduser(), mask="none")


def mask_folder(clip: Clip, source: str, out: str | None) -> MaskFolder:
    """Where the masks go. Raises `InputError` where `out` is needed."""
    from dyn4d.io.mask_folder import MaskFolder

    if out is None and not (clip.source / "rgb").is_dir():
        raise InputError(
            f"dyn4d mask: --out is missing: {source} is no folder with rgb/, which mask/ could be put beside; "
            f"dyn4d import {source} --out CLIP makes one"
        )
    root = clip.source if out is None else Path(out).expanduser()
    return MaskFolder(root, clip.timeline.names, (clip.width, clip.height))


def write_masks(made: Made, clip: Clip, folder: MaskFolder, least: float, begin: float) -> str:
    """Write what was made, with its record and its sheet; lines for the terminal."""
    rows: list[dict[str, Any]] = []
    with folder.replaced() as writer:
        for one in made.masks:
            writer.write(one.frame, one.mask)
            rows.append({"frame": one.frame, "name": folder.names[one.frame], "score": round(one.score, 4),
                         "key": one.key, "area": round(float(one.mask.mean()), 6),
                         "checks": {name: round(value, 4) for name, value in one.checks.items()}})  # fmt: skip
    warnings = _warnings(rows, least)
    record = {
        "made_by": f"dyn4d {__version__} mask", "clip": str(clip.source), "width": clip.width, "height": clip.height,
        "method": made.method, **made.details, "licences": list(made.licences), "min_score": least,
        "keys": [row["frame"] for row in rows if row["key"]],
        "doubtful": [row["frame"] for row in rows if row["score"] < least],
        "warnings": warnings, "seconds": round(time.monotonic() - begin, 2), "frames": rows,
    }  # fmt: skip
    folder.write_record(record)
    write_sheet(clip, folder, record)
    return _summary(folder, record)


def _summary(folder: MaskFolder, record: dict[str, Any]) -> str:
    rows, doubtful = record["frames"], record["doubtful"]
    scores = sorted(row["score"] for row in rows)
    lines = [f"{counted(len(rows), 'mask')} by {record['method']}; score {scores[0]:.2f} to {scores[-1]:.2f}, middle "
             f"{scores[len(scores) // 2]:.2f}"]  # fmt: skip
    lines += [f"warning: {warning}" for warning in record["warnings"]]
    elsewhere = "" if folder.root == Path(record["clip"]) else f" --out {shlex.quote(str(folder.root))}"
    if record.get("prompts"):
        lines.append("look at the sheet: scores tell how well the first mask was carried on, not whether it is right")
    if record.get("prompts") or doubtful:
        lines.append(f"to correct: dyn4d mask {shlex.quote(record['clip'])}{elsewhere} --edit")
    return "\n".join([*lines, f"  {folder.masks}", f"  {folder.record}", f"  {folder.sheet}"])


def _warnings(rows: list[dict[str, Any]], least: float) -> list[str]:
    """What the user should know."""
    found = []
    empty = [row["name"] for row in rows if row["area"] == 0]
    if empty:
        found.append(f"no object in {len(empty)} of {len(rows)} frames: {listed(empty)}")
    low = [row["name"] for row in sorted(rows, key=lambda row: row["score"]) if row["score"] < least]
    if low:
        found.append(f"{len(low)} of {len(rows)} frames have a score below {least:g}, worst first: {listed(low)}")
    return found


def write_sheet(clip: Clip, folder: MaskFolder, record: dict[str, Any]) -> None:
    """The contact sheet of the masks as they are now."""
    from dyn4d.export.mask_sheet import Tile, chosen_frames, mask_sheet
    from dyn4d.io.images import write_png

    rows, least = record["frames"], record["min_score"]
    groups = []
    for frames in chosen_frames([row["score"] for row in rows], least, record["keys"]):
        groups.append([Tile(rows[i]["name"], clip.images[i], folder.read(i), rows[i]["score"],
                            rows[i]["score"] < least, rows[i]["key"]) for i in frames])  # fmt: skip
    title = f"{clip.name}: {len(rows)} masks by {record['method']}, {len(record['doubtful'])} below {least:g}"
    write_png(folder.sheet, mask_sheet(groups[0], groups[1], title))


# ---------------------------------------------------------------------------------------------- where from


def _source(request: MaskRequest) -> str:
    """The one source that is given. Raises `InputError` where there is none, or several."""
    prompted = bool(request.box or request.point or request.key_masks or request.keys)
    given = {"--box": prompted, "--alpha": request.alpha, "--chroma": request.chroma is not None,
             "--background": request.background is not None, "--masks": request.masks is not None}  # fmt: skip
    named = [name for name, there in given.items() if there]
    if not named:
        raise InputError(
            "dyn4d mask: say where the object is: --box X0 Y0 X1 Y1, --point X Y, --key-masks or --keys; or take "
            "--alpha, --chroma, --background or --masks; see dyn4d mask --help"
        )
    if len(named) > 1:
        raise InputError(f"dyn4d mask: {' and '.join(named)} are given; masks come from one of them")
    if request.object_id is not None and named != ["--masks"]:
        raise InputError("dyn4d mask: --object-id is for --masks")
    if named != ["--box"]:
        if request.method != "auto" or request.sam2_weights:
            raise InputError(f"dyn4d mask: --method and --sam2-weights mean nothing with {named[0]}")
        if request.frame or request.not_point:
            raise InputError(f"dyn4d mask: --frame and --not-point mean nothing with {named[0]}")
    return named[0]


def _made(source: str, request: MaskRequest, clip: Clip, progress: Progress) -> Made:
    from dyn4d.segmentation.keyed import make_keyer
    from dyn4d.segmentation.make import key_colour

    if source == "--box":
        return _prompted(request, clip, progress)
    if source in ("--chroma", "--background"):
        kind, colour = source[2:], request.chroma or request.background or "auto"
        keyer = make_keyer(clip.images, kind, colour)
        details = {"colour_lab": keyer.lab.round(2).tolist(), "tolerance": round(keyer.tolerance, 2)}
        return Made(key_colour(clip.images, keyer, progress), f"{kind} {colour}", details)
    if source == "--alpha":
        from dyn4d.io.clips import load_clip

        return Made(_taken(load_clip(clip.source, mask="alpha").masks, progress), "alpha", {})
    from dyn4d.io.mask_sources import open_masks

    assert request.masks is not None
    masks = open_masks(request.masks, clip.timeline.names, (clip.width, clip.height), request.object_id)
    return Made(_taken(masks, progress), "import", {"masks": request.masks, "object_id": request.object_id})


def _taken(masks: Any, progress: Progress) -> Iterable[FrameMask]:
    """Masks as they are given: nothing says how good they are, so the score is 1 where there is an object."""
    from dyn4d.segmentation.results import FrameMask

    progress.start("masks", len(masks))
    for frame in range(len(masks)):
        mask = masks[frame]
        progress.update()
        yield FrameMask(frame, mask, float(mask.any()))
    progress.finish()


def _prompted(request: MaskRequest, clip: Clip, progress: Progress) -> Made:
    from dyn4d.segmentation.make import follow_object
    from dyn4d.segmentation.sam2 import LICENCE, config_of, find_weights, installed, require_sam2

    prompts = read_prompts(request, clip)
    for prompt in prompts:
        prompt.check(clip.width, clip.height, len(clip))
    weights = find_weights(request.sam2_weights) if request.method != "grabcut" else None
    if request.sam2_weights and request.method == "grabcut":
        raise InputError("dyn4d mask: --sam2-weights means nothing with --method grabcut")
    if request.method == "sam2" and weights is None:
        raise InputError("dyn4d mask: --method sam2 needs a checkpoint: --sam2-weights FILE (or DYN4D_SAM2_WEIGHTS)")
    details: dict[str, Any] = {"prompts": [_described(prompt) for prompt in prompts]}
    if weights is not None and (request.method == "sam2" or request.sam2_weights or installed()):
        require_sam2()
        details |= {"weights": str(weights), "config": config_of(weights, request.sam2_config)}
        return Made(_sam2(request, clip, prompts, weights, progress), "sam2", details, (LICENCE,))
    details["options"] = asdict(request.options)
    return Made(follow_object(clip.images, prompts, request.options, progress), "grabcut and flow", details)


def _sam2(
    request: MaskRequest, clip: Clip, prompts: list[Prompt], weights: Path, progress: Progress
) -> Iterable[FrameMask]:
    import tempfile

    from dyn4d.core.protocols import resolve_device
    from dyn4d.io.images import write_jpeg
    from dyn4d.segmentation.sam2 import sam2_masks

    with tempfile.TemporaryDirectory(prefix="dyn4d-sam2-") as folder:
        for frame in range(len(clip)):
            write_jpeg(Path(folder) / f"{frame:05d}.jpg", clip.images[frame])
        yield from sam2_masks(
            Path(folder), len(clip), prompts, weights, config=request.sam2_config,
            device=str(resolve_device(request.device)), progress=progress,
        )  # fmt: skip


def _described(prompt: Prompt) -> dict[str, Any]:
    if prompt.mask is not None:
        return {"frame": prompt.frame, "mask": True}
    values = {"frame": prompt.frame, "box": prompt.box, "points": prompt.points, "not_points": prompt.not_points}
    return {name: value for name, value in values.items() if value not in (None, ())}


def read_prompts(request: MaskRequest, clip: Clip) -> list[Prompt]:
    """All key frames that are given, by frame. Raises `InputError` where frames and boxes do not fit together."""
    from dyn4d.io.mask_folder import named_masks
    from dyn4d.segmentation.first import Prompt

    frames = request.frame or (0,)
    found: list[Prompt] = []
    if request.box or request.point:
        boxes: tuple[Box | None, ...] = request.box or (None,)
        if len(frames) != len(boxes):
            raise InputError(
                f"dyn4d mask: {len(boxes)} --box and {len(request.frame)} --frame; give one --frame for each --box"
            )
        if len(boxes) > 1 and (request.point or request.not_point):
            raise InputError(
                "dyn4d mask: --point goes with one frame; for points on several frames use --keys FILE.json"
            )
        found = [Prompt(f, box, request.point, request.not_point) for f, box in zip(frames, boxes)]
    elif request.not_point:
        raise InputError("dyn4d mask: --not-point alone finds nothing; give a --box or a --point too")
    elif request.frame and not request.key_masks:
        raise InputError("dyn4d mask: --frame goes with --box, --point or a file of --key-masks")
    if request.key_masks:
        masks = named_masks(request.key_masks, clip.timeline.names, frames[0])
        found += [Prompt(frame, mask=mask) for frame, mask in masks.items()]
    if request.keys:
        found += _keys_file(Path(request.keys).expanduser())
    return sorted(found, key=lambda prompt: prompt.frame)


def _keys_file(path: Path) -> list[Prompt]:
    """Prompts of a JSON file: `{"keys": [{"frame", "box", "points", "not_points", "mask"}]}`."""
    from dyn4d.io.atomic import read_json
    from dyn4d.io.images import read_mask
    from dyn4d.segmentation.first import Prompt

    entries = read_json(path).get("keys")
    if not isinstance(entries, list) or not entries:
        raise InputError(f'{path}: wanted {{"keys": [{{"frame": 0, "box": [x0, y0, x1, y1]}}, …]}}')
    found = []
    for number, entry in enumerate(entries):
        try:
            unknown = set(entry) - {"frame", "box", "points", "not_points", "mask"}
            if unknown:
                raise ValueError(f"unknown {', '.join(sorted(unknown))}")
            points, others = (
                tuple((float(x), float(y)) for x, y in entry.get(k, ())) for k in ("points", "not_points")
            )
            box = None
            if entry.get("box") is not None:
                x0, y0, x1, y1 = (float(value) for value in entry["box"])
                box = x0, y0, x1, y1
            mask = read_mask(path.parent / entry["mask"]) if entry.get("mask") else None
            found.append(Prompt(int(entry["frame"]), box, points, others, mask))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(
                f"{path}: key {number}: {what}; wanted frame, and box, points, not_points or mask"
            ) from error
    return found
