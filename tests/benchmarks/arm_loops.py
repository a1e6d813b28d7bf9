"""Inner loops in a kernel's assembly for aarch64, and what llvm-mca expects of them: LLVM's model of a core, without caches."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

MODELS = {"cortex-a76": "neoverse-n1"}
"""Cores whose model LLVM has under another name: Neoverse N1 is the Cortex-A76 of servers."""
CORES = ("cortex-a72", "cortex-a53", "cortex-a76", "cortex-a55")
_VERSIONS = (*(f"llvm-mca-{n}" for n in range(40, 13, -1)), "llvm-mca")
"""The newest first: before LLVM 15, Neoverse N1 had the model of the Cortex-A57."""
_BY_ELEMENT = re.compile(r"\.s\[\d\]")


def hottest(assembly: str, worth: Mapping[str, int]) -> list[str]:
    """The loop of one block whose instructions that are worth something write most registers, and of those the one worth most.

    Tiles at an edge have fewer accumulators than the others, but LLVM may unroll their loops more.
    """
    lines = assembly.splitlines()
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"(\.L\w+):", line))}
    best: tuple[int, int, list[str]] = (0, 0, [])
    for i, line in enumerate(lines):
        jump = re.match(r"\s+(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,|b)\s+(\.L\w+)", line)
        start = labels.get(jump[1], i) if jump else i
        inside = lines[start + 1:i + 1]
        if start < i and not any(re.match(r"\.LBB\w+:", other) for other in inside):
            body = [text.split("//")[0] for text in inside if text.startswith("\t") and not text.lstrip().startswith(".")]
            written = {text.split()[1] for text in body if total([text], worth)}
            best = max(best, (len(written), total(body, worth), body), key=lambda b: b[:2])
    return best[2]


def total(body: Sequence[str], worth: Mapping[str, int]) -> int:
    """What the instructions of a piece of assembly are worth. `fmla.s` is an fmla by an element of a vector."""
    return sum(worth.get(f"{line.split()[0]}.s" if _BY_ELEMENT.search(line) else line.split()[0], 0) for line in body)


def spills(body: Sequence[str]) -> int:
    """Instructions of a piece of assembly that move to or from the stack."""
    return sum("[sp" in line for line in body)


def cycles(body: Sequence[str], mcpu: str) -> float:
    """Cycles of one round of a loop on a core, on average of many; SystemExit where llvm-mca is missing."""
    tool = next(filter(None, map(shutil.which, _VERSIONS)), None)
    if tool is None:
        raise SystemExit("llvm-mca is not installed; it comes with Debian's package llvm")
    rounds = 200
    done = subprocess.run([tool, "-mtriple=aarch64", f"-mcpu={MODELS.get(mcpu, mcpu)}", f"-iterations={rounds}"],
                          input="\n".join(body) + "\n", capture_output=True, text=True, check=True)
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if found is None:
        raise SystemExit(done.stdout)
    return int(found[1]) / rounds
