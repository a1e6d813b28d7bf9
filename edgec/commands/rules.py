"""`edgec rules`: what the passes know of algebra, proved, and where it is used."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.commands.console import Console, table
from edgec.errors import EdgecError

if TYPE_CHECKING:
    from edgec.rules.match import Rule

HELP = "list the rules, prove them, or count where they are used"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec rules` takes."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prove", action="store_true", help="evaluate each rule before and after on all variations of its examples")
    what.add_argument("--fires", type=Path, nargs="+", metavar="MODEL", help="count how often each rule is used in a build of these models")
    parser.add_argument("--target", "-t", default="host", help="what --fires builds for (default: host)")
    parser.add_argument("names", nargs="*", metavar="RULE", help="only these rules")


def run(args: argparse.Namespace, console: Console) -> int:
    """List, prove, or count; 1 when a rule is not proved."""
    rules = _rules(args.names)
    if args.prove:
        return _prove(rules, console)
    if args.fires:
        return _fires(rules, args, console)
    console.result(table([(r.name, "/".join(r.roots), r.doc) for r in rules], ("rule", "at", "")))
    console.data([{"name": r.name, "doc": r.doc, "place": r.place, "roots": list(r.roots)} for r in rules])
    return 0


def _rules(names: list[str]) -> list["Rule"]:
    """All rules of passes and targets, or those named; UsageError for an unknown name."""
    import difflib  # noqa: PLC0415

    from edgec import access  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.errors import UsageError  # noqa: PLC0415
    from edgec.rules.check import load_files  # noqa: PLC0415

    rules = {r.name: r for room in access.ROOMS for file in access.files(room, "**/*.rules") for r in load_files([file])}
    for name in names:
        if name not in rules:
            near = difflib.get_close_matches(name, rules, 1)
            raise UsageError(f"no rule is called {name}" + (f"; did you mean {near[0]}?" if near else "; `edgec rules` lists all"))
    return [rules[n] for n in names] if names else list(rules.values())


def _prove(rules: list["Rule"], console: Console) -> int:
    from edgec.rules.prove import proof  # noqa: PLC0415

    found = []
    for i, rule in enumerate(rules):
        console.progress("prove", i, len(rules))
        made = proof(rule)
        found.append((rule, made))
        for failure in made.failures:
            console.result(f"{rule.place}: {failure}")
    console.end()
    wrong = sum(bool(made.failures) for _, made in found)
    if console.level > 0:
        console.result(table([(r.name, m.tried, m.fired) for r, m in found], ("rule", "specimens", "fired"), right=(1, 2)))
    console.result(f"{len(rules) - wrong} of {len(rules)} rules proved on {sum(m.fired for _, m in found)} specimens")
    console.data({"ok": not wrong, "rules": [
        {"name": r.name, "ok": not m.failures, "specimens": m.tried, "fired": m.fired, "failures": m.failures} for r, m in found]})
    return 1 if wrong else 0


def _fires(rules: list["Rule"], args: argparse.Namespace, console: Console) -> int:
    from edgec.target import find  # noqa: PLC0415

    machine = find(args.target)
    counts: dict[str, Counter[str]] = {}
    for i, model in enumerate(args.fires):
        console.progress("passes", i, len(args.fires))
        try:
            counts[str(model)] = _trace(model, machine, console)
        except EdgecError as error:
            console.warn(f"{model}: {error}")
    console.end()
    total = {r.name: {m: n for m, c in counts.items() if (n := c[r.name])} for r in rules}
    rows = [(name, sum(found.values()), " ".join(Path(m).stem for m in found)) for name, found in total.items()]
    console.result(table(rows, ("rule", "times", "models"), right=(1,)))
    nowhere = [name for name, found in total.items() if not found]
    console.result(f"{len(nowhere) or 'none'} of {len(rules)} rules are used nowhere in these models" + ":" * bool(nowhere))
    for name in nowhere:
        console.result(f"  {name}")
    console.data({"fires": total, "nowhere": nowhere, "failed": [str(m) for m in args.fires if str(m) not in counts]})
    return 0


def _trace(model: Path, machine: object, console: Console) -> Counter[str]:
    """How often each rewrite was done to a model: by a build's passes where its shapes are known, else by those that need no target."""
    from edgec import access  # noqa: PLC0415
    from edgec.build import read  # noqa: PLC0415
    from edgec.errors import BadInput  # noqa: PLC0415
    from edgec.pipeline import Context, run_passes  # noqa: PLC0415

    known = access.module("passes.catalog")
    try:
        graph, pipeline = read(model, static=model.suffix != ".edge"), known.DEFAULT
    except BadInput as error:
        console.detail(f"{model}: {error}")
        graph, pipeline = read(model), known.PORTABLE
    context = Context(machine)  # type: ignore[arg-type]  # a Target, whose module is not loaded here
    run_passes(graph, pipeline, known.CATALOG, context)
    return Counter(r.name for r in context.trace)
