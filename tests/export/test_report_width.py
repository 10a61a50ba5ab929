"""The report on a phone: nothing is wider than the screen, and no column is a letter wide."""

import time

import numpy as np
from headless import NEEDS_BROWSER, Browser

from dyn4d.export.report import FramePictures, ReportContent, build_html
from dyn4d.export.story import Story

pytestmark = NEEDS_BROWSER
PHONE = 390


def page() -> str:
    picture = np.full((64, 64, 3), 90, np.uint8)
    row = {"mpsnr": 29.5, "psnr": 36.5, "mssim": 0.9661, "iou": 0.9777, "n": 8}
    known = {"aligned_by": "given cameras", "near": row, "far": row, "groups": {"near_right": row, "far_left": row}}
    return build_html(
        ReportContent(
            name="a clip", metrics={"input": row, "cycle": {"max_rel": 2.6e-7}}, evaluation=known,
            frames=[FramePictures(3, picture, picture, picture, picture, 30.0, dict.fromkeys((-30, 0, 30), picture))],
            story=Story(inputs=[("depth inside the masks", "100.0% to 100.0%, median 100.0%")]),
            files=[("export/" + "a_very_long_name" * 4, "a file")],
        )
    )  # fmt: skip


def test_a_phone_shows_the_whole_width(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page(), encoding="utf-8")
    with Browser(PHONE, 780) as browser:
        browser.size(PHONE, 780, mobile=True)
        browser.call("Page.navigate", url=path.as_uri())
        ends = time.monotonic() + 60
        while browser.evaluate("document.readyState") != "complete" and time.monotonic() < ends:
            time.sleep(0.1)
        browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert browser.evaluate("document.documentElement.scrollWidth") == PHONE
        widths = "[...document.querySelectorAll('{}')].map((n) => n.getBoundingClientRect().width)"
        assert min(browser.evaluate(widths.format("dd"))) > 150
        assert min(browser.evaluate(widths.format(".frames img"))) > 90
        # a figure at the top leads to what it means, also where that is folded
        browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = false; })")
        browser.evaluate("[...document.querySelectorAll('.tile a')].find((a) => /cycle/.test(a.textContent)).click()")
        seen = "(() => { const b = document.getElementById('means-cycle-error').getBoundingClientRect();"
        assert browser.evaluate(f"new Promise((r) => setTimeout(r, 300)).then(() => {seen} return b.top; }})())") < 780
        assert browser.errors == []
