"""Labels carried through a clip from key frames, to both sides, with a score for each frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.matching.flow_fields import Flow, compose, targets
from dyn4d.segmentation.labels import Carried, Labeller, Reference, log_odds, overlap


@dataclass(frozen=True)
class Labelled:
    """Labels of one frame.

    Attributes:
        frame: its index. labels: (h, w) float32 at the working size, the chance of being object.
        score: in [0, 1], how sure they are. checks: what it was made from, by name, each in [0, 1].
    """

    frame: int
    labels: np.ndarray
    score: float
    checks: dict[str, float]


POWERS = {"key": 0.2, "cycle": 0.1, "area": 0.1, "drift": 0.05, "present": 1.0}


def run_from(labeller: Labeller, key: int, labels: np.ndarray, frames: Sequence[int]) -> Iterator[Labelled]:
    """Carry the labels (h, w) of a key frame to its neighbours in `frames`, in this order (one step each, all to one
    side of the key)."""
    clip, sure = labeller.clip, key_score(labels)
    before, known, drift = key, labels, 1.0
    there: Flow | None = None
    back: Flow | None = None
    for frame in frames:
        step, step_back = clip.step(frame, before), clip.step(before, frame)
        there = step if there is None else clip.flow(frame, key, compose(step, there))
        back = step_back if back is None else clip.flow(key, frame, compose(back, step_back))
        references = [Reference(before, known, step, step_back)]
        if before != key:
            references.append(Reference(key, labels, there, back))
        found, carried = labeller.label(frame, references)
        checks = _checks(found, known, labels, carried, back)
        drift *= checks.pop("step")
        checks["drift"] = drift
        yield Labelled(frame, found, score_of(checks) * sure, checks)
        before, known = frame, found


def _checks(
    found: np.ndarray, before: np.ndarray, key: np.ndarray, carried: list[Carried], back: Flow
) -> dict[str, float]:
    """Doubts of one frame, each 1 where there is none.

    step: labels that the flow brought agree with those found, and their flow comes back. key: the same for those of
    the key frame. cycle: the labels found, taken back to the key frame, are its labels. area: no jump of it.

    """
    near = cv2.dilate((found > 0.5).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    trust = [float(one.trust[near].mean()) if near.any() else 0.0 for one in carried]
    agree = [overlap(one.chance, found) for one in carried]
    taken = cv2.remap(found, *targets(back), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    areas = sorted([float((found > 0.5).sum()) + 1, float((before > 0.5).sum()) + 1])
    return {
        "step": agree[0] ** 0.5 * (0.8 + 0.2 * trust[0]),
        "key": agree[-1],
        "cycle": overlap(taken, key),
        "area": (areas[0] / areas[1]) ** 0.5,
        "present": float((found > 0.5).sum() > 0.02 * (key > 0.5).sum()),
    }


def score_of(checks: dict[str, float]) -> float:
    """One number in [0, 1] from the doubts of a frame: about the share of the key frame's overlap with the truth that
    is left. The powers were set by hand near a fit to clips with known masks.
    """
    return float(np.prod([max(checks[name], 1e-3) ** power for name, power in POWERS.items()]))


def key_score(labels: np.ndarray) -> float:
    """How little the mask of labels (h, w) changes with its threshold."""
    wide = int((labels > 0.25).sum())
    return float((labels > 0.75).sum() / wide) if wide else 0.0


def carry_clip(labeller: Labeller, keys: dict[int, np.ndarray], progress: Progress | None = None) -> Iterator[Labelled]:
    """Labels of all frames in order, from those of key frames.

    Between two key frames both are carried towards each other, and blended by how near and how sure they are.

    Args:
        labeller: of the clip. keys: labels (h, w) by frame, at least one. progress: told of each frame.
    """
    progress = progress or SilentProgress()
    order, count = sorted(keys), len(labeller.clip)
    work = order[0] + count - order[-1] - 1 + sum(2 * (b - a - 1) for a, b in pairwise(order)) + len(order)
    progress.start("masks", work)

    def told(runs: Iterator[Labelled]) -> Iterator[Labelled]:
        for one in runs:
            progress.update(score=one.score)
            yield one

    def kept(key: int, frames: Sequence[int]) -> dict[int, Labelled]:
        """In 8 bits: a long stretch is held as a whole."""
        return {
            one.frame: Labelled(one.frame, np.round(255 * one.labels).astype(np.uint8), one.score, one.checks)
            for one in told(run_from(labeller, key, keys[key], frames))
        }

    first = kept(order[0], range(order[0] - 1, -1, -1))
    for frame in range(order[0]):
        yield _unpacked(first.pop(frame))
    for at, key in enumerate(order):
        sure = key_score(keys[key])
        progress.update(score=sure)
        yield Labelled(key, keys[key], sure, {})
        if at + 1 == len(order):
            yield from told(run_from(labeller, key, keys[key], range(key + 1, count)))
            break
        after = order[at + 1]
        behind = kept(after, range(after - 1, key, -1))
        for one in told(run_from(labeller, key, keys[key], range(key + 1, after))):
            yield blend(labeller, one, _unpacked(behind.pop(one.frame)), (one.frame - key) / (after - key))
    progress.finish()


def _unpacked(one: Labelled) -> Labelled:
    return Labelled(one.frame, one.labels.astype(np.float32) / 255, one.score, one.checks)


def blend(labeller: Labeller, a: Labelled, b: Labelled, share: float) -> Labelled:
    """Labels of one frame from both sides; `share` is 0 at the key frame of a, 1 at that of b."""
    weight_a, weight_b = (1 - share) * a.score**2 + 1e-6, share * b.score**2 + 1e-6
    weight_a, weight_b = (w / (weight_a + weight_b) for w in (weight_a, weight_b))
    odds = weight_a * log_odds(a.labels, 0.02) + weight_b * log_odds(b.labels, 0.02)
    found = labeller.settle(a.frame, odds)
    agree = overlap(a.labels, b.labels)
    checks = {"before": a.score, "after": b.score, "agree": agree}
    return Labelled(a.frame, found, float(np.sqrt((weight_a * a.score + weight_b * b.score) * agree)), checks)
