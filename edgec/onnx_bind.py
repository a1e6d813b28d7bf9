"""Shapes of a model's inputs: symbols and shapes that the user gives, the batch that becomes 1, and what is still open."""

import difflib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgec.errors import BadInput
from edgec.ir import types
from edgec.ir.dims import Dim, symbol, symbols
from edgec.ir.dims import bind as bound
from edgec.ir.edit import retype
from edgec.ir.graph import Graph, Value
from edgec.ir.types import Tensor, Type


def bind(graph: Graph, shapes: Mapping[str, Sequence[int]], dims: Mapping[str, int], *, static: bool, notes: list[str]) -> Graph:
    """The graph whose inputs have the shapes given; dims without a name get one, `INPUT_dim0`.

    With `static` an unbound leading batch symbol becomes 1, which `notes` then say. BadInput names inputs and symbols that do not
    exist, shapes that do not fit, and with `static` every symbol that is still open with the flag that binds it.
    """
    nameless, graph = _named(graph)
    inputs = {v.name: v for v in graph.inputs}
    for name in shapes:
        if name not in inputs:
            raise BadInput(f"--shape names {name!r}, which is no input{_close(name, inputs)}")
    values = _values(graph, dims)
    override = {inputs[name]: _shaped(inputs[name], shape, values) for name, shape in shapes.items()}
    if static:
        values |= _batch(graph, override, values, notes)
    known = {s for v in graph.inputs if isinstance(v.type, Tensor) for d in v.type.shape or () if d is not None for s in symbols(d)}
    declared = any(_contradicts(v.type, override[v]) for v in override)
    everything = {v for g in _graphs(graph) for v in (*g.inputs, *g.outputs, *(o for n in g.nodes for o in n.outputs))}
    changed: dict[Value, Type | None] = dict(override)
    for value in everything - override.keys():
        kind = _with_dims(value.type, values)
        if value not in graph.inputs:
            kind = _of_inputs(kind, known)
        if declared and value not in graph.inputs:  # what the model says about inner shapes is about the declared input shape
            kind = Tensor(kind.dtype, None) if isinstance(kind, Tensor) else kind
        if kind != value.type:
            changed[value] = kind
    graph = retype(graph, changed)[0] if changed else graph
    if static:
        _refuse_open(graph, nameless)
    return graph


def _graphs(graph: Graph) -> list[Graph]:
    return [graph, *(inner for n in graph.nodes for _, b in n.bodies for inner in _graphs(b))]


def _close(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, 1) or list(known)[:8]
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _named(graph: Graph) -> tuple[dict[str, str], Graph]:
    """Names for dims of inputs of which nothing is known, with the input that each belongs to."""
    nameless: dict[str, str] = {}
    changed: dict[Value, Type | None] = {}
    for value in graph.inputs:
        if isinstance(value.type, Tensor) and value.type.shape is not None and None in value.type.shape:
            made: list[Dim] = []
            for i, d in enumerate(value.type.shape):
                made.append(symbol(f"{value.name}_dim{i}") if d is None else d)
                if d is None:
                    nameless[f"{value.name}_dim{i}"] = value.name
            changed[value] = replace(value.type, shape=tuple(made))
    return nameless, retype(graph, changed)[0] if changed else graph


def _values(graph: Graph, dims: Mapping[str, int]) -> dict[str, int]:
    known = {s: 0 for v in graph.inputs if isinstance(v.type, Tensor) for d in v.type.shape or () if d is not None for s in symbols(d)}
    for name, size in dims.items():
        if name not in known:
            raise BadInput(f"--dim names {name!r}, which is no symbol of the model's inputs{_close(name, known)}")
        if size < 1:
            raise BadInput(f"--dim {name}={size}: a dim must be at least 1")
    return dict(dims)


def _shaped(value: Value, shape: Sequence[int], values: dict[str, int]) -> Tensor:
    """The input's type with the shape given; the symbols that it settles are added to `values`."""
    flag = f"--shape {value.name}={','.join(map(str, shape))}"
    if not isinstance(value.type, Tensor):
        raise BadInput(f"{flag}: this input is no tensor")
    if any(d < 0 for d in shape):
        raise BadInput(f"{flag}: a dim must not be negative")
    declared = value.type.shape
    if declared is not None and len(declared) != len(shape):
        raise BadInput(f"{flag}: the input has {len(declared)} axes, {_text(declared)}, not {len(shape)}")
    for want, size in zip(declared or (), shape, strict=False):
        if want is not None and not isinstance(want, int) and str(want).strip("'") in symbols(want):
            name = next(iter(symbols(want)))
            if values.setdefault(name, size) != size:
                raise BadInput(f"{flag}: the symbol {name} is {values[name]} elsewhere, and here it would be {size}")
    return replace(value.type, shape=tuple(shape))


def _text(shape: Sequence[Dim | None]) -> str:
    return "[" + ",".join("?" if d is None else str(d) for d in shape) + "]"


def _contradicts(old: Type | None, new: Type | None) -> bool:
    if not isinstance(old, Tensor) or not isinstance(new, Tensor) or old.shape is None or new.shape is None:
        return False
    return any(isinstance(a, int) and a != b for a, b in zip(old.shape, new.shape, strict=True))


def _with_dims(kind: Type | None, values: Mapping[str, int]) -> Type | None:
    match kind:
        case Tensor(shape=tuple(shape)):
            return replace(kind, shape=tuple(None if d is None else bound(d, values) for d in shape))
        case types.Sequence(element=element):
            return types.Sequence(_with_dims(element, values) or element)
        case types.Optional(element=element):
            return types.Optional(_with_dims(element, values) or element)
    return kind


def _of_inputs(kind: Type | None, known: set[str]) -> Type | None:
    """The type without names of dims that no input has: they say nothing."""
    match kind:
        case Tensor(shape=tuple(shape)):
            return replace(kind, shape=tuple(d if d is None or symbols(d) <= known else None for d in shape))
        case types.Sequence(element=element):
            return types.Sequence(_of_inputs(element, known) or element)
        case types.Optional(element=element):
            return types.Optional(_of_inputs(element, known) or element)
    return kind


def _batch(graph: Graph, override: Mapping[Value, Type], values: Mapping[str, int], notes: list[str]) -> dict[str, int]:
    """The leading symbols of inputs with more axes than one: all 1, with one note."""
    leading = [v.type.shape[0] for v in graph.inputs
               if v not in override and isinstance(v.type, Tensor) and v.type.shape is not None and len(v.type.shape) > 1]
    names = {next(iter(symbols(d))): None for d in leading if d is not None and not isinstance(d, int) and len(symbols(d)) == 1}
    names = {n: None for n in names if n not in values and symbol(n) in leading}
    if names:
        flags = " ".join(shlex.quote(f"--dim={n}=N") if " " in n else f"--dim {shlex.quote(f'{n}=N')}" for n in names)
        notes.append(f"batch size 1: {', '.join(names)} {'is' if len(names) == 1 else 'are'} not bound ({flags} changes that)")
    return dict.fromkeys(names, 1)


def _refuse_open(graph: Graph, nameless: Mapping[str, str]) -> None:
    """BadInput for the symbols that are still open, all at once."""
    flags: dict[str, None] = {}
    names: dict[str, None] = {}
    for value in graph.inputs:
        if not isinstance(value.type, Tensor):
            continue
        if value.type.shape is None:
            names[f"all of {value.name}"] = None
            flags[f"--shape {shlex.quote(f'{value.name}=N,…')}"] = None
            continue
        for d in value.type.shape:
            for name in sorted(symbols(d)) if d is not None else ():
                names[name] = None
                shape = ",".join("N" if not isinstance(x, int) else str(x) for x in value.type.shape)
                flags[f"--shape {shlex.quote(f'{value.name}={shape}')}" if name in nameless else f"--dim {shlex.quote(f'{name}=N')}"] = None
    if names:
        raise BadInput(f"the size of {', '.join(names)} is not known: add {' '.join(flags)}")
