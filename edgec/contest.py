"""Bundles of one model and other runtimes take turns on this machine: who takes how long, and how many times as long."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec import peers
from edgec.bundle import Bundle
from edgec.errors import UnsupportedModel
from edgec.interface import recorded
from edgec.measure import BLOCK_SECONDS, Times, pinned, race, ratio
from edgec.samples import draw
from edgec.session import Session
from edgec.verify import WINOGRAD, agreement, onnx_model, source

Array = npt.NDArray[Any]
FROM_C = " from C"
"""Behind the name of a contestant that is called without what calls cost in Python."""
_MOST, _SHORTEST = 10_000, 1e-7   # runs that another machine makes in a block, and seconds that a run takes
_SETTLE = 0.015   # seconds after which no runtime's threads spin any more; whoever is next would share a processor with them
_CALL = 5e-4   # seconds of one call of a loop in C, beside which the call itself is nothing


@dataclass(frozen=True)
class Rules:
    """How long is measured: until `duration` seconds have passed by `clock`, or `iterations` runs of each.

    `from_c` lets loops in C run, too.
    """

    threads: int
    warmup: int = 3
    iterations: int | None = None
    duration: float = 3.0
    seed: int = 1
    from_c: bool = False
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Contest:
    """What was measured: the times of each contestant, and the largest error of each other bundle and each peer against the first bundle.

    `refused` says of peers that take no part why; `checked` by how much a peer that is fed with something else than the model's file is
    off what ONNX Runtime computes.
    """

    times: Mapping[str, Times]
    errors: Mapping[str, float | None]
    bundles: Sequence[str]
    peers: Mapping[str, peers.Peer]
    emulator: str
    cores: Sequence[int]
    refused: Mapping[str, str]
    checked: Mapping[str, Mapping[str, Any]]

    def against(self, ours: str, peer: str) -> dict[str, Any]:
        """A peer's times, and how many times as long `ours` takes, with the interval that holds the true ratio with 95 %."""
        facts = {**self._against(ours, peer), "fed": "run", "version": self.peers[peer].version, "precision": self.peers[peer].precision,
                 "settings": dict(self.peers[peer].settings), "error": self.errors[peer]}
        if peer in self.checked:
            facts |= {"made_with": dict(self.peers[peer].parts), "checked": dict(self.checked[peer])}
        if ours + FROM_C in self.times:
            facts["from_c"] = {**self._against(ours + FROM_C, peer + FROM_C), "fed": "arrays bound once"}
        return facts

    def beside(self, ours: str, other: str) -> dict[str, Any]:
        """The same of another bundle."""
        facts = {**self._against(ours, other), "error": self.errors.get(other)}
        if ours + FROM_C in self.times:
            facts["from_c"] = self._against(ours + FROM_C, other + FROM_C)
        return facts

    def _against(self, ours: str, theirs: str) -> dict[str, Any]:
        found = ratio(self.times[ours], self.times[theirs])
        return {**self.times[theirs].summary(), "ratio": found.value, "interval": [found.low, found.high]}

    def best(self, ours: str) -> dict[str, Any] | None:
        """The fastest peer, and the ratio to it; None without peers."""
        if not self.peers:
            return None
        name = min(self.peers, key=lambda n: self.times[n].quantile(0.5))
        facts = {"peer": name, **_ratio(self._against(ours, name))}
        if ours + FROM_C in self.times:
            name = min(self.peers, key=lambda n: self.times[n + FROM_C].quantile(0.5))
            facts["from_c"] = {"peer": name, **_ratio(self._against(ours + FROM_C, name + FROM_C))}
        return facts

    def shown(self, contestant: str) -> str:
        """What a contestant is called: a peer's loop is Python's, on arrays that are bound."""
        peer = contestant.removesuffix(FROM_C)
        return f"{peer} bound" if peer != contestant and peer in self.peers else contestant

    def facts(self, name: str, bundle: Bundle) -> dict[str, Any]:
        """All that was measured of a bundle and its peers, as JSON has it."""
        manifest = bundle.manifest
        loop = self.times.get(name + FROM_C)
        return {"model": manifest["name"], "target": manifest["target"]["name"], "cores": list(self.cores),
                "emulator": self.emulator or None, "block_ms": BLOCK_SECONDS * 1e3, **self.times[name].summary(),
                **({"from_c": loop.summary()} if loop is not None else {}), "predicted_ms": manifest["report"]["predicted_ms"],
                "bundles": {b: self.beside(name, b) for b in self.bundles if b != name},
                "peers": {p: self.against(name, p) for p in self.peers}, "refused": dict(self.refused), "best": self.best(name)}


def _ratio(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {k: facts[k] for k in ("ratio", "interval")}


def hold(bundles: Mapping[str, Bundle], model: Path | None, names: Sequence[str], rules: Rules) -> Contest:
    """Let bundles of one model, by name, and the runtimes named take turns, on as many of this machine's processors as there are threads.

    Bundles take the same inputs. Each turn lasts 20 ms or one run, and its first run is not counted. Errors are those of loading and
    running the bundles and the peers; a peer that has no operator for something, or computes something else, is left out, and
    UnsupportedModel is raised when none is left.
    """
    with pinned(rules.threads) as cores:
        sessions = {name: b.load(threads=rules.threads) for name, b in bundles.items()}
        first, bundle = next(iter(sessions.values())), next(iter(bundles.values()))
        ports = source(bundle, model).inputs if model is not None and names else ()
        shapes = {v.name: v.dims for v in ports}
        whole = onnx_model(bundle, model) if model is not None else b""
        loaded, refused = _load(names if model is not None else (), whole, rules.threads, shapes)
        feeds = [draw(first.inputs, abs(rules.seed) + i, bundle.manifest.get("input_ranges", {})) for i in range(2)]
        given, checked = feeds, dict[str, Mapping[str, Any]]()
        ours = [first.run(f) for f in feeds]
        errors = {name: _error(ours, [s.run(f) for f in feeds]) for name, s in sessions.items() if s is not first}
        if loaded:
            interface = recorded(bundle.manifest)
            given = [dict(interface.prepare(f, ports)) for f in feeds]  # outside of what is timed
            errors |= {p.name: _error(ours, [interface.deliver(p.run(f)) for f in given]) for p in loaded.values()}
            checked, wrong = _check(loaded, given, whole, shapes, errors)
            refused |= wrong
            loaded = {n: p for n, p in loaded.items() if n not in wrong}
        if refused and not loaded:
            raise UnsupportedModel("; ".join(refused.values()))
        turns: dict[str, Callable[[], object]] = {name: partial(s.run, feeds[0]) for name, s in sessions.items()}
        turns |= {name: partial(p.run, given[0]) for name, p in loaded.items()}
        loops = _loops(sessions, feeds[0]) if rules.from_c else {}
        turns |= {name + FROM_C: run for name, (_, run) in loops.items()}
        turns |= {name + FROM_C: p.bind(given[0]) for name, p in loaded.items()} if loops else {}
        times = race(turns, warmup=rules.warmup, iterations=rules.iterations, duration=rules.duration, clock=rules.clock,
                     settle=_SETTLE if rules.threads > 1 else 0.0)
    for name, (runs, _) in loops.items():
        times[name + FROM_C] = Times([[t / runs for t in block] for block in times[name + FROM_C].blocks])
    return Contest(times, errors, tuple(bundles), loaded, first.emulator, cores, refused, checked)


def _load(names: Sequence[str], model: Path | bytes, threads: int, shapes: peers.Shapes) -> tuple[dict[str, peers.Peer], dict[str, str]]:
    """The peers that can be fed, and why the others cannot."""
    loaded, refused = dict[str, peers.Peer](), dict[str, str]()
    for name in names:
        try:
            loaded[name] = peers.load(name, model, threads, shapes)
        except UnsupportedModel as error:
            refused[name] = str(error)
    return loaded, refused


def _check(
    loaded: Mapping[str, peers.Peer], feeds: Sequence[Mapping[str, Array]], model: Path | bytes, shapes: peers.Shapes,
    errors: Mapping[str, float | None],
) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """How far peers with a format of their own are off ONNX Runtime, and which of them compute something else.

    One that agrees with the bundle, by `errors`, is not wrong: ONNX Runtime's Sigmoid is off by 1e-7, which is much where all is near 0.
    Without ONNX Runtime nothing is checked here: the errors against the bundle are all that is known.
    """
    own = [n for n in peers.CONVERTED if n in loaded]
    if not own or not peers.is_installed("onnxruntime"):
        return {}, {}
    reference = loaded.get("onnxruntime")
    if reference is None or reference.remark:  # one that takes part gets the model as it is, whatever this machine makes of it
        reference = peers.reference(model, shapes)
    expected = [reference.run(f) for f in feeds]
    checked, wrong = dict[str, Mapping[str, Any]](), dict[str, str]()
    for name in own:
        made = [loaded[name].run(f) for f in feeds]
        found = [agreement(v, [m[v] for m in made], [e[v] for e in expected], WINOGRAD) for v in expected[0]]
        error = max((a.error for a in found if a.error is not None), default=None)
        checked[name] = {"by": f"onnxruntime {reference.version}", "error": error}
        ours = errors[name]
        if (bad := [a for a in found if not a.ok]) and (ours is None or ours > WINOGRAD):
            wrong[name] = f"{name} computes something else than onnxruntime: {bad[0].name} {bad[0].why}"
    return checked, wrong


def timed(session: Session, feeds: Mapping[str, Array], rules: Rules) -> Times:
    """The times of a bundle on another machine, by its own clock, in blocks as long as those of `hold`; what ssh costs is not in them."""
    times, count, end = Times(), max(rules.warmup, 1), time.monotonic() + rules.duration
    typical = median(session.times(feeds, count))
    while (done := len(times.runs)) < rules.iterations if rules.iterations is not None else not times.blocks or time.monotonic() < end:
        count = max(1, min(_MOST, round(BLOCK_SECONDS / max(typical, _SHORTEST))))
        times.blocks.append(session.times(feeds, count if rules.iterations is None else min(count, rules.iterations - done)))
        typical = median(times.blocks[-1])
    return times


def _loops(sessions: Mapping[str, Session], feeds: Mapping[str, Array]) -> dict[str, tuple[int, Callable[[], object]]]:
    """For each bundle a loop in C and how many runs it makes: so many that Python's call of it counts for nothing."""
    made = dict[str, tuple[int, Callable[[], object]]]()
    for name, session in sessions.items():
        clock = session.clock(feeds)
        seconds = max(float(np.median(clock.steps(5).sum(axis=1))), 1e-7)
        runs = max(1, int(_CALL / seconds))
        made[name] = runs, partial(clock.repeat, runs)
    return made


def _error(ours: list[dict[str, Array]], theirs: list[dict[str, Array]]) -> float | None:
    """The largest error of any output against a peer's, None when they cannot be compared."""
    found = [agreement(name, [o[name] for o in ours], [t[name] for t in theirs]) for name in ours[0] if name in theirs[0]]
    errors = [a.error for a in found if a.error is not None]
    return max(errors) if errors and all(a.error is not None or a.ok for a in found) else None
