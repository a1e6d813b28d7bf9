"""Small graphs for tests of passes, and what a pipeline makes of them."""

from edgec.access import files, module
from edgec.ir.graph import Array, Graph
from edgec.lang.text import parse, show
from edgec.pipeline import Context, run_passes
from edgec.testing import check_meaning

catalog, rulebook = module("passes.catalog"), module("passes.changes.rulebook")


def graph(inputs: str, *statements: str, returns: str = "%y") -> Graph:
    return parse(f"graph @g({inputs}) {{\n" + "\n".join(statements) + f"\nreturn {returns}\n}}")


def ops(made: Graph) -> str:
    """The operators in order, `Relu Add`."""
    return " ".join(n.op for n in made.nodes)


def apply(pipeline: str, given: Graph) -> Graph:
    """The graph after a pipeline in which no file of rules takes part: what rules do has tests of its own."""
    rules = frozenset(r.name for path in files("passes", "*.rules") for r in rulebook.rules(path.name))
    return run_passes(given, pipeline, catalog.CATALOG, Context(disabled=rules))


def becomes(given: Graph, pipeline: str, expected: str, tolerance: float = 1e-4) -> Graph:
    """The graph after a pipeline, which has these operators, means the same, and stays as it is when the pipeline runs again."""
    made = apply(pipeline, given)
    assert ops(made) == expected, show(made)
    check_meaning(given, made, tolerance)
    assert apply(pipeline, made) is made
    return made


def numbers(made: Graph, name: str = "y") -> Array:
    """The weight that a result of the graph names."""
    node = next(n for n in made.nodes if n.outputs[0].name == name)
    assert node.op == "Identity"
    assert node.inputs[0] is not None
    return made.weights[node.inputs[0]]
