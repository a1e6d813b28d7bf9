"""Operators that only move elements: Slice and Pad written out in full, the others taken apart into moves that kernels know."""

from collections.abc import Sequence

import numpy as np

from edgec.ir.graph import Node, Value
from edgec.ir.sweep import Changes, Sweep
from passes.changes.facts import Draft, dims, ints, positive, slice_operands


def full_slice(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Slice names every axis in order, with starts and ends that count from the front and end right behind the last element.

    Only where a negative step runs to the very front the end stays negative: there is no other way to say it.
    """
    known, source = dims(node.inputs[0]), node.inputs[0]
    starts, ends, axes, steps = (ints(edit, node.input(i)) for i in range(1, 5))
    if known is None or starts is None or ends is None or (node.input(3) and axes is None) or (node.input(4) and steps is None):
        return None
    axes = list(range(len(starts))) if axes is None else axes
    ranges = [(0, d, 1) for d in known]
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        at = positive(axis, len(known))
        part = range(*slice(start, end, step).indices(known[at]))
        last = part[-1] + (1 if step > 0 else -1) if part else 0
        ranges[at] = (part[0] if part else 0, last if last >= 0 else -known[at] - 1, step)
    if (starts, ends, steps) == tuple([r[i] for r in ranges] for i in range(3)) and axes == list(range(len(known))):
        return None
    return edit.remake(node, inputs=(source, *slice_operands(edit, node, ranges)))


def full_pad(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Pad names every axis, has its mode written out, and a value only when that is not zero; what it cuts off is a Slice."""
    source, known, pads = node.inputs[0], dims(node.inputs[0]), ints(edit, node.input(1))
    axes, value = ints(edit, node.input(3)), edit.constant(node.input(2))
    mode = node.attrs.get("mode", "constant")
    if source is None or known is None or pads is None or (node.input(3) and axes is None):
        return None
    count = len(known)
    axes = list(range(count)) if axes is None else [positive(a, count) for a in axes]
    full = [0] * (2 * count)
    for i, axis in enumerate(axes):
        full[axis], full[count + axis] = pads[i], pads[len(axes) + i]
    needs_value = mode == "constant" and node.input(2) is not None and (value is None or bool(np.any(value != 0)))
    if min(full, default=0) < 0:
        ranges = {a: (max(-full[a], 0), d - max(-full[count + a], 0), 1) for a, d in enumerate(known)}
        if mode != "constant" or any(start > end for start, end, _ in ranges.values()):
            return None
        source, full = Draft(edit, node).slice(source, ranges), [max(p, 0) for p in full]
    around = node.inputs[1] if full == pads else edit.integers(f"{node.output.name}.pads", full)
    inputs = (source, around, *([node.inputs[2]] if needs_value else []))
    if inputs == node.inputs and dict(node.attrs) == {"mode": mode}:
        return None
    return edit.remake(node, inputs=inputs, attrs={"mode": mode})


def split_into_slices(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Split is one Slice for each part."""
    source, known, parts = node.inputs[0], dims(node.inputs[0]), [dims(v) for v in node.outputs]
    if source is None or known is None or None in parts:
        return None
    axis, start, made = positive(node.attrs.get("axis", 0), len(known)), 0, list[Value]()
    for part in parts:
        size = part[axis] if part is not None else 0
        made.append(Draft(edit, node).slice(source, {axis: (start, start + size, 1)}))
        start += size
    return made


def gather_as_slice(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Gather of one index, or of indices with an even positive step, is a Slice."""
    source, known, result, indices = node.inputs[0], dims(node.inputs[0]), dims(node.output), ints(edit, node.inputs[1])
    if source is None or known is None or result is None or not indices:
        return None
    axis = positive(node.attrs.get("axis", 0), len(known))
    at = [positive(i, known[axis]) for i in indices]
    step = at[1] - at[0] if len(at) > 1 else 1
    if step <= 0 or at != list(range(at[0], at[-1] + 1, step)) or at[-1] >= known[axis]:
        return None
    draft = Draft(edit, node)
    return [draft.reshape(draft.slice(source, {axis: (at[0], at[-1] + 1, step)}), result)]


def depth_to_space(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Blocks of channels become blocks of pixels: a Transpose between two Reshapes."""
    source, known, result = node.inputs[0], dims(node.inputs[0]), dims(node.output)
    if source is None or known is None or result is None:
        return None
    (n, c, h, w), b = known, node.attrs["blocksize"]
    rest, draft = c // (b * b), Draft(edit, node)
    if node.attrs.get("mode", "DCR") == "DCR":
        return [draft.reshape(draft.transpose(draft.reshape(source, (n, b, b, rest, h, w)), (0, 3, 4, 1, 5, 2)), result)]
    return [draft.reshape(draft.transpose(draft.reshape(source, (n, rest, b, b, h, w)), (0, 1, 4, 2, 5, 3)), result)]


def space_to_depth(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Blocks of pixels become blocks of channels: a Transpose between two Reshapes."""
    source, known, result = node.inputs[0], dims(node.inputs[0]), dims(node.output)
    if source is None or known is None or result is None:
        return None
    (n, c, h, w), b, draft = known, node.attrs["blocksize"], Draft(edit, node)
    order = (0, 3, 5, 1, 2, 4) if node.attrs.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return [draft.reshape(draft.transpose(draft.reshape(source, (n, c, h // b, b, w // b, b)), order), result)]


CANONICAL: Changes = {"Slice": (full_slice,), "Pad": (full_pad,)}
CHANGES: Changes = {
    "Split": (split_into_slices,), "Gather": (gather_as_slice,), "DepthToSpace": (depth_to_space,), "SpaceToDepth": (space_to_depth,)}
