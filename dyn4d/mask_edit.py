"""What `dyn4d mask --edit` does: a page on this machine alone to correct masks with a brush, until Ctrl-C.

Only this machine can reach it (127.0.0.1), and of its pages only those that know the token in the address: requests
need it, and one that another site's page sends is refused by its Host and Origin.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

from dyn4d.core.errors import Dyn4DError, InputError, RunError
from dyn4d.core.listing import counted
from dyn4d.core.protocols import Progress, SilentProgress
from dyn4d.io.image_bytes import decode_mask, encode_jpeg, encode_mask
from dyn4d.mask_cli import MaskRequest, alone, mask_folder, open_clip, write_sheet
from dyn4d.mask_session import Session

HOST = "127.0.0.1"
PORTS = 100  # that are tried from the wanted one on
LARGEST = 64 * 2**20  # bytes of one mask that is sent


class Watched:
    """Progress that another thread may look at, and end: `stopped` makes the work raise `RunError` at its next step."""

    def __init__(self, inner: Progress) -> None:
        self.inner, self.done, self.total, self.stopped = inner, 0, 0, False

    def start(self, label: str, total: int, done: int = 0) -> None:
        self.done, self.total = done, total
        self.inner.start(label, total, done)

    def update(self, **values: float) -> None:
        if self.stopped:
            raise RunError("the masks are not carried: dyn4d mask was ended")
        self.done += 1
        self.inner.update(**values)

    def finish(self) -> None:
        self.done = self.total = 0
        self.inner.finish()

    def note(self, line: str) -> None:
        self.inner.note(line)


class Handler(BaseHTTPRequestHandler):
    """Answers the page.

    GET: / , api/clip, api/frame?n=, api/mask?n=, api/progress ; POST: api/mask?n=, api/withdraw?n=, api/carry.
    """

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
        elif path == "/api/progress":
            share = {"done": self.server.progress.done, "total": self.server.progress.total}
            self._send(json.dumps(share).encode(), "application/json")
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
        if path in ("/api/mask", "/api/withdraw"):
            frame = self._frame()
            if frame is None:
                self._fail("no such frame", HTTPStatus.NOT_FOUND)
                return
            if path == "/api/mask":
                session.save(frame, decode_mask(body))
            else:
                session.withdraw(frame)
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
        self.progress = Watched(progress or SilentProgress())
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
    folder = mask_folder(clip, request.clip, request.out)
    with alone(folder):
        session = Session(clip, folder, request.options)
        with contextlib.suppress(KeyboardInterrupt), MaskServer(session, port, progress) as server:
            say(f"{server.address}  (only on this machine; Ctrl-C ends it)")
            if browser:
                from dyn4d.view_cli import has_display

                if has_display():
                    webbrowser.open(server.address)
            try:
                server.serve_forever()
            finally:
                server.progress.stopped = True
        with session.lock:  # a mask that is being saved is saved; what is being carried is dropped
            write_sheet(clip, folder, session.record)
    done = f"{counted(len(session.saved), 'frame')} corrected" if session.saved else "no frame was corrected"
    say(f"{done}; the masks are in {folder.masks}, their sheet is {folder.sheet}")
