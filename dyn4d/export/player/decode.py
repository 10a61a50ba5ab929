"""Reading a player's data back, as the page does: for tests, and for other programs."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.export.player.encode import FORMAT, PlayerData
from dyn4d.export.player.errors import at_times
from dyn4d.export.player.motion import Motion
from dyn4d.export.player.planes import read_arrays
from dyn4d.export.player.shapes import shape_factors, unpack_quaternions
from dyn4d.export.player.stored import StoredMotion, read_motion
from dyn4d.export.player.timing import hermite_weights


@dataclass(frozen=True)
class StoredPlayer:
    """What a page holds of the object.

    Attributes:
        header: as written. motion: of N Gaussians. factors: (N, 3, 3) R S in canonical space. opacities: (N,).
        colours: (N, 3), in [0, 1] where they are not brighter than white. harmonics: (N, K - 1, 3) of higher bands.
        confidence: (N,) or None.
    """

    header: Mapping[str, Any]
    motion: StoredMotion
    factors: np.ndarray
    opacities: np.ndarray
    colours: np.ndarray
    harmonics: np.ndarray
    confidence: np.ndarray | None

    def __len__(self) -> int:
        return len(self.opacities)

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Centres (N, 3) and covariances (N, 3, 3) at a time of the run, world units."""
        weights = hermite_weights(np.asarray(self.header["key_times"]), time)[None]
        return self._drawn(at_times(self._slots(), weights))

    def canonical(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres (N, 3) and covariances (N, 3, 3) in canonical space."""
        slots = self._slots()
        return self._drawn(Motion(slots.centres[:, -1:], slots.jacobians[:, -1:]))

    def _slots(self) -> Motion:
        return Motion.of_table(self.motion.table(slice(None)), self.motion.reach)

    def _drawn(self, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
        factors = motion.jacobians[:, 0] @ self.factors
        return motion.centres[:, 0], factors @ np.swapaxes(factors, 1, 2)


def decode(data: PlayerData) -> StoredPlayer:
    """Unpack the data. Raises `InputError` where they are damaged or of another format."""
    header = data.header
    if header.get("format") != FORMAT:
        raise InputError(f"player data of the format {header.get('format')}; wanted {FORMAT}")
    try:
        payload = zlib.decompress(data.payload, 31)
    except zlib.error as error:
        raise InputError(f"the player's data are damaged ({error}); export it again") from error
    arrays = read_arrays(header["arrays"], payload)
    small = np.stack([arrays[f"rotation_{i}"] for i in range(3)], axis=1)
    scales = np.exp(np.stack([arrays[f"scale_{i}"] for i in range(3)], axis=1))
    bands = range(1, (int(header["sh_degree"]) + 1) ** 2)
    count = len(arrays["opacity"])
    harmonics = [np.stack([arrays[f"harmonic_{k}_{c}"] for c in range(3)], axis=1) for k in bands]
    quats = unpack_quaternions(arrays["rotation_largest"], small)
    return StoredPlayer(
        header, read_motion(header, arrays), shape_factors(quats, scales), arrays["opacity"],
        np.stack([arrays[f"colour_{c}"] for c in range(3)], axis=1),
        np.stack(harmonics, axis=1) if harmonics else np.zeros((count, 0, 3)), arrays.get("confidence"),
    )  # fmt: skip


def read_page(path: Path) -> StoredPlayer:
    """Unpack the data of a `player.html`. Raises `InputError` where it is none."""
    text = Path(path).read_text(encoding="utf-8")
    found = {
        name: re.search(rf'<script type="[^"]*" id="{name}">([^<]*)</script>', text) for name in ("header", "data")
    }
    header, data = found["header"], found["data"]
    if header is None or data is None:
        raise InputError(f"{path} is no player page of dyn4d")
    return decode(PlayerData(json.loads(header[1]), base64.b64decode(data[1])))
