"""`edgec why`: what became of a node of a model, and why nothing else did."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.commands import options
from edgec.commands.console import Console, table

if TYPE_CHECKING:
    from edgec.why import Kernel, Missed, Story

HELP = "tell what became of a node: rewrites, kernel, time, and the reasons for what did not happen"
_LONG = 48


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec why` takes."""
    parser.add_argument("model", type=Path, help="an ONNX model, or a graph as text (*.edge)")
    parser.add_argument("node", metavar="NODE", help="the name of a node, or of a value, whose maker is meant")
    parser.add_argument("--target", "-t", default="host", help="what it is built for (default: host)")
    options.model_options(parser)
    options.unit_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Tell."""
    from edgec.build import placing, read  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.target import find  # noqa: PLC0415
    from edgec.why import why  # noqa: PLC0415

    machine = find(args.target)
    console.progress("import", 0, 1)
    graph = read(args.model, **options.binding(args), static=True)
    console.progress("passes", 0, 1)
    story = why(graph, args.node, machine, placing(args.units, options.place(args)))
    console.end()
    console.result(_shown(story))
    console.data(asdict(story))
    return 0


def _shown(story: "Story") -> str:
    return "\n".join([f"{story.op} {story.node!r} on {story.target}", *_history(story), *_fate(story),
                      *_list("why it is not one kernel with its neighbors:", story.apart), *_list("notes:", story.notes),
                      *_missed("rules that do not hold at it:", "rule", story.rules), *_missed("units:", "unit", story.units),
                      *_places(story)])


def _history(story: "Story") -> Iterator[str]:
    yield "what was done to it:" if story.events else "no pass touched it"
    for event in story.events:
        yield f"  {event.step}" + (f": {', '.join(event.rewrites)}" if event.rewrites else "")
        if event.before != event.after:
            yield from (f"    - {line}" for line in event.before)
            yield from (f"    + {line}" for line in event.after or ("nothing that carries its name",))


def _fate(story: "Story") -> Iterator[str]:
    if story.steps is None:
        if story.refused:
            yield from _list("no kernel can be made for it:", story.refused)
        else:
            yield from _list("there is no schedule, because of other nodes:", (story.problem or "").splitlines())
        return
    for kernel in story.kernels:
        yield from _kernel(kernel, story)
    yield from _list("no kernel, only another view of memory, or part of a kernel above:", story.views)
    if not story.kernels and not story.views:
        yield "nothing of it runs: it was computed when the model was built, went into its neighbors, or nobody reads it"


def _kernel(k: "Kernel", story: "Story") -> Iterator[str]:
    tasks = f"{k.tasks} task{'s' * (k.tasks != 1)}" + (f" in {k.rounds} rounds" if k.rounds > 1 else "")
    if k.behind:
        tasks += f"; on several threads beside the step before it, {k.behind} round{'s' * (k.behind != 1)} behind"
    yield f"step {k.step} of {story.steps}: {'+'.join(k.ops)}, made of {k.origin}"
    yield f"  result     {k.result}"
    yield f"  algorithm  {k.algo}{' GENERIC' if k.generic is not None else ''}, {tasks}"
    yield f"  plan       {', '.join(f'{name}={_value(value)}' for name, value in k.details.items())}"
    yield (f"  predicted  {k.predicted_us:.2f} us, {k.share:.1%} of the model's {story.total_us:.1f} us; {k.macs} multiply-accumulates, "
           f"{k.bytes} bytes")
    if k.generic is not None:
        yield f"  generic, because {k.generic}"


def _places(story: "Story") -> Iterator[str]:
    for placed in story.placed:
        others = [n for n in placed.nodes if n != story.node]
        yield f"it runs on {placed.unit}" + (f", with {', '.join(others)}" if others else "")
        for offer in placed.offers:
            if offer.us is None or offer.more_us is None:
                yield f"  {offer.unit}  cannot: {offer.reason}"
            else:
                instead = "" if offer.unit == placed.unit else f"; there, the whole run would take {offer.more_us:+.2f} us"
                yield f"  {offer.unit}  {offer.us:.2f} us{instead}"
        yield from (f"  copy {line}" for line in placed.copies)


def _value(value: object) -> str:
    text = str(value).replace(" ", "")
    return text if len(text) <= _LONG else f"{text[:_LONG - 1]}…"


def _list(head: str, lines: "tuple[str, ...] | list[str]") -> list[str]:
    return [head, *(f"  {line.strip()}" for line in lines)] if lines else []


def _missed(head: str, what: str, rows: "tuple[Missed, ...]") -> list[str]:
    if not rows:
        return []
    shown = table([(m.name, m.node, m.reason or "runs it") for m in rows], (what, "node", ""))
    return [head, *(f"  {line}" for line in shown.splitlines())]
