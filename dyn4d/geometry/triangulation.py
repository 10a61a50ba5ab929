"""Depth of single pixels out of where other frames see them again, with cameras that are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyn4d.core.types import Camera, Correspondences

ROUNDS = 6  # of reweighting; five do
USUAL = 0.5  # px: a match so far off counts half


@dataclass(frozen=True)
class SeenAgain:
    """Pixels that other frames see too.

    Attributes:
        frame: (N,). xy: (N, 2) px. inverse: (N,) inverse planar depth in that frame's camera; it may be 0 or less.
        sigma: (N,) standard deviation of the same, as the pixels and the cameras' places tell it.
        agree: (N,) in [0, 1], how well its matches agree: the mean of their weights in the end.
    """

    frame: Tensor
    xy: Tensor
    inverse: Tensor
    sigma: Tensor
    agree: Tensor

    def close(self, most: float) -> Tensor:
        """(N,) bool: in front of the camera, its depth known to `most` of itself."""
        return (self.inverse > 0) & (self.sigma <= most * self.inverse)


def triangulate(matches: Correspondences, cameras: Camera) -> SeenAgain:
    """Depth of each pixel that matches begin at, by least squares over all frames that it is matched with, robustly.

    The equations are linear in the inverse depth (Hartley and Zisserman, "Multiple View Geometry", section 12.2); their
    weights make of them what is off in pixels. Matches of frames without a camera count for nothing.

    Args:
        matches: between pixels of the pictures, of things that stand still. cameras: (T,) of the pictures.
    """
    used = cameras.registered.cpu()
    matches = matches.select(torch.nonzero(used[matches.frame_a] & used[matches.frame_b]).squeeze(-1))
    a, b = matches.frame_a.cpu(), matches.frame_b.cpu()
    start, end = matches.xy_a.double().cpu(), matches.xy_b.double().cpu()
    if len(a) == 0:
        none = torch.zeros(0, dtype=torch.float64)
        return SeenAgain(a, start, none, none, none)
    K, pose = cameras.K.double().cpu(), cameras.world_from_cam.double().cpu()
    places, group = torch.unique(torch.cat([a[:, None].double(), start], 1), dim=0, return_inverse=True)
    focal = K.diagonal(dim1=-2, dim2=-1)[:, :2]
    ray = torch.cat([(start - K[a, :2, 2]) / focal[a], torch.ones(len(a), 1, dtype=torch.float64)], 1)
    to_b = pose[b, :3, :3].transpose(-1, -2)
    far = torch.einsum("nij,njk,nk->ni", to_b, pose[a, :3, :3], ray)  # a point without end on the ray, in b's camera
    move = torch.einsum("nij,nj->ni", to_b, pose[a, :3, 3] - pose[b, :3, 3])
    at = (end - K[b, :2, 2]) / focal[b]
    by = at * move[:, 2:] - move[:, :2]  # by · inverse = goal
    goal = far[:, :2] - at * far[:, 2:]
    inverse = torch.zeros(len(places), dtype=torch.float64)
    information = torch.zeros_like(inverse)
    weight = torch.ones(len(a), dtype=torch.float64)
    for _ in range(ROUNDS):
        pixels = focal[b] / (far[:, 2:] + inverse[group][:, None] * move[:, 2:]).abs().clamp_min(1e-9)
        squares = (weight[:, None] * (pixels * by).square()).sum(1)
        both = (weight[:, None] * pixels.square() * by * goal).sum(1)
        information = torch.zeros_like(inverse).index_add_(0, group, squares)
        inverse = torch.zeros_like(inverse).index_add_(0, group, both) / information.clamp_min(1e-30)
        off = (pixels * (by * inverse[group][:, None] - goal)).norm(dim=1)
        weight = 1 / (1 + (off / USUAL).square())
    count = torch.bincount(group, minlength=len(places))
    agree = torch.zeros_like(inverse).index_add_(0, group, weight) / count
    sigma = USUAL * information.clamp_min(1e-30).rsqrt()
    return SeenAgain(places[:, 0].long(), places[:, 1:], inverse, sigma, agree)
