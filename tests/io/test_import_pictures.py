"""DAVIS, videos and folders of pictures become clips; what is found is found by itself; the command says what to do."""

import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from import_checks import assert_passes_check, imported, run_import, seen
from import_sources import HEIGHT, POINTS, WIDTH, disc, picture, save, write_json
from PIL import Image

from dyn4d import cli
from dyn4d.core.errors import InputError
from dyn4d.io import load_clip, load_truth
from dyn4d.io.importers.detect import FORMATS, find_format
from dyn4d.io.importers.sequence import Pixels, Sequence4D, SourceFrame
from dyn4d.io.importers.writer import write_clip

ROOT = Path(__file__).parents[2]


def labels(path, values):
    """A palette PNG, as DAVIS has them."""
    image = Image.fromarray(values.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0] * 756)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def two_objects(index):
    out = disc(index=index).astype(np.uint8)
    out[:6, :6] = 2
    return out


def davis(root, names=("dog",), *, annotated=4):
    for name in names:
        for i in range(4):
            save(root / f"JPEGImages/480p/{name}/{i:05d}.jpg", picture(i))
            if i < annotated:
                labels(root / f"Annotations/480p/{name}/{i:05d}.png", two_objects(i))
    return root


def test_davis_from_the_root_and_from_the_sequence(tmp_path):
    root = davis(tmp_path / "DAVIS", ("dog", "camel"))
    with pytest.raises(InputError, match=r"2 sequences.*camel, dog"):
        run_import(root, tmp_path / "x")
    clip = imported(root, tmp_path / "a", sequence="dog")
    again = imported(root / "JPEGImages/480p/dog", tmp_path / "b", fps=12.0)
    assert clip.timeline.fps == pytest.approx(24) and again.timeline.fps == pytest.approx(12)
    for row in range(4):
        assert np.array_equal(clip.masks[row], two_objects(row) > 0)
        assert np.array_equal(clip.masks[row], again.masks[row])
    assert (tmp_path / "a/rgb/00001.jpg").read_bytes() == (root / "JPEGImages/480p/dog/00001.jpg").read_bytes()
    assert_passes_check(clip)


def test_davis_objects_are_chosen_by_their_label(tmp_path):
    root = davis(tmp_path / "DAVIS")
    assert "--object-id" in run_import(root, tmp_path / "all")
    clip = imported(root, tmp_path / "a", object_id=(2,))
    assert clip.masks[3].sum() == 36 and clip.masks[3][0, 0]
    assert np.array_equal(imported(root, tmp_path / "b", object_id=(1, 2)).masks[1], two_objects(1) > 0)
    with pytest.raises(InputError, match="--object-id 7"):
        run_import(root, tmp_path / "c", object_id=(7,))


def test_davis_2016_is_black_and_white(tmp_path):
    root = davis(tmp_path / "DAVIS")
    for i in range(4):
        save(root / f"Annotations/480p/dog/{i:05d}.png", disc(index=i).astype(np.uint8) * 255)
    assert np.array_equal(imported(root, tmp_path / "a").masks[2], disc(index=2))


def test_davis_with_the_first_frame_annotated_alone(tmp_path):
    said = run_import(davis(tmp_path / "DAVIS", annotated=1), tmp_path / "a")
    assert "no annotation of 3 frames" in said and "dyn4d mask" in said


# -------------------------------------------------------------------------------------------------- video


def film(path, times, *, codec="ffv1", colours="bgr0", width=WIDTH, height=HEIGHT, masks=False):
    """With these time stamps (milliseconds); the usual codec loses nothing."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt = width, height, colours
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i, stamp in enumerate(times):
            image = np.repeat(disc(index=i)[..., None] * np.uint8(255), 3, 2) if masks else picture(i, width, height)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format=colours)
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


STAMPS = [0, 40, 60, 110, 200, 210]


def test_a_video_of_uneven_rate_keeps_its_times(tmp_path):
    source = film(tmp_path / "dog.mkv", STAMPS)
    clip = imported(source, tmp_path / "clip", mask="none")
    assert clip.timeline.seconds.tolist() == pytest.approx([t / 1000 for t in STAMPS])
    for row in range(6):
        assert np.array_equal(clip.images[row], picture(row))
    some = imported(source, tmp_path / "some", mask="none", frames="1:6:2", max_size=32)
    assert some.timeline.seconds.tolist() == pytest.approx([0.04, 0.11, 0.21])
    assert (some.width, some.height) == (32, 24) and some.timeline.names == ("000001", "000003", "000005")
    few = imported(source, tmp_path / "few", mask="none", fps=10.0)
    assert few.timeline.seconds.tolist() == pytest.approx([0, 0.11, 0.2])


def test_masks_of_a_video_from_a_folder_or_a_video(tmp_path):
    source = film(tmp_path / "dog.mkv", STAMPS)
    other = film(tmp_path / "mask.mkv", STAMPS, masks=True)
    for i in range(6):
        save(tmp_path / f"m/{i:03d}.png", disc(index=i).astype(np.uint8) * 255)
    for name, masks in (("a", other), ("b", tmp_path / "m")):
        clip = imported(source, tmp_path / name, masks=str(masks), frames="2:5")
        assert np.array_equal(clip.masks[0], disc(index=2))
        assert_passes_check(clip)
    (tmp_path / "m/003.png").unlink()
    with pytest.raises(InputError, match="5 masks for 6 frames"):
        run_import(source, tmp_path / "c", masks=str(tmp_path / "m"))
    with pytest.raises(InputError, match="no folder"):
        run_import(source, tmp_path / "c", masks=str(tmp_path / "nowhere"))


def test_intrinsics_that_are_given_and_a_still_camera(tmp_path):
    source = film(tmp_path / "dog.mkv", STAMPS)
    lens = (70.0, 72.0, 31.0, 24.5)
    clip = imported(source, tmp_path / "clip", mask="none", intrinsics=lens, static=True)
    points = POINTS + np.array([0.0, 0.0, 2.0])
    x, y, z = points.T
    pixels = np.stack([70 * x / z + 31.5, 72 * y / z + 25], axis=1)
    assert np.abs(seen(clip.cameras, 3, points) - pixels).max() < 0.01 and clip.poses_given
    with pytest.raises(InputError, match="FX FY CX CY"):
        run_import(source, tmp_path / "b", intrinsics=(70.0, -72.0, 31.0, 24.5))


def test_a_still_camera_is_said_also_without_intrinsics(tmp_path):
    source = film(tmp_path / "dog.mkv", STAMPS)
    said = run_import(source, tmp_path / "clip", static=True)
    assert "static camera, no intrinsics" in said and "no cameras" not in said
    assert "no cameras" in run_import(source, tmp_path / "moved")
    said = run_import(source, tmp_path / "both", static=True, intrinsics=(70.0, 72.0, 31.0, 24.5))
    assert "static camera)" in said


def test_masks_that_lie_beside_the_pictures_are_said(tmp_path):
    for i in range(3):
        save(tmp_path / f"dog/frames/{i}.png", picture(i))
        save(tmp_path / f"dog/masks/{i}.png", disc(index=i).astype(np.uint8) * 255)
    assert f"the masks are those of {tmp_path / 'dog/masks'}" in run_import(tmp_path / "dog", tmp_path / "clip")
    said = run_import(tmp_path / "dog", tmp_path / "b", masks=str(tmp_path / "dog/masks"))
    assert "the masks are those" not in said


def test_a_film_without_its_end_may_be_cut_short(tmp_path):
    path = film(tmp_path / "dog.mp4", STAMPS, codec="mpeg4", colours="yuv420p")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])  # the index is what comes last
    with pytest.raises(InputError, match=r"dog\.mp4 .*cut short"):
        run_import(path, tmp_path / "clip")


def test_what_is_no_video_is_one_line(tmp_path):
    (tmp_path / "dog.mp4").write_bytes(b"not a film" * 100)
    with pytest.raises(InputError, match=r"dog\.mp4"):
        run_import(tmp_path / "dog.mp4", tmp_path / "clip")


def test_a_folder_of_turned_pictures(tmp_path):
    for i in range(3):
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees clockwise
        save(tmp_path / f"dog/{i}.jpg", picture(i), exif=exif, quality=95)
    clip = imported(tmp_path / "dog", tmp_path / "clip", mask="none")
    assert (clip.width, clip.height) == (HEIGHT, WIDTH)
    assert Image.open(tmp_path / "clip/rgb/1.png").size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_that_is_cut_short_is_refused_by_name(suffix, tmp_path):
    for i in range(3):
        file = save(tmp_path / f"dog/{i}.{suffix}", picture(i))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match=rf"2\.{suffix} is damaged or cut short"):
        run_import(tmp_path / "dog", tmp_path / "clip")
    assert not (tmp_path / "clip").exists()


# ------------------------------------------------------------------------------------- finding and writing


def test_every_format_is_found_by_what_lies_there(tmp_path):
    things = {
        "nerfies": ["dataset.json", "camera/0.json"], "blender": ["transforms_train.json"],
        "nerfstudio": ["transforms.json", "images/0.png"], "record3d": ["metadata", "rgbd/0.jpg"],
        "tum": ["rgb.txt", "rgb/0.png"], "davis": ["JPEGImages/480p/a/0.jpg"],
        "colmap": ["sparse/0/cameras.bin", "sparse/0/images.bin", "images/0.png"], "images": ["0.png", "1.png"],
        "video": ["dog.mp4"],
    }  # fmt: skip
    for name, files in things.items():
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).touch()
        assert find_format(tmp_path / name) == name
    for name in ("a.r3d", "a.bag", "a.mp4"):
        (tmp_path / name).touch()
    found = [find_format(tmp_path / name) for name in ("a.r3d", "a.bag", "a.mp4")]
    assert found == ["record3d", "realsense", "video"]
    assert {*things, "realsense"} == set(FORMATS)


def test_what_fits_nothing_lists_what_was_looked_for(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(InputError) as caught:
        find_format(tmp_path / "other")
    assert all(name in str(caught.value) for name in FORMATS) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"does not fit --format tum: wanted rgb\.txt"):
        find_format(tmp_path / "other", "tum")
    save(tmp_path / "clip/rgb/0.png", picture())
    save(tmp_path / "clip/mask_sheet.png", picture())  # of dyn4d mask: no picture of the video
    with pytest.raises(InputError, match=r"is a clip already \(it has rgb\)"):
        find_format(tmp_path / "clip")
    write_json(tmp_path / "clip/cameras.json", {})
    with pytest.raises(InputError, match="is a clip already"):
        find_format(tmp_path / "clip")


def test_frames_of_two_sizes_and_times_that_stand_still(tmp_path):
    save(tmp_path / "dog/0.png", picture(0))
    save(tmp_path / "dog/1.png", picture(1, 32, 24))
    with pytest.raises(InputError, match="one size"):
        run_import(tmp_path / "dog", tmp_path / "clip")
    assert not (tmp_path / "clip").exists() and not list(tmp_path.glob(".tmp*"))
    pixels = Pixels(lambda: picture(), "a frame")
    frames = (SourceFrame("a", 1.0, pixels), SourceFrame("b", 1.0, pixels))
    with pytest.raises(InputError, match="times must increase"):
        write_clip(Sequence4D("test", tmp_path, frames), tmp_path / "clip")


def test_held_out_views_stay_inside_the_frames_that_are_kept(tmp_path):
    from test_import_transforms import dnerf

    said = run_import(dnerf(tmp_path / "lego"), tmp_path / "clip", frames="0:2", max_size=32)
    assert "1 held-out views lie before or after" in said or "2 held-out" in said
    clip = load_clip(tmp_path / "clip")
    assert len(clip) == 2 and clip.width == 32
    said = run_import(dnerf(tmp_path / "two"), tmp_path / "b", frames="0:3", max_size=32)
    assert {view.index for view in load_truth(tmp_path / "b/truth").views} == {1, 2}


def test_only_an_imported_clip_is_replaced(tmp_path, capsys):
    root = davis(tmp_path / "DAVIS")
    words = ["import", str(root), "--out", str(tmp_path / "clip"), "--quiet"]
    assert cli.main(words) == 0 and capsys.readouterr().out == ""
    assert cli.main(words) == 2 and "--overwrite" in capsys.readouterr().err
    (tmp_path / "clip/old.txt").touch()
    assert cli.main([*words, "--overwrite", "--object-id", "2"]) == 0 and not (tmp_path / "clip/old.txt").exists()
    for other in (root, tmp_path, root / "JPEGImages"):
        assert cli.main(["import", str(root), "--out", str(other), "--overwrite"]) == 2
        assert (root / "JPEGImages/480p/dog/00000.jpg").is_file()


def test_the_command_line_says_what_to_do_next(tmp_path, capsys):
    root = davis(tmp_path / "DAVIS")
    out = tmp_path / "clip"
    assert cli.main(["import", str(root), "--out", str(out)]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(f"next: dyn4d check {out}, then dyn4d run {out}   (there is no depth")
    assert cli.main(["check", str(out)]) == 0
    (tmp_path / "empty").mkdir()
    assert cli.main(["import", str(tmp_path / "empty"), "--out", "x"]) == 2
    assert capsys.readouterr().err.strip().endswith("empty is empty")
    for words in (["import"], ["import", str(root)], ["import", str(root), "--out", "x", "--format", "raw"]):
        assert cli.main(words) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_nothing(tmp_path):
    source = tmp_path / "dog"
    first = save(source / "0.png", picture(0, 320, 240))
    for i in range(1, 200):
        shutil.copyfile(first, source / f"{i}.png")
    code = (  # processes that start in the background ignore the signal until told otherwise
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from dyn4d.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [
        sys.executable,
        "-c",
        code,
        "import",
        str(source),
        "--out",
        str(tmp_path / "out/clip"),
        "--max-size",
        "300",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=env) as job:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob(".tmp*/rgb/*.png")) and time.monotonic() < deadline:
            time.sleep(0.02)
        job.send_signal(signal.SIGINT)
        _, err = job.communicate(timeout=60)
    assert job.returncode == 130 and b"Traceback" not in err
    assert not list((tmp_path / "out").iterdir())
