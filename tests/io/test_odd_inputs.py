"""Inputs that people have: odd, damaged, or no clip at all. Each is read rightly, or refused in one line that names the
place and says what to do; nothing is written beside them."""

from __future__ import annotations

import json
import os
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from io_clips import HEIGHT, WIDTH, cameras, disc, frame, make_clip, save
from PIL import Image

from dyn4d import cli
from dyn4d.io.clips import load_clip
from dyn4d.io.video import write_mp4

Make = Callable[[Path], "list[str] | Path | None"]
GOOD: dict[str, tuple[Make, str]] = {}
BAD: dict[str, tuple[Make, str]] = {}


def good(name: str, says: str = "") -> Callable[[Make], Make]:
    """A case that can be used; `says`: a pattern of what the check prints."""

    def add(make: Make) -> Make:
        assert name not in {**GOOD, **BAD}
        GOOD[name] = (make, says)
        return make

    return add


def bad(name: str, says: str) -> Callable[[Make], Make]:
    """A case that is refused; `says`: a pattern of the one line."""

    def add(make: Make) -> Make:
        assert name not in {**GOOD, **BAD}
        BAD[name] = (make, says)
        return make

    return add


def words_of(made: list[str] | Path | None, folder: Path) -> list[str]:
    return made if isinstance(made, list) else [str(made or folder)]


def tree(folder: Path) -> set[str]:
    return {os.fspath(Path(root) / name) for root, folders, files in os.walk(folder) for name in [*folders, *files]}


@pytest.mark.parametrize("name", GOOD)
def test_taken(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, says = GOOD[name]
    folder = tmp_path / "clip"
    words = words_of(make(folder), folder)
    before = tree(tmp_path)
    code = cli.main(["check", *words, "--quiet"])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert re.search(says, " ".join(out.split())), out
    assert "error" not in err and tree(tmp_path) == before


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, says = BAD[name]
    folder = tmp_path / "clip"
    words = words_of(make(folder), folder)
    before = tree(tmp_path)
    code = cli.main(["check", *words, "--quiet"])
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if not line.startswith("warning")]
    assert code == 2, err
    assert len(lines) == 1 and lines[0].startswith("dyn4d: ") and "Traceback" not in err and "internal" not in err
    assert re.search(says, lines[0]), lines[0]
    assert tree(tmp_path) == before


def pictures(folder: Path, count: int = 3, width: int = WIDTH, height: int = HEIGHT, suffix: str = "png") -> Path:
    """Frames and masks of some size, nothing else."""
    for i in range(count):
        save(folder / f"rgb/{i:05d}.{suffix}", frame(i, width, height))
        save(folder / f"mask/{i:05d}.png", disc(i, width, height).astype(np.uint8) * 255)
    return folder


def film(path: Path, count: int = 6, width: int = 48, height: int = 36, fps: float = 12.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, [frame(i, width, height) for i in range(count)], fps)
    return path


# ------------------------------------------------------------------------------------------- pictures


@good("grey pictures")
def _(folder: Path) -> None:
    pictures(folder)
    for path in (folder / "rgb").iterdir():
        Image.open(path).convert("L").save(path)


@good("16-bit grey pictures")
def _(folder: Path) -> None:
    pictures(folder)
    for i in range(3):
        save(folder / f"rgb/{i:05d}.png", frame(i)[..., 1].astype(np.uint16) * 257)


@good("pictures with a palette")
def _(folder: Path) -> None:
    pictures(folder)
    for path in (folder / "rgb").iterdir():
        Image.open(path).quantize(16).save(path)


@good("CMYK pictures")
def _(folder: Path) -> None:
    pictures(folder, suffix="jpg")
    for path in (folder / "rgb").iterdir():
        Image.open(path).convert("CMYK").save(path)


@good("one-bit pictures")
def _(folder: Path) -> None:
    pictures(folder)
    for path in (folder / "rgb").iterdir():
        Image.open(path).convert("1").save(path)


@good("progressive JPEG")
def _(folder: Path) -> None:
    pictures(folder)
    for i in range(3):
        (folder / f"rgb/{i:05d}.png").unlink()
        save(folder / f"rgb/{i:05d}.jpg", frame(i), progressive=True)


@good("webp, tif and bmp side by side")
def _(folder: Path) -> None:
    pictures(folder)
    for i, suffix in enumerate(("webp", "tif", "bmp")):
        (folder / f"rgb/{i:05d}.png").unlink()
        save(folder / f"rgb/{i:05d}.{suffix}", frame(i))


@good("suffixes in capitals")
def _(folder: Path) -> None:
    pictures(folder)
    for path in list((folder / "rgb").iterdir()):
        path.rename(path.with_suffix(".PNG"))


@good("a JPEG called png")
def _(folder: Path) -> None:
    pictures(folder)
    for path in (folder / "rgb").iterdir():
        Image.open(path).convert("RGB").save(path, format="JPEG")


@good("EXIF rotation", r"18 x 24 pixels")
def _(folder: Path) -> None:
    for i in range(3):
        exif = Image.Exif()
        exif[0x0112] = 6
        save(folder / f"rgb/{i:05d}.jpg", frame(i), exif=exif.tobytes())
        save(folder / f"mask/{i:05d}.png", disc(i, HEIGHT, WIDTH).astype(np.uint8) * 255)


@bad("EXIF rotation of the frames alone", r"mask.00000\.png is 24x18, its frame is 18x24; make them the same")
def _(folder: Path) -> None:
    pictures(folder)
    for i in range(3):
        exif = Image.Exif()
        exif[0x0112] = 8
        (folder / f"rgb/{i:05d}.png").unlink()
        save(folder / f"rgb/{i:05d}.jpg", frame(i), exif=exif.tobytes())


@good("odd sizes", r"23 x 17 pixels")
def _(folder: Path) -> None:
    pictures(folder, width=23, height=17)


@good("a picture one pixel high", "hardly anything to match")
def _(folder: Path) -> list[str]:
    for i in range(2):
        save(folder / f"rgb/{i}.png", frame(i, 40, 1))
    return [str(folder), "--mask", "none"]


@good("a single pixel")
def _(folder: Path) -> list[str]:
    save(folder / "rgb/0.png", frame(0, 1, 1))
    return [str(folder), "--mask", "none"]


@good("a wide strip", "2000 x 20 pixels")
def _(folder: Path) -> list[str]:
    for i in range(2):
        save(folder / f"rgb/{i}.png", frame(i, 2000, 20))
    return [str(folder), "--mask", "none"]


@good("one frame", "the clip has one frame")
def _(folder: Path) -> None:
    pictures(folder, 1)


@good("two frames")
def _(folder: Path) -> None:
    pictures(folder, 2)


@good("all frames black")
def _(folder: Path) -> None:
    pictures(folder)
    for i in range(3):
        save(folder / f"rgb/{i:05d}.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))


@bad("frames of two sizes", r"00001\.png is 30x18, 00000\.png is 24x18; all frames of a clip need one size")
def _(folder: Path) -> None:
    pictures(folder)
    save(folder / "rgb/00001.png", frame(1, 30, HEIGHT))


@bad("a frame cut short", r"00001\.png is damaged or cut short; copy or extract it again")
def _(folder: Path) -> None:
    path = pictures(folder) / "rgb/00001.png"
    path.write_bytes(path.read_bytes()[:-30])


@bad("an empty frame file", r"00002\.png is empty \(0 bytes\)")
def _(folder: Path) -> None:
    (pictures(folder) / "rgb/00002.png").write_bytes(b"")


@bad("a frame that is text", r"00000\.png is no image that can be read")
def _(folder: Path) -> None:
    (pictures(folder) / "rgb/00000.png").write_text("<html>not found</html>")


@bad("a picture of impossible size", r"00001\.png is larger than any picture dyn4d reads; make it smaller")
def _(folder: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    (pictures(folder) / "rgb/00001.png").write_bytes(content)


@bad("two frames of one name", r"00000\.png and 00000\.jpg have the same name|same name; remove one")
def _(folder: Path) -> None:
    save(pictures(folder) / "rgb/00000.jpg", frame(0))


# ---------------------------------------------------------------------------------------------- masks


@good("masks of 0 and 1")
def _(folder: Path) -> None:
    pictures(folder)
    for i in range(3):
        save(folder / f"mask/{i:05d}.png", disc(i).astype(np.uint8))


@good("16-bit masks")
def _(folder: Path) -> None:
    pictures(folder)
    for i in range(3):
        save(folder / f"mask/{i:05d}.png", disc(i).astype(np.uint16) * 65535)


@good("masks in colour")
def _(folder: Path) -> None:
    pictures(folder)
    for i in range(3):
        save(folder / f"mask/{i:05d}.png", np.stack([disc(i) * 200, disc(i) * 0, disc(i) * 0], -1).astype(np.uint8))


@good("masks as JPEG")
def _(folder: Path) -> None:
    pictures(folder)
    for i in range(3):
        (folder / f"mask/{i:05d}.png").unlink()
        save(folder / f"mask/{i:05d}.jpg", disc(i).astype(np.uint8) * 255)


@good("one mask empty", "the mask is empty")
def _(folder: Path) -> None:
    save(pictures(folder, 4) / "mask/00001.png", np.zeros((HEIGHT, WIDTH), np.uint8))


@bad("all masks empty", "all 3 masks are empty; masks are white")
def _(folder: Path) -> None:
    pictures(folder)
    for i in range(3):
        save(folder / f"mask/{i:05d}.png", np.zeros((HEIGHT, WIDTH), np.uint8))


@bad("a mask missing", r"has 2 files, the clip 3 frames: no mask for frame 00001")
def _(folder: Path) -> None:
    (pictures(folder) / "mask/00001.png").unlink()


@bad("a mask too many", "00007.png belongs to no frame")
def _(folder: Path) -> None:
    save(pictures(folder) / "mask/00007.png", disc(0).astype(np.uint8) * 255)


@bad("masks of another size", r"mask.00000\.png is 12x9, its frame is 24x18")
def _(folder: Path) -> None:
    pictures(folder)
    for i in range(3):
        save(folder / f"mask/{i:05d}.png", disc(i, 12, 9).astype(np.uint8) * 255)


@bad("an empty mask folder", "holds no masks; fill it")
def _(folder: Path) -> None:
    pictures(folder)
    for path in (folder / "mask").iterdir():
        path.unlink()


@bad("no masks at all", "has no masks; put PNGs .* or take the whole frame with --mask none")
def _(folder: Path) -> None:
    for i in range(3):
        save(folder / f"rgb/{i:05d}.png", frame(i))


@bad("masks that are not where they are said to be", "--mask nowhere is not there")
def _(folder: Path) -> list[str]:
    return [str(pictures(folder)), "--mask", "nowhere"]


@bad("a mask cut short", r"mask.00001\.png is damaged or cut short")
def _(folder: Path) -> None:
    path = pictures(folder) / "mask/00001.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@bad("alpha that some frames lack", "has no alpha channel, other frames have")
def _(folder: Path) -> None:
    for i in range(3):
        picture = np.dstack([frame(i), disc(i) * 255]).astype(np.uint8)
        save(folder / f"rgb/{i:05d}.png", picture if i else frame(i))


# ------------------------------------------------------------------------------------ depth and cameras


@good("depth with NaN and negative values", "depth values are NaN, infinite or negative")
def _(folder: Path) -> None:
    make_clip(folder, depth=False)
    for i in range(4):
        depth = np.where(disc(i), 2.0, np.nan)
        depth[0, 0] = -1
        (folder / "depth").mkdir(exist_ok=True)
        np.save(folder / f"depth/{i:05d}.npy", depth)


@good("depth as doubles")
def _(folder: Path) -> None:
    make_clip(folder, depth=False)
    (folder / "depth").mkdir()
    for i in range(4):
        np.save(folder / f"depth/{i:05d}.npy", np.where(disc(i), 2.0 + 0.01 * i, 0).astype(np.float64)[None])


@bad("8-bit depth", r"depth.00000\.png: depth of mode L; wanted a 16-bit grey PNG")
def _(folder: Path) -> None:
    make_clip(folder)
    save(folder / "depth/00000.png", disc(0).astype(np.uint8) * 200)


@bad("depth of another size", r"depth.00002\.png is 12x9, its frame is 24x18")
def _(folder: Path) -> None:
    save(make_clip(folder) / "depth/00002.png", np.full((9, 12), 2000, np.uint16))


@bad("depth without cameras", "has depth but no K; add cameras.json")
def _(folder: Path) -> None:
    make_clip(folder, camera={})


@bad("a depth map missing", "no depth map for frame 00003")
def _(folder: Path) -> None:
    (make_clip(folder) / "depth/00003.png").unlink()


@bad("depth that is 0 everywhere", "no frame has depth inside its mask")
def _(folder: Path) -> None:
    make_clip(folder)
    for i in range(4):
        save(folder / f"depth/{i:05d}.png", np.zeros((HEIGHT, WIDTH), np.uint16))


@bad("a pickled array as depth", r"00000\.npy is damaged or cut short|is not one array")
def _(folder: Path) -> None:
    make_clip(folder, depth=False)
    (folder / "depth").mkdir()
    for i in range(4):
        np.save(folder / f"depth/{i:05d}.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


@bad("half a cameras.json", r"cameras\.json is not whole JSON \(line")
def _(folder: Path) -> None:
    path = make_clip(folder) / "cameras.json"
    path.write_text(path.read_text()[:200])


@bad("cameras.json for another size", r"cameras\.json says 640x480, the frames are 24x18")
def _(folder: Path) -> None:
    make_clip(folder, camera=cameras(4, width=640, height=480))


@bad("cameras.json in UTF-16", "is not UTF-8 text")
def _(folder: Path) -> None:
    path = make_clip(folder) / "cameras.json"
    path.write_text(path.read_text(), encoding="utf-16")


@bad("times that go backwards", "times must increase")
def _(folder: Path) -> None:
    data = cameras(4)
    for i, entry in enumerate(data["frames"]):
        entry["time"] = 1.0 - 0.1 * i
    make_clip(folder, camera=data)


@bad("a mirrored pose", r"frames\[2\]: the upper left 3x3 of w2c is no rotation")
def _(folder: Path) -> None:
    data = cameras(4)
    data["frames"][2]["w2c"] = np.diag([1.0, 1.0, -1.0, 1.0]).tolist()
    make_clip(folder, camera=data)


@bad("NaN in K", "K is not a 3x3 matrix of finite numbers")
def _(folder: Path) -> None:
    path = make_clip(folder) / "cameras.json"
    data = json.loads(path.read_text())
    data["K"][0][0] = float("nan")
    path.write_text(json.dumps(data))


# ----------------------------------------------------------------------------------------------- video


@good("a short video", "6 of 6 frames, 48 x 36")
def _(folder: Path) -> list[str]:
    return [str(film(folder / "film.mp4")), "--mask", "none"]


@good("a video of one frame", "the clip has one frame")
def _(folder: Path) -> list[str]:
    return [str(film(folder / "film.mp4", 1)), "--mask", "none"]


@good("a video with a variable frame rate", "times between frames vary")
def _(folder: Path) -> list[str]:
    folder.mkdir()
    path = folder / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 48, 36, "yuv420p"
        for i, when in enumerate((0, 30, 75, 100, 148, 170, 210)):
            picture = av.VideoFrame.from_ndarray(frame(i, 48, 36), format="rgb24")
            picture.pts = when
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return [str(path), "--mask", "none"]


@good("a video of odd size")
def _(folder: Path) -> list[str]:
    return [str(film(folder / "film.mp4", width=47, height=35)), "--mask", "none"]


@good("a GIF")
def _(folder: Path) -> list[str]:
    folder.mkdir()
    shots = [Image.fromarray(frame(i)) for i in range(4)]
    shots[0].save(folder / "film.gif", save_all=True, append_images=shots[1:], duration=50)
    return [str(folder / "film.gif"), "--mask", "none"]


@good("a video and masks as pictures")
def _(folder: Path) -> Path:
    path = film(folder / "film.mp4")
    for i in range(6):
        save(folder / f"film_mask/{i:03d}.png", disc(i, 48, 36).astype(np.uint8) * 255)
    return path


@bad("a video cut short", "is no video that can be read, or it is cut short|cannot be decoded")
def _(folder: Path) -> list[str]:
    path = film(folder / "film.mp4", 12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return [str(path), "--mask", "none"]


@bad("a video cut short in its last frames", r"film\.mp4.* (frame|cut short)")
def _(folder: Path) -> list[str]:
    path = film(folder / "film.mp4", 12)
    path.write_bytes(path.read_bytes()[:-200])
    return [str(path), "--mask", "none"]


@bad("an empty video", r"film\.mp4 is empty \(0 bytes\)")
def _(folder: Path) -> list[str]:
    folder.mkdir()
    (folder / "film.mp4").write_bytes(b"")
    return [str(folder / "film.mp4")]


@bad("a text file called mp4", r"film\.mp4 is no video that can be read")
def _(folder: Path) -> list[str]:
    folder.mkdir()
    (folder / "film.mp4").write_text("no film " * 100)
    return [str(folder / "film.mp4")]


@bad("two videos in a folder", "holds 2 videos; keep one, or give the video's own path")
def _(folder: Path) -> None:
    film(folder / "a.mp4")
    film(folder / "b.mp4")


@bad("masks for fewer frames than the video has", r"has 5 (files|frames), the clip")
def _(folder: Path) -> Path:
    path = film(folder / "film.mp4")
    for i in range(5):
        save(folder / f"film_mask/{i:03d}.png", disc(i, 48, 36).astype(np.uint8) * 255)
    return path


# ------------------------------------------------------------------------------------ paths and folders


@good("spaces and other letters in the path")
def _(folder: Path) -> Path:
    return pictures(folder / "mein Hund – großer ねこ 🐕")


@good("decomposed accents in the names")
def _(folder: Path) -> None:
    pictures(folder)
    for part, form in (("rgb", "NFC"), ("mask", "NFD")):
        for path in list((folder / part).iterdir()):
            path.rename(path.with_name(unicodedata.normalize(form, f"é{path.name}")))


@good("brackets and percent signs in the path")
def _(folder: Path) -> Path:
    return pictures(folder / "a[1] 100% {x} #2")


@good("hidden files and thumbnails beside the frames")
def _(folder: Path) -> None:
    pictures(folder)
    for name in (".DS_Store", "Thumbs.db", "._00000.png", "notes.txt"):
        (folder / "rgb" / name).write_bytes(b"junk")


@good("links to frames")
def _(folder: Path) -> None:
    pictures(folder)
    (folder / "rgb").rename(folder / "stored")
    (folder / "rgb").mkdir()
    for path in (folder / "stored").iterdir():
        (folder / "rgb" / path.name).symlink_to(path)


@bad("a loop of links", r"loop(.|\n)*cannot be opened")
def _(folder: Path) -> Path:
    folder.mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


@bad("a frame that is a loop of links", r"00001\.png")
def _(folder: Path) -> None:
    path = pictures(folder) / "rgb/00001.png"
    path.unlink()
    path.symlink_to(path)


@bad("a link that leads nowhere", r"00001\.png")
def _(folder: Path) -> None:
    path = pictures(folder) / "rgb/00001.png"
    path.unlink()
    path.symlink_to(folder / "gone.png")


@bad("an empty folder", "holds no rgb/ folder, no images and no video")
def _(folder: Path) -> None:
    folder.mkdir()


@bad("a folder of folders", "holds no rgb/ folder, no images and no video")
def _(folder: Path) -> None:
    pictures(folder / "one")
    pictures(folder / "two")


@bad("frames, masks and depth side by side", "side by side; put frames into rgb/")
def _(folder: Path) -> None:
    for i in range(2):
        save(folder / f"{i}_rgb.png", frame(i))
        save(folder / f"{i}_mask.png", disc(i).astype(np.uint8) * 255)


@bad("a folder called png", r"rgb.* holds no images|00001\.png")
def _(folder: Path) -> None:
    (folder / "rgb" / "00001.png").mkdir(parents=True)


@bad("a path that is not there", "is not there; give a clip folder")
def _(folder: Path) -> Path:
    return folder / "nothing"


@bad("a name with a null character", "cannot be opened .*; give a clip folder or a video file")
def _(folder: Path) -> list[str]:
    return ["a\0b"]


@bad("a name that is far too long", "cannot be opened .*; give a clip folder or a video file")
def _(folder: Path) -> list[str]:
    return ["x" * 5000]


@bad("a file of another kind", r"notes\.pdf is no video; give a clip folder")
def _(folder: Path) -> Path:
    folder.mkdir()
    (folder / "notes.pdf").write_bytes(b"%PDF-1.4")
    return folder / "notes.pdf"


@bad("frames that are not there", "--frames 90:99 picks no frame; the clip has 3, numbered 0 to 2")
def _(folder: Path) -> list[str]:
    return [str(pictures(folder)), "--frames", "90:99"]


# --------------------------------------------------------------------------------------------- beyond


def test_there_are_many() -> None:
    assert len(GOOD) + len(BAD) >= 60


def test_ten_thousand_frames_are_only_listed(tmp_path: Path) -> None:
    """All are found and their sizes compared; a picture is decoded when it is asked for."""
    first = save(tmp_path / "rgb/00000.png", frame(0))
    mask = save(tmp_path / "mask/00000.png", disc(0).astype(np.uint8) * 255)
    for i in range(1, 10_000):
        os.link(first, tmp_path / f"rgb/{i:05d}.png")
        os.link(mask, tmp_path / f"mask/{i:05d}.png")
    clip = load_clip(tmp_path)
    assert len(clip) == 10_000 and clip.names[-1] == "09999"
    assert not clip.images._cache and not clip.masks._cache  # type: ignore[attr-defined]
    assert clip.images[9_999].shape == (HEIGHT, WIDTH, 3)
    assert len(load_clip(tmp_path, frames="::1000")) == 10


def test_findings_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "clip", 4)
    save(tmp_path / "clip/mask/00002.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert cli.main(["check", str(tmp_path / "clip"), "--json", "-", "--quiet"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["usable"] and content["clip"]["frames"] == 4
    empty = next(one for one in content["findings"] if one["kind"] == "mask empty")
    assert empty["frames"] == [2] and empty["severity"] == "warning" and empty["file"].endswith("00002.png")


def test_a_clip_that_cannot_be_opened_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "found.json"
    assert cli.main(["check", str(tmp_path / "gone"), "--json", str(target)]) == 2
    content = json.loads(target.read_text())
    assert not content["usable"] and "is not there" in content["findings"][0]["text"]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_errors_are_listed_and_the_first_is_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(tmp_path)
    for name in ("rgb/00001.png", "mask/00002.png"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-25])
    assert cli.main(["check", str(tmp_path), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert "00001.png" in out and "00002.png" in out and "2 errors" in out
    assert len(err.splitlines()) == 1 and "and 1 more" in err
