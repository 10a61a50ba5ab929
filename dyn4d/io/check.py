"""Looking at every frame of a clip before hours are spent on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.listing import frame_ranges
from dyn4d.core.protocols import Progress
from dyn4d.core.types import Clip
from dyn4d.io.readers import DepthFrames

FEW_PIXELS = 16

Watcher = Callable[[int, np.ndarray, np.ndarray, "np.ndarray | None"], None]
"""Is shown each row with its picture, mask and depth, in order, where these could be read."""


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed.

    Attributes:
        severity: "error" (the clip cannot be used), "warning" or "info".
        text: what is so, and how to mend it.
        frame: index in the whole clip, or None where it is not about one frame. where: the file, or "".
        kind: what it is about, in a word or two. consequence: what it does to a run. remedy: how to mend it; both are
            "" where `text` says all.
        frames: all frames it is about, where these are several.
    """

    severity: Literal["error", "warning", "info"]
    text: str
    frame: int | None = None
    where: str = ""
    kind: str = ""
    consequence: str = ""
    remedy: str = ""
    frames: tuple[int, ...] = ()

    def line(self) -> str:
        """One line without the severity: "mask/00003.png: …"."""
        return f"{self.where}: {self.text}" if self.where else self.text

    def told(self) -> str:
        """The same with the frames, what follows and what mends it: "frames 3-5: …: … (mend: …)"."""
        text = self.line()
        if self.frames:
            text = f"{'frame' if len(self.frames) == 1 else 'frames'} {frame_ranges(self.frames)}: {text}"
        text += f": {self.consequence}" if self.consequence else ""
        return f"{text} (mend: {self.remedy})" if self.remedy else text


@dataclass
class _Counts:
    """What was seen so far, a number a frame."""

    mask: list[int]
    depth: list[float]


def _label(frames: object, row: int, fallback: str) -> str:
    labels = getattr(frames, "labels", None)
    return labels[row] if labels else fallback


def _look_at(clip: Clip, row: int, counts: _Counts, watch: Watcher | None) -> list[Finding]:
    """Findings of one frame. What cannot be decoded is an error of that frame, not the end of the check."""
    frame = int(clip.frames[row])
    found: list[Finding] = []
    image = None
    try:
        image = clip.images[row]
    except InputError as error:
        found.append(Finding("error", str(error), frame, kind="unreadable"))
    mask, depth = None, None
    where = _label(clip.masks, row, f"mask of frame {frame}")
    try:
        mask = clip.masks[row]
        pixels = int(np.count_nonzero(mask))
        counts.mask.append(pixels)
        if pixels == 0:
            text = "the mask is empty; this frame shows nothing of the object"
            found.append(Finding("warning", text, frame, where, kind="mask empty"))
        elif pixels < FEW_PIXELS:
            text = f"the mask has only {pixels} pixels; look whether it is right"
            found.append(Finding("warning", text, frame, where, kind="mask small"))
    except InputError as error:
        found.append(Finding("error", str(error), frame, kind="unreadable"))
    if clip.depth is not None:
        depth, more = _look_at_depth(clip, row, mask, counts)
        found += more
    if watch is not None and image is not None and mask is not None:
        watch(row, np.asarray(image), np.asarray(mask, dtype=bool), depth)
    return found


def _look_at_depth(
    clip: Clip, row: int, mask: np.ndarray | None, counts: _Counts
) -> tuple[np.ndarray | None, list[Finding]]:
    assert clip.depth is not None
    frame = int(clip.frames[row])
    where = _label(clip.depth, row, f"depth of frame {frame}")
    try:
        depth = clip.depth[row]
    except InputError as error:
        return None, [Finding("error", str(error), frame, kind="unreadable")]
    found = []
    bad = clip.depth.bad_pixels(row) if isinstance(clip.depth, DepthFrames) else 0
    if bad:
        text = f"{bad} depth values are NaN, infinite or negative; they count as no depth"
        found.append(Finding("warning", text, frame, where, kind="depth values"))
    if mask is not None and mask.any():
        share = float(np.count_nonzero(depth[mask] > 0) / np.count_nonzero(mask))
        counts.depth.append(share)
        if share == 0:
            text = "no depth inside the mask; the frame gives no points"
            found.append(Finding("warning", text, frame, where, kind="depth missing"))
    return depth, found


def _about_cameras(clip: Clip) -> list[Finding]:
    if clip.cameras is None:
        if clip.depth is not None:
            return [
                Finding(
                    "error",
                    f"{clip.source} has depth but no K; add cameras.json with K (3x3, pixels), width and height, or "
                    "take depth/ away",
                    kind="cameras",
                )
            ]
        return [Finding("info", "no cameras.json: intrinsics and poses are not known", kind="cameras")]
    found = []
    K = clip.cameras.K
    outside = (K[:, 0, 2] < 0) | (K[:, 0, 2] > clip.width) | (K[:, 1, 2] < 0) | (K[:, 1, 2] > clip.height)
    if bool(outside.any()):
        row = int(outside.nonzero()[0, 0])
        text = f"the principal point ({K[row, 0, 2]:.1f}, {K[row, 1, 2]:.1f}) lies outside the picture; look at K"
        found.append(Finding("warning", text, int(clip.frames[row]), str(clip.source), kind="cameras"))
    unknown = int((~clip.cameras.registered).sum())
    if unknown == len(clip):
        found.append(Finding("info", "cameras.json has K but no poses (w2c)", kind="cameras"))
    elif unknown:
        row = int((~clip.cameras.registered).nonzero()[0, 0])
        text = f"{unknown} of {len(clip)} frames have no pose (w2c), the first is frame {int(clip.frames[row])}"
        found.append(Finding("warning", text, kind="cameras"))
    return found


def check_clip(clip: Clip, progress: Progress | None = None, *, watch: Watcher | None = None) -> list[Finding]:
    """Read every selected frame and say what was noticed: errors first, then warnings, then a summary.

    An unreadable frame, depth without K, masks that are all empty and depth that is nowhere inside a mask are errors.

    Args:
        watch: is shown each frame in passing.
    """
    counts = _Counts([], [])
    found: list[Finding] = []
    if progress is not None:
        progress.start("check", len(clip))
    for row in range(len(clip)):
        found += _look_at(clip, row, counts, watch)
        if progress is not None:
            progress.update()
    if progress is not None:
        progress.finish()
    if counts.mask and not any(counts.mask):
        text = (
            f"all {len(counts.mask)} masks are empty; masks are white (or 1) on the object: draw them, or --mask none"
        )
        found = [f for f in found if "mask is empty" not in f.text]
        found.append(Finding("error", text, None, str(clip.source), kind="mask empty"))
    if counts.depth and not any(counts.depth):
        found = [f for f in found if "no depth inside" not in f.text]
        found.append(Finding("error", "no frame has depth inside its mask; look at depth/ and depth_div", None,
                             str(clip.source), kind="depth missing"))  # fmt: skip
    found += _about_cameras(clip) + _summary(clip, counts)
    return by_severity(found)


def _summary(clip: Clip, counts: _Counts) -> list[Finding]:
    seconds = clip.timeline.seconds
    lines = [
        f"{len(clip)} of {len(clip.timeline)} frames, {clip.width}x{clip.height}, "
        f"{seconds[-1] - seconds[0]:.2f} s at {clip.timeline.fps:.3g} frames a second"
    ]
    if counts.mask:
        share = 100 * float(np.median(counts.mask)) / (clip.width * clip.height)
        lines.append(
            f"mask pixels: {min(counts.mask)} to {max(counts.mask)}, median {int(np.median(counts.mask))} "
            f"({share:.1f}% of the picture)"
        )
    if counts.depth:
        lines.append(
            f"depth inside the masks: {100 * min(counts.depth):.1f}% to {100 * max(counts.depth):.1f}%, "
            f"median {100 * float(np.median(counts.depth)):.1f}%"
        )
    return [Finding("info", line, kind="summary") for line in lines]


def inspect_clip(clip: Clip, progress: Progress | None = None) -> list[Finding]:
    """As `check_clip`, and what is risky: blur, exposure, masks that flicker or jump, order and times of frames, little
    texture or parallax, depth with holes or beside the colours. Reads every frame once and holds a few."""
    from dyn4d.io.clip_findings import find_risks
    from dyn4d.io.clip_watch import ClipWatch

    watch = ClipWatch(clip)
    found = check_clip(clip, progress, watch=watch.add)
    if watch.figures:
        found += find_risks(clip, watch)
    return by_severity(found)


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first, then warnings; as they are otherwise."""
    order = ("error", "warning", "info")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def refuse_errors(findings: Sequence[Finding]) -> None:
    """Raise `InputError` with the first error among `findings`, and how many more there are."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more; dyn4d check lists them)" if len(errors) > 1 else ""
        raise InputError(errors[0].line() + more)
