"""SAM 2 (Ravi et al., 2024) where its package and weights are on this machine; nothing is ever fetched.

Uses the public interface of the package `sam2`: `build_sam2_video_predictor`, `init_state`, `add_new_points_or_box`,
`add_new_mask`, `propagate_in_video`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.errors import BackendUnavailable, InputError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.segmentation.first import Prompt
from dyn4d.segmentation.results import FrameMask

LICENCE = "SAM 2 (Meta): code and published checkpoints are Apache-2.0"
VARIABLE = "DYN4D_SAM2_WEIGHTS"
_SIZES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


def find_weights(given: str | None) -> Path | None:
    """The weights named on the command line or in DYN4D_SAM2_WEIGHTS. Raises `InputError` where they are not there."""
    text = given or os.environ.get(VARIABLE)
    if not text:
        return None
    path = Path(text).expanduser()
    if not path.is_file():
        where = "--sam2-weights" if given else VARIABLE
        raise InputError(f"{where} {text} is not there; give a checkpoint of SAM 2 such as sam2.1_hiera_small.pt")
    return path


def installed() -> bool:
    try:
        return find_spec("sam2") is not None
    except ValueError:  # a stand-in without a spec
        return True


def require_sam2() -> None:
    """Raises `BackendUnavailable` where the package is missing."""
    if not installed():
        raise BackendUnavailable("SAM 2 needs the package sam2, which is not installed; or use --method grabcut")


def config_of(weights: Path, given: str | None) -> str:
    """The name of the package's configuration that fits a published checkpoint, by its file name."""
    if given:
        return given
    found = re.match(r"(sam2(?:\.1)?)_hiera_(tiny|small|base_plus|large)", weights.stem)
    if not found:
        raise InputError(
            f"{weights}: the file name does not tell which SAM 2 it is; give --sam2-config, such as "
            "configs/sam2.1/sam2.1_hiera_s.yaml"
        )
    return f"configs/{found[1]}/{found[1]}_hiera_{_SIZES[found[2]]}.yaml"


def sam2_masks(
    frames: Path, count: int, prompts: Sequence[Prompt], weights: Path, *, config: str | None = None,
    device: str = "cpu", progress: Progress | None = None,
) -> Iterator[FrameMask]:  # fmt: skip
    """Masks of all frames in order.

    Args:
        frames: a folder with `00000.jpg` ... of the clip, as SAM 2 reads videos. count: of frames.
        prompts: at least one. weights, config: a checkpoint and the name of its configuration. device: cpu or cuda.

    Raises:
        BackendUnavailable: the package is missing, or does not load the weights.
    """
    require_sam2()
    import torch
    from sam2.build_sam import build_sam2_video_predictor  # type: ignore[import-not-found]

    progress = progress or SilentProgress()
    try:
        predictor: Any = build_sam2_video_predictor(config_of(weights, config), str(weights), device=device)
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        raise BackendUnavailable(f"{weights} cannot be loaded by SAM 2: {str(error).splitlines()[0]}") from error
    found: dict[int, tuple[np.ndarray, float]] = {}
    mixed = torch.autocast("cuda", dtype=torch.bfloat16) if device.startswith("cuda") else contextlib.nullcontext()
    with torch.inference_mode(), mixed:
        state = predictor.init_state(video_path=str(frames), offload_video_to_cpu=True)
        for prompt in prompts:
            _tell(predictor, state, prompt)
        first = min(prompt.frame for prompt in prompts)
        progress.start("SAM 2", count)
        for reverse in (False, True):
            if reverse and first == 0:
                break
            for frame, _, logits in predictor.propagate_in_video(state, start_frame_idx=first, reverse=reverse):
                values = logits[0, 0].float().cpu().numpy()
                if int(frame) not in found:
                    found[int(frame)] = np.packbits(values > 0), stability(values)
                    shape = values.shape
                    progress.update(score=found[int(frame)][1])
        progress.finish()
    keys = {prompt.frame for prompt in prompts}
    for frame in range(count):
        packed, score = found[frame]
        mask = np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).astype(bool)
        yield FrameMask(frame, mask, score, {"stability": score}, key=frame in keys)


def _tell(predictor: Any, state: Any, prompt: Prompt) -> None:
    if prompt.mask is not None:
        predictor.add_new_mask(inference_state=state, frame_idx=prompt.frame, obj_id=1, mask=prompt.mask)
        return
    points = np.array([*prompt.points, *prompt.not_points], np.float32).reshape(-1, 2)
    labels = np.array([1] * len(prompt.points) + [0] * len(prompt.not_points), np.int32)
    predictor.add_new_points_or_box(
        inference_state=state, frame_idx=prompt.frame, obj_id=1,
        points=points if len(points) else None, labels=labels if len(points) else None,
        box=None if prompt.box is None else np.array(prompt.box, np.float32),
    )  # fmt: skip


def stability(logits: np.ndarray, offset: float = 1.0) -> float:
    """How little a mask changes with its threshold: the overlap of the masks at +offset and -offset."""
    low = int((logits > -offset).sum())
    return float((logits > offset).sum() / low) if low else 0.0
