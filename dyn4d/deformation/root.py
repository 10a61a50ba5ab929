"""The object's dominant rigid motion: one pose a frame, fitted robustly on correspondences, interpolated between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyn4d.core.robust import geman_mcclure
from dyn4d.core.rotations import matrix_to_wxyz, rigid_fit, slerp, wxyz_to_matrix
from dyn4d.core.types import LiftedPairs


class RootMotion(nn.Module):
    """Poses at knots in time, over normalised coordinates: x = R(t) z + d(t).

    Rotations are slerped and translations interpolated linearly; beyond the ends the nearest knot holds. The poses are
    found in closed form and by `fit_root`, before all else, and refined slowly in the fit and with the colours: what is
    left of the cameras' errors jumps from frame to frame, which splines that are smooth in time cannot follow.

    Args:
        times: (T,) increasing. rotations: (T, 4) unit wxyz. translations: (T, 3).
    """

    times: Tensor
    rotations: nn.Parameter
    translations: nn.Parameter

    def __init__(self, times: Tensor, rotations: Tensor, translations: Tensor) -> None:
        super().__init__()
        self.register_buffer("times", times)
        self.rotations = nn.Parameter(rotations)
        self.translations = nn.Parameter(translations)

    @staticmethod
    def still(times: Tensor) -> RootMotion:
        """No motion at all."""
        rotations = torch.zeros(len(times), 4)
        rotations[:, 0] = 1
        return RootMotion(times, rotations, torch.zeros(len(times), 3))

    @property
    def is_still(self) -> bool:
        """Is every pose the identity, to the bit: was nothing ever fitted?"""
        return not bool(self.rotations[:, 1:].any() or self.translations.any())

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations (B, 3, 3) and translations (B, 3) at times (B,)."""
        turns = nn.functional.normalize(self.rotations, dim=-1)
        if len(self.times) == 1:
            count = t.shape[0]
            return wxyz_to_matrix(turns).expand(count, 3, 3), self.translations.expand(count, 3)
        right = torch.searchsorted(self.times, t.contiguous()).clamp(1, len(self.times) - 1)
        left = right - 1
        span = self.times[right] - self.times[left]
        fraction = ((t - self.times[left]) / span).clamp(0, 1)
        rotation = slerp(_rows(turns, left), _rows(turns, right), fraction)
        moves = _rows(self.translations, left), _rows(self.translations, right)
        translation = torch.lerp(*moves, fraction.unsqueeze(-1))
        return wxyz_to_matrix(rotation), translation


def _robust_rigid(source: Tensor, target: Tensor, weight: Tensor, rounds: int = 8) -> tuple[Tensor, Tensor]:
    """Rigid motion by iteratively re-weighted least squares: most of the object wins over the parts that move."""
    w = weight
    rotation, translation = rigid_fit(source, target, w)
    for _ in range(rounds):
        residual = (source @ rotation.T + translation - target).square().sum(-1)
        scale = residual.median().clamp_min(1e-8)
        w = weight / (1 + residual / scale).square()
        rotation, translation = rigid_fit(source, target, w)
    return rotation, translation


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, whose gradient comes to the same bits every time: that of plain indexing adds up in whatever
    order the threads arrive, and a seed would not make a fit repeatable."""
    return nn.functional.embedding(index, table.flatten(1)).reshape(len(index), *table.shape[1:])


def fit_root(
    pairs: LiftedPairs, times: Tensor, *, generator: torch.Generator, steps: int = 250, samples: int = 24000
) -> RootMotion:
    """Root motion of T frames from lifted correspondences in normalised coordinates.

    Neighbouring frames are chained outwards from the middle one, which keeps the identity; then all pairs together
    refine the poses under a Geman-McClure loss whose width shrinks. Frames without correspondences hold the pose of
    their neighbour.

    Args:
        pairs: correspondences, `frame_a` and `frame_b` index `times` (T,).
    """
    count, reference = len(times), len(times) // 2
    rotations = torch.eye(3).repeat(count, 1, 1)
    translations = torch.zeros(count, 3)
    for step in (1, -1):
        for frame in range(reference + step, count if step > 0 else -1, step):
            ahead = (pairs.frame_a == frame - step) & (pairs.frame_b == frame)
            back = (pairs.frame_a == frame) & (pairs.frame_b == frame - step)
            source = torch.cat([pairs.xyz_a[ahead], pairs.xyz_b[back]])
            target = torch.cat([pairs.xyz_b[ahead], pairs.xyz_a[back]])
            rotations[frame], translations[frame] = rotations[frame - step], translations[frame - step]
            if len(source) >= 8:
                r, d = _robust_rigid(source, target, torch.cat([pairs.weight[ahead], pairs.weight[back]]))
                rotations[frame] = r @ rotations[frame - step]
                translations[frame] = r @ translations[frame - step] + d
    if len(pairs) == 0 or count == 1:
        return RootMotion(times, matrix_to_wxyz(rotations), translations)

    rows = torch.randint(len(pairs), (min(samples, len(pairs)),), generator=generator)
    a, b = pairs.frame_a[rows], pairs.frame_b[rows]
    xyz_a, xyz_b, weight = pairs.xyz_a[rows], pairs.xyz_b[rows], pairs.weight[rows]
    quats = nn.Parameter(matrix_to_wxyz(rotations))
    moves = nn.Parameter(translations.clone())
    optimiser = torch.optim.Adam([quats, moves], lr=4e-3)
    for step in range(steps):
        fraction = step / steps
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * (1 - fraction) + 1e-4
        turned = wxyz_to_matrix(quats)
        in_a = torch.einsum("nij,ni->nj", _rows(turned, a), xyz_a - _rows(moves, a))
        in_b = torch.einsum("nij,ni->nj", _rows(turned, b), xyz_b - _rows(moves, b))
        scale = 0.2 * (1 - fraction) + 0.05
        loss = (weight * geman_mcclure((in_a - in_b).square().sum(-1), scale)).mean() / scale**2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    rotations, translations = wxyz_to_matrix(quats.detach()), moves.detach()
    # the middle frame is the identity again, so that canonical space looks like that frame
    undo_r, undo_d = rotations[reference].T.clone(), translations[reference].clone()
    rotations = rotations @ undo_r
    translations = translations - rotations @ undo_d
    return RootMotion(times, matrix_to_wxyz(rotations), translations)
