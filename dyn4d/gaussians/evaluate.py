"""How well the moved cloud redraws the input frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from dyn4d.core.protocols import Field, Progress
from dyn4d.core.types import Camera, Clip, GaussianCloud
from dyn4d.gaussians.metrics import iou, mpsnr, mpsnr_so_far, mssim, psnr
from dyn4d.gaussians.warp import move_cloud
from dyn4d.raster import rasterization


@torch.no_grad()
def input_metrics(
    clip: Clip,
    cloud: GaussianCloud,
    field: Field,
    cameras: Camera,
    background: tuple[float, float, float],
    *,
    gains: torch.Tensor | None = None,
    device: torch.device,
    progress: Progress,
) -> dict[str, Any]:
    """mPSNR and mSSIM inside the masks, PSNR over the frames, silhouette IoU: means and per frame, over the frames
    that have a pose and an object. What is drawn is what is exported: Gaussians at each frame's time.
    """
    rows: list[dict[str, Any]] = []
    views = cameras.cam_from_world.float()
    frames = [i for i in range(len(clip)) if bool(cameras.registered[i]) and np.asarray(clip.masks[i]).any()]
    progress.start("measuring", len(frames))
    for i in frames:
        moved = move_cloud(cloud, field, float(clip.times[i]))
        renders, alphas, _ = rasterization(
            means=moved.means,
            quats=moved.quats_wxyz,
            scales=moved.scales,
            opacities=moved.opacities,
            colors=moved.sh,
            sh_degree=moved.sh_degree,
            viewmats=views[i : i + 1].to(device),
            Ks=cameras.K[i : i + 1].float().to(device),
            width=clip.width,
            height=clip.height,
            backgrounds=torch.tensor([background], device=device),
            packed=False,
        )
        if gains is not None:  # of the frame (T, 3), on the object alone
            behind = (1 - alphas) * torch.tensor(background, device=device)
            renders = (renders - behind) * gains[i] + behind
        picture, alpha = renders[0].clamp(0, 1).cpu(), alphas[0, ..., 0].cpu()
        truth = torch.from_numpy(np.ascontiguousarray(clip.images[i])).float() / 255
        mask = torch.from_numpy(np.ascontiguousarray(clip.masks[i]))
        rows.append(
            {
                "frame": int(clip.frames[i]),
                "mpsnr": float(mpsnr(picture, truth, mask)),
                "mssim": float(mssim(picture, truth, mask)),
                "psnr": float(psnr(picture, truth)),
                "iou": float(iou(alpha, mask)),
            }
        )
        progress.update(**mpsnr_so_far(rows))
    progress.finish()
    means = {}
    for key in ("mpsnr", "mssim", "psnr", "iou"):
        values = [row[key] for row in rows if math.isfinite(row[key])]
        means[key] = sum(values) / len(values) if values else None
    return means | {"per_frame": rows}
