"""The links of a machine: what its text says of the ways between the memory of the CPU and those of other units."""

from math import inf

from edgec.machine import Target, Unit
from edgec.partition.problem import Link


def link(target: Target, unit: Unit) -> Link:
    """The link of a unit, and what it asks for; the CPU's own memory is where everything starts, and has none."""
    if unit is target.cpu:
        return Link(unit.name)
    facts, us = unit.facts, 1e6 / target.clock(unit)
    return Link(
        unit.name, latency=float(facts.get("copy_latency", 0)) * us,
        bytes_per_us=float(facts["copy_bandwidth"]) / 1e6 if "copy_bandwidth" in facts else inf,
        start=float(facts.get("launch", 0)) * us if unit.kind == "npu" else 0.0,
        capacity=float(facts.get("capacity", inf)), min_region=int(facts.get("min_region", 1)), runs_regions=unit.kind == "npu")
