"""Reductions and normalizations as text: a work item walks along a row, or a group of them share it."""

from collections.abc import Callable

from edgec.kernels.gpu.plan import GpuPlan
from edgec.kernels.gpu.writer import Writer, number, scaled, total
from edgec.kernels.map import Loop
from edgec.kernels.reduce import ReducePlan

_PARTIAL = 256
_START = {"sum": "0.0f", "max": "(-INFINITY)", "min": "INFINITY", "prod": "1.0f"}
_JOIN = {"sum": "{a} + {b}", "prod": "{a} * {b}", "max": "({b} > {a} || {b} != {b} ? {b} : {a})",
         "min": "({b} < {a} || {b} != {b} ? {b} : {a})"}


def emit(plan: GpuPlan, write: Writer, functions: tuple[str, str]) -> None:
    """The body of a kernel; `functions` compute an element from the operands, and finish a result."""
    nest = plan.nest
    if not isinstance(nest, ReducePlan):
        raise TypeError("not a reduction")
    _Rows(plan, nest, write, functions).emit()


class _Rows:
    def __init__(self, plan: GpuPlan, nest: ReducePlan, write: Writer, functions: tuple[str, str]) -> None:
        self.plan, self.nest, self.write = plan, nest, write
        self.prologue, self.epilogue = functions
        self.inputs, self.last = len(nest.prologue.arguments), len(write.args) - 1

    def emit(self) -> None:
        write, plan, nest = self.write, self.plan, self.nest
        if plan.team > 1:
            write(f"SHARED f32 part[{plan.team}];", "int i = GROUP;", "const int lane = LANE;")
        else:
            write(f"if (ITEM >= {plan.items}) return;", "int i = ITEM;", "const int lane = 0;")
        self._offsets("row", nest.kept)
        match nest.op:
            case "softmax" | "log_softmax":
                self._softmax()
            case "normalize" | "rms" | "lp":
                self._normalize()
            case "arg_max" | "arg_min":
                self._arg(">" if nest.op == "arg_max" else "<")
            case op:
                self._finish(self._statistic(op))

    def _offsets(self, prefix: str, loops: tuple[Loop, ...]) -> None:
        """Numbers PREFIX0, PREFIX1 …: where each argument lies in iteration `i` of the loops; the index of the element is the last."""
        terms: list[list[str]] = [[] for _ in range(self.last + 2)]
        for depth, it in reversed(list(enumerate(loops))):
            name = f"{prefix}_{depth}"
            self.write(f"const int {name} = {f'i % {it.extent}' if depth else 'i'};" + (f" i /= {it.extent};" if depth else ""))
            for a, stride in enumerate(it.strides):
                terms[a].append(scaled(name, stride))
        for a, parts in enumerate(terms):
            self.write(f"const int {prefix}{a} = {total(parts)};")

    def _walk(self, body: Callable[[str], None]) -> None:
        """All elements of the row that are this item's; the body gets the text of an element."""
        write = self.write
        with write.block(f"for (int r = lane; r < {self.nest.size}; r += {self.plan.team})"):
            write("int i = r;")
            self._offsets("at", self.nest.reduced)
            body(f"{self.prologue}({', '.join(self._read(a) for a in range(self.inputs))})")

    def _read(self, arg: int) -> str:
        return self.write.load(arg, f"row{arg} + at{arg}")

    def _reduce(self, name: str, join: str, element: Callable[[str], str]) -> None:
        """A number of the whole row, known to all that share it."""
        write, parts = self.write, join == "sum" and self.nest.size > self.plan.team * 2 * _PARTIAL
        write(f"f32 {name} = {_START[join]};", *(["f32 whole = 0.0f;"] if parts else []))
        with write.block(""):
            if parts:
                write("int count = 0;")

            def step(value: str) -> None:
                write(f"const f32 e = {element(value)};", f"{name} = {_JOIN[join].format(a=name, b='e')};")
                if parts:
                    write(f"if (++count == {_PARTIAL}) {{ whole += {name}; {name} = 0.0f; count = 0; }}")
            self._walk(step)
        if parts:
            write(f"{name} += whole;")
        if self.plan.team > 1:
            write(f"part[lane] = {name};", "BARRIER;")
            with write.block(f"for (int s = {self.plan.team // 2}; s > 0; s /= 2)"):
                joined = _JOIN[join].format(a="part[lane]", b="e")
                write(f"if (lane < s) {{ const f32 e = part[lane + s]; part[lane] = {joined}; }}", "BARRIER;")
            write(f"{name} = part[0];", "BARRIER;")

    def _statistic(self, op: str) -> str:
        n = number(self.nest.size)
        square: Callable[[str], str] = lambda e: f"(({e}) * ({e}))"  # noqa: E731
        if op in ("max", "min", "prod", "sum"):
            self._reduce("made", op, lambda e: e)
            return "made"
        if op == "log_sum_exp":
            self._reduce("top", "max", lambda e: e)
            self.write("top = fabs(top) < INFINITY ? top : 0.0f;")
            with self._braces("made"):
                self._reduce("sum", "sum", lambda e: f"exp({e} - top)")
                self.write("made = sum;")
            return "log(made) + top"
        self._reduce("made", "sum", {"l1": lambda e: f"fabs({e})", "l2": square, "sum_square": square}.get(op, lambda e: e))
        return {"mean": f"made / {n}", "l2": "sqrt(made)", "log_sum": "log(made)"}.get(op, "made")

    def _braces(self, name: str) -> "_Scope":
        """A number that a block of its own computes, so that names in it do not meet others."""
        self.write(f"f32 {name};")
        return _Scope(self.write)

    def _softmax(self) -> None:
        log = self.nest.op == "log_softmax"
        self._reduce("top", "max", lambda e: e)
        with self._braces("scale"):
            self._reduce("sum", "sum", lambda e: f"exp({e} - top)")
            self.write(f"scale = {'log(sum)' if log else '1.0f / sum'};")
        self._walk(lambda e: self._store(f"{e} - top - scale" if log else f"exp({e} - top) * scale", ("row", "at")))

    def _normalize(self) -> None:
        nest, n = self.nest, number(self.nest.size)
        mean = ""
        if nest.op == "normalize":
            with self._braces("mean"):
                self._reduce("sum", "sum", lambda e: e)
                self.write(f"mean = sum / {n};")
            mean = " - mean"
        one = nest.op == "lp" and nest.order == 1
        with self._braces("scale"):
            self._reduce("sum", "sum", lambda e: f"fabs({e})" if one else f"(({e}{mean}) * ({e}{mean}))")
            if nest.op == "lp":
                self.write(f"const f32 norm = {'sum' if one else 'sqrt(sum)'};", "scale = norm == 0.0f ? 0.0f : 1.0f / norm;")
            else:
                self.write(f"scale = 1.0f / sqrt(sum / {n} + {number(nest.eps)});")
        scale = f" * {self._read(self.inputs)}" if nest.params > 0 else ""
        shift = f" + {self._read(self.inputs + 1)}" if nest.params > 1 else ""
        self._walk(lambda e: self._store(f"({e}{mean}) * scale{scale}{shift}", ("row", "at")))

    def _arg(self, sign: str) -> None:
        """The index of the best element; of equal ones the first, or the last."""
        write = self.write
        equal = "=" if "last" in self.nest.flags else ""
        write("f32 best = 0.0f;", "int index = -1;")

        def step(value: str) -> None:
            write(f"const f32 e = {value};", f"if (index < 0 || e {sign}{equal} best) {{ best = e; index = at{self.last + 1}; }}")
        self._walk(step)
        self._finish("(i64)index")

    def _finish(self, value: str) -> None:
        if self.plan.team > 1:
            with self.write.block("if (lane == 0)"):
                self._store(value, ("row",))
        else:
            self._store(value, ("row",))

    def _store(self, value: str, prefixes: tuple[str, ...]) -> None:
        """Finish a result and store it; `prefixes` name the offsets that count."""
        def at(arg: int) -> str:
            return total([f"{p}{arg}" for p in prefixes])

        loads = [self.write.load(a, at(a)) for a in range(self.inputs + self.nest.params, self.last)]
        self.write(f"p{self.last}[{at(self.last)}] = {self.epilogue}({', '.join([value, *loads])});")


class _Scope:
    """A block without a head."""

    def __init__(self, write: Writer) -> None:
        self._block = write.block("")

    def __enter__(self) -> None:
        self._block.__enter__()

    def __exit__(self, *_: object) -> None:
        self._block.__exit__(None, None, None)


__all__ = ["emit"]
