"""What a deep check says of a clean clip, and of copies of it that are damaged in one way each."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dyn4d.check_cli import CheckRequest, check
from dyn4d.core.types import Clip, Timeline
from dyn4d.io.check import Finding, inspect_clip
from dyn4d.io.clip_watch import ClipWatch
from dyn4d.io.clips import load_clip
from dyn4d.synthetic import build_scene, write_scene

FRAMES = 24
HIT = 11  # the frame that is damaged, where it is one
Lists = tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """A creature that walks through a room while the camera goes round it, in memory."""
    folder = tmp_path_factory.mktemp("clean")
    clip = load_clip(write_scene(build_scene("creature", frames=FRAMES, size=192, background="room"), folder,
                                 truth=False).clip)  # fmt: skip
    images, masks = [clip.images[i] for i in range(FRAMES)], [clip.masks[i] for i in range(FRAMES)]
    assert clip.depth is not None
    return replace(clip, images=images, masks=masks, depth=[clip.depth[i] for i in range(FRAMES)])


def damaged(clip: Clip, change: Callable[[list, list, list], None]) -> Clip:
    assert clip.depth is not None
    images, masks, depth = ([np.array(part[i]) for i in range(len(clip))] for part in
                            (clip.images, clip.masks, clip.depth))  # fmt: skip
    change(images, masks, depth)
    return replace(clip, images=images, masks=masks, depth=depth)


def kinds(found: list[Finding]) -> dict[str, tuple[int, ...]]:
    return {f.kind: f.frames for f in found if f.kind not in ("summary", "")}


def test_a_clean_clip_raises_nothing(clean: Clip) -> None:
    assert kinds(inspect_clip(clean)) == {}


def _blur(images: list, masks: list, depth: list) -> None:
    images[HIT] = cv2.GaussianBlur(images[HIT], (0, 0), 1.5)


def _exposure(images: list, masks: list, depth: list) -> None:
    for i in range(HIT, FRAMES):
        images[i] = np.clip(images[i] * 0.8, 0, 255).astype(np.uint8)


def _flash(images: list, masks: list, depth: list) -> None:
    images[HIT] = np.clip(images[HIT] * 1.3, 0, 255).astype(np.uint8)


def _flicker(images: list, masks: list, depth: list) -> None:
    rows = np.flatnonzero(masks[HIT].any(1))
    masks[HIT][: rows[0] + len(rows) // 3] = False


def _too_much(images: list, masks: list, depth: list) -> None:
    masks[HIT] = cv2.dilate(masks[HIT].astype(np.uint8), np.ones((9, 9), np.uint8)) > 0


def _hole(images: list, masks: list, depth: list) -> None:
    away = cv2.distanceTransform(masks[HIT].astype(np.uint8), cv2.DIST_L2, 5)
    y, x = np.unravel_index(int(away.argmax()), away.shape)
    radius = int(away.max() - 2)
    cv2.circle(view := masks[HIT].astype(np.uint8), (int(x), int(y)), radius, 0, -1)
    masks[HIT][:] = view > 0


def _jump(images: list, masks: list, depth: list) -> None:
    masks[HIT] = np.roll(masks[HIT], 28, axis=1)


def _border(images: list, masks: list, depth: list) -> None:
    low = max(int(np.flatnonzero(mask.any(1))[-1]) for mask in masks) - 20
    for part in (images, masks, depth):
        part[:] = [value[:low] for value in part]


def _empty(images: list, masks: list, depth: list) -> None:
    masks[HIT][:] = False


def _swap(images: list, masks: list, depth: list) -> None:
    for part in (images, masks, depth):
        part[HIT - 1], part[HIT] = part[HIT], part[HIT - 1]


def _repeat(images: list, masks: list, depth: list) -> None:
    for part in (images, masks, depth):
        part[HIT] = part[HIT - 1]


def _almost_repeat(images: list, masks: list, depth: list) -> None:
    _repeat(images, masks, depth)
    images[HIT] = np.clip(images[HIT].astype(int) + np.random.default_rng(0).integers(-1, 2, images[HIT].shape), 0,
                          255).astype(np.uint8)  # fmt: skip


def _cut(images: list, masks: list, depth: list) -> None:
    for i in range(HIT, FRAMES):
        images[i] = images[i][:, ::-1].copy()
        masks[i] = masks[i][:, ::-1].copy()


def _depth_beside(images: list, masks: list, depth: list) -> None:
    depth[:] = [np.roll(one, 5, axis=1) for one in depth]


def _depth_holes(images: list, masks: list, depth: list) -> None:
    depth[HIT][::2] = 0


def _depth_thin(images: list, masks: list, depth: list) -> None:
    for one in depth:
        one[::3] = one[1::3] = 0


def _depth_scale(images: list, masks: list, depth: list) -> None:
    depth[:] = [one * 0.2 for one in depth]


def _depth_jump(images: list, masks: list, depth: list) -> None:
    depth[HIT] *= 1.3


def _depth_flat(images: list, masks: list, depth: list) -> None:
    for one in depth:
        one[one > 0] = 2.0


def _grey(images: list, masks: list, depth: list) -> None:
    images[:] = [np.where(mask[..., None], np.uint8(128), image) for image, mask in zip(images, masks)]


def _burnt(images: list, masks: list, depth: list) -> None:
    images[:] = [np.where(mask[..., None], np.uint8(255), image) for image, mask in zip(images, masks)]


EVERY = tuple(range(FRAMES))
DAMAGES: dict[str, tuple[Callable[[list, list, list], None], str, tuple[int, ...] | None]] = {
    "one frame blurred": (_blur, "blur", (HIT,)),
    "darker from a frame on": (_exposure, "exposure", (HIT,)),
    "one frame lighter": (_flash, "exposure", (HIT, HIT + 1)),
    "a third of a mask missing": (_flicker, "mask flicker", (HIT,)),
    "a mask with a wide rim": (_too_much, "mask flicker", (HIT,)),
    "a hole in a mask": (_hole, "mask hole", (HIT,)),
    "a mask elsewhere": (_jump, "mask jump", (HIT,)),
    "feet cut off": (_border, "mask border", None),
    "an empty mask": (_empty, "mask empty", ()),
    "two frames swapped": (_swap, "order", (HIT,)),
    "a frame repeated": (_repeat, "repeated", (HIT,)),
    "a frame nearly repeated": (_almost_repeat, "repeated", (HIT,)),
    "another shot from a frame on": (_cut, "cut", (HIT,)),
    "nothing of the object to be found again": (_cut, "far apart", (HIT,)),
    "depth 5 px to the right": (_depth_beside, "depth shift", ()),
    "half of a map missing": (_depth_holes, "depth holes", (HIT,)),
    "two thirds of all maps missing": (_depth_thin, "depth holes", ()),
    "depth in another unit": (_depth_scale, "depth scale", ()),
    "one map farther": (_depth_jump, "depth jump", (HIT,)),
    "the same depth everywhere": (_depth_flat, "flat depth", EVERY),
    "an object of one colour": (_grey, "texture", ()),
    "an object all white": (_burnt, "exposure", EVERY),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_found_and_its_frame_named(clean: Clip, name: str) -> None:
    change, kind, frames = DAMAGES[name]
    clip = damaged(clean, change)
    if clip.images[0].shape[0] != clip.height:
        clip = replace(clip, height=clip.images[0].shape[0])
    found = inspect_clip(clip)
    told = kinds(found)
    assert kind in told, told
    if frames is not None:
        assert told[kind] == frames
    one = next(f for f in found if f.kind == kind)
    assert one.severity in ("warning", "info") and "\n" not in one.line()
    assert (one.consequence and one.remedy) or kind == "mask empty"


def test_blur_is_seen_where_much_of_the_clip_is_blurred(clean: Clip) -> None:
    blurred = {2: 1.5, 5: 2.0, 8: 1.0, 11: 2.0, 12: 2.5, 16: 1.5, 19: 2.0, 21: 1.2}

    def smear(images: list, masks: list, depth: list) -> None:
        for i, sigma in blurred.items():
            images[i] = cv2.GaussianBlur(images[i], (0, 0), sigma)

    assert kinds(inspect_clip(damaged(clean, smear)))["blur"] == tuple(blurred)


def test_the_shift_of_depth_is_measured(clean: Clip) -> None:
    def down_and_left(images: list, masks: list, depth: list) -> None:
        depth[:] = [np.roll(one, (4, -6), axis=(0, 1)) for one in depth]

    text = next(f.text for f in inspect_clip(damaged(clean, down_and_left)) if f.kind == "depth shift")
    across, along = (int(number) for number in re.findall(r"(\d+) px (?:right|up)", text))
    assert abs(across - 6) <= 1 and abs(along - 4) <= 1


def test_the_scale_of_depth_is_measured(clean: Clip) -> None:
    text = next(f.text for f in inspect_clip(damaged(clean, _depth_scale)) if f.kind == "depth scale")
    assert 3 < float(text.split("if it were about ")[1].split(" ")[0]) < 9


def test_a_usual_divisor_that_would_mend_the_scale_is_named(clean: Clip, tmp_path: Path) -> None:
    (tmp_path / "cameras.json").write_text('{"depth_div": 1000}')
    clean = replace(clean, source=tmp_path)

    def too_far(images: list, masks: list, depth: list) -> None:
        depth[:] = [one * 5 for one in depth]

    found = next(f for f in inspect_clip(damaged(clean, too_far)) if f.kind == "depth scale")
    assert "at least about 3 times smaller" in found.text and "5000 would fit" in found.remedy
    found = next(f for f in inspect_clip(damaged(clean, _depth_scale)) if f.kind == "depth scale")
    assert "256 would fit" in found.remedy  # 200 is what was made of it


def test_times_that_leave_a_gap(clean: Clip) -> None:
    seconds = np.arange(FRAMES) / 24.0
    seconds[HIT:] += 0.4
    line = Timeline(seconds / seconds[-1], seconds, clean.timeline.names)
    found = kinds(inspect_clip(replace(clean, timeline=line)))
    assert found == {"time gap": (HIT,)}


def test_held_out_frames_leave_no_gap(clean: Clip, tmp_path: Path) -> None:
    kept = [i for i in range(FRAMES) if i % 8 != 4]
    seconds = np.arange(FRAMES) / 24.0
    line = Timeline(seconds / seconds[-1], seconds, clean.timeline.names)
    part = replace(clean, frames=np.array(kept), timeline=line, images=[clean.images[i] for i in kept], depth=None,
                   masks=[clean.masks[i] for i in kept], cameras=None, all_cameras=None, source=tmp_path)  # fmt: skip
    assert kinds(inspect_clip(part))["time gap"] == (5, 13, 21)
    (tmp_path / "truth").mkdir()
    views = [{"index": i, "time": float(seconds[i]), "view": "test"} for i in range(FRAMES) if i not in kept]
    (tmp_path / "truth/views.json").write_text(json.dumps({"views": views[:2]}))
    assert kinds(inspect_clip(part))["time gap"] == (21,)
    (tmp_path / "truth/views.json").write_text(json.dumps({"views": views}))
    assert "time gap" not in kinds(inspect_clip(part))


@pytest.mark.parametrize(("names", "rows"), [("{}", (HIT,)), ("dog_{:05d}_left", (HIT,)), ("{}a{}", ())])
def test_numbers_that_are_missing_in_the_names(clean: Clip, names: str, rows: tuple[int, ...]) -> None:
    numbers = [i + 4 * (i >= HIT) for i in range(FRAMES)]
    seconds = np.arange(FRAMES) / 24.0
    stems = tuple(names.format(n, n * n) for n in numbers)
    told = kinds(inspect_clip(replace(clean, timeline=Timeline(seconds / seconds[-1], seconds, stems))))
    assert told.get("frame numbers", ()) == rows and "time gap" not in told
    seconds = np.array(numbers) / 24.0  # times that know of the gap
    told = kinds(inspect_clip(replace(clean, timeline=Timeline(seconds / seconds[-1], seconds, stems))))
    assert "frame numbers" not in told and told["time gap"] == (HIT,)


@pytest.mark.parametrize("factor", [1.25, 0.6])
def test_a_frame_of_another_brightness_is_no_cut(clean: Clip, factor: float) -> None:
    def flash(images: list, masks: list, depth: list) -> None:
        images[HIT] = np.clip(images[HIT] * factor, 0, 255).astype(np.uint8)

    def step(images: list, masks: list, depth: list) -> None:
        images[HIT:] = [np.clip(one * factor, 0, 255).astype(np.uint8) for one in images[HIT:]]

    for change in (flash, step):
        told = kinds(inspect_clip(damaged(clean, change)))
        assert "exposure" in told and "cut" not in told


def test_the_share_of_the_object_that_is_found_again_is_measured(clean: Clip) -> None:
    def other_below(images: list, masks: list, depth: list) -> None:
        low = int(np.median(np.nonzero(masks[HIT - 1])[0]))
        images[HIT] = np.roll(images[HIT - 1], 3, axis=1)
        noise = np.random.default_rng(0).integers(0, 256, images[HIT].shape, dtype=np.uint8)
        images[HIT][low:] = noise[low:]

    clip = damaged(clean, other_below)
    watch = ClipWatch(clip)
    for row in range(HIT - 3, HIT + 1):
        watch.add(row, np.asarray(clip.images[row]), np.asarray(clip.masks[row], dtype=bool), None)
    *usual, here = [one.again for one in watch.figures]
    assert np.isnan(usual[0]) and min(usual[1:]) > 0.9
    assert here == pytest.approx(0.5, abs=0.1)


def test_pictures_that_are_all_object_are_followed_too(clean: Clip) -> None:
    """More pixels of the object than OpenCV takes in one row, of pictures as of masks that are all of them."""
    images = [cv2.resize(np.asarray(clean.images[row]), (300, 300)) for row in range(FRAMES)]
    for inside in (298, 300):
        masks = [np.arange(300)[:, None].repeat(300, 1) < inside for _ in images]
        whole = replace(clean, images=images, masks=masks, depth=None, cameras=None, all_cameras=None)
        watch = ClipWatch(whole)
        for row, image in enumerate(images[:4]):
            watch.add(row, image, masks[row], None)
        assert min(one.again for one in watch.figures[1:]) > 0.9


def test_a_small_hole_that_its_neighbours_do_not_have(clean: Clip) -> None:
    """On a plain body without gaps, 2.5 % of it."""
    picture = np.full((192, 192, 3), 90, np.uint8)
    masks = [cv2.circle(np.zeros((192, 192), np.uint8), (90 + i // 4, 96), 50, 1, -1) > 0 for i in range(FRAMES)]
    images = [np.where(mask[..., None], np.uint8(160), picture) for mask in masks]
    masks[HIT][90:104, 80:94] = False
    body = replace(clean, images=images, masks=masks, depth=None, cameras=None, all_cameras=None)
    assert kinds(inspect_clip(body)).get("mask hole") == (HIT,)


def test_a_camera_that_stands_still(clean: Clip) -> None:
    assert clean.cameras is not None
    still = replace(clean.cameras, world_from_cam=clean.cameras.world_from_cam[:1].expand(FRAMES, 4, 4).clone())
    assert "static camera" in kinds(inspect_clip(replace(clean, cameras=still)))


def test_a_camera_that_stands_still_is_seen_in_the_background(clean: Clip) -> None:
    backdrop = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (192, 192, 3), dtype=np.uint8), (0, 0), 2)
    images = [np.where(np.asarray(clean.masks[i])[..., None], clean.images[i], backdrop) for i in range(FRAMES)]
    found = inspect_clip(replace(clean, images=images, cameras=None, all_cameras=None, depth=None))
    assert "static camera" in kinds(found)


def test_figures_are_all_that_is_kept(clean: Clip) -> None:
    """Of long clips only a few frames may be held at a time."""
    held: list[int] = []

    class Counting:
        def __init__(self, frames: list) -> None:
            self.frames = frames

        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: int, /) -> np.ndarray:
            held.append(index)
            return self.frames[index % FRAMES]

    seconds = np.arange(200) / 24.0
    line = Timeline(seconds / seconds[-1], seconds, tuple(f"{i:05d}" for i in range(200)))
    long = replace(clean, images=Counting(list(clean.images)), masks=Counting(list(clean.masks)), depth=None,
                   cameras=None, all_cameras=None, frames=np.arange(200), timeline=line)  # fmt: skip
    inspect_clip(long)
    assert len(held) == 400 and held[::2] == list(range(200))  # each picture and mask once, in order


def test_one_frame_can_be_looked_at(clean: Clip, tmp_path: Path) -> None:
    rows = torch.tensor([0])
    assert clean.cameras is not None
    one = replace(clean, images=clean.images[:1], masks=clean.masks[:1], depth=None, frames=np.arange(1),
                  cameras=clean.cameras[rows], timeline=Timeline(np.zeros(1), np.zeros(1), ("0",)))  # fmt: skip
    assert kinds(inspect_clip(one)).keys() == {"one frame"}


def test_a_clip_that_needs_weights_or_maps_to_run_is_told_so(tmp_path: Path) -> None:
    scene = write_scene(build_scene("creature", frames=3, size=64), tmp_path, truth=False)
    said: list[str] = []
    assert all(f.kind != "geometry" for f in check(CheckRequest(str(scene.clip)), None, said.append))
    shutil.rmtree(scene.clip / "depth")
    (scene.clip / "cameras.json").unlink()
    found = [f for f in check(CheckRequest(str(scene.clip)), None, said.append) if f.kind == "geometry"]
    assert [f.severity for f in found] == ["warning"] and "--geometry.weights" in found[0].remedy
    assert "no depth maps" not in said[0] and "no depth maps" in said[1]
