"""The study of a model as it comes from a file: import, canonical form, samples, and the time of a whole build."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgec import access
from edgec import calibrate as sampling
from edgec.build import compile_graph, read, report
from edgec.calibrate import Samples
from edgec.ir.graph import Graph
from edgec.ir.types import numpy_dtype
from edgec.onnx import Model
from edgec.pipeline import Context, run_passes
from edgec.samples import draw, ranges
from edgec.session import Port
from edgec.study.edits import EDITS
from edgec.study.study import Progress, Study, study
from edgec.target import find

DRAWN = 32
"""Random inputs that are drawn where there are no samples."""


def examine(  # noqa: PLR0913  one keyword for each flag of the command line
    model: Model, target: str | Path = "host", *, shapes: Mapping[str, Sequence[int]] | None = None, dims: Mapping[str, int] | None = None,
    inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None, calibrate: sampling.Source | None = None,
    edits: Sequence[str] = tuple(EDITS), seed: int = 0, progress: Progress | None = None,
) -> Study:
    """The study of a model for a target, on samples (edgec/calibrate.py) or else on random inputs, of which a warning tells."""
    if progress is not None:
        progress("import", 0, 1)
    graph = read(model, shapes=shapes, dims=dims, inputs=inputs, outputs=outputs, static=True)
    machine, known = find(target), access.module("passes.catalog")
    found = drawn(graph, seed) if calibrate is None else sampling.load(calibrate, graph.inputs)
    name = Path(model).stem if isinstance(model, str | Path) else graph.name
    whole = compile_graph(graph, machine, name or "model", progress=progress)
    plain = run_passes(graph, known.PORTABLE, known.CATALOG, Context(machine))
    made = study(plain, machine, found.feeds, model=name, count=found.count, edits=[EDITS[e] for e in edits], warnings=found.warnings,
                 progress=progress)
    return replace(made, total_us=report(whole)["predicted_ms"] * 1e3)


def drawn(graph: Graph, seed: int) -> Samples:
    """Random inputs with low frequencies, as images and sounds have, and a warning."""
    ports = [Port(v.name, v.dims, np.dtype(numpy_dtype(v.tensor.dtype))) for v in graph.inputs]
    feeds = tuple(draw(ports, 1000 * abs(seed) + i, ranges(graph)) for i in range(DRAWN))
    warning = (f"there are no samples, so {DRAWN} random inputs stand for them (seed {seed}): what is predicted of real ones may be wrong; "
               "give --calibrate")
    return Samples(feeds, DRAWN, (warning,))
