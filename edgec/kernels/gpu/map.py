"""Elementwise arithmetic, copies, padding and resizing as text: a work item makes one element, or four neighbors."""

import numpy as np

from edgec.kernels.gpu.plan import QUAD, GpuPlan
from edgec.kernels.gpu.writer import Writer, computed, number, offset, scaled, total
from edgec.kernels.map import MapPlan
from edgec.kernels.pad import PadPlan
from edgec.kernels.resize import ResizePlan, Scaled


def emit_map(plan: GpuPlan, write: Writer, function: str) -> None:
    """An expression over the index space of the output."""
    nest = plan.nest
    if not isinstance(nest, MapPlan):
        raise TypeError("not a map")
    last, inner = len(write.args) - 1, nest.loops[-1]
    write(f"if (ITEM >= {plan.items}) return;", "int i = ITEM;")
    names = []
    for depth, it in reversed(list(enumerate(nest.loops))):
        count = it.extent // QUAD if plan.wide and it is inner else it.extent
        names.append(f"i{depth}")
        write(f"const int i{depth} = {f'i % {count}' if depth else 'i'}{f' * {QUAD}' if plan.wide and it is inner else ''};"
              + (f" i /= {count};" if depth else ""))
    names.reverse()
    bases = [total(scaled(name, it.strides[a]) for name, it in zip(names, nest.loops, strict=True)) for a in range(last + 1)]
    steps = inner.strides
    if not plan.wide:
        write(f"p{last}[{bases[last]}] = {function}({', '.join(write.load(a, bases[a]) for a in range(last))});")
        return
    for a in range(last):
        if steps[a] and write.args[a].dtype == "f32":
            write(f"const float4 v{a} = load4(p{a} + {bases[a]});")
    results = [f"{function}({', '.join(_lane(write, a, bases[a], steps[a], j) for a in range(last))})" for j in range(QUAD)]
    if write.args[last].dtype == "f32":
        write(f"store4(p{last} + {bases[last]}, make4({', '.join(results)}));")
    else:
        write(*(f"p{last}[{bases[last]} + {j}] = {result};" for j, result in enumerate(results)))


def _lane(write: Writer, arg: int, base: str, step: int, lane: int) -> str:
    if step and write.args[arg].dtype == "f32":
        return f"v{arg}.{'xyzw'[lane]}"
    return write.load(arg, f"{base} + {lane}" if step else base)


def emit_pad(plan: GpuPlan, write: Writer) -> None:
    """The inside of each axis, or the value of the pad."""
    nest = plan.nest
    if not isinstance(nest, PadPlan):
        raise TypeError("not a pad")
    last = len(write.args) - 1
    write(f"if (ITEM >= {plan.items}) return;", "int i = ITEM;")
    order = list(nest.order)
    for a in reversed(order):
        write(f"const int to{a} = i % {nest.y.axes[a].extent}; i /= {nest.y.axes[a].extent};")
    inside = [f"to{a} >= {nest.before[a]} && to{a} < {nest.before[a] + nest.x.axes[a].extent}" for a in order]
    source = offset(nest.x, [f"to{a} - {nest.before[a]}" for a in range(len(order))])
    fill = write.load(1, "0") if nest.value else number(0, write.args[last].dtype)
    write(f"p{last}[{offset(nest.y, [f'to{a}' for a in range(len(order))])}] = {' && '.join(inside)} ? {write.load(0, source)} : {fill};")


def emit_resize(plan: GpuPlan, write: Writer, epilogue: str) -> None:
    """Where an output reads and with which weights, in f32 and step by step as ONNX Runtime computes it."""
    nest = plan.nest
    if not isinstance(nest, ResizePlan):
        raise TypeError("not a resize")
    last, loops = len(write.args) - 1, [*nest.outer, *([nest.inner] if nest.inner is not None else [])]
    write(f"if (ITEM >= {plan.items}) return;", "int i = ITEM;")
    terms: list[list[str]] = [[] for _ in range(last + 1)]
    for number_, it in reversed(list(enumerate(loops))):
        write(f"const int i{number_} = i % {it.extent}; i /= {it.extent};")
        for a in range(last + 1):
            terms[a].append(scaled(f"i{number_}", it.strides[a]))
    for number_, axis in reversed(list(enumerate(nest.axes))):
        write(f"const int to{number_} = i % {axis.size}; i /= {axis.size};")
        for a in range(1, last + 1):
            terms[a].append(scaled(f"to{number_}", axis.strides[a]))
        _position(nest, axis, write, str(number_))
    places: list[tuple[str, str]] = [("", "")]                 # (offset, weight) of each combination of taps
    for number_, axis in enumerate(nest.axes):
        if nest.mode == "nearest":
            places = [(total([at, scaled(f"s{number_}", axis.strides[0])]), w) for at, w in places]
        else:
            places = [(total([at, scaled(f"{end}{number_}", axis.strides[0])]), f"{w}{' * ' if w else ''}{weight}{number_}")
                      for at, w in places for end, weight in (("l", "u"), ("h", "v"))]
    base = total(terms[0])
    dtype = computed(write.args[0].dtype)
    read = [write.load(0, f"{base} + {at}") + (f" * ({w})" if w else "") for at, w in places]
    outside = [f"out{k}" for k in range(len(nest.axes))] if nest.coordinates == "tf_crop_and_resize" else []
    value = " + ".join(read)
    if outside:
        value = f"{' || '.join(outside)} ? {number(nest.extrapolation)} : ({value})"
    write(f"const {dtype} value = {value};")
    loads = [write.load(a, total(terms[a])) for a in range(1, last)]
    write(f"p{last}[{total(terms[last])}] = {epilogue}({', '.join(['value', *loads])});")


def _position(nest: ResizePlan, axis: Scaled, write: Writer, n: str) -> None:
    """The position in the input that an output position stands for, and what is read there."""
    kind, last, o = nest.coordinates, axis.source - 1, f"(f32)to{n}"
    turned = f"({o} + 0.5f) / {number(axis.scale)}"
    if kind == "asymmetric":
        x = f"{o} / {number(axis.scale)}"
    elif kind == "align_corners":
        x = f"{o} * {number(last)} / {number(axis.size - 1)}" if axis.size > 1 else "0.0f"
    elif kind == "tf_crop_and_resize":
        x = number(0.5 * (axis.start + axis.end) * last) if axis.size == 1 else \
            f"{o} * {number(axis.end - axis.start)} * {number(last)} / {number(axis.size - 1)} + {number(axis.start * last)}"
    elif kind == "tf_half_pixel_for_nn":
        x = turned
    elif kind == "pytorch_half_pixel" and axis.size == 1:
        x = "0.0f"
    elif kind == "half_pixel_symmetric":
        adjustment = np.float32(axis.size) / (np.float32(axis.scale) * np.float32(axis.source))
        moved = float(np.float32(axis.source) / np.float32(2) * (np.float32(1) - adjustment))
        x = f"({turned} + {number(moved)}) - 0.5f"
    else:
        x = f"{turned} - 0.5f"
    write(f"const f32 x{n} = {x};")
    if kind == "tf_crop_and_resize":
        write(f"const bool out{n} = x{n} < 0.0f || x{n} > {number(last)};")
    limited = "({v} < 0.0f ? 0.0f : {v} > {last} ? {last} : {v})"
    if nest.mode == "nearest":
        whole = {"round_prefer_floor": f"ceil(x{n} - 0.5f)", "round_prefer_ceil": f"floor(x{n} + 0.5f)", "floor": f"floor(x{n})",
                 "ceil": f"ceil(x{n})"}[nest.nearest]
        write(f"const f32 w{n} = {whole};", f"const int s{n} = (int){limited.format(v=f'w{n}', last=number(last))};")
        return
    write(f"const f32 c{n} = {limited.format(v=f'x{n}', last=number(last))};", f"const int l{n} = (int)floor(c{n});",
          f"const int h{n} = l{n} < {last} ? l{n} + 1 : {last};", f"const f32 v{n} = c{n} - (f32)l{n};", f"const f32 u{n} = 1.0f - v{n};")


__all__ = ["emit_map", "emit_pad", "emit_resize"]
