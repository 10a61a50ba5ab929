"""Settings of the geometry stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dyn4d.geometry.pair_config import PairConfig

USUAL_DEPTH_ERROR = 0.05  # relative, of depth from pictures, where nobody has measured the estimator


@dataclass(frozen=True)
class GeometryConfig:
    """Where the object's points and the cameras come from."""

    source: Literal["auto", "rgbd", "mast3r", "pointmaps"] = "auto"
    """auto = pointmaps that are named; else rgbd where the clip has depth maps and K; else pointmaps where they lie in
    the clip folder; else mast3r, with dyn4d's own small network unless weights are named."""
    weights: str = ""
    """Of mast3r: a file or folder of weights, a model's id on the hub, or small, dyn4d's own, where this copy
    has them. Empty: small, where nothing else gives the geometry."""
    pointmaps: str = ""
    """Of pointmaps: an .npz, a folder of them or an estimator's export; "" = those in the clip folder."""
    pointmaps_fit: Literal["auto", "whole", "crop", "pad"] = "auto"
    """Of pointmaps: how a map lies in its picture: all of it, its middle, or all of it and evenly more. auto = the box
    that comes with it, else what the estimator is known to do, else whole."""
    pointmaps_conf: Literal["auto", "unit", "above_one", "log"] = "auto"
    """Of pointmaps: what the maps' confidence c means: unit = c itself, above_one = 1 - 1/c, log = 1 - exp(-c).
    auto = by its range over the clip."""
    pointmaps_min_conf: float = 0.0
    """Of pointmaps: pixels whose confidence, brought to (0, 1], is less are dropped."""
    anchor: Literal["auto", "background", "object"] = "auto"
    """What holds the cameras where they are solved: what is around the object, or the object itself, whose rigid motion
    then goes into the poses. auto = poses that are given; else the background where enough of it can be matched."""
    poses: Literal["given", "refine", "solve"] = "given"
    """What becomes of poses that come with the clip or with maps. given = they stay, unless the anchor is the object;
    frames without one are solved. refine = solving begins with them and stays in their world. solve = as if there were
    none."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """Of mast3r: how the network is shown the frames."""
    alignment: Literal["sparse", "mast3r", "dust3r"] = "sparse"
    """Of mast3r: sparse = ours, on matches and relative poses, with priors; mast3r and dust3r = the published ones."""
    alignment_matches: Literal["auto", "network", "flow"] = "auto"
    """Of the sparse alignment: whose matches hold the frames. network = its own. flow = the optical flow's, where they
    tie frames together. auto = flow with dyn4d's own networks."""
    fusions: int = 2
    """Of the sparse alignment: how often all passes' depths are brought together and the poses refined again; never on
    a background that optical flow holds."""
    subsample: int = 8
    """Of the sparse alignment: pixels between anchors, whose depths are refined."""
    optimise_depth: bool = True
    """Of the sparse and mast3r alignments: refine the anchors' depths with the poses."""
    depth_rank: int = 0
    """Of the mast3r alignment: anchors' depths change by this many smooth shapes a frame only; 0 = each by itself."""
    focal: Literal["shared", "own"] = "shared"
    """Of the sparse alignment, where K is not known: one focal length for all frames, or each frame its own (zoom)."""
    principal_point: Literal["middle", "refine"] = "middle"
    """Of the sparse alignment, where K is not known: the picture's middle, or looked for around it (cut pictures)."""
    max_slope_deg: float = 82.0
    """Two neighbouring pixels lie on one surface unless it would be turned from the camera by more than this angle."""
    erode: int = 0
    """Drop this many more pixels around each jump in depth (noisy sensors)."""
    min_conf: float = 0.02
    """Points of less confidence are dropped."""
    clean: Literal["auto", "on", "off"] = "auto"
    """Drop points that other frames contradict. auto = where the object is rigid between those frames; on = everywhere,
    as if it were."""
    mesh: Literal["auto", "on", "off"] = "auto"
    """Fuse all frames into a mesh (mesh.ply, mesh.glb). auto = where they agree on one rigid object."""
    voxels: int = 256
    """Of the mesh: cells along the object's longest side."""
    tracks: int = 2000
    """At most this many points are followed from frame to frame by the matches alone (tracks.npz); 0 = none."""

    def __post_init__(self) -> None:
        sources = ("auto", "rgbd", "mast3r", "pointmaps")
        if self.source not in sources:
            raise ValueError(f"geometry.source: {self.source!r}; wanted one of {', '.join(sources)}")
        if self.pointmaps_fit not in ("auto", "whole", "crop", "pad"):
            raise ValueError(f"geometry.pointmaps_fit: {self.pointmaps_fit!r}; wanted auto, whole, crop or pad")
        if self.pointmaps_conf not in ("auto", "unit", "above_one", "log"):
            raise ValueError(f"geometry.pointmaps_conf: {self.pointmaps_conf!r}; wanted auto, unit, above_one or log")
        if not 0 <= self.pointmaps_min_conf < 1:
            found = self.pointmaps_min_conf
            raise ValueError(f"geometry.pointmaps_min_conf: {found}; wanted a number from 0, below 1")
        if self.anchor not in ("auto", "background", "object"):
            raise ValueError(f"geometry.anchor: {self.anchor!r}; wanted auto, background or object")
        if self.poses not in ("given", "refine", "solve"):
            raise ValueError(f"geometry.poses: {self.poses!r}; wanted given, refine or solve")
        if self.focal not in ("shared", "own"):
            raise ValueError(f"geometry.focal: {self.focal!r}; wanted shared or own")
        if self.principal_point not in ("middle", "refine"):
            raise ValueError(f"geometry.principal_point: {self.principal_point!r}; wanted middle or refine")
        if self.alignment not in ("sparse", "mast3r", "dust3r"):
            raise ValueError(f"geometry.alignment: {self.alignment!r}; wanted sparse, mast3r or dust3r")
        if self.alignment_matches not in ("auto", "network", "flow"):
            raise ValueError(f"geometry.alignment_matches: {self.alignment_matches!r}; wanted auto, network or flow")
        for name, low in (("fusions", 0), ("subsample", 1), ("depth_rank", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"geometry.{name}: {getattr(self, name)}; wanted a number from {low}")
        if not 0 < self.max_slope_deg < 90:
            raise ValueError(f"geometry.max_slope_deg: {self.max_slope_deg}; wanted an angle between 0 and 90")
        if self.tracks < 0:
            raise ValueError(f"geometry.tracks: {self.tracks}; wanted a number from 0")
        for name in ("clean", "mesh"):
            if getattr(self, name) not in ("auto", "on", "off"):
                raise ValueError(f"geometry.{name}: {getattr(self, name)!r}; wanted auto, on or off")
        if not 8 <= self.voxels <= 2048:
            raise ValueError(f"geometry.voxels: {self.voxels}; wanted a number from 8 to 2048")
        if self.erode < 0:
            raise ValueError(f"geometry.erode: {self.erode}; wanted a number from 0")
        if not 0 <= self.min_conf < 1:
            raise ValueError(f"geometry.min_conf: {self.min_conf}; wanted a number from 0, below 1")
