"""Layouts, and copies between them, where kernels disagree: what all of them cost together, at its least.

Where every tensor has the layout that its kernels want there is nothing to weigh. A kernel whose operands and result run along different
axes (LRN: a pooling along channels between maps of blocked images) walks through some of them element by element. It may be cheaper to copy
one of them, once for all that read it so, or to let another kernel write its result otherwise. The kernels around such places are planned
with each layout that is found there; all else keeps its layout.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from math import inf, prod

from edgec.codegen.place import VIEW_OPS, Places
from edgec.ir.edit import Namer, retype, splice
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import Layout, View
from edgec.isa import Isa
from edgec.kernels.base import Operands
from edgec.kernels.plan import copy, plan
from edgec.layouts import Problem, Read, Work, solve

_KEYS = 64              # combinations of layouts that one kernel is planned with; where there would be more, its operands are not copied
_LARGE = 4096           # elements from which on a tensor may be worth a copy
_GAIN = 0.999           # of what all kernels take: less is no reason for copies


def settle(graph: Graph, isa: Isa) -> Graph:
    """The graph with other layouts and with copies where that is cheaper in all, else the same graph.

    Nodes on units beside the CPU, and tensors that share memory with others (concatenations, slices), stay as they are. Copies take memory,
    so there are none where size counts more, or without vectors: on a microcontroller.
    """
    if isa.fact("optimize") == "size" or isa.lanes == 1:
        return graph
    question = _Question(graph, isa)
    if not question.works:
        return graph
    made = question.answered()
    return made if made is not graph and cycles(made, isa) < _GAIN * cycles(graph, isa) else graph


def cycles(graph: Graph, isa: Isa) -> float:
    """What all kernels of the CPU and all copies are predicted to take, one after the other."""
    places, total = Places(graph), 0.0
    operands = Operands.of(graph.weights, lambda v: places[v].view)
    for node in graph.nodes:
        if node.op in VIEW_OPS or node.op == "Concat":
            moves = (copy(m.source, m.read.view, m.write.view, isa) for m in places.copied.get(node, ()))
            total += sum(m.plan.cycles for m in moves if not isinstance(m, str))
        elif node.device is None and any(v.tensor.elements for v in node.outputs):
            made = plan(node, isa, operands)
            total += made.plan.cycles if not isinstance(made, str) else 0.0
    return total


class _Question:
    """The places where kernels disagree.

    `layouts`: those that a tensor may have, its present one first; `copies`: those into which it may be copied.
    """

    def __init__(self, graph: Graph, isa: Isa) -> None:
        self.graph, self.isa, self.places = graph, isa, Places(graph)
        self.operands = Operands.of(graph.weights, lambda v: self.places[v].view)
        self.layouts: dict[Value, list[Layout | None]] = {}
        self.copies: dict[Value, list[Layout | None]] = {}
        self.known: dict[object, dict[tuple[int, ...], float]] = {}
        kernels = [n for n in graph.nodes if self._is_kernel(n)]
        for node in kernels:
            self._open(node)
        self.works = [n for n in kernels if any(v in self.copies or self._root(v) in self.layouts for v in self._reads(n))
                      or n.outputs[0] in self.layouts]

    def answered(self) -> Graph:
        """The graph with the layouts and copies of the cheapest answer."""
        roots = list(dict.fromkeys(v for n in self.works for v in (*map(self._root, self._reads(n)), n.outputs[0])))
        reads = list(dict.fromkeys(v for n in self.works for v in self._reads(n)))
        tensor, number = {v: i for i, v in enumerate(roots)}, {v: i for i, v in enumerate(reads)}
        problem = Problem(
            tuple(len(self.layouts.get(v, (None,))) for v in roots), tuple(Read(tensor[self._root(v)], self._copying(v)) for v in reads),
            tuple(Work(tuple(number[v] for v in self._reads(n)), (tensor[n.outputs[0]],), self._prices(n)) for n in self.works))
        now = [(0,) * (len(w.reads) + 1) for w in problem.works]
        if any(key not in w.price for w, key in zip(problem.works, now, strict=True)):
            return self.graph                                          # a node without a kernel, of which the schedule tells
        found = solve(problem)
        if found.price >= problem.price([0] * len(roots), now):
            return self.graph
        types = {v: replace(v.tensor, layout=self.layouts[v][k]) for v, k in zip(roots, found.layouts, strict=True) if k}
        copied: dict[tuple[Value, int], Value] = {}
        made: dict[Node, list[Node]] = {}
        name = Namer(self.graph)
        for node, key in zip(self.works, found.keys, strict=True):
            before, instead = list[Node](), dict[Value, Value]()
            for v, k in zip(self._reads(node), key, strict=False):
                at = k - len(self.layouts.get(self._root(v), (None,)))
                if at >= 0:
                    if (v, at) not in copied:
                        copied[v, at] = Value(name(f"{v.name}.copy"), replace(v.tensor, layout=self.copies[v][at]))
                        before.append(Node("edgec.Reorder", (v,), (copied[v, at],), origin=node.origin))
                    instead[v] = copied[v, at]
            if instead:
                made[node] = [*before, replace(node, inputs=tuple(v and instead.get(v, v) for v in node.inputs))]
        graph = splice(self.graph, made) if made else self.graph
        return retype(graph, types)[0] if types else graph

    # What there is to choose from

    def _is_kernel(self, node: Node) -> bool:
        return (node.op not in VIEW_OPS and node.op not in ("Concat", "edgec.Region") and node.device is None and len(node.outputs) == 1
                and node.outputs[0].tensor.elements > 0)

    def _reads(self, node: Node) -> list[Value]:
        """The tensors beside weights that a kernel reads."""
        return [v for v in dict.fromkeys(node.inputs) if v is not None and v.tensor.elements and self._root(v) not in self.graph.weights]

    def _root(self, value: Value) -> Value:
        return self.places[value].root

    def _open(self, node: Node) -> None:
        """Where large tensors of one shape run along different axes of a kernel, each may have the layout of another, or a copy with it."""
        out = node.outputs[0]
        alike = [v for v in self._reads(node) if v.dims == out.dims and v.tensor.elements >= _LARGE]
        if len({_inner(self.places[v].view) for v in (*alike, out)}) < 2:                             # noqa: PLR2004
            return
        seen = list(dict.fromkeys(_layout(self.places[v].view) for v in (*alike, out)))
        for v in (*alike, out):
            root = self._root(v)
            if root is v and self._free(v):
                known = self.layouts.setdefault(v, [v.tensor.layout])
                known += [x for x in seen if x is not _STRANGE and x not in known]
            if v is not out:
                known = self.copies.setdefault(v, [])
                known += [x for x in seen if x is not _STRANGE and x != _layout(self.places[v].view) and x not in known]

    def _free(self, value: Value) -> bool:
        """Whether a kernel makes a tensor whose memory only kernels read, as it is or through views that need no copy."""
        maker = self.graph.producer.get(value)
        if maker is None or not self._is_kernel(maker):
            return False
        waiting = [value]
        while waiting:
            v = waiting.pop()
            if v in self.graph.outputs:
                return False
            for reader in self.graph.consumers.get(v, ()):
                if reader.op in VIEW_OPS and reader not in self.places.copied and reader.op != "edgec.Reorder":
                    waiting += reader.outputs
                elif not self._is_kernel(reader):
                    return False
        return True

    # What it costs

    def _view(self, value: Value, layout: Layout | None) -> View | None:
        """How a value is seen when the tensor behind it has a layout; None when strides cannot say it."""
        root = self._root(value)
        if root not in self.layouts or layout == root.tensor.layout:
            return self.places[value].view
        chain, at = list[Node](), value
        while at is not root:
            chain.append(self.graph.producer[at])
            source = chain[-1].inputs[0]
            if source is None:
                return None
            at = source
        other = Value(root.name, replace(root.tensor, layout=layout))
        nodes = [replace(n, inputs=(other if n.inputs[0] is root else n.inputs[0], *n.inputs[1:])) for n in reversed(chain)]
        known = {v: self.graph.weights[v] for n in chain for v in n.inputs if v is not None and v in self.graph.weights}
        places = Places(Graph("views", (), (), (Node("edgec.Source", (), (other,)), *nodes), known))
        return places[value if chain else other].view if not places.copied else None

    def _copying(self, value: Value) -> tuple[tuple[float, ...], ...]:
        """Cycles of a copy, for each layout of the tensor behind a value in each that it may be copied into."""
        table = []
        for layout in self.layouts.get(self._root(value), [None]):
            view, row = self._view(value, layout), []
            for into in self.copies.get(value, ()):
                made = copy(value, view, View.of(value.dims, into), self.isa) if view is not None else ""
                row.append(inf if isinstance(made, str) else made.plan.cycles)
            table.append(tuple(row))
        return tuple(table)

    def _prices(self, node: Node) -> dict[tuple[int, ...], float]:
        """Cycles of a kernel by what it reads and writes; see `Work`."""
        reads, out = self._reads(node), node.outputs[0]
        options: list[list[View | None]] = [[self._view(v, x) for x in self.layouts.get(self._root(v), [None])] for v in reads]
        written = [View.of(out.dims, x) for x in self.layouts[out]] if out in self.layouts else [self.places[out].view]
        copied = [[View.of(v.dims, x) for x in self.copies.get(v, ())] for v in reads]
        if prod(len(o) + len(c) for o, c in zip(options, copied, strict=True)) * len(written) <= _KEYS:
            options = [[*o, *c] for o, c in zip(options, copied, strict=True)]
        present = plan(node, self.isa, self.operands)
        same = (present if isinstance(present, str) else present.plan, [reads.index(v) if v in reads else -1 for v in node.inputs],
                [self._root(v) for v in reads] if len(set(map(self._root, reads))) < len(reads) else [], options, written)
        made = self.known.get(repr(same))                              # nets repeat their blocks
        if made is None:
            made = self.known[repr(same)] = self._planned(node, reads, options, written)
        return made

    def _planned(
        self, node: Node, reads: list[Value], options: list[list[View | None]], written: list[View],
    ) -> dict[tuple[int, ...], float]:
        """Cycles of a kernel for each combination of views."""
        made: dict[tuple[int, ...], float] = {}
        for key in product(*(range(len(o)) for o in options), range(len(written))):
            views = {v: o[k] for v, o, k in zip(reads, options, key, strict=False)} | {node.outputs[0]: written[key[-1]]}
            if self._agree(reads, key) and all(v is not None for v in views.values()):
                answer = plan(node, self.isa, replace(self.operands, view=partial(self._given, views)))
                if not isinstance(answer, str):
                    made[key] = answer.plan.cycles
        return made

    def _agree(self, reads: list[Value], key: tuple[int, ...]) -> bool:
        """Whether a key says one thing of each tensor: two views of it may be read."""
        said: dict[Value, int] = {}
        return all(said.setdefault(self._root(v), k) == k for v, k in zip(reads, key, strict=False)
                   if k < len(self.layouts.get(self._root(v), (None,))))

    def _given(self, views: Mapping[Value, View | None], value: Value) -> View:
        return views.get(value) or self.places[value].view


_STRANGE = Layout(())   # stands for a view that is no layout of a whole tensor


def _inner(view: View) -> int:
    """The axis along which a view lies element by element; -1 where there is none, or more than one that could be."""
    axes = [i for i, a in enumerate(view.axes) if a.extent > 1 and (a.inner if a.block else a.stride) == 1]
    return axes[0] if len(axes) == 1 else -1


def _layout(view: View) -> Layout | None:
    """The layout of a whole tensor that lies as a view says."""
    rank = len(view.axes)
    blocks = tuple((i, a.block) for i, a in enumerate(view.axes) if a.block)
    order = tuple(sorted(range(rank), key=lambda i: (-view.axes[i].stride, i)))
    made = Layout(order, blocks)
    for known in (None, made):
        if View.of(view.shape, known) == view:
            return known
    return _STRANGE
