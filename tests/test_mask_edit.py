"""The page that masks are corrected with, asked as a browser would."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_scenes import box_of, disc_clip, iou
from PIL import Image

from dyn4d.cli import main
from dyn4d.core.errors import InputError
from dyn4d.core.protocols import SilentProgress
from dyn4d.io.images import write_mask, write_png
from dyn4d.mask_cli import MaskRequest, make_masks, mask_folder, open_clip
from dyn4d.mask_edit import LARGEST, MaskServer
from dyn4d.mask_session import Session
from dyn4d.segmentation import MaskConfig

COUNT = 4


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    images, masks = disc_clip(COUNT)
    for i, (image, mask) in enumerate(zip(images, masks)):
        write_png(tmp_path / "disc" / "rgb" / f"{i:05d}.png", image)
        write_mask(tmp_path / "disc" / "mask" / f"{i:05d}.png", mask if i == 0 else np.zeros_like(mask))
    return tmp_path / "disc"


@pytest.fixture
def server(clip: Path) -> Iterator[MaskServer]:
    opened = open_clip(str(clip))
    with MaskServer(Session(opened, mask_folder(opened, str(clip), None), MaskConfig())) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(
    server: MaskServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
    sent = {"X-Token": server.token} | {name.replace("_", "-"): value for name, value in headers.items()}
    link.request(method, path, body, {name: value for name, value in sent.items() if value})
    answer = link.getresponse()
    data = answer.read()
    link.close()
    return answer.status, data, dict(answer.getheaders())


def png(mask: np.ndarray) -> bytes:
    """As the page sends it: opaque black and white."""
    rgba = np.dstack(
        [np.where(mask[..., None], 255, 0).astype(np.uint8).repeat(3, -1), np.full(mask.shape, 255, np.uint8)]
    )
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    return buffer.getvalue()


def answer_json(data: bytes) -> Any:
    return json.loads(data)


def test_the_page_its_frames_and_masks(server: MaskServer) -> None:
    status, page, headers = ask(server, f"/?token={server.token}", X_Token="")
    assert status == 200 and b"<canvas" in page and "default-src 'none'" in headers["Content-Security-Policy"]
    assert not re.findall(rb"(?:src|href)=\"(?!data:)", page)  # it needs nothing else
    summary = answer_json(ask(server, "/api/clip")[1])
    assert (summary["width"], summary["height"], len(summary["frames"])) == (128, 96, COUNT)
    with Image.open(io.BytesIO(ask(server, "/api/frame?n=1")[1])) as picture:
        assert picture.size == (128, 96)
    with Image.open(io.BytesIO(ask(server, "/api/mask?n=0")[1])) as picture:
        np.testing.assert_array_equal(np.asarray(picture) > 127, disc_clip(1)[1][0])


def test_a_corrected_mask_is_saved_and_becomes_a_key_frame(server: MaskServer, clip: Path) -> None:
    mask = disc_clip(COUNT)[1][2]
    status, data, _ = ask(server, "/api/mask?n=2", "POST", png(mask))
    assert status == 200 and answer_json(data)["frames"][2] == {
        "name": "00002", "score": 1.0, "key": True, "withdrawn": False
    }  # fmt: skip
    np.testing.assert_array_equal(np.asarray(Image.open(clip / "mask" / "00002.png")) > 127, mask)
    assert json.loads((clip / "masks.json").read_text())["keys"] == [2]
    assert sorted(p.name for p in (clip / "mask").iterdir()) == [f"{i:05d}.png" for i in range(COUNT)]
    empty = np.zeros_like(mask)
    assert ask(server, "/api/mask?n=2", "POST", png(empty))[0] == 200
    assert not np.asarray(Image.open(clip / "mask" / "00002.png")).any()


def test_key_frames_are_carried_to_the_others(server: MaskServer, clip: Path) -> None:
    status, data, _ = ask(server, "/api/carry", "POST", b"")
    assert status == 400 and "correct a frame and save it first" in answer_json(data)["error"]
    truth = disc_clip(COUNT)[1]
    ask(server, "/api/mask?n=2", "POST", png(truth[2]))
    ask(server, "/api/mask?n=0", "POST", png(np.zeros_like(truth[0])))  # no object there
    status, data, _ = ask(server, "/api/carry", "POST", b"")
    assert status == 200 and answer_json(data)["frames"][2]["key"]
    found = [np.asarray(Image.open(clip / "mask" / f"{i:05d}.png")) > 127 for i in range(COUNT)]
    np.testing.assert_array_equal(found[2], truth[2])
    assert min(iou(found[i], truth[i]) for i in (1, 3)) > 0.85
    assert not found[0].any()
    assert json.loads((clip / "masks.json").read_text())["keys"] == [0, 2]


def rows_of(clip: Path) -> list[dict[str, Any]]:
    return json.loads((clip / "masks.json").read_text())["frames"]


def withdraw(server: MaskServer, frame: int) -> dict[str, Any]:
    status, data, _ = ask(server, f"/api/withdraw?n={frame}", "POST", b"")
    assert status == 200
    return answer_json(data)["frames"][frame]


def test_a_withdrawn_key_frame_is_as_it_was_before(server: MaskServer, clip: Path) -> None:
    before, truth = (clip / "mask" / "00000.png").read_bytes(), disc_clip(COUNT)[1]
    for _ in range(2):  # the second correction is not what it goes back to
        ask(server, "/api/mask?n=0", "POST", png(truth[2]))
    assert withdraw(server, 0) == {"name": "00000", "score": 1.0, "key": False, "withdrawn": False}
    found, wanted = (np.asarray(Image.open(f)) for f in (clip / "mask" / "00000.png", io.BytesIO(before)))
    np.testing.assert_array_equal(found, wanted)
    assert "corrected" not in rows_of(clip)[0] and json.loads((clip / "masks.json").read_text())["keys"] == []
    status, data, _ = ask(server, "/api/withdraw?n=0", "POST", b"")
    assert status == 400 and "00000 is no key frame" in answer_json(data)["error"]


def test_a_key_frame_withdrawn_after_carrying_is_to_be_carried_anew(server: MaskServer, clip: Path) -> None:
    truth = disc_clip(COUNT)[1]
    for frame in (0, 2):
        ask(server, f"/api/mask?n={frame}", "POST", png(truth[frame]))
    ask(server, "/api/mask?n=3", "POST", png(~truth[3]))  # all wrong
    assert ask(server, "/api/carry", "POST", b"")[0] == 200
    row = withdraw(server, 3)
    assert row["withdrawn"] and row["score"] == 0 and not row["key"]
    record = json.loads((clip / "masks.json").read_text())
    assert record["keys"] == [0, 2] and 3 in record["doubtful"]
    assert ask(server, "/api/carry", "POST", b"")[0] == 200
    assert iou(np.asarray(Image.open(clip / "mask" / "00003.png")) > 127, truth[3]) > 0.85
    assert rows_of(clip)[3]["score"] > 0 and "withdrawn" not in rows_of(clip)[3]


def test_key_frames_of_boxes_keep_their_score_and_can_be_withdrawn(tmp_path: Path) -> None:
    images, masks = disc_clip(COUNT)
    for i, image in enumerate(images):
        write_png(tmp_path / "rgb" / f"{i:05d}.png", image)
    Image.fromarray(masks[3]).save(tmp_path / "3.png")
    keys = {"keys": [{"frame": 0, "box": box_of(masks[0])}, {"frame": 3, "mask": "3.png"}]}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    make_masks(MaskRequest(str(tmp_path), keys=str(tmp_path / "keys.json")), SilentProgress())
    opened = open_clip(str(tmp_path))
    session = Session(opened, mask_folder(opened, str(tmp_path), None), MaskConfig())
    score = session.record["frames"][0]["score"]
    assert 0 < score < 1
    session.carry(SilentProgress())
    assert rows_of(tmp_path)[0]["score"] == score and rows_of(tmp_path)[3]["score"] == 1
    before = (tmp_path / "mask" / "00000.png").read_bytes()
    session.withdraw(0)
    session.withdraw(3)
    first, last = rows_of(tmp_path)[0], rows_of(tmp_path)[3]
    assert first["score"] == score and "withdrawn" not in first and not first["key"]
    assert last["score"] == 0 and last["withdrawn"] and not last["key"]
    assert (tmp_path / "mask" / "00000.png").read_bytes() == before
    with pytest.raises(InputError, match="no key frame with an object"):
        session.carry(SilentProgress())


def test_carrying_is_watched_and_can_be_ended(server: MaskServer, clip: Path) -> None:
    ask(server, "/api/mask?n=2", "POST", png(disc_clip(COUNT)[1][2]))
    before = {p.name: p.read_bytes() for p in (clip / "mask").iterdir()}
    assert answer_json(ask(server, "/api/progress")[1]) == {"done": 0, "total": 0}
    server.progress.start("masks", 5)
    server.progress.update(score=1.0)
    assert answer_json(ask(server, "/api/progress")[1]) == {"done": 1, "total": 5}
    server.progress.stopped = True
    status, data, _ = ask(server, "/api/carry", "POST", b"")
    assert status == 400 and "not carried" in answer_json(data)["error"]
    assert {p.name: p.read_bytes() for p in (clip / "mask").iterdir()} == before
    assert sorted(p.name for p in clip.iterdir()) == ["mask", "masks.json", "rgb"]
    assert ask(server, "/api/progress", X_Token="wrong")[0] == 403


def test_others_are_refused(server: MaskServer, clip: Path) -> None:
    body, before = png(np.ones((96, 128), bool)), (clip / "mask" / "00000.png").read_bytes()
    for headers in ({"X_Token": "wrong"}, {"X_Token": ""}, {"Host": "evil.example"}, {"Origin": "http://evil.example"},
                    {"Origin": "null"}, {"Host": f"evil.example:{server.server_port}"}):  # fmt: skip
        assert ask(server, "/api/mask?n=0", "POST", body, **headers)[0] == 403, headers
        assert ask(server, "/api/withdraw?n=0", "POST", b"", **headers)[0] == 403, headers
        assert ask(server, "/api/clip", **headers)[0] == 403, headers
    assert (clip / "mask" / "00000.png").read_bytes() == before
    own = f"http://127.0.0.1:{server.server_port}"
    assert ask(server, "/api/clip", Origin=own)[0] == 200
    assert server.server_address[0] == "127.0.0.1"


def test_nonsense_is_refused_and_changes_nothing(server: MaskServer, clip: Path) -> None:
    before = (clip / "mask" / "00000.png").read_bytes()
    for path in (
        "/api/frame?n=99",
        "/api/mask?n=-1",
        "/api/mask",
        "/api/mask?n=../../x",
        "/etc/passwd",
        "/../masks.json",
    ):
        assert ask(server, path)[0] == 404, path
    assert ask(server, "/api/mask?n=0", "POST", b"no picture")[0] == 400
    assert ask(server, "/api/withdraw?n=99", "POST", b"")[0] == 404
    assert ask(server, "/api/mask?n=0", "POST", png(np.ones((5, 5), bool)))[0] == 400
    assert ask(server, "/api/mask?n=0", "POST", b"", Content_Length=str(LARGEST + 1))[0] == 411
    assert (clip / "mask" / "00000.png").read_bytes() == before


def test_clips_without_masks_are_refused(clip: Path) -> None:
    (clip / "mask" / "00003.png").unlink()
    opened = open_clip(str(clip))
    with pytest.raises(InputError, match="no mask for frame 00003"):
        Session(opened, mask_folder(opened, str(clip), None), MaskConfig())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_it_cleanly_and_nobody_else_corrects_meanwhile(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import sys; " \
           "from dyn4d.cli import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    words = [sys.executable, "-c", code, "mask", str(clip), "--edit", "--no-browser", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.match(r"http://127\.0\.0\.1:\d+/\?token=\S{20,}", line)
        for more in (["--edit", "--port", "0", "--no-browser"], ["--box", "2", "2", "40", "40", "--overwrite"]):
            assert main(["mask", str(clip), *more]) == 2
            said = " ".join(capsys.readouterr().err.split())
            assert f"another dyn4d (process {process.pid}) works on these masks" in said
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in errors
    assert said.startswith(f"no frame was corrected; the masks are in {clip / 'mask'}") and said.count("\n") == 1
    assert sorted(p.name for p in clip.iterdir()) == ["mask", "mask_sheet.png", "rgb"]  # and no lock


@pytest.fixture
def page(server: MaskServer) -> Iterator[Any]:
    """The page, ready, in a browser."""
    sys.path.insert(0, str(Path(__file__).parent / "export"))
    from headless import Browser, find_chromium

    if find_chromium() is None:
        pytest.skip("no chromium")
    with Browser(900, 700) as browser:
        browser.call("Page.navigate", url=server.address)
        for _ in range(300):
            if browser.evaluate("document.documentElement?.dataset.state ?? ''"):
                break
            time.sleep(0.1)
        assert browser.evaluate("document.documentElement.dataset.state") == "ready"
        yield browser
        if os.environ.get("DYN4D_TEST_PICTURES"):
            name = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0]
            Image.fromarray(browser.screenshot()).save(Path(os.environ["DYN4D_TEST_PICTURES"]) / f"{name}.png")
        assert browser.errors == []
        assert all(url.startswith((f"http://127.0.0.1:{server.server_port}/", "about:")) for url in browser.requests)


SUM = "bits(ink.getImageData(0, 0, mask.width, mask.height)).reduce((a, b) => a + b, 0)"


def stroke(page: Any, modifiers: int = 0) -> None:
    """From the middle of the view to the right, with the mouse; modifiers 8: Shift."""
    box = page.evaluate(
        "(() => { const b = view.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
    )
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    for kind, dx in (("mousePressed", 0), ("mouseMoved", 60), ("mouseReleased", 60)):
        page.call("Input.dispatchMouseEvent", type=kind, x=x + dx, y=y, button="left", buttons=1, clickCount=1,
                  modifiers=modifiers)  # fmt: skip


@pytest.mark.external
@pytest.mark.slow
def test_in_a_browser_a_stroke_is_drawn_undone_and_saved(page: Any, clip: Path) -> None:
    page.evaluate("open(1)")
    assert page.evaluate(SUM) == 0
    stroke(page)
    drawn = page.evaluate(SUM)
    assert drawn > 20 and page.evaluate("state.dirty")
    page.evaluate("$('undo').click()")
    assert page.evaluate(SUM) == 0
    page.evaluate("$('redo').click()")
    assert page.evaluate(SUM) == drawn
    assert page.evaluate("save()") is True
    saved = np.asarray(Image.open(clip / "mask" / "00001.png")) > 127
    assert int(saved.sum()) == drawn


@pytest.mark.external
@pytest.mark.slow
def test_in_a_browser_what_changes_nothing_makes_no_key_frame(page: Any, clip: Path) -> None:
    page.evaluate("open(1)")
    stroke(page)
    page.evaluate("$('undo').click()")
    assert not page.evaluate("state.dirty") and "changed" not in page.evaluate("$('where').textContent")
    stroke(page, modifiers=8)  # nothing is there to erase
    assert not page.evaluate("state.dirty") and page.evaluate("$('undo').disabled && !$('redo').disabled")
    page.evaluate("open(2)")
    assert not (clip / "masks.json").exists()
    stroke(page)
    page.evaluate("open(1)")  # leaving saves
    assert json.loads((clip / "masks.json").read_text())["keys"] == [2]
    page.evaluate("open(2)")
    assert page.evaluate("$('key').textContent") == "Not a key frame" and page.evaluate(SUM) > 20
    page.evaluate("toggle()")
    assert page.evaluate(SUM) == 0 and page.evaluate("$('key').textContent") == "Make it a key frame"
    assert json.loads((clip / "masks.json").read_text())["keys"] == []


@pytest.mark.external
@pytest.mark.slow
def test_in_a_browser_no_key_press_is_lost(page: Any, server: MaskServer) -> None:
    for _ in range(3):
        page.call("Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowRight", code="ArrowRight")
    page.evaluate("last")
    assert page.evaluate("[state.frame, state.wanted, Number($('slider').value)]") == [3, 3, 3]
    page.evaluate("step(-1); step(-1); step(-1); step(-1); step(1); last")  # there is none before the first
    assert page.evaluate("state.frame") == 1
    stroke(page)
    page.evaluate("$('carry').click()")
    page.evaluate("last")
    assert page.evaluate("$('said').textContent") == "all other masks were made again"
    server.session.record["frames"][2]["score"] = 0.97  # the lowest, and not doubtful
    for row in (0, 1, 3):
        server.session.record["frames"][row]["score"] = 0.99
    page.evaluate("document.documentElement.dataset.state = ''; location.reload()")
    for _ in range(100):
        if page.evaluate("document.documentElement?.dataset.state ?? ''") == "ready":
            break
        time.sleep(0.1)
    assert page.evaluate("state.frame") == 2
