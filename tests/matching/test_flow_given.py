"""Flow that comes with a clip: used as it is, put together where pairs have none, estimated where nothing helps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dyn4d.core.errors import InputError
from dyn4d.core.types import Clip, Correspondences, Timeline
from dyn4d.io.flow_files import write_flo
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.estimators import DisFlow
from dyn4d.matching.flow import match_clip
from dyn4d.matching.given_flows import Routes, find_path, plan_routes
from dyn4d.matching.windows import given_window, plan_windows

WIDTH, HEIGHT, COUNT = 110, 96, 5
STEP = np.array([2.5, -1.25])  # the object's motion a frame
BEND = 0.04  # and it grows a little wider
CONFIG = MatchingConfig(flow="files", window=2, strides=(4,), min_size=128, max_per_pair=10**6)


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, label: str, total: int, done: int = 0) -> None: ...

    def update(self, **values: float) -> None: ...

    def finish(self) -> None: ...

    def note(self, line: str) -> None:
        self.lines.append(line)


def moved(xy: np.ndarray, a: int, b: int) -> np.ndarray:
    """Where what is at `xy` (..., 2) in frame a is in frame b."""
    at = (xy - [40, 50] - a * STEP) / [1 + BEND * a, 1]
    return at * [1 + BEND * b, 1] + [40, 50] + b * STEP


def texture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255)


def centres(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)


def make_clip(folder: Path) -> Clip:
    front, back = texture(0), texture(1)
    images, masks = [], []
    for i in range(COUNT):
        source = moved(centres(), i, 0)
        x, y = (source - 0.5).astype(np.float32).transpose(2, 0, 1)
        picture = cv2.remap(front, x, y, cv2.INTER_CUBIC)
        mask = np.all(np.abs(source - [40, 50]) < [24, 20], axis=-1)
        images.append(np.clip(np.rint(np.where(mask[..., None], picture, back)), 0, 255).astype(np.uint8))
        masks.append(mask)
    times = np.linspace(0, 1, COUNT)
    timeline = Timeline(times, times, tuple(f"f_{i:03d}" for i in range(COUNT)))
    return Clip("test", folder, images, masks, np.arange(COUNT), timeline, WIDTH, HEIGHT)


def write_flows(folder: Path, pairs: Iterable[tuple[int, int]], scale: int = 1) -> None:
    for a, b in pairs:
        xy = centres(WIDTH * scale, HEIGHT * scale)
        write_flo(folder / f"f_{a:03d}_f_{b:03d}.flo", (moved(xy / scale, a, b) - xy / scale) * scale)


def all_pairs(gaps: tuple[int, ...] = (1, 2, 4)) -> list[tuple[int, int]]:
    return [(a, b) for a in range(COUNT) for b in range(COUNT) if abs(a - b) in gaps]


def error(found: Correspondences) -> torch.Tensor:
    out = np.zeros(len(found))
    for a, b in {(int(a), int(b)) for a, b in zip(found.frame_a, found.frame_b)}:
        rows = ((found.frame_a == a) & (found.frame_b == b)).numpy()
        truth = moved(found.xy_a[rows].double().numpy(), a, b)
        out[rows] = np.linalg.norm(found.xy_b[rows].double().numpy() - truth, axis=-1)
    return torch.from_numpy(out)


@pytest.fixture
def no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> np.ndarray:
        raise AssertionError("estimated, though there are files")

    monkeypatch.setattr(DisFlow, "__call__", never)


@pytest.mark.parametrize("size", [128, 360])
def test_files_are_used_as_they_are(tmp_path: Path, no_estimate: None, size: int) -> None:
    clip, notes = make_clip(tmp_path), Notes()
    write_flows(tmp_path / "flow", all_pairs())
    found = match_clip(clip, replace(CONFIG, min_size=size), progress=notes)
    assert len(found.frame_a.unique()) == COUNT
    assert error(found).max() < 1e-5  # whatever the windows' size
    whole = sum(int(np.asarray(clip.masks[a]).sum()) for a, _ in all_pairs())
    assert len(found) > 0.9 * whole
    assert notes.lines == [
        f"flow: {tmp_path / 'flow'}: files are named after the frames",
        "flow: of 16 ordered pairs 16 from files, 0 put together from them",
    ]


def test_neighbours_are_put_together(tmp_path: Path, no_estimate: None) -> None:
    write_flows(tmp_path / "flow", all_pairs((1,)))
    notes = Notes()
    found = match_clip(make_clip(tmp_path), CONFIG, progress=notes)
    gap = (found.frame_b - found.frame_a).abs()
    assert set(gap.tolist()) == {1, 2, 4}
    assert error(found)[gap == 1].max() < 1e-5
    assert error(found).max() < 0.05
    assert notes.lines[1:] == ["flow: of 16 ordered pairs 8 from files, 8 put together from them"]


def test_what_has_no_file_is_estimated(tmp_path: Path) -> None:
    write_flows(tmp_path / "elsewhere", [(0, 1), (1, 0), (1, 2), (3, 4), (0, 4)])
    clip, notes = make_clip(tmp_path), Notes()
    config = replace(CONFIG, flow_files=str(tmp_path / "elsewhere"))
    found = match_clip(clip, config, progress=notes)
    assert notes.lines[1].endswith("5 from files, 1 put together from them; 10 have none and are estimated (DIS)")
    exact = (found.frame_a == 0) & (found.frame_b == 4)
    assert error(found)[exact].max() < 1e-5 and int(exact.sum()) > 1000
    assert error(found).median() < 0.15 and len(found.frame_a.unique()) == COUNT
    named = match_clip(clip, replace(config, flow_files="elsewhere"))  # beside the clip's own folders
    assert torch.equal(found.xy_b, named.xy_b)


def test_the_same_bits_whatever_the_threads(tmp_path: Path) -> None:
    write_flows(tmp_path / "flow", [(0, 1), (1, 0), (1, 2), (3, 4), (0, 4)])
    clip = make_clip(tmp_path)
    one, three = (match_clip(clip, replace(CONFIG, threads=threads)) for threads in (1, 3))
    assert all(torch.equal(getattr(one, f.name), getattr(three, f.name)) for f in fields(Correspondences))


def test_unknown_flow_has_no_match(tmp_path: Path, no_estimate: None) -> None:
    write_flows(tmp_path / "flow", all_pairs((1,)))
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[45:55, 35:50] = False
    write_flo(tmp_path / "flow" / "f_001_f_002.flo", moved(centres(), 1, 2) - centres(), valid)
    clip = make_clip(tmp_path)
    found = match_clip(clip, CONFIG)
    for a, b, path in ((1, 2, (1,)), (0, 2, (0, 1)), (0, 4, (0, 1))):
        rows = (found.frame_a == a) & (found.frame_b == b)
        at = found.xy_a[rows].double().numpy()
        over = np.floor(moved(at, path[0], path[-1])).astype(int)
        assert valid[over[:, 1], over[:, 0]].mean() > 0.995 if a == 0 else valid[over[:, 1], over[:, 0]].all()
        assert int(rows.sum()) > 700
    everything_unknown = np.full((HEIGHT, WIDTH, 2), np.nan)
    for a, b in all_pairs((1,)):
        write_flo(tmp_path / "flow" / f"f_{a:03d}_f_{b:03d}.flo", everything_unknown)
    assert len(match_clip(clip, CONFIG)) == 0


def test_frames_left_out_keep_their_files(tmp_path: Path, no_estimate: None) -> None:
    clip = make_clip(tmp_path)
    write_flows(tmp_path / "flow", all_pairs((2,)))
    rows = np.array([0, 2, 4])
    part = replace(clip, frames=rows, images=[clip.images[i] for i in rows], masks=[clip.masks[i] for i in rows])
    found = match_clip(part, replace(CONFIG, window=1, strides=()))
    back = replace(found, frame_a=found.frame_a * 2, frame_b=found.frame_b * 2)
    assert set(back.frame_a.tolist()) == {0, 2, 4}
    gap = (back.frame_b - back.frame_a).abs()
    assert error(back)[gap == 2].max() < 1e-5 and error(back).max() < 0.05


def test_flow_of_the_larger_pictures(tmp_path: Path, no_estimate: None) -> None:
    """--max-size made the clip's pictures smaller than those that the flow was found on."""
    write_flows(tmp_path / "flow", all_pairs(), scale=3)
    found = match_clip(make_clip(tmp_path), CONFIG)
    assert len(found) > 10_000 and error(found).max() < 0.02


def test_a_window_holds_the_motion_of_the_pictures(tmp_path: Path) -> None:
    clip = make_clip(tmp_path)
    plan = plan_windows(clip, CONFIG)
    flow = (moved(centres(), 1, 3) - centres()).astype(np.float32)
    window = given_window(plan, 1, 3, flow, np.ones((HEIGHT, WIDTH), bool), (WIDTH, HEIGHT))
    assert window.shape == (plan.flow_height, plan.flow_width, 2) and window.dtype == np.float32
    rows, columns = np.nonzero(cv2.resize(np.ones((3, 3)), (plan.flow_width, plan.flow_height)))
    start = np.stack([columns, rows], -1).astype(float)
    xy = plan.from_window(1, start)
    inner = ((xy > 1) & (xy < [WIDTH - 1, HEIGHT - 1])).all(-1)
    ends = plan.from_window(3, start + window[rows, columns])
    np.testing.assert_allclose(ends[inner], moved(xy, 1, 3)[inner], atol=2e-3)
    np.testing.assert_allclose(plan.to_window(1, xy), start, atol=1e-9)


@pytest.mark.parametrize(
    ("have", "wanted"),
    [
        ([], [(1, "estimated", "estimated"), (2, "estimated", "estimated"), (5, "estimated", "estimated")]),
        ([(0, 1), (1, 2), (2, 1)], [(1, "given", "estimated"), (2, "chained", "estimated"),
                                    (5, "estimated", "estimated")]),
        ([(0, 2), (2, 3), (3, 4), (4, 5)], [(1, "estimated", "estimated"), (2, "given", "estimated"),
                                           (5, "chained", "estimated")]),
        ([(5, 0)], [(1, "estimated", "estimated"), (2, "estimated", "estimated"), (5, "estimated", "given")]),
    ],
)  # fmt: skip
def test_routes(have: list[tuple[int, int]], wanted: list[tuple]) -> None:
    found = list(plan_routes(0, [1, 2, 5], lambda a, b: (a, b) in have))
    assert found == [Routes(*row) for row in wanted]


def test_what_is_wrong_is_said_with_the_file(tmp_path: Path) -> None:
    clip = make_clip(tmp_path)
    with pytest.raises(InputError, match=r"has no folder flow.*--matching.flow-files"):
        match_clip(clip, CONFIG)
    with pytest.raises(InputError, match="nowhere is not there"):
        match_clip(clip, replace(CONFIG, flow_files="nowhere"))
    write_flows(tmp_path / "flow", all_pairs((1,)))
    write_flo(tmp_path / "flow" / "f_001_f_002.flo", np.zeros((HEIGHT, WIDTH - 1, 2)))
    with pytest.raises(InputError, match=r"f_001_f_002.flo is 109x96, the frames are 110x96"):
        match_clip(clip, CONFIG)
    (tmp_path / "flow" / "f_001_f_002.flo").write_bytes(b"")
    with pytest.raises(InputError, match=r"f_001_f_002.flo is empty"):
        match_clip(clip, CONFIG)


def left_out(clip: Clip, rows: list[int]) -> Clip:
    return replace(
        clip, frames=np.array(rows), images=[clip.images[i] for i in rows], masks=[clip.masks[i] for i in rows]
    )


@pytest.mark.parametrize(("rows", "scale"), [([0, 2, 4], 1), ([0, 1, 4], 1), ([0, 3], 1), ([0, 2, 4], 2)])
def test_files_of_frames_left_out_are_put_together(
    tmp_path: Path, no_estimate: None, rows: list[int], scale: int
) -> None:
    write_flows(tmp_path / "flow", all_pairs((1,)), scale)
    notes = Notes()
    part = left_out(make_clip(tmp_path), rows)
    found = match_clip(part, replace(CONFIG, window=2, strides=()), progress=notes)
    table = torch.tensor(rows)
    back = replace(found, frame_a=table[found.frame_a], frame_b=table[found.frame_b])
    assert set(back.frame_a.tolist()) == set(rows) and len(found) > 1000
    assert error(back).max() < 0.08
    whole = sum(a != b for a in rows for b in rows)
    direct = sum(abs(a - b) == 1 for a in rows for b in rows)
    assert (
        notes.lines[1] == f"flow: of {whole} ordered pairs {direct} from files, {whole - direct} put together from them"
    )


def test_unknown_flow_on_the_way_has_no_match(tmp_path: Path, no_estimate: None) -> None:
    write_flows(tmp_path / "flow", all_pairs((1,)))
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[45:55, 35:50] = False
    write_flo(tmp_path / "flow" / "f_001_f_002.flo", moved(centres(), 1, 2) - centres(), valid)
    found = match_clip(left_out(make_clip(tmp_path), [0, 2]), replace(CONFIG, window=1, strides=()))
    there = found.frame_a == 0
    over = np.floor(moved(found.xy_a[there].double().numpy(), 0, 1)).astype(int)
    assert int(there.sum()) > 700 and valid[over[:, 1], over[:, 0]].all()


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ([], []),
        ([(0, 1), (1, 2), (2, 3)], [0, 1, 2, 3]),
        ([(0, 1), (1, 2), (2, 3), (0, 2)], [0, 2, 3]),
        ([(0, 3), (0, 1)], [0, 3]),
        ([(0, 1), (1, 0), (2, 3), (0, 4), (4, 3)], []),  # not beyond the end and back
    ],
)
def test_the_way_over_files(files: list[tuple[int, int]], wanted: list[int]) -> None:
    assert find_path(0, 3, files) == wanted
    assert find_path(3, 0, [(3 - a, 3 - b) for a, b in files]) == [3 - frame for frame in wanted]
