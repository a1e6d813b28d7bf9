"""The regions of a graph that run on NPUs: commands for each, and the file of a unit's code that its driver reads.

    bytes  0..7    EDGECNPU
    bytes  8..11   format, 1
    bytes 12..15   regions; for each of them nine numbers:
                   where its commands begin, their bytes, where its constants begin, their bytes, bytes of memory, bytes of fast memory,
                   inputs, outputs, where the table of these begins: two numbers each, an offset in memory and bytes

All numbers are little-endian and have 32 bits. Commands and constants begin at multiples of 64 bytes.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgec.codegen.bundle import UnitCode
from edgec.codegen.npu import tflite, vela
from edgec.codegen.npu.vela import Commands
from edgec.cost import node_macs
from edgec.ir.edit import attributes
from edgec.ir.graph import Graph, Node
from edgec.isa import Device, Npu
from edgec.lang import text

MAGIC, FORMAT, _ALIGN = b"EDGECNPU", 1, 64
_ROW = 9
_EXPLAINED = """; What a region of an NPU computes, bit by bit as LiteRT's reference kernels do: its operators are those of TensorFlow Lite.
; The scale and the zero point of a tensor stand in its type.
"""


@dataclass(frozen=True)
class Region:
    """A region of a unit: its node, what it means, the model that Vela was given, and the commands that it made."""

    unit: str
    npu: Npu
    node: Node
    model: bytes
    commands: Commands

    @property
    def body(self) -> Graph:
        """What the region means, in TFLite's operators."""
        body: Graph = self.node.attrs["body"]
        return body

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it."""
        c = self.commands
        return {"origin": self.node.origin, "number": self.node.attrs["number"], "operators": len(self.body.nodes),
                "macs": int(self.node.attrs["macs"]), "commands_bytes": len(c.stream), "constants_bytes": len(c.constants),
                "scratch_bytes": c.scratch, "fast_bytes": c.fast, "inputs": [asdict(p) for p in c.inputs],
                "outputs": [asdict(p) for p in c.outputs], "figures": asdict(c.figures)}


def compile_regions(
    graph: Graph, units: Mapping[str, Device], *, cache: Path | None = None, note: Callable[[str], None] | None = None,
) -> tuple[Graph, tuple[Region, ...]]:
    """The graph whose regions on NPUs know what their commands cost, and these regions.

    UnsupportedModel says what Vela would leave for the CPU; ToolMissing without Vela.
    """
    made: dict[Node, Region] = {}
    counts: dict[str, int] = {}
    for node in graph.nodes:
        npu = units.get(node.device or "")
        if node.op != "edgec.Region" or not isinstance(npu, Npu) or node.device is None:
            continue
        body: Graph = node.attrs["body"]
        model = tflite.model(body)
        origins = {v.name: n.origin for n in body.nodes for v in n.outputs if n.origin}
        commands = vela.compile_model(model, npu, origins=origins, cache=cache, note=note)
        number = counts[node.device] = counts.get(node.device, -1) + 1
        facts = {"number": number, "scratch": commands.scratch, "stream": len(commands.stream), "constants": len(commands.constants),
                 "cycles": commands.figures.cycles, "macs": sum(node_macs(n) for n in body.nodes)}
        made[node] = Region(node.device, npu, replace(node, attrs=attributes(**{**node.attrs, **facts})), model, commands)
    if not made:
        return graph, ()
    nodes = tuple(made[n].node if n in made else n for n in graph.nodes)
    return replace(graph, nodes=nodes), tuple(made.values())


def priced(graph: Graph, units: Mapping[str, Device]) -> Graph:
    """The same graph where Vela is installed; where it is not, regions on NPUs cost what starting them does."""
    return compile_regions(graph, units)[0] if vela.is_installed() else graph


def code(regions: Sequence[Region]) -> bytes:
    """The file of a unit's code."""
    head = len(MAGIC) + 8 + 4 * _ROW * len(regions)
    tables = [[(p.offset, p.bytes) for p in (*r.commands.inputs, *r.commands.outputs)] for r in regions]
    at = head + sum(8 * len(table) for table in tables)
    rows, places, pieces = b"", b"", list[bytes]()
    for region, table in zip(regions, tables, strict=True):
        c, begins = region.commands, list[int]()
        for data in (c.stream, c.constants):
            gap = -at % _ALIGN
            begins.append(at + gap)
            pieces.append(bytes(gap) + data)
            at += gap + len(data)
        rows += struct.pack(f"<{_ROW}I", begins[0], len(c.stream), begins[1], len(c.constants), c.scratch, c.fast, len(c.inputs),
                            len(c.outputs), head + len(places))
        places += b"".join(struct.pack("<2I", *place) for place in table)
    return MAGIC + struct.pack("<2I", FORMAT, len(regions)) + rows + places + b"".join(pieces)


def unit_codes(regions: Sequence[Region], *, linux: bool, cache: Path | None = None) -> dict[str, UnitCode]:
    """The code of each NPU, with what its regions mean as text, and for Linux the models that Arm's driver reads there."""
    made = dict[str, UnitCode]()
    for unit in dict.fromkeys(r.unit for r in regions):
        own = [r for r in regions if r.unit == unit]
        more = {f"{i}.edge": text.whole(r.body, _EXPLAINED).encode() for i, r in enumerate(own)}
        if linux:
            more |= {f"{i}.vela.tflite": vela.linux_model(r.model, r.npu, cache=cache) for i, r in enumerate(own)}
        made[unit] = UnitCode("bin", code(own), more)
    return made


def facts(regions: Sequence[Region]) -> dict[str, Any]:
    """What the manifest says of each NPU, by its name; nothing when there is none."""
    made = dict[str, Any]()
    for unit in dict.fromkeys(r.unit for r in regions):
        own = [r for r in regions if r.unit == unit]
        npu = own[0].npu
        made[unit] = {"compiler": f"ethos-u-vela {vela.compiler_version()}", "accelerator": npu.accelerator, "system": npu.system,
                      "memory_mode": npu.memory_mode, "executed": False, "regions": [r.facts() for r in own]}
    return made
