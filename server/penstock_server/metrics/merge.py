"""The metrics of several processes as those of one server.

    worker ── dump ──▶ families, as plain values ──▶ Totals.merged ──▶ what Prometheus sees
                                                       ▲
    a worker that has ended ── retire ─────────────────┘

* What only grows (counters, histograms, and the untyped ones, which are Triton's counters) is added over the workers
  that live and all that ever did. So a worker that is replaced never makes a counter go down.
* A gauge is what is true now: it counts the workers that live, and is joined as `GAUGES` says.
* Buckets are added by their bounds. Where two workers have different ones (a model that has changed on disk between
  two starts), a worker's count at a bound that it lacks is the one at its next lower bound: less than the truth by what
  lies in between, and still cumulative.

Nothing here knows where the values come from.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf

import msgspec
from prometheus_client.core import Metric

Labels = tuple[tuple[str, str], ...]
_Points = Mapping[Labels, float]


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One number of a family."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric with all its series, as values that can travel."""

    name: str
    documentation: str
    kind: str
    """As Prometheus calls it: `counter`, `gauge`, `histogram`, `unknown`."""
    samples: tuple[Sample, ...]


GAUGES: Mapping[str, Callable[[Iterable[float]], float]] = {
    "nv_inference_pending_request_count": sum,
    "penstock_queued_rows": sum,
    "penstock_queued_bytes": sum,
    "penstock_batches_running": sum,
    "penstock_inflight_bytes": sum,
    "penstock_calls_in_flight": sum,
    "penstock_workers": sum,
    "penstock_transport_connections": sum,
    "penstock_transport_held_bytes": sum,
    "penstock_skeletons": sum,
    "penstock_skeleton_bytes": sum,
    "penstock_streams_open": sum,
    "penstock_stream_requests": sum,
    "penstock_sequences_active": sum,
    "penstock_sequences_waiting": sum,
    "penstock_sequence_state_bytes": sum,
    # What is asked of all of them is the least that one can say.
    "penstock_model_ready": min,
    "penstock_server_ready": min,
}
"""How each gauge is joined. One that is not named is added up; a test holds that all of the server's are named."""


def dump(metrics: Iterable[Metric]) -> tuple[Family, ...]:
    """What a collector tells, as values."""
    return tuple(
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple(Sample(sample.name, dict(sample.labels), float(sample.value)) for sample in metric.samples),
        )
        for metric in metrics
    )


class Totals:
    """What the workers that have ended leave to be counted, and the sum with those that live."""

    def __init__(self) -> None:
        self._left: tuple[Family, ...] = ()

    def __repr__(self) -> str:
        return f"<Totals of ended workers: {len(self._left)} families>"

    def retire(self, families: Sequence[Family]) -> None:
        """Keep what a worker has counted that has ended: its last report."""
        grown = [family for family in families if family.kind != "gauge"]
        self._left = tuple(_join([self._left, grown]))

    def merged(self, living: Iterable[Sequence[Family]]) -> Iterator[Metric]:
        """One metric for each family that anybody has, in the order in which they are first met."""
        for family in _join([*living, self._left]):
            metric = Metric(family.name, family.documentation, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def _join(parts: Iterable[Sequence[Family]]) -> Iterator[Family]:
    by_name: dict[str, list[Family]] = {}
    for families in parts:
        for family in families:
            by_name.setdefault(family.name, []).append(family)
    for families in by_name.values():
        first = families[0]
        if first.kind == "histogram":
            samples = tuple(_add_histograms(families))
        else:
            samples = tuple(_fold(families, GAUGES.get(first.name, sum) if first.kind == "gauge" else sum))
        yield Family(first.name, first.documentation, first.kind, samples)


def _fold(families: Iterable[Family], rule: Callable[[Iterable[float]], float]) -> Iterator[Sample]:
    values: dict[tuple[str, Labels], list[float]] = {}
    for family in families:
        for sample in family.samples:
            values.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample.value)
    for (name, labels), found in values.items():
        yield Sample(name, dict(labels), rule(found))


def _add_histograms(families: Sequence[Family]) -> Iterator[Sample]:
    """Each series with its buckets, its count and its sum, as the library writes them."""
    buckets: dict[Labels, list[dict[float, Sample]]] = {}
    for family in families:
        own: dict[Labels, dict[float, Sample]] = {}
        for sample in family.samples:
            if "le" in sample.labels:
                own.setdefault(_without_bound(sample), {})[float(sample.labels["le"])] = sample
        for series, counts in own.items():
            buckets.setdefault(series, []).append(counts)
    for parts in buckets.values():
        written = {bound: sample.labels for counts in parts for bound, sample in counts.items()}
        for bound in sorted(written):
            count = sum(_count_up_to(counts, bound) for counts in parts)
            yield Sample(f"{families[0].name}_bucket", written[bound], count)
    rest = [
        Family(family.name, "", "", tuple(sample for sample in family.samples if "le" not in sample.labels))
        for family in families
    ]
    yield from _fold(rest, sum)


def _without_bound(sample: Sample) -> Labels:
    return tuple((key, value) for key, value in sample.labels.items() if key != "le")


def _count_up_to(counts: Mapping[float, Sample], bound: float) -> float:
    below = max((each for each in counts if each <= bound), default=-inf)
    return counts[below].value if below in counts else 0.0
