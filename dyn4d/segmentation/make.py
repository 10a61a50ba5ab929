"""Masks of a whole clip, frame after frame, from prompts or from the background's colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import FrameReader
from dyn4d.segmentation.carry import carry_clip
from dyn4d.segmentation.config import MaskConfig
from dyn4d.segmentation.first import Prompt, first_labels
from dyn4d.segmentation.frames import WorkClip
from dyn4d.segmentation.keyed import Keyer
from dyn4d.segmentation.labels import Labeller
from dyn4d.segmentation.refine import full_mask
from dyn4d.segmentation.results import FrameMask


def follow_object(
    images: FrameReader, prompts: Sequence[Prompt], config: MaskConfig | None = None, progress: Progress | None = None
) -> Iterator[FrameMask]:
    """Masks of all frames in order, from prompts on one or several of them.

    Args:
        images: T frames (H, W, 3) uint8, read one after another. prompts: one a frame at most.

    Raises:
        InputError: a prompt does not fit the clip, or nothing is found by it.
    """
    config, progress = config or MaskConfig(), progress or SilentProgress()
    height, width = images[0].shape[:2]
    if not prompts:
        raise InputError("no key frame: give a --box, a --point or a mask of one frame")
    for prompt in prompts:
        prompt.check(width, height, len(images))
    given = {prompt.frame: prompt for prompt in prompts}
    if len(given) < len(prompts):
        twice = next(p.frame for p in prompts if sum(q.frame == p.frame for q in prompts) > 1)
        raise InputError(f"frame {twice} is given twice as a key frame; give its box, points or mask once")
    labeller = Labeller(WorkClip(images, config.size), config)
    keys = {frame: first_labels(labeller, prompt) for frame, prompt in sorted(given.items())}
    for frame, labels in keys.items():
        if not (labels > 0.5).any():
            raise InputError(f"frame {frame}: no object is found there; draw the box closer, or give its mask")
    for one in carry_clip(labeller, keys, progress):
        mask = given[one.frame].mask if one.frame in given else None
        if mask is None:
            image = images[one.frame]
            mask = full_mask(one.labels, cv2.resize(image, labeller.clip.size, interpolation=cv2.INTER_AREA), image)
        score = 1.0 if one.frame in given and given[one.frame].mask is not None else one.score
        yield FrameMask(one.frame, mask, score, one.checks, key=one.frame in given)


def key_colour(images: FrameReader, keyer: Keyer, progress: Progress | None = None) -> Iterator[FrameMask]:
    """Masks of all frames in order: what is not of the background's colour."""
    progress = progress or SilentProgress()
    progress.start("masks", len(images))
    for frame in range(len(images)):
        mask, score = keyer.mask(images[frame])
        progress.update(score=score)
        yield FrameMask(frame, mask, score, {"clear": score})
    progress.finish()
