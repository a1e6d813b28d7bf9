"""One kernel from TIR to machine code. Runs in worker processes only: everything here needs TVM."""

from typing import Any

import tvm
from tvm import tirx


def build(function: Any, target: dict[str, Any]) -> Any:
    """Compile a PrimFunc that takes pointers and returns int32 into a TVM module for an LLVM target without a host.

    The stock pipeline leaves such a function's signature alone because no packed calling convention is asked for.
    """
    llvm = tvm.target.Target(target)
    name = str(function.attrs["global_symbol"])
    module = tvm.IRModule({name: function.with_attr("target", llvm)})
    with llvm:
        module = tirx.get_default_tir_pipeline(llvm)[0](module)
    lowered = module[name]
    if "tirx.is_entry_func" in lowered.attrs:  # an entry function would be compiled a second time, as __tvm_ffi_main
        module = tvm.IRModule({name: lowered.without_attr("tirx.is_entry_func")})
    module = tirx.transform.LowerIntrin()(tirx.transform.LowerTVMBuiltin()(module))
    return tvm.get_global_func("target.build.llvm")(module, llvm)


def cpu_features(target: dict[str, Any]) -> tuple[str, ...]:
    """What LLVM may use on this CPU, in LLVM's words, sorted."""
    return tuple(sorted(str(f) for f in tvm.get_global_func("target.llvm_get_cpu_features")(tvm.target.Target(target))))
