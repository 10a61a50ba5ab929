"""The page in a headless Chromium: what it draws is what our renderer draws, and its buttons do what they say."""

import re
from dataclasses import replace

import numpy as np
import pytest
from headless import NEEDS_BROWSER, SOFTWARE, Browser
from player_scenes import FRAMES, result

from dyn4d.export.player import write_player
from dyn4d.export.renders import render_cloud, to_uint8
from dyn4d.gaussians.warp import move_cloud

pytestmark = NEEDS_BROWSER
WIDTH, HEIGHT = 160, 120
PLAIN = "camera=input&ui=0&bg=808080&sharp=1"
GREY = (128 / 255,) * 3
HINT = "document.getElementById('hint-text').textContent"


@pytest.fixture(scope="module")
def browser():
    with Browser(WIDTH, HEIGHT) as one:
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_player(tmp_path_factory.mktemp("player") / "player.html", result(), name="a body")


@pytest.fixture
def opened(browser, page):
    for seen in (browser.errors, browser.requests):
        seen.clear()
    browser.size(WIDTH, HEIGHT)
    assert browser.open(page, f"{PLAIN}&frame=0") == "ready"
    yield browser
    assert browser.errors == []
    assert all(url.startswith(("file:", "blob:", "data:", "about:")) for url in browser.requests)


def psnr(a, b):
    return -10 * np.log10(max(np.mean((a.astype(float) - b.astype(float)) ** 2) / 255**2, 1e-10))


def ours(run, frame, cloud=None):
    moved = cloud or move_cloud(run.cloud, run.field, float(run.timeline.times[frame]))
    return to_uint8(render_cloud(moved, run.cameras[frame], GREY).rgb[0])


def compare(picture, wanted):
    """PSNR of the whole picture, and of the part that is not background."""
    inside = np.abs(wanted.astype(int) - 128).max(-1) > 4
    assert inside.mean() > 0.1
    return psnr(picture, wanted), psnr(picture[inside], wanted[inside])


def test_input_views_look_like_our_renders(opened):
    run = result()
    pictures = {}
    for frame in (0, FRAMES // 2, FRAMES - 1):
        opened.go(f"frame={frame}")
        pictures[frame] = opened.screenshot()
        whole, inside = compare(pictures[frame], ours(run, frame))
        assert whole >= 30 and inside >= 25
    assert psnr(pictures[0], pictures[FRAMES - 1]) < 25  # it moves


def test_between_frames_it_moves_smoothly(opened):
    run = result()
    opened.go("t=0.25")  # between the second and the third of seven frames
    moved = move_cloud(run.cloud, run.field, 0.25)
    cameras = [to_uint8(render_cloud(moved, run.cameras[i], GREY).rgb[0]) for i in (1, 2)]
    picture = opened.screenshot()
    assert max(psnr(picture, one) for one in cameras) > 17
    frame = opened.evaluate("dyn4d.frame")
    assert frame == pytest.approx(1.5, abs=1e-3)


def test_canonical_space(opened):
    run = result()
    opened.go("frame=0&canonical=1")
    assert compare(opened.screenshot(), ours(run, 0, run.cloud))[1] >= 25


def test_colours_that_change_with_the_view(browser, tmp_path):
    run = result(800, frames=3, sh_degree=3)
    page = write_player(tmp_path / "p.html", run, name="shiny")
    browser.errors.clear()
    assert browser.open(page, f"{PLAIN}&frame=2") == "ready"
    whole, inside = compare(browser.screenshot(), ours(run, 2))
    assert whole >= 30 and inside >= 25 and browser.errors == []


def test_little_seen_gaussians_fade(opened):
    full = opened.screenshot()
    opened.go("confidence=1")
    faded = opened.screenshot()
    assert np.abs(faded.astype(int) - 128).sum() < 0.7 * np.abs(full.astype(int) - 128).sum()
    opened.go("confidence=0")
    assert psnr(opened.screenshot(), full) > 60


def test_trails_and_cameras_show_and_hide(opened):
    opened.go("camera=free&frame=5")
    plain = opened.screenshot()
    for word in ("trails", "cameras"):
        opened.go(f"{word}=1")
        assert psnr(opened.screenshot(), plain) < 45
        opened.go(f"{word}=0")
        assert psnr(opened.screenshot(), plain) > 60


def test_time_plays_loops_and_stops(opened):
    opened.evaluate("dyn4d.set({playing: true, speed: 2})")
    opened.evaluate("new Promise((r) => { window.seen = []; const t = setInterval(() => seen.push(dyn4d.time), 40);"
                    " setTimeout(() => { clearInterval(t); r(); }, 2500); })")  # fmt: skip
    seen = np.array(opened.evaluate("seen"))
    steps = np.diff(seen)
    assert (steps > 0).sum() > 5 and (steps < -0.5).sum() >= 1  # onwards, and back to the start
    opened.evaluate("dyn4d.set({playing: false})")
    time = opened.evaluate("dyn4d.time")
    opened.evaluate("new Promise((r) => setTimeout(r, 200))")
    assert opened.evaluate("dyn4d.time") == time


def press(browser, key, **more):
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, **more)


def test_keys_and_buttons(opened):
    opened.go("ui=1&frame=2")
    press(opened, "ArrowRight")
    assert opened.evaluate("dyn4d.frame") == 3
    press(opened, "Home")
    assert opened.evaluate("dyn4d.frame") == 0
    press(opened, "t")
    assert opened.evaluate("dyn4d.state.trails") is True
    assert opened.evaluate("document.getElementById('trails').getAttribute('aria-pressed')") == "true"
    press(opened, "?")
    assert opened.evaluate("document.getElementById('help').hidden") is False
    press(opened, "Escape")
    assert opened.evaluate("document.getElementById('help').hidden") is True
    unnamed = "[...document.querySelectorAll('button,input,select')].filter((n) => !n.ariaLabel && !n.title && " \
              "!n.closest('label')).map((n) => n.outerHTML)"  # fmt: skip
    assert opened.evaluate(unnamed) == []
    opened.evaluate("document.getElementById('trails').click()")
    assert opened.evaluate("dyn4d.state.trails") is False


def test_dragging_leaves_the_input_camera_without_a_jump(opened):
    before = opened.screenshot()
    for kind, x in (("mousePressed", 80), ("mouseReleased", 80)):
        opened.call("Input.dispatchMouseEvent", type=kind, x=x, y=60, button="left", clickCount=1)
    opened.evaluate("dyn4d.settled()")
    assert opened.evaluate("dyn4d.state.input") is False
    assert psnr(opened.screenshot(), before) > 16  # the principal point alone may differ
    for kind, x in (("mousePressed", 40), ("mouseMoved", 110), ("mouseReleased", 110)):
        opened.call("Input.dispatchMouseEvent", type=kind, x=x, y=60, button="left", buttons=1, clickCount=1)
    opened.evaluate("dyn4d.settled()")
    assert opened.evaluate("dyn4d.angle") > 20


def test_the_viewer_is_told_of_sides_that_were_not_filmed(opened):
    opened.go("ui=1&camera=free&frame=3&right=0")
    assert opened.evaluate("document.getElementById('unseen').classList.contains('shown')") is False
    opened.go("right=150")
    assert opened.evaluate("document.getElementById('unseen').classList.contains('shown')") is True
    degrees = int(re.match(r"(\d+)°", opened.evaluate("document.getElementById('hint-text').textContent"))[1])
    assert 110 < degrees < 155 and opened.evaluate(HINT).endswith("nearly all a guess")
    opened.go("right=60")
    assert opened.evaluate(HINT).endswith("partly a guess")
    opened.go("right=150&fade=1")
    assert opened.evaluate("dyn4d.splats.fade.y") == pytest.approx(1)


def test_where_depth_was_estimated_the_view_stays_near_until_it_is_let_go(browser, tmp_path):
    run = replace(result(800, frames=3), depth_error=0.04)
    page = write_player(tmp_path / "p.html", run, name="estimated")
    assert "as depth was estimated" in page.read_text(encoding="utf-8")
    browser.errors.clear()
    assert browser.open(page, f"{PLAIN}&frame=1") == "ready"
    limit = browser.evaluate("dyn4d.limit")
    assert 12 <= limit < 60
    browser.go("ui=1&camera=free&right=120")
    assert browser.evaluate("dyn4d.angle") <= limit + 0.5
    assert browser.evaluate("document.getElementById('limitRow').hidden") is False
    for kind, x in (("mousePressed", 30), ("mouseMoved", 140), ("mouseReleased", 140)):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=60, button="left", buttons=1, clickCount=1)
    browser.evaluate("dyn4d.settled()")
    assert browser.evaluate("dyn4d.angle") <= limit + 0.5
    browser.go("limit=0&right=120")
    assert browser.evaluate("dyn4d.angle") > limit + 20
    assert browser.errors == []


def test_frames_are_counted_as_the_files_are(opened):
    opened.go("frame=3&ui=1")
    last = opened.evaluate("dyn4d.times.length") - 1
    assert opened.evaluate("document.getElementById('frame').textContent") == f"frame 3 of 0–{last}"


def test_words_that_are_not_understood_are_said_and_change_nothing(opened):
    opened.go("bg=ffffff&speed=1&ui=1")
    opened.go("bg=mauve&speed=fast&colour=red&camera=mine&trails=perhaps")
    said = opened.evaluate("document.getElementById('hint-text').textContent")
    assert all(word in said for word in ("bg=mauve", "speed=fast", "colour=red", "camera=mine", "trails=perhaps"))
    assert opened.evaluate("document.getElementById('unseen').classList.contains('shown')") is True
    state = opened.evaluate("dyn4d.state")
    assert (state["background"], state["speed"], state["trails"]) == ("#ffffff", 1, False)
    opened.evaluate("dyn4d.notice.until = 0")


def test_cameras_that_are_switched_on_are_in_the_picture(opened):
    inside = """(() => { const s = dyn4d.stage; s.camera.updateMatrixWorld();
        return s.cameras.frames.every(({ position }) => {
            const p = position.clone().project(s.camera);
            return Math.abs(p.x) < 1 && Math.abs(p.y) < 1 && p.z < 1; }); })()"""
    opened.go("camera=free&right=10")
    assert opened.evaluate(inside) is False
    opened.evaluate("document.getElementById('cameras').click()")
    opened.evaluate("dyn4d.settled()")
    assert opened.evaluate(inside) is True
    opened.go("cameras=0&right=0")


def test_a_picture_is_saved_as_it_is_seen(opened):
    size = opened.evaluate("dyn4d.picture().then((blob) => [blob.type, blob.size])")
    assert size[0] == "image/png" and size[1] > 500


def test_a_picture_is_saved_in_the_resolution_of_the_screen_and_under_a_plain_name(opened):
    opened.go("frame=2")
    sharp = "dyn4d.picture().then((b) => createImageBitmap(b)).then((m) => [m.width, m.height])"
    opened.evaluate("dyn4d.set({sharp: 0}); dyn4d.quality = 0.5; dyn4d.resize()")
    assert opened.evaluate("dyn4d.stage.canvas.width") == WIDTH // 2
    assert opened.evaluate(sharp) == [WIDTH, HEIGHT]
    lit = """dyn4d.picture().then((b) => createImageBitmap(b)).then((m) => {
        const c = new OffscreenCanvas(m.width, m.height).getContext("2d"); c.drawImage(m, 0, 0);
        return [...c.getImageData(0, 0, m.width, m.height).data].filter((_, i) => i % 4 !== 3); })"""
    saved = np.array(opened.evaluate(lit)).reshape(HEIGHT, WIDTH, 3)
    assert opened.evaluate("dyn4d.stage.canvas.width") == WIDTH // 2  # the page draws as before
    opened.evaluate("dyn4d.quality = 1; dyn4d.set({sharp: 1}); dyn4d.settled()")
    assert psnr(saved, opened.screenshot()) > 35
    name = """(() => { let seen; const click = HTMLAnchorElement.prototype.click;
        HTMLAnchorElement.prototype.click = function () { seen = this.download; };
        dyn4d.header.name = "creature (demo) é"; document.getElementById("picture").click();
        return new Promise((r) => setTimeout(r, 500)).then(() => { HTMLAnchorElement.prototype.click = click;
            return seen; }); })()"""
    assert opened.evaluate(name) == "creature_demo_é_frame_0002.png"


def test_a_frame_that_is_not_there_is_said(opened):
    opened.go("ui=1&frame=99")
    assert f"frame=99 (frames are 0 to {FRAMES - 1})" in opened.evaluate(HINT)
    assert opened.evaluate("dyn4d.frame") == FRAMES - 1
    opened.evaluate("dyn4d.notice.until = 0")


@pytest.mark.parametrize("size", [(700, 500), (390, 780), (1200, 700)])
def test_the_hint_lies_on_nothing_that_is_read_or_pressed(opened, size):
    opened.size(*size)
    opened.go("ui=1&camera=free&frame=3&right=150")
    box = "((b) => [b.left, b.right, b.top, b.bottom])(document.{}.getBoundingClientRect())"
    left, right, top, bottom = opened.evaluate(box.format("getElementById('unseen')"))
    assert 0 <= left < right <= size[0] and bottom < size[1] / 4
    for other in (".name", ".tools", ".bar"):
        a, b, c, d = opened.evaluate(box.format(f"querySelector('{other}')"))
        assert right <= a or b <= left or bottom <= c or d <= top, other


def test_one_frame_is_a_picture_to_turn(browser, tmp_path):
    page = write_player(tmp_path / "p.html", result(300, frames=1), name="still")
    browser.errors.clear()
    assert browser.open(page) == "ready"
    assert browser.evaluate("document.getElementById('play').disabled") is True
    assert browser.evaluate("dyn4d.state.playing") is False and browser.errors == []


def test_damaged_data_are_said_so(browser, page, tmp_path):
    text = page.read_text(encoding="utf-8")
    start = text.index('id="data">') + 400
    broken = tmp_path / "broken.html"
    broken.write_text(text[:start] + "AAAAAAAA" + text[start + 8 :], encoding="utf-8")
    assert browser.open(broken) == "failed"
    assert "cannot be shown" in browser.evaluate("document.getElementById('message').textContent")


def test_without_webgl_the_page_says_so(page):
    with Browser(WIDTH, HEIGHT, flags=(*SOFTWARE, "--disable-3d-apis")) as browser:
        assert browser.open(page) == "failed"
        assert "WebGL 2" in browser.evaluate("document.getElementById('message').textContent")
