"""Charts as text: well-formed, in their frame, legible."""

from math import inf, nan
from typing import Any
from xml.etree import ElementTree

import pytest

from penstock_bench.plots import LOOKS, Bar, BarChart, Chart, Line, Table, bar_svg, bars, page, svg

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
    """Dash and marker, too, up to ten; then the first one comes again."""
    lines = [Line(str(style), [(1.0, 1.0)], style) for style in range(LOOKS + 1)]
    root = ElementTree.fromstring(svg(Chart("", "", "", lines)))
    drawn = root.findall(f"{SVG}polyline")
    assert len({line.attrib.get("stroke-dasharray") for line in drawn}) == LOOKS == 10
    assert drawn[LOOKS].attrib["class"] == drawn[0].attrib["class"]
    markers = [e for e in root.findall(f"{SVG}path") if e.find(f"{SVG}title") is not None]
    assert len({e.attrib["d"] for e in markers}) == LOOKS


def test_a_long_legend_goes_on_in_the_next_row() -> None:
    """Nothing of it leaves the picture, and the lines stay below it."""
    lines = [Line(f"a server with a long name {number}", [(1.0, 1.0)], number) for number in range(10)]
    root = ElementTree.fromstring(svg(Chart("", "", "", lines)))
    names = [e for e in root.iter(f"{SVG}text") if (e.text or "").startswith("a server")]
    assert all(float(e.attrib["x"]) + 7.2 * len(e.text or "") <= 640 for e in names)
    lowest = max(float(e.attrib["y"]) for e in names)
    grid = [e.attrib["d"] for e in root.iter(f"{SVG}path") if e.attrib["class"] == "grid"]
    assert lowest < min(float(d.split()[1].split("H")[0]) for d in grid)


def test_both_axes_may_be_logarithmic() -> None:
    """Equal factors are equal steps; nothing that is not positive is drawn."""
    corners = drawn(svg(chart((0.0, 5.0), (1.0, 10.0), (10.0, 10.0), (100.0, 10.0), logarithmic_x=True)))
    assert len(corners) == 3
    assert corners[1][0] - corners[0][0] == pytest.approx(corners[2][0] - corners[1][0], abs=0.2)


def test_markers_may_be_few() -> None:
    """One in so many points, beginning with the first; the line has all of them."""
    line = Line("x", [(float(x), 1.0) for x in range(11)], every=5)
    root = ElementTree.fromstring(svg(Chart("", "", "", [line])))
    assert len([e for e in root.findall(f"{SVG}path") if e.find(f"{SVG}title") is not None]) == 3
    assert len(drawn(svg(Chart("", "", "", [line])))) == 11


def test_bars_are_as_long_as_their_values() -> None:
    """Beside each other in the chart's order, with their spread."""
    rows = [Bar("one", [50.0, 100.0], spread=(40.0, 60.0)), Bar("two & more", [25.0, None])]
    root = ElementTree.fromstring(bar_svg(BarChart("t", "ms", rows, ["p50", "p99"])))
    widths = [float(e.attrib["width"]) for e in root.findall(f"{SVG}rect")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert widths[2] == pytest.approx(widths[0] / 2, abs=0.2)
    assert len([e for e in root.findall(f"{SVG}path") if e.attrib["class"] == "whisker"]) == 1
    assert {"one", "two & more", "p50 50", "p99 100", "p50 25", "ms"} <= set(
        labels(bar_svg(BarChart("t", "ms", rows, ["p50", "p99"])))
    )


@pytest.mark.parametrize("values", [[], [None], [0.0], [nan]])
def test_a_bar_of_nothing_says_why(values: list[float | None]) -> None:
    """What has no value has a note, and nothing breaks."""
    row = Bar("name", values or [None], note="it did not start " * 10)
    text = bar_svg(BarChart("t", "ms", [row] if values else []))
    root = ElementTree.fromstring(text)
    assert ("it did not" in "".join(root.itertext())) == bool(values)
    shown = [e.text or "" for e in root.iter(f"{SVG}text")]
    assert all(len(each) <= 80 for each in shown)


def test_rows_of_a_table_may_be_loud() -> None:
    """Those that were asked for, and no others."""
    text = page("t", [], [], [Table("", ["a", "b"], [["x", "y"], ["z", "w"]], texts=1, loud=[1])])
    assert '<tr class="loud"><td class="text">z</td><td>w</td></tr>' in text
    assert '<tr><td class="text">x</td>' in text


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
