"""R2D2 with the published weights against the outputs of the published code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dyn4d.matching.r2d2_extract import R2D2, R2D2Features
from dyn4d.matching.r2d2_match import R2D2Matcher
from dyn4d.matching.r2d2_network import WIDTHS, normalise
from dyn4d.matching.r2d2_weights import load_r2d2

CROP = {"min_size": 0, "max_size": 9999, "min_scale": 0.3}


def needed(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"the reference data has no {path.parent.name}/{path.name}")
    return path


@pytest.fixture(scope="module")
def r2d2(reference: Path) -> R2D2:
    return load_r2d2(needed(reference / "r2d2" / "r2d2_WASF_N16.pt"))


@pytest.fixture(scope="module")
def wanted(reference: Path) -> dict[str, np.ndarray]:
    with np.load(needed(reference / "r2d2" / "camel_crop_160x120.dense.npz")) as file:
        return {name: file[name] for name in file}


@pytest.fixture(scope="module")
def crop(reference: Path) -> np.ndarray:
    """(120, 160, 3) uint8."""
    return pixels(reference / "r2d2" / "camel_crop_160x120.png")


def pixels(path: Path) -> np.ndarray:
    with Image.open(needed(path)) as image:
        return np.asarray(image.convert("RGB"))


def as_image(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float() / 255


def in_order(found: R2D2Features, wanted: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Rows of `found` and of the published table (N, 3) x, y, size that belong together, by place and size.

    Returns:
        (M,) and (M,) rows that agree to 1/100 pixel, each at most once.
    """
    table = torch.cat([found.keypoints - 0.5, found.sizes[:, None]], 1).double()
    distance = torch.cdist(table, torch.from_numpy(wanted).double())
    nearest, which = distance.min(1)
    close = nearest < 0.01
    assert len(which[close].unique()) == int(close.sum())
    return close.nonzero()[:, 0], which[close].numpy()


def test_the_file(r2d2: R2D2) -> None:
    assert r2d2.network.widths == WIDTHS and r2d2.network.dim == 128


def test_normalised_input(crop: np.ndarray, wanted: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(normalise(as_image(crop)).numpy(), wanted["input"], atol=1e-6)


def test_dense_maps(r2d2: R2D2, crop: np.ndarray, wanted: dict[str, np.ndarray]) -> None:
    maps = r2d2.dense(as_image(crop))
    np.testing.assert_allclose(maps.reliability.numpy(), wanted["reliability"][0], atol=1e-4)
    np.testing.assert_allclose(maps.repeatability.numpy(), wanted["repeatability"][0], atol=1e-4)
    np.testing.assert_allclose(maps.descriptors.numpy(), wanted["descriptors"].astype(np.float32), atol=5e-4)


def test_keypoints_of_one_level(r2d2: R2D2, crop: np.ndarray, wanted: dict[str, np.ndarray]) -> None:
    found = r2d2.extract(as_image(crop), None, **{**CROP, "min_scale": 1.0})
    xy = (found.keypoints - 0.5).long().tolist()
    assert sorted((y, x) for x, y in xy) == sorted(map(tuple, wanted["nms_yx"].tolist()))


def test_all_levels(r2d2: R2D2, crop: np.ndarray, wanted: dict[str, np.ndarray]) -> None:
    found = r2d2.extract(as_image(crop), None, **CROP)
    ours, theirs = in_order(found, wanted["ms_xys"])
    assert len(ours) == len(found) == len(wanted["ms_xys"])
    table = torch.cat([found.keypoints - 0.5, found.sizes[:, None]], 1)[ours]
    np.testing.assert_allclose(table.numpy(), wanted["ms_xys"][theirs], atol=1e-4)
    np.testing.assert_allclose(found.descriptors[ours].numpy(), wanted["ms_desc"][theirs], atol=1e-4)
    np.testing.assert_allclose(found.scores[ours].numpy(), wanted["ms_scores"][theirs], atol=1e-4)


@pytest.mark.slow
def test_a_whole_frame(r2d2: R2D2, reference: Path) -> None:
    with np.load(needed(reference / "r2d2" / "camel_00000.r2d2_WASF_N16.npz")) as file:
        wanted = {name: file[name] for name in file}
    frame = pixels(reference / "data" / "real_camel" / "rgb" / "00000.jpg")
    assert frame.shape[1::-1] == tuple(wanted["imsize"])
    found = r2d2.extract(as_image(frame), 2000)
    ours, theirs = in_order(found, wanted["keypoints"])
    assert len(found) == 2000 and len(ours) >= 0.99 * 2000
    np.testing.assert_allclose(found.descriptors[ours].numpy(), wanted["descriptors"][theirs], atol=1e-4)
    np.testing.assert_allclose(found.scores[ours].numpy(), wanted["scores"][theirs], atol=1e-4)


def test_a_mask_is_a_filter(r2d2: R2D2, crop: np.ndarray) -> None:
    mask = np.zeros((120, 160), dtype=bool)
    mask[40:90, 60:120] = True
    every, found = r2d2.extract(as_image(crop), None, **CROP), r2d2.extract(as_image(crop), None, mask, **CROP)
    x, y = every.keypoints.long().unbind(-1)
    kept = every.keypoints[torch.from_numpy(mask)[y, x]]
    assert len(kept) > 50
    ours, other = set(map(tuple, found.keypoints.tolist())), set(map(tuple, kept.tolist()))
    assert len(ours & other) >= 0.99 * max(len(ours), len(other))


def test_matches_of_a_moved_crop(r2d2: R2D2, crop: np.ndarray) -> None:
    a, b = crop[:110, :150], crop[6:116, 9:159]
    mask = np.zeros((110, 150), dtype=bool)
    mask[34:74, 36:116] = True  # away from the edges, where the network sees what a moved frame cuts off
    found = R2D2Matcher(r2d2)(a, b, mask, np.roll(mask, (-6, -9), (0, 1)))
    error = (found.xy_a - found.xy_b - torch.tensor([9.0, 6.0])).norm(dim=1)
    assert len(found) > 15 and float(error.max()) == 0
