"""Models whose nodes are put on units by hand, built and run: nothing but kernels, copies and drivers takes part."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgec import access
from edgec.build import read, report
from edgec.bundle import Bundle
from edgec.codegen.bundle import write_bundle
from edgec.codegen.object import compile_kernels
from edgec.codegen.schedule import Schedule, schedule
from edgec.codegen.units import unit_codes
from edgec.ir.graph import Graph, Node
from edgec.isa import cpu_isa, devices
from edgec.pipeline import Context, run_passes
from edgec.samples import ranges
from edgec.target import find

KERNELS = "promote,canonicalize,cluster,layout"
Where = Callable[[int, Node], str | None]


def split(model: Any, where: Where, target: str) -> tuple[Graph, Schedule]:
    """The graph of kernels and the schedule of a model, each of whose nodes (by number) runs where it is told."""
    known, machine = access.module("passes.catalog"), find(target)
    context = Context(machine)
    graph = run_passes(read(model, static=True), known.PORTABLE, known.CATALOG, context)
    placed = replace(graph, nodes=tuple(replace(n, device=where(i, n)) for i, n in enumerate(graph.nodes)))
    final = run_passes(placed, KERNELS, known.CATALOG, context)
    return final, schedule(final, cpu_isa(machine), "split", units=devices(machine))


def build(model: Any, where: Where, folder: Path, target: str = "desktop-opencl") -> Bundle:
    """The bundle of such a model."""
    machine = find(target)
    final, made = split(model, where, target)
    isa = cpu_isa(machine)
    objects = compile_kernels(made.plans, isa)
    from edgec.build import Built  # noqa: PLC0415
    facts = {"notes": [], "report": report(Built(final, made, machine, isa, Context(machine))), "input_ranges": ranges(final)}
    path = write_bundle(folder / "split.edgec", made.program, made.weights, objects, isa=isa, target=target, target_text=machine.text(),
                        options={"threads": 1}, extra=facts, codes=unit_codes(made, devices(machine)))
    return Bundle(path)


def error(found: dict[str, Any], wanted: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest deviation over the spread of the reference between two inputs."""
    return max(float(np.abs(found[k] - wanted[k]).max() / np.abs(wanted[k] - other[k]).max()) for k in wanted)
