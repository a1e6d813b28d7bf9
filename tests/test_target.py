"""The `.target` language: what is inherited, what a unit runs, what is refused and how, and the text of a resolved target."""

import pytest

from edgec import access
from edgec.errors import SourceError, UsageError
from edgec.isa import Isa
from edgec.machine import show
from edgec.target import Verdict, find, from_text, known
from edgec.target_read import one_slip

NPU = """
target board : cortex-a72 "a board with an NPU" {
  clock = 1.8 GHz
  unit vip npu {
    macs_per_cycle = 1152
    runs Conv, MaxPool when dtype in ["i8", "u8"], kernel <= 15 cost macs / macs_per_cycle + 2000 cycles
    runs Conv when dtype == "f16"
    never Resize because "only nearest at a factor of two"
    never com.microsoft.Gelu
  }
  memory sram { size = 256 KiB }
}
"""


# ---- what a target says

def test_a_child_overrides_and_adds() -> None:
    board = from_text(NPU)
    assert (board.name, board.doc) == ("board", "a board with an NPU")
    assert board.facts["clock"] == 1_800_000_000
    assert board.facts["mcpu"] == "cortex-a72"
    assert list(board.units) == ["cpu", "vip"]
    assert board.units["vip"].facts == {"macs_per_cycle": 1152}
    assert board.memories["sram"] == {"size": 262_144}
    assert board.memories["l2"]["size"] == 2**20
    assert board.parents == ("armv8-a", "cortex-a72")
    assert board.cpu.name == "cpu"


def test_a_unit_and_a_memory_are_added_to_and_not_replaced() -> None:
    a = from_text("""
        target a { unit u npu { launch = 5 cycles  macs_per_cycle = 8  runs Conv } memory m { size = 1 KiB  line = 32 B } }
        target b : a { unit u npu { launch = 7 cycles  runs Gemm } memory m { size = 2 KiB } }""")
    assert a.units["u"].facts == {"launch": 7, "macs_per_cycle": 8}
    assert [line.said.operators for line in a.units["u"].lines] == [("Conv",), ("Gemm",)]
    assert a.memories["m"] == {"size": 2048, "line": 32}


def test_of_several_parents_the_later_wins_and_a_common_ancestor_counts_once() -> None:
    text = """
        target base { a = 1  b = 1  c = 1  unit u npu { never Conv because "base" runs Gemm when a == 1, b == 2, c == 3 } }
        target left : base { a = 1  b = 2  c = 2  unit u npu { runs Conv } }
        target right : base { c = 3 }
        target child : left, right { }"""
    child = from_text(text)
    assert child.facts == {"a": 1, "b": 2, "c": 3}
    assert child.parents == ("base", "left", "right")
    assert child.verdict("u", "Conv", {}).runs  # base's never, which right inherits too, must not come behind left's runs


def test_a_computed_fact_follows_what_overrides_its_parts() -> None:
    text = "target a { unit u npu { wide = lanes * 2  lanes = 4  runs * when wide > 0 } } target b : a { unit u npu { lanes = 8 } }"
    assert from_text(text).units["u"].facts["wide"] == 16
    assert find("cortex-a76").cpu.facts["fma_per_cycle"] == 8
    assert find("x86-64-v4").cpu.facts["fma_per_cycle"] == 32


def test_expressions_may_read_memories_and_facts_of_the_target() -> None:
    board = from_text("target b : cortex-a53 { unit cpu cpu { runs Conv when weight_bytes <= l2.size cost macs / cores + min(1, 2) } }")
    assert board.verdict("cpu", "Conv", {"weight_bytes": 100, "macs": 80}).cost == 21
    assert board.verdict("cpu", "Conv", {"weight_bytes": 10**7, "macs": 80, "dtype": "f32"}).cost == 20


# ---- verdicts

@pytest.mark.parametrize(("op", "facts", "verdict"), [
    ("Conv", {"dtype": "i8", "kernel": 3, "macs": 1_152_000}, Verdict(runs=True, cost=3000.0)),
    ("Conv", {"dtype": "f16", "kernel": 17, "macs": 1}, Verdict(runs=True)),
    ("MaxPool", {"dtype": "i8", "kernel": 17, "macs": 0},
     Verdict(runs=False, reason="vip runs MaxPool only when kernel <= 15 (kernel is 17)")),
    ("Conv", {"dtype": "f32", "kernel": 3, "macs": 1},
     Verdict(runs=False, reason='vip runs Conv only when dtype == "f16" (dtype is f32), or when dtype in ["i8", "u8"] (dtype is f32)')),
    ("MaxPool", {"dtype": "i8"}, Verdict(runs=False, reason="vip runs MaxPool only when kernel <= 15 (kernel not known here)")),
    ("Resize", {}, Verdict(runs=False, reason="vip never runs Resize: only nearest at a factor of two")),
    ("com.microsoft.Gelu", {}, Verdict(runs=False, reason="vip never runs com.microsoft.Gelu")),
    ("Gelu", {}, Verdict(runs=False, reason="target board does not say that vip runs Gelu")),
])
def test_verdicts_answer_in_the_words_of_the_text(op: str, facts: dict[str, object], verdict: Verdict) -> None:
    assert from_text(NPU).verdict("vip", op, facts) == verdict


def test_the_last_line_that_speaks_wins() -> None:
    board = from_text('target a { unit u npu { runs * never Conv because "no" runs Conv when group == 1 } } '
                      "target b : a { unit u npu { never Gemm } }")
    assert board.verdict("u", "Conv", {"group": 1}).runs
    assert board.verdict("u", "Conv", {"group": 2}).reason == "u runs Conv only when group == 1 (group is 2); else never: no"
    assert board.verdict("u", "Gemm", {}).reason == "u never runs Gemm"
    assert board.verdict("u", "Relu", {}).runs


def test_there_is_no_verdict_without_a_unit() -> None:
    with pytest.raises(UsageError, match=r"target board has no unit gpu; it has cpu, vip"):
        from_text(NPU).verdict("gpu", "Conv", {})


def test_a_cost_that_has_no_value_points_at_its_line() -> None:
    with pytest.raises(SourceError, match=r"(?s)npu.target:6:.*this cost has no value for Conv: macs means nothing here.*\^"):
        from_text(NPU, "npu.target").verdict("vip", "Conv", {"dtype": "i8", "kernel": 1})


@pytest.mark.parametrize("name", [n for n, t in known().items() if "cpu" in t.units])
def test_cpus_run_every_float_operator(name: str) -> None:
    machine = find(name)
    for op in ("Conv", "Gemm", "MatMul", "ConvTranspose"):
        verdict = machine.verdict("cpu", op, {"dtype": "f32", "macs": 3200})
        assert verdict.runs
        busy = machine.cpu.facts.get("fma_cycles", 1)
        assert verdict.cost == 3200 / (machine.cpu.facts["fma_ports"] * machine.cpu.facts["vector"] / 4 / busy)
    for op in ("Softmax", "Resize", "com.microsoft.Gelu", "edgec.Fused"):
        assert machine.verdict("cpu", op, {"dtype": "f32"}).runs


# ---- mistakes, with their place

WRONG = [
    ("target a { clock = 1.5 }", "1:20", "clock wants a quantity such as 1.5 GHz"),
    ("target a { clock = 32 KiB }", "1:20", "clock wants a quantity such as 1.5 GHz"),
    ("target a { cores = 4 GHz }", "1:20", "cores wants a number without a unit"),
    ("target a { cores = 0 }", "1:20", "cores wants a whole number, at least 1"),
    ("target a { cores = 1.5 }", "1:20", "cores wants a whole number, at least 1"),
    ('target a { cores = "four" }', "1:20", "cores wants a whole number, at least 1"),
    ("target a { mcpu = 72 }", "1:19", "mcpu wants a text in quotes"),
    ("target a { mcpu = generic }", "1:19", 'generic means nothing here; a word stands in quotes: "generic"'),
    ('target a { mattr = "+neon" }', "1:20", 'mattr wants a list of texts such as ["a", "b"]'),
    ("target a { unit u cpu { int8_dot = 1 } }", "1:36", "int8_dot wants true or false"),
    ('target a { unit u cpu { broadcast = "magic" } }', "1:37", 'broadcast wants "memory" or "lane"'),
    ("target a { unit u cpu { clock = 1 GHz  speed = clok * 2 } }", "1:48", "clok means nothing here; did you mean clock?"),
    ("target a { clok = 1.5 GHz }", "1:12", "nothing reads clok; did you mean clock?"),
    ("target a { memory l1d { sise = 32 KiB } }", "1:25", "nothing reads sise; did you mean size?"),
    ("target a { x = y + 1  y = x }", "1:12", "x is computed from itself"),
    ("target a { x = 1 / 0 }", "1:18", "1 / 0 has no value: division by zero"),
    ("target a : a { }", "1:12", "a inherits from itself"),
    ("target a : b { } target b : c { } target c : a { }", "1:46", "c inherits from itself"),
    ("target a : cortex-a27 { }", "1:12", "no target is called cortex-a27; did you mean cortex-a72?"),
    ("target a { }\ntarget a { }", "2:8", "a stands in this text twice"),
    ("target a { unit u cpu { } } target b : a { unit u gpu { } }", "1:49", "u is a gpu here, but a cpu where it was described before"),
    ("target a { unit u npu { runs Conv when kernl <= 3 } }", "1:40",
     "kernl is no fact of a node, of a or of its unit; did you mean kernel?"),
    ("target a { unit u npu { runs Conv cost mac / 3 } }", "1:40", "mac is no fact of a node, of a or of its unit; did you mean macs?"),
    ("target a { unit u npu { runs Conv cost macs / l2.sise } memory l2 { size = 1 B } }", "1:50", "l2 has no sise; did you mean size?"),
    ("target a { unit u npu { runs Conv cost l2 * 2 } memory l2 { size = 1 B } }", "1:40",
     "l2 is a memory: ask for one of its facts, such as l2.size"),
    ("target a { unit u npu { runs Conv cost mox(macs, 1) } }", "1:40", "no function is called mox; did you mean max?"),
    ("target a { unit u tpu { } }", "1:19", 'found "tpu"'),
    ("target a { memory l1d { size = 32 KB/h } }", "1:37", 'found "/", wanted "="'),
    ("target a { runs Conv }", "1:17", 'found "Conv"'),
    ("target a {", "1:11", "the text ends here"),
    ("# nothing", "1:1", "this text describes no target"),
]


@pytest.mark.parametrize(("text", "place", "message"), WRONG, ids=[m for _, _, m in WRONG])
def test_a_mistake_is_told_with_its_place(text: str, place: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        from_text(text, "my.target")
    head, source, caret = str(caught.value).splitlines()
    assert head.startswith(f"my.target:{place}: {message}")
    line, column = map(int, place.split(":"))
    assert source == "  " + text.splitlines()[line - 1]
    assert caret == " " * (column + 1) + "^"


def test_a_mistake_in_any_target_of_a_file_is_told() -> None:
    with pytest.raises(SourceError, match="cores wants"):
        from_text("target a { cores = 0 } target b { cores = 1 }")


@pytest.mark.parametrize(("word", "meant", "slip"), [
    ("clok", "clock", True), ("sise", "size", True), ("clcok", "clock", True), ("clocks", "clock", True), ("lock", "clock", True),
    ("tile", "triple", False), ("clock", "clock", False), ("clkco", "clock", False), ("", "a", True), ("ab", "cd", False),
])
def test_slips_of_the_pen(word: str, meant: str, slip: object) -> None:
    assert one_slip(word, meant) is slip


def test_own_facts_of_a_target_may_have_any_name() -> None:
    made = from_text('target a { unit u npu { tile = [1, 16]  peak = 3 GFLOP/s  nested = [["x"], []] } }')
    assert made.units["u"].facts == {"tile": (1, 16), "peak": 3 * 10**9, "nested": (("x",), ())}


def test_facts_for_kernels_are_asked_for_by_name() -> None:
    bare = from_text("target a { unit u cpu { vector = 16 B } }")
    with pytest.raises(UsageError, match="target a does not say clock of its unit u, and no kernel can be made without it"):
        Isa.of(bare.cpu, bare)
    with pytest.raises(UsageError, match="target b has no unit of kind cpu"):
        _ = from_text("target b { }").cpu


# ---- the text of a resolved target

def test_the_text_of_a_target_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {name: (t, t.text()) for name, t in [*known().items(), ("board", from_text(NPU))]}
    monkeypatch.setattr(access, "files", lambda *_: [])
    for name, (machine, text) in texts.items():
        again = from_text(text)
        assert again == machine
        assert again.text() == text
        assert again.requires == machine.requires
        assert name == again.name
        assert ":" not in text.splitlines()[0].partition('"')[0]


def test_the_text_reads_as_one_would_write_it() -> None:
    board = from_text('target odd "says \\"hi\\" in ümlauts" { x = 1e-5  y = -3  z = 0.1 GHz  clock = 32768 Hz  f = true  e = [] '
                      'unit n npu { runs Conv when not (a1 or f) and x < (y - 1) * 2 cost macs / (y - -1)  never *  a1 = false } '
                      'memory m { size = 1536 B  bandwidth = 4.2 GB/s  bytes_per_cycle = 1.5 B/cycle  latency = 1 cycle } }')
    assert board.text() == """\
target odd "says \\"hi\\" in ümlauts" {
  x = 1e-05
  y = -3
  z = 100000000
  clock = 32768 Hz
  f = true
  e = []
  unit n npu {
    a1 = false
    runs Conv when not (a1 or f) and x < (y - 1) * 2 cost macs / (y - -1)
    never *
  }
  memory m { size = 1536 B  bandwidth = 4.2 GB/s  bytes_per_cycle = 1.5 B/cycle  latency = 1 cycles }
}
"""
    assert from_text(board.text()) == board


@pytest.mark.parametrize(("scope", "name", "value", "text"), [
    ("memory", "size", 0, "0 B"), ("memory", "size", 1, "1 B"), ("memory", "size", 32768, "32 KiB"), ("memory", "size", 2**30, "1 GiB"),
    ("memory", "size", 10**9 + 1, "1000000001 B"), ("target", "clock", 1_500_000_000, "1.5 GHz"),
    ("target", "clock", 1_234_567_891, "1234567891 Hz"),
    ("memory", "bandwidth", 999, "999 B/s"), ("unit", "launch", 2000, "2000 cycles"), ("unit", "other", 2000, "2000"),
    ("unit", "other", 2.0, "2"),
])
def test_values_are_shown_exactly(scope: str, name: str, value: float, text: str) -> None:
    assert show(scope, name, value) == text  # type: ignore[arg-type]
