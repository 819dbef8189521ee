"""Driving h2load: what it is told, and what is read of what it says."""

import os
from pathlib import Path

import pytest

from penstock_bench.h2load import arguments, latencies_of, parse, run_h2load
from penstock_bench.load.plan import ClosedLoop, LoadError, LoadPlan, MixItem, OpenLoop

PLAN = LoadPlan(
    host="127.0.0.1", port=1, mix=[MixItem(model="m", metadata={"a": "b"})], load=ClosedLoop(concurrency=64)
)
SAID = """
finished in 3.00s, 11628.00 req/s, 732.62KB/s
requests: 23260 total, 23260 started, 23260 done, 23256 succeeded, 4 failed, 1 errored, 0 timeout
status codes: 23256 2xx, 0 3xx, 3 4xx, 0 5xx
"""


def test_it_is_told_the_load() -> None:
    """Requests in flight are shared among the connections."""
    told = " ".join(arguments(PLAN, Path("body"), Path("log")))
    assert "-c 4 -m 16 -t 1 -D 10 --warm-up-time=1" in told
    assert "-H a: b" in told
    assert told.endswith("-d body http://127.0.0.1:1/inference.GRPCInferenceService/ModelInfer")


def test_what_it_says_becomes_a_point() -> None:
    """Rate, successes, and two kinds of failures."""
    found = parse(SAID, PLAN, None)
    assert (found.throughput, found.sent, found.ok) == (11628.0, 23260, 23256)
    assert found.failed == {"HTTP": 3, "CONNECTION": 1}
    assert (found.concurrency, found.connections) == (64, 4)


@pytest.mark.parametrize("said", ["", "could not connect\n", SAID.replace("23260", "0")])
def test_nothing_done_is_a_sentence(said: str) -> None:
    """And no point of zeros."""
    with pytest.raises(LoadError, match="h2load got nothing done"):
        parse(said, PLAN, None)


def test_its_log_becomes_latencies(tmp_path: Path) -> None:
    """Of what succeeded."""
    log = tmp_path / "log"
    log.write_text("1795595433054933\t200\t5000\n1795595433055039\t200\t1000\n1795595433055001\t-1\t9\n")
    found = latencies_of(log)
    assert found is not None
    assert (found.count, found.minimum, found.maximum) == (2, 1e-3, 5e-3)
    log.write_text("")
    assert latencies_of(log) is None


def test_it_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the package that has it is named."""
    monkeypatch.setitem(os.environ, "PATH", "")
    with pytest.raises(LoadError, match="nghttp2-client"):
        run_h2load(PLAN)


def test_it_does_closed_loops_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it cannot do is refused before it is started."""
    program = tmp_path / "h2load"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    open_loop = LoadPlan(host="h", port=1, mix=PLAN.mix, load=OpenLoop(rate=5))
    with pytest.raises(LoadError, match="closed loops"):
        run_h2load(open_loop)
