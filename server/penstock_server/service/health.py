"""`grpc.health.v1.Health`: serving if and only if the server is ready.

Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from google.protobuf.message import DecodeError

from penstock_proto import health_pb2 as pb
from penstock_server.errors import Failure, NotFound, NotReady
from penstock_server.service.calls import simple, unimplemented, unimplemented_stream
from penstock_server.service.dialect import Dialect
from penstock_server.service.seam import Buffer, Methods, RequestHead, Stream, StreamHandler, StreamSink, Unary
from penstock_server.service.state import ServerState
from penstock_server.service.v2 import SERVICE as V2_SERVICE
from penstock_server.status import Status

SERVICE = "grpc.health.v1.Health"
_KNOWN = frozenset({"", SERVICE, V2_SERVICE})
_MAX_WATCHERS = 64

_Serving = pb.HealthCheckResponse.ServingStatus


class HealthService:
    """Answers Check, List and Watch."""

    def __init__(self, state: ServerState, dialect: Dialect) -> None:
        self._state = state
        self._dialect = dialect

    def methods(self) -> Methods:
        """The methods by full path."""
        malformed = self._dialect.malformed
        table: dict[str, Unary | Stream] = {"Check": simple(self.check, pb.HealthCheckRequest, malformed)}
        if self._dialect.health_knows_names:
            table |= {"List": simple(self.list, pb.HealthListRequest, malformed), "Watch": Stream(self._open_watch)}
        else:  # Triton has nothing but Check
            table |= {"List": unimplemented(""), "Watch": unimplemented_stream("")}
        return {f"/{SERVICE}/{name}": method for name, method in table.items()}

    def check(self, request: pb.HealthCheckRequest) -> pb.HealthCheckResponse:
        if self._state.exiting:
            raise NotReady("Server exiting")
        if self._dialect.health_knows_names and request.service not in _KNOWN:
            raise NotFound(f"unknown service '{request.service[:128]}'")
        return pb.HealthCheckResponse(status=self.status(""))

    def list(self, request: pb.HealthListRequest) -> pb.HealthListResponse:
        if self._state.exiting:
            raise NotReady("Server exiting")
        status = pb.HealthCheckResponse(status=self.status(""))
        return pb.HealthListResponse(statuses=dict.fromkeys(sorted(_KNOWN), status))

    def status(self, service: str) -> _Serving.ValueType:
        """The status of a service now."""
        if service not in _KNOWN:
            return pb.HealthCheckResponse.SERVICE_UNKNOWN
        return pb.HealthCheckResponse.SERVING if self._state.ready else pb.HealthCheckResponse.NOT_SERVING

    def _open_watch(self, head: RequestHead, sink: StreamSink) -> StreamHandler:
        return _Watch(self, self._state, sink, self._dialect.malformed)


class _Watch:
    """One Watch call: the status now, and again whenever it changes."""

    def __init__(self, health: HealthService, state: ServerState, sink: StreamSink, malformed: Failure) -> None:
        self._health = health
        self._state = state
        self._sink = sink
        self._malformed = malformed
        self._service: str | None = None  # until the request has come
        self._sent: _Serving.ValueType | None = None
        self._writable = True

    def on_message(self, message: Buffer) -> None:
        self._sink.consumed()
        if self._service is not None:
            return self._finish(Failure(Status.INVALID_ARGUMENT, "Watch takes one request"))
        try:
            self._service = pb.HealthCheckRequest.FromString(bytes(message)).service
        except DecodeError:
            return self._finish(self._malformed)
        if self._state.watchers >= _MAX_WATCHERS:
            return self._finish(Failure(Status.RESOURCE_EXHAUSTED, "too many health watchers"))
        self._state.watch(self, self._changed)
        self._changed()

    def on_end(self) -> None:
        if self._service is None:
            self._finish(Failure(Status.INVALID_ARGUMENT, "Watch takes one request"))

    def on_cancel(self) -> None:
        self._state.unwatch(self)

    def on_writable(self) -> None:
        self._writable = True
        self._changed()

    def _changed(self) -> None:
        assert self._service is not None
        status = self._health.status(self._service)
        if status != self._sent and self._writable:
            self._sent = status
            self._writable = self._sink.send([pb.HealthCheckResponse(status=status).SerializeToString()])
        if self._state.exiting:
            # A stream that never ends by itself would hold up the drain.
            self._finish(None)

    def _finish(self, failure: Failure | None) -> None:
        self._state.unwatch(self)
        self._sink.finish(failure)
