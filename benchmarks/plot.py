"""Curves as SVG, drawn by matplotlib: lines with a legend, and colours for light and dark pages."""

import io
from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.curve import Axis, Curve, Series

_COLOURS: Final = ("#0969da", "#bc4c00", "#1a7f37")
_REFERENCE: Final = "#6e7781"
_DARK: Final = {
    "#ffffff": "#0d1117",
    "#1f2328": "#e6edf3",
    "#e2e6eb": "#262c36",
    "#0969da": "#58a6ff",
    "#bc4c00": "#f0883e",
    "#1a7f37": "#3fb950",
    "#6e7781": "#8b949e",
}
"""What each colour becomes on a dark page."""

_SETTINGS: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "blobstore",  # the same curve gives the same bytes
    "font.family": "sans-serif",
    "text.color": "#1f2328",
    "axes.labelcolor": "#1f2328",
    "axes.edgecolor": "#6e7781",
    "xtick.color": "#1f2328",
    "ytick.color": "#1f2328",
    "grid.color": "#e2e6eb",
}


def draw(curve: Curve) -> str:
    """Return the whole file."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(8.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(f"{curve.title}\n", loc="left", fontweight="bold")
        axes.text(0, 1.02, curve.says, transform=axes.transAxes)
        _scale(axes, curve)
        for line, colour in zip(curve.series, _colours(curve.series), strict=True):
            style = "o--" if line.is_reference else "o-"
            order = 2 if line.is_reference else 3  # what was measured lies upon the references
            axes.plot(curve.sizes, line.values, style, label=line.name, color=colour, zorder=order)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Title": curve.title})
    return file.getvalue().replace("</defs>", f"<style>{_dark_style()}</style></defs>", 1)


def _scale(axes: Axes, curve: Curve) -> None:
    axes.set_xlabel(_label(curve.x))
    axes.set_ylabel(_label(curve.y))
    if curve.x.is_log:
        axes.set_xscale("log")
        axes.set_xticks(curve.sizes)
        axes.xaxis.set_minor_locator(NullLocator())
    if curve.y.is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, 1.05 * max(value for line in curve.series for value in line.values))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _place: format_number(value)))
    axes.grid(axis="y")
    axes.spines[["top", "right", "left"]].set_visible(False)


def _label(axis: Axis) -> str:
    return f"{axis.label}, log scale" if axis.is_log else axis.label


def _colours(series: Sequence[Series]) -> list[str]:
    measured = [line for line in series if not line.is_reference]
    colours = {line.name: _COLOURS[n % len(_COLOURS)] for n, line in enumerate(measured)}
    return [colours.get(line.name, _REFERENCE) for line in series]


def _dark_style() -> str:
    """Return rules for dark pages: matplotlib writes colours into the style of each element."""
    rules = [
        f'[style*="{kind}: {light}"] {{ {kind}: {dark} !important }}'
        for light, dark in _DARK.items()
        for kind in ("fill", "stroke")
    ]
    return f"@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}"


def format_number(value: float) -> str:
    """Write a number with three digits that count, and with commas between thousands."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
