"""The numba rasteriser as three autograd functions: project, colours from spherical harmonics, blend.

They are separate so that `info["means2d"]` is a tensor of the graph, whose gradient densification reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyn4d.raster import binning_kernels as bk
from dyn4d.raster import blend_kernels as tk
from dyn4d.raster import harmonic_kernels as hk
from dyn4d.raster import projection_kernels as pk
from dyn4d.raster.request import Drawn, Request, make_info
from dyn4d.raster.threads import cost_bounds, even_bounds, launch, launch_whole


def draw(request: Request) -> Drawn:
    """See `rasterization`."""
    small = [request.viewmats, request.Ks, request.backgrounds, request.colors if request.sh_degree is None else None]
    if not all(math.isfinite(_plain(t).double().sum()) for t in small if t is not None):
        request.check_finite()  # the kernels look at the rest
    empty = request.means.new_zeros(0)
    means2d, depths, conics, compensations, radii, residues = _Project.apply(
        request.means,
        empty.reshape(0, 4) if request.quats is None else request.quats,
        empty.reshape(0, 3) if request.scales is None else request.scales,
        empty.reshape(0, 3, 3) if request.covars is None else request.covars,
        request.viewmats, request.Ks, request.opacities.detach(), request,
    )  # type: ignore[misc]  # fmt: skip
    opacities = request.opacities.unsqueeze(0)  # (1, N), or one row for each camera
    if request.antialiased:
        opacities = opacities * compensations
    if not request.with_color:
        colors = request.means.new_zeros(1, len(request.means), 0)
    elif request.sh_degree is None:
        colors = request.colors if request.colors.dim() == 3 else request.colors.unsqueeze(0)
    else:
        coefficients = request.colors if request.colors.dim() == 4 else request.colors.unsqueeze(0)
        # colours of degree 0 are the same from everywhere
        centres = request.camera_centres() if request.sh_degree > 0 else request.viewmats.detach()[:, :3, 3]
        colors = _HarmonicColors.apply(
            request.means, centres, coefficients, radii, request
        )  # type: ignore[misc]  # fmt: skip
    backgrounds = request.backgrounds if request.with_color else None
    renders, alphas = _Blend.apply(
        means2d, depths, conics, opacities, colors, backgrounds, radii, residues, request
    )  # type: ignore[misc]  # fmt: skip
    shown = opacities.expand(request.cameras, -1)
    info = make_info(request, means2d=means2d, radii=radii, depths=depths, conics=conics, opacities=shown)
    return renders, alphas, info


def _plain(value: Tensor) -> Tensor:
    """As kernels want it."""
    return value.detach().contiguous()


def _table(value: Tensor) -> Tensor:
    """(N, ...) as rows of numbers."""
    return value.detach().contiguous().reshape(value.shape[0], math.prod(value.shape[1:]))


def _of(each: Any, camera: int) -> Any:
    """The entry of a camera, where there is one for each or one for all."""
    return each[min(camera, len(each) - 1)]


def _camera(viewmat: Tensor, K: Tensor, request: Request) -> np.ndarray:
    """The numbers that `projection_kernels.project` reads of one camera."""
    view, intrinsics = viewmat.detach().double().numpy(), K.detach().double().numpy()
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    width, height = request.width, request.height
    out = np.empty(pk.CAMERA, np.float64)
    out[:9], out[9:12] = view[:3, :3].ravel(), view[:3, 3]
    pad_x, pad_y = 0.15 * width / fx, 0.15 * height / fy  # as in reference.project
    out[12:16] = fx, fy, cx, cy
    out[16:20] = -(cx / fx + pad_x), (width - cx) / fx + pad_x, -(cy / fy + pad_y), (height - cy) / fy + pad_y
    out[20:] = request.near_plane, request.far_plane, request.radius_clip, request.eps2d, width, height
    return out


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, covars: Tensor, viewmats: Tensor, Ks: Tensor,
        opacities: Tensor, request: Request,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        views, count = viewmats.shape[0], means.shape[0]
        inputs = [_table(t) for t in (means, quats, scales, covars, opacities)]
        cameras = [_camera(viewmats[c], Ks[c], request) for c in range(views)]
        means2d, depths = torch.empty(views, count, 2), torch.empty(views, count)
        conics, compensations = torch.empty(views, count, 3), torch.empty(views, count)
        radii, residues = torch.empty(views, count, 2, dtype=torch.int32), torch.empty(views, count)
        bounds, flag = even_bounds(count, pk.BLOCK), np.zeros(1, np.int64)
        for c in range(views):
            outputs = [_table(t[c]) for t in (means2d, depths, residues, conics, compensations, radii)]
            launch(pk.project, bounds, len(covars) > 0, *inputs, cameras[c], request.antialiased, *outputs, flag)
        if flag[0]:
            request.check_finite()
        ctx.save_for_backward(means, quats, scales, covars, radii)
        ctx.cameras = cameras
        ctx.mark_non_differentiable(radii, residues)
        ctx.set_materialize_grads(False)
        return means2d, depths, conics, compensations, radii, residues

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *given, radii = ctx.saved_tensors
        count, inputs = len(given[0]), [_table(t) for t in given]
        nothing = np.zeros((count, 3), np.float32)
        totals = [torch.empty_like(value) for value in inputs]
        v_viewmats = torch.zeros(len(ctx.cameras), 4, 4)
        bounds = even_bounds(count, pk.BLOCK)
        for c, camera in enumerate(ctx.cameras):
            parts = totals if c == 0 else [torch.empty_like(value) for value in inputs]
            v_pose = np.empty((-(-count // pk.BLOCK), 12), np.float64)
            slopes = [
                np.ascontiguousarray(nothing[:, :width]) if g is None else _table(g[c])
                for g, width in zip(grads, (2, 1, 3, 1))
            ]
            launch(
                pk.project_backward, bounds, len(given[3]) > 0, *inputs, camera, _table(radii[c]), *slopes, *parts,
                v_pose,
            )  # fmt: skip
            if c > 0:
                for total, part in zip(totals, parts):
                    total += part
            pose = torch.from_numpy(v_pose.sum(0))
            v_viewmats[c, :3, :3], v_viewmats[c, :3, 3] = pose[:9].reshape(3, 3).float(), pose[9:].float()
        v_means, v_quats, v_scales, v_covars = (t.reshape(g.shape) for t, g in zip(totals, given))
        return v_means, v_quats, v_scales, v_covars, v_viewmats, None, None, None


class _HarmonicColors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, centres: Tensor, coefficients: Tensor, radii: Tensor, request: Request
    ) -> Tensor:  # fmt: skip
        views, count, degree = centres.shape[0], means.shape[0], request.sh_degree
        colors, flag = torch.empty(views, count, 3), np.zeros(1, np.int64)
        for c in range(views):
            launch(
                hk.colors_kernel(degree), even_bounds(count, hk.BLOCK), _table(means), _plain(centres[c]),
                _table(_of(coefficients, c)), _table(radii[c]), _table(colors[c]), flag,
            )  # fmt: skip
        if flag[0]:
            request.check_finite()
        ctx.save_for_backward(means, centres, coefficients, radii, colors)
        ctx.degree = degree
        return colors

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means, centres, coefficients, radii, colors = ctx.saved_tensors
        count, degree = len(means), ctx.degree
        used = (degree + 1) ** 2
        make = np.empty if used == coefficients.shape[2] else np.zeros  # only what the degree uses is written
        shape, sides = (count, 3 * coefficients.shape[2]), len(coefficients)
        v_sh: list[np.ndarray] = []
        v_means, v_centres = None, torch.zeros_like(centres)
        for c in range(len(centres)):
            part, part_means = make(shape, np.float32), np.empty((count, 3), np.float32)
            v_centre = np.zeros((-(-count // hk.BLOCK), 3), np.float64)
            launch(
                hk.colors_backward_kernel(degree), even_bounds(count, hk.BLOCK), _table(means), _plain(centres[c]),
                _table(_of(coefficients, c)), _table(radii[c]), _table(colors[c]), _table(grads[0][c]),
                part, part_means, v_centre,
            )  # fmt: skip
            if degree > 0:
                v_means = part_means if v_means is None else v_means + part_means
                v_centres[c] = torch.from_numpy(v_centre.sum(0)).float()
            if c < sides:
                v_sh.append(part)
            else:
                v_sh[-1] += part
        total = v_sh[0][None] if sides == 1 else np.stack(v_sh)
        v_coefficients = torch.from_numpy(total).reshape(coefficients.shape)
        return None if v_means is None else torch.from_numpy(v_means), v_centres, v_coefficients, None, None


@dataclass(frozen=True)
class _Layer:
    """One camera, up to eight channels: what the backward pass needs again.

    Attributes:
        first: the first channel. padded: channels that the kernels drew.
        order: drawn Gaussians, nearest first. records, boxes, slots, starts, entries: see the kernels.
        image, alpha, through, last: what was drawn; `through` is 1 - alpha without its rounding.
    """

    first: int
    padded: int
    order: np.ndarray
    records: np.ndarray
    slots: np.ndarray
    starts: np.ndarray
    entries: np.ndarray
    background: np.ndarray
    expected: int
    image: np.ndarray
    alpha: np.ndarray
    through: np.ndarray
    last: np.ndarray


def _split(channels: int) -> list[tuple[int, int, int]]:
    """(first channel, channels, compiled width) of each pass."""
    out = []
    for first in range(0, channels, tk.WIDTHS[-1]):
        count = min(channels - first, tk.WIDTHS[-1])
        out.append((first, count, next(w for w in tk.WIDTHS if w >= count)))
    return out or [(0, 0, tk.WIDTHS[0])]


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, depths: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor,
        backgrounds: Tensor | None, radii: Tensor, residues: Tensor, request: Request,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        views = len(means2d)
        channels = colors.shape[-1] + int(request.with_depth)
        renders = torch.empty(views, request.height, request.width, channels)
        alphas = torch.empty(views, request.height, request.width, 1)
        ctx.layers = []
        for c in range(views):
            geometry = [_table(t[c]) for t in (means2d, conics)] + [_table(_of(opacities, c))]
            order = _depth_order(_table(radii[c]), _table(depths[c]), _table(residues[c]))
            layers = _draw_view(
                request, geometry, _table(_of(colors, c)), _table(depths[c]), order,
                None if backgrounds is None else _plain(backgrounds[c]).numpy(), renders.numpy()[c],
                alphas.numpy()[c, ..., 0],
            )  # fmt: skip
            ctx.layers.append(layers)
        drawn = (renders, alphas) if request.expected_depth else ()  # the layers hold them; torch watches for changes
        ctx.save_for_backward(means2d, conics, opacities, colors, *drawn)
        ctx.request = request
        ctx.means2d = means2d if request.absgrad else None
        return renders, alphas

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means2d, conics, opacities, colors, *_ = ctx.saved_tensors
        request: Request = ctx.request
        views, count = means2d.shape[:2]
        v_renders, v_alphas = _plain(grads[0]).numpy(), _plain(grads[1]).numpy()[..., 0]
        v_means2d, v_depths = np.zeros((views, count, 2), np.float32), np.zeros((views, count, 1), np.float32)
        v_conics, v_opacities = (
            np.zeros((views, count, 3), np.float32),
            np.zeros((len(opacities), count, 1), np.float32),
        )
        v_colors = np.zeros(colors.shape, np.float32)
        v_abs = np.zeros((views, count if request.absgrad else 0, 2), np.float32)
        for c in range(views):
            outputs = (
                v_means2d[c], v_conics[c], _of(v_opacities, c), _of(v_colors, c), v_depths[c], v_abs[c]
            )  # fmt: skip
            for layer in ctx.layers[c]:
                _layer_backward(
                    layer, request, _table(conics[c]), _table(_of(opacities, c)), v_renders[c], v_alphas[c], outputs
                )  # fmt: skip
        if request.absgrad:
            ctx.means2d.absgrad = torch.from_numpy(v_abs)
        v_backgrounds = None
        if ctx.needs_input_grad[5]:
            through = np.stack([layers[0].through for layers in ctx.layers])[..., None]
            v_backgrounds = torch.from_numpy((v_renders[..., : colors.shape[-1]] * through).sum((1, 2)))
        flat = [torch.from_numpy(t) for t in (v_means2d, v_depths[..., 0], v_conics, v_opacities[..., 0], v_colors)]
        return (*flat, v_backgrounds, None, None, None)


def _draw_view(
    request: Request, geometry: list[Tensor], colors: Tensor, depths: Tensor, order: np.ndarray,
    background: np.ndarray | None, image: np.ndarray, alpha: np.ndarray,
) -> list[_Layer]:  # fmt: skip
    """Blend one camera's Gaussians into image (H, W, X) and alpha (H, W)."""
    width, height = request.width, request.height
    tiles_x, tiles_y = -(-width // bk.TILE), -(-height // bk.TILE)
    slots = starts = entries = np.empty(0, np.int64)
    layers = []
    for first, used, padded in _split(image.shape[-1]):
        records = torch.empty(len(order), bk.RECORD + padded).numpy()  # torch's memory begins on a cache line
        launch(
            bk.make_records, even_bounds(len(order), pk.BLOCK), order, *geometry, colors, depths, first,
            request.with_depth, width, height, records,
        )  # fmt: skip
        if first == 0:
            slots, starts, entries = _bin(records, tiles_x, tiles_x * tiles_y)
        behind = np.zeros(padded, np.float32)
        if background is not None:
            part = background[first : first + padded]
            behind[: len(part)] = part
        last_pass = first + used == image.shape[-1]
        expected = used - 1 if request.expected_depth and last_pass else -1
        part = image if used == image.shape[-1] == padded else np.empty((height, width, padded), np.float32)
        through, last = np.empty((2, height, width), np.float32)
        launch(
            tk.blend_kernel(padded), cost_bounds(starts), records, starts, entries, behind, expected,
            width, height, tiles_x, part.reshape(-1), alpha.reshape(-1), through.reshape(-1),
            last.reshape(-1),
        )  # fmt: skip
        if part is not image:
            image[..., first : first + used] = part[..., :used]
        layers.append(
            _Layer(first, padded, order, records, slots, starts, entries, behind, expected, part, alpha, through, last)
        )
    return layers


def _depth_order(radii: Tensor, depths: Tensor, residues: Tensor) -> np.ndarray:
    count = len(radii)
    rows, spare = np.empty((2, count), np.int32)
    keys, spare_keys = np.empty((2, count), np.uint32)
    histogram, found = np.zeros((bk.DIGITS, bk.RADIX), np.int64), np.zeros(1, np.int64)
    launch_whole(bk.depth_order, count, radii, depths, residues, rows, spare, keys, spare_keys, histogram, found)
    return rows[: found[0]]


def _bin(records: np.ndarray, tiles_x: int, tiles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counting sort of the records by tile: slots (M + 1,), starts (tiles + 1,), entries (slots, 2)."""
    bounds = even_bounds(len(records), pk.BLOCK)
    each = np.arange(len(bounds))
    counts = np.zeros((len(bounds) - 1, tiles), np.int32)
    slots, starts = np.empty(len(records) + 1, np.int64), np.empty(tiles + 1, np.int64)
    launch(bk.count_tiles, each, bounds, records, tiles_x, counts, slots)
    launch_whole(bk.tile_offsets, 1, counts, starts, slots)
    entries = np.empty((int(starts[-1]), 2), np.int32)
    launch(bk.fill_tiles, each, bounds, records, tiles_x, counts, slots, entries)
    return slots, starts, entries


def _layer_backward(
    layer: _Layer, request: Request, conics: Tensor, opacities: Tensor, v_image: np.ndarray,
    v_alpha: np.ndarray, outputs: tuple[np.ndarray, ...],
) -> None:  # fmt: skip
    """Add one layer's gradients to the outputs of `blend_kernels.gather_slots`."""
    used = min(layer.padded, v_image.shape[-1] - layer.first)
    if used != layer.padded or v_image.shape[-1] != layer.padded:
        part = np.zeros((*v_image.shape[:2], layer.padded), np.float32)
        part[..., :used] = v_image[..., layer.first : layer.first + used]
        v_image = part
    if layer.first > 0:
        v_alpha = np.zeros_like(v_alpha)  # alpha is the same in every pass; its gradient counts once
    sums = np.empty((len(layer.entries), tk.MOMENTS + layer.padded), np.float32)
    pictures = [p.reshape(-1) for p in (layer.image, layer.alpha, layer.through, layer.last, v_image, v_alpha)]
    launch(
        tk.blend_backward_kernel(layer.padded, request.absgrad), cost_bounds(layer.starts), layer.records,
        layer.starts, layer.entries, layer.background, layer.expected, request.width, request.height,
        -(-request.width // bk.TILE), *pictures, sums,
    )  # fmt: skip
    launch(
        tk.gather_slots, even_bounds(len(layer.order), pk.BLOCK), layer.order, layer.slots, sums, conics, opacities,
        layer.first, request.with_depth, *outputs,
    )  # fmt: skip
