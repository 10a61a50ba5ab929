"""The numba rasteriser as three autograd functions: project, colours from spherical harmonics, blend.

They are separate so that `info["means2d"]` is a tensor of the graph, whose gradient densification reads.
"""

from __future__ import annotations

import math
from array import array
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
from dyn4d.raster.threads import Job, even_bounds, launch, launch_all, launch_whole, numbered, shared, whole


def draw(request: Request) -> Drawn:
    """See `rasterization`."""
    views, Ks = request.viewmats.tolist(), request.Ks.tolist()
    sums: list[float] = [sum(map(sum, matrix)) for matrix in (*views, *Ks)]
    for given in (request.backgrounds, request.colors if request.sh_degree is None else None):
        if given is not None:
            sums.append(float(given.detach().sum(dtype=torch.float64)))
    if not math.isfinite(sum(sums)):
        request.check_finite()  # the kernels look at the rest
    cameras = [_camera(view, K, request) for view, K in zip(views, Ks)]
    means2d, depths, conics, compensations, radii, residues = _Project.apply(
        request.means,
        torch.empty(0, 4) if request.quats is None else request.quats,
        torch.empty(0, 3) if request.scales is None else request.scales,
        torch.empty(0, 3, 3) if request.covars is None else request.covars,
        request.viewmats, request.opacities.detach(), cameras, request,
    )  # type: ignore[misc]  # fmt: skip
    orders = [_Order(*(t[c] for t in (radii, depths.detach(), residues))) for c in range(request.cameras)]
    sorts = [order.job for order in orders]
    opacities = request.opacities.unsqueeze(0)  # (1, N), or one row for each camera
    if request.antialiased:
        opacities = opacities * compensations
    if request.with_color and request.sh_degree is not None:
        coefficients = request.colors if request.colors.dim() == 4 else request.colors.unsqueeze(0)
        # colours of degree 0 are the same from everywhere
        centres = request.camera_centres() if request.sh_degree > 0 else request.viewmats.detach()[:, :3, 3]
        colors = _HarmonicColors.apply(
            request.means, centres, coefficients, radii, sorts, request
        )  # type: ignore[misc]  # fmt: skip
    else:
        launch_all(sorts)
        colors = request.colors if request.with_color else request.means.new_zeros(len(request.means), 0)
        colors = colors if colors.dim() == 3 else colors.unsqueeze(0)
    backgrounds = request.backgrounds if request.with_color else None
    rows = [order.rows() for order in orders]
    renders, alphas = _Blend.apply(
        means2d, depths, conics, opacities, colors, backgrounds, rows, request
    )  # type: ignore[misc]  # fmt: skip
    shown = opacities.expand(request.cameras, -1)
    info = make_info(request, means2d=means2d, radii=radii, depths=depths, conics=conics, opacities=shown)
    return renders, alphas, info


class _Order:
    """The rows of a camera's drawn Gaussians, nearest first, once `job` has been done.

    Sorting is not divided, as it would be over in too many short turns of all threads; but it need not be alone.
    """

    def __init__(self, radii: Tensor, depths: Tensor, residues: Tensor) -> None:
        count = len(radii)
        self._rows, spare = torch.empty(count, dtype=torch.int32), torch.empty(3, count, dtype=torch.int32)
        self._found, histogram = torch.zeros(1, dtype=torch.int64), torch.zeros(bk.DIGITS, bk.RADIX, dtype=torch.int64)
        given = radii, _table(depths), residues
        self.job = whole(bk.depth_order, count, *given, self._rows, *spare, histogram, self._found)

    def rows(self) -> Tensor:
        return self._rows[: int(self._found)]


def _zeros(*shape: int) -> Tensor:
    """torch would fill a large tensor in all threads: more waiting than work where a core is busy."""
    return torch.from_numpy(np.zeros(shape, np.float32))


def _table(value: Tensor) -> Tensor:
    """(N, ...) as rows of numbers."""
    value = value.contiguous()
    return value if value.ndim == 2 else value.view(value.shape[0], math.prod(value.shape[1:]))


def _of(each: Any, camera: int) -> Any:
    """The entry of a camera, where there is one for each or one for all."""
    return each[min(camera, len(each) - 1)]


def _camera(view: list[list[float]], K: list[list[float]], request: Request) -> Tensor:
    """The numbers that `projection_kernels.project` reads of one camera."""
    fx, fy = np.float64(K[0][0]), np.float64(K[1][1])  # Python's own division by 0 is an error
    cx, cy = K[0][2], K[1][2]
    width, height = request.width, request.height
    pad_x, pad_y = 0.15 * width / fx, 0.15 * height / fy  # as in reference.project
    numbers = [
        *view[0][:3], *view[1][:3], *view[2][:3], view[0][3], view[1][3], view[2][3], fx, fy, cx, cy,
        -(cx / fx + pad_x), (width - cx) / fx + pad_x, -(cy / fy + pad_y), (height - cy) / fy + pad_y,
        request.near_plane, request.far_plane, request.radius_clip, request.eps2d, width, height,
    ]  # fmt: skip
    return torch.tensor(numbers, dtype=torch.float64)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, covars: Tensor, viewmats: Tensor, opacities: Tensor,
        cameras: list[Tensor], request: Request,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        views, count = len(cameras), means.shape[0]
        inputs = [_table(t) for t in (means, quats, scales, covars, opacities)]
        means2d, depths = torch.empty(views, count, 2), torch.empty(views, count)
        conics, compensations = torch.empty(views, count, 3), torch.empty(views, count)
        radii, residues = torch.empty(views, count, 2, dtype=torch.int32), torch.empty(views, count, 1)
        bounds, flag = even_bounds(count, pk.BLOCK), torch.zeros(1, dtype=torch.int64)
        jobs = []
        for c in range(views):
            outputs = [_table(t[c]) for t in (means2d, depths, residues, conics, compensations, radii)]
            given = len(covars) > 0, *inputs, cameras[c], request.antialiased
            jobs.append((pk.project, bounds, (*given, *outputs, flag)))
        launch_all(jobs)
        if flag.item():
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
        totals = [torch.empty_like(value) for value in inputs]
        v_viewmats = torch.zeros(len(ctx.cameras), 4, 4) if ctx.needs_input_grad[4] else None
        bounds = even_bounds(count, pk.BLOCK)
        for c, camera in enumerate(ctx.cameras):
            parts = totals if c == 0 else [torch.empty_like(value) for value in inputs]
            v_pose = torch.empty(-(-count // pk.BLOCK), 12, dtype=torch.float64)
            slopes = [
                _zeros(count, width) if g is None else _table(g[c]) for g, width in zip(grads, (2, 1, 3, 1))
            ]  # fmt: skip
            launch(
                pk.project_backward, bounds, len(given[3]) > 0, *inputs, camera, radii[c], *slopes, *parts, v_pose,
            )  # fmt: skip
            if c > 0:
                for total, part in zip(totals, parts):
                    total += part
            if v_viewmats is not None:
                pose = _sum(v_pose)
                v_viewmats[c, :3, :3], v_viewmats[c, :3, 3] = pose[:9].view(3, 3), pose[9:]
        v_means, v_quats, v_scales, v_covars = (t.view(g.shape) for t, g in zip(totals, given))
        return v_means, v_quats, v_scales, v_covars, v_viewmats, None, None, None


def _sum(rows: Tensor) -> Tensor:
    """Of all rows, as float32. NumPy adds them in an order that no number of threads changes."""
    return torch.from_numpy(rows.numpy().sum(0)).float()


class _HarmonicColors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, centres: Tensor, coefficients: Tensor, radii: Tensor, sorts: list[Job],
        request: Request,
    ) -> Tensor:  # fmt: skip
        """Also does the `sorts`."""
        views, count, degree = centres.shape[0], means.shape[0], request.sh_degree
        colors, flag = torch.empty(views, count, 3), torch.zeros(1, dtype=torch.int64)
        bounds, table = even_bounds(count, hk.BLOCK), _table(means)
        jobs = []
        for c in range(views):
            given = table, centres[c].contiguous(), _table(_of(coefficients, c)), radii[c]
            jobs.append((hk.colors_kernel(degree), bounds, (*given, colors[c], flag)))
        launch_all([*sorts, *jobs])
        if flag.item():
            request.check_finite()
        ctx.save_for_backward(means, centres, coefficients, radii, colors)
        ctx.degree = degree
        return colors

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means, centres, coefficients, radii, colors = ctx.saved_tensors
        count, degree, table = len(means), ctx.degree, _table(means)
        used, sides = (degree + 1) ** 2, len(coefficients)
        make = torch.empty if used == coefficients.shape[2] else _zeros  # only what the degree uses is written
        bounds = even_bounds(count, hk.BLOCK)
        v_sh: list[Tensor] = []
        v_means = None
        v_centres = torch.zeros_like(centres) if ctx.needs_input_grad[1] else None
        for c in range(len(centres)):
            part, part_means = make(count, 3 * coefficients.shape[2]), torch.empty(count, 3)
            v_centre = torch.zeros(-(-count // hk.BLOCK), 3, dtype=torch.float64)
            launch(
                hk.colors_backward_kernel(degree), bounds, table, centres[c].contiguous(),
                _table(_of(coefficients, c)), radii[c], colors[c], _table(grads[0][c]), part, part_means, v_centre,
            )  # fmt: skip
            if degree > 0:
                v_means = part_means if v_means is None else v_means.add_(part_means)
                if v_centres is not None:
                    v_centres[c] = _sum(v_centre)
            if c < sides:
                v_sh.append(part)
            else:
                v_sh[-1] += part
        total = v_sh[0] if sides == 1 else torch.stack(v_sh)
        return v_means, v_centres, total.view(coefficients.shape), None, None, None


@dataclass(frozen=True)
class _Layer:
    """One camera, up to eight channels: what the backward pass needs again.

    Attributes:
        first: the first channel. padded: channels that the kernels drew.
        order: drawn Gaussians, nearest first. records, slots, starts, entries: see the kernels.
        bounds: ranges of tiles of nearly equal cost.
        image: what was drawn, where one channel is divided by alpha (`expected`) and it is not the whole picture.
        through: 1 - alpha without its rounding. last: see `blend_kernels.blend_kernel`.
    """

    first: int
    padded: int
    order: Tensor
    records: Tensor
    slots: Tensor
    starts: Tensor
    entries: Tensor
    bounds: array[int]
    background: Tensor
    expected: int
    image: Tensor | None
    through: Tensor
    last: Tensor


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
        backgrounds: Tensor | None, orders: list[Tensor], request: Request,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        views = means2d.shape[0]
        channels = colors.shape[-1] + int(request.with_depth)
        renders = torch.empty(views, request.height, request.width, channels)
        alphas = torch.empty(views, request.height, request.width, 1)
        ctx.layers = []
        for c, order in enumerate(orders):
            geometry = [_table(t) for t in (means2d[c], conics[c], _of(opacities, c), _of(colors, c), depths[c])]
            background = None if backgrounds is None else backgrounds[c]
            ctx.layers.append(_draw_view(request, geometry, order, background, renders[c], alphas[c]))
        drawn = (renders, alphas) if request.expected_depth else ()  # torch watches whether they are changed
        ctx.save_for_backward(means2d, conics, opacities, colors, *drawn)
        ctx.request = request
        ctx.means2d = means2d if request.absgrad else None
        return renders, alphas

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means2d, conics, opacities, colors, *drawn = ctx.saved_tensors
        request: Request = ctx.request
        views, count = means2d.shape[:2]
        v_renders, v_alphas = grads[0].contiguous(), grads[1].contiguous()
        v_means2d, v_depths = torch.empty(views, count, 2), torch.empty(views, count, 1)
        v_conics, v_opacities = torch.empty(views, count, 3), torch.empty(len(opacities), count, 1)
        v_colors, v_abs = torch.empty(colors.shape), torch.empty(views, count if request.absgrad else 0, 2)
        totals = [t.view(-1) for t in (v_means2d, v_depths, v_conics, v_opacities, v_colors, v_abs)]
        clears = [(bk.clear, even_bounds(t.shape[0], each=1), (t,)) for t in totals]
        for c in range(views):
            outputs = (v_means2d[c], v_conics[c], _of(v_opacities, c), _of(v_colors, c), v_depths[c], v_abs[c])
            geometry = _table(conics[c]), _table(_of(opacities, c))
            for layer in ctx.layers[c]:
                pictures = [t[c] for t in (v_renders, v_alphas, *drawn)]
                _layer_backward(layer, request, clears, geometry, pictures, outputs)
                clears = []
        if request.absgrad:
            ctx.means2d.absgrad = v_abs
        v_backgrounds = None
        if ctx.needs_input_grad[5]:
            through = torch.stack([layers[0].through for layers in ctx.layers])[..., None]
            v_backgrounds = v_renders[..., : colors.shape[-1]] * through
            v_backgrounds = torch.from_numpy(v_backgrounds.numpy().sum((1, 2)))
        flat = (v_means2d, v_depths[..., 0], v_conics, v_opacities[..., 0], v_colors)
        return (*flat, v_backgrounds, None, None)


def _draw_view(
    request: Request, geometry: list[Tensor], order: Tensor, background: Tensor | None, image: Tensor, alpha: Tensor
) -> list[_Layer]:
    """Blend one camera's Gaussians into image (H, W, X) and alpha (H, W, 1). Geometry: means2d, conics, opacities,
    colors, depths."""
    width, height, channels = request.width, request.height, image.shape[-1]
    tiles_x, tiles_y = -(-width // bk.TILE), -(-height // bk.TILE)
    numbers, parts = numbered(even_bounds(len(order), pk.BLOCK))
    counts, slots = torch.empty(len(numbers) - 1, tiles_x * tiles_y, dtype=torch.int32), _integers(len(order) + 1)
    starts, entries, bounds = _integers(counts.shape[1] + 1), counts, even_bounds(counts.shape[1])
    layers = []
    for first, used, padded in _split(channels):
        records = torch.empty(len(order), bk.RECORD + padded)
        launch(
            bk.make_records, numbers, parts, order, *geometry, first, request.with_depth, width, height, records,
            counts if first == 0 else counts[:0], slots,
        )  # fmt: skip
        if first == 0:  # a counting sort by tile
            launch_whole(bk.tile_offsets, 1, counts, starts, slots, shared(bounds))
            entries = torch.empty(int(starts[-1]), 2, dtype=torch.int32)
            launch(bk.fill_tiles, numbers, parts, records, tiles_x, counts, slots, entries)
        behind = torch.zeros(padded)
        if background is not None:
            some = background[first : first + padded]
            behind[: len(some)] = some
        expected = used - 1 if request.expected_depth and first + used == channels else -1
        part = image if used == channels == padded else torch.empty(height, width, padded)
        through, last = torch.empty(height, width), torch.empty(height, width)
        launch(
            tk.blend_kernel(padded), bounds, records, starts, entries, behind, expected, width, height, tiles_x,
            *(t.view(-1) for t in (part, alpha, through, last)),
        )  # fmt: skip
        if part is not image:
            image[..., first : first + used] = part[..., :used]
        kept = part if part is not image and expected >= 0 else None
        layers.append(
            _Layer(first, padded, order, records, slots, starts, entries, bounds, behind, expected, kept, through, last)
        )
    return layers


def _integers(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int64)


def _layer_backward(
    layer: _Layer, request: Request, first: list[Job], geometry: tuple[Tensor, Tensor], pictures: list[Tensor],
    outputs: tuple[Tensor, ...],
) -> None:  # fmt: skip
    """Add one layer's gradients to the outputs of `blend_kernels.gather_slots`, after doing what comes `first`.
    Geometry: conics, opacities. Pictures: v_image, v_alpha and, if depth is divided by alpha, image and alpha."""
    v_image, v_alpha, *drawn = pictures
    used = min(layer.padded, v_image.shape[-1] - layer.first)
    if used != layer.padded or v_image.shape[-1] != layer.padded:
        part = _zeros(*v_image.shape[:2], layer.padded)
        part[..., :used] = v_image[..., layer.first : layer.first + used]
        v_image = part
    if layer.first > 0:
        v_alpha = _zeros(*v_alpha.shape)  # alpha is the same in every pass; its gradient counts once
    image, alpha = v_image, v_alpha  # any numbers will do: the pictures only matter where one is divided by the other
    if layer.expected >= 0:
        image, alpha = drawn if layer.image is None else (layer.image, drawn[1])
    sums = torch.empty(len(layer.entries), tk.MOMENTS + layer.padded)
    flat = [t.view(-1) for t in (image, alpha, layer.through, layer.last, v_image, v_alpha)]
    arguments = (
        layer.records, layer.starts, layer.entries, layer.background, layer.expected, request.width, request.height,
        -(-request.width // bk.TILE), *flat, sums,
    )  # fmt: skip
    launch_all([*first, (tk.blend_backward_kernel(layer.padded, request.absgrad), layer.bounds, arguments)])
    launch(
        tk.gather_slots, even_bounds(len(layer.order), pk.BLOCK), layer.order, layer.slots, sums, *geometry,
        layer.first, request.with_depth, *outputs,
    )  # fmt: skip
