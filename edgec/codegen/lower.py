"""One kernel from TIR to machine code. Runs in worker processes only: everything here needs TVM."""

from typing import Any

import tvm
from tvm import tirx

from edgec.codegen import c_kernel
from edgec.kernels.base import KernelPlan


def lowered(function: Any, target: dict[str, Any], *, share: bool = True) -> Any:
    """The module of a PrimFunc that takes pointers and returns int32, ready for a code generator, for a target without a host.

    The stock pipeline leaves such a function's signature alone because no packed calling convention is asked for.
    With `share` a buffer may lie where another one lay before.
    """
    machine = tvm.target.Target(target)
    name = str(function.attrs["global_symbol"])
    module = tvm.IRModule({name: function.with_attr("target", machine)})
    with machine, tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": not share}):
        module = tirx.get_default_tir_pipeline(machine)[0](module)
    made = module[name]
    if "tirx.is_entry_func" in made.attrs:  # an entry function would be compiled a second time, as __tvm_ffi_main
        module = tvm.IRModule({name: made.without_attr("tirx.is_entry_func")})
    return tirx.transform.LowerIntrin()(tirx.transform.LowerTVMBuiltin()(module))


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
