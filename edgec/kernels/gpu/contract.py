"""Convolutions and products as text: a work item keeps a tile of columns times four channels in registers over the whole sum.

The columns of an item lie as far apart as there are items in a row, so that neighbors read and write neighbors.
"""

from edgec.kernels.contract import ContractPlan
from edgec.kernels.gpu.plan import QUAD, GpuPlan
from edgec.kernels.gpu.writer import Writer, along, computed, contiguous, offset, scaled, total
from edgec.kernels.taps import Taps

_PARTIAL = 256
"""Products that are summed in one chain: see edgec/kernels/contract.py."""


def emit(plan: GpuPlan, write: Writer, epilogue: str) -> None:
    """The body of a kernel; `epilogue` names the function that finishes a result."""
    nest = plan.nest
    if not isinstance(nest, ContractPlan):
        raise TypeError("not a contraction")
    _Contraction(plan, nest, write, epilogue).emit()


class _Contraction:
    def __init__(self, plan: GpuPlan, nest: ContractPlan, write: Writer, epilogue: str) -> None:
        self.plan, self.nest, self.write, self.epilogue = plan, nest, write, epilogue
        self.quads = -(-nest.out_channels // QUAD)
        self.room = self.quads * QUAD
        self.whole = nest.out_channels % QUAD == 0
        self.depth = nest.in_channels
        self.first_load = 2 + nest.bias
        self.parts = self.depth * nest.kernel[0] * nest.kernel[1] > 2 * _PARTIAL

    def emit(self) -> None:
        if self.plan.team > 1:
            self._shared()
            return
        start = 0
        for ys in self.nest.ys:
            for xs in self.nest.xs:
                size = self.quads * self.nest.groups * -(-xs.out_count // self.plan.columns) * ys.out_count * self.nest.y.axes[0].extent
                with self.write.block(f"if (ITEM >= {start} && ITEM < {start + size})"):
                    self._phase(ys, xs, f"ITEM - {start}" if start else "ITEM")
                start += size

    # -- which tile an item takes

    def _phase(self, ys: Taps, xs: Taps, item: str) -> None:
        """A tile of one phase (a convolution has one)."""
        write, nest = self.write, self.nest
        write(f"int i = {item};")
        inside = self._block()
        tiles = -(-xs.out_count // self.plan.columns)
        parts = [("qi", inside), ("xt", tiles), ("y", ys.out_count), ("qo", self.quads // inside), ("g", nest.groups),
                 ("n", nest.y.axes[0].extent)]
        for name, extent in parts:
            write(f"const int {name} = {'0' if extent == 1 else f'i % {extent}'};" + (f" i /= {extent};" if extent > 1 else ""))
        write(f"const int m = (qo * {inside} + qi) * {QUAD};")
        for t in range(self.plan.columns):
            write(f"float4 a{t} = make4(0, 0, 0, 0);" + (f" float4 t{t} = a{t};" if self.parts else ""))
        self._taps(ys, xs)
        if self.parts:
            self._close()
            for t in range(self.plan.columns):
                write(f"a{t} = t{t};")
        oy = f"(y * {ys.out_step} + {ys.out_begin})"
        for t in range(self.plan.columns):
            ox = f"((xt + {t * tiles}) * {xs.out_step} + {xs.out_begin})"
            if (t + 1) * tiles > xs.out_count:
                with write.block(f"if (xt + {t * tiles} < {xs.out_count})"):
                    self._finish(f"a{t}", oy, ox)
            else:
                with write.block(""):
                    self._finish(f"a{t}", oy, ox)

    def _block(self) -> int:
        """Quads whose channels are neighbors in a block of the output's layout: neighboring items take them."""
        axis, nest = self.nest.y.axes[1], self.nest
        if axis.block and axis.block < axis.extent and axis.block % QUAD == 0 and nest.groups == 1 and axis.extent % axis.block == 0:
            return axis.block // QUAD
        return self.quads

    # -- the sum

    def _taps(self, ys: Taps, xs: Taps) -> None:
        write, nest = self.write, self.nest
        height, width = nest.x.axes[2].extent, nest.x.axes[3].extent
        tiles = -(-xs.out_count // self.plan.columns)
        checked = xs.clipped(width) or tiles * self.plan.columns > xs.out_count
        with write.block(f"for (int ky = 0; ky < {ys.count}; ky++)"):
            write(f"const int iy = y * {ys.step} + {ys.first} + ky * {ys.pitch};")
            if ys.clipped(height):
                write(f"if (iy < 0 || iy >= {height}) continue;")
            with write.block(f"for (int kx = 0; kx < {xs.count}; kx++)"):
                write(f"const int ix = xt * {xs.step} + {xs.first} + kx * {xs.pitch};")
                row = total([along(nest.x.axes[0], "n"), along(nest.x.axes[2], "iy")])
                for t in range(self.plan.columns):
                    here = f"ix + {t * tiles * xs.step}"
                    if checked:
                        write(f"const bool in{t} = {here} >= 0 && {here} < {width};")
                    place = along(nest.x.axes[3], here)
                    write(f"const int r{t} = {row} + {f'(in{t} ? {place} : 0)' if checked and place else place or '0'};")
                if nest.w is None:
                    row = f"(g * {nest.kernel[0]} + ky * {ys.kernel_step} + {ys.kernel}) * {nest.kernel[1]}"
                    write(f"const int wk = ({row} + kx * {xs.kernel_step} + {xs.kernel}) * {self.depth * self.room} + m;")
                else:
                    write(f"const int wk = {total([along(nest.w.axes[0], 'n'), 'm'])};")
                self._channels(checked)

    def _channels(self, checked: bool) -> None:  # noqa: FBT001 - whether columns may lie outside
        """The products over the input channels at one tap."""
        write, depth = self.write, self.depth
        step = _PARTIAL if self.parts else depth
        with write.block(f"for (int from = 0; from < {depth}; from += {step})" if depth > step else ""):
            first = "from" if depth > step else "0"
            last = f"(from + {step} < {depth} ? from + {step} : {depth})" if depth > step else str(depth)
            write(f"int c = {first};")
            if depth >= QUAD:
                with write.block(f"for (; c + {QUAD} <= {last}; c += {QUAD})"):
                    self._products(checked, QUAD)
            if depth % QUAD:
                with write.block(f"for (; c < {last}; c++)"):
                    self._products(checked, 1)
            if self.parts:
                self._close()

    def _products(self, checked: bool, count: int) -> None:  # noqa: FBT001
        write, axis = self.write, self.nest.x.axes[1]
        base = f"(g * {self.depth} + c)" if self.nest.groups > 1 else "c"
        # whether four channels lie side by side: in blocks they do from each multiple of four on
        blocked = axis.block and axis.block < axis.extent
        wide = axis.inner == 1 and axis.block % QUAD == 0 and (self.nest.groups == 1 or self.depth % QUAD == 0) if blocked else \
            (axis.inner if axis.block else axis.stride) == 1
        for t in range(self.plan.columns):
            if count == QUAD:
                if wide:
                    value = write.load4(0, total([f"r{t}", along(axis, base)]))
                else:
                    value = f"make4({', '.join(write.load(0, total([f'r{t}', along(axis, f'{base} + {k}')])) for k in range(QUAD))})"
                write(f"const float4 x{t} = {f'in{t} ? {value} : make4(0, 0, 0, 0)' if checked else value};")
            else:
                value = write.load(0, total([f"r{t}", along(axis, base)]))
                write(f"const f32 x{t} = {f'in{t} ? {value} : 0' if checked else value};")
        for k in range(count):
            write(f"const float4 w{k} = {self._weight(f'c + {k}')};")
            for t in range(self.plan.columns):
                value = f"x{t}.{'xyzw'[k]}" if count == QUAD else f"x{t}"
                write(f"a{t} = fma4({value}, w{k}, a{t});")

    def _weight(self, c: str) -> str:
        """Four neighboring columns of the right factor in row c; a computed one is never read behind its end."""
        write, nest = self.write, self.nest
        if nest.w is None:
            return write.load4(1, f"wk + ({c}) * {self.room}")
        row = total(["wk", along(nest.w.axes[1], c)])
        if self.whole:
            return write.load4(1, row)
        cells = (f"(m + {j} < {nest.out_channels} ? {write.load(1, f'{row} + {j}')} : 0)" for j in range(QUAD))
        return f"make4({', '.join(cells)})"

    def _close(self) -> None:
        """Add the partial sums to the whole ones."""
        for t in range(self.plan.columns):
            self.write(f"t{t} = add4(t{t}, a{t}); a{t} = make4(0, 0, 0, 0);")

    # -- what becomes of the sums

    def _finish(self, name: str, oy: str, ox: str) -> None:
        """Four results: bias, epilogue, store."""
        write, nest = self.write, self.nest
        channel = f"(g * {nest.out_channels} + m)" if nest.groups > 1 else "m"
        at = ["n", channel, oy, ox]
        last = len(write.args) - 1
        wide = self.whole and write.args[last].dtype == "f32" and contiguous(nest.y.axes[1], nest.y.axes[1].extent)
        results = []
        for j in range(QUAD):
            lane = [at[0], f"{channel} + {j}", *at[2:]]
            value = f"{name}.{'xyzw'[j]}" + (f" + {write.load(2, f'{channel} + {j}')}" if nest.bias else "")
            loads = [write.load(load.arg, offset(load.view, lane)) for load in nest.epilogue.loads]
            results.append((f"{self.epilogue}({', '.join([value, *loads])})", offset(nest.y, lane)))
        if wide:
            write(f"store4(p{last} + {offset(nest.y, at)}, make4({', '.join(r for r, _ in results)}));")
            return
        for j, (value, place) in enumerate(results):
            guard = "" if self.whole or j == 0 else f"if (m + {j} < {nest.out_channels}) "
            write(f"{guard}p{last}[{place}] = {value};")

    def _shared(self) -> None:
        """A product with one row: items of a group share the sum of each quad, neighbors take neighboring quads."""
        write, team, depth = self.write, self.plan.team, self.depth
        group = self.plan.group
        each, axis = group // team, self.nest.x.axes[1]
        write(f"SHARED f32 part[{group * QUAD}];", f"const int q = GROUP * {each} + LANE % {each};", f"const int slice = LANE / {each};",
              f"const int m = q * {QUAD};", "const int g = 0, n = 0, wk = m;", "float4 a0 = make4(0, 0, 0, 0);")
        with write.block(f"if (q < {self.quads})"), write.block(f"for (int c = slice; c < {depth}; c += {team})"):
            write(f"a0 = fma4({write.load(0, total([along(axis, 'c')]))}, {self._weight('c')}, a0);")
        write(*(f"part[LANE * {QUAD} + {j}] = a0.{'xyzw'[j]};" for j in range(QUAD)), "BARRIER;")
        with write.block(f"if (slice == 0 && q < {self.quads})"):
            with write.block(f"for (int s = 1; s < {team}; s++)"):
                write(f"const int other = (s * {each} + LANE) * {QUAD};",
                      f"a0 = add4(a0, make4({', '.join(f'part[other + {j}]' for j in range(QUAD))}));")
            self._finish("a0", "0", "0")


__all__ = ["computed", "emit", "scaled"]
