"""Which formats need packages that are not always installed. Free of torch: asked before any work begins."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from dyn4d.core.errors import InputError

EXTRA = "formats"
NEEDS = {  # format -> (module, package)
    "4dgs": ("fourdgs", "fourdgs"),
    "usd": ("pxr", "usd-core"),
    "mesh": ("fast_simplification", "fast-simplification"),
    "mesh-usd": ("fast_simplification", "fast-simplification"),
    "mesh-frames": ("fast_simplification", "fast-simplification"),
}
ALSO = {"mesh-usd": ("pxr", "usd-core")}


def require_formats(names: Sequence[str]) -> None:
    """Raise one `InputError` that names the formats, the packages they lack and how to get them."""
    missing: dict[str, list[str]] = {}
    for name in names:
        for module, package in filter(None, (NEEDS.get(name), ALSO.get(name))):
            if find_spec(module) is None:
                missing.setdefault(package, []).append(name)
    if missing:
        what = "; ".join(f"{', '.join(dict.fromkeys(users))} needs {package}" for package, users in missing.items())
        raise InputError(f"export.formats: {what}, which is not installed: pip install 'dyn4d[{EXTRA}]'")


def require_viewer() -> None:
    """Raise an `InputError` that says how to get it where viser is missing."""
    if find_spec("viser") is None:
        raise InputError("dyn4d view needs viser, which is not installed: pip install 'dyn4d[view]'")
