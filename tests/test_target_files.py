"""Which targets there are: edgec's own, those of a user, and the machine one is on."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgec import access, target
from edgec.errors import BadInput, SourceError, UsageError
from edgec.isa import Isa
from edgec.machine import FACTS, NODE_FACTS, Target
from edgec.target import describe, find, from_text, known, listing
from edgec.target_host import host_text
from edgec.target_read import parse


@pytest.fixture
def no_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_REGISTERED", [])


# ---- finding targets

@pytest.mark.parametrize(("alias", "name"), [
    ("rpi4", "raspberrypi4"), ("pi4", "raspberrypi4"), ("rpi5", "raspberrypi5"), ("cortex-a72", "cortex-a72"),
])
def test_names_and_aliases(alias: str, name: str) -> None:
    assert find(alias).name == name


@pytest.mark.parametrize(("word", "near"), [
    ("cortex-a27", "did you mean cortex-a72?"), ("rpi-4", "did you mean rpi4?"), ("hots", "did you mean host?"),
    ("raspberry", "did you mean raspberrypi"), ("qqq", "`edgec targets` lists all"),
])
def test_an_unknown_name_gets_a_suggestion(word: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(word)
    assert str(caught.value).startswith(f"no target is called {word}; {near}")


def test_a_file_gives_its_last_target_or_the_one_named(tmp_path: Path) -> None:
    file = tmp_path / "my.target"
    file.write_text("target one : cortex-a53 { } target two : one { clock = 1 GHz }")
    assert find(file).name == "two"
    assert find(str(file)).facts["clock"] == 10**9
    assert find(f"{file}:one").name == "one"
    with pytest.raises(UsageError, match=r"my.target describes no target three; it has one, two"):
        find(f"{file}:three")


def test_a_relative_path_and_a_hint_for_a_forgotten_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.target").write_text("target mine { }")
    monkeypatch.chdir(tmp_path)
    assert find("./my.target").name == "mine"
    assert find("my.target").name == "mine"
    with pytest.raises(UsageError, match=r"no target is called my; to read the file, write ./my.target"):
        find("my")


def test_a_name_in_a_file_goes_before_a_known_one(tmp_path: Path) -> None:
    file = tmp_path / "own.target"
    file.write_text("target cortex-a53 { clock = 1 GHz } target mine : cortex-a53, cortex-a72 { }")
    assert find(file).parents == ("cortex-a53", "armv8-a", "cortex-a72")


@pytest.mark.parametrize(("prepare", "message"), [
    (lambda _: None, "cannot be read: No such file or directory"),
    (lambda p: p.mkdir(), "cannot be read: Is a directory"),
    (lambda p: p.write_bytes(b"target \xff"), "is no text: byte 7 is not UTF-8"),
])
def test_files_that_are_none(tmp_path: Path, prepare: object, message: str) -> None:
    file = tmp_path / "bad.target"
    prepare(file)  # type: ignore[operator]
    with pytest.raises(BadInput, match=message):
        find(file)


def test_the_environment_adds_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "a.target").write_text('target deep-one : zen5 { aliases = ["deep"] }')
    (tmp_path / "b.target").write_text("target shallow : deep-one { }")
    monkeypatch.setenv("EDGEC_TARGETS", os.pathsep.join([str(tmp_path / "folder"), "", str(tmp_path / "b.target")]))
    assert find("shallow").parents[-1] == "deep-one"
    assert find("deep").name == "deep-one"
    assert {"shallow", "deep-one"} < set(known())
    assert "deep-one, deep" in listing()


@pytest.mark.parametrize(("text", "error"), [
    ("target cortex-a72 { }", "there is a target cortex-a72 already, in .*cortex.target"),
    ("target host { }", "host is the name of the machine that edgec runs on"),
    ('target mine { aliases = ["cortex-a53"] }', "the alias cortex-a53 means cortex-a53 already"),
    ('target mine { aliases = ["rpi4"] }', "the alias rpi4 means raspberrypi4 already"),
])
def test_names_that_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: str) -> None:
    (tmp_path / "a.target").write_text(text)
    monkeypatch.setenv("EDGEC_TARGETS", str(tmp_path / "a.target"))
    with pytest.raises(SourceError, match=error):
        find("cortex-a72")


def test_the_environment_names_something_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_TARGETS", "/nowhere/at/all")
    with pytest.raises(UsageError, match="EDGEC_TARGETS names /nowhere/at/all, which does not exist"):
        known()


@pytest.mark.usefixtures("no_registered")
def test_registering_makes_names_known_or_changes_nothing(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.target", tmp_path / "bad.target"
    good.write_text("target registered-one : cortex-a72 { }")
    bad.write_text("target registered-two : nobody { }")
    assert target.register(good) == ("registered-one",)
    assert target.register(str(good)) == ("registered-one",)
    with pytest.raises(SourceError, match="no target is called nobody"):
        target.register(bad)
    assert find("registered-one").name == "registered-one"
    assert "registered-two" not in known()


# ---- what edgec brings along

def test_the_targets_that_are_promised() -> None:
    assert set(known()) >= {"x86-64-v3", "x86-64-v4", "armv8-a", "cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76", "raspberrypi4"}


PARTS = ("opencl-gpu", "cuda-gpu", "ethos-u", "ethos-u65", "ethos-u85")
"""Parts of boards: they have no CPU, and are there to inherit from."""


@pytest.mark.parametrize("name", [n for n in known() if n not in PARTS])
def test_every_target_can_make_kernels(name: str) -> None:
    machine = find(name)
    isa = Isa.of(machine.cpu, machine)
    scalar = (1, 32 if machine.cpu.facts.get("fpu", True) else 10, "memory")
    assert (isa.lanes, isa.registers, isa.broadcast) == {
        "aarch64": (4, 32, "lane"), "x86_64": (16, 32, "memory") if "avx512f" in machine.requires else (8, 16, "memory"),
        "thumbv8.1m.main": (4, 8, "memory"), "thumbv7m": scalar, "thumbv7em": scalar, "thumbv8m.main": scalar}[isa.arch]
    if isa.l2_bytes:
        assert isa.l1_bytes < isa.l2_bytes
        assert isa.dram_bytes_per_cycle < isa.l2_bytes_per_cycle
    assert hash(isa) == hash(replace(isa))
    assert machine.requires or "-none-eabi" in machine.facts["triple"]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_board_is_no_machine(name: str) -> None:
    with pytest.raises(UsageError, match=f"target {name} has no unit of kind cpu"):
        _ = find(name).cpu


@pytest.mark.parametrize(("name", "unit", "kind"), [
    ("rk3588", "gpu", "gpu"), ("jetson-orin", "gpu", "gpu"), ("imx93", "npu", "npu"), ("corstone-320", "npu", "npu")])
def test_boards_with_units_beside_the_cpu(name: str, unit: str, kind: str) -> None:
    machine = find(name)
    assert {u.name: u.kind for u in machine.units.values()} == {"cpu": "cpu", unit: kind}
    assert {"clock", "macs_per_cycle", "bandwidth", "launch", "copy_bandwidth"} <= set(machine.units[unit].facts)
    convolution = {"dtype": "f32" if kind == "gpu" else "i8", "macs": 10**6, "bytes": 10**4, "kernel": 3, "stride": 1}
    verdict = machine.verdict(unit, "Conv", convolution)
    assert (verdict.runs, verdict.cost is None) == (True, kind == "gpu")   # the kernels of a GPU have plans, which know their cost
    assert not machine.verdict(unit, "Conv", {**convolution, "dtype": "f64"}).runs


def test_what_llvm_is_told() -> None:
    pi = find("rpi4")
    assert Isa.of(pi.cpu, pi).llvm_target() == {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "mattr": ["+neon"]}
    v3 = find("x86-64-v3")
    assert Isa.of(v3.cpu, v3).llvm_target() == {
        "kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3", "cl-opt": ["-x86-machine-combiner:bool=false"]}
    assert Isa.of(pi.cpu, pi).fact("int8_dot") is False
    assert Isa.of(pi.cpu, pi).fact("no such", 3) == 3


def test_a_level_asks_for_all_that_the_lower_one_asks_for() -> None:
    for lower, upper in (("x86-64-v3", "x86-64-v4"), ("x86-64-v4", "zen4"), ("zen4", "zen5"), ("cortex-a72", "cortex-a76")):
        assert set(find(lower).requires) < set(find(upper).requires)


def test_emulators() -> None:
    assert find("rpi4").emulator == ("qemu-aarch64", "-cpu", "cortex-a72")
    assert find("x86-64-v4").emulator == ()


def test_every_figure_has_its_source_beside_it() -> None:
    for machine in known().values():
        figures = [("unit", u.name, fact) for u in machine.units.values() for fact, v in u.facts.items() if fact != "fma_per_cycle"]
        figures += [("memory", name, fact) for name, facts in machine.memories.items() for fact in facts]
        figures += [("target", "", fact) for fact in ("clock", "requires") if machine.name not in PARTS]
        missing = [figure for figure in figures if figure not in machine.sources]
        assert missing == [], f"{machine.name} ({machine.path}) gives no source for {missing}"


def test_no_source_refers_to_another_line() -> None:
    for file in access.files("targets", "**/*.target"):
        assert not re.search(r"# *(likewise|ditto|see above)", file.read_text()), file


# ---- how they are shown

def test_a_description_is_one_screen_with_sources() -> None:
    text = describe(find("rpi4"))
    assert len(text.splitlines()) <= 45
    assert max(map(len, text.splitlines())) <= 160
    assert text.startswith("raspberrypi4: Raspberry Pi 4 Model B")
    assert "(from cortex-a72, armv8-a)" in text.splitlines()[0]
    assert re.search(r"clock +1.8 GHz +# Raspberry Pi documentation", text)
    assert re.search(r"memory l2\n +size +1 MiB +# BCM2711", text)


def test_a_source_is_the_comment_beside_a_line_or_right_above_it() -> None:
    made = from_text("""target a {
      # above,
      # in two lines
      x = "#no"
      y = "a # b"   # beside "it"
      z = 1
    }""")
    assert made.sources == {("target", "", "x"): "above, in two lines", ("target", "", "y"): 'beside "it"'}


def test_the_list_has_a_line_for_each() -> None:
    lines = listing().splitlines()
    assert lines[0].startswith("host ")
    assert len(lines) == len(known()) + 1
    assert any(re.match(r"raspberrypi4, rpi4, pi4 +Raspberry Pi 4", line) for line in lines)


def test_the_readme_explains_every_fact() -> None:
    readme = (access.folder("targets") / "README.md").read_text()
    for facts in FACTS.values():
        for name in facts:
            assert f"`{name}`" in readme, name
    for name in NODE_FACTS:
        assert f"`{name}`" in readme, name


def test_the_example_board_works(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Path(access.folder("targets")).parent / "examples" / "a_target" / "my-board.target"
    machine = find(board)
    assert machine.name == "my-board"
    assert machine.verdict("cpu", "Conv", {"dtype": "f32", "macs": 8}).runs
    monkeypatch.setenv("EDGEC_TARGETS", str(board.parent))
    assert find("my-board") == machine


# ---- the machine one is on

X86 = """processor\t: 0
vendor_id\t: {vendor}
cpu family\t: {family}
model name\t: Some "CPU" @ 3.00GHz
physical id\t: 0
core id\t\t: 0
bogomips\t: 5192.24
flags\t\t: constant_tsc {flags}

processor\t: 1
vendor_id\t: {vendor}
cpu family\t: {family}
physical id\t: 0
core id\t\t: 0
flags\t\t: constant_tsc {flags}

processor\t: 2
vendor_id\t: {vendor}
physical id\t: 0
core id\t\t: 1
flags\t\t: constant_tsc {flags}
"""
ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU part\t: {part}

processor\t: 1
Features\t: {features}
CPU part\t: {part}

Hardware\t: BCM2835
"""
ALL_X86 = " ".join(known()["zen5"].requires)
WITHOUT_VNNI = " ".join(f for f in ALL_X86.split() if "vnni" not in f)


def detected(tmp_path: Path, cpuinfo: str, machine: str, system: dict[str, str] | None = None) -> Target:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    for name, content in (system or {}).items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(content + "\n")
    said = {s.said.name: s for file in access.files("targets", "**/*.target") for s in parse(file.read_text(), str(file))}
    return from_text(host_text(said, tmp_path / "cpuinfo", tmp_path / "sys", machine))


@pytest.mark.parametrize(("vendor", "family", "flags", "parent"), [
    ("AuthenticAMD", "26", ALL_X86, "zen5"),
    ("AuthenticAMD", "25", ALL_X86, "zen4"),
    ("AuthenticAMD", "25", " ".join(known()["x86-64-v3"].requires), "zen3"),
    ("AuthenticAMD", "26", ALL_X86.replace("gfni", ""), "x86-64-v4"),
    ("GenuineIntel", "6", ALL_X86, "icelake"),
    ("GenuineIntel", "6", ALL_X86 + " amx_tile avx512_fp16", "sapphirerapids"),
    ("GenuineIntel", "6", ALL_X86.replace("avx512_vbmi2", ""), "cascadelake"),
    ("GenuineIntel", "6", ALL_X86.replace("avx512bw", ""), "alderlake"),
    ("GenuineIntel", "6", WITHOUT_VNNI, "x86-64-v4"),
    ("GenuineIntel", "6", WITHOUT_VNNI.replace("avx512bw", ""), "x86-64-v3"),
])
def test_the_nearest_core_that_this_machine_can_run(tmp_path: Path, vendor: str, family: str, flags: str, parent: str) -> None:
    host = detected(tmp_path, X86.format(vendor=vendor, family=family, flags=flags), "x86_64")
    assert (host.name, host.parents[-1]) == ("host", parent)
    assert host.doc == 'this machine: Some "CPU" @ 3.00GHz'
    assert host.facts["cores"] == 2


@pytest.mark.parametrize(("part", "features", "parent"), [
    ("0xd08", "fp asimd crc32", "cortex-a72"), ("0xd03", "fp asimd", "cortex-a53"),
    ("0xd0b", "fp asimd asimdrdm asimddp fphp asimdhp", "cortex-a76"),
    ("0xd0b", "fp asimd", "armv8-a"), ("0xd4f", "fp asimd asimdrdm asimddp fphp asimdhp sve", "armv8-a"),
])
def test_arm_cores(tmp_path: Path, part: str, features: str, parent: str) -> None:
    host = detected(tmp_path, ARM.format(part=part, features=features), "aarch64")
    assert host.parents[-1] == parent
    assert host.facts["cores"] == 2
    assert host.doc == f"this machine: part {part}"
    assert host.facts["clock"] == find(parent).facts["clock"]


def test_caches_and_clock_by_sys(tmp_path: Path) -> None:
    system = {"cpu0/cpufreq/cpuinfo_max_freq": "4500000", "cpu1/cpufreq/cpuinfo_max_freq": "4700000"}
    told = ["1 Data 48K 0-1", "1 Instruction 32K 0-1", "2 Unified 2048K 0,1", "3 Unified 36M 0-15,32"]
    for i, (level, kind, size, sharing) in enumerate(map(str.split, told)):
        folder = f"cpu0/cache/index{i}"
        system |= {f"{folder}/level": level, f"{folder}/type": kind, f"{folder}/size": size, f"{folder}/shared_cpu_list": sharing,
                   f"{folder}/coherency_line_size": "64"}
    host = detected(tmp_path, X86.format(vendor="GenuineIntel", family="6", flags=ALL_X86), "x86_64", system)
    assert host.facts["clock"] == 4_700_000_000
    assert {name: (m.get("size"), m.get("line"), m.get("shared")) for name, m in host.memories.items() if name != "dram"} == {
        "l1d": (48 * 2**10, 64, 1), "l2": (2 * 2**20, 64, 1), "l3": (36 * 2**20, 64, 8)}
    assert host.memories["l3"]["bytes_per_cycle"] == find("icelake").memories["l3"]["bytes_per_cycle"]


def test_a_third_level_that_is_not_there(tmp_path: Path) -> None:
    system = {"cpu0/cache/index0/level": "1", "cpu0/cache/index0/type": "Data", "cpu0/cache/index0/size": "32K"}
    host = detected(tmp_path, X86.format(vendor="GenuineIntel", family="6", flags=ALL_X86), "x86_64", system)
    assert host.memories["l3"]["size"] == 0
    assert Isa.of(host.cpu, host).l3_bytes == 0


def test_without_a_clock_in_sys(tmp_path: Path) -> None:
    level = detected(tmp_path, X86.format(vendor="GenuineIntel", family="6", flags=WITHOUT_VNNI), "x86_64")
    assert level.facts["clock"] == 2_600_000_000  # half of bogomips, rounded
    core = detected(tmp_path, X86.format(vendor="AuthenticAMD", family="26", flags=ALL_X86), "x86_64")
    assert core.facts["clock"] == find("zen5").facts["clock"]


def test_machines_that_edgec_cannot_build_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot build for the machine it runs on, a riscv64; name another target"):
        detected(tmp_path, "", "riscv64")
    with pytest.raises(UsageError, match=r"this machine lacks .*avx2.*, so it cannot run code for x86-64-v3"):
        detected(tmp_path, X86.format(vendor="GenuineIntel", family="6", flags="sse2"), "x86_64")
    said = {s.said.name: s for file in access.files("targets", "**/*.target") for s in parse(file.read_text(), str(file))}
    with pytest.raises(UsageError, match="cannot be detected without"):
        host_text(said, tmp_path / "nothing", tmp_path, "x86_64")


def test_this_very_machine_is_detected_the_same_twice() -> None:
    host = find("host")
    assert host.name == "host"
    assert host.text() == find("host").text()
    assert from_text(host.text()) == host
