"""`penstock bench report` as it is typed."""

from pathlib import Path

import pytest

from penstock_bench.cli import run
from penstock_bench.results import read_report, write_report
from tests.bench.report.reports import report, single


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two reports."""
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, rate in zip(paths, (100.0, 200.0), strict=True):
        write_report(report([single("a", rate)]), path)
    return list(map(str, paths))


def test_it_is_shown_again(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Several files side by side, with a ratio."""
    assert run(["report", *files]) == 0
    printed = capsys.readouterr()
    assert "a (before)" in printed.out
    assert "2.00x (1.92 to 2.08)" in printed.out
    assert printed.err == ""


def test_it_is_written(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a page and as one report; then the terminal has nothing to say."""
    html, together = tmp_path / "page.html", tmp_path / "together.json"
    assert run(["report", *files, "--html", str(html), "--json", str(together)]) == 0
    assert "<svg" in html.read_text(encoding="utf-8")
    assert [one.server for one in read_report(together).series] == ["a (before)", "a (after)"]
    assert capsys.readouterr().out == ""


def test_markdown_is_printed_as_it_is(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No line is broken, however narrow the terminal is."""
    assert run(["report", *files, "--markdown", "--baseline", "after"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert "0.50x" in lines[2]


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["nowhere.json"], "cannot read nowhere.json: No such file or directory"),
        ([__file__], "is no report of penstock bench"),
        (["FILE", "--baseline", "x"], "no server of the report is called 'x'"),
        (["FILE", "--html", "/nowhere/x.html"], "cannot write /nowhere/x.html"),
        (["FILE", "--json", "/nowhere/x.json"], "cannot write /nowhere/x.json"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    typed: list[str], complaint: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit status 2, and nothing on standard output."""
    assert run(["report", *(files[0] if each == "FILE" else each for each in typed)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("penstock: ")
    assert complaint in printed.err
    assert printed.err.count("\n") == 1
