"""Pacing, the ledger and histograms: what counts as latency, and what becomes of it."""

from collections import deque
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_bench.load.histograms import latency_of, merged, quantiles
from penstock_bench.load.ledger import Ledger, Measured
from penstock_bench.load.pacing import ClosedPace, OpenPace, Pace


def simulated(pace: Pace, *, room: int, seconds: float, stall: tuple[float, float]) -> Measured:
    """A load in a world of whole milliseconds: a server that answers after 1 ms, but not while it stalls."""
    ledger = Ledger(0.0, seconds, [""])
    out: deque[tuple[float, float]] = deque()  # when due, when answered
    for tick in range(round((seconds + 5) * 1000)):
        now = tick / 1000
        while out and out[0][1] <= now and not stall[0] <= now < stall[1]:
            ledger.answer(out.popleft()[0], 0, now)
        if now < seconds:
            for due in pace.take(now, room - len(out)):
                ledger.send(due)
                out.append((due, now + 0.001))
    return ledger.measured(now=seconds, slo=0.01, cpu=0.0, late=0.0)


def test_a_stall_shows_in_an_open_loop() -> None:
    """A server that stands still for 2 of 20 seconds was late for a tenth of the requests, even if few could be sent.

    A measurement from the real sending would see it in the 8 requests that were in flight alone.
    """
    moments = (np.arange(20 * 500) / 500).tolist()
    found = simulated(OpenPace(moments), room=8, seconds=20.0, stall=(5.0, 7.0))
    assert found.latency is not None
    assert found.latency.quantiles["0.999"] == pytest.approx(2.0, rel=0.02)
    assert found.latency.quantiles["0.95"] > 0.9
    assert found.latency.quantiles["0.5"] < 0.005
    assert found.in_time < 0.92 * found.sent


def test_a_stall_hides_in_a_closed_loop() -> None:
    """The same stall in a closed loop meets 8 requests only: why there are open loops."""
    found = simulated(ClosedPace(), room=8, seconds=20.0, stall=(5.0, 7.0))
    assert found.latency is not None
    assert found.latency.quantiles["0.999"] < 0.01
    assert found.latency.maximum == pytest.approx(2.0, rel=0.01)


def test_what_finds_no_room_stays_due() -> None:
    """Requests leave in order, at most as many as have room, and keep their moments."""
    pace = OpenPace([1.0, 2.0, 3.0, 9.0])
    assert list(pace.take(0.5, 10)) == []
    assert list(pace.take(3.5, 2)) == [1.0, 2.0]
    assert pace.waiting(3.5) == 1
    assert list(pace.take(3.5, 0)) == []
    assert list(pace.take(4.0, 10)) == [3.0]
    assert pace.next_at() == 9.0
    assert list(pace.take(9.0, 1)) == [9.0]
    assert pace.next_at() == inf


def test_only_requests_of_the_measured_time_count() -> None:
    """Warm-up does not; answers after the end do if their request was due before it."""
    ledger = Ledger(10.0, 20.0, [""])
    for due, answered in ((9.0, 9.5), (9.9, 10.1), (10.0, 10.5), (19.9, 23.0), (20.0, 20.1)):
        ledger.send(due)
        ledger.answer(due, 0, answered)
    ledger.send(15.0)
    found = ledger.measured(now=20.0, slo=1.0, cpu=0.0, late=0.0)
    assert found.latency is not None
    assert (found.sent, found.latency.count, found.unanswered, found.in_time) == (3, 2, 1, 1)
    assert found.latency.maximum == pytest.approx(3.1)
    assert sum(found.windows) == 2  # of any request, but within the time


def test_classes_are_kept_apart() -> None:
    """Latencies are reported for each traffic class; items of one class together."""
    ledger = Ledger(0.0, 10.0, ["fast", "slow", "fast"])
    for item, latency in ((0, 0.1), (1, 2.0), (2, 0.3)):
        ledger.send(1.0)
        ledger.answer(1.0, item, 1.0 + latency)
    found = ledger.measured(now=10.0, slo=None, cpu=0.0, late=0.0).by_class
    assert {name: latency.count for name, latency in found.items()} == {"fast": 2, "slow": 1}
    assert found["fast"].maximum == pytest.approx(0.3)


def test_failures_count_by_status() -> None:
    """With the server's words of the first one."""
    ledger = Ledger(0.0, 10.0, [""])
    for words in ("full", "still full"):
        ledger.send(1.0)
        ledger.fail(1.0, "RESOURCE_EXHAUSTED", words)
    found = ledger.measured(now=10.0, slo=None, cpu=0.0, late=0.0)
    assert found.failed == {"RESOURCE_EXHAUSTED": 2}
    assert found.examples == {"RESOURCE_EXHAUSTED": "full"}
    assert found.latency is None


latencies = st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=200)


@given(latencies)
def test_quantiles_are_right_to_three_digits(seconds: list[float]) -> None:
    """Against numpy, on microseconds; the extremes and the mean are exact."""
    found = latency_of(np.array(seconds))
    assert (found.count, found.minimum, found.maximum) == (len(seconds), min(seconds), max(seconds))
    assert found.mean == pytest.approx(float(np.mean(seconds)))
    for name, value in found.quantiles.items():
        exact = float(np.quantile(np.array(seconds), float(name), method="inverted_cdf"))
        # The library rounds the rank where numpy takes its ceiling.
        near = float(np.quantile(np.array(seconds), float(name), method="closest_observation"))
        assert any(value == pytest.approx(each, rel=2e-3, abs=1e-6) for each in (exact, near))


@settings(max_examples=20)  # the library takes its time to decode
@given(latencies, latencies)
def test_parts_merge_to_the_whole(one: list[float], other: list[float]) -> None:
    """What two processes measured is as if one had."""
    whole = latency_of(np.array(one + other))
    both = merged([latency_of(np.array(one)), None, latency_of(np.array(other))])
    assert both is not None
    assert both.quantiles == pytest.approx(whole.quantiles)
    assert (both.count, both.maximum, both.minimum) == (whole.count, whole.maximum, whole.minimum)
    assert both.mean == pytest.approx(whole.mean)


def test_other_quantiles_can_be_had_later() -> None:
    """The histogram travels with the numbers."""
    found = latency_of(np.arange(1, 1001) / 1000)
    assert quantiles(found, [0.1, 0.25]) == pytest.approx([0.1, 0.25], rel=2e-3)
    assert merged([None]) is None
