"""What `dyn4d weights info|convert` does. Free of torch until it is called; returns the text to print."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dyn4d.core.errors import InputError


def weights_text(action: Literal["info", "convert"], file: str, out: str | None = None) -> str:
    """Describe a weights file, or convert it.

    Args:
        action: "info" or "convert". file: a `.pth` or `.safetensors` file, or a folder of `model.safetensors` and
            `config.json`.
        out: of "convert": a folder, or a name that ends in `.pth`. Default: a folder beside the file, of its name.

    Returns:
        Lines for the terminal. Raises `InputError` where the file cannot be used.
    """
    if action == "info":
        if out is not None:
            raise InputError("dyn4d weights info: --out goes with dyn4d weights convert")
        if (own := _own_matcher(Path(file))) is not None:
            return own
        from dyn4d.geometry.weights import describe_weights

        return describe_weights(file).format()
    source = Path(file)
    target = Path(out) if out is not None else source.with_suffix("")
    if out is None and not source.is_file():
        raise InputError(f"dyn4d weights convert: {source} is not a file; say where to with --out")
    from dyn4d.geometry.weights import convert_weights, describe_weights

    return describe_weights(convert_weights(source, target)).format()


def _own_matcher(file: Path) -> str | None:
    """What there is to say of weights that `dyn4d train-matcher` wrote; None for any other file."""
    from dyn4d.io.checkpoint import read_head
    from dyn4d.matching.r2d2_weights import OWN_FORMAT

    try:
        found, config = read_head(file)
    except InputError:
        return None  # the reader of pair networks says what it is, or what is wrong with it
    if found != OWN_FORMAT:
        return None
    return (
        f"{file}\n  R2D2 of dyn4d ({found}), a matcher and no pair network: dyn4d match A B --weights {file}\n"
        f"  weights: {config.get('licence', 'no terms are named')}"
    )
