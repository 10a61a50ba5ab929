"""The depth of every kept pixel once cameras and the similarities of all passes are known: along its ray, where the
passes agree best. That is equation 5 for one unknown, which has one minimum, found without steps of any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dyn4d.core.cameras import invert_rigid, transform
from dyn4d.core.checks import require_finite
from dyn4d.geometry.pair_results import PairFrame, PairResults
from dyn4d.geometry.pointmap_config import PointmapConfig
from dyn4d.geometry.pointmap_initialisation import Similarity
from dyn4d.geometry.pointmap_problem import passes, pixel_weight, sanitise


def nearest_on_rays(rays: Tensor, points: Tensor, weight: Tensor, *, squared: bool = False) -> Tensor:
    """(P,) depth d that minimises Σ_e weight |d · ray - point|, or its square, for each of P rays from the camera.

    Args:
        rays: (P, 3) with z = 1. points: (E, P, 3) in the camera. weight: (E, P) >= 0; where all are 0 the depth is 0.
    """
    square = rays.square().sum(-1)
    along = (points * rays).sum(-1) / square
    total = weight.sum(0)
    depth = (weight * along).sum(0) / total.clamp_min(torch.finfo(total.dtype).tiny)
    if squared:
        return depth
    across = (points - along[..., None] * rays).square().sum(-1)
    for _ in range(20):
        distance = (square * (depth - along).square() + across).sqrt()
        pull = weight / distance.clamp_min(1e-7 * depth.abs() + 1e-30)
        most = pull.amax(0).clamp_min(torch.finfo(total.dtype).tiny)
        pull = pull / most
        depth = torch.where(total > 0, (pull * along).sum(0) / pull.sum(0).clamp_min(1e-30), 0.0)
    return depth


def fit_depths(
    frames: Sequence[PairFrame], results: PairResults, K: Tensor, world_from_cam: Tensor,
    edges: Mapping[int, Similarity], config: PointmapConfig, device: torch.device,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # fmt: skip
    """Depth and confidence of all kept pixels of all frames, one frame after the other.

    Args:
        K: (T, 3, 3), world_from_cam: (T, 4, 4) float64; a frame without an edge needs no pose.
        edges: R (3, 3), t (3,), scale () of passes by number: 2 · the pair's number, + 1 for its second pass.

    Returns:
        For each frame (P,) float32 depth, 0 where no pass has a point before the camera, and (P,) float32 confidence,
        the highest of any pass, 0 where there is no depth.
    """
    touching: list[list[int]] = [[] for _ in frames]
    for index, pair in enumerate(results.pairs):
        if 2 * index in edges or 2 * index + 1 in edges:
            for frame in pair:
                touching[frame].append(index)
    depths, confidences = [], []
    for number, frame in enumerate(frames):
        seen, sure = [], []
        cam_from_world = invert_rigid(world_from_cam[number])
        for index in touching[number]:
            for side, (ends, points, conf) in enumerate(passes(results[index])):
                if 2 * index + side in edges:
                    R, t, scale = edges[2 * index + side]
                    view = ends.index(number)
                    clean, weight = sanitise(points[view].float(), conf[view].float())
                    turn = (scale * cam_from_world[:3, :3] @ R).float().to(device)
                    shift = transform(cam_from_world, t[None])[0].float().to(device)
                    seen.append(clean.to(device) @ turn.T + shift)
                    sure.append(weight.to(device))
        count = len(frame.pixels)
        if not seen or count == 0:
            depths.append(torch.zeros(count))
            confidences.append(torch.zeros(count))
            continue
        depth, conf = _one_frame(frame, K[number], torch.stack(seen), torch.stack(sure), config)
        require_finite(depth, f"alignment of pointmaps, depth of frame {number}")
        depths.append(depth.cpu())
        confidences.append(conf.cpu())
    return tuple(depths), tuple(confidences)


def _one_frame(
    frame: PairFrame, K: Tensor, points: Tensor, conf: Tensor, config: PointmapConfig
) -> tuple[Tensor, Tensor]:
    """Depth and confidence (P,) of one frame from points (E, P, 3) in its camera."""
    pixels = frame.pixels
    xy = torch.stack([pixels % frame.width + 0.5, pixels // frame.width + 0.5, torch.ones(len(pixels))], -1)
    rays = (xy.double() @ torch.linalg.inv(K).T).float().to(points.device)
    weight = pixel_weight(conf, config.confidence)
    weight = torch.where(weight.sum(0) > 0, weight, conf)  # log 1 = 0: a pixel of the lowest confidence in all passes
    depth = nearest_on_rays(rays, points, weight, squared=config.distance == "l2")
    good = depth > 0
    return torch.where(good, depth, 0.0), torch.where(good, conf.amax(0), 0.0)
