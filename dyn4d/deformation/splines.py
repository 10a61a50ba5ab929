"""Moving points by coupling layers whose scale and shift are cubic B-splines over a plane.

Layer l moves coordinate k = l mod 3 of a point by amounts that depend on its two other coordinates (u, v) only:
y_k = scale · x_k + shift. Both are uniform cubic B-splines over [-DOMAIN, DOMAIN]² with S x S control points, S - 3
cells a side; beyond its border a plane goes on with the value there. The control points are those of one time, a row of
`planes`. As u and v pass through unchanged, the same two numbers undo the layer exactly.

`couple` runs our kernels on the CPU in float32 and plain torch otherwise; both follow the same formulas.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DOMAIN = 1.3
"""Half the side of the splines' square, in normalised coordinates (half the object's size = 1)."""
STEEPEST = 1.1752
"""sinh of the largest log scale, 1: a layer stretches by at most e^±1, which keeps float32 round trips exact to about
1e-6."""
PIECE = 2048  # points that a kernel handles at a time; fixed, so that sums come to the same bits for any thread count
SLOTS = 8  # gradients of one time's planes that are added up apart


@dataclass(frozen=True)
class Layout:
    """Which of the flat points belong to which row of the planes.

    Attributes:
        pieces: (M, 3) int64: a row of the planes, and the range [lo, hi) of points that use it.
        rows: number of planes.
    """

    pieces: Tensor
    rows: int

    @staticmethod
    def of(rows: list[int], counts: list[int], total: int) -> Layout:
        """Consecutive runs of points: run i has `counts[i]` points and uses row `rows[i]` of `total`."""
        pieces, begin = [], 0
        for row, count in zip(rows, counts):
            pieces += [(row, lo, min(lo + PIECE, begin + count)) for lo in range(begin, begin + count, PIECE)]
            begin += count
        return Layout(torch.tensor(pieces, dtype=torch.int64).reshape(-1, 3), total)

    def point_rows(self) -> Tensor:
        """(P,) each point's row."""
        return torch.repeat_interleave(self.pieces[:, 0], self.pieces[:, 2] - self.pieces[:, 1])

    def by_slots(self) -> tuple[Tensor, array[int], int]:
        """Pieces (M, 4) sorted by the slot that is their last column, where each slot's pieces begin and end, and
        slots a row. A slot is filled by one thread, so rows that are few get several."""
        row = self.pieces[:, 0]
        each = 1 if self.rows >= SLOTS else SLOTS
        order = torch.argsort(row, stable=True)
        begin = torch.searchsorted(row[order], torch.arange(self.rows + 1))
        sizes = begin[1:] - begin[:-1]
        place = torch.arange(len(row)) - begin[row[order]]
        slot = row[order] * each + place * each // sizes[row[order]].clamp_min(1)
        ends = torch.nonzero(torch.diff(slot))[:, 0] + 1
        return torch.cat([self.pieces[order], slot[:, None]], dim=1), array("q", [0, *ends.tolist(), len(row)]), each


def refinement(cells: int) -> Tensor:
    """(2 cells + 3, cells + 3): control points of the same cubic B-spline over twice as many cells."""
    out = torch.zeros(2 * cells + 3, cells + 3, dtype=torch.float64)
    for i in range(2 * cells + 3):  # a fine control point lies upon a coarse one, or half way between two
        j, between = divmod(i + 1, 2)
        for k, weight in ((j, 0.5), (j + 1, 0.5)) if between else ((j - 1, 0.125), (j, 0.75), (j + 1, 0.125)):
            if 0 <= k < cells + 3:
                out[i, k] += weight
    return out


def basis(place: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """First control point (...,), the weights (..., 4) of it and the three after it, and the weights' derivatives by
    the coordinate (..., 4), for coordinates (...,)."""
    steps = cells / (2 * DOMAIN)
    cell = place * steps + cells / 2
    clamped = cell.clamp(0, cells - 1e-3)
    index = clamped.detach().floor()
    f = clamped - index
    g = 1 - f
    weights = [g**3 / 6, (3 * f * f * (f - 2) + 4) / 6, (3 * g * g * (g - 2) + 4) / 6, f**3 / 6]
    slopes = [-g * g / 2, f * (3 * f - 4) / 2, -g * (3 * g - 4) / 2, f * f / 2]
    inside = ((cell == clamped) * steps).unsqueeze(-1)
    return index.long(), torch.stack(weights, -1), torch.stack(slopes, -1) * inside


def couple_reference(
    x: Tensor, planes: Tensor, layout: Layout, *, inverse: bool = False, jacobian: bool = False
) -> tuple[Tensor, Tensor | None]:
    """`couple` in plain torch: any dtype and device, differentiable in everything."""
    cells = planes.shape[2] - 3
    row = layout.point_rows().to(x.device)
    columns = list(x.unbind(-1))
    slopes = list(torch.eye(3, dtype=x.dtype, device=x.device).expand(len(x), 3, 3).unbind(-2)) if jacobian else []
    offset = torch.arange(4, device=x.device)
    order = range(planes.shape[1])
    for layer in reversed(order) if inverse else order:
        k = layer % 3
        a, b = (k + 1) % 3, (k + 2) % 3
        index_u, by_u, slope_u = basis(columns[a], cells)
        index_v, by_v, slope_v = basis(columns[b], cells)
        patch = planes[
            row[:, None, None], layer, index_u[:, None, None] + offset[:, None], index_v[:, None, None] + offset
        ]  # (P, 4, 4, 2)
        raw, shift = torch.einsum("pijc,pi,pj->cp", patch, by_u, by_v)
        bounded = raw / (1 + (raw / STEEPEST).square()).sqrt()
        root = (1 + bounded.square()).sqrt()
        scale = root - bounded if inverse else root + bounded  # exp(∓ asinh(bounded))
        before = columns[k]
        after = (before - shift) * scale if inverse else before * scale + shift
        if jacobian:
            raw_u, shift_u = torch.einsum("pijc,pi,pj->cp", patch, slope_u, by_v)
            raw_v, shift_v = torch.einsum("pijc,pi,pj->cp", patch, by_u, slope_v)
            narrowed = (1 + (raw / STEEPEST).square()) ** -1.5 / root
            by_raw = -after * narrowed if inverse else before * scale * narrowed
            by_shift = -scale if inverse else torch.ones_like(scale)
            slopes[k] = (
                scale.unsqueeze(-1) * slopes[k]
                + (by_raw * raw_u + by_shift * shift_u).unsqueeze(-1) * slopes[a]
                + (by_raw * raw_v + by_shift * shift_v).unsqueeze(-1) * slopes[b]
            )
        columns[k] = after
    return torch.stack(columns, -1), torch.stack(slopes, -2) if jacobian else None


def couple(
    x: Tensor, planes: Tensor, layout: Layout, *, inverse: bool = False, jacobian: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Move points through all layers.

    Args:
        x: (P, 3) normalised points, run after run as `layout` says.
        planes: (rows, layers, S, S, 2) control points of log scale and shift.
        inverse: undo the layers, last first. jacobian: give it too.

    Returns:
        (P, 3), differentiable in `x` and `planes`; and the Jacobian (P, 3, 3), rows = outputs, or None. The Jacobian is
        a constant where the kernels make it.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or planes.dtype != torch.float32:
        return couple_reference(x, planes, layout, inverse=inverse, jacobian=jacobian)
    moved, slopes = _Couple.apply(x, planes, layout, inverse, jacobian)  # type: ignore[misc]
    return moved, slopes if jacobian else None


class _Couple(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, planes: Tensor, layout: Layout, inverse: bool, jacobian: bool
    ) -> tuple[Tensor, Tensor]:
        from dyn4d.deformation.spline_kernels import couple_points
        from dyn4d.raster.threads import launch

        x, planes = x.contiguous(), planes.contiguous()
        moved, slopes = torch.empty_like(x), torch.empty(len(x) if jacobian else 0, 3, 3)
        every = array("q", range(len(layout.pieces) + 1))
        launch(couple_points, every, layout.pieces, x, planes, int(inverse), _settings(), moved, slopes)
        ctx.save_for_backward(x, planes)
        ctx.layout, ctx.inverse = layout, inverse
        ctx.mark_non_differentiable(slopes)
        return moved, slopes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from dyn4d.deformation.spline_kernels import couple_points_backward
        from dyn4d.raster.threads import launch

        x, planes = ctx.saved_tensors
        pieces, ends, each = ctx.layout.by_slots()
        v_x = torch.empty_like(x)
        v_planes = torch.zeros(len(planes) * each, *planes.shape[1:])
        launch(
            couple_points_backward, ends, pieces, x, planes, int(ctx.inverse), _settings(), grads[0].contiguous(),
            v_x, v_planes,
        )  # fmt: skip
        if each > 1:
            v_planes = v_planes.reshape(len(planes), each, *planes.shape[1:]).sum(1)
        return v_x, v_planes, None, None, None


def _settings() -> Tensor:
    return torch.tensor([DOMAIN, STEEPEST])
