"""`penstock bench streams` as it is typed."""

from pathlib import Path

import pytest

from penstock_bench.cli import run
from penstock_bench.results import read_report


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["--only", "penstok"], "there is no server 'penstok': there are penstock, penstock-own"),
        (["--only", ","], "name at least one server"),
        (["--streams", "64", "--connections", "5"], "64 streams cannot be shared evenly by 5 connections"),
        (["--streams", "2", "--connections", "4"], "2 streams cannot be shared evenly by 4 connections"),
        (["--seconds", "fast"], "a time is a number and us, ms, s or m"),
        (["--seconds", "1ms"], "a load is measured for 0.1 s to an hour"),
        (["--results", "{file}"], "is a file"),
    ],
)
def test_what_makes_no_sense_is_refused(
    typed: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with status 2, before anything is measured."""
    file = tmp_path / "file"
    file.touch()
    assert run(["streams", "--work", str(tmp_path / "work"), *(word.format(file=file) for word in typed)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_penstock_is_measured_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real servers, batched and not, and both kinds of requests: answers are right, and all of it is in the reports."""
    short = ["--streams", "8", "--connections", "2", "--seconds", "300ms", "--warmup", "0s", "--rounds", "2"]
    results = tmp_path / "results"
    assert run(["streams", "--only", "penstock,penstock-own,penstock-single", *short, "--results", str(results)]) == 0
    report = read_report(results / "report.json")
    batched, own, single, calls, messages = report.series
    for one in report.series:
        (point,) = one.points
        assert (point.repetitions, point.wrong, point.failed) == (2, 0, {}), one.server
        assert point.ok > 0
        assert point.server_cpu is not None
    assert [one.load for one in (batched, own, single)] == ["closed loop, 8 streams x 1"] * 3
    assert single.points[0].batch_rows == 1.0
    assert (batched.points[0].batch_rows or 0) > 1
    assert all(one.points[0].checked > 0 for one in (batched, own, single))
    assert (calls.server, messages.server) == ("ModelInfer", "ModelStreamInfer")
    text = (results / "report.md").read_text()
    assert "live streams" in text
    assert "3 x are wanted" in text
    assert "at most 1.2 x is wanted" in text
    assert "<html" in (results / "report.html").read_text()
    assert "The model without a server" in capsys.readouterr().out
