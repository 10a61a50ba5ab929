"""The numba rasteriser as three autograd functions: project, colours from spherical harmonics, blend.

They are separate so that `info["means2d"]` is a tensor of the graph, whose gradient densification reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyn4d.raster import gaussian_kernels as gk
from dyn4d.raster import tile_kernels as tk
from dyn4d.raster.request import Drawn, Request, make_info
from dyn4d.raster.threads import cost_bounds, even_bounds, launch

WIDTHS = (4, 8)  # channel counts the blending kernels are compiled for; others are padded or split


def draw(request: Request) -> Drawn:
    """See `rasterization`."""
    empty = request.means.new_zeros(0)
    means2d, depths, conics, compensations, radii = _Project.apply(
        request.means,
        empty.reshape(0, 4) if request.quats is None else request.quats,
        empty.reshape(0, 3) if request.scales is None else request.scales,
        empty.reshape(0, 3, 3) if request.covars is None else request.covars,
        request.viewmats, request.Ks, request.opacities.detach(), request,
    )  # type: ignore[misc]  # fmt: skip
    opacities = request.opacities.expand(request.cameras, -1)
    if request.antialiased:
        opacities = opacities * compensations
    if not request.with_color:
        colors = request.means.new_zeros(1, len(request.means), 0)
    elif request.sh_degree is None:
        colors = request.colors if request.colors.dim() == 3 else request.colors.unsqueeze(0)
    else:
        coefficients = request.colors if request.colors.dim() == 4 else request.colors.unsqueeze(0)
        colors = _HarmonicColors.apply(
            request.means, request.camera_centres(), coefficients, radii, request.sh_degree
        )  # type: ignore[misc]  # fmt: skip
    backgrounds = request.backgrounds if request.with_color else None
    renders, alphas = _Blend.apply(
        means2d, depths, conics, opacities, colors, backgrounds, radii, request
    )  # type: ignore[misc]  # fmt: skip
    info = make_info(request, means2d=means2d, radii=radii, depths=depths, conics=conics, opacities=opacities)
    return renders, alphas, info


def _array(value: Tensor) -> np.ndarray:
    return value.detach().contiguous().numpy()


def _camera(viewmat: Tensor, K: Tensor, request: Request) -> np.ndarray:
    """The numbers that `gaussian_kernels.project_chunk` reads of one camera."""
    view, intrinsics = viewmat.detach().double().numpy(), K.detach().double().numpy()
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    width, height = request.width, request.height
    out = np.empty(gk.CAMERA, np.float64)
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
        inputs = [_array(t) for t in (means, quats, scales, covars)]
        cameras = [_camera(viewmats[c], Ks[c], request) for c in range(views)]
        means2d, depths = torch.empty(views, count, 2), torch.empty(views, count)
        conics, compensations = torch.empty(views, count, 3), torch.empty(views, count)
        radii = torch.empty(views, count, 2, dtype=torch.int32)
        outputs = [t.numpy() for t in (means2d, depths, conics, compensations, radii)]
        bounds = even_bounds(count, gk.BLOCK)
        for c in range(views):
            launch(
                gk.project_chunk, gk.project_parallel, bounds, *inputs, _array(opacities), cameras[c],
                request.antialiased, *[value[c] for value in outputs],
            )  # fmt: skip
        ctx.save_for_backward(means, quats, scales, covars, radii)
        ctx.cameras = cameras
        ctx.mark_non_differentiable(radii)
        return means2d, depths, conics, compensations, radii

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means, quats, scales, covars, radii = ctx.saved_tensors
        inputs = [_array(t) for t in (means, quats, scales, covars)]
        seen = radii.numpy()
        v_means2d, v_depths, v_conics, v_compensations = (_array(g) for g in grads[:4])
        totals = [np.zeros_like(value) for value in inputs]
        v_viewmats = torch.zeros(len(ctx.cameras), 4, 4)
        bounds = even_bounds(len(means), gk.BLOCK)
        for c, camera in enumerate(ctx.cameras):
            parts = totals if c == 0 else [np.zeros_like(value) for value in inputs]
            v_pose = np.zeros((-(-len(means) // gk.BLOCK), 12), np.float64)
            launch(
                gk.project_backward_chunk, gk.project_backward_parallel, bounds, *inputs, camera, seen[c],
                v_means2d[c], v_depths[c], v_conics[c], v_compensations[c], *parts, v_pose,
            )  # fmt: skip
            if c > 0:
                for total, part in zip(totals, parts):
                    total += part
            pose = torch.from_numpy(v_pose.sum(0))
            v_viewmats[c, :3, :3], v_viewmats[c, :3, 3] = pose[:9].reshape(3, 3).float(), pose[9:].float()
        v_means, v_quats, v_scales, v_covars = (torch.from_numpy(t) for t in totals)
        return v_means, v_quats, v_scales, v_covars, v_viewmats, None, None, None


class _HarmonicColors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, centres: Tensor, coefficients: Tensor, radii: Tensor, degree: int
    ) -> Tensor:  # fmt: skip
        views, count = centres.shape[0], means.shape[0]
        colors = torch.empty(views, count, 3)
        out, sh, where, seen = colors.numpy(), _array(coefficients), _array(centres), radii.numpy()
        for c in range(views):
            launch(
                gk.sh_chunk, gk.sh_parallel, even_bounds(count, gk.BLOCK), degree, _array(means), where[c],
                sh[min(c, len(sh) - 1)], seen[c], out[c],
            )  # fmt: skip
        ctx.save_for_backward(means, centres, coefficients, radii, colors)
        ctx.degree = degree
        return colors

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means, centres, coefficients, radii, colors = ctx.saved_tensors
        sh, where, seen, v_colors = _array(coefficients), _array(centres), radii.numpy(), _array(grads[0])
        count = len(means)
        v_means, v_sh, v_centres = np.zeros((count, 3), np.float32), np.zeros_like(sh), torch.zeros_like(centres)
        for c in range(len(where)):
            which = min(c, len(sh) - 1)
            alone = c == which and c == 0  # the first camera writes straight into the result
            part_means = v_means if c == 0 else np.empty_like(v_means)
            part_sh = v_sh[which] if alone or c == which else np.empty_like(v_sh[which])
            v_centre = np.zeros((-(-count // gk.BLOCK), 3), np.float64)
            launch(
                gk.sh_backward_chunk, gk.sh_backward_parallel, even_bounds(count, gk.BLOCK), ctx.degree, _array(means),
                where[c], sh[which], seen[c], colors.numpy()[c], v_colors[c], part_sh, part_means, v_centre,
            )  # fmt: skip
            if part_means is not v_means:
                v_means += part_means
            if c != which:
                v_sh[which] += part_sh
            v_centres[c] = torch.from_numpy(v_centre.sum(0)).float()
        return torch.from_numpy(v_means), v_centres, torch.from_numpy(v_sh), None, None


@dataclass(frozen=True)
class _Layer:
    """One camera, up to eight channels: what the backward pass needs again.

    Attributes:
        first: the first channel. dims: a tuple as long as the channels, padding included.
        order: drawn Gaussians, nearest first. records, boxes, slots, starts, ids: see the kernels.
        image, alpha, last: what was drawn.
    """

    first: int
    dims: tuple[int, ...]
    order: np.ndarray
    records: np.ndarray
    boxes: np.ndarray
    slots: np.ndarray
    starts: np.ndarray
    ids: np.ndarray
    background: np.ndarray
    expected: int
    image: np.ndarray
    alpha: np.ndarray
    last: np.ndarray


def _split(channels: int) -> list[tuple[int, int, int]]:
    """(first channel, channels, compiled width) of each pass."""
    out = []
    for first in range(0, channels, WIDTHS[-1]):
        count = min(channels - first, WIDTHS[-1])
        out.append((first, count, next(w for w in WIDTHS if w >= count)))
    return out or [(0, 0, 1)]


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, depths: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor,
        backgrounds: Tensor | None, radii: Tensor, request: Request,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        views = len(means2d)
        channels = colors.shape[-1] + int(request.with_depth)
        renders = torch.empty(views, request.height, request.width, channels)
        alphas = torch.empty(views, request.height, request.width, 1)
        geometry = [_array(t) for t in (means2d, conics, opacities)]
        values, behind = _array(colors), None if backgrounds is None else _array(backgrounds)
        ctx.layers = []
        for c in range(views):
            layers = _draw_view(
                request, [g[c] for g in geometry], values[min(c, len(values) - 1)], _array(depths)[c], radii.numpy()[c],
                None if behind is None else behind[c], renders.numpy()[c], alphas.numpy()[c, ..., 0],
            )  # fmt: skip
            ctx.layers.append(layers)
        ctx.save_for_backward(means2d, conics, opacities, colors, alphas)
        ctx.request = request
        ctx.means2d = means2d if request.absgrad else None
        return renders, alphas

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means2d, conics, opacities, colors, alphas = ctx.saved_tensors
        request: Request = ctx.request
        views, count = means2d.shape[:2]
        v_renders, v_alphas = _array(grads[0]), _array(grads[1])[..., 0]
        v_means2d, v_depths = np.zeros((views, count, 2), np.float32), np.zeros((views, count), np.float32)
        v_conics, v_opacities = np.zeros((views, count, 3), np.float32), np.zeros((views, count), np.float32)
        v_colors = np.zeros(colors.shape, np.float32)
        v_abs = np.zeros((views, count if request.absgrad else 0, 2), np.float32)
        for c in range(views):
            outputs = (
                v_means2d[c], v_conics[c], v_opacities[c], v_colors[min(c, len(v_colors) - 1)], v_depths[c], v_abs[c]
            )  # fmt: skip
            for layer in ctx.layers[c]:
                _layer_backward(
                    layer, request, _array(conics)[c], _array(opacities)[c], v_renders[c], v_alphas[c], outputs
                )  # fmt: skip
        if request.absgrad:
            ctx.means2d.absgrad = torch.from_numpy(v_abs)
        v_backgrounds = None
        if ctx.needs_input_grad[5]:
            through = 1 - _array(alphas)
            v_backgrounds = torch.from_numpy((v_renders[..., : colors.shape[-1]] * through).sum((1, 2)))
        tensors = [torch.from_numpy(t) for t in (v_means2d, v_depths, v_conics, v_opacities, v_colors)]
        return (*tensors, v_backgrounds, None, None)


def _draw_view(
    request: Request, geometry: list[np.ndarray], colors: np.ndarray, depths: np.ndarray, radii: np.ndarray,
    background: np.ndarray | None, image: np.ndarray, alpha: np.ndarray,
) -> list[_Layer]:  # fmt: skip
    """Blend one camera's Gaussians into image (H, W, X) and alpha (H, W)."""
    means2d, conics, opacities = geometry
    width, height = request.width, request.height
    tiles_x, tiles_y = -(-width // tk.TILE), -(-height // tk.TILE)
    order = tk.depth_order(radii, depths)
    boxes = np.empty((len(order), 4), np.int32)
    slots = starts = ids = np.empty(0, np.int64)
    layers = []
    for first, used, padded in _split(image.shape[-1]):
        records = np.empty((len(order), tk.RECORD + padded), np.float32)
        launch(
            tk.record_chunk, tk.record_parallel, even_bounds(len(order), gk.BLOCK), order, means2d, conics, opacities,
            colors, depths, first, request.with_depth, width, height, records, boxes,
        )  # fmt: skip
        if first == 0:
            slots, starts, ids = _bin(boxes, tiles_x, tiles_y)
        behind = np.zeros(padded, np.float32)
        if background is not None:
            part = background[first : first + padded]
            behind[: len(part)] = part
        last_pass = first + used == image.shape[-1]
        expected = used - 1 if request.expected_depth and last_pass else -1
        part = image if used == image.shape[-1] == padded else np.empty((height, width, padded), np.float32)
        last = np.empty((height, width), np.int32)
        dims = (0,) * padded
        launch(
            tk.blend_chunk, tk.blend_parallel, cost_bounds(starts), dims, records, boxes, starts, ids, behind, expected,
            width, tiles_x, part, alpha, last,
        )  # fmt: skip
        if part is not image:
            image[..., first : first + used] = part[..., :used]
        layers.append(
            _Layer(first, dims, order, records, boxes, slots, starts, ids, behind, expected, part, alpha, last)
        )
    return layers


def _bin(boxes: np.ndarray, tiles_x: int, tiles_y: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counting sort of the records by tile: slots (M + 1,), starts (tiles + 1,), ids."""
    slots = tk.slot_offsets(boxes)
    bounds = even_bounds(tiles_y)
    counts = np.zeros(tiles_x * tiles_y + 1, np.int64)
    launch(tk.count_chunk, tk.count_parallel, bounds, boxes, tiles_x, counts)
    starts = np.cumsum(counts)
    ids = np.empty(int(starts[-1]), np.int32)
    launch(tk.fill_chunk, tk.fill_parallel, bounds, boxes, tiles_x, starts, ids)
    return slots, starts, ids


def _layer_backward(
    layer: _Layer, request: Request, conics: np.ndarray, opacities: np.ndarray, v_image: np.ndarray,
    v_alpha: np.ndarray, outputs: tuple[np.ndarray, ...],
) -> None:  # fmt: skip
    """Add one layer's gradients to the outputs of `tile_kernels.gather_chunk`."""
    padded = len(layer.dims)
    used = min(padded, v_image.shape[-1] - layer.first)
    if used != padded or v_image.shape[-1] != padded:
        part = np.zeros((*v_image.shape[:2], padded), np.float32)
        part[..., :used] = v_image[..., layer.first : layer.first + used]
        v_image = part
    if layer.first > 0:
        v_alpha = np.zeros_like(v_alpha)  # alpha is the same in every pass; its gradient counts once
    sums = np.empty((len(layer.ids), tk.MOMENTS + padded + 2), np.float32)
    tiles_x = -(-request.width // tk.TILE)
    launch(
        tk.blend_backward_chunk, tk.blend_backward_parallel, cost_bounds(layer.starts), layer.dims, layer.records,
        layer.boxes, layer.slots, layer.starts, layer.ids, layer.background, layer.expected, request.absgrad,
        request.width, tiles_x, layer.image, layer.alpha, layer.last, v_image, v_alpha, sums,
    )  # fmt: skip
    launch(
        tk.gather_chunk, tk.gather_parallel, even_bounds(len(layer.order), gk.BLOCK), layer.order, layer.slots, sums,
        conics, opacities, layer.first, request.with_depth, *outputs,
    )  # fmt: skip
