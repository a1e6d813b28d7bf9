"""The register tiles that the cost model picks for layers of common nets, as a file: a change of the model is seen in a diff.

`pytest --update tests/test_tiles.py` writes what is picked now into tests/golden/tiles.txt.
"""

from pathlib import Path

import pytest

from edgec.isa import Isa, cpu_isa
from edgec.target import find
from tests.benchmarks.layers import with_facts
from tests.benchmarks.tiles import LAYERS

FILE = Path(__file__).parent / "golden" / "tiles.txt"
TARGETS = ("x86-64-v3", "zen4", "cortex-a72", "cortex-a53", "cortex-a76")
_ABOVE = """\
Columns x vectors of channels of the register tile that the cost model picks: direct, and behind a slash where Winograd's method is faster.
`pytest --update tests/test_tiles.py` writes this file. Who changes it says in the commit what was measured.

"""


def picked(isa: Isa) -> list[str]:
    """What is picked for each layer."""
    exact, cells = with_facts(isa, exact=True), []
    for layer in LAYERS:
        direct, fast = layer.plan(exact), layer.plan(isa)
        cells.append(direct.algo.partition("_")[2] + (f"/{fast.algo.removeprefix('winograd')}" if fast.kind == "winograd" else ""))
    return cells


def rendered() -> str:
    """The file as it would be now."""
    rows = [("", *TARGETS), *zip((layer.name for layer in LAYERS), *(picked(cpu_isa(find(name))) for name in TARGETS), strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return _ABOVE + "\n".join(lines) + "\n"


def test_the_picked_tiles_are_those_in_the_file(request: pytest.FixtureRequest) -> None:
    made = rendered()
    if request.config.getoption("--update"):
        FILE.write_text(made, "utf-8")
    assert FILE.read_text("utf-8") == made, "other tiles are picked: look at what `pytest --update tests/test_tiles.py` changes in git diff"
