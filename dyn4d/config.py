"""The one tree of options, its YAML form and the presets. Free of torch, so that the help text is quick.

A preset or a saved `config.yaml` may leave fields out (they keep their defaults) but may not name a field that does
not exist: a misspelt option must not be ignored in silence.
"""

from __future__ import annotations

import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from dyn4d.core.errors import InputError
from dyn4d.deformation.config import DeformationConfig
from dyn4d.export.config import ExportConfig, RenderConfig
from dyn4d.gaussians.config import GaussiansConfig
from dyn4d.geometry.config import GeometryConfig
from dyn4d.matching.config import MatchingConfig

C = TypeVar("C")
PRESETS = ("quick", "default", "quality")


@dataclass(frozen=True)
class Options:
    """Everything about a run but the clip."""

    frames: str | None = None
    """Use only these frames of the clip: start:stop:step, as in Python. The others are exported all the same."""
    hold_out: int = 0
    """Keep every n-th of these frames out of the fit: dyn4d eval then tells how well they are drawn. 0: none."""
    max_size: int | None = None
    """Make the pictures smaller, until their longest side has at most this many pixels."""
    mask: str = "auto"
    """Where the masks are: auto (mask folder or video, else the alpha channel), alpha, none (the whole frame), or a
    folder or video."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    seed: int = 0
    """Seed of everything random."""
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    """Where points and cameras come from."""
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    """Matches between frames."""
    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    """The invertible field."""
    gaussians: GaussiansConfig = field(default_factory=GaussiansConfig)
    """The Gaussians and their training."""
    render: RenderConfig = field(default_factory=RenderConfig)
    """Pictures and videos."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """What is written at the end."""

    def __post_init__(self) -> None:
        if self.max_size is not None and self.max_size < 16:
            raise ValueError(f"max_size: wanted at least 16 pixels, found {self.max_size}")
        if self.hold_out < 0 or self.hold_out == 1:
            raise ValueError(f"hold_out: wanted 0 for none, or 2 or more for every n-th frame, found {self.hold_out}")
        if self.seed < 0:
            raise ValueError(f"seed: wanted 0 or more, found {self.seed}")


@dataclass(frozen=True)
class Config(Options):
    """All options of a run: the clip and how it is treated. What `config.yaml` of a run folder holds."""

    clip: str = ""
    """Clip folder, video file, or folder of pictures."""


NAMED_INPUTS = (
    ("geometry", "pointmaps"),
    ("geometry", "weights"),
    ("matching", "calibration"),
    ("matching", "flow_files"),
    ("matching", "flow_weights"),
    ("matching", "weights"),
)
"""Options that may name files or folders, by section."""


def with_clip(options: Options, clip: Path | str) -> Config:
    """The same options for this clip (paths are made absolute, so that a run can go on from any folder)."""
    values = {f.name: getattr(options, f.name) for f in fields(Options)}
    if options.mask not in ("auto", "none", "alpha") and Path(options.mask).exists():
        values["mask"] = str(Path(options.mask).absolute())
    for section, name in NAMED_INPUTS:
        named = getattr(values[section], name)
        if named and Path(named).exists():
            values[section] = replace(values[section], **{name: str(Path(named).absolute())})
    return Config(**values, clip=str(Path(clip).expanduser().absolute()))


# ---------------------------------------------------------------------------------------------- YAML


def _plain(value: Any) -> Any:
    """Tuples as lists, so that the safe dumper can write them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def as_plain(config: Any) -> dict[str, Any]:
    """Any configuration dataclass as dictionaries and lists, ready for YAML or JSON."""
    return _plain(asdict(config))


def dump_config(config: Config) -> str:
    """The whole tree as YAML; `load_config` of it gives an equal object."""
    return yaml.safe_dump(as_plain(config), sort_keys=False, allow_unicode=True)


def load_config(path: Path) -> Config:
    """Read a run's `config.yaml`. Raises `InputError` naming the file and the field."""
    return from_plain(Config, _read_yaml(path), source=str(path))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as YAML ({text})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: wanted 'section: {{key: value}}' lines, found a {type(values).__name__}")
    return values


def from_plain(kind: type[C], values: Any, *, source: str, where: str = "", base: C | None = None) -> C:
    """Build a configuration dataclass from dictionaries and lists.

    Args:
        kind: the dataclass. values: what YAML or JSON held.
        source: the file, for messages. where: dotted name of this part in it.
        base: values of the fields that are not named; the defaults of `kind` if None.

    Raises:
        InputError: an unknown key (lists the known ones), a wrong type, or a value out of range.
    """
    if not isinstance(values, dict):
        raise InputError(f"{source}: {where or 'the file'}: wanted a section of keys, found {values!r}")
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise InputError(f"{source}: unknown key '{_join(where, str(key))}'; known here: {', '.join(known)}")
    hints = typing.get_type_hints(kind)
    arguments = {} if base is None else {name: getattr(base, name) for name in known}
    for key, value in values.items():
        inside = arguments.get(key)
        arguments[key] = _convert(hints[key], value, source=source, where=_join(where, key), base=inside)
    try:
        return kind(**arguments)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(hint: Any, value: Any, *, source: str, where: str, base: Any = None) -> Any:
    """`value` as the annotation wants it, or `InputError`. Numbers are not taken for strings nor the reverse."""
    if is_dataclass(hint):
        return from_plain(hint, value, source=source, where=where, base=base)  # type: ignore[arg-type]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        others = [one for one in inner if one is not type(None)]
        return _convert(others[0], value, source=source, where=where)
    if origin is Literal:
        if value in inner:
            return value
        raise InputError(f"{source}: {where}: {value!r} is not one of {', '.join(map(str, inner))}")
    if origin is tuple:
        return _convert_tuple(inner, value, source=source, where=where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is hint:
        return value
    raise InputError(f"{source}: {where}: wanted {getattr(hint, '__name__', hint)}, found {value!r}")


def _convert_tuple(inner: tuple[Any, ...], value: Any, *, source: str, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{source}: {where}: wanted a list, found {value!r}")
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(inner) != len(value):
        raise InputError(f"{source}: {where}: wanted {len(inner)} values, found {len(value)}")
    return tuple(_convert(one, item, source=source, where=where) for one, item in zip(inner, value))


# ------------------------------------------------------------------------------------------- presets


def preset_folder() -> Path:
    """Where the presets lie: inside an installed wheel, or `configs/` of the checkout."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "configs"


def load_preset(name: str) -> Options:
    """The options of `quick`, `default` or `quality`. Raises `InputError` for any other name."""
    path = preset_folder() / f"{name}.yaml"
    if name not in PRESETS or not path.is_file():
        raise InputError(f"--preset {name}: no such preset; use one of {', '.join(PRESETS)}")
    return from_plain(Options, _read_yaml(path), source=str(path))


DIGEST = "digest"  # in what stands for files, beside their name and number
ABSENT = "not set"  # an option that one of two versions of the program does not have


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What changed between two plain values, as 'name: old -> new' lines."""
    if isinstance(old, dict) and isinstance(new, dict):
        if DIGEST in old and DIGEST in new:
            return [] if old == new else [f"{where}: {_files_apart(old, new)}"]
        lines: list[str] = []
        for key in sorted(set(old) | set(new)):
            lines += differences(old.get(key, ABSENT), new.get(key, ABSENT), _join(where, str(key)))
        return lines
    return [] if old == new else [f"{where}: {_shown(old)} -> {_shown(new)}"]


def _files_counted(fingerprint: dict[str, Any]) -> str:
    count = fingerprint.get("files")
    return "1 file" if count == 1 else f"{count} files"


def _files_apart(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Of two fingerprints of files."""
    names = old.get("name"), new.get("name")
    counts = _files_counted(old), _files_counted(new)
    if names[0] != names[1]:
        return f"{names[0]} ({counts[0]}) -> {names[1]} ({counts[1]})"
    if counts[0] != counts[1]:
        return f"{names[0]} had {counts[0]}, and has {counts[1]}"
    return f"the files in {names[0]} are others than they were"


def _shown(value: Any) -> str:
    if isinstance(value, dict) and DIGEST in value:
        return f"{value.get('name')} ({_files_counted(value)})"
    named = {None: "none", True: "on", False: "off", "": "nothing"}
    return named.get(value, str(value)) if isinstance(value, (bool, str)) or value is None else str(value)
