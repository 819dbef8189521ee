"""`penstock simulate`: the same numbers for the same question, the right ones, and a sentence for what is no question.

Runs are short: a thousand requests tell the policies apart at 1.5 times the capacity.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import msgspec
import pytest

from penstock_client import Client
from penstock_server.app.trace import TracedRequest
from penstock_server.cli import main, output
from tests.server.cli.processes import Server

COST = ("--cost", "1.05,5.07")
SHORT = (*COST, "--deadline-ms", 25, "--seconds", 2)

Report = Mapping[str, Any]
Simulate = Callable[..., Report]


@pytest.fixture
def simulate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Simulate:
    """Runs it to its good end. What `--json` has."""

    def simulate(*arguments: object) -> Report:
        file = tmp_path / "report.json"
        status = main.run(["simulate", *map(str, arguments), "--json", str(file)])
        assert status == 0, capsys.readouterr().err
        return cast("Report", json.loads(file.read_text()))

    return simulate


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs it to its bad end. The one line on standard error."""

    def complaint(*arguments: object) -> str:
        assert main.run(["simulate", *map(str, arguments)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        return line.removeprefix("penstock: ")

    return complaint


def outcome(report: Report, policy: str, load: float) -> Mapping[str, Any]:
    found = [one for one in report["outcomes"] if (one["policy"], one["load"]) == (policy, load)]
    assert len(found) == 1
    return cast("Report", found[0])


def write_trace(path: Path, requests: Sequence[TracedRequest]) -> Path:
    path.write_bytes(msgspec.json.Encoder().encode_lines(requests))
    return path


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────


def test_the_policies_are_told_apart(simulate: Simulate) -> None:
    """Above the capacity only `deadline` answers in time, as many as can be; at low load none is slower."""
    report = simulate(*SHORT, "--loads", "0.1,1.5", "--seconds", 4)
    assert [one["policy"] for one in report["outcomes"]] == ["eager"] * 2 + ["fixed"] * 2 + ["deadline"] * 2
    assert outcome(report, "deadline", 1.5)["in_time"] > 0.95 / 1.5
    assert outcome(report, "eager", 1.5)["in_time"] < 0.3
    assert outcome(report, "fixed", 1.5)["in_time"] < 0.3
    assert outcome(report, "deadline", 0.1)["mean_ms"] <= 1.05 * outcome(report, "eager", 0.1)["mean_ms"]


def test_the_capacity_is_what_the_deadline_leaves(simulate: Simulate) -> None:
    """25 ms for two batches of 1.05 n + 5.07: 7 rows in 12.42 ms. Without a deadline a full batch is best."""
    assert simulate(*SHORT, "--loads", 1)["capacity"] == pytest.approx(7 / 12.42e-3)
    assert simulate(*COST, "--loads", 1, "--seconds", 1)["capacity"] == pytest.approx(64 / 72.27e-3)
    twice = simulate(*COST, "--loads", 1, "--seconds", 1, "--instances", 2, "--max-batch-size", 10)
    assert twice["capacity"] == pytest.approx(2 * 10 / 15.57e-3)


def test_the_same_question_has_the_same_answer(simulate: Simulate) -> None:
    """And another seed another one."""
    options = (*SHORT, "--loads", "0.9", "--arrivals", "bursty", "--noise", 0.2)
    first = simulate(*options)
    assert simulate(*options) == first
    assert simulate(*options, "--seed", 1)["outcomes"] != first["outcomes"]


def test_repeated_runs_are_one_result(simulate: Simulate) -> None:
    """All their requests, and how far they are apart."""
    options = (*SHORT, "--loads", "1", "--policy", "eager")
    alone = [outcome(simulate(*options, "--seed", seed), "eager", 1) for seed in (5, 6, 7)]
    together = outcome(simulate(*options, "--seed", 5, "--repeat", 3), "eager", 1)
    assert together["requests"] == sum(one["requests"] for one in alone)
    assert together["in_time"] == pytest.approx(sum(one["in_time"] for one in alone) / 3)
    assert together["in_time_range"] == [min(one["in_time"] for one in alone), max(one["in_time"] for one in alone)]
    assert sum(together["fired"].values()) == sum(sum(one["fired"].values()) for one in alone)


@pytest.mark.parametrize("arrivals", ["poisson", "bursty", "diurnal"])
def test_arrivals_have_the_rate_that_was_asked_for(simulate: Simulate, arrivals: str) -> None:
    """A rate that is typed is one load; each request is answered or accounted for."""
    report = simulate(*COST, "--arrivals", arrivals, "--rate", 200, "--seconds", 5)
    one = outcome(report, "deadline", 200 / report["capacity"])
    assert (one["rows_per_second"], one["requests"]) == (200, 1000)
    assert (one["in_time"], one["dropped"], one["refused"]) == (1, 0, 0)
    assert report["arrivals"] == arrivals


def test_fixed_waits_and_prefers(simulate: Simulate) -> None:
    """Its two knobs reach it, and no other policy."""
    report = simulate(*SHORT, "--loads", "0.1,0.5", "--queue-delay-ms", 4, "--preferred", "2,4")
    assert outcome(report, "fixed", 0.1)["fired"].keys() >= {"delay", "preferred"}
    assert outcome(report, "eager", 0.1)["fired"].keys() == {"idle"}
    assert outcome(report, "fixed", 0.1)["p50_ms"] > outcome(report, "eager", 0.1)["p50_ms"] + 3


def test_a_full_queue_refuses(simulate: Simulate) -> None:
    """Losses are told with their reasons."""
    report = simulate(*COST, "--loads", 4, "--seconds", 2, "--max-batch-size", 8, "--max-queue-rows", 8)
    one = outcome(report, "eager", 4)
    assert one["refused"] > 0.5
    assert one["reasons"].keys() == {"queue_full"}


# ── traces ────────────────────────────────────────────────────────────────────────────────────────


def test_a_trace_is_replayed_as_it_was(simulate: Simulate, tmp_path: Path) -> None:
    """At its own speed if nothing else is said: rows, deadlines and gaps are the trace's, from its first request on."""
    requests = [TracedRequest(100 + number / 10, "m", 2) for number in range(11)]
    requests.append(TracedRequest(101.0, "m", 2, deadline_ms=0.5))
    report = simulate("--cost", "1,2", "--trace", write_trace(tmp_path / "t", requests), "--policy", "eager")
    (one,) = report["outcomes"]
    assert (one["requests"], one["rows_per_second"], report["seconds"]) == (12, pytest.approx(24), pytest.approx(1))
    # Two rows take 4 ms each time; the last two share a batch, in which one comes too late.
    assert one["p50_ms"] == pytest.approx(4.0)
    assert one["in_time"] == pytest.approx(11 / 12)


def test_a_timeout_of_a_trace_is_what_it_was(simulate: Simulate, tmp_path: Path) -> None:
    """`eager` drops whom its timeout has left no time; `fixed` does not look at it, and answers too late."""
    requests = [TracedRequest(0.0, "m"), TracedRequest(0.001, "m", timeout_ms=5), TracedRequest(0.002, "m")]
    path = write_trace(tmp_path / "t", requests)
    options = ("--cost", "0,10", "--trace", path, "--max-batch-size", 1, "--deadline-ms", 100)
    report = simulate(*options, "--policy", "eager", "--policy", "fixed")
    eager, fixed = report["outcomes"]
    assert (eager["reasons"], fixed["reasons"]) == ({"expired": 1}, {})
    assert eager["in_time"] == fixed["in_time"] == pytest.approx(2 / 3)


def test_a_timeout_is_no_reason_for_another_deadline(simulate: Simulate, tmp_path: Path) -> None:
    """`--deadline-ms` is for requests that bring neither; the capacity is for the time that clients give."""
    requests = [TracedRequest(number / 10, "m", timeout_ms=500) for number in range(3)]
    path = write_trace(tmp_path / "t", requests)
    options = ("--cost", "0,20", "--trace", path, "--max-batch-size", 1, "--policy", "fixed", "--deadline-ms")
    assert outcome(report := simulate(*options, 25), "fixed", 15 / report["capacity"])["in_time"] == 1
    assert report["capacity"] == pytest.approx(1 / 0.02)


def test_a_trace_can_be_hurried(simulate: Simulate, tmp_path: Path) -> None:
    """The same requests at other loads; `--deadline-ms` is for those that bring none."""
    path = write_trace(tmp_path / "t", [TracedRequest(number / 10, "m") for number in range(200)])
    report = simulate("--cost", "1,9", "--trace", path, "--loads", "0.5,3", "--deadline-ms", 40, "--policy", "deadline")
    assert [one["requests"] for one in report["outcomes"]] == [200, 200]
    assert outcome(report, "deadline", 3)["in_time"] < outcome(report, "deadline", 0.5)["in_time"] == 1


@pytest.mark.parametrize("first", [{"traffic": "bulk"}, {"tenant": "b"}])
def test_classes_and_tenants_of_a_trace_count(simulate: Simulate, tmp_path: Path, first: Mapping[str, Any]) -> None:
    """Bulk, and a tenant who has had his share, give way to one who came later and has little time."""
    late = TracedRequest(0.001, "m", deadline_ms=25, tenant="a")
    options = ("--cost", "0,10", "--max-batch-size", 1, "--policy", "eager", "--trace")
    for fields, in_time in (({"tenant": "a"}, 4 / 5), (first, 1)):
        queued = [msgspec.convert({"at": 0, "model": "m", **fields}, TracedRequest) for _ in range(4)]
        (one,) = simulate(*options, write_trace(tmp_path / "t", [*queued, late]))["outcomes"]
        assert one["in_time"] == pytest.approx(in_time)


def test_priorities_of_a_trace_count_if_there_are_levels(simulate: Simulate, tmp_path: Path) -> None:
    """As in a model's configuration: without levels they mean nothing."""
    low = [TracedRequest(0.0, "m", priority=2) for _ in range(4)]
    path = write_trace(tmp_path / "t", [*low, TracedRequest(0.001, "m", deadline_ms=25, priority=1)])
    options = ("--cost", "0,10", "--max-batch-size", 1, "--policy", "eager", "--trace", path)
    assert simulate(*options)["outcomes"][0]["in_time"] == pytest.approx(4 / 5)
    assert simulate(*options, "--priority-levels", 2)["outcomes"][0]["in_time"] == 1


def test_a_bad_trace_is_told_with_its_line(complaint: Callable[..., str], tmp_path: Path) -> None:
    """The file, the line and the reason."""
    path = tmp_path / "t"
    path.write_text('{"at":1,"model":"m"}\n{"at":"now","model":"m"}\n')
    assert complaint(*COST, "--trace", path) == f"{path}, line 2: Expected `float`, got `str` - at `$.at`"


# ── a server that has measured ────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_the_cost_is_that_of_a_server(simulate: Simulate, complaint: Callable[..., str], examples: Server) -> None:
    """Its measured batches give the line, its configuration the largest batch and the instances."""
    asked = ("--url", examples.target, "--model", "digits")
    assert complaint("--url", examples.target, "--model", "no").startswith(f"{examples.target} answers NOT_FOUND: ")
    with Client(examples.target) as client:
        (shape,) = [tensor.shape for tensor in client.model_metadata("digits").inputs]
        (name,) = [tensor.name for tensor in client.model_metadata("digits").inputs]
        largest = client.model_config("digits").max_batch_size
        for rows in (1, 2, largest):
            client.infer("digits", {name: [[0.0] * shape[1]] * rows})
    report = simulate(*asked, "--loads", 0.5, "--seconds", 0.01)
    assert report["max_batch_rows"] == largest
    assert report["instances"] == 1
    assert 0 < report["cost"]["per_row"] * largest + report["cost"]["per_batch"] < 1000
    assert simulate(*asked, "--loads", 0.5, "--seconds", 0.01, "--max-batch-size", 3)["max_batch_rows"] == 3


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────


def test_tables_fit_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns, a table for each policy, and bars where there are loads to compare; nothing is cut off."""
    monkeypatch.setattr(output.out, "width", 80)
    assert main.run(["simulate", *map(str, SHORT), "--loads", "0.1,1,2"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert max(map(len, said.out.splitlines())) <= 80
    assert "…" not in said.out
    for policy in ("eager", "fixed", "deadline"):
        assert re.search(rf"^{policy}\s*$", said.out, re.MULTILINE)
        assert re.search(rf"^{policy} .*█████", said.out, re.MULTILINE)


def test_the_page_has_the_charts(tmp_path: Path) -> None:
    """Goodput and three percentiles, a line for each policy in each, and a table with every load."""
    path = tmp_path / "report.html"
    assert main.run(["simulate", *map(str, SHORT), "--loads", "0.5,1,2", "--html", str(path)]) == 0
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    charts = [element for element in root.iter() if element.tag.endswith("}svg")]
    assert [chart.attrib["aria-label"].split()[0] for chart in charts] == ["Requests", "p50", "p90", "p99"]
    for chart in charts:
        found = [element.attrib for element in chart if element.tag.endswith("}polyline")]
        lines = [each["points"].split() for each in found if each["class"].startswith("line")]
        assert [len(points) for points in lines] == [3, 3, 3]
    assert len([element for element in root.iter() if element.tag.endswith("}tr")]) == 3 * (1 + 3)


# ── what is no question ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "what does a batch cost? Give --cost, or --url and --model of a server that has measured it"),
        (("--url", "x:1"), "--url needs --model"),
        (
            ("--url", "http://x", "--model", "m"),
            "--url is HOST:PORT without a scheme (TLS is switched on with --tls or --tls-ca), not 'http://x'",
        ),
        (("--cost", "1"), "--cost is the milliseconds of a row and of a batch, such as 1.05,5.07, not '1'"),
        ((*COST, "--loads", "0"), "--loads are multiples of the capacity, such as 0.1,0.9,1.5, not '0'"),
        ((*COST, "--loads", "nan"), "--loads are multiples of the capacity, such as 0.1,0.9,1.5, not 'nan'"),
        ((*COST, "--loads", "1,x"), "--loads are multiples of the capacity, such as 0.1,0.9,1.5, not '1,x'"),
        ((*COST, "--loads", 1, "--rate", 2), "--loads and --rate say the same in two ways: give one of them"),
        ((*COST, "--trace", "t", "--seconds", 2), "--trace has its own duration: leave out --seconds"),
        ((*COST, "--trace", "nowhere"), "cannot read nowhere: No such file or directory"),
        ((*COST, "--preferred", "4,x"), "--preferred are batch sizes, such as 4,8, not '4,x'"),
        ((*COST, "--preferred", 99), "--preferred must not exceed --max-batch-size (64)"),
        ((*COST, "--default-priority", 2), "--default-priority must be one of the levels 1 to 1, not 2"),
        ((*COST, "--rate", 1e6, "--seconds", 60), "60000000 requests in one run are too many: choose fewer --seconds"),
        (
            (*COST, "--deadline-ms", 6),
            "a batch of one row takes 6.12 ms, more than the deadline of 6 ms: nothing can be answered in time",
        ),
    ],
)
def test_what_cannot_be_simulated_is_told(
    complaint: Callable[..., str], arguments: Sequence[object], line: str
) -> None:
    """In one sentence, with the option that it came from; the status is 2."""
    assert complaint(*arguments) == line


def test_a_trace_of_one_moment_has_no_speed(complaint: Callable[..., str], tmp_path: Path) -> None:
    """So it is no multiple of anything."""
    path = write_trace(tmp_path / "t", [TracedRequest(1.0, "m")])
    assert complaint(*COST, "--trace", path) == "the trace has no duration: all its requests came at once"


def test_a_file_that_cannot_be_written_costs_no_result(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The tables are printed all the same."""
    path = tmp_path / "no" / "report.html"
    assert main.run(["simulate", *map(str, SHORT), "--loads", "1", "--html", str(path)]) == 2
    said = capsys.readouterr()
    assert "deadline" in said.out
    assert said.err == f"penstock: cannot write {path}: No such file or directory\n"
