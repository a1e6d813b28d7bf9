"""Whether a bundle fits into the memories of its target: what each of them holds, and how much of it that takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgec.codegen.program import Port, Program
from edgec.codegen.weights import HEADER_BYTES
from edgec.errors import DoesNotFit


@dataclass(frozen=True)
class Use:
    """How much of a memory a bundle takes; `size` is 0 where the target does not say how large it is."""

    memory: str
    size: int
    parts: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """Everything that lies there."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether there is room, as far as anyone knows."""
        return not self.size or self.bytes <= self.size

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size}" for name, size in self.parts.items() if size)
        return f"{self.bytes} of {self.size} bytes: {parts}" if self.size else f"{self.bytes} bytes: {parts}"


def uses(program: Program, code_bytes: int, memories: Mapping[str, Mapping[str, Any]]) -> tuple[Use, ...]:
    """What a program takes of each memory whose description says what it `holds`."""
    def ports(which: Sequence[Port]) -> int:
        return sum(program.buffers[p.buffer].bytes for p in which)

    sizes = {"code": code_bytes, "weights": program.weights_bytes + HEADER_BYTES, "arena": program.arena_bytes,
             "state": program.state_bytes, "prepared": program.prepared_bytes, "inputs": ports(program.inputs),
             "outputs": ports(program.outputs)}
    return tuple(Use(name, int(facts.get("size", 0)), {part: sizes[part] for part in facts["holds"]})
                 for name, facts in memories.items() if "holds" in facts)


def check(taken: Sequence[Use], target: str) -> None:
    """DoesNotFit when a memory is too small."""
    small = [use for use in taken if not use.fits]
    if small:
        lacking = ", ".join(f"{use.bytes - use.size} bytes too much for {use.memory} ({use})" for use in small)
        raise DoesNotFit(f"the model does not fit on {target}: {lacking}", "\n".join(f"{use.memory}: {use}" for use in taken))
