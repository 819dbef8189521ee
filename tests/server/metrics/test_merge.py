"""The metrics of several workers as those of one server: nothing that was counted is lost, and buckets stay buckets."""

from collections.abc import AsyncIterator, Iterable, Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from penstock_server.engine.versions import Models, ServedModel, VersionState
from penstock_server.metrics.collector import PenstockCollector
from penstock_server.metrics.merge import GAUGES, Family, Totals, dump
from penstock_server.service.budget import ByteBudget
from penstock_server.service.seam import TransportStatistics
from penstock_server.service.state import ServerState
from tests.server.engine.puppets import Stage


def counted(value: float, model: str = "iris") -> tuple[Family, ...]:
    """What a worker reports: a counter, Triton's kind of one, and a gauge."""
    counter = CounterMetricFamily("penstock_padding_rows", "Rows", labels=("model",))
    triton = UnknownMetricFamily("nv_inference_count", "Rows", labels=("model",))
    gauge = GaugeMetricFamily("penstock_queued_rows", "Rows", labels=("model",))
    for family in (counter, triton, gauge):
        family.add_metric((model,), value)
    return dump((counter, triton, gauge))


def histogram(buckets: Mapping[str, float], total: float) -> tuple[Family, ...]:
    """One series with these cumulative counts."""
    family = HistogramMetricFamily("penstock_batch_rows", "Rows", labels=("model",))
    family.add_metric(("iris",), list(buckets.items()), sum_value=total)
    return dump((family,))


def read(metrics: Iterable[Metric]) -> dict[str, float]:
    """All numbers, by name and the values of their labels."""
    found: dict[str, float] = {}
    for metric in metrics:
        for sample in metric.samples:
            key = " ".join([sample.name, *sample.labels.values()])
            assert key not in found, "each is told once"
            found[key] = sample.value
    return found


def test_what_is_counted_is_added_over_workers() -> None:
    """Counters, the untyped counters of Triton, and gauges of things that each worker has for itself."""
    merged = read(Totals().merged([counted(2.0), counted(5.0)]))
    assert merged == dict.fromkeys(
        ("penstock_padding_rows_total iris", "nv_inference_count iris", "penstock_queued_rows iris"), 7.0
    )


def test_a_worker_that_has_ended_goes_on_counting() -> None:
    """A counter never goes down; what the worker had queued is gone with it."""
    totals = Totals()
    totals.retire(counted(2.0))
    totals.retire(counted(3.0))
    assert read(totals.merged([counted(10.0)])) == {
        "penstock_padding_rows_total iris": 15.0,
        "nv_inference_count iris": 15.0,
        "penstock_queued_rows iris": 10.0,
    }
    assert read(totals.merged([])) == {"penstock_padding_rows_total iris": 5.0, "nv_inference_count iris": 5.0}


def test_series_are_told_apart_by_their_labels() -> None:
    """A model that only one worker has is not lost among the others."""
    merged = read(Totals().merged([counted(1.0, "iris"), counted(2.0, "digits")]))
    assert (merged["nv_inference_count iris"], merged["nv_inference_count digits"]) == (1.0, 2.0)


def test_ready_is_what_all_workers_are() -> None:
    """The least of them: one worker without the model is enough to say no."""

    def ready(value: float) -> tuple[Family, ...]:
        return dump((GaugeMetricFamily("penstock_server_ready", "1 if the server is ready", value=value),))

    assert read(Totals().merged([ready(1.0), ready(0.0), ready(1.0)])) == {"penstock_server_ready": 0.0}
    assert read(Totals().merged([ready(1.0), ready(1.0)])) == {"penstock_server_ready": 1.0}


def test_histograms_are_added_by_their_bounds() -> None:
    """Buckets, counts and sums; and the type is still a histogram's."""
    parts = [histogram({"1": 1, "2": 3, "+Inf": 4}, 9.0), histogram({"1": 10, "2": 10, "+Inf": 10}, 10.0)]
    (metric,) = Totals().merged(parts)
    assert metric.type == "histogram"
    assert read([metric]) == {
        "penstock_batch_rows_bucket iris 1": 11,
        "penstock_batch_rows_bucket iris 2": 13,
        "penstock_batch_rows_bucket iris +Inf": 14,
        "penstock_batch_rows_count iris": 14,
        "penstock_batch_rows_sum iris": 19.0,
    }


def test_a_bound_that_a_worker_lacks_has_its_count_at_the_next_lower_one() -> None:
    """The model's largest batch was changed between two starts: nothing of either is lost, or counted twice."""
    parts = [histogram({"2": 3, "+Inf": 4}, 0.0), histogram({"1": 10, "2": 20, "4": 30, "+Inf": 31}, 0.0)]
    merged = read(Totals().merged(parts))
    assert [merged[f"penstock_batch_rows_bucket iris {bound}"] for bound in ("1", "2", "4", "+Inf")] == [10, 23, 33, 35]


BUCKETS = st.dictionaries(st.sampled_from(["0.5", "1", "2", "4", "8"]), st.integers(0, 9)).map(
    lambda counts: {bound: float(sum(n for b, n in counts.items() if float(b) <= float(bound))) for bound in counts}
)


@given(st.lists(BUCKETS, min_size=1, max_size=5), st.integers(0, 5))
def test_any_histograms_make_a_histogram(parts: list[dict[str, float]], retired: int) -> None:
    """Cumulative, with all counts at infinity, and never less than before a worker ended."""
    reports = [histogram(dict(sorted(b.items(), key=lambda kv: float(kv[0]))) | {"+Inf": 50.0}, 1.0) for b in parts]
    before = read(Totals().merged(reports))
    totals = Totals()
    for report in reports[:retired]:
        totals.retire(report)
    after = read(totals.merged(reports[retired:]))
    assert after == before
    counts = [after[key] for key in sorted((k for k in after if "_bucket" in k), key=lambda k: float(k.split()[-1]))]
    assert counts == sorted(counts)
    assert counts[-1] == after["penstock_batch_rows_count iris"] == 50.0 * len(parts)


@pytest.fixture
async def metrics() -> AsyncIterator[list[Metric]]:
    """All that a server with a model and some requests tells of itself."""
    stage = Stage(max_batch_size=2)
    model = ServedModel("puppet", states={1: (VersionState.READY, "")})
    model.serve(stage.version)
    models = Models()
    models.add(model)
    for value in (1, 2, 3):
        stage.ask(value)
    for _ in range(2):
        (await stage.next_batch()).finish()
    collector = PenstockCollector(models, ServerState(models), ByteBudget(1000), lambda: TransportStatistics(1, 4))
    yield list(collector.collect())
    await stage.driver.close(0.0)


async def test_the_servers_metrics_survive_the_way(metrics: list[Metric]) -> None:
    """What one worker alone reports comes out as it went in, name by name and number by number."""
    families = dump(metrics)
    travelled = msgspec.msgpack.decode(msgspec.msgpack.encode(families), type=tuple[Family, ...])
    assert travelled == families
    merged = list(Totals().merged([travelled]))
    assert read(merged) == read(metrics)
    assert [(m.name, m.type, m.documentation) for m in merged] == [(m.name, m.type, m.documentation) for m in metrics]


async def test_every_gauge_of_the_server_has_a_rule(metrics: list[Metric]) -> None:
    """Whoever adds one has to say how those of several workers are joined; other kinds are added up."""
    assert {metric.name for metric in metrics if metric.type == "gauge"} <= GAUGES.keys()
    assert {metric.type for metric in metrics} == {"counter", "unknown", "gauge", "histogram"}
