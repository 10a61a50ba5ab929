"""What a pair network said, kept on disk: one file for each pair, named by all that it depends on.

A name is the digest of both frames' pixels and masks, of the weights' values and of the options that matter. Another
picture, mask, network or option therefore never finds an old answer, and whatever was computed is found again by any
later run that asks for the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyn4d.core.errors import InputError
from dyn4d.geometry.network import EncodedImages, PairNetwork
from dyn4d.geometry.pair_results import PairFrame, PairResult
from dyn4d.io import artifacts

FORMAT = 1  # counts up when the meaning of what is kept changes


def image_digest(frame: PairFrame) -> str:
    """Of what the encoder sees."""
    return _digest(str(frame.image.shape).encode(), np.ascontiguousarray(frame.image).data)


def frame_digest(frame: PairFrame) -> str:
    """Of what the encoder sees and of the masks: all that a published network is told. A masked one is told more, see
    `hints_text`."""
    return _digest(image_digest(frame).encode(), np.packbits(frame.kept).data, np.packbits(frame.matched).data)


def weights_digest(network: PairNetwork) -> str:
    """Of every weight's value; about a second for the largest published network."""
    digest = hashlib.sha256(repr(network.config).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True)
class PairCache:
    """A folder of results and of encoded frames.

    Attributes:
        folder: made when first written to. basis: the digest of weights and options, for the names.
        encoder_basis: the digest of what an encoded frame depends on besides its picture.
    """

    folder: Path
    basis: str
    encoder_basis: str

    @staticmethod
    def of(folder: Path | str, network: PairNetwork, options: dict[str, Any], precision: str) -> PairCache:
        """Args: options: JSON values of all that a result depends on but frames, weights and precision."""
        weights = weights_digest(network)
        encoder = _digest(f"{FORMAT} {weights} {precision}".encode())
        return PairCache(Path(folder), _digest(encoder.encode(), json.dumps(options, sort_keys=True).encode()), encoder)

    def pair_file(self, digest_a: str, digest_b: str) -> Path:
        return self.folder / f"pair-{_digest(self.basis.encode(), digest_a.encode(), digest_b.encode())[:32]}.npz"

    def tokens_file(self, image: str) -> Path:
        return self.folder / f"encoded-{_digest(self.encoder_basis.encode(), image.encode())[:32]}.npz"


def save_result(path: Path, result: PairResult) -> None:
    tables = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in ("frame_a", "frame_b")}
    artifacts.save(path, tables)


def load_result(path: Path, pair: tuple[int, int], frames: Sequence[PairFrame]) -> PairResult:
    """Raises: InputError: missing, damaged or not of these frames; names the file."""
    tables = artifacts.load(path, dict)
    try:
        result = PairResult(*pair, **{name: torch.from_numpy(table) for name, table in tables.items()})
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}; remove it and run the same command again") from error
    counts = [int(frames[row].kept.sum()) for row in pair]
    if [len(result.a_in_a), len(result.b_in_b)] != counts:
        raise InputError(f"{path}: points of other frames; remove it and run the same command again")
    return result


def save_tokens(path: Path, encoded: EncodedImages) -> None:
    maps = {f"map{number}": each.cpu() for number, each in enumerate(encoded.maps)}
    artifacts.save(path, {"tokens": encoded.tokens.cpu(), **maps}, grid=list(encoded.grid))


def load_tokens(path: Path) -> EncodedImages | None:
    """None where the file is missing or cannot be used."""
    try:
        grid = artifacts.load_meta(path)["grid"]
        tables = artifacts.load(path, dict)
        maps = tuple(torch.from_numpy(tables[f"map{number}"]) for number in range(len(tables) - 1))
        return EncodedImages(torch.from_numpy(tables["tokens"]), (int(grid[0]), int(grid[1])), maps)
    except (InputError, KeyError, IndexError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class StoredPairResults:
    """Results on disk, read when asked for; fits `PairResults`.

    Attributes:
        files: of each result. pairs: (frame_a, frame_b) of each. frames: all frames of the clip.
    """

    files: tuple[Path, ...]
    pairs: tuple[tuple[int, int], ...]
    frames: tuple[PairFrame, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> PairResult:
        return load_result(self.files[index], self.pairs[index], self.frames)

    def __iter__(self) -> Iterator[PairResult]:
        return (self[index] for index in range(len(self)))
