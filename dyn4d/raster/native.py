"""Kernels as plain C functions over a range of work, and the one parallel loop that runs them.

A kernel is a function `(lo, hi, pack)` that handles the items [lo, hi); `pack` is the address of its arguments, which
it reads with `unpack`. Numba takes a second or so to compile every parallel loop, so there is only one, and it calls
kernels by address.
"""

from __future__ import annotations

import ctypes
import hashlib
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import njit, prange, types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from dyn4d.raster import vectors

# numba imports half of itself when it first compiles or loads something; with this module's import, not in a first call
cpu_target.target_context.refresh()  # type: ignore[attr-defined]

TASK = 4  # integers of a task: a kernel's address, lo, hi, pack

_INT64 = ir.IntType(64)
_KINDS = {
    "f4": (types.float32, torch.float32),
    "f8": (types.float64, torch.float64),
    "i4": (types.int32, torch.int32),
    "u4": (types.uint32, torch.int32),  # torch can do little with a uint32; a kernel sees the bits
    "i8": (types.int64, torch.int64),
}


class _Cache(FunctionCache):
    """Numba's cache on disk notices changes of a kernel's own file only; this one, of any file of this folder."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), _fingerprint())


def _cached(made: Any, function: Callable[..., Any]) -> Any:
    """Give what numba made of a function its cache; without one where no folder can be written to."""
    with suppress(RuntimeError):  # numba finds no such folder; NUMBA_CACHE_DIR names one
        made._cache = _Cache(function)
    return made


def _fingerprint() -> str:
    global _sources
    if not _sources:
        here = Path(__file__).parent
        texts = [path.read_bytes() for path in sorted(here.glob("*.py"))]
        _sources = hashlib.sha256(b"".join(texts)).hexdigest()
    return _sources


_sources = ""


class Kernel:
    """A kernel and its arguments' kinds; compiled, or loaded from numba's cache, when it is first needed."""

    def __init__(self, function: Callable[..., None], arguments: str) -> None:
        self.function, self.name = function, function.__name__
        self.arguments = [_parse(word) for word in arguments.split()]

    @cached_property
    def compiled(self) -> CFunc:
        signature = ((types.int64, types.int64, types.int64), types.void)
        made = _cached(CFunc(self.function, signature, {}, {"nopython": True, "error_model": "numpy"}), self.function)
        made.compile()
        return made

    @cached_property
    def address(self) -> int:
        return int(self.compiled.address or 0)

    @cached_property
    def serial(self) -> Callable[[int, int, int], None]:
        """Call it in this thread, without Python's lock."""
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        return kind(self.address)  # type: ignore[arg-type]  # an address is one of the things that it takes

    def pack(self, values: tuple[Any, ...]) -> array[int]:
        """The arguments as `unpack` reads them; whoever calls keeps the tensors alive."""
        if len(values) != len(self.arguments):
            raise TypeError(f"{self.name}: wanted {len(self.arguments)} arguments, found {len(values)}")
        out: list[int] = []
        for position, ((dtype, ndim), value) in enumerate(zip(self.arguments, values)):
            if ndim == 0:
                out.append(int(value))
                continue
            if value.dtype != dtype or value.ndim != ndim or not value.is_contiguous():
                raise TypeError(f"{self.name}: argument {position} is {value.dtype} with {value.ndim} axes")
            out.append(value.data_ptr())
            out.extend(value.shape)
        return array("q", out)


def _parse(word: str) -> tuple[torch.dtype, int]:
    """A word of a kernel's signature: "i8" is an integer, "f4[:,:]" a tensor of two axes."""
    return _KINDS[word[:2]][1], word.count(":")


def kernel(arguments: str) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel: its arguments' kinds in order, as `unpack` gets them too."""
    return lambda function: Kernel(function, arguments)


@intrinsic(prefer_literal=True)
def unpack(typingctx: Any, pack: Any, arguments: Any) -> Any:
    """The arguments of a kernel as a tuple."""
    kinds = []
    for word in arguments.literal_value.split():
        kind, ndim = _KINDS[word[:2]][0], word.count(":")
        kinds.append(types.Array(kind, ndim, "C") if ndim else types.int64)
    result = types.Tuple(kinds)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        emit = vectors.Emit(context, builder)
        slots = builder.inttoptr(values[0], _INT64.as_pointer())
        place, made = 0, []

        def read() -> Any:
            nonlocal place
            place += 1
            return builder.load(builder.gep(slots, [emit.integer(place - 1)]))

        for kind in kinds:
            if isinstance(kind, types.Array):
                data = builder.inttoptr(read(), context.get_data_type(kind.dtype).as_pointer())
                made.append(vectors.make_array(emit, kind, data, [read() for _ in range(kind.ndim)]))
            else:
                made.append(read())
        return context.make_tuple(builder, result, made)

    return result(types.int64, arguments), codegen


@intrinsic
def _call(typingctx: Any, task: Any) -> Any:
    """Call a kernel; where `task` points lie its address, lo, hi and pack."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], _INT64.as_pointer())
        address, *given = (builder.load(builder.gep(place, [ir.Constant(_INT64, i)])) for i in range(TASK))
        kind = ir.FunctionType(ir.VoidType(), [_INT64] * 3)
        builder.call(builder.inttoptr(address, kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def _take(typingctx: Any, counter: Any) -> Any:
    """The number at an address, which then counts one more; each number is given out once."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], _INT64.as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(_INT64, 1), "monotonic")

    return types.int64(types.int64), codegen


def _run_parallel(tasks: int, count: int, threads: int, counter: int) -> None:
    """Run the `count` tasks at an address; each is four integers, see `_call`. A thread takes the next when it has done
    one, so that a core which is slow, or busy with something else, gets fewer. `counter`: where a 0 lies."""
    for _ in prange(threads):
        j = _take(counter)  # type: ignore[call-arg]  # numba gives the first argument
        while j < count:
            _call(tasks + 8 * TASK * j)  # type: ignore[call-arg]
            j = _take(counter)  # type: ignore[call-arg]


run_parallel = _cached(njit(parallel=True, nogil=True)(_run_parallel), _run_parallel)
