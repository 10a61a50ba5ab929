"""Depth that was estimated holds the points less firmly than depth that was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_fit import QUICK, Scene

from dyn4d.core.types import LiftedPairs
from dyn4d.deformation.config import DeformationConfig
from dyn4d.deformation.losses import less_along


def test_only_what_lies_along_the_line_of_sight_is_made_less() -> None:
    generator = torch.Generator().manual_seed(0)
    off = torch.randn(2, 9, 3, generator=generator)
    sight = torch.nn.functional.normalize(torch.randn(2, 9, 3, generator=generator), dim=-1)
    less = less_along(off, sight, 0.1)
    assert torch.allclose((less * sight).sum(-1), 0.1 * (off * sight).sum(-1), atol=1e-6)
    across = torch.linalg.cross(off, sight)
    assert torch.allclose(torch.linalg.cross(less, sight), across, atol=1e-5)
    assert torch.allclose(less_along(off, sight, 1.0), off)


def test_how_much_depth_is_trusted() -> None:
    usual = DeformationConfig()
    assert usual.trust(None) == 1.0 and usual.trust(0.03) == 0.1
    asked = replace(usual, depth_trust=0.4)
    assert asked.trust(None) == asked.trust(0.03) == 0.4
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="depth_trust"):
            DeformationConfig(depth_trust=wrong)


def test_depth_that_jumps_from_frame_to_frame_shakes_the_paths_less() -> None:
    scene = Scene()
    eye = scene.camera.world_from_cam[0, :3, 3]
    generator = torch.Generator().manual_seed(2)
    factor = 1 + 0.04 * torch.randn(len(scene.times), generator=generator)

    def jumped(xyz: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        return eye + (xyz - eye) * factor[frame][:, None]

    pairs = scene.pairs
    scene.pairs = LiftedPairs(
        frame_a=pairs.frame_a, frame_b=pairs.frame_b, xyz_a=jumped(pairs.xyz_a, pairs.frame_a),
        xyz_b=jumped(pairs.xyz_b, pairs.frame_b), weight=pairs.weight,
    )  # fmt: skip
    scene.points = replace(scene.points, xyz=jumped(scene.points.xyz, scene.points.frame))
    shaken = []
    for trust in (1.0, 0.1):
        field = scene.fit(replace(QUICK, depth_trust=trust)).field
        paths = torch.stack([field.transport(scene.world[0], 0.0, float(t)) for t in scene.times])
        away = (paths - eye).norm(dim=-1)
        shaken.append(float((away[:-2] - 2 * away[1:-1] + away[2:]).abs().mean().detach()))
    assert shaken[1] < 0.8 * shaken[0]
