"""Options of a synthetic clip, and the usual mix of random bodies. Free of torch and numba."""

from __future__ import annotations

from dataclasses import dataclass

SCENES = ("creature", "worm", "turntable", "dancer", "snapper")
BACKGROUNDS = ("grey", "room")
PEOPLE = 0.26  # share of the random bodies, unless another is asked for


@dataclass(frozen=True)
class SyntheticConfig:
    """A procedural moving object and how it is filmed."""

    scene: str = "creature"
    """What moves: creature (walks and turns), worm (soft, bends), turntable (rigid, turns), dancer (limbs that
    hide each other) or snapper (a mouth that opens and shuts)."""
    frames: int = 48
    """Number of frames, at least 1."""
    size: int = 256
    """Width and height of the pictures in pixels, 32 to 2048."""
    background: str = "grey"
    """grey: flat (128, 128, 128), no depth outside the object; room: textured walls and floor, with depth."""
    seed: int = 0
    """Changes the pattern, the phase of the gait, the camera's height and the tracked points."""
    fps: float = 24.0
    """Frames a second; only sets the time stamps, the motion always spans the whole clip."""
    supersample: int = 4
    """Colour samples a pixel along each axis, 1 to 8."""
    held_out_every: int = 6
    """Held-out cameras look at every n-th frame."""
    tracks: int = 2500
    """Number of surface points whose paths are written, at least 1."""
    depth_div: float = 5000.0
    """Units of the 16-bit depth maps in one metre."""

    def __post_init__(self) -> None:
        if self.scene not in SCENES:
            raise ValueError(f"scene: {self.scene!r} is not one of {', '.join(SCENES)}")
        if self.background not in BACKGROUNDS:
            raise ValueError(f"background: {self.background!r} is not one of {', '.join(BACKGROUNDS)}")
        for name, low, high in (
            ("frames", 1, 100_000),
            ("size", 32, 2048),
            ("fps", 1e-3, 1e6),
            ("supersample", 1, 8),
            ("held_out_every", 1, 100_000),
            ("tracks", 1, 1_000_000),
            ("depth_div", 100.0, 10_000.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}: {value} is outside {low} to {high}")
