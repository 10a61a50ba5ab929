"""The run folder: where things lie in it, its `run.json`, and the lock that keeps two runs apart. Free of torch."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dyn4d.core.errors import Dyn4DError, InputError
from dyn4d.core.usage import busy_seconds, forget_peak, peak_bytes
from dyn4d.io.atomic import read_json, write_json

RUN_FORMAT = "dyn4d-run/1"
SAVE_EVERY = 5.0  # seconds between two saves of a running stage's clock
_held: set[str] = set()  # folders locked by this process: POSIX locks do not keep a process from itself


class RunFolder:
    """Paths inside one run."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()
        self.state = self.root / "run.json"
        self.config = self.root / "config.yaml"
        self.geometry = self.root / "geometry"
        self.deformation = self.root / "deformation"
        self.gaussians = self.root / "gaussians"
        self.renders = self.root / "renders"
        self.export = self.root / "export"
        self.metrics = self.root / "metrics.json"
        self.report = self.root / "report.html"
        self.eval = self.root / "eval.json"

    def partial(self, stage: str) -> Path:
        """Unfinished work of a stage."""
        return self.root / f".partial-{stage}"

    def create(self, allow: tuple[str, ...] = ()) -> None:
        """Make the folder if need be. Raises `InputError` where something else than a run is there already.

        Args:
            allow: names that may be there before the first `run.json`.
        """
        self.refuse_others(allow)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.root}: cannot make this folder ({error.strerror}); choose another --out"
            ) from error

    def refuse_others(self, allow: tuple[str, ...] = ()) -> None:
        """Raise `InputError` where something else than a run is there; `allow` as in `create`."""
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root} is a file; choose another folder with --out")
        if self.root.is_dir() and not self.state.is_file():
            for entry in sorted(self.root.iterdir()):
                if not entry.name.startswith(".") and entry.name not in allow:
                    raise InputError(
                        f"{self.root} holds other files ({entry.name}) and is not a run; choose another --out"
                    )

    def require(self) -> None:
        """Raise `InputError` unless this is a run."""
        if not self.state.is_file() or not self.config.is_file():
            raise InputError(
                f"{self.root} is not a run (no run.json and config.yaml); make one with dyn4d run or prepare"
            )


class RunState:
    """What `run.json` holds; every change is saved at once, as a whole.

    Attributes:
        data: the JSON object. `stages` maps a stage to its state ("running", "done", "failed", "interrupted"),
            cumulative seconds, busy_seconds (processor time), peak_memory (bytes of the process) and key; `warnings`
            lists {"stage", "text"}.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.data: dict[str, Any] = {"format": RUN_FORMAT, "stages": {}, "warnings": []}
        self.current: str | None = None
        self._mark = self._busy = 0.0
        self._saved = 0.0
        if run.state.is_file():
            self.data = read_json(run.state)
            if self.data.get("format") != RUN_FORMAT or not isinstance(self.data.get("stages"), dict):
                raise InputError(f"{run.state}: not a run of this version ({RUN_FORMAT}); choose another --out")
            self.data.setdefault("warnings", [])

    def save(self) -> None:
        write_json(self.run.state, self.data)
        self._saved = time.monotonic()

    def update(self, **values: Any) -> None:
        """Set top-level entries and save."""
        self.data.update(values)
        self.save()

    def stage(self, name: str) -> dict[str, Any]:
        return self.data["stages"].setdefault(name, {})

    def begin(self, name: str, key: str, *, goes_on: bool) -> None:
        """A stage starts, or goes on where it was stopped (its seconds then add up)."""
        before = self.stage(name)
        names = ("seconds", "busy_seconds", "peak_memory")
        same = goes_on and before.get("key") == key
        spent = {kind: before.get(kind) or 0 if same else 0 for kind in names}
        self.data["stages"][name] = {"state": "running", **spent, "key": key, "started": _now()}
        forget_peak()
        if not goes_on:
            self.data["warnings"] = [w for w in self.data["warnings"] if w.get("stage") != name]
        self.current, self._mark, self._busy = name, time.monotonic(), busy_seconds()
        self.save()

    def _count(self) -> None:
        now, busy = time.monotonic(), busy_seconds()
        if self.current is not None:
            entry = self.stage(self.current)
            entry["seconds"] = round(entry["seconds"] + now - self._mark, 3)
            entry["busy_seconds"] = round(entry.get("busy_seconds", 0) + busy - self._busy, 3)
            entry["peak_memory"] = max(entry.get("peak_memory", 0), peak_bytes() or 0)
        self._mark, self._busy = now, busy

    def tick(self) -> None:
        """Called often by running work: saves its clock every few seconds, so that a kill loses little."""
        if time.monotonic() - self._saved > SAVE_EVERY:
            self._count()
            self.save()

    def seconds_so_far(self) -> float:
        """Seconds of the running stage, this moment."""
        self._count()
        return self.stage(self.current)["seconds"] if self.current else 0.0

    def end(self, state: str, **values: Any) -> None:
        """The running stage is over: "done", "failed" or "interrupted"."""
        self._count()
        if self.current is not None:
            self.stage(self.current).update(state=state, finished=_now(), **values)
        self.current = None
        self.save()

    def warn(self, text: str) -> None:
        """Keep a warning for the report (once)."""
        entry = {"stage": self.current or "run", "text": text}
        if entry not in self.data["warnings"]:
            self.data["warnings"].append(entry)
            self.save()

    def seconds(self) -> dict[str, float]:
        """Cumulative seconds of each stage that has begun."""
        return {name: float(entry.get("seconds") or 0) for name, entry in self.data["stages"].items()}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


# --------------------------------------------------------------------------------------------- lock


def _try_lock(descriptor: int) -> bool:
    """An exclusive lock that the system drops when this process ends, however it ends."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # far from the text: Windows forbids reading locked bytes
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextmanager
def locked_folder(root: Path, does: str) -> Iterator[None]:
    """Keep other processes that ask for it away from a folder while working on it.

    The file `.lock` only names the process; what counts is the system's lock on it, so the file that a killed process
    leaves behind stops nobody. `does`: what the other one does, in words.

    Raises:
        InputError: another process works on this folder.
    """
    path, name = root / ".lock", os.path.realpath(root)
    if name in _held:
        raise InputError(f"{root}: this process works on the folder already")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _try_lock(descriptor):
            os.close(descriptor)
            raise InputError(f"{root}: another dyn4d{_holder(path)} {does}; wait for it or stop it")
        with contextlib.suppress(OSError):
            if os.name == "nt" or os.fstat(descriptor).st_ino == path.stat().st_ino:
                break  # else the holder removed the file between our opening and locking it: take the new one
        os.close(descriptor)
    try:
        _held.add(name)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        _held.discard(name)
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Keep other processes away from a run folder while working on it, as `locked_folder` does. Half-written files in
    the folder itself are removed.

    Raises:
        InputError: another process works on this folder.
    """
    with locked_folder(run.root, "works on this run"):
        remove_temporary(run.root)
        yield


def remove_temporary(folder: Path, depth: str = "") -> None:
    """Drop what atomic writes left behind when their process was killed; `depth` "**/" looks into subfolders too."""
    for path in sorted(folder.glob(f"{depth}.tmp-*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _holder(path: Path) -> str:
    try:
        return f" (process {int(path.read_text().split()[0])})"
    except (OSError, ValueError, IndexError):
        return ""


def describe_error(error: BaseException) -> str:
    """One line for `run.json` and the terminal."""
    text = " ".join(str(error).split())
    return text if isinstance(error, Dyn4DError) else f"{type(error).__name__}: {text}"
