"""`penstock bench load` as it is typed: what it prints, what it writes, how it ends."""

import json
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from penstock_bench.cli import run
from penstock_bench.durations import range_of, seconds_of, show
from penstock_bench.results import read_report
from penstock_server.cli import main
from tests.bench.load.stub import Behaviour, serving

SHORT = ["--seconds", "200ms", "--warmup", "50ms", "--variants", "64"]


@pytest.fixture
def url() -> Generator[str]:
    """A server with a model "stub"."""
    with serving(Behaviour()) as port:
        yield f"127.0.0.1:{port}"


@pytest.mark.slow
def test_a_load_is_measured_and_reported(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table and the file say the same; the command is in the file as it can be typed again."""
    typed = ["load", url, "-m", "stub", "-c", "8", "--slo", "60s", "--json", str(tmp_path / "out.json"), *SHORT]
    assert run(typed) == 0
    report = read_report(tmp_path / "out.json")
    point = report.series[0].points[0]
    assert report.command.split() == ["penstock", "bench", *typed]
    assert point.ok == point.in_time == point.sent > 0
    assert (report.slo, report.seed, report.partial) == (60.0, 0, False)
    assert report.machine.cores > 0
    printed = capsys.readouterr()
    assert "closed loop, 4 connections x 2" in printed.out
    assert f"{point.throughput:,.0f}" in printed.out
    assert printed.err == ""


@pytest.mark.slow
def test_a_mix_and_a_rate(url: str, tmp_path: Path) -> None:
    """Several kinds of requests from a file, in an open loop with timeouts."""
    mix = tmp_path / "mix.json"
    mix.write_text('[{"model": "stub", "weight": 3, "traffic": "a"}, {"model": "stub", "traffic": "b"}]')
    out = tmp_path / "out.json"
    assert run(["load", url, "--mix", str(mix), "-r", "300", "--timeout", "1s..3s", "--json", str(out), *SHORT]) == 0
    assert set(read_report(out).series[0].points[0].by_class) == {"a", "b"}


@pytest.mark.slow
def test_a_server_that_dies_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report is written all the same, and says that it is partial."""
    out = tmp_path / "out.json"
    with serving(Behaviour(die_after=500)) as port:
        assert run(["load", f"127.0.0.1:{port}", "-m", "stub", "--seconds", "30s", "--json", str(out)]) == 1
    assert read_report(out).partial
    assert "the server was lost" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "status", "complaint"),
    [
        (["127.0.0.1:1", "-m", "stub"], 1, "nobody answers at 127.0.0.1:1"),
        (["http://127.0.0.1:1", "-m", "stub"], 2, "HOST:PORT without a scheme"),
        (["127.0.0.1:1"], 2, "which model?"),
        (["127.0.0.1:1", "-m", "stub", "--rate", "5", "--concurrency", "5"], 2, "closed loop with --concurrency"),
        (["127.0.0.1:1", "-m", "stub", "--seconds", "soon"], 2, "such as 20ms, not 'soon'"),
        (["127.0.0.1:1", "-m", "stub", "--timeout", "3s..1s"], 2, "the shorter first"),
        (["127.0.0.1:1", "-m", "stub", "--arrivals", "never", "--rate", "9"], 2, "poisson, constant or bursts"),
        (["127.0.0.1:1", "-m", "stub", "--input", "x=1,2"], 2, "--input x is a file"),
        (["127.0.0.1:1", "-m", "stub", "--shape", "x=a"], 2, "whole numbers"),
        (["127.0.0.1:1", "-m", "stub", "--loads", "many"], 2, "concurrencies or rates"),
        (["127.0.0.1:1", "-m", "stub", "--tls-cert", __file__], 2, "both --tls-cert and --tls-key"),
        (["127.0.0.1:1", "-m", "stub", "--mix", __file__], 2, "leave out --model"),
        (["127.0.0.1:1", "--mix", __file__], 2, "is no mix of requests, such as"),
        (["127.0.0.1:1", "--trace", __file__], 2, "line 1"),
        (["127.0.0.1:1", "-m", "stub", "--bogus"], 2, "--help"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    typed: list[str], status: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit status of its kind, and nothing on standard output."""
    assert run(["load", *typed]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("penstock: ")
    assert complaint in printed.err
    assert printed.err.count("\n") == 1


def test_inputs_must_fit_the_model(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong shapes are found before the load begins."""
    np.save(tmp_path / "x.npy", np.zeros((10, 5), np.float32))
    assert run(["load", url, "-m", "stub", "-i", f"x=@{tmp_path / 'x.npy'}", *SHORT]) == 1
    assert "[10, 5]" in capsys.readouterr().err


def test_it_is_mounted(capsys: pytest.CaptureFixture[str]) -> None:
    """`penstock bench` hands over all that was typed, `--help` too."""
    assert main.run(["bench", "load", "--help"]) == 0
    assert "--concurrency" in capsys.readouterr().out
    assert main.run(["bench", "load", "nowhere", "-m", "x"]) == 2
    assert "HOST:PORT" in capsys.readouterr().err


def test_help_shows_how(capsys: pytest.CaptureFixture[str]) -> None:
    """There are examples to begin with."""
    run(["load", "--help"])
    shown = capsys.readouterr().out
    assert shown.count("penstock bench load 127.0.0.1:8001 -m iris") == 3


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("1.5s", 1.5), ("2m", 120.0), ("5", 5.0), ("7us", 7e-6)])
def test_times_are_read(text: str, seconds: float) -> None:
    """With their units."""
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "ms", "-1s", "1h", "1e3", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """In a sentence."""
    with pytest.raises(ValueError, match="a time is a number"):
        seconds_of(text)


def test_ranges_are_read_and_times_shown() -> None:
    """Both ways."""
    assert range_of("1s..300ms") == (1.0, 0.3)
    assert range_of("2s") == (2.0, 2.0)
    assert [show(each) for each in (12e-6, 1.234e-3, 0.05, 2.0)] == ["12us", "1.23ms", "50ms", "2s"]


def test_a_report_is_json(url: str, tmp_path: Path) -> None:
    """Anybody can read it; h2load says what it lacks, or is beside it."""
    out = tmp_path / "out.json"
    run(["load", url, "-m", "stub", "--json", str(out), *SHORT])
    found = json.loads(out.read_text())
    assert found["format"] == 1
    assert found["series"][0]["points"][0]["throughput"] > 0
