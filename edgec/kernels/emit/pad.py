"""Pad with a constant: the pads and the inside of each axis, one after the other."""

from tvm import tirx

from edgec.kernels.emit.core import Index, Kernel, address, compute_dtype, const, function, loop, when
from edgec.kernels.pad import PadPlan, runs


def emit(plan: PadPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, lambda kernel, task: _Pad(plan, kernel).task(task))


class _Pad:
    def __init__(self, plan: PadPlan, kernel: Kernel) -> None:
        self.plan, self.k = plan, kernel
        self.dtype = compute_dtype(plan.args[-1].dtype)
        self.vectors = runs(plan, plan.order[-1], kernel.isa.lanes)

    def task(self, t: Index) -> None:
        out: list[Index] = [0] * len(self.plan.order)
        if len(self.plan.order) == 1:
            self.innermost(out, [0], inside=True)
            return
        self.axis(0, t, out, list(out), inside=True)

    def axis(self, level: int, given: Index | None, out: list[Index], source: list[Index], *, inside: bool) -> None:
        """Everything below one axis: the pad before, the inside, the pad after; `given` is the task's own position on the first axis."""
        plan = self.plan
        if level == len(plan.order) - 1:
            self.innermost(out, source, inside=inside)
            return
        a = plan.order[level]
        before, size, total = plan.before[a], plan.x.axes[a].extent, plan.y.axes[a].extent
        parts = [(0, before, False), (before, before + size, inside), (before + size, total, False)] if inside else [(0, total, False)]
        for low, high, reading in parts:
            def at(i: Index, *, reading: bool = reading) -> None:
                out[a], source[a] = i, i - before
                self.axis(level + 1, None, list(out), list(source), inside=reading)
            if given is None:
                loop(low, high, at)
            elif low < high:
                when(tirx.And(given >= low, given < high), lambda at=at: at(given))  # type: ignore[misc]

    def innermost(self, out: list[Index], source: list[Index], *, inside: bool) -> None:
        plan, k, a = self.plan, self.k, self.plan.order[-1]
        last = len(plan.args) - 1
        for run in self.vectors:
            to = address(plan.y, [run.at if i == a else o for i, o in enumerate(out)])
            if inside and run.source is not None:
                value = k.load(0, address(plan.x, [run.source if i == a else s for i, s in enumerate(source)]), run.width)
            else:
                value = k.splat(1, 0, run.width) if plan.value else const(0, self.dtype, run.width)
            k.store(last, value, to, run.width)



