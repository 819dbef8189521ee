"""All metrics, read off `statistics()` when somebody asks.

No metric object is touched while a request is served: the counters that the engine keeps anyway are
turned into metrics at the scrape. Names are Triton's where Triton has the metric, so that its
dashboards work: those counters are exposed as untyped, since the library lets a counter's name end
only in `_total`, and Triton's do not.
"""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from penstock_server.engine.statistics import VersionStatistics
from penstock_server.engine.versions import Models
from penstock_server.service.budget import ByteBudget
from penstock_server.service.seam import TransportStatistics
from penstock_server.service.state import ServerState

_LABELS = ("model", "version")

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
        self, models: Models, state: ServerState, budget: ByteBudget, transport: Callable[[], TransportStatistics]
    ) -> None:
        self._models = models
        self._state = state
        self._budget = budget
        self._transport = transport

    def collect(self) -> Iterator[Metric]:
        yield from self._model_counters()
        yield from self._queues()
        yield from self._server()

    def _model_counters(self) -> Iterator[Metric]:
        for name, text, value in _COUNTERS:
            family = UnknownMetricFamily(name, text, labels=_LABELS)
            for version in self._models.versions():
                family.add_metric((version.spec.name, str(version.version)), value(version.driver.counters))
            yield family

    def _queues(self) -> Iterator[Metric]:
        pending = GaugeMetricFamily("nv_inference_pending_request_count", "Requests in the queue", labels=_LABELS)
        running = GaugeMetricFamily("penstock_batches_running", "Batches that run now", labels=_LABELS)
        refused = CounterMetricFamily(
            "penstock_requests_refused", "Requests that were not run", labels=(*_LABELS, "reason")
        )
        for version in self._models.versions():
            labels = (version.spec.name, str(version.version))
            statistics = version.driver.statistics()
            pending.add_metric(labels, statistics.queued)
            running.add_metric(labels, statistics.running)
            for reason, count in version.driver.counters.refused.items():
                refused.add_metric((*labels, reason), count)
        yield from (pending, running, refused)

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
