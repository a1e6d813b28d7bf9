"""Times of contestants as SVG: the median of each block in the order of measuring, one line for each contestant."""

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log10
from statistics import median

_COLORS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#e15759", "#76b7b2", "#edc948", "#9c755f")
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT = 760, 320, 64, 40, 210
_TICKS = 5


def lines(title: str, medians: Mapping[str, Sequence[float]]) -> str:
    """A whole SVG file; `medians` are milliseconds by contestant, block by block."""
    most = max(max(v) for v in medians.values())
    step = _round_up(most / _TICKS)
    top = step * _TICKS
    whole = f'width="{_LEFT + _WIDTH + _RIGHT}" height="{_TOP + _HEIGHT + 44}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {whole} font-family="sans-serif" font-size="12" fill="#222">',
             '<rect width="100%" height="100%" fill="#fff"/>',
             f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>']
    for i in range(_TICKS + 1):
        y = _TOP + _HEIGHT * (1 - i / _TICKS)
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                     f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{step * i:.4g}</text>')
    for number, (name, values) in enumerate(medians.items()):
        color = _COLORS[number % len(_COLORS)]
        across = _WIDTH / max(1, len(values) - 1)
        points = " ".join(f"{_LEFT + i * across:.1f},{_TOP + _HEIGHT * (1 - v / top):.1f}" for i, v in enumerate(values))
        y = _TOP + 10 + 20 * number
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>'
                     f'<rect x="{_LEFT + _WIDTH + 14}" y="{y - 9}" width="10" height="10" fill="{color}"/>'
                     f'<text x="{_LEFT + _WIDTH + 30}" y="{y}">{escape(name)}: {median(values):.4g} ms</text>')
    base = _TOP + _HEIGHT
    parts.append(f'<text x="{_LEFT}" y="{base + 30}">blocks, in the order of measuring; milliseconds of a run, median of the block</text>')
    return "\n".join([*parts, "</svg>\n"])


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    scale = 10.0 ** floor(log10(value)) if value > 0 else 1.0
    return next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= value * (1 - 1e-9))
