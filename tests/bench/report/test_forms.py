"""The page, the Markdown and the terminal: well-formed, complete, the same facts in each."""

import io
import re
from xml.etree import ElementTree

import msgspec
import pytest
from rich.console import Console

from penstock_bench.report.html import page
from penstock_bench.report.markdown import table
from penstock_bench.report.text import show_report
from penstock_bench.results import Report
from tests.bench.report.reports import point, report, single, sweep

SVG = "{http://www.w3.org/2000/svg}"
HTML = "{http://www.w3.org/1999/xhtml}"


def shown(of: Report, width: int = 160, baseline: str | None = None) -> str:
    """As a terminal of so many columns has it."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show_report(of, console, baseline)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def titles(text: str) -> list[str]:
    """Of the pictures of a page."""
    return [svg.attrib["aria-label"] for svg in ElementTree.fromstring(text).iter(f"{SVG}svg")]


def peers() -> Report:
    """Ten servers at one load, as bad as it gets."""
    series = [single(f"server {number} <&>", 9000 / (1 + number)) for number in range(8)]
    series[2] = msgspec.structs.replace(series[2], remark="Includes the model's process | of Python")
    series.append(single("dead", 1, points=[], failure="was not ready after 60 s"))
    series.append(single("cut", 500, points=[point(partial=True, spread=0.4, failed={"UNAVAILABLE": 5})]))
    return report(series, title="Many & others", slo=0.05)


REPORTS = {
    "nothing": report([]),
    "one point": report([single("a", 100)]),
    "no latency": report([single("a", 100, points=[point(latency=None)])]),
    "one sweep": report([sweep("a", 1000)], slo=0.02),
    "a sweep of one load": report([sweep("a", 1000), single("b", 1, load=sweep("a", 1).load)]),
    "ten sweeps": report([sweep(f"server {number}", 1000 * (1 + number)) for number in range(10)], slo=0.02),
    "peers": peers(),
    "only a failure": report([single("a", 1, points=[], failure="nobody answers")]),
}


@pytest.mark.parametrize("which", REPORTS)
def test_every_form_can_be_made_of_every_report(which: str) -> None:
    """Also of little, of much, and of failures: every server stands in each form, and the page is XML of its own."""
    of = REPORTS[which]
    text, markdown, terminal = page(of), table(of), shown(of)
    root = ElementTree.fromstring(text)
    assert not [e for e in root.iter() if e.tag.rpartition("}")[2] in ("script", "link", "img", "object")]
    assert not [name for e in root.iter() for name in e.attrib if name in ("src", "href")]
    words = " ".join(root.itertext())
    for one in of.series:
        assert one.server in words
        assert one.server in re.sub(r"\\(.)", r"\1", markdown)
        assert one.server in terminal
        for form in (words, markdown, terminal):
            assert one.failure in form


def test_a_sweep_has_every_curve() -> None:
    """Of one server all percentiles in one picture, of several one picture for each."""
    assert titles(page(REPORTS["one sweep"])) == [
        "p50 and p99 latency by throughput",
        "Latency by load",
        "Throughput by load",
        "Answers within 20 ms by load",
        "Rows of a batch by load",
        "Time in the queue by load",
        "CPU time of the server for each request by load",
        "Latency by percentile",
    ]
    assert titles(page(REPORTS["ten sweeps"]))[:5] == [
        "p50 latency by throughput",
        "p99 latency by throughput",
        "p50 latency by load",
        "p99 latency by load",
        "p99.9 latency by load",
    ]


def test_servers_at_one_load_are_bars() -> None:
    """Those that failed are there in words."""
    text = page(peers())
    assert titles(text)[:3] == ["Throughput", "Latency", "CPU time of the server for each request"]
    first = next(ElementTree.fromstring(text).iter(f"{SVG}svg"))
    assert len(first.findall(f"{SVG}rect")) == 9
    assert len([e for e in first.iter(f"{SVG}path") if e.attrib["class"] == "whisker"]) == 9
    assert "was not ready after 60 s" in " ".join(first.itertext())


def test_what_is_alarming_is_loud() -> None:
    """A box above the pictures, a coloured row, and words in capitals."""
    root = ElementTree.fromstring(page(peers()))
    (box,) = (e for e in root.iter(f"{HTML}div") if e.attrib.get("class") == "loud-note")
    said = " ".join(box.itertext())
    assert "Partial" in said
    assert "Noisy" in said
    assert "dead" in said
    rows = [" ".join(e.itertext()) for e in root.iter(f"{HTML}tr") if e.attrib.get("class") == "loud"]
    assert len(rows) == 2
    assert "FAILED: was not ready after 60 s" in rows[0]
    assert "PARTIAL, NOISY" in rows[1]
    assert "loud-note" not in page(report([single("a", 1)])).partition("</head>")[2]


def test_all_circumstances_are_on_the_page() -> None:
    """What is needed to measure it again."""
    text = page(report([single("a", 1)], slo=0.02))
    for words in ("penstock bench load 127.0.0.1:8001 -m iris", "Imagined CPU", "8.0 GiB", "grpcio 1.80.0", "20ms"):
        assert words in text


def test_classes_of_traffic_have_their_latencies() -> None:
    """In rows below the whole."""
    one = point()
    assert one.latency is not None
    mixed = msgspec.structs.replace(one, by_class={"bulk": one.latency})
    root = ElementTree.fromstring(page(report([single("a", 1, points=[mixed])])))
    rows = [list(row.itertext()) for row in root.iter(f"{HTML}tr")]
    assert rows[2][0] == "\u2003of them bulk"
    assert [cell for cell in rows[2][1:] if cell] == [cell for cell in rows[1] if cell.endswith("ms")][:7]


def test_a_histogram_that_is_none_costs_no_picture() -> None:
    """The percentiles that are known are drawn."""
    one = point()
    assert one.latency is not None
    bare = msgspec.structs.replace(one.latency, histogram="nonsense")
    of = report([single("a", 1, points=[msgspec.structs.replace(one, latency=bare)])])
    assert "Latency by percentile" in titles(page(of))


def test_markdown_is_aligned() -> None:
    """It can be read as it stands: every line of a table is as long as the others, with as many cells."""
    lines = [line for line in table(peers()).splitlines() if line.startswith("|")]
    assert len(lines) == 12
    assert len({len(line) for line in lines}) == 1
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_footnotes_and_ratios_of_the_markdown() -> None:
    """A remark stands below, with its number at the server; ratios are of the server that was asked for."""
    text = table(peers(), baseline="server 1")
    assert "server 2 \\<&\\><sup>1</sup>" in text
    assert "\n<sup>1</sup> Includes the model's process \\| of Python\n" in text
    assert "good/s / server 1" in text
    assert "2.00x (1.92 to 2.08)" in text
    assert "**dead** **failed**" not in text
    assert "dead **failed**" in text


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_a_terminal_gets_what_fits(width: int) -> None:
    """No line of the table is longer than it is wide, and the throughput is always there."""
    text = shown(REPORTS["one sweep"], width)
    rows = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, rows)) <= max(width, len("iris: open loop, poisson, swept, 4 connections"))
    assert "good/s" in text
    assert ("queue" in text) == (width >= 120)


@pytest.mark.parametrize("form", [page, table, shown])
def test_a_baseline_that_is_not_there_is_said(form: object) -> None:
    """In a sentence, in every form."""
    assert callable(form)
    with pytest.raises(ValueError, match="no server of the report is called 'x'"):
        form(peers(), baseline="x")
