"""The plots are well-formed, and what is on them can be told apart."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from benchmarks.curve import Axis, Curve, Series
from benchmarks.plot import draw, format_number, linear_ticks, log_ticks

_SVG = "{http://www.w3.org/2000/svg}"


def _curve(*, is_log: bool) -> Curve:
    return Curve(
        name="file",
        title="Time & <size>",
        says="Says.",
        x=Axis("pages", is_log=is_log),
        y=Axis("ms", is_log=is_log),
        sizes=(10, 100, 1000, 10_000),
        series=(
            Series("ours", (1, 2, 4, 8)),
            Series("nearly the same", (1, 2, 4, 8.01)),
            Series("reference", (1, 1, 1, 7.9), is_reference=True),
        ),
    )


@pytest.mark.parametrize("is_log", [False, True])
def test_a_plot_has_a_line_for_each_series_inside_the_picture(is_log: bool) -> None:
    root = ElementTree.fromstring(draw(_curve(is_log=is_log)))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    lines = root.findall(f"{_SVG}polyline")
    assert len(lines) == 3
    points = [point.split(",") for line in lines for point in line.attrib["points"].split()]
    assert len(points) == 12
    assert all(0 < float(x) < width and 0 < float(y) < height for x, y in points)


def test_a_plot_names_everything_and_no_name_lies_upon_another() -> None:
    texts = ElementTree.fromstring(draw(_curve(is_log=False))).findall(f"{_SVG}text")
    said = {text.text: float(text.attrib["y"]) for text in texts}
    assert {"Time & <size>", "Says.", "pages", "ms", "ours", "reference"} <= said.keys()
    places = sorted(said[name] for name in ("ours", "nearly the same", "reference"))
    assert all(below - above >= 16 for above, below in pairwise(places))


def test_a_log_scale_is_said_to_be_one() -> None:
    drawn = draw(_curve(is_log=True))
    assert "pages, log scale" in drawn
    assert "ms, log scale" in drawn


@pytest.mark.parametrize(
    ("high", "ticks"),
    [
        (5.0, [0, 1, 2, 3, 4, 5]),
        (37.0, [0, 10, 20, 30, 40]),
        (0.8, [0, 0.2, 0.4, 0.6, 0.8]),
        (12.0, [0, 2.5, 5, 7.5, 10, 12.5]),
    ],
)
def test_linear_ticks_are_round(high: float, ticks: list[float]) -> None:
    assert linear_ticks(high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (3, 40, [2, 5, 10, 20, 50]),
        (10, 10, [10, 20]),
        (0.5, 9000, [0.1, 1, 10, 100, 1000, 10_000]),
    ],
)
def test_log_ticks_surround_what_is_shown(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.25"), (3.14159, "3.14"), (123.4, "123"), (100_000, "100,000"), (0, "0")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_number(value) == text


def test_a_curve_needs_a_value_for_each_size() -> None:
    with pytest.raises(ValueError, match="one value for each size"):
        Curve("file", "", "", Axis(""), Axis(""), (1, 2), (Series("a", (1,)),))
