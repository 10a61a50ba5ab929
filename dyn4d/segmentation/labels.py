"""One frame's labels from everything that speaks for object or background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dyn4d.matching.flow_fields import Flow, compose, targets
from dyn4d.segmentation.colours import Evidence, Palette, Sample, Shares, colour_evidence
from dyn4d.segmentation.config import MaskConfig
from dyn4d.segmentation.frames import WorkClip
from dyn4d.segmentation.motion import departure, motion_evidence
from dyn4d.segmentation.smoothing import edge_weights, smooth_labels

FB_PX, APART = 3.0, 12.0  # flow px there and back, Lab units: beyond them a carried label says little
SAMPLES = 12  # frames from which the palette is found


def log_odds(chance: np.ndarray, least: float) -> np.ndarray:
    clipped = np.clip(chance, least, 1 - least)
    return np.log(clipped / (1 - clipped))


def chance_of(odds: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-odds))).astype(np.float32)


def object_size(labels: np.ndarray) -> float:
    """Pixels across, from the area."""
    return 1.3 * float(np.sqrt(max(int((labels > 0.5).sum()), 100)))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two soft masks at one half; 1 where both are empty."""
    a, b = a > 0.5, b > 0.5
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


@dataclass(frozen=True)
class Reference:
    """A frame whose labels are known, and how to get there.

    Attributes:
        frame: its index. labels: (h, w) float32, the chance of being object. there: flow to it. back: flow from it.
        weight: how much it counts.
    """

    frame: int
    labels: np.ndarray
    there: Flow
    back: Flow
    weight: float = 1.0


@dataclass(frozen=True)
class Carried:
    """Labels brought along by flow (h, w), and how far they are trusted (h, w), 0 to 1."""

    chance: np.ndarray
    trust: np.ndarray


class Labeller:
    """Labels frames of one clip.

    Args:
        clip: at the working size. config: see `MaskConfig`.
    """

    def __init__(self, clip: WorkClip, config: MaskConfig) -> None:
        self.clip, self.config = clip, config
        rows = np.unique(np.linspace(0, len(clip) - 1, min(SAMPLES, len(clip))).round().astype(int))
        random = np.random.default_rng(0)
        pixels = [clip[int(row)].soft.reshape(-1, 3) for row in rows]
        self.palette = Palette(np.concatenate([random.choice(p, min(len(p), 1500)) for p in pixels]), config.palette)
        self._shares: dict[int, Shares] = {}

    def shares(self, frame: int) -> Shares:
        if frame not in self._shares:
            if len(self._shares) > 8:
                self._shares.pop(next(iter(self._shares)))
            self._shares[frame] = self.palette.shares(self.clip[frame].soft)
        return self._shares[frame]

    def carry(self, frame: int, reference: Reference) -> Carried:
        """The labels of a reference, laid into a frame."""
        height, width = reference.labels.shape
        x, y = targets(reference.there)
        chance = cv2.remap(reference.labels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        lab = cv2.remap(self.clip[reference.frame].lab, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        apart = np.linalg.norm(cv2.GaussianBlur(np.abs(lab - self.clip[frame].lab), (0, 0), 1.5), axis=-1)
        missed = np.linalg.norm(compose(reference.there, reference.back), axis=-1)
        inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
        trust = np.exp(-np.square(missed / FB_PX) - np.square(apart / APART)) * inside
        return Carried(chance, np.maximum(trust, 0.03).astype(np.float32))

    def colours(self, frame: int, references: Sequence[Reference], size: float) -> Evidence:
        """What the frame's colours say, learnt from the references."""
        samples = []
        for one in references:
            x, y = targets(one.back)
            weight = (one.weight * np.abs(2 * one.labels - 1)).astype(np.float32)
            samples.append(Sample(self.shares(one.frame), x, y, one.labels, weight))
        return colour_evidence(len(self.palette), self.shares(frame), samples, self.config.radius * size)

    def moving(self, frame: int, guess: np.ndarray, far: np.ndarray, size: float) -> Evidence | None:
        """What motion against the background says; `far` (h, w) is background. None where nothing is known."""
        ahead = min(self.config.motion_gap, len(self.clip) - 1 - frame)
        behind = min(self.config.motion_gap, frame)
        away: np.ndarray | None = None
        for gap in (ahead, -behind):
            if abs(gap) < min(2, self.config.motion_gap):
                continue
            found = departure(self._span(frame, gap), self.clip[frame].lab, self.clip[frame + gap].lab, far)
            if found is not None:  # what is hidden in one direction is seen in the other
                away = found if away is None else np.minimum(away, found)
        if away is None:
            return None
        near = cv2.GaussianBlur((guess > 0.5).astype(np.float32), (0, 0), 0.15 * size) > 0.02
        return motion_evidence(away, self.clip[frame].grey, guess, near)

    def _span(self, frame: int, gap: int) -> Flow:
        way = 1 if gap > 0 else -1
        flow = self.clip.step(frame, frame + way)
        for at in range(frame + way, frame + gap, way):
            flow = compose(flow, self.clip.step(at, at + way))
        return flow

    def settle(self, frame: int, odds: np.ndarray) -> np.ndarray:
        """Labels (h, w) that follow the edges of the frame, from log odds."""
        chance = chance_of(odds)
        weights = edge_weights(self.clip[frame].lab, self.config.contrast)
        smooth = smooth_labels(chance, np.abs(2 * chance - 1) + 0.02, weights, self.config.strength)
        return chance_of(3 * log_odds(smooth, 1e-3))

    def label(self, frame: int, references: Sequence[Reference]) -> tuple[np.ndarray, list[Carried]]:
        """Labels (h, w) float32 of a frame from its references, and what each of them said."""
        config = self.config
        carried = [self.carry(frame, one) for one in references]
        total = sum(one.weight * c.trust for one, c in zip(references, carried))
        guess = sum(one.weight * c.trust * c.chance for one, c in zip(references, carried)) / total
        trust = np.clip(total / sum(one.weight for one in references), 0, 1)
        size = object_size(references[-1].labels)
        around = cv2.GaussianBlur(guess.astype(np.float32), (0, 0), max(0.04 * size, 1.0))
        colours = self.colours(frame, references, size)
        odds = config.carried * (0.3 + 0.7 * trust) * log_odds(guess, 0.02)
        odds += config.colours * colours.known * log_odds(colours.chance, 0.05)
        if config.motion > 0:
            moving = self.moving(frame, guess, around < 0.03, size)
            if moving is not None:
                odds += config.motion * moving.known * log_odds(moving.chance, 0.1)
        return self.settle(frame, np.where(around < 0.02, -4.0, odds)), carried
