"""A headless Chromium that is driven over a pipe (Chrome DevTools Protocol): no package is needed for it."""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

if sys.platform == "win32":
    pytest.skip("the browser is driven over a pipe of POSIX", allow_module_level=True)
import fcntl

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


NEEDS_BROWSER = [
    pytest.mark.external,
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on this machine"),
]


class Browser:
    """One page of a headless browser, `width` x `height` CSS pixels, drawn in software unless told otherwise."""

    def __init__(self, width: int, height: int, *, scale: float = 1.0, flags: tuple[str, ...] = SOFTWARE) -> None:
        program = find_chromium()
        if program is None:
            raise FileNotFoundError("no chromium")
        self.profile = tempfile.mkdtemp(prefix="dyn4d-browser-")
        self.errors: list[str] = []
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._number, self._rest = 0, b""
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # the browser reads commands from descriptor 3 and answers on 4: keep ours out of their way
        high_in, high_out = (fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (theirs_in, theirs_out))

        def place() -> None:
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        command = [
            program, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--no-first-run", "--mute-audio",
            "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking", "--hide-scrollbars",
            f"--user-data-dir={self.profile}", f"--window-size={width},{height}", *flags, "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(3, 4),
            preexec_fn=place,
        )  # fmt: skip
        for fd in (theirs_in, theirs_out, high_in, high_out):
            os.close(fd)
        self._in, self._out = ours_in, ours_out
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.size(width, height, scale)

    def size(self, width: int, height: int, scale: float = 1.0, *, mobile: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method: str, timeout: float = 120.0, **params: Any) -> dict[str, Any]:
        """One command and its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        ends = time.monotonic() + timeout
        while True:
            answer = self._read(ends, method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error'].get('message')}")
                return answer["result"]
            self._note(answer)

    def _read(self, ends: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, ends - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                raise TimeoutError(f"the browser gave no answer to {what}")
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details.get("text", ""))
        elif event.get("method") == "Runtime.consoleAPICalled":
            text = " ".join(str(a.get("value", a.get("description", ""))) for a in params["args"])
            (self.errors if params["type"] in ("error", "assert") else self.messages).append(text)
        elif event.get("method") == "Log.entryAdded":
            entry = params["entry"]
            (self.errors if entry["level"] == "error" else self.messages).append(entry["text"])
        elif event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def evaluate(self, expression: str, timeout: float = 120.0) -> Any:
        """The value of a JavaScript expression; promises are waited for."""
        found = self.call(
            "Runtime.evaluate", timeout, expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description") or details["text"])
        return found["result"].get("value")

    def open(self, page: Path, address: str = "", timeout: float = 120.0) -> str:
        """Open a player page at `#address`, wait until it is ready or has failed, and give back which."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.resolve().as_uri() + (f"#{address}" if address else ""))
        ends = time.monotonic() + timeout
        while time.monotonic() < ends:
            state = self.evaluate("document.documentElement?.dataset.state ?? ''")
            if state:
                return state
            time.sleep(0.1)
        raise TimeoutError("the page did not get ready; " + "; ".join(self.errors))

    def go(self, address: str) -> None:
        """Another view of the page that is open; back once it is drawn."""
        self.evaluate(f"location.hash = {json.dumps(address)}; new Promise((r) => setTimeout(r, 60))")
        self.evaluate("dyn4d.settled()")

    def screenshot(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
