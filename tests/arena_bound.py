"""The lower bound of a bundle's arena, computed anew from the printed final graph alone: `edgec build --emit ir`, then this.

    python tests/arena_bound.py MODEL.edge

A tensor is alive from the step that makes it to the last that reads it. A Reshape is its source's memory, the operands of a Concat are its
memory, results of the model and weights are not in the arena; nothing is padded. No code of the planner is used.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

BYTES = {"f64": 8, "i64": 8, "u64": 8, "f32": 4, "i32": 4, "u32": 4, "f16": 2, "bf16": 2, "i16": 2, "u16": 2, "i8": 1, "u8": 1, "bool": 1}
VIEWS = {"Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"}
_VALUE = re.compile(r'%(?:"((?:[^"\\]|\\.)*)"|([\w./-]+))')
_TYPED = re.compile(r'%(?:"(?:[^"\\]|\\.)*"|[\w./-]+): (\w+)\[([\d,]*)\]')


def names(text: str) -> list[str]:
    """The values that a piece of text mentions."""
    return [a or b for a, b in _VALUE.findall(text)]


def lower_bound(text: str) -> int:
    """The most bytes of tensors that are alive at one step of the first graph of a text."""
    main = text[text.index("graph @"):]
    head, _, rest = main.partition("{\n")
    body = rest[:rest.index("\n}")]
    inputs = set(names(head))
    returned = set(names(next(line for line in body.splitlines() if line.strip().startswith("return"))))
    size: dict[str, int] = {}
    steps: list[tuple[str, str, list[str]]] = []
    for line in body.splitlines():
        made = re.match(r"\s+(%.*?) = ([\w.]+)\((.*)", line)
        if made is None:
            continue
        result, op, rest = made.groups()
        kind, dims = _TYPED.match(result).groups()  # type: ignore[union-attr]
        elements = 1
        for d in filter(None, dims.split(",")):
            elements *= int(d)
        name = names(result)[0]
        size[name] = elements * BYTES[kind]
        steps.append((name, op, names(re.split(r"\)(?: \{| on | at |$)", rest)[0])))
    return _peak(steps, size, inputs, returned)


def _peak(steps: list[tuple[str, str, list[str]]], size: Mapping[str, int], inputs: set[str], returned: set[str]) -> int:
    owner: dict[str, str] = {}

    def root(name: str) -> str:
        while name in owner:
            name = owner[name]
        return name

    for name, op, operands in steps:
        if op in VIEWS and operands and name not in returned:
            owner[name] = operands[0]
    for name, op, operands in reversed(steps):
        for operand in operands if op == "Concat" else ():
            whole = root(operand)
            if whole in size and whole not in returned and whole != root(name) and size[whole] == size[operand]:
                owner[whole] = name
    life: dict[str, list[int]] = {}
    for i, (name, op, operands) in enumerate(steps):
        if op in VIEWS and name in owner:
            continue
        for value in (name, *operands):
            r = root(value)
            if r in size and r not in returned and r not in inputs:
                life.setdefault(r, [i, i])[1] = i
                life[r][0] = min(life[r][0], i)
    return max((sum(size[r] for r, (a, b) in life.items() if a <= i <= b) for i in range(len(steps))), default=0)


if __name__ == "__main__":
    print(lower_bound(Path(sys.argv[1]).read_text(encoding="utf8")))  # noqa: T201
