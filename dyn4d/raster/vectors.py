"""Vector arithmetic for numba kernels, written as ordinary Python over LLVM values.

Left to itself LLVM vectorises a kernel's loops on some machines and not on others, at five times the cost. So the
arithmetic of the kernels is spelled out on vectors here, as macros: Python functions that run while a kernel is being
compiled and put their instructions into it. Numba types one call for each macro instead of every operation in it,
which also makes compiling several times faster. Loops and branches stay plain numba.

Floating-point operations may be fused (`contract`) but never re-ordered: the same bits everywhere that has the same
instructions.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# ^ llvmlite and numba have no types worth the name
from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model
from numba.np import arrayobj

_FLAGS = ("contract", "nsz")
_INT64, _INT32 = ir.IntType(64), ir.IntType(32)
_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()


class Lanes(types.Type):
    """The numba type of a vector: `count` numbers of one kind in a register, or in several if the machine's are
    shorter."""

    def __init__(self, element: ir.Type, count: int) -> None:
        self.vector = ir.VectorType(element, count)
        super().__init__(name=f"dyn4d_{element}x{count}")


FLOAT8 = Lanes(_FLOAT, 8)
DOUBLE4 = Lanes(_DOUBLE, 4)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, kind.vector)


class Value:
    """A number, a vector of numbers, or the truth of a comparison, while a kernel is being compiled.

    Scalars and Python numbers meet vectors by being repeated in all lanes.
    """

    __slots__ = ("builder", "ir")

    def __init__(self, builder: ir.IRBuilder, value: Any) -> None:
        self.builder, self.ir = builder, value

    @property
    def lanes(self) -> int:
        """0 for a scalar."""
        return self.ir.type.count if isinstance(self.ir.type, ir.VectorType) else 0

    def like(self, number: float) -> Value:
        """A constant of this value's type."""
        kind = self.ir.type
        return Value(self.builder, ir.Constant(kind, [number] * self.lanes if self.lanes else number))

    def splat(self, lanes: int) -> Value:
        """The scalar in all lanes."""
        kind = ir.VectorType(self.ir.type, lanes)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), self.ir, ir.Constant(_INT32, 0))
        return Value(self.builder, first).shuffle([0] * lanes)

    def shuffle(self, lanes: Sequence[int], other: Value | None = None) -> Value:
        """The lanes named by number; those of `other` count on from the end of this one's."""
        right = ir.Constant(self.ir.type, ir.Undefined) if other is None else other.ir
        mask = ir.Constant(ir.VectorType(_INT32, len(lanes)), list(lanes))
        return Value(self.builder, self.builder.shuffle_vector(self.ir, right, mask))

    def lane(self, index: int) -> Value:
        return Value(self.builder, self.builder.extract_element(self.ir, ir.Constant(_INT32, index)))

    def to(self, element: ir.Type) -> Value:
        """Converted between float and double."""
        kind = ir.VectorType(element, self.lanes) if self.lanes else element
        if kind == self.ir.type:
            return self
        wider = element == _DOUBLE
        return Value(self.builder, (self.builder.fpext if wider else self.builder.fptrunc)(self.ir, kind))

    def whole(self) -> Value:
        """As 32-bit integers, towards zero."""
        return Value(self.builder, self.builder.fptosi(self.ir, self._integers(32)))

    def bits(self) -> Value:
        """The bits as integers."""
        wide = 32 if self._element() == _FLOAT else 64
        return Value(self.builder, self.builder.bitcast(self.ir, self._integers(wide)))

    def _element(self) -> ir.Type:
        return self.ir.type.element if self.lanes else self.ir.type

    def _integers(self, width: int) -> ir.Type:
        return ir.VectorType(ir.IntType(width), self.lanes) if self.lanes else ir.IntType(width)

    def _meet(self, other: Value | float) -> tuple[Value, Value]:
        if not isinstance(other, Value):
            return self, self.like(other)
        if self.lanes and not other.lanes:
            return self, other.splat(self.lanes)
        if other.lanes and not self.lanes:
            return self.splat(other.lanes), other
        return self, other

    def _apply(self, name: str, other: Value | float) -> Value:
        a, b = self._meet(other)
        return Value(self.builder, getattr(self.builder, name)(a.ir, b.ir, flags=_FLAGS))

    def __add__(self, other: Value | float) -> Value:
        return self._apply("fadd", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._apply("fsub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._apply("fmul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._apply("fdiv", other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: float) -> Value:
        return self.like(other) - self

    def __rtruediv__(self, other: float) -> Value:
        return self.like(other) / self

    def __neg__(self) -> Value:
        return Value(self.builder, self.builder.fneg(self.ir))

    def _compare(self, how: str, other: Value | float) -> Value:
        a, b = self._meet(other)
        return Value(self.builder, self.builder.fcmp_ordered(how, a.ir, b.ir))

    def __lt__(self, other: Value | float) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Value | float) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Value | float) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Value | float) -> Value:
        return self._compare(">=", other)

    def same(self, other: Value | float) -> Value:
        return self._compare("==", other)

    def __and__(self, other: Value) -> Value:
        return Value(self.builder, self.builder.and_(self.ir, other.ir))

    def __or__(self, other: Value) -> Value:
        return Value(self.builder, self.builder.or_(self.ir, other.ir))


def where(condition: Value, yes: Value | float, no: Value | float) -> Value:
    """yes in the lanes where the comparison held, no in the others."""
    if not isinstance(yes, Value):
        assert isinstance(no, Value)
        yes = no.like(yes)
    yes, other = yes._meet(no)
    return Value(yes.builder, yes.builder.select(condition.ir, yes.ir, other.ir))


def largest(a: Value, b: Value | float) -> Value:
    """The larger; b where a is not a number."""
    return where(a > b, *a._meet(b))


def smallest(a: Value, b: Value | float) -> Value:
    """The smaller; b where a is not a number."""
    return where(a < b, *a._meet(b))


def some(condition: Value) -> Value:
    """Does the comparison hold in any lane? One bit."""
    if not condition.lanes:
        return condition
    builder = condition.builder
    packed = builder.bitcast(condition.ir, ir.IntType(condition.lanes))
    return Value(builder, builder.icmp_unsigned("!=", packed, ir.Constant(packed.type, 0)))


def _unary(name: str) -> Callable[[Value], Value]:
    def apply(a: Value) -> Value:
        kind = a._element().intrinsic_name
        full = f"{name}.v{a.lanes}{kind}" if a.lanes else f"{name}.{kind}"
        function = cgutils.get_or_insert_function(a.builder.module, ir.FunctionType(a.ir.type, [a.ir.type]), full)
        return Value(a.builder, a.builder.call(function, [a.ir]))

    return apply


sqrt, floor, ceil, magnitude = _unary("llvm.sqrt"), _unary("llvm.floor"), _unary("llvm.ceil"), _unary("llvm.fabs")

_EXP2 = (
    1.000000071029702, 0.6931469491610636, 0.24022121753559728, 0.05550742616000658, 0.009675459745590045,
    0.001326697038745643,
)  # fmt: skip


def exp2(power: Value) -> Value:
    """2**power of floats in [-30, 30], and 2**-30 below: a minimax polynomial on [-0.5, 0.5] (relative error 1e-7),
    then the whole part is added to the exponent's bits."""
    b = power.builder
    power = largest(power, -30.0)
    shifted = power + 12582912.0  # 1.5 · 2**23: the sum's last bits are the nearest whole number
    rest = power - (shifted - 12582912.0)
    value = power.like(_EXP2[-1])
    for coefficient in _EXP2[-2::-1]:
        value = value * rest + coefficient
    whole = b.shl(shifted.bits().ir, power.bits().like(23).ir)
    return Value(b, b.bitcast(b.add(value.bits().ir, whole), power.ir.type))


def log2(x: Value) -> Value:
    """Logarithm of positive, normal doubles, to 1e-11 of its value or better: x = m · 2**k with m about 1, and the
    series of log m in (m - 1) / (m + 1)."""
    b = x.builder
    bits = x.bits()
    middle = bits.like(0x3FE6A09E667F3BCD)  # sqrt(1/2)
    steps = b.ashr(b.sub(bits.ir, middle.ir), bits.like(52).ir)
    mantissa = Value(b, b.bitcast(b.sub(bits.ir, b.shl(steps, bits.like(52).ir)), x.ir.type))
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = s.like(1.0 / 15)
    for odd in (13, 11, 9, 7, 5, 3, 1):
        series = series * square + 1.0 / odd
    return s * series * 2.8853900817779268 + Value(b, b.sitofp(steps, x.ir.type))


def total(value: Value) -> Value:
    """Sum of the lanes, always in the same tree."""
    while value.lanes > 1:
        half = value.lanes // 2
        value = value.shuffle(range(half)) + value.shuffle(range(half, 2 * half))
    return value.lane(0)


def totals(values: Sequence[Value]) -> Value:
    """Sums of the lanes of each of four or eight vectors of eight, as one vector."""
    pairs = [
        a.shuffle([0, 8, 2, 10, 4, 12, 6, 14], b) + a.shuffle([1, 9, 3, 11, 5, 13, 7, 15], b)
        for a, b in zip(values[::2], values[1::2])
    ]
    fours = [
        a.shuffle([0, 1, 8, 9, 4, 5, 12, 13], b) + a.shuffle([2, 3, 10, 11, 6, 7, 14, 15], b)
        for a, b in zip(pairs[::2], pairs[1::2])
    ]
    if len(fours) == 1:
        return fours[0].shuffle(range(4)) + fours[0].shuffle(range(4, 8))
    a, b = fours
    return a.shuffle([0, 1, 2, 3, 8, 9, 10, 11], b) + a.shuffle([4, 5, 6, 7, 12, 13, 14, 15], b)


def transposed(lines: Sequence[Value]) -> list[Value]:
    """Eight vectors of eight as the columns of the square that they are the rows of."""
    halves = (range(0, 4), range(4, 8))
    low, high = ([0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15])
    pairs = [a.shuffle(mask, b) for a, b in zip(lines[::2], lines[1::2]) for mask in (low, high)]
    left, right = ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])
    fours = [
        pairs[4 * block + kind].shuffle(mask, pairs[4 * block + 2 + kind])
        for block in range(2)
        for kind in range(2)
        for mask in (left, right)
    ]
    return [fours[i].shuffle([*half, *(8 + lane for lane in half)], fours[4 + i]) for half in halves for i in range(4)]


class Buffer:
    """A C-contiguous array while a kernel is being compiled. Places count its elements one after another."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: types.Array, value: Any) -> None:
        self.builder = builder
        made = context.make_array(kind)(context, builder, value)
        self.data = made.data
        self.row = builder.extract_value(made.shape, kind.ndim - 1)  # length of the last axis

    def at(self, place: Any, lanes: int = 0) -> Any:
        pointer = self.builder.gep(self.data, [ir.Constant(_INT64, place) if isinstance(place, int) else place])
        if lanes:
            pointer = self.builder.bitcast(pointer, ir.VectorType(self.data.type.pointee, lanes).as_pointer())
        return pointer

    def load(self, place: Any, lanes: int = 0) -> Value:
        """A number, or `lanes` neighbouring ones."""
        size = 4 if self.data.type.pointee in (_FLOAT, _INT32) else 8
        return Value(self.builder, self.builder.load(self.at(place, lanes), align=size))

    def store(self, place: Any, value: Value) -> None:
        size = 4 if self.data.type.pointee in (_FLOAT, _INT32) else 8
        self.builder.store(value.ir, self.at(place, value.lanes), align=size)


class Emit:
    """What a macro gets to put instructions with, besides its arguments."""

    def __init__(self, context: Any, builder: ir.IRBuilder) -> None:
        self.context, self.builder = context, builder

    def integer(self, value: int) -> ir.Constant:
        return ir.Constant(_INT64, value)

    def add(self, place: Any, offset: int) -> Any:
        return place + offset if isinstance(place, int) else self.builder.add(place, self.integer(offset))

    def times(self, place: Any, factor: int) -> Any:
        return place * factor if isinstance(place, int) else self.builder.mul(place, self.integer(factor))

    def number(self, integer: Any) -> Value:
        """An integer as a double."""
        return Value(self.builder, self.builder.sitofp(integer, _DOUBLE))

    def constant(self, kind: Lanes, number: float) -> Value:
        return Value(self.builder, ir.Constant(kind.vector, [number] * kind.vector.count))

    def steps(self, kind: Lanes) -> Value:
        """0, 1, 2, … in the lanes."""
        return Value(self.builder, ir.Constant(kind.vector, [float(i) for i in range(kind.vector.count)]))

    def rows(self, first: Any, end: Any, count: int) -> list[Any]:
        """The integers first, first + 1, …, none beyond end - 1."""
        last = self.builder.sub(end, self.integer(1))
        places = [self.add(first, i) for i in range(count)]
        return [self.builder.select(self.builder.icmp_signed("<", p, last), p, last) for p in places]

    def gather(self, buffer: Buffer, rows: Sequence[Any], columns: int) -> list[Value]:
        """The first `columns` numbers of each row of a 2D array, as one vector of doubles for each column."""
        return [value.to(_DOUBLE) for value in self.gather_floats(buffer, rows, columns)]

    def gather_floats(self, buffer: Buffer, rows: Sequence[Any], columns: int, first: int = 0) -> list[Value]:
        """The numbers [first, first + columns) of each row of a 2D array, one vector for each column."""
        starts = [self.builder.mul(row, buffer.row) for row in rows]
        out = []
        for column in range(first, first + columns):
            value = ir.Constant(ir.VectorType(buffer.data.type.pointee, len(rows)), ir.Undefined)
            for i, start in enumerate(starts):
                number = buffer.load(self.add(start, column)).ir
                value = self.builder.insert_element(value, number, ir.Constant(_INT32, i))
            out.append(Value(self.builder, value))
        return out

    def drawn(self, radii: Buffer, rows: Sequence[Any]) -> Value:
        """Which of these rows of radii (N, 2), integers of at least 0, have one above 0?"""
        across, down = (value.ir for value in self.gather_floats(radii, rows, 2))
        either = self.builder.or_(across, down)
        return Value(self.builder, self.builder.icmp_signed(">", either, ir.Constant(either.type, [0] * len(rows))))

    def valid(self, first: Any, end: Any, kind: Lanes) -> Value:
        """Which of the lanes first, first + 1, … are before end?"""
        left = self.builder.sitofp(self.builder.sub(end, first), kind.vector.element)
        return self.steps(kind) < Value(self.builder, left).splat(kind.vector.count)

    def not_finite(self, values: Sequence[Value]) -> Any:
        """1 if any lane of any of these is infinite or not a number, else 0."""
        nothing = values[0] * 0.0
        for value in values[1:]:
            nothing = nothing + value * 0.0
        bad = Value(self.builder, self.builder.fcmp_unordered("uno", nothing.ir, nothing.ir))
        return self.builder.zext(some(bad).ir, _INT64)

    def scatter(self, buffer: Buffer, rows: Sequence[Any], values: Sequence[Value]) -> None:
        """Write one vector of doubles (or integers) for each of the first columns of a 2D float (or integer) array."""
        starts = [self.builder.mul(row, buffer.row) for row in rows]
        for column, value in enumerate(values):
            if isinstance(value._element(), (ir.FloatType, ir.DoubleType)):
                value = value.to(buffer.data.type.pointee)
            for i, start in enumerate(starts):
                buffer.store(self.add(start, column), value.lane(i))


def macro(returns: Any = types.void) -> Callable[[Callable[..., Any]], Any]:
    """Make `emit(e: Emit, *arguments)` callable in a kernel.

    Arguments arrive as `Buffer` (arrays), `Value` (floats and vectors), lists of `Value` (tuples), Python integers
    (integer constants) or LLVM integers. `returns` is the numba type of the result, or a function from the arguments'
    types to it; a macro that returns a tuple of vectors gives a list.
    """

    def decorate(emit: Callable[..., Any]) -> Any:
        def typing(typingctx: Any, *kinds: Any) -> Any:
            result = returns(*kinds) if callable(returns) and not isinstance(returns, types.Type) else returns
            kinds = tuple(k if isinstance(k, types.IntegerLiteral) else types.unliteral(k) for k in kinds)

            def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
                given = [_given(context, builder, k, v) for k, v in zip(kinds, values)]
                made = emit(Emit(context, builder), *given)
                if isinstance(made, list):
                    return context.make_tuple(builder, result, [m.ir for m in made])
                if made is None:
                    return context.get_dummy_value()
                return made.ir if isinstance(made, Value) else made

            return result(*kinds), codegen

        plain = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in _names(emit)]
        typing.__name__, typing.__doc__ = emit.__name__, emit.__doc__
        typing.__signature__ = inspect.Signature(plain)  # type: ignore[attr-defined]  # numba reads it
        return intrinsic(prefer_literal=True)(typing)

    return decorate


def _names(emit: Callable[..., Any]) -> list[str]:
    return ["typingctx", *list(inspect.signature(emit).parameters)[1:]]


def _given(context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.IntegerLiteral):
        return kind.literal_value
    if isinstance(kind, types.Array):
        return Buffer(context, builder, kind, value)
    if isinstance(kind, types.BaseTuple):
        return [Value(builder, builder.extract_value(value, i)) for i in range(kind.count)]
    if isinstance(kind, types.Integer):
        return builder.sext(value, _INT64) if value.type.width < 64 else value
    if isinstance(kind, types.Boolean):
        return value
    return Value(builder, value)


@macro(lambda count: types.Array(types.float32, 1, "C"))
def stack(e: Emit, count: int) -> Any:
    """`count` floats that live as long as the kernel's call, not set to anything."""
    return _on_stack(e, _FLOAT, types.float32, count)


@macro(lambda count: types.Array(types.float64, 1, "C"))
def stack_doubles(e: Emit, count: int) -> Any:
    """As `stack`, of doubles."""
    return _on_stack(e, _DOUBLE, types.float64, count)


def _on_stack(e: Emit, element: ir.Type, kind: Any, count: int) -> Any:
    pointer = cgutils.alloca_once(e.builder, ir.ArrayType(element, count))
    return make_array(
        e, types.Array(kind, 1, "C"), e.builder.bitcast(pointer, element.as_pointer()), [e.integer(count)]
    )


def make_array(e: Emit, kind: types.Array, data: Any, shape: Sequence[Any]) -> Any:
    """A C-contiguous array over memory that somebody else owns."""
    array = e.context.make_array(kind)(e.context, e.builder)
    size = e.context.get_abi_sizeof(e.context.get_data_type(kind.dtype))
    strides, step = [], e.integer(size)
    for length in reversed(shape):
        strides.insert(0, step)
        step = e.builder.mul(step, length)
    arrayobj.populate_array(
        array, data=data, shape=list(shape), strides=strides, itemsize=e.integer(size), meminfo=None
    )
    return array._getvalue()


@macro()
def prefetch(e: Emit, table: Buffer, row: Any) -> None:
    """Have a row of a 2D array brought near: it will be read soon, from a place that the machine cannot guess."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _INT32, _INT32, _INT32])
    function = cgutils.get_or_insert_function(e.builder.module, kind, "llvm.prefetch.p0")
    place = e.builder.bitcast(table.at(e.builder.mul(row, table.row)), byte)
    e.builder.call(function, [place, *(ir.Constant(_INT32, n) for n in (0, 3, 1))])


@macro()
def store8(e: Emit, buffer: Buffer, place: Any, value: Value) -> None:
    buffer.store(place, value)


@macro(FLOAT8)
def splat8(e: Emit, value: Value) -> Value:
    """A float32 in all lanes."""
    return value.splat(8)
