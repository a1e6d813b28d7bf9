"""Pictures of a bundle as SVG: the arena over the steps, and the graph of kernels in layers."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Manifest = Mapping[str, Any]
_COLORS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#e15759", "#76b7b2", "#edc948", "#9c755f")
_WIDTH, _HEIGHT, _LEFT, _TOP = 1160, 380, 86, 14
_BOX, _GAP, _ROW, _TALL = 190, 24, 58, 34
_ROUNDS = 6


def arena(manifest: Manifest) -> str:
    """Each buffer of the arena as a rectangle: across the steps in which it is needed, up its bytes; lines at lower bound and end."""
    sizes, buffers = manifest["sizes"], manifest["buffers"]
    life = lifetimes(manifest)
    total, steps = sizes["arena_bytes"], len(manifest["steps"])
    if not life or not total:
        return '<p class="about">There is no arena: all values lie in inputs, outputs and weights.</p>'
    across, up = (_WIDTH - _LEFT - 130) / steps, _HEIGHT / total
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _TOP + 40}" width="{_WIDTH}" role="img" aria-label="the arena">']
    for number, (first, last) in life.items():
        b = buffers[number]
        x, y = _LEFT + first * across, _TOP + _HEIGHT - (b["offset"] + b["bytes"]) * up
        wide, high = (last - first + 1) * across, b["bytes"] * up
        what = f"{b['name']}: {b['bytes']} bytes at {b['offset']}, steps {first} to {last}"
        parts.append(f'<g class="buffer"><title>{escape(what)}</title><rect x="{x:.2f}" y="{y:.2f}" width="{wide:.2f}" height="{high:.2f}" '
                     f'fill="{_COLORS[number % len(_COLORS)]}" fill-opacity=".75" stroke="#fff" stroke-width=".5"/>'
                     + (_inside(x, y, b["name"], wide) if high > 12 else "") + "</g>")         # noqa: PLR2004 - the height of a letter
    end = _WIDTH - 130
    for what, size, style in (("arena", total, "axis"), ("lower bound", sizes["arena_lower_bound"], "bound")):
        y = _TOP + _HEIGHT - size * up
        close = style == "bound" and abs(size - total) * up < 24                               # noqa: PLR2004 - two lines of text
        parts.append(f'<line class="{style}" x1="{_LEFT}" x2="{end}" y1="{y:.2f}" y2="{y:.2f}"/>'
                     f'<text x="{end + 6}" y="{y + (28 if close else 4):.2f}">{what}</text>'
                     f'<text class="soft" x="{end + 6}" y="{y + (40 if close else 16):.2f}">{size} bytes</text>')
    base = _TOP + _HEIGHT
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{end}" y1="{base}" y2="{base}"/>')
    for quarter in range(5):
        y = _TOP + _HEIGHT * (1 - quarter / 4)
        parts.append(f'<text class="soft" x="{_LEFT - 6}" y="{y + 4:.2f}" text-anchor="end">{total * quarter // 4}</text>')
    every = max(1, -(-steps // 20))
    parts += [f'<text class="soft" x="{_LEFT + (i + 0.5) * across:.2f}" y="{base + 16}" text-anchor="middle">{i}</text>'
              for i in range(0, steps, every)]
    return "".join([*parts, f'<text class="soft" x="{_LEFT}" y="{base + 34}">step</text></svg>'])


def _inside(x: float, y: float, name: str, width: float) -> str:
    """The end of a name, as much as fits, or nothing."""
    letters = int((width - 6) / 6.2)
    text = name if len(name) <= letters else f"…{name[1 - letters:]}" if letters > 3 else ""     # noqa: PLR2004
    return f'<text x="{x + 3:.2f}" y="{y + 11:.2f}" style="fill:#111">{escape(text)}</text>' if text else ""


def lifetimes(manifest: Manifest) -> dict[int, tuple[int, int]]:
    """The first and last step that touch each buffer of the arena, by its number."""
    life: dict[int, tuple[int, int]] = {}
    for i, step in enumerate(manifest["steps"]):
        for number in (o["buffer"] for o in step["operands"] if _in_arena(manifest["buffers"][o["buffer"]])):
            life[number] = (life.get(number, (i, i))[0], i)
    return life


def _in_arena(buffer: Mapping[str, Any]) -> bool:
    return bool(buffer["region"] == "arena" and buffer["unit"] == "cpu")


def edges(manifest: Manifest) -> list[tuple[int, int]]:
    """(maker, reader) pairs of steps. An input of the model is -1 - its buffer; whoever reads a buffer reads all that wrote there."""
    writers: dict[int, list[int]] = {}
    found: list[tuple[int, int]] = []
    for i, step in enumerate(manifest["steps"]):
        for number in dict.fromkeys(o["buffer"] for o in step["operands"] if not o["write"]):
            if manifest["buffers"][number]["region"] == "input":
                found.append((-1 - number, i))
            found += [(maker, i) for maker in writers.get(number, ())]
        for number in dict.fromkeys(o["buffer"] for o in step["operands"] if o["write"]):
            writers.setdefault(number, []).append(i)
    return list(dict.fromkeys(found))


def flow(manifest: Manifest) -> str:
    """The kernels from top to bottom, each below all whose results it reads."""
    steps, pairs = manifest["steps"], edges(manifest)
    nodes = [*dict.fromkeys(a for a, _ in pairs if a < 0), *range(len(steps))]
    if not steps:
        return '<p class="about">No kernel runs: the results are known, or views of the inputs.</p>'
    rows = _rows(nodes, pairs)
    widest = max(map(len, rows))
    width = max(widest * (_BOX + _GAP) + 120, 420)
    at = {node: (width / 2 + (i - (len(row) - 1) / 2) * (_BOX + _GAP), 8 + k * _ROW)
          for k, row in enumerate(rows) for i, node in enumerate(row)}
    level = {node: k for k, row in enumerate(rows) for node in row}
    parts = [f'<svg viewBox="0 0 {width:.0f} {len(rows) * _ROW + 8}" width="{width:.0f}" role="img" aria-label="the graph of kernels">']
    for a, b in pairs:
        (x1, y1), (x2, y2) = at[a], at[b]
        y1, around = y1 + _TALL, 0.0
        if level[b] - level[a] > 1:  # past the boxes between: a curve goes three quarters of the way to its handles
            around = 4 / 3 * (_BOX / 2 + 14 + 5 * min(level[b] - level[a], 12)) * (1 if x1 <= width / 2 else -1)
        parts.append(f'<path class="edge" d="M{x1:.1f} {y1:.1f} C{x1 + around:.1f} {y1 + 18:.1f} {x2 + around:.1f} {y2 - 18:.1f} '
                     f'{x2:.1f} {y2:.1f}"/>')
    return "".join([*parts, *(_box(manifest, node, *at[node]) for node in nodes), "</svg>"])


def _rows(nodes: Sequence[int], pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The nodes by level, each level in the order that keeps them near what they are connected with."""
    level: dict[int, int] = {}
    sources: dict[int, list[int]] = {}
    readers: dict[int, list[int]] = {}
    for a, b in pairs:
        sources.setdefault(b, []).append(a)
        readers.setdefault(a, []).append(b)
    for node in nodes:
        level[node] = 1 + max((level[s] for s in sources.get(node, ())), default=-1)
    rows: list[list[int]] = [[] for _ in range(1 + max(level.values()))]
    for node in nodes:
        rows[level[node]].append(node)
    where = {node: i - len(row) / 2 for row in rows for i, node in enumerate(row)}
    for turn in range(_ROUNDS):
        near = readers if turn % 2 else sources
        for row in (reversed(rows) if turn % 2 else rows):
            row.sort(key=lambda n: sum(where[m] for m in near[n]) / len(near[n]) if n in near else where[n])
            where.update({node: i - len(row) / 2 for i, node in enumerate(row)})
    return rows


def _box(manifest: Manifest, node: int, x: float, y: float) -> str:
    """A rounded box with two lines of text, all of it in the tooltip."""
    if node < 0:
        head, below, style = manifest["buffers"][-1 - node]["name"], "input", "port"
        more = f"the input {head}"
    else:
        step = manifest["steps"][node]
        if "kernel" not in step:
            return _two_lines("port", f"step {node}", f"{step['step']} {step['unit']}", f"{node}: {step['result']}", x, y)
        kernel = manifest["kernels"][step["kernel"]]
        head, below, style = "+".join([step["op"], *step["fused"]]), f"{node}: {kernel['algo']}", "node"
        more = f"step {node}: {head}\n{step['origin']}\nmakes {step['result']}, {kernel['algo']}, {kernel['macs']} multiply-accumulates"
        style += " generic" if kernel["generic"] else ""
    return _two_lines(style, more, head, below, x, y)


def _two_lines(style: str, more: str, head: str, below: str, x: float, y: float) -> str:
    return (f'<g class="{style}"><title>{escape(more)}</title><rect x="{x - _BOX / 2:.1f}" y="{y}" width="{_BOX}" height="{_TALL}" rx="6"/>'
            f'<text x="{x:.1f}" y="{y + 14}" text-anchor="middle">{escape(_short(head))}</text>'
            f'<text class="soft" x="{x:.1f}" y="{y + 28}" text-anchor="middle">{escape(_short(below))}</text></g>')


def _short(text: str, letters: int = 28) -> str:
    return text if len(text) <= letters else f"{text[:letters - 1]}…"
