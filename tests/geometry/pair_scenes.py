"""Scenes with known cameras as a pair network would have seen them: `PairFrame` and `PairResult` for alignment tests.

`ball_truth` needs no file; `static_truth` and `turning_truth` read the reference scenes. `exact_predictions` makes
what a perfect network would say of any of them, `golden_predictions` what the reference scene's noisy one did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dyn4d.core.cameras import invert_rigid, look_at, pixel_grid, project, transform, unproject
from dyn4d.core.rotations import rotation_angle, similarity_fit
from dyn4d.core.types import PairPrediction
from dyn4d.geometry.pair_results import PairFrame, PairResult, PairResultList
from dyn4d.matching.image_size import InputView
from dyn4d.matching.reciprocal import extract_correspondences

Pair = tuple[int, int]
Matches = tuple[Tensor, Tensor, Tensor]  # xy_a (M, 2) int64, xy_b (M, 2) int64, weight (M,)


@dataclass(frozen=True)
class Truth:
    """A scene without motion seen by T cameras.

    Attributes:
        K: (T, 3, 3) and world_from_cam: (T, 4, 4) float64, half-integer pixel centres.
        depth: (T, H, W) float64 planar z.
        object_mask: (T, H, W) bool, one thing among what is seen.
    """

    K: Tensor
    world_from_cam: Tensor
    depth: Tensor
    object_mask: np.ndarray

    def __len__(self) -> int:
        return len(self.depth)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.depth.shape[1], self.depth.shape[2]

    @property
    def baseline(self) -> float:
        """Mean distance between the centres of neighbouring cameras."""
        return float(self.world_from_cam[:, :3, 3].diff(dim=0).norm(dim=-1).mean())

    def world_points(self, frame: int) -> Tensor:
        """(H · W, 3) float64 in the order of the pixels."""
        xy = pixel_grid(*self.size, dtype=torch.float64).reshape(-1, 2)
        return unproject(self.K[frame], self.world_from_cam[frame], xy, self.depth[frame].reshape(-1))


@dataclass(frozen=True)
class PairScene:
    """What a network said of a scene, and the truth."""

    frames: list[PairFrame]
    results: PairResultList
    truth: Truth

    def kept_depth(self, frame: int) -> Tensor:
        """(P,) float64 true depth of the kept pixels."""
        return self.truth.depth[frame].reshape(-1)[self.frames[frame].pixels]


def ball_truth(count: int = 4, height: int = 48, width: int = 64, arc_deg: float = 50.0) -> Truth:
    """A ball on a floor in a round hall; the cameras stand on an arc around it. The ball is the object."""
    focal = 1.15 * width
    K = torch.tensor([[focal, 0, width / 2 + 0.5], [0, focal, height / 2 + 0.5], [0, 0, 1]], dtype=torch.float64)
    up, target = torch.tensor([0.0, -1, 0], dtype=torch.float64), torch.tensor([0.0, 0.2, 0], dtype=torch.float64)
    angles = torch.deg2rad(torch.linspace(-arc_deg / 2, arc_deg / 2, count, dtype=torch.float64))
    poses, depths, masks = [], [], []
    for number, angle in enumerate(angles.tolist()):
        eye = torch.tensor(
            [4 * np.sin(angle), -0.6 - 0.45 * number / max(count - 1, 1), -4 * np.cos(angle)], dtype=torch.float64
        )
        pose = look_at(eye, target, up)
        depth, ball = ball_seen(K, pose, height, width)
        poses.append(pose)
        depths.append(depth)
        masks.append(ball.numpy())
    return Truth(K.expand(count, 3, 3).clone(), torch.stack(poses), torch.stack(depths), np.stack(masks))


def ball_seen(K: Tensor, pose: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """What a camera sees of the ball scene: depth (H, W), and where the ball is (H, W) bool."""
    eye = pose[:3, 3]
    grid = pixel_grid(height, width, dtype=torch.float64).reshape(-1, 2)
    ray = unproject(K, pose, grid, torch.ones(height * width, dtype=torch.float64)) - eye
    floor = (1.0 - eye[1]) / ray[:, 1]
    a, b, c = ray.square().sum(-1), ray @ eye, eye @ eye
    hall = (-b + (b * b - a * (c - 36)).sqrt()) / a  # from within a sphere of radius 6
    depth = torch.minimum(torch.where(floor > 0, floor, torch.inf), hall)
    ball = b * b > a * (c - 1)
    depth = torch.where(ball, (-b - (b * b - a * (c - 1)).clamp_min(0).sqrt()) / a, depth)
    return depth.reshape(height, width), ball.reshape(height, width)


def ball_views(truth: Truth, views: Sequence[InputView]) -> Truth:
    """The ball scene of `truth` as other views of its pictures, all of one size, see it."""
    K = torch.stack([view.K_to_view(K) for view, K in zip(views, truth.K)])
    seen = [ball_seen(k, pose, v.height, v.width) for k, pose, v in zip(K, truth.world_from_cam, views)]
    return Truth(K, truth.world_from_cam, torch.stack([d for d, _ in seen]), np.stack([m.numpy() for _, m in seen]))


def static_truth(reference: Path) -> Truth:
    """The reference scene that stands still: 4 views of 128 x 96 pixels."""
    return _read_truth(reference / "golden" / "sga_scene_gt.npz", None)


def turning_truth(reference: Path) -> Truth:
    """The reference scene of a turning ball, in the ball's own frame: only its `object_mask` stands still."""
    return _read_truth(reference / "golden" / "dynamic_scene.npz", "fg")


def _read_truth(path: Path, mask: str | None) -> Truth:
    with np.load(path) as data:
        K = torch.from_numpy(data["K"]).double()
        K[:, :2, 2] += 0.5  # pixel centres of the files are at integers
        inside = data[mask] if mask else data["label"] == 1
        return Truth(K, torch.from_numpy(data["cam2w"]).double(), torch.from_numpy(data["depth"]).double(), inside)


def scene_frames(
    truth: Truth, kept: np.ndarray | None = None, with_K: bool = False, views: Sequence[InputView] | None = None
) -> list[PairFrame]:
    """The frames of a scene.

    Args:
        kept: (T, H, W) bool, None = everything. with_K: say that the intrinsics are known.
        views: how they were cut out of larger pictures; None: they are whole.
    """
    height, width = truth.size
    whole = InputView((width, height), (0, 0, width, height), (width, height), (0, 0, width, height))
    of = [whole] * len(truth) if views is None else views
    image = np.full((height, width, 3), 127, dtype=np.uint8)
    inside = np.ones((len(truth), height, width), dtype=bool) if kept is None else kept
    return [PairFrame(of[t], image, inside[t], inside[t], truth.K[t] if with_K else None) for t in range(len(truth))]


def exact_predictions(
    truth: Truth,
    *,
    kept: np.ndarray | None = None,
    pairs: Sequence[Pair] | None = None,
    scale_seed: int | None = None,
    noise: float = 0.0,
    background: float | None = None,
    match_step: int = 8,
    with_K: bool = False,
    views: Sequence[InputView] | None = None,
) -> PairScene:
    """What a perfect network says of a scene.

    Args:
        kept: (T, H, W) bool, pixels that count; None = all.
        pairs: which; None = all, the earlier frame first.
        scale_seed: where given, each pass of each pair has a scale of its own, 5 % up or down.
        noise: standard deviation of the depth along each ray, as a share of it (seeded).
        background: where given, the dense predictions have this value outside `kept` before they are packed.
        match_step: pixels between the seeds of the true matches, looked for from both sides.
        with_K: frames have their K. views: how frames were cut out of larger pictures.
    """
    frames = scene_frames(truth, kept, with_K, views)
    generator = torch.Generator().manual_seed(0 if scale_seed is None else scale_seed)

    def points(camera: int, of: int, scale: float) -> Tensor:
        seen = transform(invert_rigid(truth.world_from_cam[camera]), truth.world_points(of)) * scale
        if noise:
            seen = seen * (1 + noise * torch.randn(len(seen), 1, generator=generator, dtype=torch.float64))
        if background is not None:
            seen[torch.from_numpy(~frames[of].kept.reshape(-1))] = background
        return seen.float()[frames[of].pixels]

    def scale() -> float:
        drawn = float(torch.exp(0.05 * torch.randn((), generator=generator)))
        return 1.0 if scale_seed is None else drawn

    results = []
    for a, b in pairs if pairs is not None else combinations(range(len(truth)), 2):
        in_a, in_b = scale(), scale()
        seen = points(a, a, in_a), points(a, b, in_a), points(b, b, in_b), points(b, a, in_b)
        conf = tuple(torch.full((len(points),), sure) for points, sure in zip(seen, (12.0, 10.0, 12.0, 10.0)))
        results.append(_result(a, b, seen, conf, true_matches(truth, frames, a, b, match_step)))
    return PairScene(frames, PairResultList(tuple(results)), truth)


def _result(a: int, b: int, points: Sequence[Tensor], conf: Sequence[Tensor], matches: Matches) -> PairResult:
    """Points and confidences in the order a in a, b in a, b in b, a in b."""
    names = ("a_in_a", "b_in_a", "b_in_b", "a_in_b")
    seen = dict(zip(names, points)) | {f"conf_{name}": sure for name, sure in zip(names, conf)}
    return PairResult(a, b, **seen, xy_a=matches[0], xy_b=matches[1], weight=matches[2])


def true_matches(truth: Truth, frames: Sequence[PairFrame], a: int, b: int, step: int = 8) -> Matches:
    """Pixels of a and b that see the same point, from a grid in either; to the nearest pixel, weight 10."""
    height, width = truth.size
    found = []
    for one, other in ((a, b), (b, a)):
        seeds = torch.zeros(height, width, dtype=torch.bool)
        seeds[step // 2 :: step, step // 2 :: step] = True
        start = torch.nonzero((seeds & torch.from_numpy(frames[one].matched)).reshape(-1)).squeeze(-1)
        world = truth.world_points(one)[start]
        at, depth = project(truth.K[other], invert_rigid(truth.world_from_cam[other]), world)
        cell = at.floor().long()
        inside = (cell >= 0).all(-1) & (cell[:, 0] < width) & (cell[:, 1] < height) & (depth > 0)
        start, cell, depth = start[inside], cell[inside], depth[inside]
        end = cell[:, 1] * width + cell[:, 0]
        seen = torch.from_numpy(frames[other].matched).reshape(-1)[end]
        seen &= (truth.depth[other].reshape(-1)[end] / depth - 1).abs() < 0.02
        both = torch.stack([start, end], -1)[seen]
        found.append(both if one == a else both.flip(-1))
    pairs = torch.unique(torch.cat(found), dim=0)
    xy = torch.stack([pairs % width, pairs // width], -1)  # (M, side, column and row)
    return xy[:, 0], xy[:, 1], torch.full((len(pairs),), 10.0)


def golden_predictions(
    reference: Path,
    *,
    kept: np.ndarray | None = None,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
    matches: bool = True,
    with_K: bool = False,
) -> PairScene:
    """What the reference scene's noisy network said: 5 % scale jitter a pair, 1 % noise of the depth.

    Args:
        kept: (T, H, W) bool, pixels that count; None = all.
        change: applied to each dense (H, W, 3) and (H, W) array, with `kept` unchanged: damage to the background.
        matches: from its descriptors (a second or so a scene); False: none.
    """
    truth = static_truth(reference)
    frames = scene_frames(truth, kept, with_K)
    results = []
    with np.load(reference / "golden" / "sga_noisy_preds.npz") as data:
        for name in sorted({key.split("/")[0] for key in data.files}):
            a, b = (int(part) for part in name.split("_"))

            def dense(kind: str, field: str, name: str = name) -> Tensor:
                array = data[f"{name}/{kind}/{field}"]
                return torch.from_numpy(change(array) if change and field in ("pts3d", "conf") else array).float()

            kinds = (("res11", a), ("res21", b), ("res22", b), ("res12", a))
            packed = [
                [dense(kind, field).flatten(0, 1)[frames[of].pixels] for kind, of in kinds]
                for field in ("pts3d", "conf")
            ]
            found: Matches = (torch.zeros(0, 2).long(), torch.zeros(0, 2).long(), torch.zeros(0))
            if matches:
                both = [
                    PairPrediction(*(dense(k, f)[None] for f in ("pts3d", "conf", "desc", "desc_conf") for k in kinds_))
                    for kinds_ in (("res11", "res21"), ("res22", "res12"))
                ]
                matched = extract_correspondences(both[0], both[1], (frames[a].matched, frames[b].matched))
                found = (matched.xy_a, matched.xy_b, matched.weight)
            results.append(_result(a, b, packed[0], packed[1], found))
    return PairScene(frames, PairResultList(tuple(results)), truth)


@dataclass(frozen=True)
class CameraErrors:
    """How far cameras and depths are from the truth, after the best similarity between the two sets of cameras.

    Attributes:
        scale: true lengths / found ones. rotation_deg, centre: the largest; centre as a share of the baseline.
        depth: median over all kept pixels of |found · scale / true - 1|, NaN where no depth was given.
    """

    scale: float
    rotation_deg: float
    centre: float
    depth: float


def camera_errors(scene: PairScene, world_from_cam: Tensor, depth: Sequence[Tensor] | None = None) -> CameraErrors:
    """The errors of the registered frames. The similarity is fitted to the centres and to points one unit of the truth
    along the optical axes, as the published figures are; to the centres alone it would turn about the line that they
    nearly lie on."""
    truth = scene.truth
    rows = torch.nonzero(torch.isfinite(world_from_cam).flatten(1).all(1)).squeeze(-1)
    found, true = world_from_cam[rows].double().cpu(), truth.world_from_cam[rows]
    few = len(rows) < 3  # two centres fix no rotation about the line through them, and one axis each hardly does
    axes = (0, 1, 2) if few else (2,)
    if few:
        s = true[:, :3, 3].diff(dim=0).norm() / found[:, :3, 3].diff(dim=0).norm()
    else:
        s = similarity_fit(found[:, :3, 3], true[:, :3, 3])[2]
    R, t = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(5):  # the axes' unit is one of the truth
        ends = [
            torch.cat([p[:, :3, 3] * k, *(p[:, :3, 3] * k + p[:, :3, axis] for axis in axes)])
            for p, k in ((found, s), (true, torch.ones(())))
        ]
        R, t, step = similarity_fit(*ends)
        s = s * step
    centre = (s * found[:, :3, 3] @ R.T + t - true[:, :3, 3]).norm(dim=-1)
    angle = torch.rad2deg(rotation_angle(R @ found[:, :3, :3], true[:, :3, :3]))
    median = float("nan")
    if depth is not None:
        error = torch.cat([(depth[i].double().cpu() * s / scene.kept_depth(i) - 1).abs() for i in rows.tolist()])
        median = float(error.median())
    return CameraErrors(float(s), float(angle.max()), float(centre.max()) / truth.baseline, median)
