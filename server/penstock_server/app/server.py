"""Puts the layers together, starts them from the bottom up and drains them from the top down.

    start:  metrics port (live, not ready) ─▶ models ─▶ services ─▶ transport ─▶ ready
    stop:   not ready ─▶ sequences end ─▶ transport refuses new calls, running ones end ─▶ queues drain ─▶ models close

A model that cannot be loaded does not keep the others from being served; readiness tells.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace

from prometheus_client import CollectorRegistry

from penstock_scheduler import Bounds
from penstock_server import __version__
from penstock_server.app.settings import ServerSettings, TransportName
from penstock_server.app.trace import TraceRecorder
from penstock_server.backends.base import Backend
from penstock_server.backends.onnx import OnnxBackend
from penstock_server.backends.python import PythonBackend
from penstock_server.engine.driver import SharedDevice
from penstock_server.engine.loading import LoadSettings, load_model
from penstock_server.engine.versions import Models
from penstock_server.errors import LoadError
from penstock_server.metrics.collector import PenstockCollector
from penstock_server.metrics.http import MetricsServer
from penstock_server.models.repository import ModelSource, scan, single_file
from penstock_server.service.budget import ByteBudget
from penstock_server.service.decode import Decoder
from penstock_server.service.health import SERVICE as HEALTH_SERVICE
from penstock_server.service.health import HealthService
from penstock_server.service.inference import Inference
from penstock_server.service.reflection import ReflectionService
from penstock_server.service.seam import Methods, Stream, TransportStatistics, Unary
from penstock_server.service.skeleton import SkeletonStatistics
from penstock_server.service.state import ServerState
from penstock_server.service.streaming import StreamInference, StreamStatistics
from penstock_server.service.v2 import SERVICE as V2_SERVICE
from penstock_server.service.v2 import V2Service
from penstock_server.transports.base import Transport, TransportSettings, check_address
from penstock_server.transports.grpcio import GrpcioTransport
from penstock_server.transports.wire import WireTransport

_log = logging.getLogger(__name__)

_TRANSPORTS: Mapping[TransportName, Callable[[Methods, TransportSettings], Transport]] = {
    TransportName.GRPCIO: GrpcioTransport,
    TransportName.WIRE: WireTransport,
}
_SINGLE_FILE_BATCH_SIZE = 64
_REPOSITORY_BATCH_SIZE = 4  # Triton's default
_CLOSE_SECONDS = 5.0
_LOOK_SECONDS = 0.01


def backends(workers: int = 1) -> Mapping[str, Backend]:
    """The backends by the name that configs use, in one of so many processes that share this machine's cores."""
    threads = onnx_threads(len(os.sched_getaffinity(0)), workers)
    return {backend.name: backend for backend in (OnnxBackend(threads), PythonBackend())}


def onnx_threads(cores: int, workers: int) -> int:
    """Threads of an ONNX model in one of so many workers. 0: as many as ONNX Runtime takes, which is all cores."""
    return 0 if workers == 1 else max(1, cores // workers)


def find_models(settings: ServerSettings) -> Sequence[ModelSource]:
    """The models that the settings name. Raises LoadError if there is nothing to serve."""
    if settings.source.is_file():
        return [single_file(settings.source)]
    sources = list(scan(settings.source).models.values())
    if not sources:
        raise LoadError("there is no model in this folder", file=str(settings.source))
    return sources


def load_settings(settings: ServerSettings) -> LoadSettings:
    """How models are loaded."""
    single = settings.source.is_file()
    size = settings.max_batch_size
    if size is None:
        size = _SINGLE_FILE_BATCH_SIZE if single else _REPOSITORY_BATCH_SIZE
    return LoadSettings(
        default_max_batch_size=size,
        max_queued_rows=settings.max_queued_rows,
        max_queued_bytes=settings.max_queued_bytes,
        inline_seconds=settings.inline_below,
    )


class PenstockServer:
    """A server, from `start` to `stop`. Lives on the loop that starts it."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.models = Models()
        self.state = ServerState(self.models)
        self._budget = ByteBudget(settings.max_inflight_bytes)
        self._transport: Transport | None = None
        self._metrics: MetricsServer | None = None
        self._inference: Inference | None = None
        self._streaming: StreamInference | None = None
        self._trace: TraceRecorder | None = None
        self.port = 0
        """The port of gRPC, once started."""
        self.metrics_port = 0

    def __repr__(self) -> str:
        return f"<PenstockServer {self.state!r}, {self.models!r}, {self._transport!r}>"

    async def start(self) -> None:
        """Load the models and listen.

        Raises LoadError if there is no model at all, BindError if a port cannot be had. Either way
        nothing stays behind.
        """
        self._check_addresses()
        sources = find_models(self.settings)
        loading = replace(
            load_settings(self.settings),
            bounds=Bounds(self.settings.max_total_queued_rows, self.settings.max_inflight_bytes),
            device=None if self.settings.max_running is None else SharedDevice(self.settings.max_running),
        )
        known_backends = backends(self.settings.workers)
        try:
            if self.settings.metrics_port is not None:
                # First of all: probes see a server that is live and not ready while models load.
                self._metrics = self._start_metrics(self.settings.metrics_port)
                self.metrics_port = self._metrics.port
            if self.settings.record_trace is not None:
                self._trace = TraceRecorder(self.settings.record_trace, time.monotonic(), self.settings.record_limit)
            for source in sources:
                self.models.add(await load_model(source, known_backends, loading))
            transport = _TRANSPORTS[self.settings.transport_name]
            self._transport = transport(self._methods(), self.settings.transport)
            self.port = await self._transport.start()
            self.state.start()
        except BaseException:
            await self.stop(0.0)
            raise

    async def stop(self, grace: float | None = None) -> bool:
        """Drain within `grace` seconds (default: the setting) and close.

        What was accepted is answered; what takes longer is cut off. False if something had to be.
        """
        grace = self.settings.drain_seconds if grace is None else grace
        ends = time.monotonic() + grace
        self.state.exit()
        if self._transport is not None:
            await self._sequences_end(ends)
            await self._transport.stop(max(0.0, ends - time.monotonic()))
        drained = await self._drain_queues(max(0.0, ends - time.monotonic()))
        closed = [
            await version.driver.close(_CLOSE_SECONDS if drained else 0.0) for version in list(self.models.versions())
        ]
        if self._metrics is not None:
            await self._metrics.close()
        if self._trace is not None:
            await asyncio.to_thread(self._trace.close)
        return drained and all(closed)

    def metrics(self) -> PenstockCollector:
        """All that is counted, to be read on the server's loop."""
        return PenstockCollector(self.models, self.state, self._budget, self._calls, self._skeletons, self._streams)

    def _check_addresses(self) -> None:
        if self.settings.transport.reuse_port:
            return  # whoever holds the port for us has looked
        for port in (self.settings.transport.port, self.settings.metrics_port):
            if port:
                check_address(self.settings.transport.host, port)

    def _methods(self) -> Methods:
        dialect = self.settings.compat.dialect
        decoder = Decoder(self.models, dialect)
        inference = Inference(
            decoder,
            dialect,
            self._budget,
            self.settings.transport.max_message_bytes,
            self.settings.tenant_key,
            None if self._trace is None else self._trace.record,
            lambda: self.state.exiting,
        )
        streaming = StreamInference(
            decoder,
            dialect,
            self._budget,
            self.settings.transport.max_message_bytes,
            tenant_key=self.settings.tenant_key,
            on_request=None if self._trace is None else self._trace.record,
            is_exiting=lambda: self.state.exiting,
        )
        self._inference, self._streaming = inference, streaming
        methods: dict[str, Unary | Stream] = {}
        methods |= V2Service(self.models, self.state, dialect, inference, streaming, __version__).methods()
        methods |= HealthService(self.state, dialect).methods()
        if self.settings.reflection:
            methods |= ReflectionService([V2_SERVICE, HEALTH_SERVICE], dialect.malformed).methods()
        return methods

    def _start_metrics(self, port: int) -> MetricsServer:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self.metrics())
        return MetricsServer(registry, self.state, self.settings.transport.host, port)

    def _calls(self) -> TransportStatistics:
        return TransportStatistics(0, 0) if self._transport is None else self._transport.statistics()

    def _skeletons(self) -> SkeletonStatistics:
        """Of single requests and of those on streams."""
        if self._inference is None or self._streaming is None:
            return SkeletonStatistics()
        both = (self._inference.skeletons.statistics(), self._streaming.skeletons.statistics())
        return SkeletonStatistics(*map(sum, zip(*map(astuple, both), strict=True)))

    def _streams(self) -> StreamStatistics:
        return StreamStatistics() if self._streaming is None else self._streaming.statistics()

    async def _sequences_end(self, ends: float) -> None:
        """Wait for the clients that are in a sequence: their next requests come in calls that are yet to begin.

        No longer than until `ends`. Streams end by themselves, while the transport stops.
        """
        while any(each.driver.unended_sequences for each in self.models.versions()):
            left = ends - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, _LOOK_SECONDS))

    async def _drain_queues(self, seconds: float) -> bool:
        idle = [asyncio.Event() for _ in self.models.versions()]
        for version, event in zip(self.models.versions(), idle, strict=True):
            version.driver.drain(event.set)
        try:
            async with asyncio.timeout(max(seconds, 0.05)):
                for event in idle:
                    await event.wait()
        except TimeoutError:
            _log.warning("the drain took too long: what still runs is abandoned, and sequences that have not ended")
            return False
        return True
