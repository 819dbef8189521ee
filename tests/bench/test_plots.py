"""Charts as text: well-formed, in their frame, legible."""

from math import inf, nan
from typing import Any
from xml.etree import ElementTree

import pytest

from penstock_bench.plots import Chart, Line, Table, bars, page, svg

SVG = "{http://www.w3.org/2000/svg}"


def chart(*points: tuple[float, float], **options: Any) -> Chart:
    return Chart("a < b & c", "load", "ms", [Line("<eager>", points)], **options)


def drawn(text: str) -> list[tuple[float, float]]:
    """The corners of the first line."""
    lines = ElementTree.fromstring(text).findall(f"{SVG}polyline")
    found = next(line for line in lines if "line" in line.attrib["class"])
    pairs = [pair.split(",") for pair in found.attrib["points"].split()]
    return [(float(x), float(y)) for x, y in pairs]


def labels(text: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(text).iter(f"{SVG}text")]


def test_a_chart_is_well_formed_and_says_what_it_shows() -> None:
    """Title, axes and legend, whatever characters are in them."""
    assert {"a < b & c", "load", "ms", "<eager>"} <= set(labels(svg(chart((0.1, 1.0), (2.0, 9.0)))))


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 37.0, 1e6])
def test_points_are_within_the_frame_and_in_order(scale: float, logarithmic: bool) -> None:
    """More is further right and further up, at any size of the numbers."""
    corners = drawn(svg(chart((0.1, scale), (1.0, 3 * scale), (2.0, 80 * scale), logarithmic=logarithmic)))
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)
    assert 66 <= xs[0] < xs[-1] <= 620
    assert 66 <= ys[-1] < ys[0] <= 328


def test_what_cannot_be_shown_is_left_out() -> None:
    """No number is infinite on paper, and a logarithm knows no 0."""
    points = ((0.1, 1.0), (0.2, inf), (0.3, nan), (0.4, 0.0), (0.5, 2.0))
    assert len(drawn(svg(chart(*points)))) == 3
    assert len(drawn(svg(chart(*points, logarithmic=True)))) == 2


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("points", [(), ((1.0, 5.0),), ((0.0, 0.0),), ((1.0, 7.0), (2.0, 7.0))])
def test_a_chart_of_little_is_still_a_chart(points: tuple[tuple[float, float], ...], logarithmic: bool) -> None:
    """Nothing at all, one point, only zeros, a flat line: two ticks at least on each axis."""
    found = labels(svg(chart(*points, logarithmic=logarithmic)))
    assert sum(label.replace(".", "").isdigit() for label in found) >= 4


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("top", [0.03, 1.0, 2.0, 99.0, 100.0, 12_345.0, 3e7])
def test_ticks_are_few_and_distinct(top: float, logarithmic: bool) -> None:
    """Labels can be read: none is there twice, and there is room for each."""
    text = svg(chart((1.0, top / 300), (2.0, top), logarithmic=logarithmic))
    ticks = [
        element.text
        for element in ElementTree.fromstring(text).iter(f"{SVG}text")
        if element.attrib.get("text-anchor") == "end"
    ]
    assert 2 <= len(ticks) <= 9
    assert len(set(ticks)) == len(ticks)


def test_lines_differ_in_more_than_colour() -> None:
    """Dash and marker, too."""
    lines = [Line(str(style), [(1.0, 1.0)], style) for style in range(4)]
    root = ElementTree.fromstring(svg(Chart("", "", "", lines)))
    assert len({line.attrib.get("stroke-dasharray") for line in root.findall(f"{SVG}polyline")}) == 4


def test_a_page_needs_nothing_else() -> None:
    """It is XML of its own: no script, and nothing is loaded from anywhere."""
    text = page("t", ["x < y"], [chart((1.0, 1.0))], [Table("numbers & more", ["a"], [["<1%"]])])
    root = ElementTree.fromstring(text)
    assert root.find(f".//{SVG}svg") is not None
    assert not [e for e in root.iter() if e.tag.rpartition("}")[2] in ("script", "link", "img", "object")]
    assert not [name for e in root.iter() for name in e.attrib if name in ("src", "href")]
    assert "url(" not in text
    assert "&lt;1%" in text


def test_bars_tell_nothing_from_little() -> None:
    """0 is empty, anything above is seen, the top is full."""
    assert bars([0.0, 0.001, 0.5, 1.0, 7.0], 1.0, width=2) == ["  ", "▁▁", "▄▄", "██", "██"]
    assert bars([1.0], 0.0) == [" "]
