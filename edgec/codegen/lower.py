"""One kernel from TIR to machine code. Runs in worker processes only: everything here needs TVM."""

from typing import Any

import tvm
from tvm import s_tir, tirx

from edgec.codegen import c_kernel
from edgec.kernels.base import KernelPlan

_BEFORE_STORAGE = (
    s_tir.transform.CanonicalizeLoop(), s_tir.transform.StmtSimplify(), s_tir.transform.LowerOpaqueBlock(), tirx.transform.FlattenBuffer(),
    tirx.transform.BF16ComputeLegalize(), tirx.transform.NarrowDataType(32), s_tir.transform.LoopPartition(),
    tirx.transform.VectorizeLoop(enable_vectorize=True))
_AFTER_STORAGE = (
    tirx.transform.UnrollLoop(), tirx.transform.StmtSimplify(), tirx.transform.RemoveNoOp(), s_tir.transform.RewriteUnsafeSelect(),
    tirx.transform.CommonSubexprElim(), tirx.transform.SplitHostDevice(), tirx.transform.MakePackedAPI(),
    tirx.transform.BF16StorageLegalize(), tirx.transform.LowerTVMBuiltin(), tirx.transform.LowerIntrin())
"""TVM's stock pipeline (tvm/s_tir/pipeline.py) without what is for GPUs, for blocks of schedules, and for buffers that could be smaller:
emitters leave none of these, and looking for them took 40 % of the time."""


def lowered(function: Any, target: dict[str, Any], *, share: bool = True) -> Any:
    """The module of a PrimFunc that takes pointers and returns int32, ready for a code generator, for a target without a host.

    Such a function's signature stays as it is, because no packed calling convention is asked for.
    With `share` a buffer may lie where another one lay before.
    """
    machine, name = tvm.target.Target(target), str(function.attrs["global_symbol"])
    module = tvm.IRModule({name: function.with_attr("target", machine)})
    with machine:
        module = tvm.transform.Sequential([*_BEFORE_STORAGE, *([tirx.transform.StorageRewrite()] if share else [])])(module)
        if _branches(module[name].body):      # it looks long for what most kernels lack; where it finds something, code is a sixth smaller
            module = s_tir.transform.HoistIfThenElse()(module)
        return tvm.transform.Sequential(_AFTER_STORAGE)(module)


def _branches(statement: Any) -> bool:
    """Whether a statement holds an `if`, or one that is not known here and could."""
    match statement:
        case tirx.SeqStmt():
            return any(map(_branches, statement.seq))
        case tirx.For() | tirx.AttrStmt() | tirx.While():
            return _branches(statement.body)
        case tirx.BufferStore() | tirx.Evaluate() | tirx.Bind() | tirx.AllocBuffer() | tirx.DeclBuffer():
            return False
    return True


def build(function: Any, target: dict[str, Any]) -> Any:
    """Compile a PrimFunc into a TVM module for an LLVM target."""
    return tvm.get_global_func("target.build.llvm")(lowered(function, target), tvm.target.Target(target))


def c_source(function: Any, plan: KernelPlan, name: str) -> str:
    """Print a PrimFunc of scalars as a function in C99."""
    module = lowered(function, {"kind": "c"}, share=False)
    return c_kernel.source(module[str(function.attrs["global_symbol"])], plan, name)


def cpu_features(target: dict[str, Any]) -> tuple[str, ...]:
    """What LLVM may use on this CPU, in LLVM's words, sorted."""
    return tuple(sorted(str(f) for f in tvm.get_global_func("target.llvm_get_cpu_features")(tvm.target.Target(target))))
