"""A soak of two seconds, in which everything happens that happens in ten minutes."""

from pathlib import Path

import msgspec
import pytest

from penstock_bench.cli import run
from penstock_bench.soak.command import SoakReport
from penstock_bench.soak.visits import VISITS


@pytest.mark.slow
def test_a_short_soak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind of visit was made, nothing was wrong or lost, and nothing is left at the end."""
    assert run(["soak", "--seconds", "2s", "--rate", "200", "--results", str(tmp_path)]) == 0
    report = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=SoakReport)
    assert set(report.kinds) == {*VISITS, "steady load"}
    assert (report.wrong, report.lost, report.residues) == (0, 0, {})
    assert report.requests > 100
    assert "0 wrong, 0 lost" in capsys.readouterr().out
    assert "| known answers |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("typed", [["--seconds", "0s"], ["--seconds", "long"], ["--rate", "-1"]])
def test_what_makes_no_sense_is_refused(typed: list[str]) -> None:
    """Before a server is started."""
    assert run(["soak", *typed]) == 2
