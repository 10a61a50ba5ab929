"""The command that makes a run again: its options as words, on top of the preset that is nearest. Free of torch."""

from __future__ import annotations

import shlex
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from dyn4d.config import PRESETS, Config, Options, load_preset


def option_words(options: Options, base: Options) -> list[str]:
    """The words that turn `base` into `options` on the command line."""
    words: list[str] = []
    _collect(options, base, "", words)
    return words


def _collect(value: Any, base: Any, where: str, words: list[str]) -> None:
    for field in fields(Options if isinstance(value, Options) else value):
        new, old = getattr(value, field.name), getattr(base, field.name)
        name = f"{where}{field.name.replace('_', '-')}"
        if is_dataclass(new):
            _collect(new, old, f"{name}.", words)
        elif new != old and isinstance(new, bool):
            words.append(f"--{name}" if new else f"--{where}no-{field.name.replace('_', '-')}")
        elif new != old:
            several = new if isinstance(new, tuple) else (new,)
            words += [f"--{name}", *(_word(one, old) for one in several)]


def _word(value: Any, old: Any) -> str:
    if value is None:
        return "None" if isinstance(old, str) else "none"
    return str(value)


def repeat_command(config: Config, run: Path | str, *, demo: dict[str, Any] | None = None) -> str:
    """`dyn4d run CLIP --out RUN ...`, or `dyn4d demo ...` for a run that holds the demo's clip.

    Args:
        config: of the run. run: its folder. demo: what `demo.json` holds, if the clip is the demo's.
    """
    plain = {name: option_words(config, load_preset(name)) for name in PRESETS}
    preset = min(PRESETS, key=lambda name: len(plain[name]))
    if demo is None:
        head = ["dyn4d", "run", config.clip, "--out", str(run)]
    else:
        head = ["dyn4d", "demo", "--out", str(run)]
        for option, key in (("scene", "scene"), ("backdrop", "background"), ("length", "frames"), ("size", "size")):
            head += [f"--{option}", str(demo[key])]
    return shlex.join([*head, "--preset", preset, *plain[preset]])
