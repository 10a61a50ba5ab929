"""The unknowns of the alignment of pointmaps, and what is minimised over them.

Source: Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024, equation 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyn4d.core.rotations import matrix_to_wxyz, wxyz_to_matrix
from dyn4d.geometry.pair_results import PairFrame
from dyn4d.geometry.pointmap_config import PointmapConfig
from dyn4d.geometry.pointmap_initialisation import PointmapStart, Similarity
from dyn4d.geometry.pointmap_problem import PointmapProblem, pixel_weight

_DEPTH = 2.0  # median depth inside the search, whose steps suit a scene of about this size
_AT_A_TIME = 2_000_000  # points of edges whose differences are in memory at once


def sum_of_squares(values: Tensor) -> Tensor:
    """(..., P) of values (..., 3, P); faster than a reduction over three."""
    x, y, z = values.unbind(-2)
    return x.square().addcmul_(y, y).addcmul_(z, z)


class _Distances(torch.autograd.Function):
    """Equation 5 with its gradient written out: one pass over the points, memory for a part of the edges at a time."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, world: Tensor, turn: Tensor, shift: Tensor, points: Tensor,
        weight: Tensor, edges: Tensor, squared: bool,
    ) -> Tensor:  # fmt: skip
        by_world, by_turn, by_shift = torch.zeros_like(world), torch.zeros_like(turn), torch.zeros_like(shift)
        total = torch.zeros((), dtype=world.dtype, device=world.device)
        step = max(1, _AT_A_TIME // max(2 * points.shape[3], 1))
        for first in range(0, len(edges), step):
            part = slice(first, first + step)
            ends, seen, w = edges[part], points[part], weight[part]
            difference = world[ends] - torch.matmul(turn[part, None], seen) - shift[part, None, :, None]
            square = sum_of_squares(difference)
            if squared:
                total += torch.dot(square.flatten(), w.flatten())
                pull = difference.mul_(2 * w[:, :, None])
            else:
                length = square.sqrt_()
                total += torch.dot(length.flatten(), w.flatten())
                pull = difference.mul_((w / length.clamp_min(1e-12))[:, :, None])
            by_turn[part] = -torch.matmul(pull, seen.transpose(2, 3)).sum(1)
            by_shift[part] = -pull.sum((1, 3))
            by_world.index_add_(0, ends.flatten(), pull.flatten(0, 1))
        ctx.save_for_backward(by_world, by_turn, by_shift)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grad_outputs: Tensor):  # type: ignore[override]
        (grad,) = grad_outputs
        return (*(grad * saved for saved in ctx.saved_tensors), None, None, None, None)  # type: ignore[attr-defined]


def pointmap_distance(
    world: Tensor, turn: Tensor, shift: Tensor, points: Tensor, weight: Tensor, edges: Tensor, *, squared: bool = False
) -> Tensor:
    """() Σ weight · |world - (turn x + shift)|, or its square, over both frames of each edge (equation 5).

    Args:
        world: (T, 3, P) points of the frames. turn: (E, 3, 3) s R, shift: (E, 3) of the edges.
        points: (E, 2, 3, P), weight: (E, 2, P) >= 0. edges: (E, 2) int64 frames.
    """
    return _Distances.apply(world, turn, shift, points, weight, edges, squared)  # type: ignore[return-value]


def _squash(value: Tensor) -> Tensor:
    return value.sign() * value.abs().log1p()


def _unsquash(value: Tensor) -> Tensor:
    return value.sign() * value.abs().expm1()


class PointmapSearch(nn.Module):
    """The unknowns of equation 5. Inside, the world is moved and scaled so that steps of one size suit any scene.

    Args:
        start: first values in the caller's world. K: (T, 3, 3) first intrinsics.
        fixed_poses, fixed_K: (T,) bool.
        pinned: fixed poses fix the world's size. Else the geometric mean of the edges' scales stays what it is.
    """

    def __init__(
        self, problem: PointmapProblem, start: PointmapStart, K: Tensor, frames: Sequence[PairFrame],
        config: PointmapConfig, fixed_poses: Tensor, fixed_K: Tensor, pinned: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.problem = problem = problem.select(start.edges)
        self.config = config
        self.pinned = pinned
        self.device = device = problem.points.device
        used = torch.zeros_like(start.depth, dtype=torch.bool)
        for number, rows in enumerate(problem.rows):
            used[number, : len(rows)] = bool(start.placed[number])
        self.unit = start.depth[used].median() / _DEPTH
        self.origin = start.world_from_cam[start.placed, :3, 3].mean(0)
        kept = start.edges
        self.edges = problem.edges.to(device)
        self.xy = problem.xy.transpose(1, 2).contiguous()
        weight = pixel_weight(problem.conf, config.confidence)
        counted = (problem.conf > 0).sum((0, 2)).clamp_min(1)
        self.weight = weight / counted[:, None]

        def parameter(value: Tensor) -> nn.Parameter:
            return nn.Parameter(value.float().to(device))

        def constant(value: Tensor) -> Tensor:
            return value.to(device) if value.dtype == torch.bool else value.float().to(device)

        centres = (start.world_from_cam[:, :3, 3] - self.origin) / self.unit
        self.quats = parameter(matrix_to_wxyz(start.world_from_cam[:, :3, :3]))
        self.centres = parameter(_squash(centres))
        self.first_quats, self.first_centres = constant(self.quats.detach()), constant(centres)
        self.moves = constant(~fixed_poses)[:, None]
        self.log_depth = parameter((start.depth / self.unit).log())
        self.edge_quats = parameter(matrix_to_wxyz(start.R[kept]))
        self.edge_shift = parameter(_squash((start.t[kept] - self.origin) / self.unit))
        self.edge_log_scale = parameter((start.scale[kept] / self.unit).log())
        self.mean_log_scale = self.edge_log_scale.detach().mean()

        groups = 1 if config.shared_intrinsics else problem.frame_count
        self.focal = nn.Parameter(torch.zeros(groups, device=device))  # 20 · log of the focal length's growth
        self.pp = nn.Parameter(torch.zeros(groups, 2, device=device), requires_grad=config.optimise_pp)  # 10 px each
        sizes = torch.tensor([f.view.scale for f in frames], dtype=torch.float64)
        self.pp_scale = constant(sizes / sizes.mean())
        self.first_K, self.bends = K, constant(~fixed_K)
        self.first_focal, self.first_pp = constant(K[:, [0, 1], [0, 1]]), constant(K[:, :2, 2])

    def _lens(self) -> tuple[Tensor, Tensor]:
        """Focal lengths (T, 2) and principal points (T, 2) in pixels of the views."""
        growth = (self.focal / 20).expand(self.problem.frame_count) * self.bends
        shift = 10 * self.pp.expand(self.problem.frame_count, 2) * self.pp_scale * self.bends[:, None]
        return self.first_focal * growth.exp()[:, None], self.first_pp + shift

    def _poses(self) -> tuple[Tensor, Tensor]:
        quats = torch.where(self.moves, self.quats, self.first_quats)
        return wxyz_to_matrix(quats), torch.where(self.moves, _unsquash(self.centres), self.first_centres)

    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        log_scale = self.edge_log_scale
        if not self.pinned:
            log_scale = log_scale - log_scale.mean() + self.mean_log_scale
        return wxyz_to_matrix(self.edge_quats), _unsquash(self.edge_shift), log_scale.exp()

    def forward(self) -> Tensor:
        """() equation 5, in units of the search."""
        focal, pp = self._lens()
        R, centre = self._poses()
        flat = (self.xy - pp[..., None]) / focal[..., None]
        depth = self.log_depth.exp()[:, None]
        world = torch.baddbmm(centre[..., None], R, torch.cat([flat * depth, depth], 1))
        turn, shift, scale = self._edges()
        squared = self.config.distance == "l2"
        loss = pointmap_distance(
            world, scale[:, None, None] * turn, shift, self.problem.points, self.weight, self.edges, squared=squared
        )
        if self.pinned:  # in units of the predictions: else shrinking the world would look like agreement
            loss = loss * ((self.mean_log_scale - self.edge_log_scale.mean()) * (2 if squared else 1)).exp()
        return loss

    @torch.no_grad()
    def intrinsics(self) -> Tensor:
        """(T, 3, 3) float64; those that are fixed exactly as they were given."""
        focal, pp = (value.double().cpu() for value in self._lens())
        out, bends = self.first_K.clone(), self.bends.cpu()
        out[bends, 0, 0], out[bends, 1, 1] = focal[bends].unbind(-1)
        out[bends, :2, 2] = pp[bends]
        return out

    @torch.no_grad()
    def cameras(self) -> Tensor:
        """(T, 4, 4) float64 world_from_cam in the world of the first values."""
        R, centre = (value.double().cpu() for value in self._poses())
        out = torch.eye(4, dtype=torch.float64).repeat(len(R), 1, 1)
        out[:, :3, :3], out[:, :3, 3] = R, centre * self.unit + self.origin
        return out

    @torch.no_grad()
    def fitted_edges(self) -> dict[int, Similarity]:
        """R (3, 3), t (3,), scale () of the edges in the world of the first values, by `PointmapProblem.ids`."""
        turn, shift, scale = (value.double().cpu() for value in self._edges())
        R, t, s = turn, shift * self.unit + self.origin, scale * self.unit
        return dict(zip(self.problem.ids.tolist(), zip(R, t, s)))
