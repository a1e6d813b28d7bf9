"""What is wrong with a graph, in words."""

from edgec.ir.graph import REGIONS, Graph, Value


def verify(graph: Graph, outer: frozenset[Value] = frozenset()) -> list[str]:
    """What is wrong with a graph, one sentence each; empty when nothing is."""
    wrong: list[str] = []
    known = set(outer)
    for value in (*graph.inputs, *graph.weights):
        if value in known:
            wrong.append(f"{value} is defined a second time")
        known.add(value)
    for value, array in graph.weights.items():
        if value.type is not None and value.tensor.is_static and tuple(array.shape) != value.dims:
            wrong.append(f"the weight {value} has shape {list(array.shape)}, its type says {list(value.dims)}")
    names: dict[str, Value] = {}
    for node in graph.nodes:
        wrong += [f"{node.label} reads {v} before it is made" for v in node.inputs if v is not None and v not in known]
        for key, body in node.bodies:
            wrong += [f"in {key} of {node.label}: {w}" for w in verify(body, frozenset() if node.op in REGIONS else frozenset(known))]
        for value in node.outputs:
            if value in known:
                wrong.append(f"{node.label} makes {value} a second time")
            known.add(value)
    wrong += [f"the graph returns {v}, which nobody makes" for v in graph.outputs if v not in known]
    for value in (*graph.inputs, *graph.outputs):
        if names.setdefault(value.name, value) is not value:
            wrong.append(f"two values of the interface are called {value.name}")
    return wrong
