"""The object in one frame from a box, points or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.matching.flow_fields import Flow
from dyn4d.segmentation.labels import Labeller, Reference, log_odds, object_size

ROUNDS = 3  # of learning colours from the labels and labelling by them
LEAST_MOVING, MOST_STRAY = 0.2, 0.05  # shares of the box and of the rest that move, for motion to be believed
KEEP, MOTION, RADIUS = 0.1, 1.5, 3.0  # in the rounds: of the guess, of motion; the radius against that of later frames
REACH = 0.25  # of the frame's longer side: where a click without a box looks for its object


@dataclass(frozen=True)
class Prompt:
    """What the user says of one frame, in pixels of the full picture.

    Attributes:
        frame: its index. box: x0, y0, x1, y1, or None. points: (x, y) on the object. not_points: (x, y) beside it.
        mask: (H, W) bool, the finished mask; then nothing else counts.
    """

    frame: int
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    not_points: tuple[tuple[float, float], ...] = ()
    mask: np.ndarray | None = None

    def check(self, width: int, height: int, count: int) -> None:
        """Raises `InputError` where it does not fit a clip of `count` frames of this size."""
        if not 0 <= self.frame < count:
            raise InputError(f"--frame {self.frame}: the clip has {count} frames, numbered 0 to {count - 1}")
        if self.mask is not None:
            if self.mask.shape != (height, width):
                found = f"{self.mask.shape[1]}x{self.mask.shape[0]}"
                raise InputError(f"the mask of frame {self.frame} is {found}, the frame {width}x{height}")
            if not self.mask.any():
                raise InputError(f"the mask of frame {self.frame} is empty; give one with the object on it")
            return
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if not (x1 - x0 >= 2 and y1 - y0 >= 2):
                raise InputError(f"--box {_plain(self.box)}: wanted X0 Y0 X1 Y1 with X1 > X0 and Y1 > Y0, in pixels")
            if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
                raise InputError(f"--box {_plain(self.box)} lies outside the frame of {width} x {height} pixels")
        elif not self.points:
            raise InputError(f"frame {self.frame}: give a --box, a --point or a mask")
        for x, y in (*self.points, *self.not_points):
            if not (0 <= x < width and 0 <= y < height):
                raise InputError(f"point {x:g} {y:g} lies outside the frame of {width} x {height} pixels")


def _plain(values: Sequence[float]) -> str:
    return " ".join(f"{v:g}" for v in values)


def first_labels(labeller: Labeller, prompt: Prompt) -> np.ndarray:
    """Labels (h, w) float32 at the working size of the frame that a prompt is about.

    A box: GrabCut (Rother et al., SIGGRAPH 2004), then colours around each place, and motion against the background
    over the next frames. Points: discs that are certain.
    """
    clip = labeller.clip
    width, height = clip.size
    scale = np.array([width / clip.full[0], height / clip.full[1]])
    if prompt.mask is not None:
        return cv2.resize(prompt.mask.astype(np.float32), clip.size, interpolation=cv2.INTER_AREA)
    x0, y0, x1, y1 = _box_of(prompt, clip.full)
    box = np.zeros((height, width), bool)
    left, top, right, low = (np.array([x0, y0, x1, y1]) * [*scale, *scale]).round().astype(int)
    box[max(top, 0) : max(low, top + 1), max(left, 0) : max(right, left + 1)] = True
    on = _discs(prompt.points, scale, box.shape)
    off = _discs(prompt.not_points, scale, box.shape)
    state = np.where(box, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    if prompt.box is None:
        state[box] = cv2.GC_PR_BGD
        state[_discs(prompt.points, scale, box.shape, 0.03)] = cv2.GC_PR_FGD
    state[on], state[off] = cv2.GC_FGD, cv2.GC_BGD
    far = ~cv2.dilate(box.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    moving = labeller.moving(prompt.frame, box.astype(np.float32), far, object_size(box))
    guess = _grab_cut(clip[prompt.frame].rgb, state)
    if moving is not None and _tells(moving.chance > 0.5, box):
        # two views of the same thing: colours are then learnt where they agree
        guess = (guess + np.where(box, np.clip(moving.chance, 0.1, 0.9), 0.1).astype(np.float32)) / 2
    for _ in range(ROUNDS):
        guess[on], guess[off] = 1.0, 0.0
        guess = _again(labeller, prompt.frame, guess, box, far)
    guess[on], guess[off] = 1.0, 0.0
    return _joined(guess, on)


def _tells(moves: np.ndarray, box: np.ndarray) -> bool:
    """Does part of the box move against the background, and hardly anything around it?"""
    outside = moves[~box]
    return bool(moves[box].mean() >= LEAST_MOVING and (outside.mean() if len(outside) else 0.0) <= MOST_STRAY)


def _again(labeller: Labeller, frame: int, guess: np.ndarray, box: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Colours and motion learnt from a guess, and new labels by them."""
    still: Flow = np.zeros((*guess.shape, 2), np.float32)
    size = object_size(guess)
    colours = labeller.colours(frame, [Reference(frame, guess, still, still)], RADIUS * size)
    odds = KEEP * log_odds(guess, 0.1) + colours.known * log_odds(colours.chance, 0.05)
    moving = labeller.moving(frame, guess, far, size)
    if moving is not None:
        odds += MOTION * labeller.config.motion * moving.known * log_odds(moving.chance, 0.05)
    return labeller.settle(frame, np.where(box, odds, -6.0))


def _grab_cut(rgb: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Soft labels (h, w) from OpenCV's GrabCut."""
    state = state.copy()
    object_side = (state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)
    if object_side.all() or not object_side.any():  # it needs both; a box of the whole frame is the whole frame
        return np.where(object_side, 0.9, 0.1).astype(np.float32)
    cv2.setRNGSeed(0)
    model, other = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    cv2.grabCut(bgr, state, None, model, other, 5, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    found = (state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)
    if found.sum() < 0.02 * object_side.sum():  # nothing differs from outside: the box is all that is known
        found = object_side
    return np.where(found, 0.9, 0.1).astype(np.float32)


def _box_of(prompt: Prompt, full: tuple[int, int]) -> tuple[float, float, float, float]:
    if prompt.box is not None:
        return prompt.box
    points = np.array(prompt.points)
    reach = REACH * max(full)
    low, high = points.min(0) - reach, points.max(0) + reach
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _discs(
    points: Sequence[tuple[float, float]], scale: np.ndarray, shape: tuple[int, int], share: float = 0.006
) -> np.ndarray:
    found = np.zeros(shape, np.uint8)
    for point in points:
        x, y = np.floor(np.array(point) * scale).astype(int).tolist()
        cv2.circle(found, (x, y), max(1, round(share * max(shape))), 1, -1)
    return found.astype(bool)


def _joined(labels: np.ndarray, on: np.ndarray) -> np.ndarray:
    """Without crumbs: parts with less than a fiftieth of the largest one's pixels that hold no click."""
    count, part, stats, _ = cv2.connectedComponentsWithStats((labels > 0.5).astype(np.uint8))
    if count <= 2:
        return labels
    areas = stats[1:, cv2.CC_STAT_AREA]
    crumbs = [k + 1 for k in range(count - 1) if areas[k] < areas.max() / 50 and not on[part == k + 1].any()]
    return np.where(np.isin(part, crumbs), np.minimum(labels, 0.1), labels).astype(np.float32)
