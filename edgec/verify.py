"""Whether a bundle computes what its model says: outputs against a reference, and kernel by kernel against the evaluator."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec import access, peers
from edgec.build import Built, compile_graph, read
from edgec.bundle import Bundle
from edgec.codegen.manifest import calls
from edgec.codegen.place import Place, Places
from edgec.errors import BadInput
from edgec.interface import recorded
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph, Value
from edgec.ir.layout import View
from edgec.ir.types import Tensor, numpy_dtype
from edgec.pipeline import run_passes
from edgec.session import Step
from edgec.target import from_text
from edgec.testing.numeric import deviation, equal, is_exact, largest

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Reference = Callable[[Feeds], Mapping[str, Array]]
TOLERANCE, WINOGRAD = 1e-4, 1e-3
WHOLE = ", convolutions as QLinearConv"
"""What is said of a reference that computes with integers."""
_CHANGED = {"rank", "int8"}
"""Options that make other layers than the model has, fitted to samples that a bundle does not keep."""
_LEAST_SPREAD = 0.01
_ROUNDINGS = 2


@dataclass(frozen=True)
class Agreement:
    """How well one output agrees: `error` is the deviation over the reference's spread, None where that is no check; `why` it fails."""

    name: str
    error: float | None
    tolerance: float
    why: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.why


def agreement(name: str, got: Sequence[Array], reference: Sequence[Array], tolerance: float = TOLERANCE) -> Agreement:
    """Compare one output on several inputs: error = max|y - ref| / max|ref(x1) - ref(x2)|, of whichever two inputs differ most.

    Where the reference hardly changes (by under 1 % of its largest number) that is no check, and only a deviation beyond `tolerance`
    of the largest number speaks against it. Integers, truth values and strings have to be equal. Numbers that are returned in half
    precision may also be off by their own rounding.
    """
    for y, ref in zip(got, reference, strict=True):
        if y.shape != ref.shape or y.dtype != ref.dtype:
            return Agreement(name, None, tolerance, f"is {y.dtype}{list(y.shape)}, the reference {ref.dtype}{list(ref.shape)}")
    if is_exact(reference[0]):
        same = all(equal(y, ref) for y, ref in zip(got, reference, strict=True))
        return Agreement(name, 0.0, 0.0) if same else Agreement(name, None, 0.0, "has other elements than the reference")
    worst = max(deviation(y, ref) for y, ref in zip(got, reference, strict=True))
    spread = max((deviation(a, b, finite=True) for i, a in enumerate(reference) for b in reference[:i]), default=0.0)
    size = max(map(largest, reference))
    if not spread or spread < _LEAST_SPREAD * size:
        wrong = worst > tolerance * size
        return Agreement(name, None, tolerance, f"is off by {worst:.3g}, and hardly changes with the inputs" if wrong else "")
    allowed = max(tolerance, _ROUNDINGS * _resolution(reference[0]) * size / spread)
    error = worst / spread
    return Agreement(name, error, allowed, "" if error <= allowed else f"is off by {error:.3g} of its spread, {allowed:.3g} is allowed")


def _resolution(array: Array) -> float:
    narrow = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
    return narrow.get(array.dtype.name, 0.0)


def reference(bundle: Bundle, model: str | Path) -> tuple[Reference, str]:
    """What a model should compute, by ONNX Runtime when that is installed, else by edgec's evaluator in numpy; and which of the two it is.

    A bundle whose NPU is simulated is compared with its own graph, in numpy with the rounding of that NPU, which no other runtime has.
    BadInput when the model's outputs are not those of the bundle.
    """
    if bundle.manifest.get("npus") and not _CHANGED & bundle.manifest["options"].keys():
        rounded = _rebuilt(bundle, model).graph
        return (lambda feeds: evaluate(rounded, feeds)), "edgec's evaluator in numpy, with the rounding of the NPU"
    return plain_reference(bundle, model)


def plain_reference(bundle: Bundle, model: str | Path) -> tuple[Reference, str]:
    """The same without a look at how units round."""
    graph = source(bundle, model)
    names = [p["name"] for p in bundle.manifest["outputs"]]
    if [v.name for v in graph.outputs] != names:
        raise BadInput(f"{model} has the outputs {', '.join(v.name for v in graph.outputs)}, and {bundle.path} has {', '.join(names)}")
    if not peers.is_installed("onnxruntime"):
        who = "edgec's evaluator in numpy, because onnxruntime is not installed"
        return outside(bundle, graph, lambda feeds: evaluate(graph, feeds)), who
    whole = integer_form(graph)
    peer = peers.reference(onnx_model(bundle, model) if whole is None else bytes(whole.to_onnx().SerializeToString()))
    who = f"onnxruntime {peer.version}{'' if whole is None else WHOLE}"
    return outside(bundle, graph, peer.run), ", ".join(filter(None, (who, peer.remark)))


def integer_form(graph: Graph) -> Graph | None:
    """A quantized graph in the form that ONNX Runtime computes with integers throughout; None when it is not quantized."""
    if not any(n.op.rpartition(".")[2] in ("QuantizeLinear", "QLinearConv") for n in graph.nodes):
        return None
    known = access.module("passes.catalog")
    formed = run_passes(graph, known.PORTABLE, known.CATALOG)
    whole: Graph = access.module("passes.changes.qlinear_form").qlinear(formed)
    return None if whole is formed else whole


def outside(bundle: Bundle, graph: Graph, run: Reference) -> Reference:
    """A reference that is called like the bundle: what its interface does to inputs and outputs is done around `run`."""
    interface = recorded(bundle.manifest)
    return (lambda feeds: interface.deliver(run(interface.prepare(feeds, graph.inputs)))) if interface else run


def onnx_model(bundle: Bundle, model: str | Path) -> Path | bytes:
    """What another runtime should load: the model's own file, or what edgec exports when the bundle holds a part or other shapes of it."""
    options = bundle.manifest["options"]
    is_cut = options.get("inputs") or options.get("outputs")
    if Path(model).suffix == ".edge" or is_cut or (options.get("shapes") and _reshaped(bundle, model)):
        return bytes(source(bundle, model).to_onnx().SerializeToString())
    return Path(model)


def _reshaped(bundle: Bundle, model: str | Path) -> bool:
    """Whether the bundle has numbers for shapes where the model has other numbers."""
    shapes = {p["name"]: p["shape"] for p in bundle.manifest["inputs"]}
    return any(isinstance(have, int) and have != want
               for v in read(model).inputs for have, want in zip(v.tensor.shape or (), shapes[v.name], strict=False))


def source(bundle: Bundle, model: str | Path) -> Graph:
    """The graph that a bundle was built from: the model, bound and cut as the manifest says."""
    options = bundle.manifest["options"]
    return read(model, shapes=options.get("shapes"), dims=options.get("dims"), inputs=options.get("inputs") or (),
                        outputs=options.get("outputs") or (), static=True)


# Kernel by kernel


@dataclass(frozen=True)
class KernelError:
    """How far what one step left in memory is from the evaluator's value of the same name."""

    number: int
    kernel: str
    origin: str
    agreement: Agreement


def tolerance_of(bundle: Bundle) -> float:
    """The largest error that a bundle may have: more where convolutions by Winograd's method round more."""
    kernels = bundle.manifest["kernels"].values()
    return WINOGRAD if any(k["algo"].startswith("winograd") for k in kernels) else TOLERANCE


def per_kernel(bundle: Bundle, model: str | Path, feeds: Sequence[Feeds], tolerance: float = TOLERANCE,
               **where: Any) -> Iterator[KernelError]:
    """Run step by step and compare what each leaves in memory; the first that is not ok is where a difference starts.

    The graph of kernels is made once more, from the model and what the manifest says about target and options. BadInput when that
    does not give the bundle's own steps: another model, or another version of edgec. `where` are keywords of Bundle.load.
    """
    made = _rebuilt(bundle, model)
    values = {v.name: v for n in made.graph.nodes for v in n.outputs}
    steps = bundle.manifest["steps"]
    last = {call["result"]: i for i, call in enumerate(steps) if "kernel" in call}
    wanted = [v for name in last if isinstance((v := values[name]).type, Tensor)]
    expected = [evaluate(replace(made.graph, outputs=tuple(wanted)), f) for f in feeds]
    places = Places(made.graph)
    simulate = bool(bundle.manifest.get("npus"))
    runs = [bundle.load(poison=True, simulate_npu=simulate, **where).steps(f) for f in feeds]  # one each: a process holds one run
    for now in zip(*runs, strict=True):
        step = now[0]
        name = step.call["result"]
        if last.get(name) == step.number:
            got = [_read(s, values[name], places[values[name]]) for s in now]
            found = agreement(name, got, [e[name] for e in expected], tolerance)
            yield KernelError(step.number, step.call["kernel"], step.call["origin"], found)


def _rebuilt(bundle: Bundle, model: str | Path) -> Built:
    manifest = bundle.manifest
    options = manifest["options"]
    if fitted := f"--rank {options['rank']}" if "rank" in options else "--int8" if "int8" in options else "":
        raise BadInput(f"{bundle.path} was built with {fitted}: its kernels are not those of the model, "
                       "so only its outputs can be compared")
    machine = from_text(manifest["target"]["text"], name=manifest["target"]["name"])
    made = compile_graph(source(bundle, model), machine, manifest["name"], optimize_for=manifest["options"]["optimize_for"],
                         exact=options["exact"], interface=recorded(manifest), units=[u for u in options.get("units", "").split(",") if u],
                         place=dict(p.rsplit("=", 1) for p in options.get("place", "").split(",") if p))
    ours = [(s.result, s.tasks, [(o.buffer, o.offset) for o in s.operands]) for s in made.schedule.program.calls]
    if ours != [(s["result"], s["tasks"], [(o["buffer"], o["offset"]) for o in s["operands"]]) for s in calls(manifest)]:
        raise BadInput(f"{bundle.path} was not made from {model} by this version of edgec ({manifest['tools']['edgec']} made it): "
                       "build it again to look at its kernels")
    return made


def _read(step: Step, value: Value, place: Place) -> Array:
    """The value that a step has just written, in its logical shape."""
    buffer = step.buffers[next(o["buffer"] for o in step.call["operands"] if o["write"])]
    read = step.memory.read(buffer["region"], buffer["offset"], buffer["bytes"], buffer["unit"])
    memory = np.frombuffer(read, numpy_dtype(value.tensor.dtype))
    return np.asarray(memory[_offsets(place.view) + place.offset])


def _offsets(view: View) -> npt.NDArray[np.int64]:
    """Where each element of a view lies, counted from its base."""
    made = np.zeros((), np.int64)
    for axis in view.axes:
        made = made[..., None] + np.array([axis.at(i) for i in range(axis.extent)], np.int64)
    return made
