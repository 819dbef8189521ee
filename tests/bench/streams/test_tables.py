"""What the tables of `penstock bench streams` say of points."""

import pytest

from penstock_bench.results import Machine, Point, Report
from penstock_bench.streams.listener import Cost
from penstock_bench.streams.rows import Results, Row, cpu_ratio, frames_ratio
from penstock_bench.streams.show import grids, markdown


def point(throughput: float, cpu: float | None = 10e-6, wrong: int = 0) -> Point:
    return Point(
        connections=4, concurrency=64, duration=1.0, sent=9, ok=9, throughput=throughput, generator_cpu=0.25,
        server_cpu=cpu, checked=7, wrong=wrong,
    )  # fmt: skip


def results() -> Results:
    return Results(
        costs=[Cost(1, 60e-6), Cost(64, 1.6e-3)],
        servers=[
            Row("penstock", "Ours", points={0: point(30_000.0), 1: point(20_000.0)}),
            Row("penstock-single", "Single", points={0: point(10_000.0), 1: point(5_000.0)}),
            Row("triton", "Triton", failure="cannot be installed: no"),
        ],
        calls=[
            Row("ModelInfer", "ModelInfer", points={0: point(90_000.0, 8e-6)}),
            Row("ModelStreamInfer", "ModelStreamInfer", points={0: point(80_000.0, 10e-6)}),
        ],
    )


def test_ratios_are_taken_within_rounds() -> None:
    """Frames of the first row for each of another's; and CPU the other way round, of those whose CPU is known."""
    ours, single, _ = results().servers
    assert str(frames_ratio(ours, single)) == "3.5 (3.0-4.0)"
    calls, messages = results().calls
    ratio = cpu_ratio(messages, calls)
    assert ratio is not None
    assert ratio.middle == pytest.approx(1.25)
    assert cpu_ratio(Row("a", "A", points={0: point(1.0, None)}), calls) is None


def test_the_tables_say_what_is_wanted_and_what_was_found() -> None:
    """Live streams are frames of 32 ms; who failed stands there with the reason."""
    costs, servers, calls = grids(results())
    assert costs.lines[1] == ("64", "1.6ms", "25.0us", "2.4 x")
    assert costs.notes == ["One core cannot answer more than 40,000 frames/s, even in batches of 64."]
    assert [line[:4] for line in servers.lines] == [
        ("Ours", "20,000 ±20%", "640", "1.0"),
        ("Single", "5,000 ±33%", "160", "3.5 (3.0-4.0)"),
        ("Triton", "failed", "-", "-"),
    ]
    assert "Ours answers 3.5 (3.0-4.0) x the frames of Single; 3 x are wanted." in servers.notes
    assert "Triton failed: cannot be installed: no" in servers.notes
    assert "A message costs 1.25 x the CPU of a call; at most 1.2 x is wanted." in calls.notes


def test_what_failed_or_was_wrong_makes_it_partial() -> None:
    """And so does Ctrl-C."""
    whole = Results(servers=results().servers[:2])
    assert whole.is_whole
    assert not results().is_whole
    assert not Results(servers=[Row("a", "A", points={0: point(1.0, wrong=1)})]).is_whole
    whole.interrupted = True
    assert not whole.is_whole


def test_markdown_has_all_tables() -> None:
    """With the command and the machine; a bar in a name breaks no table."""
    machine = Machine(processor="p", cores=2, memory=1, system="Linux", python="3.11", versions={"numpy": "2"})
    report = Report(title="T", command="penstock bench streams", started="now", machine=machine, seed=0)
    found = results()
    found.servers[0].title = "a|b"
    text = markdown(report, found)
    assert text.count("|---|") == 3
    assert "a\\|b" in text
    assert "`penstock bench streams`" in text
