"""What a backend is asked to draw, checked once so that the backends need not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dyn4d.core.checks import check_shape
from dyn4d.raster.sh import MAX_DEGREE

RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
RASTERIZE_MODES = ("classic", "antialiased")

Drawn = tuple[Tensor, Tensor, dict[str, Any]]  # renders (C, H, W, X), alphas (C, H, W, 1), info


@dataclass(frozen=True)
class Request:
    """The arguments of `rasterization` that all backends understand; see there for meaning and shapes.

    Either `covars`, or `quats` and `scales`, is set.
    """

    means: Tensor
    quats: Tensor | None
    scales: Tensor | None
    covars: Tensor | None
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    backgrounds: Tensor | None
    width: int
    height: int
    near_plane: float
    far_plane: float
    radius_clip: float
    eps2d: float
    sh_degree: int | None
    render_mode: str
    absgrad: bool
    antialiased: bool

    def __post_init__(self) -> None:
        self._check_numbers()
        sizes: dict[str, int] = {}
        check_shape("means", self.means, ("N", 3), sizes)
        check_shape("opacities", self.opacities, ("N",), sizes)
        if self.covars is not None:
            check_shape("covars", self.covars, ("N", 3, 3), sizes)
        else:
            if self.quats is None or self.scales is None:
                raise ValueError("rasterization: give quats and scales, or covars")
            check_shape("quats", self.quats, ("N", 4), sizes)
            check_shape("scales", self.scales, ("N", 3), sizes)
        check_shape("viewmats", self.viewmats, ("C", 4, 4), sizes)
        if sizes["C"] == 0:
            raise ValueError("viewmats: wanted at least one camera, found none")
        check_shape("Ks", self.Ks, ("C", 3, 3), sizes)
        self._check_colors(sizes)
        self._check_kind()

    def _check_numbers(self) -> None:
        if self.render_mode not in RENDER_MODES:
            raise ValueError(f"render_mode: {self.render_mode!r} is none of {', '.join(RENDER_MODES)}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"width, height: wanted at least 1, found {self.width} x {self.height}")
        if self.sh_degree is not None and not 0 <= self.sh_degree <= MAX_DEGREE:
            raise ValueError(f"sh_degree: wanted 0 to {MAX_DEGREE}, found {self.sh_degree}")

    def _check_colors(self, sizes: dict[str, int]) -> None:
        if self.sh_degree is None:
            shape: tuple[int | str | None, ...] = ("N", "D")
        else:
            shape = ("N", "K", 3)
        per_camera = self.colors.dim() == len(shape) + 1
        check_shape("colors", self.colors, ("C", *shape) if per_camera else shape, sizes)
        if self.sh_degree is not None:
            sizes["D"] = 3
            if sizes["K"] < (self.sh_degree + 1) ** 2:
                raise ValueError(
                    f"colors: sh_degree {self.sh_degree} needs {(self.sh_degree + 1) ** 2} coefficients, "
                    f"found {sizes['K']}"
                )
        if self.backgrounds is not None and self.with_color:
            check_shape("backgrounds", self.backgrounds, ("C", "D"), sizes)

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors that were given, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def check_finite(self) -> None:
        """Raise a ValueError that names the first tensor with a number that is not finite."""
        tensors = self._tensors()
        with torch.no_grad():  # one number that is not finite makes the sum so; and one look at the device is enough
            if bool(torch.isfinite(torch.stack([value.sum() for value in tensors.values()]).sum())):
                return
        for name, value in tensors.items():
            bad = torch.nonzero(~torch.isfinite(value))
            if len(bad):
                where = ", ".join(str(int(i)) for i in bad[0])
                number = float(value[tuple(bad[0])])
                raise ValueError(f"{name}: {len(bad)} numbers are not finite; the first is {number} at [{where}]")

    def _check_kind(self) -> None:
        for name, value in self._tensors().items():
            if value.dtype != self.means.dtype or value.device != self.means.device:
                raise ValueError(
                    f"{name}: is {value.dtype} on {value.device}, means is {self.means.dtype} on {self.means.device}; "
                    "all tensors must agree"
                )
        if not self.means.dtype.is_floating_point:
            raise ValueError(f"means: wanted a floating point tensor, found {self.means.dtype}")

    @property
    def cameras(self) -> int:
        return self.viewmats.shape[0]

    @property
    def with_color(self) -> bool:
        """Does the result have colour channels?"""
        return self.render_mode.startswith("RGB")

    @property
    def with_depth(self) -> bool:
        """Does the result have a depth channel (the last)?"""
        return self.render_mode.endswith("D")

    @property
    def expected_depth(self) -> bool:
        """Is the depth divided by the alpha?"""
        return self.render_mode.endswith("ED")

    def camera_centres(self) -> Tensor:
        """(C, 3) where the cameras are in the world, differentiable in `viewmats`."""
        return torch.linalg.inv(self.viewmats)[:, :3, 3]


def make_info(request: Request, **values: Any) -> dict[str, Any]:
    """gsplat's `info` in the layout of packed=False: everything is (C, N, ...)."""
    return {
        "batch_ids": None,
        "camera_ids": None,
        "gaussian_ids": None,
        **values,
        "width": request.width,
        "height": request.height,
        "tile_size": 16,
        "n_batches": 1,
        "n_cameras": request.cameras,
    }
