"""When the requests of an open loop are due."""

from pathlib import Path

import numpy as np
import pytest

from penstock_bench.load.arrivals import BURST, TracedRequest, poisson, read_trace, replayed, schedule
from penstock_bench.load.plan import LoadError, OpenLoop


def test_poisson_gaps_are_exponential() -> None:
    """Mean and standard deviation of the gaps are both 1 / rate."""
    gaps = np.diff(poisson(1000, 20, seed=1))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(1e-3, rel=0.03)


def test_the_seed_decides() -> None:
    """Equal seeds make equal moments, others make others."""
    one, again, other = (poisson(100, 5, seed) for seed in (3, 3, 4))
    assert np.array_equal(one, again)
    assert not np.array_equal(one[:100], other[:100])


def test_constant_arrivals_are_even() -> None:
    """The gap is 1 / rate from the first to the last."""
    moments = schedule(OpenLoop(rate=50, arrivals="constant"), 2, 0).moments
    assert len(moments) == 100
    assert np.allclose(np.diff(moments), 0.02)


def test_bursts_come_together() -> None:
    """Each moment of a burst is that of ten requests."""
    moments = schedule(OpenLoop(rate=1000, arrivals="bursts"), 5, 0).moments
    _, counts = np.unique(moments, return_counts=True)
    assert set(counts.tolist()) == {BURST}
    assert len(moments) / 5 == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_a_schedule(processes: int) -> None:
    """Together they send it exactly."""
    whole = schedule(OpenLoop(rate=200), 3, 0)
    parts = [whole.part(number, processes).moments for number in range(processes)]
    assert np.array_equal(np.sort(np.concatenate(parts)), whole.moments)


TRACE = [TracedRequest(5.0, "iris", 2), TracedRequest(5.5, "iris"), TracedRequest(6.0, "digits")]


def test_a_trace_is_replayed_as_recorded() -> None:
    """It begins at once, keeps its gaps and its requests, and begins again after a mean gap."""
    replay = replayed(TRACE, 0.0, 2.6)
    assert replay.moments.tolist() == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
    assert [one.rows for one in replay.requests] == [2, 1, 1, 2, 1, 1]


def test_a_trace_is_replayed_faster() -> None:
    """At a rate of its own the gaps shrink alike."""
    assert replayed(TRACE, 20.0, 0.15).moments.tolist() == pytest.approx([0.0, 0.05, 0.1])


def test_a_trace_of_one_moment_has_no_rate() -> None:
    """It is refused in a sentence."""
    with pytest.raises(LoadError, match="at one moment"):
        replayed([TracedRequest(1.0)] * 3, 0.0, 1.0)


def test_both_kinds_of_trace_are_read(tmp_path: Path) -> None:
    """Numbers, and what the server records, with fields that do not matter here; in order of time."""
    file = tmp_path / "trace"
    file.write_text('2.5\n{"at":0.5,"model":"iris","rows":4,"deadline_ms":50.0}\n\n1\n')
    assert read_trace(file) == [TracedRequest(0.5, "iris", 4), TracedRequest(1.0), TracedRequest(2.5)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("1\nabc\n", "line 2"), ("-1\n", "line 1"), ("\n", "no request"), ('{"rows": 1}\n', "line 1"), ("\xff", "line 1")],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    """With the line that is wrong."""
    file = tmp_path / "trace"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(LoadError, match=complaint):
        read_trace(file)


def test_a_missing_trace_is_a_sentence(tmp_path: Path) -> None:
    """And no traceback."""
    with pytest.raises(LoadError, match="cannot read"):
        read_trace(tmp_path / "none")
