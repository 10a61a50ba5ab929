"""Shape and value checks whose messages name the argument, what was wanted and what was found."""

from __future__ import annotations

from typing import Any

import torch

from dyn4d.core.errors import RunError


def check_shape(
    name: str, value: Any, shape: tuple[int | str | None, ...], sizes: dict[str, int] | None = None
) -> None:
    """Raise `ValueError` unless `value.shape` fits `shape`.

    Args:
        name: the argument as the caller knows it, for the message.
        value: a tensor or array.
        shape: one entry a dimension: a number, `None` (anything), or a letter that must mean the same size
            wherever it appears in the same `sizes` dictionary. A leading "..." stands for any leading dimensions.
        sizes: letters seen so far; updated in place.
    """
    sizes = {} if sizes is None else sizes
    found = tuple(value.shape)
    wanted = shape
    trailing = found
    if shape and shape[0] == "...":
        wanted = shape[1:]
        trailing = found[len(found) - len(wanted) :] if len(found) >= len(wanted) else found
    fits = len(trailing) == len(wanted)
    if fits:
        for want, got in zip(wanted, trailing):
            if isinstance(want, str):
                want = sizes.setdefault(want, got)
            if want is not None and want != got:
                fits = False
    if not fits:
        text = ", ".join(f"{w}={sizes[w]}" if isinstance(w, str) and w in sizes else str(w) for w in shape)
        raise ValueError(f"{name}: wanted shape ({text}), found {found}")


def require_finite(value: torch.Tensor, where: str) -> None:
    """Raise `RunError` if `value` holds a NaN or an infinity. `where` says which step and frame it is from."""
    if not torch.isfinite(value).all():
        raise RunError(f"{where}: a loss is not finite; lower the learning rates or look at the input of that frame")
