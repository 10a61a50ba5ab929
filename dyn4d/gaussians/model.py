"""The trainable Gaussians: raw parameters, their activations, their optimiser, and the one place that changes rows."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from dyn4d.core.types import GaussianCloud
from dyn4d.gaussians.config import GaussiansConfig

NAMES = ("means", "quats", "log_scales", "logit_opacities", "sh_dc", "sh_rest")


class GaussianModel(nn.Module):
    """Gaussians in canonical space, as unconstrained parameters.

    scales = exp(log_scales), opacities = sigmoid(logit_opacities), as in 3DGS (Kerbl et al., 2023).
    """

    means: nn.Parameter
    quats: nn.Parameter
    log_scales: nn.Parameter
    logit_opacities: nn.Parameter
    sh_dc: nn.Parameter
    sh_rest: nn.Parameter

    def __init__(self, raw: dict[str, Tensor]) -> None:
        super().__init__()
        for name in NAMES:
            setattr(self, name, nn.Parameter(raw[name].detach().clone().contiguous()))

    @staticmethod
    def from_cloud(cloud: GaussianCloud, sh_degree: int) -> GaussianModel:
        bands = (sh_degree + 1) ** 2
        sh = torch.zeros(len(cloud), bands, 3, device=cloud.means.device)
        shared = min(bands, cloud.sh.shape[1])
        sh[:, :shared] = cloud.sh[:, :shared]
        return GaussianModel(
            {
                "means": cloud.means,
                "quats": cloud.quats_wxyz,
                "log_scales": cloud.scales.clamp_min(1e-9).log(),
                "logit_opacities": torch.logit(cloud.opacities.clamp(1e-4, 1 - 1e-4)),
                "sh_dc": sh[:, :1],
                "sh_rest": sh[:, 1:],
            }
        )

    def __len__(self) -> int:
        return self.means.shape[0]

    def cloud(self, sh_degree: int | None = None) -> GaussianCloud:
        """The Gaussians with activated values, differentiable; colours up to `sh_degree`, or all."""
        rest = self.sh_rest if sh_degree is None else self.sh_rest[:, : (sh_degree + 1) ** 2 - 1]
        return GaussianCloud(
            means=self.means,
            quats_wxyz=self.quats,
            scales=self.log_scales.exp(),
            opacities=torch.sigmoid(self.logit_opacities),
            sh=torch.cat([self.sh_dc, rest], dim=1) if rest.shape[1] else self.sh_dc,
        )

    def raw(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).detach() for name in NAMES}


def build_optimiser(model: GaussianModel, config: GaussiansConfig, half_size: float) -> torch.optim.Adam:
    """Adam with one group a parameter, named, so that rows can be changed group by group."""
    rates = {
        "means": config.lr_means * half_size,
        "quats": config.lr_quat,
        "log_scales": config.lr_scale,
        "logit_opacities": config.lr_opacity,
        "sh_dc": config.lr_sh,
        "sh_rest": config.lr_sh / 20,
    }
    groups = [
        {"params": [getattr(model, name)], "lr": rates[name], "initial": rates[name], "name": name} for name in NAMES
    ]
    return torch.optim.Adam(groups, eps=1e-15, fused=True)


def change_rows(model: GaussianModel, optimiser: torch.optim.Adam, keep: Tensor, added: dict[str, Tensor]) -> None:
    """Drop all rows but `keep` (indices) and append `added`; Adam's moments follow, new rows start at zero."""
    for group in optimiser.param_groups:
        name = cast(str, group["name"])
        old: nn.Parameter = getattr(model, name)
        new = nn.Parameter(torch.cat([old.detach()[keep], added[name].to(old)]).contiguous())
        state = optimiser.state.pop(old, {})
        for key in ("exp_avg", "exp_avg_sq"):
            if key in state:
                zeros = torch.zeros_like(added[name], device=old.device)
                state[key] = torch.cat([state[key][keep], zeros]).contiguous()
        setattr(model, name, new)
        group["params"] = [new]
        if state:
            optimiser.state[new] = state
