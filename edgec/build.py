"""The whole flow of a build, from an ONNX model to a bundle: import, passes, schedule, kernels, files."""

import hashlib
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgec import access
from edgec import calibrate as sampling
from edgec.bundle import Bundle
from edgec.codegen import c_files, fit, toolchain
from edgec.codegen.bundle import check_place, write_bundle
from edgec.codegen.npu import region as npu
from edgec.codegen.object import compile_kernels, kernel_texts, prestart, remember
from edgec.codegen.program import HOST, Copy
from edgec.codegen.schedule import Refine, Schedule, schedule
from edgec.codegen.units import unit_codes
from edgec.cost import energy
from edgec.errors import Cancelled, EdgecError, UsageError
from edgec.fitting import Fitted, Fitting
from edgec.interface import Interface, of
from edgec.ir.edit import without
from edgec.ir.graph import Array, Graph
from edgec.isa import AIMS, Isa, cpu_isa, devices
from edgec.kernels.base import KernelPlan
from edgec.lang import text
from edgec.measuring import refine
from edgec.onnx import Model, import_model
from edgec.partition import link
from edgec.pipeline import Context, Pipeline, Watch, run_passes
from edgec.samples import ranges
from edgec.target import Target, find

Progress = Callable[[str, int, int], None]
"""Hears (what is done now, steps done, steps in all); may raise Cancelled."""


@dataclass(frozen=True)
class Built:
    """Everything a build knows before files are written: the final graph, its schedule, and what the passes noted and did.

    `regions` are those that run on NPUs, with their commands.
    """

    graph: Graph
    schedule: Schedule
    target: Target
    isa: Isa
    context: Context
    regions: tuple[npu.Region, ...] = ()


def build(  # noqa: PLR0913  one keyword for each flag of the command line
    model: Model, target: str | Path = "host", output: str | Path | None = None, *, shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None, threads: int = 1,
    optimize_for: str = "speed", exact: bool = False, name: str | None = None, cc: str | None = None, jobs: int | None = None,
    cache: Path | None = None, progress: Progress | None = None, cancelled: Callable[[], bool] | None = None, watch: Watch | None = None,
    disabled: Sequence[str] = (), limit: int | None = None, notes: list[str] | None = None,
    interface: Interface | Mapping[str, Mapping[str, Any]] | None = None, rank: str | float | None = None,
    calibrate: sampling.Source | None = None, int8: bool = False, max_drop: float | None = None, min_cosine: float | None = None,
    labels: str | Path | Array | None = None, metric: str | None = None, evaluate: str | Callable[..., Any] | None = None,
    units: Sequence[str] = (), place: Mapping[str, str] | None = None, measure: float | None = None,
) -> Bundle:
    """Build a model (path, bytes, ModelProto, or the path of a textual graph) and write the bundle; returns it, opened but not loaded.

    `shapes` and `dims` bind what the model leaves open, `inputs` and `outputs` cut it. `threads` is what the bundle runs with unless told
    otherwise; code and results do not depend on it. `optimize_for` is "speed", "size", or "start": speed, with weights stored as kernels
    read them even where that makes the bundle larger. Nothing is printed: `progress` hears each step, `notes` gets sentences worth reading.
    `interface` says how callers see inputs and outputs, such as `{"x": {"type": "u8", "layout": "NHWC", "mean": (123.7, 116.3, 103.5)}}`
    (edgec/interface.py).
    `rank` makes layers low-rank: "auto", a ratio such as 2.0, or "fc1=32" (passes/factorize.py); `int8` quantizes them
    (passes/quantize.py); `calibrate` names the samples that they are fitted to (edgec/calibrate.py). With `max_drop` or `min_cosine`,
    layers stay as they are where that is needed to keep accuracy (edgec/study/budget.py): by `labels` and a `metric`, by `evaluate`, a
    function of your own (edgec/score.py), else by agreement with the unchanged model.
    `units` lists the units of the target that may be used: without the CPU among them, it runs only what the others cannot. `place` puts
    nodes on units: `{"conv1": "cpu", "layer4*": "gpu"}` (passes/partition.py). `measure` refines what the cost model chose by measuring
    kernels on this machine for at most so many seconds, and takes over what is known of them (edgec/measuring). Raises the errors of
    edgec.errors; nothing is half-written.
    """
    if optimize_for not in AIMS:
        raise UsageError(f"-O is {' or '.join(AIMS)}, not {optimize_for}")
    if threads < 1:
        raise UsageError(f"a bundle runs with at least one thread, not {threads}")
    tell = _teller(progress, cancelled)
    notes = notes if notes is not None else []
    tell("import", 0, 1)
    graph = read(model, shapes=shapes, dims=dims, inputs=inputs, outputs=outputs, static=True, notes=notes)
    name = name or (Path(model).stem if isinstance(model, str | Path) else graph.name or "model")
    machine = find(target)
    folder = Path(output) if output is not None else Path(f"{name}.{machine.name}.edgec")
    check_place(folder)
    triple = cpu_isa(machine).triple
    if threads > 1 and not toolchain.is_hosted(triple):
        raise UsageError(f"{machine.name} has no operating system and so no threads: {threads} are too many")
    chain = toolchain.find(triple, cc)  # a missing compiler is told now, not when everything else is done
    if measure is not None:
        refine.check(machine, measure)
    digest = _digest(model)
    identity = f"{digest} {machine.name}"
    prestart(identity, jobs=jobs, cache_dir=cache)
    faces = interface if isinstance(interface, Interface) else of(interface or {}, graph)
    wanted = Fitting(None if rank is None else str(rank), int8, (), calibrate, max_drop, min_cosine, labels, metric, evaluate)
    fitted = wanted.resolve(graph, machine, notes, interface=faces, optimize_for=optimize_for, progress=tell)
    made = compile_graph(graph, machine, name, progress=progress, cancelled=cancelled, watch=watch, disabled=disabled, limit=limit,
                         optimize_for=optimize_for, exact=exact, interface=faces, cache=cache, fitted=fitted, units=units,
                         place=place)
    said = list[str]()                                         # about this machine's cache: no part of the bundle
    learned: dict[str, Any] = {}
    if measure is not None:
        made, learned = _refined(made, measure, chain, cache=cache, jobs=jobs, progress=tell, note=said.append)
    fit.check(fit.uses(made.schedule.program, 0, machine.memories), machine.name)
    _tell_of_reals(made)
    with _reproducible(graph, machine, watch):
        objects = compile_kernels(made.schedule.plans, made.isa, jobs=jobs, cache_dir=cache, progress=lambda d, n, _: tell("kernels", d, n),
                                  cancelled=cancelled, note=said.append, origins=_origins(made.schedule))
        remember(identity, cache_dir=cache)
        codes = {**unit_codes(made.schedule, devices(made.target)),
                 **npu.unit_codes(made.regions, linux=toolchain.is_hosted(triple), cache=cache)}
    tell("bundle", 0, 1)
    write_bundle(folder, made.schedule.program, made.schedule.weights, objects, isa=made.isa, target=made.target.name,
                 codes=codes, target_text=made.target.text(), memories=made.target.memories, model_sha256=digest, cc=cc,
                 passes=tuple(dict.fromkeys(s for s, _ in made.context.times)),
                 options={"threads": threads, "optimize_for": optimize_for, "exact": exact, "dims": dict(dims or {}),
                          "shapes": {k: list(v) for k, v in (shapes or {}).items()},
                          "inputs": list(inputs or ()), "outputs": list(outputs or ()), **fitted.options(), **placing(units, place)},
                 extra={"notes": [*notes, *made.context.notes], "report": report(made), "npus": npu.facts(made.regions),
                        "input_ranges": ranges(graph), **faces.facts(), **made.context.facts, **fitted.facts, **learned})
    notes += [*made.context.notes, *said]
    tell("bundle", 1, 1)
    return Bundle(folder)


def read(
    model: Model, *, shapes: Mapping[str, Sequence[int]] | None = None, dims: Mapping[str, int] | None = None,
    inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None, static: bool = False, notes: list[str] | None = None,
) -> Graph:
    """The graph of a model, or of a textual graph (`*.edge`), which is taken as it is."""
    if isinstance(model, str | Path) and Path(model).suffix == ".edge":
        if shapes or dims or inputs or outputs:
            raise UsageError(f"{model} is a graph as text, which is taken as it is: shapes, dims, inputs and outputs belong to ONNX models")
        return text.load(model)
    return import_model(model, shapes=shapes, dims=dims, inputs=inputs or (), outputs=outputs or (), static=static, notes=notes)


def compile_graph(  # noqa: PLR0913  one keyword for each flag of the command line
    graph: Graph, target: str | Path | Target, name: str, *, progress: Progress | None = None, cancelled: Callable[[], bool] | None = None,
    watch: Watch | None = None, disabled: Sequence[str] = (), limit: int | None = None, optimize_for: str = "speed",
    exact: bool = False, interface: Interface | None = None, cache: Path | None = None, fitted: Fitted | None = None,
    units: Sequence[str] = (), place: Mapping[str, str] | None = None,
) -> Built:
    """All passes and the schedule: everything but machine code."""
    machine = target if isinstance(target, Target) else find(target)
    asked = fitted or Fitted()
    wishing = _wishing(machine, exact=exact, optimize_for=optimize_for)
    context = Context(wishing, frozenset(disabled), limit, samples=asked.samples)
    tell = _teller(progress, cancelled)
    passes = access.module("passes.catalog")
    watch = watch or Watch()
    told = Watch(watch.verify, watch.dump, watch.stop_after, watch.crashes, lambda step: tell(step, 0, 1))
    steps = passes.pipeline(asked.rank, interface.options() if interface else None, placing(units, place), int8=asked.int8,
                            keep=asked.keep)
    final = run_passes(graph, steps, passes.CATALOG, context, told)
    isa = cpu_isa(wishing)
    tell("schedule", 0, 1)
    with _reproducible(graph, machine, watch):
        others = devices(machine)
        final, regions = npu.compile_regions(final, others, cache=cache, note=context.note)
        made = schedule(final, isa, re.sub(r"\W", "_", name), lambda origins: _cut(graph, origins), others)
    return Built(final, made, machine, isa, context, regions)


def _refined(
    made: Built, seconds: float, chain: toolchain.ToolChain, *, cache: Path | None, jobs: int | None, progress: Progress,
    note: Callable[[str], None],
) -> tuple[Built, dict[str, Any]]:
    """A build with those kernels that were found to be faster on this machine, and what the manifest tells of it."""
    def planned(choose: Refine) -> Schedule:
        return schedule(made.graph, made.isa, made.schedule.program.name, units=devices(made.target), refine=choose)

    known, program = refine.Refinement(made.isa, cache=cache, note=note), made.schedule.program
    planned(known.hear)
    if known.measure(seconds, program.weights_bytes + program.prepared_bytes, chain, jobs=jobs, progress=progress):
        made = replace(made, schedule=planned(known.take))
    return made, known.facts()


def _wishing(machine: Target, *, exact: bool, optimize_for: str) -> Target:
    """The target whose CPU has the facts that a user asks kernels to keep to, for passes that ask what kernels cost."""
    facts: dict[str, Any] = {**({"optimize": optimize_for} if optimize_for != AIMS[0] else {}), **({"exact": True} if exact else {})}
    if not facts:
        return machine
    cpu = machine.cpu
    return replace(machine, units={**machine.units, cpu.name: replace(cpu, facts={**cpu.facts, **facts})})


def placing(units: Sequence[str] = (), place: Mapping[str, str] | None = None) -> dict[str, str]:
    """The options of the pass partition for units that may be used and nodes that have a place."""
    said = {"units": ",".join(units), "place": ",".join(f"{node}={unit}" for node, unit in (place or {}).items())}
    return {name: text for name, text in said.items() if text}


def _cut(graph: Graph, origins: Collection[str]) -> str:
    """How to build the model without the nodes of these origins."""
    parts = {part for origin in origins for part in origin.split("+")}
    edge = without(graph, [n for n in graph.nodes if n.origin in parts])
    return f"\n--outputs {','.join(edge)} cuts them off" if edge else ""


def sources(made: Built, *, jobs: int | None = None, array: bool | None = None) -> dict[str, bytes]:
    """A model for a core without vectors (`target.scalar`) as files of C99; see edgec/codegen/c_files.py.

    `array` says whether the weights are C, too; unless it is given, up to a megabyte of them. DoesNotFit as for a bundle, as far as the
    size of code is not needed to know it.
    """
    program = made.schedule.program
    fit.check(fit.uses(program, 0, made.target.memories), made.target.name)
    if array is None:
        array = program.weights_bytes <= c_files.ARRAY_BYTES
    with _reproducible(made.graph, made.target, None):
        kernels = kernel_texts(made.schedule.plans, made.isa, "c", jobs=jobs)
        return c_files.files(program, made.schedule.weights, kernels, f"{made.target.name}, as C for any compiler", array=array)


def optimize(graph: Graph, target: str | Path | None = None, passes: Pipeline | None = None, *,
             calibrate: sampling.Source | None = None) -> Graph:
    """The graph after a pipeline: the default one for a target, else the one that needs none, unless `passes` says which.

    `calibrate` names the samples of passes that fit something to them: `optimize(g, passes="canonicalize,quantize{int8=true}",
    calibrate="x.npz")`.
    """
    known = access.module("passes.catalog")
    pipeline = passes if passes is not None else known.DEFAULT if target is not None else known.PORTABLE
    samples = sampling.load(calibrate, graph.inputs).feeds if calibrate is not None else ()
    return run_passes(graph, pipeline, known.CATALOG, Context(find(target) if target is not None else None, samples=samples))


def report(made: Built) -> dict[str, Any]:
    """Figures of a build that need no run: operations, predicted time, sparsity of the weights, energy.

    The time is that of one core, and of each other unit and the copies to it where there are some, one after the other.
    The energy counts weights and interface once from DRAM, what kernels read and write from on-chip memory, and the multiply-accumulates.
    """
    program = made.schedule.program
    called = [program.kernels[s.kernel] for s in program.calls]
    macs, moved = sum(k.macs for k in called), sum(k.bytes for k in called)
    outside = program.weights_bytes + sum(program.buffers[p.buffer].bytes for p in (*program.inputs, *program.outputs))
    weights = [a for a in made.graph.weights.values() if a.dtype.kind in "fiu"]
    whole = sum(program.kernels[s.kernel].macs for s in program.calls if _multiplies_bytes(made.schedule.plan(s.kernel)))
    total, zeros = sum(a.size for a in weights), sum(int((a == 0).sum()) for a in weights)
    ms = _times(made)
    return {"kernels": len(called), "macs": macs, "predicted_ms": sum(ms.values()), **({"units_ms": ms} if len(ms) > 1 else {}),
            "integer_macs": whole, "weight_sparsity": zeros / total if total else 0.0,
            "energy": asdict(energy(macs, outside, "f32", sram=moved))}


def _tell_of_reals(made: Built) -> None:
    """Note how much of a model a core computes in reals that has no instructions for them."""
    figures = report(made)
    reals = figures["macs"] - figures["integer_macs"]
    if reals and made.isa.fact("fpu", default=True) is False:
        share = f"{reals / figures['macs']:.0%}"
        made.context.note(f"{made.target.name} has no instructions for reals: {share} of the multiply-accumulates take routines, "
                          "which are many times slower than predicted; --int8 --calibrate SAMPLES makes integers of them")


def _multiplies_bytes(plan: KernelPlan) -> bool:
    return bool(plan.macs) and plan.args[0].dtype in ("i8", "u8")


def _times(made: Built) -> dict[str, float]:
    """The predicted milliseconds of kernels on each unit, and of copies between their memories."""
    program, target = made.schedule.program, made.target
    ms = {HOST: 0.0}
    for k in (program.kernels[s.kernel] for s in program.calls):
        ms[k.unit] = ms.get(k.unit, 0.0) + k.cycles / made.isa.clock_hz * 1e3
    for step in program.steps:
        if isinstance(step, Copy):
            ms["copies"] = ms.get("copies", 0.0) + link(target, target.units[step.unit]).out(step.bytes) / 1e3
    return ms


@contextmanager
def _reproducible(graph: Graph, target: Target, watch: Watch | None) -> Iterator[None]:
    """Leave a file behind that shows it again when something goes wrong that no user can do anything about."""
    try:
        yield
    except Exception as error:
        if isinstance(error, EdgecError) and type(error) is not EdgecError:
            raise
        folder = (watch.crashes if watch else None) or Path(tempfile.gettempdir())
        path = folder / f"edgec-crash-{hashlib.sha256(f'{graph.name} {error}'.encode()).hexdigest()[:8]}.edge"
        what = str(error) if isinstance(error, EdgecError) else f"the build crashed with {type(error).__name__}: {error}"
        text.save_whole(graph, path, f"; {what.splitlines()[0]}\n; target: {target.name}\n")
        raise EdgecError(f"{what}; {path} shows it again: edgec build {path} --target {target.name}") from error


def _origins(made: Schedule) -> dict[str, str]:
    return {s.kernel: s.origin for s in reversed(made.program.calls)}


def _teller(progress: Progress | None, cancelled: Callable[[], bool] | None) -> Progress:
    def tell(step: str, done: int, total: int) -> None:
        if cancelled is not None and cancelled():
            raise Cancelled("the build was cancelled")
        if progress is not None:
            progress(step, done, total)
    return tell


def _digest(model: Model) -> str:
    if isinstance(model, str | Path):
        return hashlib.sha256(Path(model).read_bytes()).hexdigest()
    return hashlib.sha256(model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)).hexdigest()
