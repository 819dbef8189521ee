"""All metrics, read off `statistics()` when somebody asks.

No metric object is touched while a request is served: the counters that the engine keeps anyway are
turned into metrics at the scrape. Names are Triton's where Triton has the metric, so that its
dashboards work: those counters are exposed as untyped, since the library lets a counter's name end
only in `_total`, and Triton's do not.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from penstock_scheduler import FireReason, Reason, Statistics
from penstock_scheduler.statistics import QUEUE_SECONDS
from penstock_server.engine.sequences import SequenceDriver
from penstock_server.engine.statistics import VersionStatistics
from penstock_server.engine.versions import Models, ServedVersion
from penstock_server.service.budget import ByteBudget
from penstock_server.service.seam import TransportStatistics
from penstock_server.service.skeleton import SkeletonStatistics
from penstock_server.service.state import ServerState
from penstock_server.service.streaming import StreamStatistics

_LABELS = ("model", "version")

_DROPPED = (Reason.EXPIRED, Reason.HOPELESS, Reason.TIMEOUT)
"""Why the scheduler gives up what it has admitted."""

_COUNTERS: tuple[tuple[str, str, Callable[[VersionStatistics], float]], ...] = (
    ("nv_inference_request_success", "Requests that got the model's answer", lambda s: s.success.count),
    ("nv_inference_request_failure", "Requests that failed while they ran", lambda s: s.fail.count),
    ("nv_inference_count", "Rows that were run", lambda s: s.inference_count),
    ("nv_inference_exec_count", "Batches that were run", lambda s: s.execution_count),
    ("nv_inference_request_duration_us", "Time from arrival to answer, summed", lambda s: s.success.seconds * 1e6),
    ("nv_inference_queue_duration_us", "Time in the queue, summed", lambda s: s.queue.seconds * 1e6),
    ("nv_inference_compute_input_duration_us", "Time to assemble, summed", lambda s: s.compute_input.seconds * 1e6),
    ("nv_inference_compute_infer_duration_us", "Time in the model, summed", lambda s: s.compute_infer.seconds * 1e6),
    ("nv_inference_compute_output_duration_us", "Time to answer, summed", lambda s: s.compute_output.seconds * 1e6),
)


class PenstockCollector(Collector):
    """Reads the server's statistics. Runs where they are written: on the loop."""

    def __init__(
        self,
        models: Models,
        state: ServerState,
        budget: ByteBudget,
        transport: Callable[[], TransportStatistics],
        skeletons: Callable[[], SkeletonStatistics] = SkeletonStatistics,
        streams: Callable[[], StreamStatistics] = StreamStatistics,
    ) -> None:
        self._models = models
        self._state = state
        self._budget = budget
        self._transport = transport
        self._skeletons = skeletons
        self._stream_statistics = streams

    def collect(self) -> Iterator[Metric]:
        yield from self._model_counters()
        yield from self._queues()
        yield from self._decisions()
        yield from self._histograms()
        yield from self._server()
        yield from self._requests()
        yield from self._streams()
        yield from self._sequences()

    def _model_counters(self) -> Iterator[Metric]:
        for name, text, value in _COUNTERS:
            family = UnknownMetricFamily(name, text, labels=_LABELS)
            for version in self._models.versions():
                family.add_metric((version.spec.name, str(version.version)), value(version.driver.counters))
            yield family
        inline = CounterMetricFamily("penstock_batches_inline", "Batches that ran on the event loop", labels=_LABELS)
        for version in self._models.versions():
            inline.add_metric((version.spec.name, str(version.version)), version.driver.counters.inline_count)
        yield inline

    def _queues(self) -> Iterator[Metric]:
        pending = GaugeMetricFamily("nv_inference_pending_request_count", "Requests in the queue", labels=_LABELS)
        queued_rows = GaugeMetricFamily("penstock_queued_rows", "Rows in the queue", labels=_LABELS)
        queued_bytes = GaugeMetricFamily("penstock_queued_bytes", "Bytes in the queue", labels=_LABELS)
        running = GaugeMetricFamily("penstock_batches_running", "Batches that run now", labels=_LABELS)
        for labels, _, queue in self._versions():
            pending.add_metric(labels, queue.queued)
            queued_rows.add_metric(labels, queue.queued_rows)
            queued_bytes.add_metric(labels, queue.queued_bytes)
            running.add_metric(labels, queue.running)
        yield from (pending, queued_rows, queued_bytes, running)

    def _decisions(self) -> Iterator[Metric]:
        """What the scheduler has decided, and why."""
        refused = CounterMetricFamily(
            "penstock_requests_refused", "Requests that were not admitted", labels=(*_LABELS, "reason")
        )
        dropped = CounterMetricFamily(
            "penstock_requests_dropped", "Requests given up in the queue", labels=(*_LABELS, "class", "reason")
        )
        cancelled = CounterMetricFamily(
            "penstock_requests_cancelled", "Requests cancelled in the queue", labels=(*_LABELS, "class")
        )
        fired = CounterMetricFamily(
            "penstock_batches_started", "Batches, by why they were started", labels=(*_LABELS, "reason")
        )
        padding = CounterMetricFamily("penstock_padding_rows", "Rows run for nothing", labels=_LABELS)
        elements = CounterMetricFamily("penstock_padding_elements", "Elements run for nothing", labels=_LABELS)
        for labels, _, queue in self._versions():
            # All reasons from the start: of a series that begins with its first count no rate shows that count.
            for reason in Reason:
                refused.add_metric((*labels, reason.name.lower()), queue.refused.get(reason, 0))
            for traffic, of_class in queue.classes.items():
                cancelled.add_metric((*labels, traffic.name.lower()), of_class.cancelled)
                for reason in _DROPPED:
                    count = of_class.dropped.get(reason, 0)
                    dropped.add_metric((*labels, traffic.name.lower(), reason.name.lower()), count)
            for fire_reason in FireReason:
                fired.add_metric((*labels, fire_reason.name.lower()), queue.fired.get(fire_reason, 0))
            padding.add_metric(labels, queue.padding_rows)
            elements.add_metric(labels, queue.padding_elements)
        yield from (refused, dropped, cancelled, fired, padding, elements)

    def _histograms(self) -> Iterator[Metric]:
        waited = HistogramMetricFamily(
            "penstock_queue_seconds", "Time of requests in the queue", labels=(*_LABELS, "class")
        )
        computed = HistogramMetricFamily("penstock_compute_seconds", "Time of batches in the model", labels=_LABELS)
        rows = HistogramMetricFamily("penstock_batch_rows", "Rows of batches, without padding", labels=_LABELS)
        for version in self._models.versions():
            labels, counters, queue = _read(version)
            for traffic, of_class in queue.classes.items():
                histogram = of_class.queue_time
                buckets = _buckets(histogram.bounds, histogram.counts)
                waited.add_metric((*labels, traffic.name.lower()), buckets, sum_value=histogram.total)
            compute = counters.compute_time
            computed.add_metric(labels, _buckets(QUEUE_SECONDS, compute.counts), sum_value=compute.seconds)
            bounds, counts = _by_powers_of_two(queue.batch_rows, version.spec.batch_rows)
            rows.add_metric(
                labels, _buckets(bounds, counts), sum_value=sum(size * n for size, n in queue.batch_rows.items())
            )
        yield from (waited, computed, rows)

    def _versions(self) -> Iterator[tuple[tuple[str, str], VersionStatistics, Statistics]]:
        return map(_read, self._models.versions())

    def _server(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("penstock_model_ready", "1 if the model is served as it should be", labels=("model",))
        for model in self._models:
            ready.add_metric((model.name,), model.ready)
        yield ready
        yield GaugeMetricFamily("penstock_server_ready", "1 if the server is ready", value=self._state.ready)
        yield GaugeMetricFamily("penstock_inflight_bytes", "Bytes of requests held now", value=self._budget.taken)
        yield CounterMetricFamily(
            "penstock_requests_over_memory", "Requests refused for want of memory", value=self._budget.refused
        )
        transport = self._transport()
        yield GaugeMetricFamily("penstock_calls_in_flight", "Calls in flight", value=transport.calls_in_flight)
        yield CounterMetricFamily("penstock_calls", "Calls since the start", value=transport.calls)
        yield CounterMetricFamily("penstock_transport_restarts", "Listened anew", value=transport.restarts)
        yield from _connections(transport)

    def _requests(self) -> Iterator[Metric]:
        """How requests are read."""
        known = self._skeletons()
        yield GaugeMetricFamily("penstock_skeletons", "Forms of requests that are remembered", value=known.entries)
        yield GaugeMetricFamily("penstock_skeleton_bytes", "About what they take", value=known.nbytes)
        yield CounterMetricFamily("penstock_skeleton_hits", "Requests in a form that was known", value=known.hits)
        yield CounterMetricFamily("penstock_skeleton_misses", "Requests that were parsed", value=known.misses)
        yield CounterMetricFamily("penstock_skeletons_evicted", "Forms forgotten to make room", value=known.evicted)

    def _streams(self) -> Iterator[Metric]:
        streams = self._stream_statistics()
        yield GaugeMetricFamily("penstock_streams_open", "Inference streams that are open", value=streams.streams)
        yield GaugeMetricFamily("penstock_stream_requests", "Requests in flight on streams", value=streams.requests)
        yield CounterMetricFamily("penstock_streams", "Inference streams since the start", value=streams.opened)
        yield CounterMetricFamily("penstock_stream_messages", "Messages that came on them", value=streams.messages)

    def _sequences(self) -> Iterator[Metric]:
        """Of the models that have some."""
        active = GaugeMetricFamily("penstock_sequences_active", "Sequences that have a seat", labels=_LABELS)
        waiting = GaugeMetricFamily("penstock_sequences_waiting", "Sequences that wait for a seat", labels=_LABELS)
        memory = GaugeMetricFamily("penstock_sequence_state_bytes", "Memory of all states", labels=_LABELS)
        started = CounterMetricFamily("penstock_sequences_started", "Sequences that began", labels=_LABELS)
        idle = CounterMetricFamily("penstock_sequences_idle", "Sequences ended for being idle", labels=_LABELS)
        lost = CounterMetricFamily("penstock_sequence_steps_lost", "Steps lost with their sequence", labels=_LABELS)
        for version in self._models.versions():
            driver = version.driver
            if isinstance(driver, SequenceDriver):
                labels, known = (version.spec.name, str(version.version)), driver.sequence_statistics()
                active.add_metric(labels, known.active)
                waiting.add_metric(labels, known.backlog)
                memory.add_metric(labels, driver.states.nbytes)
                started.add_metric(labels, known.started)
                idle.add_metric(labels, known.idle_ended)
                lost.add_metric(labels, known.lost_steps)
        yield from (active, waiting, memory, started, idle, lost)


def _connections(transport: TransportStatistics) -> Iterator[Metric]:
    """What the transport holds for whom. All 0 if it does not know."""
    for name, text, value in (
        ("penstock_transport_connections", "Connections now", transport.connections),
        ("penstock_transport_held_bytes", "Bytes that connections hold now", transport.held_bytes),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    for name, text, value in (
        ("penstock_transport_accepted", "Connections since the start", transport.connections_total),
        ("penstock_transport_refused", "Connections refused: there were too many", transport.connections_refused),
        ("penstock_transport_shed", "Connections closed: too much was held for them", transport.connections_shed),
        ("penstock_transport_received_bytes", "Bytes of messages that came in", transport.received_bytes),
        ("penstock_transport_resets", "Calls that clients have reset", transport.resets),
    ):
        yield CounterMetricFamily(name, text, value=value)
    headers = CounterMetricFamily("penstock_transport_header_blocks", "Header blocks, by cache", labels=("cache",))
    headers.add_metric(("hit",), transport.header_hits)
    headers.add_metric(("miss",), transport.header_misses)
    yield headers
    closed = CounterMetricFamily("penstock_transport_closed", "Connections that ended, by why", labels=("code",))
    for code, count in transport.connections_closed.items():
        closed.add_metric((code,), count)
    yield closed


def _read(version: ServedVersion) -> tuple[tuple[str, str], VersionStatistics, Statistics]:
    return (version.spec.name, str(version.version)), version.driver.counters, version.driver.statistics()


def _by_powers_of_two(sizes: Mapping[int, int], largest: int) -> tuple[Sequence[int], Sequence[int]]:
    """Bounds that never change, up to the first that holds a full batch, and how many sizes are in each bucket."""
    bounds = [1 << power for power in range((largest - 1).bit_length() + 1)]
    counts = [0] * (len(bounds) + 1)
    for size, count in sizes.items():
        counts[bisect_left(bounds, size)] += count
    return bounds, counts


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Counts for each bucket as Prometheus wants them: cumulative, and with an infinite bound."""
    return list(zip([*map(str, bounds), "+Inf"], accumulate(counts), strict=True))
