"""What `dyn4d mask --edit` does: a page on this machine alone to correct masks with a brush, until Ctrl-C.

Only this machine can reach it (127.0.0.1), and of its pages only those that know the token in the address: requests
need it, and one that another site's page sends is refused by its Host and Origin.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
import webbrowser
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from dyn4d.core.errors import Dyn4DError, InputError
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.core.types import Clip
from dyn4d.io.image_bytes import decode_mask, encode_jpeg, encode_mask
from dyn4d.io.mask_folder import MaskFolder
from dyn4d.mask_cli import Made, MaskRequest, mask_folder, open_clip, write_masks, write_sheet
from dyn4d.segmentation.config import MaskConfig
from dyn4d.segmentation.results import FrameMask

HOST = "127.0.0.1"
PORTS = 100  # that are tried from the wanted one on
LARGEST = 64 * 2**20  # bytes of one mask that is sent


class Session:
    """The masks of one clip while they are corrected.

    Args:
        clip: its frames. folder: where its masks are. config: of carrying them on.

    Raises:
        InputError: there are no masks, or not of all frames.
    """

    def __init__(self, clip: Clip, folder: MaskFolder, config: MaskConfig) -> None:
        self.clip, self.folder, self.config = clip, folder, config
        self.lock = threading.RLock()
        missing = [name for frame, name in enumerate(folder.names) if not folder.file(frame).is_file()]
        if missing:
            raise InputError(
                f"{folder.masks} has no mask for frame {missing[0]}; make masks first, with dyn4d mask CLIP --box ..."
            )
        self.record = folder.read_record() or self._new_record()
        if len(self.record.get("frames", ())) != len(folder.names):
            raise InputError(f"{folder.record} is of another clip; remove it, or make the masks again with --overwrite")

    def _new_record(self) -> dict[str, Any]:
        rows = [{"frame": i, "name": name, "score": 1.0, "key": False, "area": 0.0, "checks": {}}
                for i, name in enumerate(self.folder.names)]  # fmt: skip
        return {"method": "given", "min_score": self.config.min_score, "keys": [], "doubtful": [], "frames": rows,
                "warnings": [], "licences": []}  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """What the page needs to know."""
        rows = self.record["frames"]
        return {"clip": self.clip.name, "width": self.clip.width, "height": self.clip.height,
                "min_score": self.record["min_score"], "method": self.record["method"],
                "frames": [{"name": r["name"], "score": r["score"], "key": r["key"]} for r in rows]}  # fmt: skip

    def save(self, frame: int, mask: np.ndarray) -> None:
        """Take a corrected mask; its frame is a key frame from now on."""
        with self.lock:
            self.folder.write(frame, mask)
            row = self.record["frames"][frame]
            row.update(key=True, score=1.0, area=round(float(mask.mean()), 6), checks={}, corrected=True)
            self._note()

    def _note(self) -> None:
        rows = self.record["frames"]
        self.record["keys"] = [row["frame"] for row in rows if row["key"]]
        self.record["doubtful"] = [row["frame"] for row in rows if row["score"] < self.record["min_score"]]
        self.folder.write_record(self.record)

    def carry(self, progress: Progress) -> dict[str, Any]:
        """Make all other masks again from those of the key frames. Raises `InputError` where there are none."""
        from dyn4d.segmentation.first import Prompt
        from dyn4d.segmentation.make import follow_object

        with self.lock:
            corrected = [row["frame"] for row in self.record["frames"] if row.get("corrected")]
            keys = [frame for frame in self.record["keys"] if self.folder.read(frame).any()]
            if not keys:
                raise InputError("no key frame with an object on it: correct a frame and save it first")
            prompts = [Prompt(frame, mask=self.folder.read(frame)) for frame in keys]
            away = {frame for frame in corrected if frame not in keys}
            followed = follow_object(self.clip.images, prompts, self.config, progress)
            details = {"prompts": self.record.get("prompts", []), "corrected": corrected}
            licences = tuple(self.record["licences"])
            made = Made(_left_empty(followed, away), "grabcut and flow, corrected", details, licences)
            write_masks(made, self.clip, self.folder, self.record["min_score"], time.monotonic())
            self.record = self.folder.read_record()
            for frame in corrected:
                self.record["frames"][frame]["corrected"] = True
            self._note()
            return self.summary()


def _left_empty(masks: Iterable[FrameMask], away: set[int]) -> Iterator[FrameMask]:
    """Masks with those left empty in whose frames the user saw no object."""
    for one in masks:
        yield FrameMask(one.frame, np.zeros_like(one.mask), 1.0, key=True) if one.frame in away else one


class Handler(BaseHTTPRequestHandler):
    """Answers the page. GET: / , api/clip, api/frame?n=, api/mask?n= ; POST: api/mask?n=, api/carry."""

    server: MaskServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def _refused(self) -> str | None:
        """Why this request is none of our page's."""
        own = {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        if self.headers.get("Host") not in own:
            return "wrong host"
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{name}" for name in own}:
            return "wrong origin"
        query = parse_qs(urlsplit(self.path).query)
        token = self.headers.get("X-Token") or (query.get("token") or [""])[0]
        return None if secrets.compare_digest(token.encode(), self.server.token.encode()) else "wrong token"

    def _send(self, body: bytes, kind: str, status: int = HTTPStatus.OK) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
            "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
            "img-src 'self' blob: data:; connect-src 'self'",
        }  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def _fail(self, text: str, status: int) -> None:
        self.close_connection = True  # a body that was not read must not be taken for the next request
        self._send(json.dumps({"error": text}).encode(), "application/json", status)

    def _frame(self) -> int | None:
        text = (parse_qs(urlsplit(self.path).query).get("n") or [""])[0]
        count = len(self.server.session.clip)
        return int(text) if text.isascii() and text.isdigit() and int(text) < count else None

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, act: Callable[[str], None]) -> None:
        refused = self._refused()
        if refused:
            self._fail(refused, HTTPStatus.FORBIDDEN)
            return
        try:
            act(urlsplit(self.path).path)
        except Dyn4DError as error:
            self._fail(str(error), HTTPStatus.BAD_REQUEST)
        except OSError as error:
            self._fail(error.strerror or str(error), HTTPStatus.INTERNAL_SERVER_ERROR)

    def _get(self, path: str) -> None:
        session = self.server.session
        if path == "/":
            page = files("dyn4d").joinpath("mask_edit.html").read_text(encoding="utf-8")
            self._send(page.encode(), "text/html; charset=utf-8")
        elif path == "/api/clip":
            self._send(json.dumps(session.summary()).encode(), "application/json")
        elif path in ("/api/frame", "/api/mask"):
            frame = self._frame()
            if frame is None:
                self._fail("no such frame", HTTPStatus.NOT_FOUND)
            elif path == "/api/frame":
                self._send(encode_jpeg(session.clip.images[frame]), "image/jpeg")
            else:
                self._send(encode_mask(session.folder.read(frame)), "image/png")
        else:
            self._fail("no such page", HTTPStatus.NOT_FOUND)

    def _post(self, path: str) -> None:
        session = self.server.session
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST:
            self._fail("a body of known and bounded length is needed", HTTPStatus.LENGTH_REQUIRED)
            return
        body = self.rfile.read(int(length))
        if path == "/api/mask":
            frame = self._frame()
            if frame is None:
                self._fail("no such frame", HTTPStatus.NOT_FOUND)
                return
            session.save(frame, decode_mask(body))
            self._send(json.dumps(session.summary()).encode(), "application/json")
        elif path == "/api/carry":
            self._send(json.dumps(session.carry(self.server.progress)).encode(), "application/json")
        else:
            self._fail("no such page", HTTPStatus.NOT_FOUND)


class MaskServer(ThreadingHTTPServer):
    """Serves one session to this machine alone.

    Args:
        session: what is corrected. port: the first to try; 0: any.

    Raises:
        InputError: no port is free.
    """

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, session: Session, port: int = 0, progress: Progress | None = None) -> None:
        self.session, self.token = session, secrets.token_urlsafe(18)
        self.progress = progress or SilentProgress()
        if not 0 <= port <= 65535:
            raise InputError(f"--port {port}: ports are 1 to 65535, or 0 for any that is free")
        for one in [0] if port == 0 else range(port, min(port + PORTS, 65536)):
            try:
                super().__init__((HOST, one), Handler)
                return
            except OSError:
                continue
        raise InputError(f"--port {port}: neither it nor those after it can be used; choose another with --port")

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/?token={self.token}"


def edit_masks(
    request: MaskRequest, *, port: int, browser: bool, say: Callable[[str], None], progress: Progress
) -> None:
    """Serve the page until Ctrl-C. Raises `InputError` where there are no masks to correct."""
    clip = open_clip(request.clip)
    session = Session(clip, mask_folder(clip, request.clip, request.out), request.options)
    with contextlib.suppress(KeyboardInterrupt), MaskServer(session, port, progress) as server:
        say(f"{server.address}  (only on this machine; Ctrl-C ends it)")
        if browser:
            from dyn4d.view_cli import has_display

            if has_display():
                webbrowser.open(server.address)
        server.serve_forever()
    with session.lock:  # a mask that is being saved is saved
        write_sheet(clip, session.folder, session.record)
