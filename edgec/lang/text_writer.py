"""The graph as text."""

from collections.abc import Iterator, Mapping

import numpy as np

from edgec.ir.graph import Array, Graph, Node, Value, captured
from edgec.ir.types import Map, Optional, Sequence, Tensor, Type, dtype_name
from edgec.lang.text_data import inline, scalar
from edgec.lang.text_types import quoted, show_type, word

VERSION = 1
_RESERVED = frozenset({"splat", "dense", "random", "blob"})
_PLAIN = frozenset("./-_")


def show(graph: Graph, blobs: dict[str, Array] | None = None) -> str:
    """The text of a graph. Big tensors go to `blobs` under a number, and the text names them; TypeError names what has no text."""
    return _Writer(graph, {} if blobs is None else blobs).text()


class _Writer:
    def __init__(self, graph: Graph, blobs: dict[str, Array]) -> None:
        self.root, self.blobs = graph, blobs
        self.keys = {id(array): key for key, array in blobs.items()}
        self.titles: dict[int, str] = {id(graph): _bare(graph.name)}
        self.waiting: list[tuple[Graph, Mapping[Value, str]]] = [(graph, {})]

    def text(self) -> str:
        parts = [f"edge {VERSION}\n"]
        for graph, outer in self.waiting:  # bodies are appended while their graph is written
            parts += ["\n".join(self.graph(graph, outer)) + "\n"]
        return "\n".join(parts)

    def graph(self, graph: Graph, outer: Mapping[Value, str]) -> Iterator[str]:
        names = _names(graph, outer)

        def typed(value: Value) -> str:
            name = names.get(value, "_")
            return f"{name}: {show_type(value.type)}" if value.type else name

        title = self.titles[id(graph)]
        name = f" {quoted(graph.name)}" if _bare(graph.name) != title else ""
        where = ", ".join(f"{low} <= {word(symbol)} <= {high}" for symbol, (low, high) in graph.bounds.items())
        yield f"graph @{title}{name}({', '.join(map(typed, graph.inputs))}){f' where {where}' if where else ''} {{"
        for value, array in graph.weights.items():
            yield f"  {typed(value)} = {self.constant(array, value.type)}"
        for node in graph.nodes:
            yield f"  {', '.join(map(typed, node.outputs)) or '()'} = {self.made(node, names)}"
        yield f"  return {', '.join(names[v] for v in graph.outputs)}".rstrip()
        yield "}"

    def made(self, node: Node, names: Mapping[Value, str]) -> str:
        line = f"{quoted(node.op) if node.op in _RESERVED else word(node.op)}({', '.join(names[v] if v else '_' for v in node.inputs)})"
        if node.attrs:
            try:
                line += " {" + ", ".join(f"{word(k)}={self.literal(a, names)}" for k, a in node.attrs.items()) + "}"
            except TypeError as error:
                raise TypeError(f"an attribute of {node.label} cannot be printed: {error}") from None
        line += f" on {word(node.device)}" if node.device is not None else ""
        return line + (f" at {quoted(node.origin)}" if node.origin else "")

    def literal(self, value: object, names: Mapping[Value, str]) -> str:
        match value:
            case Graph():
                return f"@{self.body(value, names)}"
            case list() | tuple():
                return "[" + ", ".join(self.literal(v, names) for v in value) + "]"
            case np.ndarray():
                kind = Tensor(dtype_name(value.dtype), value.shape)
                return f"tensor {show_type(kind)} {self.constant(value, kind)}"
            case Tensor() | Sequence() | Optional() | Map():
                return f"type {show_type(value)}"
        return scalar(value)

    def body(self, graph: Graph, names: Mapping[Value, str]) -> str:
        """The title of a body, a number; one that stands in several places is written once."""
        if id(graph) not in self.titles:
            number = len(self.titles)
            self.titles[id(graph)] = next(t for t in (str(number), str(-number)) if t != self.titles[id(self.root)])
            self.waiting.append((graph, names))
        return self.titles[id(graph)]

    def constant(self, array: Array, kind: Type | None) -> str:
        if isinstance(kind, Tensor) and kind.is_static and kind.dims == array.shape and kind.dtype == dtype_name(array.dtype):
            text = inline(array, kind.dtype)
            if text is not None:
                return text
        if id(array) not in self.keys:
            number = len(self.blobs)
            while str(number) in self.blobs:
                number += 1
            self.keys[id(array)] = str(number)
            self.blobs[str(number)] = array
        return f"blob {quoted(self.keys[id(array)])}"


def _names(graph: Graph, outer: Mapping[Value, str]) -> dict[Value, str]:
    """A name for every value that a graph makes or reads, no two the same; inputs and outputs keep theirs if they can.

    A body may use the names of outer values that it does not read: most names need no change then. Outputs of nodes that have no
    name and no reader get none.
    """
    reads = captured(graph)
    names = {v: outer[v] for v in reads if v in outer}
    used, next_number = set(names.values()), dict[str, int]()
    made = (v for n in graph.nodes for v in n.outputs if v.name or graph.uses(v))
    for value in (*graph.inputs, *graph.outputs, *graph.weights, *made, *reads):
        if value in names:
            continue
        name, i = f"%{_bare(value.name)}", next_number.get(value.name, 1)
        while name in used:
            i += 1
            name = f"%{_bare(f'{value.name}.{i}')}"
        next_number[value.name] = i
        used.add(name)
        names[value] = name
    return names


def _bare(name: str) -> str:
    """A name behind its % or @: in quotes unless it is made of letters, digits and ./-_ only."""
    return name if name and all(c in _PLAIN or c.isalnum() for c in name) else quoted(name)
