"""The masks of one clip while they are corrected: saved frames become key frames, which are carried to the others."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress
from dyn4d.core.types import Clip
from dyn4d.io.mask_folder import MaskFolder
from dyn4d.mask_cli import Made, write_masks
from dyn4d.segmentation.config import MaskConfig
from dyn4d.segmentation.results import FrameMask


@dataclass(frozen=True)
class Former:
    """What a frame had before it was corrected. mask: (H, W) bool in bits. row: its entry in masks.json."""

    mask: np.ndarray
    row: dict[str, Any]


class Session:
    """The masks of one clip while they are corrected.

    Args:
        clip: its frames. folder: where its masks are. config: of carrying them on.

    Raises:
        InputError: there are no masks, or not of all frames.
    """

    def __init__(self, clip: Clip, folder: MaskFolder, config: MaskConfig) -> None:
        self.clip, self.folder, self.config = clip, folder, config
        self.lock = threading.RLock()
        self.saved: set[int] = set()  # frames corrected in this session
        self._former: dict[int, Former] = {}  # of frames corrected since the session began or last carried
        missing = [name for frame, name in enumerate(folder.names) if not folder.file(frame).is_file()]
        if missing:
            raise InputError(
                f"{folder.masks} has no mask for frame {missing[0]}; make masks first, with dyn4d mask CLIP --box ..."
            )
        self.record = folder.read_record() or self._new_record()
        if len(self.record.get("frames", ())) != len(folder.names):
            raise InputError(f"{folder.record} is of another clip; remove it, or make the masks again with --overwrite")

    def _new_record(self) -> dict[str, Any]:
        rows = [{"frame": i, "name": name, "score": 1.0, "key": False, "area": 0.0, "checks": {}}
                for i, name in enumerate(self.folder.names)]  # fmt: skip
        return {"method": "given", "min_score": self.config.min_score, "keys": [], "doubtful": [], "frames": rows,
                "warnings": [], "licences": []}  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """What the page needs to know."""
        rows = self.record["frames"]
        return {"clip": self.clip.name, "width": self.clip.width, "height": self.clip.height,
                "min_score": self.record["min_score"], "method": self.record["method"],
                "frames": [{"name": r["name"], "score": r["score"], "key": r["key"],
                            "withdrawn": r.get("withdrawn", False)} for r in rows]}  # fmt: skip

    def save(self, frame: int, mask: np.ndarray) -> None:
        """Take a corrected mask; its frame is a key frame from now on."""
        with self.lock:
            row = self.record["frames"][frame]
            if not row.get("corrected"):
                with contextlib.suppress(InputError):  # a damaged mask is no reason not to take a better one
                    self._former[frame] = Former(np.packbits(self.folder.read(frame)), dict(row))
            self.folder.write(frame, mask)
            row.pop("withdrawn", None)
            row.update(key=True, score=1.0, area=round(float(mask.mean()), 6), checks={}, corrected=True)
            self.saved.add(frame)
            self._note()

    def withdraw(self, frame: int) -> None:
        """Make a frame no key frame any more, whoever made it one.

        A frame that was corrected gets back the mask and the score from before, where they are known. One whose mask
        was found from a box or points keeps them. Of others nobody knows how good the mask is: their score is 0 until
        the key frames are carried again. Raises `InputError` where it is no key frame.
        """
        with self.lock:
            row = self.record["frames"][frame]
            if not row["key"]:
                raise InputError(f"frame {row['name']} is no key frame")
            former = self._former.pop(frame, None)
            if former is not None:
                width, height = self.folder.size
                bits = np.unpackbits(former.mask, count=width * height)
                self.folder.write(frame, bits.reshape(height, width).astype(bool))
                row.clear()
                row.update(former.row)
            if row.pop("corrected", False) or (row["key"] and frame in self._given()):
                row.update(score=0.0, checks={}, withdrawn=True)
            row["key"] = False
            self.saved.discard(frame)
            self._note()

    def _given(self) -> set[int]:
        """Frames whose masks the user gave as files, so that their score of 1 says nothing."""
        return {prompt["frame"] for prompt in self.record.get("prompts", ()) if prompt.get("mask")}

    def _note(self) -> None:
        rows = self.record["frames"]
        self.record["keys"] = [row["frame"] for row in rows if row["key"]]
        self.record["doubtful"] = [row["frame"] for row in rows if row["score"] < self.record["min_score"]]
        self.folder.write_record(self.record)

    def carry(self, progress: Progress) -> dict[str, Any]:
        """Make all other masks again from those of the key frames. Raises `InputError` where there are none."""
        from dyn4d.segmentation.first import Prompt
        from dyn4d.segmentation.make import follow_object

        with self.lock:
            corrected = [row["frame"] for row in self.record["frames"] if row.get("corrected")]
            keys = [frame for frame in self.record["keys"] if self.folder.read(frame).any()]
            if not keys:
                raise InputError("no key frame with an object on it: correct a frame and save it first")
            prompts = [Prompt(frame, mask=self.folder.read(frame)) for frame in keys]
            away = {frame for frame in corrected if frame not in keys}
            found = {row["frame"]: row for row in self.record["frames"] if row["key"] and not row.get("corrected")}
            followed = follow_object(self.clip.images, prompts, self.config, progress)
            details = {"prompts": self.record.get("prompts", []), "corrected": corrected}
            licences = tuple(self.record["licences"])
            made = Made(_kept(followed, away, found), "grabcut and flow, corrected", details, licences)
            write_masks(made, self.clip, self.folder, self.record["min_score"], time.monotonic())
            self._former.clear()
            self.record = self.folder.read_record()
            for frame in corrected:
                self.record["frames"][frame]["corrected"] = True
            self._note()
            return self.summary()


def _kept(masks: Iterable[FrameMask], away: set[int], found: dict[int, dict[str, Any]]) -> Iterator[FrameMask]:
    """Masks with those left empty in whose frames the user saw no object; key frames that were found from a box or
    points keep the score that they had."""
    for one in masks:
        if one.frame in away:
            yield FrameMask(one.frame, np.zeros_like(one.mask), 1.0, key=True)
        elif one.frame in found:
            row = found[one.frame]
            yield FrameMask(one.frame, one.mask, row["score"], row["checks"], key=True)
        else:
            yield one
