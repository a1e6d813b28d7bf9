"""Three tiny kernels, written in TIR by hand: what the tests of the code generator run instead of real ones.

Each task of a Toy handles `chunk` elements. A Toy with kind `fragile` fails where x is above 1000.
"""

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Toy:
    """`add`: y = a + b; `scale`: y = x * w; `exp`: y = exp(x), through libm; `fragile`: y = x or an error.

    And three that must not come through: `broken` raises, `crash` takes its process with it, `foreign` calls a function that is not there.
    """

    kind: str
    tasks: int
    chunk: int

    @property
    def elements(self) -> int:
        return self.tasks * self.chunk


def emit(plan: Toy, symbol: str) -> Any:
    from tvm import tirx  # noqa: PLC0415
    from tvm.ir import PointerType, PrimType  # noqa: PLC0415
    from tvm.script.ir_builder import IRBuilder  # noqa: PLC0415
    from tvm.script.ir_builder import tirx as t  # noqa: PLC0415

    if plan.kind == "broken":
        raise ValueError("this plan cannot be a kernel")
    if plan.kind == "crash":
        os.abort()
    names = {"add": ("a", "b", "y"), "scale": ("x", "w", "y")}.get(plan.kind, ("x", "y"))
    with IRBuilder() as builder, t.prim_func():
        t.func_name(symbol)
        buffers = [t.arg(n, t.Buffer((plan.elements,), "float32")) for n in names]
        begin, end = t.arg("begin", t.int32()), t.arg("end", t.int32())
        with t.serial(begin, end) as task, t.serial(0, plan.chunk) as j:
            i = task * plan.chunk + j
            first = buffers[0][i]
            if plan.kind == "fragile":
                with t.If(first > tirx.FloatImm("float32", 1000.0)), t.Then():
                    t.evaluate(tirx.tvm_throw_last_error())
            made = {"add": lambda: first + buffers[1][i], "scale": lambda: first * buffers[1][i],
                    "exp": lambda: tirx.exp(first),
                    "foreign": lambda: t.call_extern("float32", "elsewhere", first)}.get(plan.kind, lambda: first)()
            t.buffer_store(buffers[-1], made, [i])
    function = builder.get()
    params, declared = [], []
    for p in function.params:
        if p.name in names:
            pointer = tirx.Var(p.name, PointerType(PrimType("float32")))
            declared.append(tirx.DeclBuffer(p, data=pointer))
            params.append(pointer)
        else:
            params.append(p)
    raw = tirx.PrimFunc(params, tirx.SeqStmt([*declared, function.body]), PrimType("int32"), function.attrs)
    return raw.with_attr("global_symbol", symbol).with_attr("tirx.noalias", True)  # noqa: FBT003
