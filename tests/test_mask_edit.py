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
from mask_scenes import disc_clip, iou
from PIL import Image

from dyn4d.core.errors import InputError
from dyn4d.io.images import write_mask, write_png
from dyn4d.mask_cli import mask_folder, open_clip
from dyn4d.mask_edit import LARGEST, MaskServer, Session
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
    assert status == 200 and answer_json(data)["frames"][2] == {"name": "00002", "score": 1.0, "key": True}
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


def test_others_are_refused(server: MaskServer, clip: Path) -> None:
    body, before = png(np.ones((96, 128), bool)), (clip / "mask" / "00000.png").read_bytes()
    for headers in ({"X_Token": "wrong"}, {"X_Token": ""}, {"Host": "evil.example"}, {"Origin": "http://evil.example"},
                    {"Origin": "null"}, {"Host": f"evil.example:{server.server_port}"}):  # fmt: skip
        assert ask(server, "/api/mask?n=0", "POST", body, **headers)[0] == 403, headers
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
    assert ask(server, "/api/mask?n=0", "POST", png(np.ones((5, 5), bool)))[0] == 400
    assert ask(server, "/api/mask?n=0", "POST", b"", Content_Length=str(LARGEST + 1))[0] == 411
    assert (clip / "mask" / "00000.png").read_bytes() == before


def test_clips_without_masks_are_refused(clip: Path) -> None:
    (clip / "mask" / "00003.png").unlink()
    opened = open_clip(str(clip))
    with pytest.raises(InputError, match="no mask for frame 00003"):
        Session(opened, mask_folder(opened, str(clip), None), MaskConfig())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_it_cleanly(clip: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import sys; " \
           "from dyn4d.cli import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    words = [sys.executable, "-c", code, "mask", str(clip), "--edit", "--no-browser", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.match(r"http://127\.0\.0\.1:\d+/\?token=\S{20,}", line)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in errors
    assert (clip / "mask_sheet.png").is_file()


@pytest.mark.external
@pytest.mark.slow
def test_in_a_browser_a_stroke_is_drawn_undone_and_saved(server: MaskServer, clip: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent / "export"))
    from headless import Browser, find_chromium

    if find_chromium() is None:
        pytest.skip("no chromium")
    with Browser(900, 700) as browser:
        browser.call("Page.navigate", url=server.address)
        for _ in range(300):
            if browser.evaluate("document.documentElement.dataset.state ?? ''"):
                break
            time.sleep(0.1)
        assert browser.evaluate("document.documentElement.dataset.state") == "ready"
        browser.evaluate("open(1)")
        sum_of = "(() => { const p = ink.getImageData(0, 0, mask.width, mask.height).data; let n = 0; " \
                 "for (let i = 3; i < p.length; i += 4) n += p[i] > 127; return n; })()"  # fmt: skip
        assert browser.evaluate(sum_of) == 0
        box = browser.evaluate(
            "(() => { const b = view.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        )
        x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
        for kind, dx in (("mousePressed", 0), ("mouseMoved", 60), ("mouseReleased", 60)):
            browser.call("Input.dispatchMouseEvent", type=kind, x=x + dx, y=y, button="left", buttons=1, clickCount=1)
        drawn = browser.evaluate(sum_of)
        assert drawn > 20
        browser.evaluate("$('undo').click()")
        assert browser.evaluate(sum_of) == 0
        browser.evaluate("$('redo').click()")
        assert browser.evaluate(sum_of) == drawn
        assert browser.evaluate("save()") is True
        if os.environ.get("DYN4D_TEST_PICTURES"):
            Image.fromarray(browser.screenshot()).save(Path(os.environ["DYN4D_TEST_PICTURES"]) / "mask_edit.png")
        assert browser.errors == []
        assert all(url.startswith((f"http://127.0.0.1:{server.server_port}/", "about:")) for url in browser.requests)
    saved = np.asarray(Image.open(clip / "mask" / "00001.png")) > 127
    assert int(saved.sum()) == drawn
