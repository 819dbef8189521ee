"""What the policies are chosen for, measured in the simulator: overload, low load, and traces that can be trusted."""

import itertools

import pytest

from penstock_scheduler import PolicyName, Reason, Settings, TrafficClass
from penstock_scheduler.simulation import Arrival, Model, bursty, diurnal, optimum, poisson, recorded, simulate

pytestmark = pytest.mark.slow

SMALL = Model(per_row=0.00105, per_batch=0.00507)
"""A vision model: a batch of 7 takes half of a deadline of 25 ms."""
FAST = Model(per_row=0.0001, per_batch=0.0015)
"""A model that gains much by batching."""

CASES = [(SMALL, 0.025, 1), (SMALL, 0.025, 2), (SMALL, 0.025, 4), (FAST, 0.010, 1), (FAST, 0.010, 4)]


def settings(policy: PolicyName, instances: int = 1) -> Settings:
    """`fixed` with a queue delay, as users of Triton set it."""
    delay = 0.0025 if policy is PolicyName.FIXED else None
    return Settings(policy=policy, instances=instances, max_queued_rows=1_000_000, max_queue_delay=delay)


@pytest.mark.parametrize(("model", "patience", "instances"), CASES)
@pytest.mark.parametrize("load", [1.5, 3.0])
def test_under_overload_deadline_serves_what_can_be_served(
    model: Model, patience: float, instances: int, load: float
) -> None:
    """At 1.5 times what can be served in time for ever, at least 95 % of that is served in time, and none late."""
    best = optimum(model.table(64), patience, instances)
    arrivals = poisson(load * best, 6000 * instances, seed=1, patience=patience)
    result = simulate(settings(PolicyName.DEADLINE, instances), model, arrivals)
    assert result.goodput >= 0.95 / load
    assert result.percentile(100) <= patience + 1e-9
    assert result.requests == len(result.latencies) + sum(result.refused.values()) + sum(result.dropped.values())


@pytest.mark.parametrize("policy", [PolicyName.FIXED, PolicyName.EAGER])
def test_under_overload_the_others_collapse(policy: PolicyName) -> None:
    """As Triton does: nearly everything is served, and nearly everything too late."""
    arrivals = poisson(1.5 * optimum(SMALL.table(64), 0.025), 6000, seed=1, patience=0.025)
    assert simulate(settings(policy), SMALL, arrivals).goodput < 0.10


@pytest.mark.parametrize(("model", "patience", "instances"), CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_at_low_load_deadline_is_as_fast_as_eager(model: Model, patience: float, instances: int, seed: int) -> None:
    """At a tenth of the load the mean latency is at most 5 % more."""
    rate = 0.1 * optimum(model.table(64), patience, instances)
    arrivals = poisson(rate, 3000, seed=seed, patience=patience)
    eager = simulate(settings(PolicyName.EAGER, instances), model, arrivals)
    deadline = simulate(settings(PolicyName.DEADLINE, instances), model, arrivals)
    assert deadline.mean_latency <= 1.05 * eager.mean_latency
    assert deadline.goodput >= eager.goodput


@pytest.mark.parametrize("load", [0.1, 0.8, 2.0])
def test_without_deadlines_deadline_is_eager(load: float) -> None:
    """Request for request the same latencies, so that it can be the default."""
    arrivals = bursty(load * 560, 3000, variation=2.0, seed=3)
    eager = simulate(settings(PolicyName.EAGER), SMALL, arrivals)
    deadline = simulate(settings(PolicyName.DEADLINE), SMALL, arrivals)
    assert deadline.latencies == eager.latencies
    assert deadline.statistics.batch_rows == eager.statistics.batch_rows


def test_with_several_instances_deferral_keeps_more_in_time() -> None:
    """Near saturation four instances that take what is there take too little each."""
    arrivals = poisson(0.8 * optimum(SMALL.table(64), 0.025, 4), 12_000, seed=1, patience=0.025)
    assert simulate(settings(PolicyName.DEADLINE, 4), SMALL, arrivals).goodput > 0.98
    assert simulate(settings(PolicyName.EAGER, 4), SMALL, arrivals).goodput < 0.90


def test_noisy_costs_make_few_late() -> None:
    """The cost model goes by the 95th percentile, so that noise of 20 % costs some throughput but not the deadlines."""
    model = Model(0.00105, 0.00507, noise=0.2)
    arrivals = poisson(0.6 * optimum(model.table(64), 0.025), 6000, seed=1, patience=0.025)
    result = simulate(settings(PolicyName.DEADLINE), model, arrivals)
    late = len(result.latencies) - result.in_time
    assert result.goodput > 0.90
    assert late < 0.03 * result.requests


def test_unknown_costs_are_learnt() -> None:
    """Without a warm-up the first batches teach it, and overload is survived all the same."""
    model = Model(0.00105, 0.00507, warm_up=False)
    arrivals = poisson(1.5 * optimum(model.table(64), 0.025), 6000, seed=1, patience=0.025)
    assert simulate(settings(PolicyName.DEADLINE), model, arrivals).goodput > 0.90 / 1.5


def test_bulk_fills_without_moving_the_others() -> None:
    """A bulk job saturates the instance; who is interactive waits for one more batch at most."""
    online = poisson(100, 1000, seed=1)
    bulk = [Arrival(0.0, rows=64, traffic=TrafficClass.BULK) for _ in range(2000)]
    both = simulate(
        Settings(max_queued_rows=1_000_000, class_patience=1000.0),
        SMALL,
        sorted(online + bulk, key=lambda each: each.at),
    )
    assert both.busy / both.duration > 0.95
    queue_time = both.statistics.classes[TrafficClass.INTERACTIVE].queue_time
    assert queue_time.count == 1000
    longest = max(bound for bound, count in zip(queue_time.bounds, queue_time.counts, strict=False) if count)
    assert longest <= 0.1  # the bucket that holds SMALL.seconds(64) = 72 ms


def test_an_oversize_request_is_one_answer() -> None:
    """Its latency is that of its last part, and it counts once."""
    result = simulate(Settings(max_batch_rows=4), Model(0.0, 0.5), [Arrival(0.0, rows=10)])
    assert result.latencies == [1.5]
    assert result.statistics.batch_rows == {4: 2, 2: 1}


def test_what_is_refused_is_told() -> None:
    """A full queue, by reason."""
    result = simulate(Settings(max_batch_rows=2, max_queued_rows=2), Model(0.0, 1.0), [Arrival(0.0) for _ in range(5)])
    assert result.refused == {Reason.QUEUE_FULL: 3}
    assert result.requests == 5
    assert len(result.latencies) == 2


def test_a_result_speaks_in_percentiles() -> None:
    """Nearest rank: no latency is made up."""
    result = simulate(Settings(max_batch_rows=1), Model(0.0, 1.0), [Arrival(0.0) for _ in range(4)])
    assert result.latencies == [1.0, 2.0, 3.0, 4.0]
    assert [result.percentile(percent) for percent in (0, 25, 50, 51, 100)] == [1.0, 1.0, 2.0, 3.0, 4.0]
    assert (result.mean_latency, result.mean_batch, result.duration, result.busy) == (2.5, 1.0, 4.0, 4.0)
    nothing = simulate(Settings(), Model(0.0, 1.0), [])
    assert (nothing.percentile(50), nothing.mean_latency, nothing.mean_batch, nothing.goodput) == (0.0, 0.0, 0.0, 1.0)


def test_traces_repeat_and_keep_their_rate() -> None:
    """The same seed gives the same arrivals, another one others; on average the rate is what was asked for."""
    assert poisson(100, 50, seed=1) == poisson(100, 50, seed=1) != poisson(100, 50, seed=2)
    for arrivals in (poisson(100, 5000, seed=1), bursty(100, 5000, variation=3.0, seed=1)):
        assert [each.at for each in arrivals] == sorted(each.at for each in arrivals)
        assert 5000 / arrivals[-1].at == pytest.approx(100, rel=0.15)


def test_bursts_are_bursts() -> None:
    """The gaps vary as much as was asked for."""
    times = [each.at for each in bursty(100, 20_000, variation=3.0, seed=1)]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean
    assert variation == pytest.approx(3.0, rel=0.1)


def test_a_day_has_a_night() -> None:
    """The rate is low at the ends of a period and high in its middle."""
    arrivals = diurnal(10, 200, period=100.0, count=10_000, seed=1)
    night = sum(1 for each in arrivals if each.at < 10)
    noon = sum(1 for each in arrivals if 45 <= each.at < 55)
    assert night == pytest.approx(10 * 16.2, rel=0.3)
    assert noon == pytest.approx(10 * 198, rel=0.1)


def test_recorded_times_start_at_zero() -> None:
    """However they were written down."""
    assert [each.at for each in recorded([7.5, 5.0, 6.0], patience=2.0)] == [0.0, 1.0, 2.5]
    assert {each.patience for each in recorded([7.5], patience=2.0)} == {2.0}


@pytest.mark.parametrize(("policy", "dropped"), [(PolicyName.EAGER, 1), (PolicyName.FIXED, 0)])
def test_a_timeout_is_what_the_policy_makes_of_it(policy: PolicyName, dropped: int) -> None:
    """A deadline for `eager`; under `fixed` it does not count, but whoever is answered after it is late."""
    arrivals = [Arrival(0.0), Arrival(0.001, timeout=0.005), Arrival(0.002)]
    result = simulate(Settings(policy=policy, max_batch_rows=1), Model(0.0, 0.010), arrivals)
    assert sum(result.dropped.values()) == dropped
    assert (len(result.latencies), result.in_time) == (3 - dropped, 2)
