"""`penstock bench peers` as it is typed."""

from pathlib import Path

import pytest

from penstock_bench.cli import run
from penstock_bench.results import read_report


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["--only", "tritn"], "there is no peer 'tritn': there are penstock"),
        (["--model", "resnet"], "there is no model 'resnet': there are iris, mlp, image, mix"),
        (["--load", "64"], "a load is CONNECTIONSxDEPTH, such as 4x64"),
        (["--seconds", "fast"], "a time is a number and us, ms, s or m"),
        (["--seconds", "1ms"], "a load is measured for 0.1 s to an hour"),
        (["--work", "{file}"], "is a file"),
    ],
)
def test_what_makes_no_sense_is_refused(
    typed: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with status 2, before anything is installed."""
    file = tmp_path / "file"
    file.touch()
    typed = [word.format(file=file) for word in typed]
    places = [] if "--work" in typed else ["--work", str(tmp_path / "work")]
    assert run(["peers", *typed, *places, "--results", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_penstock_is_measured_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real server, in two rounds, beside a transport that there is not: that one is reported, and status 1 tells."""
    places = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    short = ["--model", "iris", "--load", "2x4", "--seconds", "1s", "--warmup", "0s"]
    assert run(["peers", "--only", "penstock-grpcio,penstock-pigeon", *short, *places]) == 1
    report = read_report(tmp_path / "results" / "report.json")
    good, bad = report.series
    assert (good.model, good.load, good.protocol) == ("iris", "closed loop, 2 connections x 4", "gRPC")
    (point,) = good.points
    assert (point.repetitions, point.wrong, point.failed) == (2, 0, {})
    assert point.ok > 0
    assert point.server_cpu is not None
    assert "this Penstock has no transport 'pigeon'; it has " in bad.failure
    assert report.partial
    assert "penstock-pigeon" in capsys.readouterr().out
    assert "| failed |" in (tmp_path / "results" / "report.md").read_text()
    assert "<html" in (tmp_path / "results" / "report.html").read_text()
