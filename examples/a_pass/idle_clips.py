"""Two passes of one's own: one in Python, one made of rules. `python idle_clips.py MODEL.onnx` shows what they find in a model."""

import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path

import edgec
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.sweep import Sweep, sweep
from edgec.pipeline import Context, Pass
from edgec.rules.apply import rewrite
from edgec.rules.check import load_files

RANGES = {"Sigmoid": (0, 1), "HardSigmoid": (0, 1), "Softmax": (0, 1), "Tanh": (-1, 1), "Erf": (-1, 1), "Relu": (0, inf), "Abs": (0, inf)}


def drop_idle_clip(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Clip behind an operator whose results lie in its range anyway."""
    source, maker = node.inputs[0], edit.producer(node.inputs[0])
    if source is None or maker is None or maker.op not in RANGES:
        return None
    low, high = RANGES[maker.op]
    lower, upper = (edit.constant(node.input(i)) for i in (1, 2))
    if (node.input(1) is not None and (lower is None or lower > low)) or (node.input(2) is not None and (upper is None or upper < high)):
        return None
    return [source] if edit.may_forward(node.output, source) else None


def run_idle_clips(graph: Graph, context: Context) -> Graph:
    """The graph without Clips that cut nothing."""
    return sweep(graph, {"Clip": (drop_idle_clip,)}, context)


def run_own_rules(graph: Graph, context: Context) -> Graph:
    """The graph in which no rule of own.rules holds any more."""
    return rewrite(graph, load_files([Path(__file__).with_name("own.rules")]), context.may, context.did)


IDLE_CLIPS = Pass("idle-clips", "Clips that cut nothing go.", run_idle_clips, after={"fold": "the bounds have to be known"})
OWN_RULES = Pass("own-rules", "Algebra of our own.", run_own_rules)


def main() -> None:
    """Print how many nodes the passes leave of a model."""
    graph = edgec.import_onnx(sys.argv[1])
    made = edgec.optimize(graph, passes=["canonicalize", "fold", IDLE_CLIPS, OWN_RULES, "cse"])
    print(f"{len(graph.nodes)} nodes, {len(made.nodes)} of them left")


if __name__ == "__main__":
    main()
