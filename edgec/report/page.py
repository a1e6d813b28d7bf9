"""The page: everything a manifest says, as text, tables and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from edgec.codegen.manifest import calls, kernels_ms
from edgec.report import npu, study
from edgec.report.pictures import arena, flow
from edgec.report.style import CSS, SORT

Manifest = Mapping[str, Any]
_ENERGY = ("The energy counts multiply-accumulates, what kernels read and write in on-chip memory, and weights and interface once from "
           "DRAM, by a table of costs in silicon: trust ratios, not values.")


class Cell(NamedTuple):
    """What stands in a table, the number to sort by where it is one, and classes and style of the cell."""

    text: str
    value: float | None = None
    style: str = ""
    part: float | None = None


def page(manifest: Manifest) -> str:
    """The whole HTML text for a manifest."""
    m = manifest
    target = m["target"]
    about = f"for {target['name']} ({target['triple']}, {target['cpu']})"
    body = "\n".join([
        f"<h1>{escape(m['name'])}</h1>", f'<p class="about">{escape(about)}</p>',
        f'<div class="cards">{"".join(_cards(m))}</div>', f'<p class="about">{escape(_ENERGY)}</p>' if m["report"].get("energy") else "",
        _section("Interface", _table(("", "name", "type", "C name", "bytes"), _ports(m))),
        _section("Kernels", _kernels(m), "Click a column to sort by it. Predicted times are those of one core."),
        _partition(m),
        _section("Arena", f'<div class="wide">{arena(m)}</div>', "Which bytes of working memory hold what, over the steps of a run. The "
                 "dashed line is the most that is alive at one step, scratch memory of kernels left out: no plan can need less."),
        _section("Graph of kernels", f'<div class="wide">{flow(m)}</div>'),
        *(_npu(name, facts) for name, facts in m.get("npus", {}).items()),
        _study(m["study"]) if m.get("study") else "",
        _section("Notes", _items(m["notes"]) if m["notes"] else "<p>none</p>"),
        _section("Sizes", _table(("", "bytes"), [[Cell(_words(k)), _count(v)] for k, v in m["sizes"].items()])),
        _section("How it was made", _table(("", ""), [[Cell(k), Cell(v)] for k, v in _origin(m)])),
        _section("Target", f"<pre>{escape(target['text'])}</pre>") if target["text"] else "",
    ])
    title = escape(f"{m['name']} {about}")
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">\n'
            f"<title>{title}</title>\n<style>{CSS}</style></head>\n<body>\n{body}\n<script>{SORT}</script>\n</body></html>\n")


def _cards(m: Manifest) -> Iterator[str]:
    report, sizes = m["report"], m["sizes"]
    generic = sum(m["kernels"][s["kernel"]]["generic"] for s in calls(m))
    bound = sizes["arena_lower_bound"]
    energy = report.get("energy")
    parts = ", ".join(f"{unit} {ms:.3f}" for unit, ms in report.get("units_ms", {}).items())
    yield _card(f"{report['predicted_ms']:.3f} ms", f"predicted, one after the other: {parts}" if parts else "predicted on one core")
    yield _card(str(report["kernels"]), f"kernels, {generic or 'none'} of them generic, {len(m['kernels'])} functions")
    yield _card(f"{report['macs'] / 1e6:.2f} M", "multiply-accumulates")
    yield _card(_size(sizes["weights_bytes"]), f"weights, {report['weight_sparsity']:.1%} of them zero")
    yield _card(_size(sizes["arena_bytes"]), f"arena, {sizes['arena_bytes'] / bound:.3f} of its lower bound" if bound else "arena")
    yield _card(_size(sizes["code_bytes"]), "code")
    if energy:
        yield _card(f"{energy['value'] * 1e3:.3g} mJ", f"energy of a run by the table {energy['table']}")


def _card(figure: str, what: str) -> str:
    return f'<div class="card"><b>{escape(figure)}</b><span>{escape(what)}</span></div>'


def _ports(m: Manifest) -> Iterator[list[Cell]]:
    for side in ("inputs", "outputs"):
        for p in m[side]:
            size = m["buffers"][p["buffer"]]["bytes"]
            yield [Cell(side[:-1]), Cell(p["name"]), Cell(f"{p['dtype']}{p['shape']}"), Cell(p["c_name"]), _count(size)]


def _kernels(m: Manifest) -> str:
    cycles = sum(m["kernels"][s["kernel"]]["cycles"] for s in calls(m))
    us = kernels_ms(m) * 1e3 / cycles if cycles else 0.0
    rows, most = [], max((k["cycles"] for k in m["kernels"].values()), default=0.0)
    for i, step in enumerate(m["steps"]):
        if "kernel" not in step:
            continue
        k = m["kernels"][step["kernel"]]
        share = k["cycles"] / cycles if cycles else 0.0
        rate = k["macs"] / (k["cycles"] * us) / 1e3 if k["cycles"] else 0.0
        rows.append([
            _count(i), Cell("+".join([step["op"], *step["fused"]]), style="long"), Cell(k["kind"]),
            Cell(f"{k['algo']} GENERIC", style="generic") if k["generic"] else Cell(k["algo"]),
            Cell(f"{k['cycles'] * us:.2f}", k["cycles"] * us), Cell(f"{share:.1%}", share, "share", k["cycles"] / most if most else 0.0),
            _count(k["macs"]), Cell(f"{rate:.1f}", rate), _count(k["bytes"]), _count(k["scratch_bytes"]), _count(step["tasks"]),
            *([Cell(k["unit"])] if m.get("units") else ()), Cell(step["origin"], style="long"), Cell(step["result"], style="long")])
    head = ("step", "operators", "kind", "algorithm", "µs", "share", "MACs", "GMAC/s", "bytes", "scratch", "tasks",
            *(["unit"] if m.get("units") else ()), "made of", "result")
    return _table(head, rows, sortable=True)


def _study(facts: Mapping[str, Any]) -> str:
    """What edits of its layers were expected to do, those first that break first."""
    layers = {layer["name"]: layer for layer in facts["layers"]}
    rows = []
    for i, name in enumerate(facts["ranking"], 1):
        layer = layers[name]
        for edit, f in layer["edits"].items():
            time = Cell(("~" if f["guessed"] else "") + f"{-f['us']:+.2f}", -f["us"])
            what = Cell(f"{layer['op']} {study.shape(layer['weight'])}")
            rows.append([_count(i), Cell(name, style="long"), what, Cell(edit), Cell(f"{f['lost']:.2%}", f["lost"]),
                         Cell(f"{f['cosine']:.6f}", f["cosine"]), Cell(f"{f['flips']:.1%}", f["flips"]), time,
                         _count(-round(f["bytes"])), Cell(f"{-f['energy'] * 1e6:+.3g}", -f["energy"])])
    head = ("breaks as", "layer", "weight", "edit", "lost", "cosine", "flips", "µs", "bytes", "µJ")
    about = (f"What edits of each layer of {facts['model']} are expected to do on {facts['target']}, from {facts['samples']} samples: the "
             "share of what distinguishes the results that is lost, results whose largest element becomes another one, and what changes of "
             f"time (~: a guess, for no kernel does it yet), bytes of weights, and energy by the table {facts['energy_table']}.")
    notes = [*facts["warnings"], *(f"{name} was left out: {why}" for name, why in facts["skipped"].items())]
    return _section("Study", f'<div class="wide">{study.picture(facts)}</div>' + (_items(notes) if notes else "")
                    + _table(head, rows, sortable=True), about)


def _partition(m: Manifest) -> str:
    """Units, parts of the graph and copies between memories, of a target that has several units."""
    facts = m.get("partition")
    if not facts:
        return ""
    units = [[Cell(u["name"]), Cell(u["kind"]), _count(u["groups"]), _count(u["nodes"]), _us(u["us"]), _count(u["copies"]),
              _us(u["copies_us"]), _us(u["alone_us"])] for u in facts["units"]]
    names = [u["name"] for u in facts["units"]]
    groups = [[_count(i), Cell(g["operator"]), Cell(g["unit"]), *(_offer(g["offers"][n]) for n in names),
               Cell("+".join(g["nodes"]), style="long")] for i, g in enumerate(facts["groups"])]
    copies = [[Cell(c["tensor"], style="long"), Cell(f"to {c['unit']}" if c["into"] else f"from {c['unit']}"), _count(c["bytes"]),
               _us(c["us"])] for c in facts["copies"]]
    tables = [_table(("unit", "kind", "groups", "nodes", "µs", "copies", "µs of copies", "µs of the model, all that it runs there"), units)]
    tables += [f"<h3>Copies</h3>{_table(('tensor', 'way', 'bytes', 'µs'), copies, sortable=True)}"] if copies else []
    head = ("", "operator", "unit", *(f"µs on {n}" for n in names), "nodes")
    tables += [f"<h3>Groups of nodes</h3>{_table(head, groups, sortable=True)}"]
    return _section("Partition", "\n".join(tables), f"{facts['predicted_us']:.2f} µs when one thing happens after the other. "
                    "A copy to a unit that runs whole regions pays for its start.")


def _offer(offer: Mapping[str, Any]) -> Cell:
    return Cell(offer["reason"], style="long") if "reason" in offer else Cell(f"{offer['us']:.2f}")


def _us(us: float) -> Cell:
    return Cell(f"{us:.2f}", us)


def _npu(name: str, facts: Mapping[str, Any]) -> str:
    """What runs on an NPU, and what its compiler expects of that."""
    figures = _table(("", ""), [[Cell(k), _count(v)] for k, v in npu.regions(facts)])
    rows = [[_count(region), Cell(tensor, style="long"), Cell(operator), _count(cycles), Cell(f"{share:.1%}", share, "share", share),
             _count(macs)] for region, tensor, operator, cycles, share, macs in npu.layers(facts)]
    steps = _table(("region", "tensor", "operator", "cycles", "share", "MACs"), rows, sortable=True)
    return _section(f"NPU {name}", figures + steps, npu.about(facts))


def _origin(m: Manifest) -> Iterator[tuple[str, str]]:
    yield "model (SHA-256)", m["model_sha256"]
    yield "bundle", m["id"]
    yield "runs on", " ".join([m["requires"]["machine"], *m["requires"]["cpu"]])
    yield "passes", ", ".join(m["passes"])
    yield from ((f"option {k}", str(v)) for k, v in m["options"].items())
    yield from ((f"tool {k}", str(v)) for k, v in m["tools"].items())


def _table(head: Sequence[str], rows: Iterator[list[Cell]] | Sequence[list[Cell]], *, sortable: bool = False) -> str:
    """A table whose columns of numbers are those that have one in each row."""
    cells = list(rows)
    numbers = [bool(cells) and all(row[i].value is not None for row in cells) for i in range(len(head))]
    heads = "".join(f'<th{" class=number" if n else ""}>{escape(h)}</th>' for h, n in zip(head, numbers, strict=True))
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in cells)
    top = f"<thead><tr>{heads}</tr></thead>" if any(head) else ""
    return f'<div class="wide"><table{" class=sortable" if sortable else ""}>{top}<tbody>\n{lines}</tbody></table></div>'


def _cell(cell: Cell) -> str:
    names = " ".join(filter(None, ("number" if cell.value is not None else "", cell.style)))
    facts = (f' class="{names}"' if names else "") + (f' data-value="{cell.value!r}"' if cell.value is not None else "")
    facts += f' style="--part:{cell.part:.1%}"' if cell.part is not None else ""
    facts += f' title="{escape(cell.text)}"' if cell.style == "long" else ""
    return f"<td{facts}>{escape(cell.text)}</td>"


def _count(number: int) -> Cell:
    return Cell(f"{number:,}".replace(",", "\u202f"), number)


def _words(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _size(number: int) -> str:
    """Bytes in a unit that leaves few digits."""
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number} B"


def _items(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(t)}</li>' for t in texts)}</ul>"


def _section(head: str, content: str, about: str = "") -> str:
    said = f'<p class="about">{escape(about)}</p>' if about else ""
    return f"<section><h2>{escape(head)}</h2>{said}{content}</section>"
