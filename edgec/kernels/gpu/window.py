"""Depthwise convolution and pooling as text: a work item makes one output of four channels, or of one where they do not lie together."""

from edgec.kernels.gpu.plan import QUAD, GpuPlan
from edgec.kernels.gpu.writer import Writer, along, contiguous, offset, total
from edgec.kernels.window import WindowPlan


def emit(plan: GpuPlan, write: Writer, epilogue: str) -> None:
    """The body of a kernel; `epilogue` names the function that finishes a result."""
    nest = plan.nest
    if not isinstance(nest, WindowPlan):
        raise TypeError("not a window")
    lanes = QUAD if plan.wide else 1
    _item(plan, nest, write, lanes)
    names = "xyzw"[:lanes]
    start = "(-INFINITY)" if nest.op == "max" else "0"
    for name in names:
        bias = write.load(2, f"c + {names.index(name)}") if nest.op == "depthwise" and nest.bias else start
        write(f"f32 a{name} = {bias};")
    if nest.op == "average" and nest.divisor is None:
        write("int taken = 0;")
    height, width = nest.x.axes[2].extent, nest.x.axes[3].extent
    with write.block(f"for (int ky = 0; ky < {nest.ys.count}; ky++)"):
        write(f"const int iy = y * {nest.ys.step} + {nest.ys.first} + ky * {nest.ys.pitch};")
        if nest.ys.clipped(height):
            write(f"if (iy < 0 || iy >= {height}) continue;")
        with write.block(f"for (int kx = 0; kx < {nest.xs.count}; kx++)"):
            write(f"const int ix = x * {nest.xs.step} + {nest.xs.first} + kx * {nest.xs.pitch};")
            if nest.xs.clipped(width):
                write(f"if (ix < 0 || ix >= {width}) continue;")
            _tap(nest, write, names)
    _finish(nest, write, names, epilogue)


def _item(plan: GpuPlan, nest: WindowPlan, write: Writer, lanes: int) -> None:
    """Which output an item makes: neighbors in memory are made by neighbors."""
    n, channels, height, width = nest.y.shape
    axis = nest.y.axes[1]
    write(f"if (ITEM >= {plan.items}) return;", "int i = ITEM;")
    quads = channels // lanes
    inside = axis.block // lanes if plan.wide and axis.block and axis.block < axis.extent and channels % axis.block == 0 else quads
    order = [("qi", inside), ("x", width), ("y", height), ("qo", quads // inside), ("n", n)]
    if not plan.wide and (axis.block or axis.stride != 1):
        order = [("x", width), ("y", height), ("qi", inside), ("qo", 1), ("n", n)]
    for name, extent in order:
        write(f"const int {name} = {'0' if extent == 1 else f'i % {extent}'};" + (f" i /= {extent};" if extent > 1 else ""))
    write(f"const int c = (qo * {inside} + qi) * {lanes};")


def _tap(nest: WindowPlan, write: Writer, names: str) -> None:
    place = total([along(nest.x.axes[0], "n"), along(nest.x.axes[1], "c"), along(nest.x.axes[2], "iy"), along(nest.x.axes[3], "ix")])
    if len(names) == QUAD:
        write(f"const float4 v = {write.load4(0, place)};")
    values = [f"v.{name}" for name in names] if len(names) == QUAD else [write.load(0, place)]
    channels = nest.x.axes[1].extent
    if nest.op == "depthwise":
        row = f"(ky * {nest.ys.kernel_step} + {nest.ys.kernel}) * {nest.xs.count}"
        at = f"({row} + kx * {nest.xs.kernel_step} + {nest.xs.kernel}) * {channels} + c"
        if len(names) == QUAD:
            write(f"const float4 w = {write.load4(1, at)};")
        weights = [f"w.{name}" for name in names] if len(names) == QUAD else [write.load(1, at)]
        write(*(f"a{name} += {v} * {w};" for name, v, w in zip(names, values, weights, strict=True)))
    elif nest.op == "average":
        write(*(f"a{name} += {v};" for name, v in zip(names, values, strict=True)))
        if nest.divisor is None:
            write("taken++;")
    else:
        for name, v in zip(names, values, strict=True):                # NaN stays
            with write.block(""):
                write(f"const f32 s = {v};", f"a{name} = s > a{name} || s != s ? s : a{name};")


def _finish(nest: WindowPlan, write: Writer, names: str, epilogue: str) -> None:
    last = len(write.args) - 1
    if nest.op == "average":
        if nest.divisor is None:
            write("const f32 count = (f32)(taken > 0 ? taken : 1);")
        else:
            rows, columns = (_lookup(table, i) for table, i in zip(nest.divisor, "yx", strict=True))
            write(f"const f32 count = (f32)({rows} * {columns});")
        write(*(f"a{name} /= count;" for name in names))
    results = []
    for j, name in enumerate(names):
        lane = ["n", f"c + {j}", "y", "x"]
        loads = [write.load(load.arg, offset(load.view, lane)) for load in nest.epilogue.loads]
        results.append((f"{epilogue}({', '.join([f'a{name}', *loads])})", offset(nest.y, lane)))
    if len(names) == QUAD and write.args[last].dtype == "f32" and contiguous(nest.y.axes[1], nest.y.axes[1].extent):
        write(f"store4(p{last} + {offset(nest.y, ['n', 'c', 'y', 'x'])}, make4({', '.join(r for r, _ in results)}));")
    else:
        write(*(f"p{last}[{place}] = {value};" for value, place in results))


def _lookup(table: tuple[int, ...], index: str) -> str:
    """A small table of counts that differs only near its end, as nested choices."""
    text = str(table[0])
    for position in range(1, len(table)):
        if table[position] != table[position - 1]:
            text = f"({index} >= {position} ? {table[position]} : {text})"
    return text


__all__ = ["emit"]
