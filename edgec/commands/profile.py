"""`edgec profile`: the time of each kernel on this machine, and how near it is to what the processor and its memory allow."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.commands import options
from edgec.commands.console import Console, table
from edgec.commands.files import is_bundle
from edgec.errors import BadInput, UsageError

HELP = "measure each kernel of a bundle: GFLOP/s, share of the peak, bytes a second, and what binds it"
_ORDERS = {"time": lambda k: -k["us"], "lost": lambda k: -(k["us"] - (k["floor_us"] or 0.0)), "step": lambda k: k["step"]}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec profile` takes."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="what `edgec build` made for this machine")
    parser.add_argument("--threads", type=options.positive, metavar="N", help="(default: the bundle's)")
    parser.add_argument("--iters", type=options.positive, metavar="N", help="runs to take the median of")
    parser.add_argument("--duration", type=float, default=2.0, metavar="S", help="measure for about so many seconds (default: 2)")
    parser.add_argument("--cpu-time", action="store_true", help="count the processor's time for one thread: on a busy machine")
    parser.add_argument("--sort", choices=tuple(_ORDERS), default="time", help="longest first, most above its floor first, or as they run")
    parser.add_argument("--top", type=options.positive, metavar="N", help="show so many kernels only")
    parser.add_argument("--seed", type=int, default=1, help="of the random inputs (default: 1)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure, and print the table."""
    from edgec.bundle import Bundle  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.profile import profile  # noqa: PLC0415

    if args.duration <= 0:
        raise UsageError("--duration must be more than 0 seconds")
    if not is_bundle(args.bundle):
        raise BadInput(f"{args.bundle} is a model: build it first, edgec build {args.bundle}, and profile the bundle")
    bundle = Bundle(args.bundle)
    threads = args.threads or int(bundle.manifest["options"].get("threads", 1))
    facts = profile(bundle, threads=threads, runs=args.iters, duration=args.duration, seed=abs(args.seed), cpu_time=args.cpu_time)
    facts["kernels"] = sorted(facts["kernels"], key=_ORDERS[args.sort])[:args.top]
    if any(k["unit"] != "cpu" for k in facts["kernels"]):
        console.warn("what runs beside the CPU is timed until it was started, not until it is done")
    if threads > 1 and any(k.get("behind") for k in facts["kernels"]):
        console.warn("layers that a run computes side by side on several threads are timed one after the other")
    console.result(_shown(facts))
    console.data(facts)
    return 0


def _shown(facts: Mapping[str, Any]) -> str:
    peak, rate = facts["peak_gflops"], f", {facts['gflops']:.1f} GFLOP/s" if facts["gflops"] else ""
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    head = ("step", "operators", "algorithm", "us", "share", "GFLOP/s", "of peak", "GB/s", "floor us", "floor/us", "bound", "predicted", "")
    measured = f"{facts['us']:.2f} us, the median of {facts['runs']} runs{rate}"
    lines = [
        f"{facts['model']} for {facts['target']}, {threads}: {measured}",
        f"floor {facts['floor_us']:.2f} us, predicted {facts['predicted_us']:.2f} us on one core",
        f"peak of a core {peak['measured']:.1f} GFLOP/s by a loop of multiply-adds just now, {peak['facts']:.1f} by the target's facts",
        table(map(_row, facts["kernels"]), head, right=(0, 3, 4, 5, 6, 7, 8, 9, 11))]
    if any("winograd" in str(k["algo"]) for k in facts["kernels"]):
        lines.append("GFLOP/s of Winograd's kernels count the multiplications of the plain method, of which they need fewer")
    return "\n".join(lines)


def _row(k: Mapping[str, Any]) -> tuple[object, ...]:
    of_floor = k["floor_us"] / k["us"] if k["floor_us"] is not None and k["us"] else None
    share = f"{k['share']:.1%}"
    limits = (_number(k["floor_us"], ".2f"), _number(of_floor, ".0%"), k["bound"] or "", f"{k['predicted_us']:.2f}", _short(k["origin"]))
    return (k["step"], k["op"], k["algo"], f"{k['us']:.2f}", share, _number(k["gflops"], ".1f"), _number(k["peak_share"], ".0%"),
            _number(k["gbps"], ".1f"), *limits)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _short(text: str, letters: int = 40) -> str:
    return text if len(text) <= letters else f"{text[:letters - 1]}…"
