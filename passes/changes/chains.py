"""Which depthwise convolutions become one kernel with the convolutions around them.

Those that are predicted to be faster that way; then those whose tensors make the arena as large as it is, as long as that costs next to
nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from edgec.codegen.place import Places
from edgec.ir.edit import prune, splice
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import dtype_bits
from edgec.isa import Device, Isa
from edgec.kernels.base import KernelPlan, Operands, Planned
from edgec.kernels.plan import plan, unknown
from edgec.kernels.plan_separable import KIND, is_dense, is_depthwise, is_pointwise, slower
from edgec.pipeline import Context

_SLOWER = 0.01          # of the predicted time of a net, what a smaller arena may cost
_PLACES = (("before", "behind"), ("behind",), ("before",))
Made = dict[Node, list[Node]]


@dataclass(frozen=True)
class Option:
    """Kernels that could be one, `whole`, of the nodes of `region`; that one takes `more` cycles than they do (fewer where negative)."""

    depth: Node
    kernels: tuple[Node, ...]
    region: tuple[Node, ...]
    whole: Node
    plan: KernelPlan
    more: float


@dataclass
class Chains:
    """What a clustering tells: its kernels by node, their nodes, root first, and how to make a kernel of nodes."""

    graph: Graph
    isa: Isa
    units: Mapping[str, Device]
    operands: Operands
    context: Context
    taken: dict[Node, Node]
    regions: dict[Node, list[Node]]
    kernel: Callable[[Sequence[Node], str], Node]
    options: list[Option] = field(default_factory=list)
    reasons: dict[Node, list[str]] = field(default_factory=dict)
    _plans: dict[Node, Planned | str] = field(default_factory=dict)

    def run(self, made: Made) -> None:
        """Put kernels together, in `made` and in the clustering."""
        for depth in [n for n in self.graph.nodes if n in self.taken and is_depthwise(n)]:
            self.options += self._options(depth)
        for option in sorted(self.options, key=lambda o: o.more):      # two of them may want the same 1x1 convolution: who gains more
            if option.more < 0 and self._apart(option) and self.context.may(KIND):
                self._take(option, made)
        if any(self._apart(o) for o in self.options) and not any(unknown(n) for n in self.graph.nodes):
            self._shrink(made)

    def _take(self, option: Option, made: Made) -> None:
        self.context.did(KIND, option.depth)
        self.regions[option.whole] = list(option.region)
        self.taken.update(dict.fromkeys(option.region, option.whole))
        self._plans[option.whole] = Planned(option.plan, ())
        made.update(_replaced(option, self.graph))

    def _apart(self, option: Option) -> bool:
        """Whether the kernels of an option still are what they were."""
        return all(self.taken[self.regions[k][0]] is k for k in option.kernels)

    def _options(self, depth: Node) -> list[Option]:
        """Each way to put the kernel of a depthwise convolution together with its neighbors, and for each that is not faster the reason."""
        alone = self.taken[depth]
        source = self.graph.producer.get(depth.inputs[0]) if depth.inputs[0] is not None else None
        readers = self.graph.consumers.get(alone.outputs[0], ())
        near = {"before": self._kernel(source, is_dense), "behind": self._kernel(readers[0] if readers else None, is_pointwise)}
        if near["before"] is not None and not self._joins(near["before"], depth):
            near["before"] = None
        if near["behind"] is not None and not self._joins(alone, self.regions[near["behind"]][0]):
            near["behind"] = None
        made: list[Option] = []
        for places in _PLACES:
            kernels = [k for name in places if (k := near[name]) is not None]
            if len(kernels) < len(places):
                continue
            chain = tuple(k for k in (near["before"], alone, near["behind"]) if k is not None and (k is alone or k in kernels))
            region = tuple(n for k in chain for n in self.regions[k])
            whole = self.kernel(region, KIND)
            planned, apart = plan(whole, self.isa, self.operands), [self._plan(k) for k in chain]
            if (reason := slower(self.isa, planned, apart)) is not None:
                others = " and ".join(self.regions[k][0].label for k in chain if k is not alone)
                self.reasons.setdefault(depth, []).append(f"not in one kernel with {others}: {reason}")
            if not isinstance(planned, str):
                before = sum(p.plan.cycles for p in apart if not isinstance(p, str))
                made.append(Option(depth, chain, region, whole, planned.plan, planned.plan.cycles - before))
        return made

    def _kernel(self, node: Node | None, such: Callable[[Node], bool]) -> Node | None:
        """The kernel of such a convolution, or of the arithmetic that follows it; None for any other."""
        kernel = self.taken.get(node) if node is not None else None
        return kernel if kernel is not None and kernel.attrs["kind"] == "conv" and such(self.regions[kernel][0]) else None

    def _joins(self, kernel: Node, reader: Node) -> bool:
        """Whether the convolution `reader` alone reads what a kernel makes, as its data, on the same unit, which is the CPU."""
        value, root = kernel.outputs[0], self.regions[kernel][0]
        return (self.graph.consumers.get(value, ()) == (reader,) and reader.inputs[0] is value and value not in self.graph.outputs
                and root.device == reader.device and root.device not in self.units)

    def _plan(self, kernel: Node) -> Planned | str:
        """The plan of a kernel of images, remembered."""
        if kernel not in self._plans:
            self._plans[kernel] = plan(kernel, self.units.get(kernel.device or "", self.isa), self.operands)
        return self._plans[kernel]

    def _shrink(self, made: Made) -> None:
        """Put together what the largest moment of the arena is made of, as long as that makes it smaller and the budget lasts."""
        budget, chosen, useful = inf, list[Option](), 0
        if self.isa.fact("optimize") != "size":
            budget = _SLOWER * sum(p.plan.cycles for k in set(self.taken.values()) if not isinstance(p := self._plan(k), str))
        now = self._demand(made, chosen)
        least = now.size[0]
        while True:
            gone = {k for o in chosen for k in o.kernels}
            found: list[tuple[tuple[int, int], float, int, _Demand]] = []
            for number, option in enumerate(self.options):
                if option.more <= budget and self._apart(option) and gone.isdisjoint(option.kernels) and any(
                        k.outputs[0] in now.busy for k in option.kernels):
                    then = self._demand(made, [*chosen, option])
                    if then.size < now.size:
                        found.append((then.size, option.more, number, then))
            if not found:
                break
            *_, number, now = min(found, key=lambda f: f[:3])
            chosen.append(self.options[number])
            budget -= chosen[-1].more
            if now.size[0] < least:                                    # before that, there was another moment that is as large
                least, useful = now.size[0], len(chosen)
        for option in chosen[:useful]:
            if self.context.may(KIND):
                self._take(option, made)

    def _demand(self, made: Made, chosen: Sequence[Option]) -> "_Demand":
        """What the arena needs at its largest moment in the graph of these kernels, once those of the options are put together."""
        made, plans = dict(made), {o.whole.outputs[0]: o.plan for o in chosen}
        for option in chosen:
            made.update(_replaced(option, self.graph))
        graph = prune(splice(self.graph, made))
        places = Places(graph)
        border = {*graph.inputs, *graph.outputs, *graph.weights}
        life: dict[Value, tuple[int, int]] = {}
        alive = [0] * len(graph.nodes)
        for i, node in enumerate(graph.nodes):
            for root in {places[v].root for v in (*node.inputs, *node.outputs) if v is not None} - border:
                life[root] = life.get(root, (i, i))[0], i
            planned = plans.get(node.outputs[0]) or self._of(node)
            if planned is not None:
                alive[i] = planned.tasks * sum(a.elements * dtype_bits(a.dtype) // 8 for a in planned.args if a.role == "scratch")
        for root, (first, last) in life.items():
            for i in range(first, last + 1):
                alive[i] += root.tensor.bytes
        most = max(alive, default=0)
        largest = [n for n, size in zip(graph.nodes, alive, strict=True) if size == most]
        return _Demand((most, len(largest)), frozenset(v for n in largest for v in n.outputs))

    def _of(self, node: Node) -> KernelPlan | None:
        """The plan of a kernel of this clustering, None of anything else."""
        planned = self._plan(node) if node in self.regions else None
        return None if planned is None or isinstance(planned, str) else planned.plan


@dataclass(frozen=True)
class _Demand:
    """`size`: the bytes of the largest moment, and how many steps have it; `busy`: what these steps make."""

    size: tuple[int, int]
    busy: frozenset[Value]


def _replaced(option: Option, graph: Graph) -> Made:
    """The nodes of an option, and what stands for them: the kernel where the last of them stood."""
    region = set(option.region)
    last = next(n for n in reversed(graph.nodes) if n in region)
    return {n: [option.whole] if n is last else [] for n in option.region}
