"""One kernel from scalar TIR to C99. Runs in worker processes only: everything here needs TVM.

TVM's own generator of C is no help: it writes floats with seven digits, reinterprets by pointers that alias, and knows no LLVM
intrinsics. What is printed here means what LLVM makes of the same TIR: 32-bit sums do not overflow, all other integers wrap.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from edgec.errors import EdgecError
from edgec.kernels.base import KernelPlan

_TYPES = {"float32": "float", "float64": "double", "float16": "uint16_t", "bfloat16": "uint16_t", "bool": "uint8_t",
          **{f"{s}int{b}": f"{s}int{b}_t" for s in ("", "u") for b in (8, 16, 32, 64)}}
_BINARY = {tirx.Add: "+", tirx.Sub: "-", tirx.Mul: "*", tirx.Div: "/", tirx.Mod: "%", tirx.EQ: "==", tirx.NE: "!=", tirx.LT: "<",
           tirx.LE: "<=", tirx.GT: ">", tirx.GE: ">=", tirx.And: "&&", tirx.Or: "||", tirx.BitwiseAnd: "&", tirx.BitwiseOr: "|",
           tirx.BitwiseXor: "^", tirx.LShift: "<<", tirx.RShift: ">>"}
_COMPARED = {"==", "!=", "<", "<=", ">", ">=", "&&", "||"}
_SHORT = {"int8", "int16", "uint8", "uint16"}
_LIMITS = {"int32": (-(2**31), "INT32_MIN"), "int64": (-(2**63), "INT64_MIN")}
_INTRINSICS = ("fabs", "copysign", "rint", "nearbyint", "sqrt", "floor", "ceil", "trunc", "round", "fma", "exp", "log", "sin", "cos", "pow")
_WIDTH = 116
_WRITTEN = re.compile(r"^ +(?:const \w+ )?([rt]\d+) = ")


def source(function: tirx.PrimFunc, plan: KernelPlan, name: str) -> str:
    """The C of a kernel `static int32_t name(const void* restrict…, int32_t begin, int32_t end)`.

    It uses the functions of `runtime/kernels.h`. EdgecError for TIR that C has no words for, such as vectors.
    """
    return _Printer(function, plan, name).text()


class _Printer:
    """The names and lines of one function; an expression is a text and whether it is one word, which needs no parentheses."""

    def __init__(self, function: tirx.PrimFunc, plan: KernelPlan, name: str) -> None:
        self.function, self.plan, self.name = function, plan, name
        self.lines: list[str] = []
        self.names: dict[Any, str] = {}
        self.cells: dict[str, list[str]] = {}                            # scalars in registers, by type
        self.arrays: list[str] = []
        self.single: set[Any] = set()

    def text(self) -> str:
        *pointers, begin, end = self.function.params
        roles = [a.role in ("output", "scratch") for a in self.plan.args]
        parameters, head = [], []
        self.names |= {begin: "begin", end: "end"}
        for i, (pointer, writes) in enumerate(zip(pointers, roles, strict=True)):
            kind = f"{'' if writes else 'const '}{_type(pointer.ty.element_type)}*"
            self.names[pointer] = f"p{i}"
            parameters.append(f"{'' if writes else 'const '}void* restrict a{i}")
            head.append(f"  {kind} restrict p{i} = ({kind})a{i};")
        self.statement(self.function.body, 1)
        self.lines = _declared_where_set(_without_unread(self.lines), {n: kind for kind, names in self.cells.items() for n in names})
        body = "\n".join(self.lines)
        head = [line if re.search(rf"\bp{i}\b", body) else f"  (void)a{i};" for i, line in enumerate(head)]
        apart = {m[1] for line in self.lines if (m := re.match(r" +([rt]\d+) = ", line))}   # set several times
        cells = [line for kind, names in self.cells.items() for line in _declared(kind, [n for n in names if n in apart])]
        arrays = [line for line in self.arrays if re.search(rf"\b{line.split()[-1].partition('[')[0]}\b", body)]
        return "\n".join([f"static int32_t {self.name}({', '.join([*parameters, 'int32_t begin', 'int32_t end'])}) {{",
                          *head, *cells, *arrays, *self.lines, "  return 0;", "}"])

    # ---- statements

    def put(self, line: str, depth: int) -> None:
        self.lines.append("  " * depth + line)

    def statement(self, stmt: Any, depth: int) -> None:
        match stmt:
            case tirx.SeqStmt():
                for part in stmt.seq:
                    self.statement(part, depth)
            case tirx.AttrStmt():
                self.statement(stmt.body, depth)
            case tirx.For():
                self.loop(stmt, depth)
            case tirx.While():
                self.put(f"while ({self.bare(stmt.condition)}) {{", depth)
                self.statement(stmt.body, depth + 1)
                self.put("}", depth)
            case tirx.IfThenElse():
                self.put(f"if ({self.bare(stmt.condition)}) {{", depth)
                self.statement(stmt.then_case, depth + 1)
                if stmt.else_case is not None:
                    self.put("} else {", depth)
                    self.statement(stmt.else_case, depth + 1)
                self.put("}", depth)
            case tirx.Bind():
                self.names[stmt.var] = self.fresh("t")
                kind = "int" if _dtype(stmt.var) == "bool" else _type(stmt.var.ty)
                self.put(f"const {kind} {self.names[stmt.var]} = {self.bare(stmt.value)};", depth)
            case tirx.AllocBuffer():
                self.allocate(stmt.buffer)
            case tirx.DeclBuffer():
                self.names[stmt.buffer] = self.pointer(stmt.data, stmt.buffer, depth)
                if self.source_of(stmt.data) in self.single:
                    self.single.add(stmt.buffer)
            case tirx.BufferStore():
                self.store(stmt, depth)
            case tirx.Evaluate():
                self.evaluate(stmt.value, depth)
            case _:
                raise EdgecError(f"a kernel holds {type(stmt).__name__}, for which C has no words")

    def loop(self, stmt: Any, depth: int) -> None:
        self.names[stmt.loop_var] = i = self.fresh("i")
        low, kind = stmt.min, _type(stmt.loop_var.ty)
        start = self.bare(low)
        bound = self.word(stmt.extent if start == "0" else low + stmt.extent)
        self.put(f"for ({kind} {i} = {start}; {i} < {bound}; {i}++) {{", depth)
        self.statement(stmt.body, depth + 1)
        self.put("}", depth)

    def allocate(self, buffer: Any) -> None:
        size, kind = [int(n) for n in buffer.ty.shape], _type(buffer.ty.dtype)
        count = int(np.prod(size)) if size else 1
        if count == 1:
            self.names[buffer] = self.fresh("r")
            self.single.add(buffer)
            self.cells.setdefault(kind, []).append(self.names[buffer])
        else:
            self.names[buffer] = self.fresh("m")
            self.arrays.append(f"  {kind} {self.names[buffer]}[{count}];")

    def store(self, stmt: Any, depth: int) -> None:
        target, value = self.place(stmt.buffer, stmt.indices), self.bare(stmt.value)
        if target != value:
            self.put(f"{target} = {value};", depth)

    def evaluate(self, value: Any, depth: int) -> None:
        if isinstance(value, tvm.ir.Call) and _op(value) == "tirx.tvm_throw_last_error":
            self.put("return -1;", depth)
        elif not isinstance(value, tirx.IntImm):
            raise EdgecError(f"a kernel calls {_op(value) if isinstance(value, tvm.ir.Call) else value}, which C cannot")

    # ---- places

    def fresh(self, letter: str) -> str:
        return f"{letter}{sum(n[0] == letter for n in self.names.values())}"

    def source_of(self, data: Any) -> Any:
        return data.args[0] if isinstance(data, tvm.ir.Call) and _op(data) == "tirx.buffer_data" else data

    def pointer(self, data: Any, buffer: Any, depth: int) -> str:
        """The name of what lies at an address."""
        if isinstance(data, tvm.ir.Call) and _op(data) == "tirx.handle_add_byte_offset":
            name, kind = self.fresh("m"), _type(buffer.ty.dtype)
            self.put(f"{kind}* const {name} = ({kind}*)(void*)((char*){self.pointer(data.args[0], buffer, depth)} + "
                     f"{self.word(data.args[1])});", depth)
            return name
        found = self.names.get(self.source_of(data))
        if found is None:
            raise EdgecError(f"a kernel computes the address {data}, which C cannot say here")
        return found

    def place(self, buffer: Any, indices: Sequence[Any]) -> str:
        if buffer in self.single:
            return self.names[buffer]
        return f"{self.names[buffer]}[{', '.join(self.bare(i) for i in indices)}]"

    # ---- expressions

    def word(self, expr: Any) -> str:
        """An expression that can stand in another one."""
        text, single = self.expr(expr)
        return text if single else f"({text})"

    def bare(self, expr: Any) -> str:
        """An expression that stands alone."""
        return self.expr(expr)[0]

    def expr(self, expr: Any) -> tuple[str, bool]:
        if type(expr) in _BINARY:
            return self.binary(_BINARY[type(expr)], expr.a, expr.b, _dtype(expr))
        match expr:
            case tirx.Var():
                return self.names[expr], True
            case tirx.IntImm():
                return _integer(int(expr.value), _dtype(expr))
            case tirx.FloatImm():
                return _float(float(expr.value), _dtype(expr))
            case tvm.ir.TensorLoad():
                return self.place(expr.source, expr.indices), True
            case tirx.Cast():
                return self.cast(expr.value, _dtype(expr))
            case tirx.Min() | tirx.Max():
                a, b = self.word(expr.a), self.word(expr.b)
                return f"{a} {'<' if isinstance(expr, tirx.Min) else '>'} {b} ? {a} : {b}", False
            case tirx.Select():
                return self.choose(expr.condition, expr.true_value, expr.false_value)
            case tirx.Not() | tirx.BitwiseNot() if _dtype(expr) == "bool":
                return f"!{self.word(expr.a)}", False
            case tirx.BitwiseNot():
                return f"({_type(_dtype(expr))})~{self.word(expr.a)}", False
            case tvm.ir.Call():
                return self.call(expr)
        raise EdgecError(f"a kernel computes {type(expr).__name__} of type {_dtype(expr)}, for which C has no words")

    def binary(self, sign: str, left: Any, right: Any, dtype: str) -> tuple[str, bool]:
        if (known := _known(sign, left, right)) is not None:
            return known, True
        a, b, kind = self.word(left), self.word(right), _TYPES.get(dtype, "")
        if dtype == "float16" and sign not in _COMPARED:
            raise EdgecError("a kernel computes in half precision, which C99 has not")
        if sign == "&&" and "1" in (a, b):
            return (a if b == "1" else b), True
        if sign in _COMPARED:
            return f"{a} {sign} {b}", False
        if dtype in _SHORT:                                              # C computes in int
            return f"({kind})({f'(uint32_t){a}' if sign == '*' else a} {sign} {b})", False
        if dtype == "int64" and sign in "+-*":                           # signed sums must not overflow in C, unsigned ones wrap
            return f"(int64_t)((uint64_t){a} {sign} (uint64_t){b})", False
        if sign == "<<" and dtype in ("int32", "int64"):
            return f"({kind})((u{kind}){a} << {b})", False
        return f"{a} {sign} {b}", False

    def choose(self, condition: Any, then: Any, otherwise: Any) -> tuple[str, bool]:
        return f"{self.word(condition)} ? {self.word(then)} : {self.word(otherwise)}", False

    def cast(self, value: Any, dtype: str) -> tuple[str, bool]:
        source = _dtype(value)
        if source == "float16" and dtype == "float32":
            return f"f32_of_f16({self.bare(value)})", True
        if source == "float32" and dtype == "float16":
            return f"f16_of_f32({self.bare(value)})", True
        if "float16" in (source, dtype):
            raise EdgecError(f"a kernel converts {source} to {dtype}, for which C has no words")
        if dtype == "bool":
            return f"{self.word(value)} != 0", False
        return f"({_TYPES[dtype]}){self.word(value)}", False

    def call(self, call: Any) -> tuple[str, bool]:
        name, dtype = _op(call).rpartition(".")[2], _dtype(call)
        known: dict[str, Callable[..., tuple[str, bool]]] = {
            "if_then_else": self.choose,
            "isnan": lambda x: (f"isnan({self.bare(x)})", True),
            "likely": self.expr,
            "reinterpret": lambda x: self.reinterpret(x, dtype),
            "bitwise_and": lambda a, b: self.binary("&", a, b, dtype), "bitwise_or": lambda a, b: self.binary("|", a, b, dtype),
            "bitwise_xor": lambda a, b: self.binary("^", a, b, dtype), "shift_left": lambda a, b: self.binary("<<", a, b, dtype),
            "shift_right": lambda a, b: self.binary(">>", a, b, dtype),
            "bitwise_not": lambda x: (f"({_TYPES[dtype]})~{self.word(x)}", False),
            "call_pure_extern": lambda f, *args: self.function_of(f.value, args), "call_extern": lambda f, *a: self.function_of(f.value, a),
            "call_llvm_pure_intrin": lambda number, *args: self.intrinsic(number, args, dtype),
        }
        if name not in known:
            raise EdgecError(f"a kernel calls {_op(call)}, which C cannot")
        return known[name](*call.args)

    def intrinsic(self, number: Any, args: Sequence[Any], dtype: str) -> tuple[str, bool]:
        name = str(tvm.get_global_func("target.llvm_get_intrinsic_name")(int(number)))
        short = name.removeprefix("llvm.")
        if short not in _INTRINSICS or dtype not in ("float32", "float64"):
            raise EdgecError(f"a kernel needs the instruction {name} of {dtype}, for which C has no words")
        return self.function_of(short + "f" * (dtype == "float32"), args)

    def function_of(self, name: str, args: Sequence[Any]) -> tuple[str, bool]:
        return f"{name}({', '.join(self.bare(a) for a in args)})", True

    def reinterpret(self, value: Any, dtype: str) -> tuple[str, bool]:
        source = _dtype(value)
        if isinstance(value, tvm.ir.TensorLoad) and isinstance(value.indices[0], tirx.Ramp) and int(value.indices[0].stride) == 1:
            return f"{_short(dtype)}_at({self.names[value.source]} + {self.word(value.indices[0].base)})", True    # neighboring bytes
        if "float" not in source and "float" not in dtype:
            return f"({_TYPES[dtype]}){self.word(value)}", False
        return f"{_short(dtype)}_of_{_short(source)}_bits({self.bare(value)})", True


def _known(sign: str, left: Any, right: Any) -> str | None:
    """The truth of a comparison of an unsigned number with zero that needs no look at the number; compilers complain of it."""
    if sign not in _COMPARED or "uint" not in _dtype(left):
        return None
    zero = [isinstance(side, tirx.IntImm) and not int(side.value) for side in (left, right)]
    always = (sign == "<=" and zero[0]) or (sign == ">=" and zero[1])
    never = (sign == ">" and zero[0]) or (sign == "<" and zero[1])
    return "1" if always else "0" if never else None


def _op(call: Any) -> str:
    return str(call.op.name)


def _dtype(expr: Any) -> str:
    return str(expr.ty.dtype)


def _type(dtype: Any) -> str:
    """The C type of one number."""
    name = str(getattr(dtype, "dtype", dtype))
    if name not in _TYPES:
        raise EdgecError(f"a kernel computes with {name}, which C has not")
    return _TYPES[name]


def _short(dtype: str) -> str:
    """A dtype in few letters: f32, u8."""
    return re.sub(r"(u?)int|float", lambda m: m[1] or m[0][0], dtype)


def _integer(value: int, dtype: str) -> tuple[str, bool]:
    if dtype == "float16":
        raise EdgecError("a kernel computes in half precision, which C99 has not")
    if value == _LIMITS.get(dtype, (0, ""))[0] and value:
        return _LIMITS[dtype][1], True
    suffix = {"uint32": "u", "uint64": "u"}.get(dtype, "")
    if dtype.endswith("int64"):
        return f"{'U' if suffix else ''}INT64_C({value})", True
    return f"{value}{suffix}", value >= 0


def _float(value: float, dtype: str) -> tuple[str, bool]:
    """A number with all its digits."""
    if dtype == "float16":
        return f"{int(np.float16(value).view(np.uint16))}", True
    suffix = "f" if dtype == "float32" else ""
    if not np.isfinite(value):
        text = "NAN" if np.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
        return text, value != -np.inf
    text = f"{np.float32(value):.9g}" if suffix else f"{value:.17g}"
    return (text if "e" in text or "." in text else f"{text}.0") + suffix, text[0] != "-"


def _without_unread(lines: Sequence[str]) -> list[str]:
    """Leave out variables that nothing reads, of which compilers complain."""
    kept, before = list(lines), -1
    while len(kept) != before:
        before = len(kept)
        reads = Counter(word for line in kept for word in re.findall(r"\b[rt]\d+\b", re.sub(_WRITTEN, "", line)))
        kept = [line for line in kept if not (found := re.match(_WRITTEN, line)) or reads[found[1]]]
    return kept


def _declared_where_set(lines: Sequence[str], kinds: Mapping[str, str]) -> list[str]:
    """Make a constant of each variable that is set in one place, and read behind it in the same block alone."""
    made, places, ends = list(lines), dict[str, list[int]](), dict[int, int]()
    depth = [len(line) - len(line.lstrip()) for line in lines]
    opened: list[int] = []                                             # lines whose block has not ended yet
    for i, line in enumerate(lines):
        while opened and depth[opened[-1]] > depth[i]:
            ends[opened.pop()] = i
        opened.append(i)
        for name in re.findall(r"\br\d+\b", line):
            places.setdefault(name, []).append(i)
    for name, (first, *reads) in places.items():
        alone = re.match(rf" +{name} = ", lines[first]) and not any(re.match(rf" +{name} = ", lines[i]) for i in reads)
        if alone and all(first < i < ends.get(first, len(lines)) for i in reads):
            made[first] = " " * depth[first] + f"const {kinds[name]} " + lines[first].lstrip()
    return made


def _declared(kind: str, names: Sequence[str]) -> list[str]:
    """Declarations of variables, several in a line."""
    lines, line = list[str](), ""
    for name in names:
        if len(line) + len(name) > _WIDTH:
            lines.append(f"{line};")
            line = ""
        line = f"{line}, {name}" if line else f"  {kind} {name}"
    return [*lines, f"{line};"] if line else []
