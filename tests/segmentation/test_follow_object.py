"""An object followed through a clip from a box, points or masks."""

from __future__ import annotations

import numpy as np
import pytest
from mask_scenes import HEIGHT, WIDTH, box_of, disc_clip, iou

from dyn4d.core.errors import InputError
from dyn4d.segmentation import FrameMask, MaskConfig, Prompt, follow_object
from dyn4d.segmentation.refine import full_mask


def follow(images: list[np.ndarray], *prompts: Prompt) -> list[FrameMask]:
    return list(follow_object(images, prompts))


def test_a_box_on_one_frame_gives_masks_of_all() -> None:
    images, masks = disc_clip()
    found = follow(images, Prompt(0, box=box_of(masks[0])))
    assert [one.frame for one in found] == list(range(len(images)))
    assert min(iou(one.mask, mask) for one, mask in zip(found, masks)) > 0.85
    assert all(0 <= one.score <= 1 for one in found) and found[0].key and not found[1].key


def test_points_find_the_object_too() -> None:
    images, masks = disc_clip(3)
    x, y = 34.0, 44.0
    points = ((x, y), (x - 8, y), (x + 8, y + 6))
    found = follow(images, Prompt(0, points=points, not_points=((100.0, 80.0), (34.0, 80.0), (60.0, 20.0))))
    assert found[0].mask[int(y), int(x)] and not found[0].mask[80, 100]
    assert iou(found[0].mask, masks[0]) > 0.7


def test_masks_given_come_back_unchanged_and_are_carried_to_both_sides() -> None:
    images, masks = disc_clip(7)
    found = follow(images, Prompt(3, mask=masks[3]))
    np.testing.assert_array_equal(found[3].mask, masks[3])
    assert found[3].score == 1 and found[3].key
    assert np.mean([iou(one.mask, mask) for one, mask in zip(found, masks)]) > 0.88
    assert min(iou(found[i].mask, masks[i]) for i in (2, 4)) > 0.93


def test_two_key_frames_hold_the_frames_between() -> None:
    images, masks = disc_clip(9)
    one = follow(images, Prompt(0, mask=masks[0]))
    two = follow(images, Prompt(8, mask=masks[8]), Prompt(0, mask=masks[0]))
    assert "agree" in two[4].checks and "agree" not in one[4].checks
    assert np.mean([iou(f.mask, m) for f, m in zip(two, masks)]) >= np.mean(
        [iou(f.mask, m) for f, m in zip(one, masks)]
    )


def test_the_score_falls_where_the_object_is_gone() -> None:
    images, masks = disc_clip(8, gone_from=5)
    found = follow(images, Prompt(0, mask=masks[0]))
    assert min(one.score for one in found[:5]) > max(one.score for one in found[5:])
    assert max(one.score for one in found[5:]) < MaskConfig().min_score


def test_work_at_a_smaller_size_gives_full_masks_with_edges_of_the_picture() -> None:
    images, masks = disc_clip(3, scale=4)
    found = list(follow_object(images, [Prompt(0, box=box_of(masks[0]))], MaskConfig(size=128)))
    assert found[1].mask.shape == (4 * HEIGHT, 4 * WIDTH)
    assert iou(found[1].mask, masks[1]) > 0.85


def test_refining_meets_an_edge_that_the_small_labels_miss() -> None:
    image = np.full((160, 160, 3), 40, np.uint8)
    image[:, 83:] = 200  # not on the grid of the small picture
    small = image.reshape(20, 8, 20, 8, 3).mean((1, 3)).astype(np.uint8)
    labels = np.zeros((20, 20), np.float32)
    labels[:, 10:] = 1.0
    mask = full_mask(labels, small, image)
    assert abs(int(mask[80].argmax()) - 83) <= 1
    assert mask[:, 100:].all() and not mask[:, :60].any()


def test_one_frame_and_tiny_frames() -> None:
    images, masks = disc_clip(1)
    assert iou(follow(images, Prompt(0, box=box_of(masks[0])))[0].mask, masks[0]) > 0.7
    tiny = [image[30:60, 20:60] for image in disc_clip(2)[0]]
    assert follow(tiny, Prompt(0, box=(5, 5, 30, 25)))[1].mask.shape == (30, 40)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (Prompt(9, box=(1, 1, 9, 9)), "--frame 9: the clip has 2 frames, numbered 0 to 1"),
        (Prompt(0, box=(9, 9, 1, 1)), "wanted X0 Y0 X1 Y1"),
        (Prompt(0, box=(500, 5, 600, 50)), "outside the frame of 128 x 96"),
        (Prompt(0, box=(float("nan"), 5, 600, 50)), "wanted X0 Y0 X1 Y1"),
        (Prompt(0, points=((500.0, 3.0),)), "point 500 3 lies outside"),
        (Prompt(0), "give a --box, a --point or a mask"),
        (Prompt(0, mask=np.zeros((96, 128), bool)), "is empty"),
        (Prompt(0, mask=np.ones((9, 12), bool)), "is 12x9, the frame 128x96"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(prompt: Prompt, says: str) -> None:
    with pytest.raises(InputError, match=says):
        follow(disc_clip(2)[0], prompt)


def test_a_frame_given_twice_is_refused() -> None:
    images, masks = disc_clip(2)
    with pytest.raises(InputError, match="frame 0 is given twice"):
        follow(images, Prompt(0, mask=masks[0]), Prompt(0, box=box_of(masks[0])))
