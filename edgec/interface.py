"""How callers see the inputs and outputs of a model: other types, channels last, pixels as a camera gives them.

What a model reads is (x - mean) * scale, where x is what the caller gives, brought to the model's own order of axes and of channels first:
the mean and the scale of a channel stand at that channel's place in the model. Models are taken to have their channels on axis 1, as
ONNX has them; means, scales and swaps are also right for models that have them last.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from edgec.errors import BadInput, UsageError
from edgec.ir.graph import Array, Graph, Value
from edgec.ir.types import Tensor, numpy_dtype

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
FLAGS = {"input_type": "type", "input_layout": "layout", "mean": "mean", "scale": "scale", "swap_channels": "swap_channels",
         "output_type": "type", "output_layout": "layout"}
"""Flags of the command line, which are the options of the pass too, and the key that each sets."""
_LAYOUTS = ("NCHW", "NHWC")
_COLORS = 3
_NEAR = 0.25            # how far from a whole number one may be that was one before it was rounded to f16
_FLOATS = ("f16", "f32", "f64", "bf16")
_WHOLE = ("u8", "i8", "u16", "i16")
_INPUT = dict.fromkeys(_FLOATS, (*_WHOLE, "f16", "f32")) | {"i64": (*_WHOLE, "i32"), "i32": _WHOLE}
_OUTPUT = dict.fromkeys(_FLOATS, ("f16", "f32")) | {"i64": ("i32",)}


@dataclass(frozen=True)
class Outside:
    """One input or output as a caller sees it; what is None or empty is as in the model. Outputs have type and layout alone."""

    type: str | None = None
    layout: str | None = None
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    swap_channels: bool = False

    def facts(self) -> dict[str, Any]:
        """What is said, as JSON has it."""
        said = {"type": self.type, "layout": self.layout, "mean": list(self.mean), "scale": list(self.scale),
                "swap_channels": self.swap_channels}
        return {k: v for k, v in said.items() if v}

    def tensor(self, own: Tensor) -> Tensor:
        """The type that the caller sees of a tensor whose own type this is."""
        shape = own.shape
        if self.layout == "NHWC" and shape is not None:
            shape = tuple(shape[i] for i in TO_LAST)
        return Tensor(self.type or own.dtype, shape)


@dataclass(frozen=True)
class Interface:
    """What is asked of a model's inputs and outputs, by name."""

    inputs: Mapping[str, Outside] = field(default_factory=dict)
    outputs: Mapping[str, Outside] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)

    def options(self) -> dict[str, str]:
        """The options of the pass: flag by flag, as `read` takes them."""
        made: dict[str, list[str]] = {}
        for side, faces in (("input", self.inputs), ("output", self.outputs)):
            for name, face in faces.items():
                for key, value in face.facts().items():
                    flag = f"{side}_{key}" if key in ("type", "layout") else key
                    text = name if value is True else f"{name}={value if isinstance(value, str) else ','.join(map(repr, value))}"
                    made.setdefault(flag, []).append(text)
        return {flag: ";".join(texts) for flag, texts in made.items()}

    def facts(self) -> dict[str, Any]:
        """What the manifest says, which `recorded` reads."""
        return {key: {n: f.facts() for n, f in faces.items()}
                for key, faces in (("preprocessing", self.inputs), ("postprocessing", self.outputs))}

    def check(self, graph: Graph) -> None:
        """UsageError, naming the input or output, for what a graph does not have or cannot be given."""
        for what, faces, values, types in (("input", self.inputs, graph.inputs, _INPUT), ("output", self.outputs, graph.outputs, _OUTPUT)):
            known = {v.name: v for v in values}
            for name, face in faces.items():
                if name not in known:
                    raise UsageError(f"the model has no {what} {name}{_meant(name, known)}; it has {', '.join(known)}")
                _check(f"the {what} {name}", known[name], face, types)
        made = {v for n in graph.nodes for v in n.outputs}
        for v in graph.outputs:
            if (v.name in self.outputs or v.name in self.inputs) and v not in made:
                raise UsageError(f"the output {v.name} is made by no node, so nothing can be between it and its caller")

    def prepare(self, feeds: Mapping[str, Array], inputs: Iterable[Value]) -> dict[str, Array]:
        """What the model itself reads when a caller gives these arrays."""
        made = dict(feeds)
        for value in inputs:
            face = self.inputs.get(value.name)
            if face is not None and value.name in feeds:
                made[value.name] = _prepared(feeds[value.name], face, value.tensor)
        return made

    def outside(self, inputs: Iterable[Value]) -> tuple[Value, ...]:
        """The inputs of a model as callers see them."""
        return tuple(Value(v.name, f.tensor(v.tensor)) if (f := self.inputs.get(v.name)) is not None else v for v in inputs)

    def restore(self, feeds: Mapping[str, Array], inputs: Iterable[Value]) -> dict[str, Array]:
        """What a caller gives so that the model itself reads these arrays: `prepare` backwards.

        BadInput when a number that the model should read stands for none that the caller's type has.
        """
        made = dict(feeds)
        for value in inputs:
            face = self.inputs.get(value.name)
            if face is not None and value.name in feeds:
                made[value.name] = _restored(feeds[value.name], face, value)
        return made

    def deliver(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """What a caller gets when the model itself makes these arrays."""
        made = dict(outputs)
        for name, face in self.outputs.items():
            with np.errstate(over="ignore"):  # what is too large for f16 is infinite there
                y = outputs[name] if face.type is None else outputs[name].astype(numpy_dtype(face.type))
            made[name] = y.transpose(TO_LAST) if face.layout == "NHWC" else y
        return made


def read(options: Mapping[str, str | Sequence[str]]) -> Interface:
    """An interface from texts by flag, `{"input_type": ["x=u8"], "swap_channels": ["x"]}`, or with semicolons; UsageError otherwise."""
    sides: dict[str, dict[str, dict[str, Any]]] = {"input": {}, "output": {}}
    for flag, key in FLAGS.items():
        given = options.get(flag, ())
        for text in filter(None, given.split(";") if isinstance(given, str) else given):
            name, sign, value = text.rpartition("=") if key != "swap_channels" else (text, "=", "")
            written = f"--{flag.replace('_', '-')} {text}"
            if not (name and sign):
                raise UsageError(f"{written}: write NAME={'1.5,2,2.5' if key in ('mean', 'scale') else text}")
            face = sides["output" if flag.startswith("output") else "input"].setdefault(name, {})
            if key in face:
                raise UsageError(f"{written}: this is said twice about {name}")
            face[key] = True if key == "swap_channels" else _numbers(value, written) if key in ("mean", "scale") else value
    return Interface(*({n: Outside(**f) for n, f in faces.items()} for faces in sides.values()))


def of(said: Mapping[str, Mapping[str, Any]], graph: Graph) -> Interface:
    """An interface from `{"x": {"type": "u8", "layout": "NHWC", "mean": …, "scale": …, "swap_channels": True}, "y": {"type": "f16"}}`."""
    outputs = {v.name for v in graph.outputs}
    sides: tuple[dict[str, Outside], dict[str, Outside]] = ({}, {})
    known = list(dict.fromkeys(v.name for v in (*graph.inputs, *graph.outputs)))
    for name, facts in said.items():
        if name not in known:
            raise UsageError(f"the model has no input or output {name}{_meant(name, known)}; it has {', '.join(known)}")
        keys = ("type", "layout") if name in outputs else tuple(Outside.__dataclass_fields__)
        for key in facts:
            if key not in keys:
                raise UsageError(f"nothing called {key} can be said about {name}{_meant(key, keys)}; it has {', '.join(keys)}")
        sides[name in outputs][name] = _outside(facts)
    return Interface(*sides)


def recorded(manifest: Mapping[str, Any]) -> Interface:
    """The interface that a bundle was built with."""
    return Interface(*({n: _outside(f) for n, f in manifest.get(key, {}).items()} for key in ("preprocessing", "postprocessing")))


def channel_axis(shape: Sequence[Any], count: int) -> int | None:
    """The axis of `count` channels: 1, else the last one; None when neither has so many. One number for all needs no axis: 1, or 0."""
    if count == 1:
        return min(1, len(shape) - 1)
    return next((a for a in (1, len(shape) - 1) if 0 < a < len(shape) and shape[a] == count), None)


def column(numbers: Sequence[float], rank: int, axis: int) -> Array:
    """Numbers of the channels as an array f64 that broadcasts over a tensor."""
    if len(numbers) == 1:
        return np.array(numbers[0], np.float64)
    return np.array(numbers, np.float64).reshape([-1 if i == axis else 1 for i in range(rank)])


def _outside(facts: Mapping[str, Any]) -> Outside:
    def numbers(key: str) -> tuple[float, ...]:
        given = facts.get(key, ())
        try:
            return tuple(float(v) for v in (given if isinstance(given, Iterable) else (given,)))
        except (TypeError, ValueError):
            raise UsageError(f"{key} is {given!r}, and numbers are wanted") from None

    return Outside(facts.get("type"), facts.get("layout"), numbers("mean"), numbers("scale"), bool(facts.get("swap_channels", False)))


def _check(where: str, value: Value, face: Outside, types: Mapping[str, tuple[str, ...]]) -> None:
    own = value.type
    if not isinstance(own, Tensor) or own.shape is None:
        raise UsageError(f"{where} is no tensor of known rank, so its interface stays as it is")
    shown = f"{own.dtype}[{','.join(map(str, own.shape))}]"
    possible = tuple(dict.fromkeys((own.dtype, *types.get(own.dtype, ()))))
    if face.type is not None and face.type not in possible:
        raise UsageError(f"{where} is {shown} and cannot be {face.type}; it can be {', '.join(possible)}")
    if face.layout is not None and face.layout not in _LAYOUTS:
        raise UsageError(f"{where} cannot have the layout {face.layout}; there are {' and '.join(_LAYOUTS)}")
    if face.layout is not None and len(own.shape) != len(TO_LAST):
        raise UsageError(f"{where} is {shown}, and a layout belongs to four axes")
    if face.layout == "NHWC" and types is _INPUT and own.shape[3] in (1, 3, 4) and own.shape[1] not in (1, 3, 4):
        raise UsageError(f"{where} is {shown} and has its channels last already, so leave its layout out")
    for what, numbers in (("mean", face.mean), ("scale", face.scale)):
        if not all(map(isfinite, numbers)):
            raise UsageError(f"the {what} of {where} must be finite numbers")
        if numbers and own.dtype not in _FLOATS:
            raise UsageError(f"{where} is {shown}, and a {what} belongs to floating point")
        if numbers and channel_axis(own.shape, len(numbers)) is None:
            raise UsageError(f"{where} is {shown}, which has no {len(numbers)} channels for the {what}")
    if face.swap_channels and channel_axis(own.shape, _COLORS) is None:
        raise UsageError(f"{where} is {shown}, which has no {_COLORS} channels to swap")


def swap_axis(shape: Sequence[Any]) -> int:
    """The axis of the three colors; ValueError when there is none."""
    axis = channel_axis(shape, _COLORS)
    if axis is None:
        raise ValueError(f"{list(shape)} has no colors")
    return axis


def _prepared(x: Array, face: Outside, own: Tensor) -> Array:
    if face.layout == "NHWC":
        x = x.transpose(TO_FIRST)
    if face.swap_channels:
        x = np.flip(x, swap_axis(x.shape))
    if face.mean or face.scale:
        wide = np.float64 if own.dtype == "f64" else np.float32
        x = x.astype(wide)
        for numbers, apply in ((face.mean, np.subtract), (face.scale, np.multiply)):
            if numbers:
                x = apply(x, column(numbers, x.ndim, channel_axis(x.shape, len(numbers)) or 0).astype(wide))
    return np.ascontiguousarray(x.astype(numpy_dtype(own.dtype)))


def _restored(x: Array, face: Outside, own: Value) -> Array:
    seen = numpy_dtype(face.tensor(own.tensor).dtype)
    made = x
    for numbers, apply in ((face.scale, np.divide), (face.mean, np.add)):
        if numbers:
            made = apply(made, column(numbers, made.ndim, channel_axis(made.shape, len(numbers)) or 0))
    if face.swap_channels:
        made = np.flip(made, swap_axis(made.shape))
    if face.layout == "NHWC":
        made = made.transpose(TO_LAST)
    if seen.kind in "iu":
        whole, kind = np.rint(made), np.iinfo(seen)
        if not (np.abs(made - whole) <= _NEAR).all() or whole.min(initial=0) < kind.min or whole.max(initial=0) > kind.max:
            raise BadInput(f"the input {own.name} would have numbers from {made.min():.6g} to {made.max():.6g} before its mean and scale, "
                           f"and not all are whole numbers of {face.type}")
        made = whole
    return np.ascontiguousarray(made.astype(seen))


def _numbers(text: str, written: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise UsageError(f"{written}: {text or 'nothing'} is no list of numbers") from None


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
