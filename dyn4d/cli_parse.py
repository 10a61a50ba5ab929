"""From words to the arguments of a command: the only place that knows the library that parses options.

A command's arguments are a frozen dataclass, free of that library (`dyn4d.cli_args`, `dyn4d.ply_args`). Field
docstrings are the help text. Class variables say what annotations cannot: fields named in `PLACES` are given by their
place, under that label; those in `NAMES` have another name on the command line ("" for a group whose options stand
without its name); those in `NEEDS` are options that must be given; those in `AGAIN`, tuples of values under a label,
may be given several times, with one value each time.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import fields
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dyn4d.core.errors import InputError

T = TypeVar("T")


class UsageError(InputError):
    """The command line cannot be understood."""


def parse(kind: type[T], name: str, words: Sequence[str], default: T, more: str = "") -> T:
    """The arguments of one command.

    Args:
        kind: its dataclass. name: the command. words: what was typed after it. default: values to start from.
        more: what its help says besides the docstring.

    Raises:
        UsageError: with what is wrong, in one line. SystemExit: after printing help.
    """
    _mark(kind)
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught), _values():
            about = f"{kind.__doc__} {more}".strip()
            parsed = tyro.cli(kind, prog=f"dyn4d {name}", args=list(words), default=default, description=about)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(f"{_one_line(caught.getvalue())}; see dyn4d {name} --help") from stop
    except ValueError as error:
        raise UsageError(f"{error}; see dyn4d {name} --help") from error
    places: dict[str, str] = getattr(kind, "PLACES", {})
    labels = {field: label for field, label in places.items() if not label.startswith("[")}
    labels |= {field: f"--{field.replace('_', '-')}" for field in getattr(kind, "NEEDS", ())}
    for field, label in labels.items():
        if not getattr(parsed, field):
            raise UsageError(f"dyn4d {name}: {label} is missing; see dyn4d {name} --help")
    return parsed


def closest(word: str, known: Collection[str]) -> str:
    """What to say after a word that is not known: which one was meant, if that is plain, else which there are."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def _mark(kind: type) -> None:
    """Put the parser's marks on the fields of an argument class; the same again if they are there already."""
    hints = get_type_hints(kind)
    marked: dict[str, Any] = {}
    defaults = {field.name: field.default for field in fields(kind)}
    for field, value in defaults.items():
        if hints[field] is bool and value is False:
            marked[field] = FlagCreatePairsOff[bool]
        elif value is None:  # the help text says what happens then
            marked[field] = Annotated[hints[field], arg(help_behavior_hint="")]
    for field, label in getattr(kind, "PLACES", {}).items():
        marked[field] = Annotated[Positional[hints[field]], arg(metavar=label, help_behavior_hint="")]
    for field, label in getattr(kind, "AGAIN", {}).items():
        marked[field] = Annotated[UseAppendAction[hints[field]], arg(metavar=label, help_behavior_hint="")]
    for field, flag in getattr(kind, "NAMES", {}).items():
        marked[field] = Annotated[hints[field], arg(name=flag)]
    kind.__annotations__ = {**inspect.get_annotations(kind), **marked}


# --------------------------------------------------------------------------------------------- values


def _values() -> ConstructorRegistry:
    """How words become values, and what is said where they cannot."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_number)
    registry.primitive_rule(_choice)
    registry.primitive_rule(_tuple)
    registry.primitive_rule(_optional)
    return registry


def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type not in (int, float):
        return None
    kind: type[int] | type[float] = info.type
    label, what = ("INT", "a whole number") if kind is int else ("FLOAT", "a number")

    def read(words: list[str]) -> int | float:
        try:
            return kind(words[0])
        except ValueError:
            raise ValueError(f"wanted {what}, found '{words[0]}'") from None

    return PrimitiveConstructorSpec(
        nargs=1, metavar=label, instance_from_str=read, str_from_instance=lambda value: [str(value)],
        is_instance=lambda value: isinstance(value, kind) or (kind is float and isinstance(value, int)),
    )  # fmt: skip


def _choice(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type_origin is not Literal:
        return None
    known = get_args(info.type)
    if not all(isinstance(one, str) for one in known):
        return None

    def read(words: list[str]) -> str:
        if words[0] not in known:
            raise ValueError(f"wanted one of {', '.join(known)}, found '{words[0]}'")
        return words[0]

    return PrimitiveConstructorSpec(
        nargs=1, metavar=f"{{{','.join(known)}}}", instance_from_str=read, str_from_instance=lambda value: [value],
        is_instance=lambda value: value in known,
    )  # fmt: skip


def _tuple(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Several values of one kind: as many as the annotation has, or any number."""
    if UseAppendAction in info.markers:  # the library's own way: one value each time
        return None
    kinds = get_args(info.type)
    open_end = len(kinds) == 2 and kinds[1] is Ellipsis
    if info.type_origin is not tuple or not kinds or (not open_end and len(set(kinds)) > 1):
        return None
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    if not isinstance(inner, PrimitiveConstructorSpec) or inner.nargs != 1:
        return None

    def read(words: list[str]) -> tuple[Any, ...]:
        return tuple(inner.instance_from_str([word]) for word in words)

    return PrimitiveConstructorSpec(
        nargs="*" if open_end else len(kinds), instance_from_str=read,
        metavar=f"[{inner.metavar} ...]" if open_end else " ".join([inner.metavar] * len(kinds)),
        str_from_instance=lambda value: [word for one in value for word in inner.str_from_instance(one)],
        is_instance=lambda value: isinstance(value, tuple) and all(inner.is_instance(one) for one in value),
    )  # fmt: skip


def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """`X | None`: an X, or the word none; where X is text, None alone, for none may be a text."""
    kinds = get_args(info.type)
    if get_origin(info.type) not in (Union, UnionType) or len(kinds) != 2 or type(None) not in kinds:
        return None
    inner = ConstructorRegistry.get_primitive_spec(
        PrimitiveTypeInfo.make(next(kind for kind in kinds if kind is not type(None)), info.markers)
    )
    if not isinstance(inner, PrimitiveConstructorSpec):
        return None
    nothing = "None" if str in kinds else "none"
    count = inner.nargs if isinstance(inner.nargs, int) else None

    def read(words: list[str]) -> Any:
        if words in ([nothing], ["None"]):
            return None
        if count is not None and len(words) != count:
            raise ValueError(f"wanted {count} values, found {len(words)}")
        return inner.instance_from_str(words)

    return PrimitiveConstructorSpec(
        nargs=1 if count == 1 else "*" if count is None else (1, count),
        metavar=inner.metavar, instance_from_str=read,
        str_from_instance=lambda value: [nothing] if value is None else inner.str_from_instance(value),
        is_instance=lambda value: value is None or inner.is_instance(value),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------- errors


def _one_line(box: str) -> str:
    """What the parser's error box says, without its frame, title, help text of the option and pointer to the help."""
    box = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip(" │") for line in box.splitlines()[1:]]  # the first has the title
    text = ""
    for line in lines:
        if re.match(r"[─╰╯-]+$|For full helptext|Argument helptext|dyn4d .*--help$", line):
            if text:
                break
            continue
        text = f"{text} {line}".strip()
    if found := re.fullmatch(r"Unrecognized options?: (.*?)(?: Perhaps you meant.*)?", text):
        return _unknown(found[1].split(", "), [line.split()[0].rstrip(",") for line in lines if line.startswith("--")])
    if found := re.fullmatch(r"Missing value for argument \W*'(.*?)'\W* Expected (\d+) values\.?", text):
        return f"{found[1]}: " + ("its value is missing" if found[2] == "1" else f"wanted {found[2]} values")
    text = re.sub(r"^Error parsing (?:options\.\w+|options): ", "", text)
    text = re.sub(r"^Error parsing (.*?): ", r"\1: ", text)
    return text or "the arguments cannot be understood"


def _unknown(left: Sequence[str], similar: Sequence[str]) -> str:
    """About words that belong to no option; `similar` are options that the parser thinks are like them."""
    typed = next((word for word in left if word.startswith("-")), None)
    if typed is None:
        return f"'{left[0]}' is one word too many"
    last = typed.lstrip("-").rpartition(".")[2]
    near = [flag for flag in dict.fromkeys(similar) if _like(last, flag.lstrip("-").rpartition(".")[2])][:3]
    return f"there is no option {typed}" + (f"; perhaps {' or '.join(near)}" if near else "")


def _like(a: str, b: str) -> bool:
    return difflib.SequenceMatcher(a=a, b=b).ratio() >= 0.7
