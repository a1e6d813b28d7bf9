"""Elementwise arithmetic as data: what a fused region does to each element once its anchor has made it.

An `Expr` is a list of instructions in SSA form over numbered values: first the arguments, then one value for each
instruction. It is hashable and prints as text, so it can be part of a kernel's identity.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Instr:
    """One scalar operation: an ONNX elementwise operator or `Const`, the numbers of its arguments, attributes, result dtype."""

    op: str
    args: tuple[int, ...] = ()
    attrs: tuple[tuple[str, Any], ...] = ()
    dtype: str = "f32"

    def attr(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        return dict(self.attrs).get(name, default)


@dataclass(frozen=True)
class Expr:
    """`arguments` values come in (with their dtypes); `results` are the numbers of the values that go out."""

    arguments: tuple[str, ...]
    instrs: tuple[Instr, ...] = ()
    results: tuple[int, ...] = (0,)

    def dtype(self, number: int) -> str:
        """The dtype of a numbered value."""
        return self.arguments[number] if number < len(self.arguments) else self.instrs[number - len(self.arguments)].dtype


ELEMENTWISE: dict[str, int] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu", "Mod", "And", "Or", "Xor", "Equal", "Greater", "Less",
                     "GreaterOrEqual", "LessOrEqual", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift"), 2),
    **dict.fromkeys(("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf",
                     "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Floor", "Ceil", "Round", "Sign", "Not", "BitwiseNot", "Softplus",
                     "Softsign", "Gelu", "Mish", "Swish", "Sin", "Cos", "Cast", "IsNaN", "IsInf", "Identity"), 1),
    "Where": 3, "Clip": 3, "QuantizeLinear": 3, "DequantizeLinear": 3, "edgec.MultiplyShift": 3,
}
"""The operators an Expr may hold, with their numbers of arguments.

A Clip with one bound is Min or Max there (see region.py). QuantizeLinear and DequantizeLinear have a scale for the whole tensor, and may
lack a zero point; a QuantizeLinear whose scale is one (attribute `unit`) does not read it, and may have bounds as further arguments.
"""
