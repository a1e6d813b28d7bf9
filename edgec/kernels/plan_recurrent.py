"""How LSTM, GRU and RNN become one kernel."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from edgec.cost import fits, memory_cycles, tile_cycles
from edgec.ir.graph import Node, Value
from edgec.ir.layout import View
from edgec.isa import Isa
from edgec.kernels.base import Arg, Operands, Planned, extent, traffic, vectors
from edgec.kernels.expr import ELEMENTWISE, Expr, Instr
from edgec.kernels.recurrent import GATES, RecurrentPlan, scratch_elements

OPERATORS = frozenset(GATES)
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_SIMPLE = {name.lower(): name for name in ("Relu", "Sigmoid", "Tanh", "Softsign", "Softplus")}
_ROWS = 4               # images of a batch that share each weight that is loaded
_SUMS = 4               # sums of a tile, at least: gates times vectors
_BODY = 160             # FMA instructions that a loop over both products may hold
_TALL = 12              # steps of a chunk whose products are computed during those of the last one, at most
_FETCH = 3              # loads that a vector of W costs there, which comes from the second cache
_LOADS = 1.5            # for each multiplication by it, at most
_CHUNK = 16             # steps whose sums wait in scratch: enough to reuse W, few enough to stay in the first cache


def recurrent(node: Node, isa: Isa, operands: Operands) -> Planned | str:
    """The plan of a whole layer, or the reason why there is none."""
    x, w, r, b, lengths, h, c = map(node.input, range(7))
    if x is None or w is None or r is None:
        return f"{node.op} lacks an operand"
    if reason := _refused(node, operands):
        return reason
    batch_first = int(node.attrs.get("layout", 0))
    view = operands.view(x)
    if batch_first:
        view = view.transpose((1, 0, 2))
    steps, batch, _ = view.shape
    if lengths is not None and operands.ints(lengths) != (steps,) * batch:
        return f"{node.op} of sequences with lengths of their own is not written"
    states = [v for v in (h, c) if v is not None]
    if node.op == "LSTM" and len(states) == 1:
        return "LSTM with one of its two initial states is not written"
    views = [operands.view(v) for v in (*states, *node.outputs)]
    if any(a.block for v in (view, *views) for a in v.axes) or any(v.axes[-1].stride != 1 < v.axes[-1].extent for v in (view, *views)):
        return f"{node.op} reads and writes tensors whose last axis lies in a row"
    cell = _cell(node)
    if isinstance(cell, str):
        return cell
    if batch_first:
        views = [v.transpose((1, 0, 2) if len(v.axes) == 3 else (1, 2, 0, 3)) for v in views]          # noqa: PLR2004
    inputs = tuple(v for v in (x, w, r, b, *states) if v is not None)
    return Planned(_plan(node, isa, inputs, view, views, cell), inputs, node.outputs)


def _refused(node: Node, operands: Operands) -> str | None:
    if any(v is not None and not operands.constant(v) for v in node.inputs[1:4]):
        return f"{node.op} whose weights are no constants is not written"
    if any(v is not None and v.tensor.dtype != "f32" for v in (*node.inputs[:4], *node.inputs[5:], *node.outputs)):
        return f"{node.op} is written for f32"
    if node.input(7) is not None or "clip" in node.attrs or node.attrs.get("input_forget"):
        return f"{node.op} with peepholes, a clip or coupled gates is not written"
    return None if all(prod(v.dims) for v in node.outputs) else "there is nothing to compute"


def _cell(node: Node) -> Expr | str:
    """The cell's arithmetic, or the reason why it is not known; both directions have the same activations."""
    names, each = _named(node), len(_DEFAULTS[node.op])
    unknown = [n for n in names if n not in _SIMPLE]
    if unknown or any(names[i::each] != [names[i]] * len(names[i::each]) for i in range(each)):
        return f"{node.op} with the activations {', '.join(names)} is not written"
    cells = {**_CELLS, "GRU": _gru_reset_first} if _resets_first(node) else _CELLS
    return cells[node.op](_activations(node))


def _named(node: Node) -> list[str]:
    """The activations of all directions as the node gives them."""
    return [str(n).lower() for n in node.attrs.get("activations") or _DEFAULTS[node.op]]


def _activations(node: Node) -> list[str]:
    """Those of one direction, as elementwise operators."""
    return [_SIMPLE[n] for n in _named(node)[:len(_DEFAULTS[node.op])]]


def _resets_first(node: Node) -> bool:
    return node.op == "GRU" and not node.attrs.get("linear_before_reset")


class _Steps:
    """Instructions of an Expr as they are numbered."""

    def __init__(self, arguments: int) -> None:
        self.arguments, self.instrs = arguments, list[Instr]()

    def __call__(self, op: str, *args: int) -> int:
        if ELEMENTWISE[op] != len(args):
            raise ValueError(f"{op} of {len(args)} operands")
        self.instrs.append(Instr(op, args))
        return self.arguments + len(self.instrs) - 1

    def expr(self, *results: int) -> Expr:
        return Expr(("f32",) * self.arguments, tuple(self.instrs), results)


def _lstm(names: Sequence[str]) -> Expr:
    """Of the sums i, o, f, g and the old h, c: the new h, c."""
    step = _Steps(6)
    f, g, h = names
    c = step("Add", step("Mul", step(f, 2), 5), step("Mul", step(f, 0), step(g, 3)))
    return step.expr(step("Mul", step(f, 1), step(h, c)), c)


def _gru(names: Sequence[str]) -> Expr:
    """Of the sums z, r, what the hidden gate gets from X and from h, and the old h: the new h."""
    step = _Steps(5)
    f, g = names
    z, r = step(f, 0), step(f, 1)
    new = step(g, step("Add", 2, step("Mul", r, 3)))
    return step.expr(step("Add", step("Mul", z, step("Sub", 4, new)), new))


def _gru_reset_first(names: Sequence[str]) -> Expr:
    """Of the sum of the hidden gate, the update gate z and the old h: the new h."""
    step = _Steps(3)
    new = step(names[1], 0)
    return step.expr(step("Add", step("Mul", 1, step("Sub", 2, new)), new))


def _reset(name: str) -> Expr:
    """Of the sums z, r and the old h: the update gate, and the old h as far as the reset gate lets it through."""
    step = _Steps(3)
    z, r = step(name, 0), step(name, 1)
    return step.expr(z, step("Mul", r, 2))


def _rnn(names: Sequence[str]) -> Expr:
    step = _Steps(2)
    return step.expr(step(names[0], 0))


_CELLS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


def _plan(node: Node, isa: Isa, inputs: tuple[Value, ...], x: View, views: Sequence[View], cell: Expr) -> RecurrentPlan:
    gates, (steps, batch, size), (sides, _, hidden) = GATES[node.op], x.shape, views[-1].shape[-3:]
    bias, states = node.input(3) is not None, 2 if node.op == "LSTM" else 1
    given = len(inputs) - 3 - bias
    if len(node.outputs) == 1:
        sides = views[-1].shape[1]
    lanes, together = vectors(hidden, isa.lanes), -(-_SUMS // gates)
    wide = gates * together
    rows = next(n for n in range(min(batch, _ROWS), 0, -1) if batch % n == 0)
    columns = max((n for n in range(1, isa.registers) if fits(isa, n, wide, lane=isa.broadcast == "lane")), default=1)
    chunk = min(steps, max(columns, _CHUNK // columns * columns))
    first = _resets_first(node)
    tall, ahead = _ahead(isa, wide, lanes, (steps, size), gates) if rows == 1 and not first else (0, 0)
    chunk = tall or chunk
    idle = -(-isa.fma_latency * isa.fma_ports // (wide * rows))
    chains = max(1, min(idle, (isa.registers - wide - 1) // (wide * rows)))
    args = [Arg("input", "f32", extent(x)), *(Arg("weight", "f32", v.tensor.elements) for v in inputs[1:3])]
    args += [Arg("weight", "f32", sides * hidden * (gates + (node.op == "GRU" and not first)))] if bias else []
    args += [Arg("input", "f32", extent(v)) for v in views[:given]] + [Arg("output", "f32", extent(v)) for v in views[given:]]
    args.append(Arg("scratch", "f32", scratch_elements(gates, states, hidden, rows, chunk * (1 + (ahead > 0)), reset=first)))
    plan = RecurrentPlan(
        isa, tuple(args), sides * batch // rows, op=node.op, x=x, y=views[given], first=tuple(views[:given]), last=tuple(views[given + 1:]),
        hidden=hidden, widths=tuple(lanes[i:i + together] for i in range(0, len(lanes), together)), columns=columns, rows=rows, chunk=chunk,
        chains=chains, bias=bias, backward=node.attrs.get("direction", "forward") == "reverse", cell=cell,
        reset=_reset(_activations(node)[0]) if first else None, ahead=ahead)
    macs = steps * batch * sides * gates * hidden * (size + hidden)
    return replace(plan, macs=macs, bytes=traffic(args), computing=_cycles(plan))


def _ahead(isa: Isa, wide: int, lanes: Sequence[int], sizes: tuple[int, int], gates: int) -> tuple[int, int]:
    """Steps of a chunk and vectors of a tile with which the next chunk's products fit between the steps of one; (0, 0) if none do.

    `wide` vectors make a group, `lanes` are the vectors of the hidden units, `sizes` the steps of the sequence and the inputs of one.
    Registers have to hold both: sums of the next chunk's products, and as many of those with the state as hide the latency of additions.
    The 16 of AVX2 do not: what little finds room there took longer than one after the other.
    """
    (steps, size), hidden = sizes, sum(lanes)
    together, sums = wide // gates, wide * -(-isa.fma_latency * isa.fma_ports // wide)
    if isa.broadcast != "memory" or gates * hidden * hidden * 4 <= 2 * isa.l1_bytes or set(lanes) != {isa.lanes} or len(lanes) % together:
        return 0, 0
    found = []
    for vectors_of_tile in (v for v in range(1, wide + 1) if wide % v == 0):
        parts = wide // vectors_of_tile
        for chunk in range(parts, min(_TALL, steps // 2) + 1, parts):
            share, odd = divmod(size * parts, chunk)
            fits_in = chunk * vectors_of_tile + sums + vectors_of_tile + 2 <= isa.registers
            loads = (chunk + _FETCH * vectors_of_tile) / (chunk * vectors_of_tile)
            if odd or not share or hidden % share or not fits_in or hidden // share * wide + chunk * vectors_of_tile > _BODY:
                continue
            if loads <= _LOADS:
                found.append((loads, chunk, vectors_of_tile))
    return min(found)[1:] if found else (0, 0)


def _cycles(plan: RecurrentPlan) -> float:
    """The cycles of all products: those of X in tiles, those of the state with all of R read anew for each step."""
    isa, (steps, batch, size) = plan.isa, plan.x.shape
    wide, columns = plan.gates * len(plan.widths[0]), min(plan.columns, plan.steps)
    groups = steps * batch * plan.y.shape[1] * len(plan.widths)
    of_x = groups / columns * tile_cycles(isa, columns, wide, size)
    of_state = groups / plan.rows * tile_cycles(isa, plan.rows * plan.chains, wide, -(-plan.hidden // plan.chains))
    matrix = plan.gates * plan.hidden * plan.hidden * 4
    again = memory_cycles(isa, steps * plan.tasks * matrix, matrix + plan.gates * plan.hidden * size * 4)
    return max(of_x + of_state, again + again / plan.chunk) if plan.ahead else of_x + max(of_state, again)
