"""The machine that edgec runs on, as a `.target` text: its core by /proc/cpuinfo, its caches and clock by /sys."""

import json
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgec.errors import UsageError
from edgec.machine import Target, show
from edgec.target_read import Said, resolve

HOST = "host"
"""The name of the target that is detected."""
CPUINFO = Path("/proc/cpuinfo")
SYSTEM = Path("/sys/devices/system/cpu")
_IDENTITY = ("vendor_id", "cpu family", "model", "model name", "stepping",
             "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision")
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def host_text(said: Mapping[str, Said], cpuinfo: Path = CPUINFO, system: Path = SYSTEM, machine: str = "") -> str:
    """A target `host` that inherits from the nearest known core and adds what this machine says of itself.

    Nothing is measured and nothing that changes while the machine runs is read, so the same machine always gives the same text.
    UsageError when the machine has no /proc/cpuinfo, another architecture, or lacks what every known core of its architecture has.
    """
    machine = machine or platform.machine()
    architecture = _ARCHITECTURES.get(machine.lower())
    if architecture is None:
        raise UsageError(f"edgec cannot build for the machine it runs on, a {machine}; name another target with --target")
    try:
        processors = _processors(cpuinfo.read_text("utf-8", errors="replace"))
    except OSError as wrong:
        raise UsageError(f"the machine edgec runs on cannot be detected without {cpuinfo}; name it with --target") from wrong
    parent = _nearest(said, architecture, processors)
    lines = [f"cores = {_cores(processors)}"]
    clock = _highest_clock(system) or (0 if said[parent.name].own("detect") else _steady_clock(processors))
    if clock:
        lines.append(f"clock = {show('target', 'clock', clock)}")
    lines += [f"memory {name} {{ {'  '.join(facts)} }}" for name, facts in _caches(system).items()]
    model = processors[0].get("model name", "") or f"part {processors[0].get('CPU part', 'unknown')}"
    body = "".join(f"  {line}\n" for line in lines)
    return f"target {HOST} : {parent.name} {json.dumps(f'this machine: {model}', ensure_ascii=False)} {{\n{body}}}\n"


def _processors(text: str) -> list[dict[str, str]]:
    """What /proc/cpuinfo says, processor by processor."""
    blocks = ([line.partition(":") for line in block.splitlines() if ":" in line] for block in text.split("\n\n"))
    found = [{key.strip(): value.strip() for key, _, value in block} for block in blocks]
    return [p for p in found if "processor" in p] or [{}]


def identity(cpuinfo: Path = CPUINFO) -> str:
    """What tells this machine's core from another one: who made it, and which design and revision it is; empty where nobody says."""
    try:
        first = _processors(cpuinfo.read_text("utf-8", errors="replace"))[0]
    except OSError:
        return ""
    return ", ".join(f"{key} {first[key]}" for key in _IDENTITY if key in first)


def lacks(needed: Iterable[str], cpuinfo: Path = CPUINFO) -> list[str]:
    """Those of the CPU features, as /proc/cpuinfo calls them, that this machine does not have on all of its cores."""
    try:
        features = _features(_processors(cpuinfo.read_text("utf-8", errors="replace")))
    except OSError:
        features = set()
    return [f for f in needed if f not in features]


def _features(processors: list[dict[str, str]]) -> set[str]:
    """The features of all cores; the kernel lists AVX-512 only when it also saves its registers."""
    return set.intersection(*(set((p.get("flags") or p.get("Features") or "").split()) for p in processors))


def _nearest(said: Mapping[str, Said], architecture: str, processors: list[dict[str, str]]) -> Target:
    """The known core that says most about this machine and asks nothing of it that it lacks."""
    lines = {f"{key}: {value}" for key, value in processors[0].items()}
    offered = [(detect, resolve(name, said)) for name, s in said.items() if (detect := s.own("detect")) is not None]
    alike = [(detect, t) for detect, t in offered if {**t.facts, **t.cpu.facts}["triple"].startswith(architecture)]
    features = _features(processors)
    fitting = [(len(detect), len(t.requires), t) for detect, t in alike if set(detect) <= lines and set(t.requires) <= features]
    if fitting:
        return max(fitting, key=lambda f: f[:2])[2]
    least = min((t for _, t in alike), key=lambda t: (len(t.requires), len(t.parents)))
    missing = ", ".join(f for f in least.requires if f not in features)
    raise UsageError(f"this machine lacks {missing}, so it cannot run code for {least.name}, the least that edgec builds for; "
                     "name another target with --target")


def _cores(processors: list[dict[str, str]]) -> int:
    """Cores, not threads."""
    if all("core id" in p for p in processors):
        return len({(p.get("physical id"), p["core id"]) for p in processors})
    return len(processors)


def _highest_clock(system: Path) -> int:
    """The highest clock that the kernel knows of, 0 when it knows none, as in most virtual machines.

    `cpu MHz` in /proc/cpuinfo is left alone: it changes with every look.
    """
    return max((int(text) * 1000 for p in system.glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq") if (text := _line(p)).isdigit()), default=0)


def _steady_clock(processors: list[dict[str, str]]) -> int:
    """The clock of an x86 time stamp counter, to a tenth of a GHz: the core's without its turbo. 0 when there is none.

    A core that a target describes has a better figure there: its clock when busy.
    """
    steady = re.fullmatch(r"[\d.]+", processors[0].get("bogomips", ""))
    if steady is None or "constant_tsc" not in processors[0].get("flags", "").split():
        return 0
    return round(float(steady[0]) / 2 / 100) * 10**8


def _caches(system: Path) -> dict[str, list[str]]:
    """The data caches of the first core; once the kernel tells of any, a third level that it does not tell of is not there."""
    found: dict[str, list[str]] = {}
    threads = 0
    for index in sorted(system.glob("cpu0/cache/index[0-9]*")):
        level, kind, size = (_line(index / name) for name in ("level", "type", "size"))
        scale = re.fullmatch(r"(\d+)([KM]?)", size)
        if kind == "Instruction" or scale is None:
            continue
        facts = [f"size = {show('memory', 'size', int(scale[1]) * {'': 1, 'K': 2**10, 'M': 2**20}[scale[2]])}"]
        line = _line(index / "coherency_line_size")
        facts += [f"line = {line} B"] if line.isdigit() and int(line) else []
        sharing = _count(_line(index / "shared_cpu_list"))
        threads = threads or sharing  # the first level belongs to one core, so its users are that core's threads
        facts += [f"shared = {max(1, sharing // threads)}"] if sharing else []
        found["l1d" if level == "1" else f"l{level}"] = facts
    return {**found, "l3": found.get("l3", ["size = 0 B"])} if found else {}


def _count(cpus: str) -> int:
    """How many processors a list such as `0-3,8` names."""
    ends = [part.partition("-") for part in cpus.split(",") if part]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def _line(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""
