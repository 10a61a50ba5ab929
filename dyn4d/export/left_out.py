"""How well a run draws the frames of its own clip that it was not shown: a test that needs no ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Clip
from dyn4d.export.evaluate import Reconstruction
from dyn4d.export.renders import render_cloud
from dyn4d.gaussians.metrics import mean_metrics, mean_or_none, mpsnr_so_far, picture_metrics
from dyn4d.gaussians.warp import move_cloud

COVERED = 0.5  # alpha from which a pixel of the render has a depth


def evaluate_left_out(
    result: Reconstruction, clip: Clip, used: Sequence[int], *, size: float | None, progress: Progress | None = None
) -> dict[str, Any] | None:
    """Draw the frames that a run left out from where their own cameras stood, and compare with their pictures.

    Args:
        clip: all F frames of the run's clip. used: the frames that the run was fitted on.
        size: of the object in world units, for the depth error.

    Returns:
        the means of `mpsnr`, `mssim` (inside the clip's mask), `psnr` (whole frame), `iou`, of `depth_rel` (where the
        clip has depth: the mean distance between drawn and measured depth inside the mask, relative to `size`), and
        the number `n` of frames. None where no frame was left out that has a camera and a mask.
    """
    progress = progress or SilentProgress()
    known = result.cameras.registered.tolist()
    frames = [f for f in sorted(set(range(len(clip))) - set(used)) if known[f] and np.any(clip.masks[f])]
    rows, depths = [], []
    if frames:
        progress.start("frames left out", len(frames))
    for frame in frames:
        moved = move_cloud(result.cloud, result.field, float(result.timeline.times[frame]))
        drawn = render_cloud(moved, result.cameras[frame], result.background)
        mask = torch.from_numpy(np.ascontiguousarray(clip.masks[frame])).bool()
        target = torch.from_numpy(np.ascontiguousarray(clip.images[frame])).float() / 255
        alpha = drawn.alpha[0, ..., 0].cpu()
        rows.append(picture_metrics(drawn.rgb[0].clamp(0, 1).cpu(), alpha, target, mask))
        if clip.depth is not None and size:
            measured = torch.from_numpy(np.ascontiguousarray(clip.depth[frame])).float()
            both = mask & (measured > 0) & (alpha > COVERED)
            away = (drawn.depth[0, ..., 0].cpu() - measured).abs()[both]
            depths.append(float(away.mean()) / size if len(away) else None)
        progress.update(**mpsnr_so_far(rows))
    if not frames:
        return None
    progress.finish()
    return {**mean_metrics(rows), "depth_rel": mean_or_none(depths), "n": len(frames)}
