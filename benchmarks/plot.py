"""Curves as SVG: axes with labels, lines named where they end, light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.curve import Axis, Curve, Series

_WIDTH: Final = 840
_HEIGHT: Final = 440
_LEFT: Final = 72
_RIGHT: Final = 196
_TOP: Final = 96
_BOTTOM: Final = 64
_TICKS: Final = 5
_LINE_HEIGHT: Final = 17
_COLOURS: Final = 3

_STYLE: Final = """
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
.paper { fill: #ffffff; }
.strong { fill: #1f2328; }
.soft { fill: #59636e; }
.grid { stroke: #e2e6eb; }
.axis { stroke: #8c959f; }
.line { fill: none; stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round; }
.s0 { stroke: #0969da; } .d0, .t0 { fill: #0969da; }
.s1 { stroke: #bc4c00; } .d1, .t1 { fill: #bc4c00; }
.s2 { stroke: #1a7f37; } .d2, .t2 { fill: #1a7f37; }
.sr { stroke: #6e7781; stroke-width: 1.5; stroke-dasharray: 5 4; } .dr, .tr { fill: #6e7781; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117; }
  .strong { fill: #e6edf3; }
  .soft { fill: #9198a1; }
  .grid { stroke: #262c36; }
  .axis { stroke: #6e7681; }
  .s0 { stroke: #58a6ff; } .d0, .t0 { fill: #58a6ff; }
  .s1 { stroke: #f0883e; } .d1, .t1 { fill: #f0883e; }
  .s2 { stroke: #3fb950; } .d2, .t2 { fill: #3fb950; }
  .sr { stroke: #8b949e; } .dr, .tr { fill: #8b949e; }
}
"""

_HEAD: Final = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
    f'width="{_WIDTH}" height="{_HEIGHT}" role="img">'
)


@dataclass(frozen=True, slots=True)
class Ruler:
    """From a number on an axis to its place between two ends."""

    low: float
    high: float
    is_log: bool
    first: float
    last: float

    def place(self, value: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        return self.first + (self._scaled(value) - low) / (high - low) * (self.last - self.first)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def draw(curve: Curve) -> str:
    """Return the whole file."""
    x_ticks = _size_ticks(curve)
    y_ticks = _value_ticks(curve)
    across = _across(curve.x, curve.sizes)
    up = Ruler(y_ticks[0], y_ticks[-1], curve.y.is_log, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        _HEAD,
        f"<title>{escape(curve.title)}</title>",
        f"<desc>{escape(curve.says)}</desc>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>',
        _text(20, 32, curve.title, "strong", size=17, weight=600),
        _text(20, 54, curve.says, "soft"),
        *_frame(curve, across, up, x_ticks, y_ticks),
        *_lines(curve, across, up),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _across(axis: Axis, sizes: Sequence[float]) -> Ruler:
    first, last = _LEFT, _WIDTH - _RIGHT
    if axis.is_log:
        return Ruler(sizes[0], sizes[-1], True, first + 14, last - 14)
    return Ruler(0, sizes[-1], False, first, last - 14)


def _frame(
    curve: Curve,
    across: Ruler,
    up: Ruler,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
) -> list[str]:
    """Draw the axes, the lines across at the ticks, and what they mean."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts: list[str] = []
    for value in y_ticks:
        y = up.place(value)
        parts.append(_stroke(_LEFT, y, right, y, "grid"))
        parts.append(_text(_LEFT - 9, y + 4, format_number(value), "soft", to="end"))
    parts.append(_stroke(_LEFT, bottom, right, bottom, "axis"))
    for value in x_ticks:
        x = across.place(value)
        parts.append(_stroke(x, bottom, x, bottom + 5, "axis"))
        parts.append(_text(x, bottom + 21, format_number(value), "soft", to="middle"))
    middle = (_LEFT + right) / 2
    parts.append(_text(middle, bottom + 46, _label(curve.x), "strong", to="middle"))
    parts.append(_text(20, _TOP - 16, _label(curve.y), "strong"))
    return parts


def _label(axis: Axis) -> str:
    return f"{axis.label}, log scale" if axis.is_log else axis.label


def _lines(curve: Curve, across: Ruler, up: Ruler) -> list[str]:
    """Draw the lines, and their names beside their ends, none upon another."""
    lines: list[tuple[bool, list[str]]] = []
    ends = _spread([up.place(line.values[-1]) for line in curve.series])
    xs = [across.place(size) for size in curve.sizes]
    for line, kind, end in zip(curve.series, _kinds(curve.series), ends, strict=True):
        ys = [up.place(value) for value in line.values]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        parts = [f'<polyline class="line s{kind}" points="{points}"/>']
        radius = 2.5 if line.is_reference else 4
        parts += [
            f'<circle class="d{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
            for x, y in zip(xs, ys, strict=True)
        ]
        parts.append(_text(_WIDTH - _RIGHT + 8, end + 4, line.name, f"t{kind}", weight=600))
        lines.append((line.is_reference, parts))
    lines.sort(key=lambda line: not line[0])  # what was measured lies upon the references
    return [part for _is_reference, parts in lines for part in parts]


def _kinds(series: Sequence[Series]) -> list[str]:
    kinds: list[str] = []
    coloured = 0
    for line in series:
        kinds.append("r" if line.is_reference else str(coloured % _COLOURS))
        coloured += not line.is_reference
    return kinds


def _spread(wanted: Sequence[float]) -> list[float]:
    """Move names apart that would lie upon each other, each as little as that takes."""
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    groups: list[tuple[list[int], float]] = []  # names, and where the middle of them is wanted
    for number in order:
        names, middle = [number], wanted[number]
        while groups and middle - groups[-1][1] < _LINE_HEIGHT * (
            (len(names) + len(groups[-1][0])) / 2
        ):
            above, above_middle = groups.pop()
            count = len(above) + len(names)
            middle = (above_middle * len(above) + middle * len(names)) / count
            names = above + names
        groups.append((names, middle))
    placed = [0.0] * len(wanted)
    for names, middle in groups:
        for at, number in enumerate(names):
            placed[number] = middle + (at - (len(names) - 1) / 2) * _LINE_HEIGHT
    return placed


# Ticks


def _size_ticks(curve: Curve) -> list[float]:
    """On a log scale the sizes themselves, else round numbers."""
    if curve.x.is_log:
        return list(curve.sizes)
    return [tick for tick in linear_ticks(curve.sizes[-1]) if tick <= curve.sizes[-1]]


def _value_ticks(curve: Curve) -> list[float]:
    values = [value for line in curve.series for value in line.values]
    return log_ticks(min(values), max(values)) if curve.y.is_log else linear_ticks(max(values))


def linear_ticks(high: float) -> list[float]:
    """Return round numbers from 0 to at least `high`."""
    step = 10.0 ** math.floor(math.log10(high / _TICKS))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if factor * step * _TICKS >= high * 0.999)
    return [number * step for number in range(math.ceil(high / step - 1e-3) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10 and so on around both; only powers of ten where those would be many."""
    factors = (1, 2, 5) if high / low < 1000 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    below = max(number for number, tick in enumerate(ticks) if tick <= low)
    above = min(number for number, tick in enumerate(ticks) if tick >= high)
    return ticks[below : above + 1] if above > below else ticks[below : above + 2]


def format_number(value: float) -> str:
    """Write a number with three digits that count, and with commas between thousands."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


# Parts of the picture


def _text(
    x: float, y: float, text: str, kind: str, *, size: int = 13, to: str = "start", weight: int = 0
) -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" font-size="{size}" '
        f'text-anchor="{to}"{bold}>{escape(text)}</text>'
    )


def _stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
