"""What a page says about NPUs: what runs there, what their compiler expects of it, and that nobody has seen it run."""

from collections.abc import Iterator, Mapping
from typing import Any


def about(facts: Mapping[str, Any]) -> str:
    """What kind of figures these are, in a sentence or two."""
    return (f"Command streams for {facts['accelerator']} ({facts['system']}, {facts['memory_mode']}), made by {facts['compiler']}, which "
            "estimates the figures. They were not executed where this bundle was made: no emulator executes them.")


def regions(facts: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Names and numbers of each region."""
    for region in facts["regions"]:
        figures, head = region["figures"], f"region {region['number']}: "
        yield head + "operators", region["operators"]
        yield head + "multiply-accumulates", region["macs"]
        yield head + f"cycles at {figures['clock'] / 1e6:g} MHz", figures["cycles"]
        for kind in ("sram", "dram", "flash"):
            if figures[f"{kind}_bytes"]:
                yield head + f"bytes of {'flash' if kind == 'flash' else kind.upper()}", figures[f"{kind}_bytes"]
        yield head + "bytes of commands", region["commands_bytes"]
        yield head + "bytes of constants", region["constants_bytes"]


def layers(facts: Mapping[str, Any]) -> Iterator[tuple[int, str, str, int, float, int]]:
    """Region, tensor, operator, cycles, share of the cycles, and multiply-accumulates of each step, as the compiler expects them."""
    for region in facts["regions"]:
        rows = region["figures"]["layers"]
        total = sum(row["cycles"] for row in rows) or 1
        for row in rows:
            yield region["number"], row["name"], row["operator"], row["cycles"], row["cycles"] / total, row["macs"]


__all__ = ["about", "layers", "regions"]
