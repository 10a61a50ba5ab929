"""Whether matches bear out the cameras and depths of an alignment, whichever method made it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dyn4d.core.cameras import invert_rigid, project, unproject
from dyn4d.geometry.alignment_result import Alignment
from dyn4d.geometry.pair_results import PairFrame, PairResults


def matches_off(frames: Sequence[PairFrame], results: PairResults, found: Alignment) -> float:
    """How far the matches of all pairs are, in the median over both directions, from where cameras and depths have
    them, in pixels of the views; NaN without any."""
    away = invert_rigid(found.world_from_cam.nan_to_num())
    errors = []
    for result in results:
        ends = (result.frame_a, result.xy_a), (result.frame_b, result.xy_b)
        for (i, here), (j, there) in (ends, ends[::-1]):
            if not bool(found.registered[[i, j]].all()) or not len(here):
                continue
            depth = torch.full((frames[i].kept.size,), torch.nan, dtype=torch.float64)
            depth[frames[i].pixels] = found.depth[i]
            depth = depth[here[:, 1] * frames[i].width + here[:, 0]]
            points = unproject(found.K[i], found.world_from_cam[i], here + 0.5, depth)
            seen, z = project(found.K[j], away[j], points)
            error = (seen - there - 0.5).norm(dim=-1).where(z > 0, torch.inf)
            errors.append(error[torch.isfinite(depth)])
    return float(torch.cat(errors).median()) if sum(map(len, errors)) else math.nan
