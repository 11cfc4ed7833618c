"""The plots are well-formed, name what they show, and can be read on dark pages."""

import re
from xml.etree import ElementTree

import pytest

from benchmarks.curve import Axis, Curve, Series
from benchmarks.plot import draw, format_number

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
def test_a_plot_names_everything_and_is_the_same_every_time(is_log: bool) -> None:
    drawn = draw(_curve(is_log=is_log))
    root = ElementTree.fromstring(drawn)
    said = [" ".join((text.text or "").split()) for text in root.iter(f"{_SVG}text")]
    axes = {"pages, log scale", "ms, log scale"} if is_log else {"pages", "ms"}
    assert {"Time & <size>", "Says.", "ours", "nearly the same", "reference", *axes} <= {*said}
    assert drawn == draw(_curve(is_log=is_log))


def test_a_log_scale_has_the_sizes_and_round_numbers() -> None:
    root = ElementTree.fromstring(draw(_curve(is_log=True)))
    said = {text.text for text in root.iter(f"{_SVG}text")}
    assert {"10", "100", "1,000", "10,000", "1", "2", "5"} <= said


def test_every_colour_of_a_plot_has_another_on_a_dark_page() -> None:
    body, _start, rest = draw(_curve(is_log=False)).partition("<style>@media (prefers-color-scheme")
    style, _end, figure = rest.partition("</style>")
    used = set(re.findall(r"(?:fill|stroke): ?(#[0-9a-f]{6})", body + figure))
    assert used >= {"#0969da", "#bc4c00", "#6e7781", "#ffffff"}
    assert {colour for colour in used if f"fill: {colour}" not in style} == set()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.25"), (3.14159, "3.14"), (123.4, "123"), (100_000, "100,000"), (0, "0")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_number(value) == text


def test_a_curve_needs_a_value_for_each_size() -> None:
    with pytest.raises(ValueError, match="one value for each size"):
        Curve("file", "", "", Axis(""), Axis(""), (1, 2), (Series("a", (1,)),))
