"""Traces: what a server writes, what is read of it, and what is said of a file that is none."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest

from penstock_client import Client, InferenceError
from penstock_server.app.run import ServerThread
from penstock_server.app.settings import ServerSettings
from penstock_server.app.trace import BadTrace, TracedRequest, TraceRecorder, read_trace
from penstock_server.errors import LoadError
from penstock_server.examples import REPOSITORY
from penstock_server.transports.base import TransportSettings

ROW = [5.1, 3.5, 1.4, 0.2]
GOOD = '{"at":1,"model":"iris"}'


def recorded(path: Path, calls: Sequence[tuple[int, float | None, str]], limit: int = 1000) -> list[TracedRequest]:
    """What is in the trace after these calls: rows, timeout, tenant."""
    settings = ServerSettings(
        source=REPOSITORY / "iris" / "1" / "model.onnx",
        transport=TransportSettings(port=0),
        metrics_port=None,
        max_batch_size=4,
        max_queued_rows=8,
        tenant_key="tenant",
        record_trace=path,
        record_limit=limit,
    )
    with ServerThread(settings) as server, Client(f"127.0.0.1:{server.port}") as client:
        for rows, timeout, tenant in calls:
            metadata = {"tenant": tenant} if tenant else {}
            expected = pytest.raises(InferenceError) if rows > 8 else nullcontext()
            with expected:
                client.infer("model", {"X": [ROW] * rows}, timeout=timeout, metadata=metadata)
    return read_trace(path)


def test_a_server_writes_what_comes_in(tmp_path: Path) -> None:
    """Model, rows, deadline and tenant of each request, in order; it is all there once the server has stopped."""
    path = tmp_path / "trace.jsonl"
    trace = recorded(path, [(1, None, ""), (3, 20.0, "gold"), (2, None, "free"), (1, None, "gold")])
    assert [(one.model, one.rows) for one in trace] == [("model", 1), ("model", 3), ("model", 2), ("model", 1)]
    times = [one.at for one in trace]
    assert times == sorted(times)
    assert [one.deadline_ms is None for one in trace] == [True, False, True, True]
    assert 10_000 < (trace[1].deadline_ms or 0) <= 21_000  # gRPC rounds it up on its way


def test_a_timeout_is_recorded_as_what_it_is(tmp_path: Path) -> None:
    """Not as a deadline: under policy `fixed` it is none."""
    path = tmp_path / "trace.jsonl"
    settings = ServerSettings(
        source=REPOSITORY / "iris" / "1" / "model.onnx",
        transport=TransportSettings(port=0),
        metrics_port=None,
        record_trace=path,
    )
    with ServerThread(settings) as server, Client(f"127.0.0.1:{server.port}") as client:
        client.infer("model", {"X": [ROW]}, parameters={"timeout": 20_000_000})
        client.infer("model", {"X": [ROW]}, parameters={"timeout": 20_000_000}, timeout=10.0)
    first, second = read_trace(path)
    assert (first.deadline_ms, first.timeout_ms, first.patience_ms) == (None, 20_000.0, 20_000.0)
    assert second.timeout_ms == 20_000.0
    assert second.deadline_ms is not None
    assert second.patience_ms == second.deadline_ms <= 11_000


def test_tenants_are_told_apart_and_not_named(tmp_path: Path) -> None:
    """Equal names are equal in one trace; the next one has other hashes, so that nobody can make a dictionary."""
    path = tmp_path / "trace.jsonl"
    calls = [(1, None, "gold"), (1, None, "free"), (1, None, "gold"), (1, None, "")]
    gold, free, again, none = (one.tenant for one in recorded(path, calls))
    assert gold == again
    assert len({gold, free, none}) == 3
    assert none == ""
    assert "gold" not in path.read_text()
    assert recorded(path, calls[:1])[0].tenant != gold


def test_refused_requests_are_part_of_the_load(tmp_path: Path) -> None:
    """A trace does not depend on the bound under which it was recorded: 9 rows never fit into a queue of 8."""
    assert [one.rows for one in recorded(tmp_path / "trace.jsonl", [(9, None, ""), (8, None, "")])] == [9, 8]


def test_a_trace_ends_at_its_limit(tmp_path: Path) -> None:
    """The first requests are in it; serving goes on."""
    assert [one.rows for one in recorded(tmp_path / "t.jsonl", [(1, None, ""), (2, None, ""), (3, None, "")], 2)] == [
        1,
        2,
    ]


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Before anything is served, with the file's name."""
    path = tmp_path / "no" / "trace.jsonl"
    with pytest.raises(LoadError, match=r"no/trace\.jsonl: cannot write the trace: No such file or directory"):
        TraceRecorder(path, 0.0)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    """Every field survives, and what is not said is the default."""
    path = tmp_path / "trace.jsonl"
    full = TracedRequest(0.25, "a", 7, 12.5, "bulk", 3, "abc", 4.5)
    path.write_bytes(msgspec.json.Encoder().encode_lines([TracedRequest(0.125, "b"), full]))
    assert path.read_text().splitlines()[0] == '{"at":0.125,"model":"b"}'
    assert read_trace(path) == [TracedRequest(0.125, "b"), full]


def test_a_trace_from_before_there_were_timeouts_is_read(tmp_path: Path) -> None:
    """They are deadlines in it."""
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at":0.013207,"model":"iris","rows":4,"deadline_ms":50.0,"tenant":"9f2c41d07ab3"}\n')
    (one,) = read_trace(path)
    assert (one.deadline_ms, one.timeout_ms, one.patience_ms) == (50.0, None, 50.0)


def test_a_trace_is_read_in_order_of_time_and_of_one_model_if_wished(tmp_path: Path) -> None:
    """Traces of several servers can be put together with `cat`; empty lines do not matter."""
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at":2,"model":"b"}\n\n{"at":1,"model":"a"}\n{"at":3,"model":"a"}\n')
    assert [one.at for one in read_trace(path)] == [1, 2, 3]
    assert [one.at for one in read_trace(path, "a")] == [1, 3]
    with pytest.raises(BadTrace, match=r"there is no request in this trace of model 'c', only of 'a', 'b'"):
        read_trace(path, "c")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no JSON", "JSON is malformed"),
        ('{"at":1,"model":"iris"', "truncated"),
        ("[1]", "Expected `object`"),
        ('{"model":"iris"}', "missing required field `at`"),
        ('{"at":-1,"model":"iris"}', "`float` >= 0"),
        ('{"at":1e999,"model":"iris"}', "out of range"),
        ('{"at":"1","model":"iris"}', "Expected `float`"),
        ('{"at":1,"model":"iris","rows":0}', "`int` >= 1"),
        ('{"at":1,"model":"iris","rows":1.5}', "Expected `int`"),
        ('{"at":1,"model":"iris","deadline_ms":0}', "`float` > 0"),
        ('{"at":1,"model":"iris","timeout_ms":0}', "`float` > 0"),
        ('{"at":1,"model":"iris","traffic":"fast"}', "Invalid enum value 'fast'"),
        ('{"at":1,"model":"iris","row":2}', "unknown field `row`"),
        ("[" * 100_000, ""),
        ('{"at":1,"model":"\udcff"}', ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_line_is_told_with_its_number(tmp_path: Path, line: str, reason: str) -> None:
    """The file, the line, and what is wrong with it."""
    path = tmp_path / "trace.jsonl"
    path.write_bytes(f"{GOOD}\n{line}\n{GOOD}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(BadTrace) as failure:
        read_trace(path)
    assert str(failure.value).startswith(f"{path}, line 2: ")
    assert reason in str(failure.value)


def test_a_file_without_requests_is_no_trace(tmp_path: Path) -> None:
    """Nor is one that cannot be read."""
    path = tmp_path / "trace.jsonl"
    for missing in (path, tmp_path):
        with pytest.raises(BadTrace, match=f"cannot read {missing}: "):
            read_trace(missing)
    path.touch()
    with pytest.raises(BadTrace, match="there is no request in this trace"):
        read_trace(path)
