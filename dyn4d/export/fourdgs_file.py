"""The moving Gaussians as one `.4dgs` file: the only module that calls fourdgs.

Its temporal model `keyframe-delta` fits what we have: the same Gaussians at every frame. Each frame states positions,
rotations and scales, and a velocity that leads to the next frame; every `KEYFRAME_EVERY`-th frame can be read without
the ones before. Format: 4dgs.dev, and the package's own documentation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dyn4d.core.errors import RunError
from dyn4d.core.protocols import Field, Progress, SilentProgress
from dyn4d.core.types import GaussianCloud, Timeline
from dyn4d.export.frames import moved_frames
from dyn4d.io.atomic import atomic_path

KEYFRAME_EVERY = 12
SH0 = 0.28209479177387814
LASTING = 1e4  # durations: so wide that the format's fading in time leaves opacities alone
PROFILE = "fine"


def write_4dgs(
    path: str | Path, cloud: GaussianCloud, field: Field, timeline: Timeline, *, progress: Progress | None = None
) -> None:
    """Write all frames of the clip to one file, atomically; it has passed the format's validator.

    World, units and axes are the clip's. The format's time begins at 0: 0 is the clip's first frame, and the last frame
    is held for as long as a frame lasts. Between frames positions are linear in time, rotations and scales held.

    What is left of the numbers, as the file itself declares: positions to 2 % of the median standard deviation of the
    Gaussians, scales to 0.5 %, components of quaternions to 0.0005, colours and opacities to 1/510. Colours that change
    with the view and confidences are lost. Needs memory for all frames at once.
    """
    from fourdgs.keyframe_delta_file import KeyframeDeltaOptions, write_sequence
    from fourdgs.validate import validate

    progress = progress or SilentProgress()
    seconds = timeline.seconds - timeline.seconds[0]
    starts = [*seconds.tolist(), float(seconds[-1]) + 1 / timeline.fps]
    progress.start("4dgs", len(timeline))
    frames = []
    for moved in moved_frames(cloud, field, timeline):
        frames.append(moved)
        progress.update()
    progress.finish()
    samples = [_sample(frames, index, starts) for index in range(len(frames))]
    data = write_sequence(
        samples, starts[-1], kd=KeyframeDeltaOptions(keyframe_every=KEYFRAME_EVERY), profile=PROFILE, library="dyn4d"
    )
    report = validate(data)
    if not report.ok:
        raise RunError(f"{path}: the 4dgs validator refuses what was to be written: {report.findings[0]}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _sample(frames: list[GaussianCloud], index: int, starts: list[float]):
    from fourdgs import Bounds, GaussianSet, Steps
    from fourdgs.keyframe_delta_writer import Sample

    moved, start, end = frames[index], starts[index], starts[index + 1]
    count, lasting = len(moved), LASTING * starts[-1]
    place = moved.means.double().numpy()
    after = frames[index + 1].means.double().numpy() if index + 1 < len(frames) else place
    velocity = (after - place) / (end - start)
    # The format keeps the instant that a position is for on a grid of its own; positions are moved to that instant.
    step = Steps.of(Bounds.for_profile(PROFILE)).time
    anchor = float(np.rint(start / step)) * step
    rgb = np.clip(0.5 + SH0 * moved.sh[:, 0].numpy(), 0, 1)
    quats = moved.quats_wxyz.numpy()
    gaussians = GaussianSet(
        positions=(place + velocity * (anchor - start)).astype(np.float32),
        scales=moved.scales.float().numpy(),
        rotations=np.roll(quats, -1, axis=1).astype(np.float32),
        colors=np.concatenate([rgb, moved.opacities.numpy()[:, None]], axis=1).astype(np.float32),
        motions=velocity.astype(np.float32),
        mu_t=np.full(count, anchor, np.float32),
        sigma_t=np.full(count, lasting, np.float32),
        win_lo=np.zeros(count, np.float32),
        win_hi=np.full(count, starts[-1], np.float32),
    )
    return Sample(t0=start, ids=np.arange(count), gaussians=gaussians)
