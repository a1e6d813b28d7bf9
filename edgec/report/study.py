"""The study of a net as a picture: for each layer, how much of the results each edit is expected to lose, on a logarithmic scale."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

from edgec.report.style import SVG

Facts = Mapping[str, Any]
_COLORS = ("#4e79a7", "#76b7b2", "#e15759", "#edc948", "#f28e2b", "#59a14f", "#b07aa1", "#9c755f")
_LEFT, _WIDE, _BAR, _TOP, _ROW = 250, 620, 120, 58, 20
_LEAST, _BREAKS = 1e-9, 0.01
_LETTERS = 36


def picture(facts: Facts) -> str:
    """The picture of a study, from its facts as JSON has them: dots further to the right lose more; hollow ones have a guessed time."""
    layers, edits = facts["layers"], list(facts["edits"])
    lost = [max(e["lost"], _LEAST) for layer in layers for e in layer["edits"].values()]
    if not lost:
        return '<p class="about">No edit of any layer was possible.</p>'
    low, high = floor(log10(min(lost))), max(ceil(log10(max(lost))), 0)
    ends, height, width = _TOP + len(layers) * _ROW, _TOP + len(layers) * _ROW + 40, _LEFT + _WIDE + _BAR + 90

    def across(share: float) -> float:
        return _LEFT + (log10(max(share, _LEAST)) - low) / (high - low) * _WIDE

    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="what edits of layers lose">']
    parts += _legend(edits, {e for layer in layers for e, f in layer["edits"].items() if f["guessed"]})
    every = ceil((high - low) / 10)
    for power in range(low, high + 1, every):
        x = across(10.0**power)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{ends}"/>'
                     f'<text class="soft" x="{x:.1f}" y="{ends + 14}" text-anchor="middle">{_share(10.0**power)}</text>')
    x = across(_BREAKS)
    parts.append(f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{ends}"/>')
    slowest = max(layer["us"] for layer in layers)
    place = {name: i + 1 for i, name in enumerate(facts["ranking"])}
    for i, layer in enumerate(layers):
        parts += _row(layer, _TOP + i * _ROW + _ROW / 2, edits, across, layer["us"] / slowest, place[layer["name"]])
    parts.append(f'<text class="soft" x="{_LEFT}" y="{ends + 32}">share of what distinguishes the results that is expected to be lost; '
                 f'the dashed line is {_share(_BREAKS)}</text>'
                 f'<text class="soft" x="{_LEFT + _WIDE + 20}" y="{_TOP - 12}">µs now</text>'
                 f'<text class="soft" x="{width - 4}" y="{_TOP - 12}" text-anchor="end">breaks as number</text>')
    return "".join([*parts, "</svg>"])


def alone(facts: Facts) -> str:
    """The picture as an SVG file of its own."""
    made = picture(facts)
    if not made.startswith("<svg"):
        made = '<svg viewBox="0 0 400 40" width="400"><text x="8" y="24">No edit of any layer was possible.</text></svg>'
    return made.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f"><style>{SVG}</style>", 1) + "\n"


def _legend(edits: Sequence[str], guessed: set[str]) -> list[str]:
    x, parts = 8.0, []
    for i, edit in enumerate(edits):
        parts.append(_dot(x + 5, 14, i, hollow=edit in guessed) + f'<text x="{x + 14}" y="18">{escape(edit)}</text>')
        x += 24 + 7 * len(edit)
    return [*parts, f'<text class="soft" x="{x + 8}" y="18">hollow: its time is a guess</text>'] if guessed else parts


def _row(layer: Facts, y: float, edits: Sequence[str], across: Any, share: float, number: int) -> list[str]:
    name = layer["name"]
    said = [f"{name}: {layer['op']} {shape(layer['weight'])}, {layer['us']:.2f} µs"]
    said += [f"{e}: lost {_share(f['lost'])}, cosine {f['cosine']:.6f}, {-f['us']:+.2f} µs, {-f['bytes']:+.0f} bytes"
             for e, f in layer["edits"].items()]
    said += [f"{e}: {why}" for e, why in layer["refused"].items()]
    shown = name if len(name) <= _LETTERS else f"…{name[1 - _LETTERS:]}"
    dots = [_dot(across(layer["edits"][e]["lost"]), y, i, hollow=bool(layer["edits"][e]["guessed"]))
            for i, e in enumerate(edits) if e in layer["edits"]]
    bar, end = _LEFT + _WIDE + 20, _LEFT + _WIDE + 20 + _BAR * share
    return [(f'<g class="layer"><title>{escape(chr(10).join(said))}</title>'
             f'<text x="{_LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(shown)}</text>'
             f'<line class="axis" x1="{_LEFT}" x2="{_LEFT + _WIDE}" y1="{y:.1f}" y2="{y:.1f}"/>{"".join(dots)}'
             f'<rect class="time" x="{bar}" y="{y - 6:.1f}" width="{_BAR * share:.1f}" height="12"/>'
             f'<text class="soft" x="{end + 4:.1f}" y="{y + 4:.1f}">{layer["us"]:.1f}</text>'
             f'<text x="{_LEFT + _WIDE + _BAR + 86}" y="{y + 4:.1f}" text-anchor="end">{number}</text></g>')]


def shape(dims: Sequence[int]) -> str:
    """The shape of a weight."""
    return "x".join(map(str, dims))


def _dot(x: float, y: float, number: int, *, hollow: bool) -> str:
    color = _COLORS[number % len(_COLORS)]
    fill = "none" if hollow else color
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{color}" stroke-width="2"/>'


def _share(number: float) -> str:
    """A share in percent with few digits."""
    percent = number * 100
    return f"{percent:.0f} %" if percent >= 1 else f"{percent:.3g} %" if percent >= 1e-3 else f"{percent:.0e} %"  # noqa: PLR2004  readable
