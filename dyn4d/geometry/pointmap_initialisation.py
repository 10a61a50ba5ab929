"""Where the alignment of pointmaps begins: focal lengths, a tree of the strongest edges, first poses and scales.

Masked throughout: only pixels that count enter Procrustes, PnP, the edges' scores and the focal lengths.

Source: Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024, section 3.3 and its supplement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from dyn4d.core.cameras import invert_rigid, transform
from dyn4d.core.rotations import weighted_similarity_fit
from dyn4d.geometry.focal import SeenPoints, estimate_focal, published_limits
from dyn4d.geometry.pair_results import PairFrame
from dyn4d.geometry.pointmap_config import PointmapConfig
from dyn4d.geometry.pointmap_problem import PointmapProblem
from dyn4d.geometry.world_frame import fit_world
from dyn4d.matching.image_size import InputView

Similarity = tuple[Tensor, Tensor, Tensor]  # R (3, 3), t (3,), scale ()


@dataclass(frozen=True)
class PointmapStart:
    """First values, float64 on the CPU.

    Attributes:
        world_from_cam: (T, 4, 4); identity for frames that were not placed. placed: (T,) bool.
        depth: (T, P) planar z > 0.
        R: (E, 3, 3), t: (E, 3), scale: (E,): world ≈ scale R x + t of an edge's points x.
        edges: (E,) bool, edges that could be fitted; the others have identity.
    """

    world_from_cam: Tensor
    placed: Tensor
    depth: Tensor
    R: Tensor
    t: Tensor
    scale: Tensor
    edges: Tensor


def published_middle(view: InputView, *, whole_picture: bool) -> Tensor:
    """(2,) px of a view: where the published methods have an unknown principal point, in the middle of the view counted
    from the first pixel's centre. With `whole_picture`, a view that is cut from the side of a picture has it in the
    picture's middle."""
    if whole_picture and view.box != (0, 0, *view.source):
        return view.to_view(torch.tensor(view.source, dtype=torch.float64) / 2)
    return torch.tensor([view.width / 2 + 0.5, view.height / 2 + 0.5], dtype=torch.float64)


def initial_intrinsics(
    problem: PointmapProblem, frames: Sequence[PairFrame], known: Tensor, config: PointmapConfig
) -> Tensor:
    """K (T, 3, 3) float64 of the views. Unknown focal lengths are found for square pixels of the clip's picture.

    Args:
        known: (T, 3, 3) float64, NaN where unknown.
    """
    K = known.clone()
    unknown = torch.isnan(known).flatten(1).any(1)
    scale = torch.tensor([f.view.scale for f in frames], dtype=torch.float64).reshape(-1, 2)
    focals = (known[:, [0, 1], [0, 1]] / scale).prod(-1).sqrt()  # of the clip's picture
    found = torch.zeros_like(unknown)
    for frame in torch.nonzero(unknown).flatten().tolist():
        view = frames[frame].view
        middle = published_middle(view, whole_picture=config.principal_point == "source")
        lowest, highest = (limit / float(scale[frame].mean()) for limit in published_limits(view.width, view.height))
        focal = estimate_focal(_own_points(problem, frame, middle, view.scale), limits=(lowest, highest))
        found[frame] = focal is not None
        focals[frame] = 2 * lowest if focal is None else focal
        K[frame] = torch.eye(3, dtype=torch.float64)
        K[frame, :2, 2] = middle
    if bool(unknown.any()):
        informed = ~unknown if bool((~unknown).any()) and config.shared_intrinsics else found
        blind = unknown if config.shared_intrinsics else unknown & ~found
        if bool(informed.any()):
            focals[blind] = focals[informed].median()
    K[unknown, 0, 0], K[unknown, 1, 1] = (focals[unknown, None] * scale[unknown]).unbind(-1)
    return K


def _own_points(problem: PointmapProblem, frame: int, middle: Tensor, scale: tuple[float, float]) -> list[SeenPoints]:
    """What all edges in the frame's own camera say of its pixels that count."""
    x, y = middle.tolist()
    out = []
    for number in torch.nonzero(problem.edges[:, 0] == frame).flatten().tolist():
        good = problem.conf[number, 0] > 0
        out.append(SeenPoints(problem.xy[frame][good].cpu(), problem.points[number, 0][:, good].T.cpu(), (x, y), scale))
    return out


def procrustes(source: Tensor, target: Tensor, weights: Tensor) -> Similarity | None:
    """target ≈ scale R source + t over points of weight > 0; None where they do not fix it."""
    used = weights > 0
    if int(used.sum()) < 4:
        return None
    R, t, scale = weighted_similarity_fit(source[used], target[used], weights[used])
    fine = bool(torch.isfinite(R).all()) and bool(torch.isfinite(t).all()) and 1e-9 < float(scale) < 1e9
    return (R, t, scale) if fine else None


def _rigid(R: Tensor, t: Tensor) -> Tensor:
    out = torch.eye(4, dtype=torch.float64)
    out[:3, :3], out[:3, 3] = R, t
    return out


class _Tree:
    """Points of frames in one world, grown from the strongest edge along the strongest that reach a new frame."""

    def __init__(self, problem: PointmapProblem, scores: np.ndarray) -> None:
        self.problem = problem
        self.scores = scores.copy()
        self.ends = problem.edges.numpy()
        frames, pixels = problem.xy.shape[:2]
        self.world = torch.zeros(frames, pixels, 3, dtype=torch.float64)
        self.weight = torch.zeros(frames, pixels, dtype=torch.float64)  # 0: no point there
        self.pose: dict[int, Tensor] = {}
        self.placed = np.zeros(frames, dtype=bool)

    def edge(self, number: int) -> tuple[Tensor, Tensor]:
        """Points (2, P, 3) and confidences (2, P)."""
        points, conf = self.problem.points[number], self.problem.conf[number]
        return points.transpose(1, 2).double().cpu(), conf.double().cpu()

    def grow(self, members: list[int]) -> None:
        inside = np.isin(self.ends, members).all(-1)
        while True:
            new = inside & (self.placed[self.ends].sum(-1) == 1)
            if not self.placed[members].any():
                new = inside
            new &= self.scores > -np.inf
            if not new.any():
                return
            number = int(np.where(new, self.scores, -np.inf).argmax())
            if not self._attach(number):
                self.scores[number] = -np.inf

    def _attach(self, number: int) -> bool:
        """Place the frames of an edge; False if what is there does not fix how."""
        points, conf = self.edge(number)
        ends = self.ends[number]
        held = [view for view in (0, 1) if self.placed[ends[view]]]
        R, t, scale = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), torch.ones(())
        if held:
            frame = int(ends[held[0]])
            both = conf[held[0]] * (self.weight[frame] > 0)
            fit = procrustes(points[held[0]], self.world[frame], both)
            if fit is None:
                return False
            R, t, scale = fit
        for view, frame in enumerate(ends.tolist()):
            if not self.placed[frame]:
                self.world[frame] = scale * points[view] @ R.T + t
                self.weight[frame] = conf[view]
                self.placed[frame] = True
        self.pose.setdefault(int(ends[0]), _rigid(R, t))
        return True


def pnp_pose(points: Tensor, xy: Tensor, K: Tensor, seed: int) -> Tensor | None:
    """world_from_cam (4, 4) of the camera that sees points (N, 3) at pixels (N, 2); None where none is found.

    RANSAC with the SQPNP solver; inliers are within 5 pixels.
    """
    if len(points) < 6:
        return None
    centre, size = points.mean(0), points.std()
    if not float(size) > 0:
        return None
    cv2.setRNGSeed(seed)
    try:
        found, turn, shift, inliers = cv2.solvePnPRansac(
            ((points - centre) / size).numpy(), xy.double().numpy(), K.numpy(), np.zeros(0),
            iterationsCount=100, reprojectionError=5.0, confidence=0.999, flags=cv2.SOLVEPNP_SQPNP,
        )  # fmt: skip
    except cv2.error:  # degenerate input
        return None
    if not found or inliers is None or len(inliers) < 6:
        return None
    R = torch.from_numpy(cv2.Rodrigues(turn)[0]).double()
    t = torch.from_numpy(np.asarray(shift, dtype=np.float64)).reshape(3) * size - R @ centre
    if not bool(torch.isfinite(R).all() and torch.isfinite(t).all()):
        return None
    in_front = (points @ R.T + t)[:, 2] > 0
    return invert_rigid(_rigid(R, t)) if float(in_front.double().mean()) > 0.5 else None


def _find_pose(tree: _Tree, frame: int, K: Tensor, config: PointmapConfig) -> Tensor | None:
    """The camera of a frame whose points are in the world: PnP, else the strongest pass in its own camera."""
    problem = tree.problem
    here = tree.weight[frame] > 0
    mine = torch.from_numpy((tree.ends == frame).any(-1)).to(problem.conf.device)
    view = torch.from_numpy((tree.ends[:, 1] == frame).astype(np.int64)).to(problem.conf.device)[mine]
    sure = problem.conf[mine][torch.arange(len(view), device=view.device), view].amax(0).double().cpu()
    for used in (here & (sure > config.min_conf), here):
        pose = pnp_pose(tree.world[frame][used], problem.xy[frame].cpu()[used], K, config.seed)
        if pose is not None:
            return pose
    own = [int(e) for e in np.argsort(-tree.scores, kind="stable") if tree.ends[e, 0] == frame]
    for number in own:
        points, conf = tree.edge(number)
        fit = procrustes(points[0], tree.world[frame], conf[0] * here)
        if fit is not None:
            return _rigid(fit[0], fit[1])
    return None


def move_poses(poses: Tensor, by: Similarity) -> Tensor:
    """Poses (N, 4, 4) in a world that a similarity has moved."""
    R, t, scale = by
    out = poses.clone()
    out[:, :3, :3] = R @ poses[:, :3, :3]
    out[:, :3, 3] = scale * poses[:, :3, 3] @ R.T + t
    return out


def initialise(
    problem: PointmapProblem, parts: Sequence[list[int]], K: Tensor, known: Tensor, config: PointmapConfig
) -> PointmapStart:
    """First poses, depths and similarities of the edges.

    Args:
        parts: frames of each connected part that is to be placed. K: (T, 3, 3).
        known: (T, 4, 4) poses, NaN where unknown; each part is brought to those it has.
    """
    tree = _Tree(problem, problem.scores())
    count = problem.frame_count
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    placed = torch.zeros(count, dtype=torch.bool)
    given = torch.isfinite(known).flatten(1).all(1)
    for part in parts:
        tree.grow(part)
        for frame in part:
            pose = tree.pose.get(frame)
            if pose is None and tree.placed[frame]:
                pose = _find_pose(tree, frame, K[frame], config)
            if pose is not None:
                poses[frame], placed[frame] = pose, True
        anchors = [f for f in part if given[f] and placed[f]]
        if anchors:
            fit = fit_world(poses[anchors], known[anchors], float(_first_depths(tree, poses)[anchors].median()))
            poses[part] = move_poses(poses[part], (fit.R, fit.t, torch.tensor(fit.size)))
            tree.world[part] = fit.size * tree.world[part] @ fit.R.T + fit.t
        rows = [f for f in part if given[f]]
        poses[rows] = known[rows]
        placed[rows] |= torch.from_numpy(tree.placed[rows])
    depth = _first_depths(tree, poses)
    rays = torch.cat([problem.xy.double().cpu(), torch.ones(*problem.xy.shape[:2], 1)], -1) @ torch.linalg.inv(
        K
    ).transpose(1, 2)
    on_rays = (rays * depth[..., None]) @ poses[:, :3, :3].transpose(1, 2) + poses[:, None, :3, 3]
    return PointmapStart(poses, placed, depth, *_fit_edges(tree, on_rays, placed))


def _first_depths(tree: _Tree, poses: Tensor) -> Tensor:
    """(T, P) depth of the tree's points; the frame's median where there is none or it lies behind the camera."""
    seen = transform(invert_rigid(poses), tree.world)[..., 2]
    good = (tree.weight > 0) & (seen > 0)
    everywhere = seen[good].median() if bool(good.any()) else torch.ones((), dtype=torch.float64)
    out = torch.empty_like(seen)
    for frame, (z, fine) in enumerate(zip(seen, good)):
        middle = z[fine].median() if bool(fine.any()) else everywhere
        out[frame] = torch.where(fine & (z > 1e-3 * middle), z, middle)
    return out


def _fit_edges(tree: _Tree, world: Tensor, placed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """R (E, 3, 3), t (E, 3), scale (E,) of all edges between placed frames, and which (E,) could be fitted."""
    count = len(tree.ends)
    R, t = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1), torch.zeros(count, 3, dtype=torch.float64)
    scale, fitted = torch.ones(count, dtype=torch.float64), torch.zeros(count, dtype=torch.bool)
    for number, ends in enumerate(tree.ends):
        if not bool(placed[ends].all()):
            continue
        points, conf = tree.edge(number)
        weight = conf * (tree.weight[ends] > 0)
        fit = procrustes(points.flatten(0, 1), world[ends].flatten(0, 1), weight.flatten())
        if fit is not None:
            R[number], t[number], scale[number] = fit
            fitted[number] = True
    return R, t, scale, fitted
