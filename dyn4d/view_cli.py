"""What `dyn4d view` does: a run in a browser on this machine until Ctrl-C. Free of torch until it is called."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dyn4d.config import load_config
from dyn4d.core.errors import Dyn4DError
from dyn4d.runs import RunFolder

if TYPE_CHECKING:
    from dyn4d.core.types import Clip


def view_run(run: str, *, port: int, browser: bool, say: Callable[[str], None]) -> None:
    """Serve the viewer of a run to this machine alone, until Ctrl-C.

    Raises:
        InputError: not a run, no viser, no free port. RunError: no stage has left anything to show.
    """
    from dyn4d.export.requirements import require_viewer

    folder = RunFolder(run)
    folder.require()
    require_viewer()
    from dyn4d.export.view_scene import LiveScene
    from dyn4d.export.viewer import Viewer

    with contextlib.suppress(KeyboardInterrupt):
        viewer = Viewer(LiveScene(folder.root), port=port, clip=lambda: whole_clip(folder.root))
        try:
            say(f"{viewer.address}  (only on this machine; Ctrl-C ends it)")
            if browser and has_display():
                webbrowser.open(viewer.address)
            viewer.serve()
        finally:
            viewer.stop()


def has_display() -> bool:
    """Without one the browsers that are found are those of terminals, which would take this one."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def whole_clip(run: Path) -> Clip | None:
    """All frames of the run's clip, or None where it is not there any more."""
    from dyn4d.stagework import open_whole_clip

    try:
        return open_whole_clip(load_config(RunFolder(run).config))
    except (Dyn4DError, OSError):
        return None
