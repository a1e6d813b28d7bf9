"""Kernels for single ONNX operators, made by TVM: its ONNX importer, its operator library, one function of pointers out of them.

What TVM makes of a node is a chain of TIR functions. They are merged into one; blocks that only move elements are written into those that
read them; buffers that are too large for the stack become slices of the scratch argument.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm import IRModule, relax, s_tir, tirx
from tvm.ir import Call, GenericConst, Op, PointerType, PrimType, TensorLoad
from tvm.ir.transform import Sequential
from tvm.relax.frontend.onnx import from_onnx
from tvm.target import Target
from tvm.tirx.buffer import is_buffer_var
from tvm_ffi import structural_mutate

from edgec.ir.edit import attributes
from edgec.ir.graph import Array, Node, Value
from edgec.ir.proto import node_model
from edgec.ir.types import Tensor, dtype_bits, numpy_dtype
from edgec.kernels.emit.core import TIR
from edgec.kernels.generic import ALIGNMENT, Bounds, Fixed, GenericPlan

ON_STACK = 1024
"""Bytes from which on TVM would ask its runtime for memory."""
_INDEX = ("int32", "int64")
_LEGALIZE = Sequential([
    relax.transform.DecomposeOpsForInference(), relax.transform.CanonicalizeBindings(),
    relax.transform.LegalizeOps(), relax.transform.DeadCodeElimination()])
_LOWER = Sequential([
    s_tir.transform.CanonicalizeLoop(), s_tir.transform.LowerInitBlock(), s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(), s_tir.transform.CompactBufferAllocation(), s_tir.transform.LowerMatchBuffer(),
    s_tir.transform.StmtSimplify(), s_tir.transform.LowerOpaqueBlock(), tirx.transform.FlattenBuffer()])


class CannotEmit(ValueError):
    """TVM makes something of an operator that is no kernel."""


def emit(plan: GenericPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    with Target(plan.isa.llvm_target()):
        module = _LEGALIZE(_imported(plan))
        function, constants = _Chain(module).run()
        function = _moves_inlined(function)
        function = _LOWER(IRModule({"main": function}))["main"]
    return _pointers(plan, function, constants, symbol)


def _imported(plan: GenericPlan) -> IRModule:
    """The plan's operator as TVM reads it from ONNX."""
    types = [Tensor(d, s) for d, s in zip(plan.dtypes, plan.shapes, strict=True)]
    constants = {i: _array(o) for i, o in enumerate(plan.operands) if isinstance(o, Fixed)}
    inputs: list[Value | None] = []
    for operand in plan.operands:
        match operand:
            case None:
                inputs.append(None)
            case Fixed(dtype=dtype, shape=shape):
                inputs.append(Value("fixed", Tensor(dtype, shape)))
            case int():
                inputs.append(Value("given", types[operand]))
    outputs = tuple(Value("made", t) for t in types[plan.given:])
    node = Node(plan.op, tuple(inputs), outputs, attributes(**{k: list(a) if isinstance(a, tuple) else a for k, a in plan.attrs}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return from_onnx(node_model(node, constants), keep_params_in_input=False)


def _array(fixed: Fixed) -> Array:
    return np.array(fixed.elements, numpy_dtype(fixed.dtype)).reshape(fixed.shape)


class _Chain:
    """The bindings of TVM's main function, rebuilt in a function that FuseTIR makes one TIR function of; constants become parameters."""

    def __init__(self, module: IRModule) -> None:
        self.main = module["main"]
        self.builder = relax.BlockBuilder()
        self.tir = {g.name_hint: self.builder.add_func(f, g.name_hint) for g, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
        self.known: dict[Any, Any] = {p: relax.Var(f"i{i}", p.ty) for i, p in enumerate(self.main.params)}
        self.constants: list[Any] = []
        self.bindings = [(b.var, b.value) for block in self.main.body.blocks for b in block.bindings]

    def run(self) -> tuple[tirx.PrimFunc, list[Array]]:
        """The one function, whose parameters are those of main, constants, results; and the constants."""
        for _, value in self.bindings:
            self._find_constants(value)
        params = list(self.known.values())
        with self.builder.function("merged", params, attrs={"Primitive": True}):
            with self.builder.dataflow():
                for var, value in self.bindings:
                    self.known[var] = self._rebuilt(value)
                result = self.known[self.main.body.body]
                if any(result.same_as(p) for p in params):
                    raise CannotEmit("its result is one of its operands")
                result = self.builder.emit_output(result)
            self.builder.emit_func_output(result)
        (merged,) = (g for g in self.builder.get().get_global_vars() if g.name_hint == "merged")
        with self.builder.function("main", outer := [relax.Var(f"o{i}", p.ty) for i, p in enumerate(params)]):
            with self.builder.dataflow():
                result = self.builder.emit_output(Call(merged, outer))
            self.builder.emit_func_output(result)
        made = [f for f in relax.transform.FuseTIR()(self.builder.get()).functions.values() if isinstance(f, tirx.PrimFunc)]
        if len(made) != 1:
            raise CannotEmit(f"it becomes {len(made)} functions")
        return made[0], [c.value.numpy() for c in self.constants]

    def _find_constants(self, value: Any) -> None:
        fields = value.args[1].fields if _is_call_tir(value) else value.fields if isinstance(value, relax.Tuple) else []
        for field in fields:
            if isinstance(field, GenericConst) and field not in self.known:
                self.known[field] = relax.Var(f"c{len(self.constants)}", field.ty)
                self.constants.append(field)

    def _rebuilt(self, value: Any) -> Any:
        if _is_call_tir(value):
            types = list(value.ty.fields) if isinstance(value.ty, relax.TupleType) else value.ty
            return self.builder.emit(relax.call_tir(self.tir[value.args[0].name_hint], [self._now(a) for a in value.args[1].fields], types))
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._now(f) for f in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return self.builder.emit(relax.TupleGetItem(self._now(value.tuple_value), value.index))
        return self._now(value)

    def _now(self, value: Any) -> Any:
        if value not in self.known:
            raise CannotEmit(f"TVM keeps {value.op.name if isinstance(value, Call) else type(value).__name__}")
        return self.known[value]


def _is_call_tir(value: Any) -> bool:
    return isinstance(value, Call) and value.op.name == "relax.call_tir"


def _moves_inlined(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function in which whoever reads the result of a mere move, or of arithmetic on indices, reads its source: it needs no buffer.

    Other arithmetic is not moved into arithmetic: TVM's simplifier would cancel across the two, which is wrong for NaN and for rounding.
    """
    schedule = s_tir.Schedule(IRModule({"main": function}), error_render_level="none")
    results = [p for p in function.params if is_buffer_var(p)]
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        store = schedule.get(block).body
        if isinstance(store, tirx.BufferStore) and _is_move(store.value) and not any(store.buffer.same_as(r) for r in results):
            try:
                schedule.compute_inline(block)
            except s_tir.ScheduleError:  # it stays where it is, in a buffer
                continue
    return schedule.mod["main"]


def _is_move(value: Any) -> bool:
    match value:
        case TensorLoad() | tirx.IntImm() | tirx.FloatImm():
            return True
        case tirx.Cast():
            return _is_move(value.value)
        case tirx.Select():
            return _is_move(value.true_value) and _is_move(value.false_value)
        case Call() if value.op.name == "prim.if_then_else":
            return _is_move(value.args[1]) and _is_move(value.args[2])
        case tirx.Add() | tirx.Sub() | tirx.Mul() | tirx.Min() | tirx.Max() | tirx.LT() | tirx.GE() if str(value.a.ty.dtype) in _INDEX:
            return _is_move(value.a) and _is_move(value.b)
    return False


@dataclass
class _Lifted:
    """Buffers that become slices of scratch, one behind the other: TVM tells LLVM that different buffers never overlap."""

    scratch: Any
    used: int = 0

    def body(self, statement: Any) -> Any:
        """The statement without parallel loops, hints, and allocations that would ask TVM's runtime."""
        return structural_mutate(statement, [(tirx.For, self._loop), (tirx.AllocBuffer, self._buffer), (tirx.AttrStmt, self._hint)])

    @staticmethod
    def _loop(loop: Any, mutate: Any) -> Any:
        made = mutate.default_mutate(loop)
        if made.kind != tirx.ForKind.PARALLEL:
            return made
        return tirx.For(made.loop_var, made.min, made.extent, tirx.ForKind.SERIAL, made.body)

    @staticmethod
    def _hint(hint: Any, mutate: Any) -> Any:
        made = mutate.default_mutate(hint)
        return made.body if str(hint.attr_key).startswith("pragma") else made

    def _buffer(self, allocation: Any, _: Any) -> Any:
        kind, shape = allocation.buffer.ty.dtype, allocation.buffer.ty.shape
        if not all(isinstance(d, tirx.IntImm | int) for d in shape):
            raise CannotEmit("it needs a buffer whose size is not known")
        size = prod(int(d) for d in shape) * _bytes(kind)
        if size < ON_STACK:
            return allocation
        at, self.used = self.used, self.used + -(-size // ALIGNMENT) * ALIGNMENT
        data = Call(Op.get("tirx.handle_add_byte_offset"), [self.scratch, tirx.IntImm("int32", at)], ret_ty=PointerType(kind))
        return tirx.DeclBuffer(allocation.buffer, data=data)


def _bytes(kind: Any) -> int:
    name = str(kind.dtype if isinstance(kind, PrimType) else kind)
    short = next(s for s, n in TIR.items() if n == name)
    return dtype_bits(short) // 8


def _pointers(plan: GenericPlan, function: tirx.PrimFunc, constants: Sequence[Array], symbol: str) -> tirx.PrimFunc:
    """The function of raw pointers: operands, results, scratch, begin, end."""
    scratch = tirx.Var("scratch", PointerType(PrimType("uint8")))
    lifted = _Lifted(scratch)
    body = lifted.body(function.body)
    if lifted.used > plan.scratch:
        raise CannotEmit(f"it needs {lifted.used} bytes of scratch where {plan.scratch} were planned")
    params, statements, buffers = list[Any](), list[Any](), list[Any]()
    for i, param in enumerate(function.params):
        if plan.given <= i < plan.given + len(constants):
            statements += _constant(param, constants[i - plan.given])
            continue
        pointer = tirx.Var(f"p{len(params)}", PointerType(param.ty.dtype))
        statements.append(tirx.DeclBuffer(param, data=pointer))
        params.append(pointer)
        buffers.append(param)
    if len(params) != plan.given + plan.made:
        raise CannotEmit(f"TVM makes {len(params) - plan.given} results of it instead of {plan.made}")
    for bounds in plan.bounds:
        statements.append(_check(bounds, buffers[bounds.arg]))
    if plan.scratch:
        params.append(scratch)
    begin, end, task = (tirx.Var(n, "int32") for n in ("begin", "end", "task"))
    loop = tirx.For(task, begin, end - begin, tirx.ForKind.SERIAL, tirx.SeqStmt([*statements, body]))
    made = tirx.PrimFunc([*params, begin, end], loop, PrimType("int32"), function.attrs)
    return made.with_attr({"global_symbol": symbol, "tirx.noalias": True})


def _constant(buffer: Any, array: Array) -> list[Any]:
    """A small table on the stack."""
    if array.nbytes >= ON_STACK:
        raise CannotEmit(f"it needs a table of {array.nbytes} bytes")
    kind = str(buffer.ty.dtype)
    make = tirx.FloatImm if array.dtype.kind == "f" else tirx.IntImm
    elements = ((make(kind, array[at].item()), at) for at in np.ndindex(array.shape))
    return [tirx.AllocBuffer(buffer), *(tirx.BufferStore(buffer, value, [tirx.IntImm("int32", i) for i in at]) for value, at in elements)]


def _check(bounds: Bounds, buffer: Any) -> Any:
    """Return -1 when an index points outside: that is what TVM writes for an error that its runtime would know more about."""
    kind, at, limits = str(buffer.ty.dtype), [tirx.Var(f"x{a}", "int32") for a in range(len(buffer.ty.shape))], bounds.limits
    value = buffer[tuple(at)]
    limit: Any = tirx.IntImm(kind, limits[-1])
    for i, size in enumerate(limits[:-1]):
        limit = tirx.Select(tirx.EQ(at[-1], i), tirx.IntImm(kind, size), limit)
    lowest = tirx.IntImm(kind, 0) - limit if bounds.wraps else tirx.IntImm(kind, 0)
    wrong = tirx.Or(tirx.LT(value, lowest), tirx.GE(value, limit))
    statement: Any = tirx.IfThenElse(wrong, tirx.Evaluate(tirx.tvm_throw_last_error()), None)
    for var, extent in reversed(list(zip(at, buffer.ty.shape, strict=True))):
        statement = tirx.For(var, 0, int(extent), tirx.ForKind.SERIAL, statement)
    return statement
