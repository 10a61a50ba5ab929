"""Reading a saved field of any kind."""

from __future__ import annotations

from pathlib import Path

import torch

from dyn4d.core.errors import InputError
from dyn4d.deformation import field as trajectory
from dyn4d.deformation import offset_field, published_field
from dyn4d.deformation.field import TrajectoryField
from dyn4d.deformation.offset_field import OffsetField
from dyn4d.deformation.published_field import PublishedField
from dyn4d.io.checkpoint import load_tensors

AnyField = TrajectoryField | OffsetField | PublishedField
READERS = {offset_field.FORMAT: OffsetField.from_checkpoint, published_field.FORMAT: PublishedField.from_checkpoint}


def load_field(path: str | Path, device: torch.device | str = "cpu") -> AnyField:
    """The field of a `field.safetensors`, whatever `deformation.kind` made it.

    Raises:
        InputError: the file is missing, damaged, or of no kind of field.
    """
    saved = load_tensors(Path(path), None)
    if saved.format == trajectory.FORMAT:
        return TrajectoryField.load(path, device)
    if saved.format not in READERS:
        raise InputError(f"{path} is of format {saved.format or 'unknown'!r}, which is no field")
    return READERS[saved.format](saved).to(device)
