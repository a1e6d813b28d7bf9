"""A region that a compiler of its own makes commands of, as a kernel: what its driver is given, and what that costs.

Inputs and outputs come first, row-major, then memory that the commands work in. How much memory that is, and how long the
commands take, is known once they are made (`edgec/codegen/npu`), which writes both into the region's attributes.
"""

from dataclasses import dataclass

from edgec.ir.graph import Node
from edgec.ir.layout import View
from edgec.isa import Npu
from edgec.kernels.base import Arg, KernelPlan, Operands, Planned, traffic


@dataclass(frozen=True)
class CommandPlan(KernelPlan):
    """Command stream `number` of a unit: bytes of commands and of constants."""

    number: int
    stream: int
    constants: int

    kind = "commands"


def commands(node: Node, npu: Npu, operands: Operands) -> Planned | str:
    """The plan of a region, or the reason why there is none."""
    if node.op != "edgec.Region":
        return f"{node.op} is no region, and an NPU runs nothing else"
    inputs = tuple(v for v in node.inputs if v is not None)
    for value in (*inputs, *node.outputs):
        if operands.view(value) != View.of(value.dims):
            return f"%{value.name} is not row-major, and an NPU reads and writes nothing else"
    attrs = node.attrs
    args = (*(Arg("input", v.tensor.dtype, v.tensor.elements) for v in inputs),
            *(Arg("output", v.tensor.dtype, v.tensor.elements) for v in node.outputs),
            Arg("scratch", "u8", max(1, int(attrs.get("scratch", 1)))))
    plan = CommandPlan(npu, args, 1, attrs.get("number", 0), attrs.get("stream", 0), attrs.get("constants", 0), macs=attrs.get("macs", 0),
                       bytes=traffic(args) + attrs.get("constants", 0), cycles=float(attrs.get("cycles", 0)) + npu.launch_cycles)
    return Planned(plan, inputs, tuple(node.outputs))


__all__ = ["CommandPlan", "commands"]
