"""Simulations of several policies over several loads: from a question to numbers.

The scheduler that answers is the one that serves. All policies see the same arrivals, and the same seeds give the same
numbers. A *load* of 1 is the capacity: the rate in rows that the model can serve for ever, within the deadline if
there is one (`penstock_scheduler.simulation.optimum`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from heapq import merge
from math import inf
from statistics import median

from penstock_scheduler import PolicyName, Settings, TrafficClass, settings_problems
from penstock_scheduler.simulation import Arrival, Model, Result, bursty, diurnal, optimum, poisson, simulate
from penstock_server.app.trace import TracedRequest
from penstock_server.cli.costs import Cost
from penstock_server.cli.values import BadValue

_BURSTS = 3.0
"""The coefficient of variation of the gaps of bursty arrivals."""
_SWING = 0.8
"""Diurnal arrivals swing by this part of their mean rate to either side, once in a run."""
_REQUESTS, _SHORTEST, _LONGEST = 20_000, 5.0, 120.0
_MOST_REQUESTS = 2_000_000


class ArrivalKind(Enum):
    """How requests come in."""

    POISSON = "poisson"
    BURSTY = "bursty"
    DIURNAL = "diurnal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to simulate. Seconds, unless a name says otherwise."""

    cost: Cost
    settings: Settings
    """Of all policies; each policy gets what it knows of them (`settings_for`)."""
    policies: Sequence[PolicyName]
    loads: Sequence[float] = ()
    """Multiples of the capacity. Empty: `rate`, or a trace's own speed."""
    rate: float | None = None
    """Rows a second."""
    arrivals: ArrivalKind = ArrivalKind.POISSON
    recorded: Sequence[TracedRequest] = ()
    """Replayed instead of synthetic arrivals, faster or slower for other loads."""
    seconds: float | None = None
    """Of each run. None: as many as 20,000 requests take at the capacity, within reason."""
    deadline: float = inf
    """For requests that bring none."""
    noise: float = 0.0
    seeds: Sequence[int] = (0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One policy at one load, all seeds together. Times are milliseconds, parts are from 0 to 1."""

    policy: str
    load: float
    rows_per_second: float
    """That were offered."""
    requests: int
    mean_ms: float | None
    """Latencies are those of answered requests; None if there was none."""
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    in_time: float
    """The part of all requests that was answered before its deadline and its timeout; without them every answer is."""
    in_time_range: tuple[float, float]
    """The worst and the best of the seeds."""
    dropped: float
    refused: float
    reasons: Mapping[str, int]
    """Why requests were refused or dropped."""
    mean_batch_rows: float
    utilisation: float
    """The part of the time that an instance worked, on average."""
    fired: Mapping[str, int]
    """How many batches were started for which reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All outcomes, and what they are of."""

    version: str
    cost: Cost
    instances: int
    max_batch_rows: int
    queue_delay_ms: float
    preferred_sizes: Sequence[int]
    deadline_ms: float | None
    arrivals: str
    seconds: float
    """Of each run; of a trace as it was recorded."""
    seeds: Sequence[int]
    noise: float
    capacity: float
    """Rows a second."""
    outcomes: Sequence[Outcome] = field(default_factory=list[Outcome])

    def of(self, policy: str) -> list[Outcome]:
        """A policy's outcomes, by load."""
        return [outcome for outcome in self.outcomes if outcome.policy == policy]

    @property
    def policies(self) -> list[str]:
        return list(dict.fromkeys(outcome.policy for outcome in self.outcomes))

    @property
    def loads(self) -> list[float]:
        return list(dict.fromkeys(outcome.load for outcome in self.outcomes))


def settings_for(policy: PolicyName, settings: Settings) -> Settings:
    """The settings with this policy, and without what only `fixed` knows if it is another. Raises BadValue."""
    if policy is PolicyName.FIXED:
        own = replace(settings, policy=policy)
    else:
        own = replace(settings, policy=policy, max_queue_delay=None, preferred_sizes=())
    problems = settings_problems(own)
    if problems:
        raise BadValue("; ".join(problems))
    return own


def capacity(question: Question) -> float:
    """Rows a second. Raises BadValue if not even one row can be answered in time."""
    settings, model = question.settings, _model(question)
    patience = _patience(question)
    table = model.table(settings.max_batch_rows)
    if table[1] > patience:
        one = f"a batch of one row takes {table[1] * 1e3:.4g} ms"
        raise BadValue(f"{one}, more than the deadline of {patience * 1e3:g} ms: nothing can be answered in time")
    # Where a request that has just missed a batch could not wait for the next, batches of one are what there is.
    return optimum(table, patience, settings.instances) or settings.instances / table[1]


def sweep(question: Question, version: str, on_done: Callable[[], None]) -> Report:
    """Simulate. `on_done` is called after each run; there are `runs(question)`. Raises BadValue."""
    settings = {policy: settings_for(policy, question.settings) for policy in question.policies}
    full = capacity(question)
    seconds = question.seconds or min(max(_REQUESTS / full, _SHORTEST), _LONGEST)
    if question.recorded:
        seconds = _span(question.recorded)
    outcomes: list[Outcome] = []
    for load, rate in _rates(question, full):
        if not question.recorded and rate * seconds > _MOST_REQUESTS:
            raise BadValue(f"{rate * seconds:.0f} requests in one run are too many: choose fewer --seconds")
        # Replaying takes no chance, but batches with noise do.
        traces = [_arrivals(question, rate, seconds, seed) for seed in question.seeds]
        for policy in question.policies:
            results: list[Result] = []
            for seed, arrivals in zip(question.seeds, traces, strict=True):
                results.append(simulate(settings[policy], _model(question), arrivals, seed=seed))
                on_done()
            outcomes.append(_outcome(policy, load, rate, results, question.settings.instances))
    own = settings.get(PolicyName.FIXED)
    return Report(
        version=version,
        cost=question.cost,
        instances=question.settings.instances,
        max_batch_rows=question.settings.max_batch_rows,
        queue_delay_ms=(own.max_queue_delay or 0.0) * 1e3 if own else 0.0,
        preferred_sizes=own.preferred_sizes if own else (),
        deadline_ms=None if question.deadline == inf else question.deadline * 1e3,
        arrivals=_describe(question),
        seconds=seconds,
        seeds=question.seeds,
        noise=question.noise,
        capacity=full,
        outcomes=sorted(outcomes, key=lambda outcome: list(settings).index(PolicyName(outcome.policy))),
    )


def runs(question: Question) -> int:
    """How many simulations a sweep makes."""
    return len(question.policies) * len(question.seeds) * max(1, len(question.loads))


def _model(question: Question) -> Model:
    return Model(question.cost.per_row / 1e3, question.cost.per_batch / 1e3, question.noise)


def _patience(question: Question) -> float:
    """The deadline that the capacity is for: of a trace with many, the middle one."""
    if not question.recorded:
        return question.deadline
    wanted = [question.deadline if one.patience_ms is None else one.patience_ms / 1e3 for one in question.recorded]
    return median(min(each, 1e9) for each in wanted)


def _rates(question: Question, full: float) -> list[tuple[float, float]]:
    """Loads, and their rates in rows a second."""
    if question.loads:
        return [(load, load * full) for load in question.loads]
    rate = question.rate if question.rate is not None else _recorded_rate(question.recorded)
    return [(rate / full, rate)]


def _recorded_rate(recorded: Sequence[TracedRequest]) -> float:
    span = _span(recorded)
    if not span:
        raise BadValue("the trace has no duration: all its requests came at once")
    return sum(one.rows for one in recorded) / span


def _span(recorded: Sequence[TracedRequest]) -> float:
    return recorded[-1].at - recorded[0].at


def _arrivals(question: Question, rate: float, seconds: float, seed: int) -> list[Arrival]:
    if question.recorded:
        faster = rate / _recorded_rate(question.recorded)
        return [_replayed(one, question.recorded[0].at, faster, question.deadline) for one in question.recorded]
    count, patience = max(1, round(rate * seconds)), question.deadline
    match question.arrivals:
        case ArrivalKind.POISSON:
            return poisson(rate, count, seed=seed, patience=patience)
        case ArrivalKind.BURSTY:
            return bursty(rate, count, variation=_BURSTS, seed=seed, patience=patience)
        case ArrivalKind.DIURNAL:
            low, high = rate * (1 - _SWING), rate * (1 + _SWING)
            return diurnal(low, high, count / rate, count, seed=seed, patience=patience)


def _replayed(one: TracedRequest, start: float, faster: float, deadline: float) -> Arrival:
    return Arrival(
        (one.at - start) / faster,
        one.rows,
        _recorded_deadline(one, deadline),
        TrafficClass[one.traffic.upper()],
        one.priority,
        one.tenant,
        (one.timeout_ms or 0.0) / 1e3,
    )


def _recorded_deadline(one: TracedRequest, deadline: float) -> float:
    """Seconds until its deadline, which is `deadline` if it has neither one nor a timeout."""
    if one.deadline_ms is None:
        return deadline if one.timeout_ms is None else inf
    return one.deadline_ms / 1e3


def _describe(question: Question) -> str:
    if question.recorded:
        return f"recorded ({len(question.recorded)} requests)"
    return question.arrivals.value


def _outcome(policy: PolicyName, load: float, rate: float, results: Sequence[Result], instances: int) -> Outcome:
    """Several runs as one."""
    requests = sum(result.requests for result in results)
    latencies = list(merge(*(result.latencies for result in results)))
    batches: Counter[int] = Counter()
    fired: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for result in results:
        batches.update(result.statistics.batch_rows)
        fired.update({reason.name.lower(): count for reason, count in result.statistics.fired.items()})
        for losses in (result.refused, result.dropped):
            reasons.update({reason.name.lower(): count for reason, count in losses.items()})
    goodputs = [result.goodput for result in results]
    duration = sum(result.duration for result in results) * instances
    return Outcome(
        policy=policy.value,
        load=load,
        rows_per_second=rate,
        requests=requests,
        mean_ms=1e3 * sum(latencies) / len(latencies) if latencies else None,
        p50_ms=_percentile(latencies, 50),
        p90_ms=_percentile(latencies, 90),
        p99_ms=_percentile(latencies, 99),
        in_time=sum(result.in_time for result in results) / requests,
        in_time_range=(min(goodputs), max(goodputs)),
        dropped=sum(sum(result.dropped.values()) for result in results) / requests,
        refused=sum(sum(result.refused.values()) for result in results) / requests,
        reasons=dict(reasons.most_common()),
        mean_batch_rows=sum(rows * count for rows, count in batches.items()) / max(1, batches.total()),
        utilisation=sum(result.busy for result in results) / duration if duration else 0.0,
        fired=dict(fired.most_common()),
    )


def _percentile(ascending: Sequence[float], percent: int) -> float | None:
    """In milliseconds."""
    return 1e3 * ascending[-(-len(ascending) * percent // 100) - 1] if ascending else None
