"""Lists of names in lines for the user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

RANGES = 4  # of frames in a line


def listed(names: Iterable[object], most: int = 8) -> str:
    """The first `most` names with commas between, and `…` where there are more."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:most] + ["…"] * (len(shown) > most))


def counted(number: int, thing: str) -> str:
    """`1 frame`, `2 frames`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def tensor_list(names: Sequence[str]) -> str:
    """Their number and the first four names."""
    return f"{counted(len(names), 'tensor')} ({listed(names, 4)})"


def frame_ranges(frames: Sequence[int], most: int | None = RANGES) -> str:
    """ "3, 5-9, 12": ascending frames, `most` ranges of them, and how many more frames there are."""
    ranges: list[list[int]] = []
    for frame in frames:
        if ranges and frame == ranges[-1][1] + 1:
            ranges[-1][1] = frame
        else:
            ranges.append([frame, frame])
    shown = ranges if most is None else ranges[:most]
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in shown)
    left = sum(b - a + 1 for a, b in ranges[len(shown) :])
    return f"{text} +{left}" if left else text
