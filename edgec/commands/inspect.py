"""`edgec inspect`: what is in a model, or in a bundle."""

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.commands import options
from edgec.commands.console import Console, table
from edgec.commands.files import is_bundle
from edgec.errors import BadInput, UnsupportedModel

HELP = "show what a model or a bundle holds"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec inspect` takes."""
    parser.add_argument("model", type=Path, metavar="MODEL|BUNDLE", help="an ONNX model, a graph as text (*.edge), or a bundle")
    parser.add_argument("--target", "-t", default="host", help="what a model is planned for (default: host)")
    options.model_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Show a bundle or a model."""
    if is_bundle(args.model):
        facts = bundle_facts(args.model)
        console.result(_show_bundle(facts))
    else:
        facts = model_facts(args)
        console.result(_show_model(facts))
    console.data(facts)
    return 0


def bundle_facts(path: Path) -> dict[str, Any]:
    """The facts of a bundle: sizes, figures, and each kernel in the order in which they run."""
    from edgec.codegen.manifest import calls, kernels_ms, read_manifest  # noqa: PLC0415

    manifest = read_manifest(path)
    report, sizes = manifest["report"], manifest["sizes"]
    cycles = sum(manifest["kernels"][s["kernel"]]["cycles"] for s in calls(manifest))
    us = kernels_ms(manifest) * 1e3 / cycles if cycles else 0.0
    kernels = []
    for step in calls(manifest):
        k = manifest["kernels"][step["kernel"]]
        kernels.append({"op": step["op"], "fused": step["fused"], "kind": k["kind"], "origin": step["origin"], "algo": k["algo"],
                        "generic": k["generic"], "predicted_us": k["cycles"] * us, "macs": k["macs"], "bytes": k["bytes"],
                        "scratch_bytes": k["scratch_bytes"], "tasks": step["tasks"], "symbol": k["function"], "result": step["result"],
                        "unit": k["unit"]})
    return {
        "name": manifest["name"], "target": manifest["target"]["name"], "cpu": manifest["target"]["cpu"], "requires": manifest["requires"],
        "model_sha256": manifest["model_sha256"], "tools": manifest["tools"],
        **{side: [{k: p[k] for k in ("name", "dtype", "shape")} for p in manifest[side]] for side in ("inputs", "outputs")},
        **{k: sizes[k] for k in ("arena_bytes", "arena_lower_bound", "weights_bytes", "code_bytes", "state_bytes", "prepared_bytes")},
        **{k: report[k] for k in ("macs", "predicted_ms", "weight_sparsity")},
        "energy": report.get("energy"), "notes": manifest["notes"], "kernels": kernels,
    }


def _show_bundle(facts: Mapping[str, Any]) -> str:
    several = any(k["unit"] != "cpu" for k in facts["kernels"])
    rows = [(i, "+".join([k["op"], *k["fused"]]), k["kind"], k["algo"] + (" GENERIC" if k["generic"] else ""), f"{k['predicted_us']:.1f}",
             f"{k['macs'] / 1e6:.2f}", k["bytes"], k["scratch_bytes"], *([k["unit"]] if several else ()), k["origin"])
            for i, k in enumerate(facts["kernels"])]
    head = ("", "op", "kind", "algorithm", "us", "Mmac", "bytes", "scratch", *(["unit"] if several else ()), "origin")
    bound = facts["arena_lower_bound"]
    generic = sum(k["generic"] for k in facts["kernels"])
    energy = facts["energy"]
    return "\n".join([
        f"{facts['name']} for {facts['target']} ({facts['cpu']})",
        *(f"  {side[:-1]:6}  {p['name']} {p['dtype']}{p['shape']}" for side in ("inputs", "outputs") for p in facts[side]),
        table(rows, head, right=(0, 4, 5, 6, 7)),
        f"kernels    {len(rows)}, {generic or 'none'} of them generic",
        f"predicted  {facts['predicted_ms']:.3f} ms{'' if several else ' on one core'}, {facts['macs'] / 1e6:.1f} M multiply-accumulates",
        f"arena      {facts['arena_bytes']} bytes" + (f", {facts['arena_bytes'] / bound:.3f} of the lower bound {bound}" if bound else ""),
        f"weights    {facts['weights_bytes']} bytes, {facts['weight_sparsity']:.1%} of them zero",
        f"code       {facts['code_bytes']} bytes",
        *([f"energy     {energy['value']:.3g} J by the table {energy['table']}"] if energy else []),
    ])


def model_facts(args: argparse.Namespace) -> dict[str, Any]:
    """The facts of a model: interface, operators, sizes, and what a build for the target would say."""
    from edgec.build import compile_graph, read  # noqa: PLC0415 - slow to load
    from edgec.lang.text import show_type  # noqa: PLC0415

    bound = options.binding(args)
    facts: dict[str, Any] = {"model": str(args.model)}
    try:
        graph = read(args.model, **bound)
    except UnsupportedModel as error:
        return facts | {"unsupported": list(error.nodes), "problem": str(error)}
    arrays = graph.weights.values()
    ops = Counter(n.op for _, n in graph.walk())
    facts |= {
        **{side: [{"name": v.name, "type": show_type(v.type) if v.type else None} for v in values]
           for side, values in (("inputs", graph.inputs), ("outputs", graph.outputs))},
        "nodes": sum(ops.values()), "ops": dict(ops.most_common()),
        "parameters": sum(a.size for a in arrays), "weights_bytes": sum(a.nbytes for a in arrays),
        "target": args.target, "macs": None, "predicted_ms": None, "kernels": None, "generic": [], "unsupported": [], "problem": None,
    }
    try:
        notes: list[str] = []
        made = compile_graph(read(args.model, **bound, static=True, notes=notes), args.target, args.model.stem)
    except UnsupportedModel as error:
        return facts | {"unsupported": list(error.nodes), "problem": str(error)}
    except BadInput as error:
        return facts | {"problem": str(error)}
    from edgec.build import report  # noqa: PLC0415

    program = made.schedule.program
    generic = [s.origin for s in program.calls if program.kernels[s.kernel].generic]
    return facts | {k: v for k, v in report(made).items() if k in facts} | {"generic": generic, "notes": [*notes, *made.context.notes]}


def _show_model(facts: Mapping[str, Any]) -> str:
    if "nodes" not in facts:
        return f"{facts['model']}\n{facts['problem']}"
    if facts["problem"] is None:
        figures = (f"{facts['kernels']} kernels, {len(facts['generic']) or 'none'} of them generic, {facts['macs'] / 1e6:.1f} M "
                   f"multiply-accumulates, {facts['predicted_ms']:.3f} ms predicted on one core")
        planned = [f"for {facts['target']}: {figures}", *(f"  generic: {origin}" for origin in facts["generic"]),
                   *(f"  {n}" for n in facts["notes"])]
    else:
        planned = [f"for {facts['target']}: {facts['problem']}"]
    return "\n".join([
        str(facts["model"]),
        *(f"  {side[:-1]:6}  {p['name']}: {p['type']}" for side in ("inputs", "outputs") for p in facts[side]),
        f"{facts['nodes']} nodes, {facts['parameters']} parameters in {facts['weights_bytes']} bytes",
        table(((op, n) for op, n in facts["ops"].items()), ("operator", "nodes"), right=(1,)),
        *planned,
    ])


