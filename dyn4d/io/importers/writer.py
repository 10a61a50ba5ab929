"""A described source becomes a clip folder: straight pictures of one size, masks, depth, cameras.json and truth/."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.io.atomic import atomic_folder, write_json
from dyn4d.io.clips import select_frames
from dyn4d.io.images import write_depth, write_mask, write_png
from dyn4d.io.importers.held_out import name_views, nearest_frames
from dyn4d.io.importers.lens import Lens
from dyn4d.io.importers.maker import FrameMaker, ReadyFrame, WriteRules
from dyn4d.io.importers.sequence import Sequence4D, SourceFrame, inverse

CENTRE = "half-integer: the centre of the top-left pixel is (0.5, 0.5)"
ALMOST = 1e-6


@dataclass(frozen=True)
class WrittenClip:
    """What is in the folder now. `poses`: frames with one. `static`: its camera stands still."""

    folder: Path
    frames: int
    width: int
    height: int
    masks: bool
    depth: bool
    poses: int
    intrinsics: bool
    static: bool
    views: int
    notes: tuple[str, ...]


def _kept(sequence: Sequence4D, rules: WriteRules) -> list[SourceFrame]:
    frames = list(sequence.frames)
    if not frames:
        raise InputError(f"{sequence.source} ({sequence.format}) holds no frames")
    late = [row for row in range(1, len(frames)) if frames[row].seconds <= frames[row - 1].seconds]
    if late:
        row = late[0]
        raise InputError(
            f"{sequence.source}: {frames[row].name} is at {frames[row].seconds:g} s, not after {frames[row - 1].name} "
            f"at {frames[row - 1].seconds:g} s; times must increase"
        )
    if rules.fps is not None:
        frames = [frames[row] for row in thinned(np.array([f.seconds for f in frames]), rules.fps)]
    return [frames[row] for row in select_frames(rules.frames, len(frames)).tolist()]


def thinned(seconds: np.ndarray, fps: float) -> list[int]:
    """Rows of increasing times (F,) that are nearest to a clock of `fps` ticks a second; each at most once."""
    ticks = np.arange(seconds[0], seconds[-1] + 0.5 / fps, 1 / fps)
    after = np.clip(np.searchsorted(seconds, ticks), 1, max(len(seconds) - 1, 1))
    if len(seconds) == 1:
        return [0]
    before = after - 1
    nearest = np.where(ticks - seconds[before] <= seconds[after] - ticks, before, after)
    return np.unique(nearest).tolist()


def _names(frames: list[SourceFrame]) -> list[str]:
    """File names without suffix: the source's, or numbers where these are not all different and plain."""
    names = [frame.name for frame in frames]
    plain = all(name and not name.startswith(".") and not set(name) & set('/\\:*?"<>|') for name in names)
    if plain and len({name.lower() for name in names}) == len(names):
        return names
    return [f"{row:05d}" for row in range(len(names))]


def write_clip(
    sequence: Sequence4D, out: str | Path, rules: WriteRules | None = None, *, progress: Progress | None = None
) -> WrittenClip:
    """Write `out` whole or not at all: rgb/, mask/, depth/, cameras.json, and truth/ where there are held-out views.

    Raises:
        InputError: a picture is missing or damaged, sizes or times do not fit; names the file.
    """
    rules, progress = rules or WriteRules(), progress or SilentProgress()
    frames = _kept(sequence, rules)
    if rules.static:
        frames = [replace(frame, world_from_cam=np.eye(4)) for frame in frames]
    views, notes = _views(sequence, frames, rules)
    maker = FrameMaker(rules, alpha=sequence.alpha)
    progress.start("import", len(frames) + len(views))
    with atomic_folder(out) as folder:
        writer = _Folder(folder, sequence, maker)
        entries = [writer.frame(row, frame, name) for row, (frame, name) in enumerate(_ticking(frames, progress))]
        head = writer.finish(entries, rules)
        if views:
            writer.truth(views, frames, head, progress)
        for name, file in sequence.extra.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
    progress.finish()
    return WrittenClip(
        Path(out), len(frames), writer.width, writer.height, writer.masks > 0, writer.depths > 0,
        sum(entry["w2c"] is not None for entry in entries), writer.lens is not None, rules.static, len(views),
        (*sequence.notes, *notes, *writer.notes(len(frames))),
    )  # fmt: skip


def _ticking(frames: list[SourceFrame], progress: Progress) -> Any:
    for frame, name in zip(frames, _names(frames)):
        yield frame, name
        progress.update()


def _views(
    sequence: Sequence4D, frames: list[SourceFrame], rules: WriteRules
) -> tuple[list[tuple[int, SourceFrame]], list[str]]:
    """(frame of the clip, view) of the held-out pictures inside the clip's time, with their groups' names."""
    given = [v for v in sequence.held_out if v.world_from_cam is not None and v.lens is not None]
    first, last = frames[0].seconds, frames[-1].seconds
    inside = [v for v in given if first - ALMOST <= v.seconds <= last + ALMOST]
    notes = []
    if len(inside) < len(given):
        notes.append(
            f"{len(given) - len(inside)} held-out views lie before or after the clip's frames; they are left out"
        )
    if not inside or rules.static or not any(f.world_from_cam is not None for f in frames):
        return [], notes
    inside = name_views(inside, frames)
    return list(zip(nearest_frames([v.seconds for v in inside], [f.seconds for f in frames]), inside)), notes


class _Folder:
    """The clip folder while it is filled."""

    def __init__(self, folder: Path, sequence: Sequence4D, maker: FrameMaker) -> None:
        self.folder, self.sequence, self.maker = folder, sequence, maker
        self.width = self.height = self.masks = self.depths = self.deep = 0
        self.first = ""
        self.lens: Lens | None = None
        # Depth that was never a file of whole numbers stays exact as floats.
        self.suffix = ".png" if sequence.depth_div is not None else ".npy"

    def frame(self, row: int, frame: SourceFrame, name: str) -> dict[str, Any]:
        """Write the files of one frame; its entry in cameras.json."""
        ready = self.maker.make(frame)
        if row == 0:
            self.width, self.height, self.first, self.lens = ready.width, ready.height, frame.rgb.label, ready.lens
        elif (ready.width, ready.height) != (self.width, self.height):
            raise InputError(
                f"{frame.rgb.label} is {ready.width}x{ready.height}, {self.first} {self.width}x{self.height}: all "
                "frames of a clip need one size; leave others out with --frames"
            )
        if (ready.lens is None) != (self.lens is None):
            raise InputError(f"{frame.rgb.label}: intrinsics are known of some frames, not of all")
        entry: dict[str, Any] = {"index": row, "time": frame.seconds, "rgb": self._rgb("rgb", name, ready)}
        if ready.mask is not None:
            self.masks += 1
            write_mask(self.folder / "mask" / f"{name}.png", ready.mask)
            entry["mask"] = f"mask/{name}.png"
        entry["depth"] = self._depth("depth", name, ready, frame)
        entry["K"] = None if ready.lens is None else ready.lens.K
        entry["w2c"] = None if frame.world_from_cam is None else inverse(frame.world_from_cam)
        return entry

    def _rgb(self, where: str, name: str, ready: ReadyFrame) -> str:
        suffix = ".png" if ready.copy is None else ready.copy.suffix.lower()
        target = self.folder / where / f"{name}{suffix}"
        if ready.copy is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ready.copy, target)
        else:
            assert ready.rgb is not None
            write_png(target, ready.rgb)
        return f"{where}/{target.name}"

    def _depth(self, where: str, name: str, ready: ReadyFrame, frame: SourceFrame) -> str | None:
        if ready.depth is None and ready.depth_copy is None:
            return None
        self.depths += where == "depth"
        target = self.folder / where / f"{name}{self.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if ready.depth_copy is not None and self.suffix == ".png":
            shutil.copyfile(ready.depth_copy, target)
        else:
            depth = ready.depth if ready.depth is not None else frame.depth.read() if frame.depth else None
            assert depth is not None
            depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)
            if self.suffix == ".npy":
                np.save(target, depth)
            else:
                write_depth(target, depth, self.sequence.depth_div or 1000.0)
        return f"{where}/{target.name}"

    def finish(self, entries: list[dict[str, Any]], rules: WriteRules) -> dict[str, Any]:
        """Write cameras.json; its head."""
        if self.masks and self.masks < len(entries):  # the format wants all or none: no mask means nothing to see
            for entry in entries:
                if "mask" not in entry:
                    entry["mask"] = f"mask/{Path(entry['rgb']).stem}.png"
                    write_mask(self.folder / entry["mask"], np.zeros((self.height, self.width), bool))
        if not self.depths:
            for entry in entries:
                del entry["depth"]
        head: dict[str, Any] = {"width": self.width, "height": self.height, "num_frames": len(entries)}
        if self.lens is not None:
            shared = all(np.array_equal(entry["K"], entries[0]["K"]) for entry in entries)
            if shared:
                head["K"] = entries[0]["K"]
            head["pixel_centre"] = CENTRE
            head["camera"] = "static" if rules.static else "OpenCV (x right, y down, z forward); X_cam = w2c @ X_world"
            entries = [{k: v for k, v in e.items() if k != "K" or not shared} for e in entries]
        else:
            entries = [{k: v for k, v in e.items() if k not in ("K", "w2c")} for e in entries]
            if rules.static:
                head["camera"] = "static"
        if self.depths and self.sequence.depth_div is not None:
            head["depth_div"] = self.sequence.depth_div
        head["imported_from"] = self.sequence.format
        write_json(self.folder / "cameras.json", {**head, "frames": entries})
        return head

    def truth(
        self, views: list[tuple[int, SourceFrame]], frames: list[SourceFrame], head: dict[str, Any], progress: Progress
    ) -> None:
        """Write truth/: the held-out views, and the clip's own cameras as the truth about them."""
        listed, used = [], set()
        for index, view in views:
            ready = self.maker.make(view)
            progress.update()
            if (ready.width, ready.height) != (self.width, self.height):
                raise InputError(
                    f"{view.rgb.label} is {ready.width}x{ready.height}, the clip's frames {self.width}x{self.height}; "
                    "held-out views need the size of the frames"
                )
            stem, again = f"{view.view}_{index:05d}", 1
            while stem in used:
                stem, again = f"{view.view}_{index:05d}_{again}", again + 1
            used.add(stem)
            entry: dict[str, Any] = {"index": index, "time": view.seconds, "view": view.view, "source": view.name}
            entry["rgb"] = self._rgb("truth/rgb", stem, ready).removeprefix("truth/")
            mask = ready.mask if ready.mask is not None else np.ones((self.height, self.width), bool)
            write_mask(self.folder / "truth" / "mask" / f"{stem}.png", mask)
            entry["mask"] = f"mask/{stem}.png"
            depth = self._depth("truth/depth", stem, ready, view)
            assert ready.lens is not None and view.world_from_cam is not None
            entry |= {} if depth is None else {"depth": depth.removeprefix("truth/")}
            self.deep += ready.mask is None
            listed.append({**entry, "K": ready.lens.K, "w2c": inverse(view.world_from_cam)})
        top = {key: head[key] for key in ("width", "height", "K", "pixel_centre", "depth_div") if key in head}
        write_json(self.folder / "truth" / "views.json", {**top, "views": listed})
        shutil.copyfile(self.folder / "cameras.json", self.folder / "truth" / "cameras.json")

    def notes(self, count: int) -> list[str]:
        """What a person should know of what was written."""
        out = []
        if 0 < self.masks < count:
            out.append(f"{count - self.masks} of {count} frames have no mask; the object counts as out of sight there")
        if 0 < self.depths < count:
            out.append(f"{count - self.depths} of {count} frames have no depth")
        if self.deep:
            out.append(f"{self.deep} held-out views have no mask: in dyn4d eval their whole picture counts")
        return out
