"""The vocabulary of every emitter: typed pointers, vectors, loops over tasks, all unrolled by Python and looped by TIR.

Half-precision operands are stored as such and computed in f32: a load widens, a store narrows.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from tvm import tirx
from tvm.ir import Call, PointerType, PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812  the name every TIR program uses
from tvm.tirx.buffer import is_buffer_var

from edgec.ir.layout import Axis, View
from edgec.isa import Isa
from edgec.kernels.base import KernelPlan

TIR = {
    "f16": "float16", "f32": "float32", "f64": "float64", "bf16": "bfloat16", "bool": "bool", "i8": "int8", "i16": "int16", "i32": "int32",
    "i64": "int64", "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
}
STORED = {"bf16": "u16", "bool": "u8"}  # TVM would pack vectors of bool, and not every back end converts bf16
_SECOND_LEVEL = (0, 2, 1)  # of llvm.prefetch: to read, in the second level, data
Index = Any  # a Python int or a TIR expression of type int32
Vector = Any  # a TIR expression of one or more lanes
_UNIT: ContextVar[Isa] = ContextVar("unit")


def const(value: float, dtype: str, lanes: int = 1) -> Vector:
    """A constant of a short dtype, broadcast to `lanes`."""
    name = TIR[dtype]
    scalar = tirx.FloatImm(name, float(value)) if dtype in ("f16", "f32", "f64", "bf16") else tirx.IntImm(name, int(value))
    return T.Broadcast(scalar, lanes) if lanes > 1 else scalar


def cast(value: Vector, dtype: str, lanes: int) -> Vector:
    """The value in another dtype, C rules."""
    name = TIR[dtype] + (f"x{lanes}" if lanes > 1 else "")
    return value if str(value.ty.dtype) == name else tirx.Cast(name, value)


def type_name(dtype: str, lanes: int) -> str:
    """What TVM calls a vector of a short dtype."""
    return TIR[dtype] + (f"x{lanes}" if lanes > 1 else "")


def hold(value: Vector, dtype: str, lanes: int) -> Vector:
    """The value in a register, computed here and once.

    TVM's simplifier copies the value of a bound variable to each of its uses, which grows without bounds, and then cancels x - x and
    (x + c) - c, which is wrong for NaN, for infinities and for rounding. It does not look into buffers; LLVM makes registers of them.
    """
    if dtype == "bool":                                                # a vector of bits has no place in memory; bytes have
        return tirx.NE(hold(cast(value, "u8", lanes), "u8", lanes), const(0, "u8", lanes))
    return keep(value, dtype, lanes)[T.Ramp(0, 1, lanes) if lanes > 1 else 0]


def keep(value: Vector, dtype: str, lanes: int) -> Any:
    """The value in memory, as a buffer of its lanes."""
    cell = T.alloc_buffer((lanes,), TIR[dtype])
    T.buffer_store(cell, value, [T.Ramp(0, 1, lanes) if lanes > 1 else 0])
    return cell


def widen(value: Vector, dtype: str, lanes: int) -> Vector:
    """A stored value in the dtype that arithmetic on it uses. bf16 is stored in u16, bool in u8."""
    if dtype == "bf16":
        return T.reinterpret(type_name("f32", lanes), cast(value, "u32", lanes) << const(16, "u32", lanes))
    if dtype == "bool":
        return tirx.NE(value, const(0, "u8", lanes))
    return cast(value, compute_dtype(dtype), lanes)


def narrow(value: Vector, dtype: str, lanes: int) -> Vector:
    """A value as it is stored: the inverse of `widen`, rounding to nearest, ties to even."""
    if dtype == "bf16":
        bits = hold(T.reinterpret(type_name("u32", lanes), value), "u32", lanes)
        sixteen = const(16, "u32", lanes)
        rounded = (bits + (((bits >> sixteen) & const(1, "u32", lanes)) + const(0x7FFF, "u32", lanes))) >> sixteen
        quiet = (bits >> sixteen) | const(0x40, "u32", lanes)
        is_nan = tirx.GT(bits & const(0x7FFFFFFF, "u32", lanes), const(0x7F800000, "u32", lanes))
        return cast(tirx.Select(is_nan, quiet, rounded), "u16", lanes)
    return cast(value, "u8" if dtype == "bool" else dtype, lanes)


def compute_dtype(dtype: str) -> str:
    """The dtype in which arithmetic on a storage dtype is done."""
    return "f32" if dtype in ("f16", "bf16") else dtype


def unit() -> Isa:
    """The unit that the function being written is for."""
    return _UNIT.get()


class Kernel:
    """The function being written: its operands by number, and loads and stores on them. `begin`: the first task of the call."""

    def __init__(self, plan: KernelPlan, buffers: Sequence[Any], begin: Index, bases: Mapping[int, Index] | None = None) -> None:
        self.plan, self.isa, self.begin = plan, plan.isa, begin
        self._buffers = list(buffers)
        self._dtypes = [a.dtype for a in plan.args]
        self._bases = bases or {}

    def raw(self, arg: int) -> Any:
        """The TIR buffer of an operand."""
        return self._buffers[arg]

    def part(self, plan: KernelPlan, args: Sequence[int], bases: Mapping[int, Index]) -> "Kernel":
        """The same function as the kernel of another plan, whose operands are `args` of this one's; `bases`: where some of them begin."""
        return Kernel(plan, [self._buffers[a] for a in args], self.begin, bases)

    def load(self, arg: int, index: Index, lanes: int = 1) -> Vector:
        """`lanes` neighbors from an operand, in the dtype that arithmetic on it uses."""
        buffer, dtype, index = self._buffers[arg], self._dtypes[arg], self._at(arg, index)
        value = buffer[T.Ramp(index, 1, lanes)] if lanes > 1 else buffer[index]
        return widen(value, dtype, lanes)

    def splat(self, arg: int, index: Index, lanes: int) -> Vector:
        """One element of an operand in every lane."""
        value = self.load(arg, index)
        return T.Broadcast(value, lanes) if lanes > 1 else value

    def gather(self, arg: int, index: Index, step: Index, lanes: int) -> Vector:
        """`lanes` elements of an operand that lie `step` apart: scalar loads put together."""
        if lanes == 1:
            return self.load(arg, index)
        return tirx.Shuffle([self.load(arg, index + i * step) for i in range(lanes)], [tirx.IntImm("int32", i) for i in range(lanes)])

    def store(self, arg: int, value: Vector, index: Index, lanes: int = 1, step: Index = 1) -> None:
        """Write `lanes` elements `step` apart; the value is in the operand's arithmetic dtype."""
        buffer, dtype, index = self._buffers[arg], self._dtypes[arg], self._at(arg, index)
        value = narrow(value, dtype, lanes)
        if lanes == 1:
            T.buffer_store(buffer, value, [index])
        elif isinstance(step, int) and step == 1:
            T.buffer_store(buffer, value, [T.Ramp(index, 1, lanes)])
        else:
            value = hold(value, STORED.get(dtype, dtype), lanes)
            for i in range(lanes):
                T.buffer_store(buffer, lane(value, i), [index + i * step])

    def prefetch(self, arg: int, index: Index) -> None:
        """Ask for the line of an element, for the second level of caches: without waiting, and without harm where nothing lies."""
        where = T.address_of(self._buffers[arg][self._at(arg, index)])
        T.evaluate(Call("tirx.prefetch", [where, *(T.int32(i) for i in _SECOND_LEVEL)], ret_ty=PrimType("void")))

    def _at(self, arg: int, index: Index) -> Index:
        return index + self._bases[arg] if arg in self._bases else index

    def read(self, arg: int, view: View, at: Sequence[Index], axis: int, lanes: int) -> Vector:
        """`lanes` elements along logical `axis` from index `at` of a view of an operand; broadcast, contiguous or strided as it lies."""
        index = address(view, at)
        along = view.axes[axis]
        step = along.inner if along.block else along.stride
        if lanes == 1 or (step == 0 and not along.block):
            return self.splat(arg, index, lanes)
        if step == 1:
            return self.load(arg, index, lanes)
        return self.gather(arg, index, step, lanes)

    def write(self, arg: int, view: View, at: Sequence[Index], axis: int, value: Vector, lanes: int) -> None:
        """Write `lanes` elements along logical `axis` from index `at` of a view of an operand; those of each block lie in a row."""
        along = view.axes[axis]
        if 0 < along.block < lanes and along.inner == 1:
            value = hold(value, compute_dtype(self._dtypes[arg]), lanes)
            for i in range(0, lanes, along.block):
                part = tirx.Shuffle([value], [tirx.IntImm("int32", i + j) for j in range(along.block)])
                self.store(arg, part, address(view, [*at[:axis], at[axis] + i, *at[axis + 1:]]), along.block)
            return
        self.store(arg, value, address(view, at), lanes, along.inner if along.block else along.stride)


def lane(value: Vector, i: int, width: int = 1) -> Vector:
    """One lane of a vector, in each lane of a vector of `width`: by-element multiplication on aarch64."""
    return tirx.Shuffle([value], [tirx.IntImm("int32", i)] * width)


def address(view: View, at: Sequence[Index]) -> Index:
    """The offset of an index of a view, folded as far as it is known now."""
    total: Index = 0
    for axis, i in zip(view.axes, at, strict=True):
        total = total + along(axis, i)
    return total


def along(axis: Axis, i: Index) -> Index:
    """The offset that index i contributes along an axis."""
    if isinstance(i, int):
        return axis.at(i)
    if axis.extent == 1 or (not axis.block and not axis.stride):
        return 0
    if not axis.block:
        return i * axis.stride
    return tirx.truncdiv(i, axis.block) * axis.stride + tirx.truncmod(i, axis.block) * axis.inner


def loop(begin: Index, end: Index, body: Callable[[Index], None]) -> None:
    """A serial loop; none at all when it runs exactly once or never."""
    if isinstance(begin, int) and isinstance(end, int):
        if end <= begin:
            return
        if end == begin + 1:
            body(begin)
            return
    with T.serial(begin, end) as i:
        body(i)


def when(condition: Any, body: Callable[[], None]) -> None:
    """Code that runs only when a condition holds; a Python bool is decided now."""
    if isinstance(condition, bool):
        if condition:
            body()
        return
    with T.If(condition), T.Then():
        body()


def fail_when(condition: Any, lanes: int = 1) -> None:
    """Leave the kernel with -1, the code for data that point outside a tensor or divide by zero, if a condition holds in any lane."""
    if lanes > 1:
        condition = T.call_llvm_pure_intrin("bool", "llvm.vector.reduce.or", condition)
    when(condition, lambda: T.evaluate(T.tvm_throw_last_error()))      # this is what TVM makes of it: no other early return is there


class Accumulators:
    """Registers: one stack buffer a vector (of fewer than 1024 bytes, so that LLVM promotes it)."""

    def __init__(self, widths: Sequence[int], count: int, dtype: str = "f32") -> None:
        self._widths = widths
        self._cells = [[T.alloc_buffer((w,), TIR[dtype]) for w in widths] for _ in range(count)]

    def get(self, i: int, j: int) -> Vector:
        """The vector in cell (i, j)."""
        width, cell = self._widths[j], self._cells[i][j]
        return cell[T.Ramp(0, 1, width)] if width > 1 else cell[0]

    def set(self, i: int, j: int, value: Vector) -> None:
        """Put a vector into cell (i, j)."""
        width, cell = self._widths[j], self._cells[i][j]
        T.buffer_store(cell, value, [T.Ramp(0, 1, width) if width > 1 else 0])


def function(plan: KernelPlan, symbol: str, task: Callable[[Kernel, Index], None]) -> tirx.PrimFunc:
    """The PrimFunc `int32 symbol(void* arg…, int32 begin, int32 end)` whose body runs `task` for each task of the range."""
    token = _UNIT.set(plan.isa)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(symbol)
            buffers = [T.arg(f"p{i}", T.Buffer((max(a.elements, 1),), TIR[STORED.get(a.dtype, a.dtype)])) for i, a in enumerate(plan.args)]
            begin, end = T.arg("begin", T.int32()), T.arg("end", T.int32())
            T.func_attr({"tirx.noalias": True})
            kernel = Kernel(plan, buffers, begin)
            with T.serial(begin, end) as t:
                # bound, because TVM 0.27 shifts this loop to start at zero and forgets to say so in the bounds of inner loops
                task(kernel, T.bind(t))
        func = builder.get()
    _UNIT.reset(token)
    return _pointers(func)


def _pointers(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Buffers as raw pointers: what a C caller passes (TVM's packed calling convention leaves such functions alone)."""
    params, declared = [], []
    for param in func.params:
        if is_buffer_var(param):
            dtype = param.ty.dtype
            pointer = tirx.Var(param.name, PointerType(dtype if isinstance(dtype, PrimType) else PrimType(str(dtype))))
            declared.append(tirx.DeclBuffer(param, data=pointer))
            params.append(pointer)
        else:
            params.append(param)
    return tirx.PrimFunc(params, tirx.SeqStmt([*declared, func.body]), PrimType("int32"), func.attrs)
