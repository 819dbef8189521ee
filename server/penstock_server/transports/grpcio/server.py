"""A grpc.aio server for the seam's methods, on raw bytes.

What was learnt about grpc.aio the hard way, and holds here:

* Serialisers are never given to it: an exception in one goes to the client as UNKNOWN, with its text.
* Handlers let nothing escape but cancellation, for the same reason.
* `so_reuseport` is off unless we are a worker: with it a second server binds the same port without a word
  and takes half of the calls.
* Keepalive alone takes a minute to notice a frozen client; the ping timeout has to be set too.
* `stop` returns before the last handlers have ended; the calls are counted here to know when they have.
* A `:path` that is not UTF-8 raises in grpc.aio's accept loop, and the whole server ends without a word
  (grpcio 1.85). Python code cannot prevent it, but it can notice and listen again: whoever was connected
  has to reconnect. Where strangers reach the port, a proxy in front is the better answer.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import Sequence

import grpc
from grpc import aio

from penstock_server.errors import BindError
from penstock_server.service.seam import Methods, Stream, TransportStatistics, Unary
from penstock_server.transports.base import TlsSettings, TransportSettings, become_quiet, check_tls
from penstock_server.transports.grpcio.calls import Calls, Handler, stream_handler, unary_handler

_log = logging.getLogger(__name__)

_RELISTEN_SECONDS = 0.05
_RETIRE_SECONDS = 30.0


class GrpcioTransport:
    """See `transports.base.Transport`."""

    def __init__(self, methods: Methods, settings: TransportSettings) -> None:
        self._settings = settings
        self._calls = Calls()
        self._handlers = _Handlers(methods, self._calls)
        self._server: aio.Server | None = None
        self._port = 0
        self._stopping = False
        self._restart: asyncio.Task[None] | None = None
        self._retired: set[asyncio.Task[None]] = set()  # ends of servers whose calls may still run
        self._restarts = 0  # how often grpc.aio's server has ended by itself

    def __repr__(self) -> str:
        s = self.statistics()
        return f"<GrpcioTransport {self._settings.host}:{self._port}: {s.calls_in_flight} calls in flight>"

    async def start(self) -> int:
        self._port = await self._listen(self._settings.port)
        return self._port

    async def stop(self, grace: float) -> None:
        ends = time.monotonic() + grace
        await become_quiet(lambda: self._calls.total, grace)
        self._stopping = True
        if self._restart is not None:
            await asyncio.wait((self._restart,))
        self._calls.send_readers_away()
        if self._server is not None:
            await self._server.stop(max(0.0, ends - time.monotonic()))
        for retired in self._retired:
            retired.cancel()
        await self._calls.idle()

    async def _listen(self, port: int) -> int:
        self._server = aio.server(options=_options(self._settings))
        self._server.add_generic_rpc_handlers((self._handlers,))
        address = f"{_bracketed(self._settings.host)}:{port}"
        try:
            if self._settings.tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, _credentials(self._settings.tls))
        except RuntimeError:
            raise BindError(f"cannot listen on {address}: is the port in use?") from None
        before = asyncio.all_tasks()
        await self._server.start()
        # The accept loop is not exposed: it is the task that `start` has started.
        for task in asyncio.all_tasks() - before:
            if not inspect.iscoroutine(task.get_coro()):  # the library's are compiled, others' are not
                task.add_done_callback(self._ended)
        return port

    def _ended(self, task: "asyncio.Task[object]") -> None:
        if not self._stopping and not task.cancelled() and task.exception() is not None:
            _log.error("the gRPC server has ended by itself and is started again", exc_info=task.exception())
            self._restarts += 1
            self._restart = asyncio.ensure_future(self._listen_again())

    async def _listen_again(self) -> None:
        old, self._server = self._server, None
        if old is not None:
            retired = asyncio.ensure_future(_retire(old))
            self._retired.add(retired)
            retired.add_done_callback(self._retired.discard)
        while not self._stopping:
            try:
                await self._listen(self._port)
                return
            except BindError as error:  # the old listener is not closed yet
                _log.warning("%s; trying again", error)
                await asyncio.sleep(_RELISTEN_SECONDS)

    def statistics(self) -> TransportStatistics:
        return TransportStatistics(self._calls.in_flight, self._calls.total, self._restarts)


async def _retire(server: aio.Server) -> None:
    """Let a server that has ended by itself finish the calls that it still has."""
    try:
        await server.stop(_RETIRE_SECONDS)
    except Exception:
        _log.debug("the ended gRPC server has reported its end once more", exc_info=True)


class _Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a method. None makes the core answer UNIMPLEMENTED."""

    def __init__(self, methods: Methods, calls: Calls) -> None:
        self._handlers = {path: _handler(method, path, calls) for path, method in methods.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        return self._handlers.get(handler_call_details.method)


def _handler(method: Unary | Stream, path: str, calls: Calls) -> Handler:
    return unary_handler(method, path, calls) if isinstance(method, Unary) else stream_handler(method, path, calls)


def _options(settings: TransportSettings) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.so_reuseport", int(settings.reuse_port)),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", settings.max_streams),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.server_handshake_timeout_ms", 10_000),
    )


def _bracketed(host: str) -> str:
    """An IPv6 address needs brackets before a port."""
    return f"[{host}]" if ":" in host else host


def _credentials(tls: TlsSettings) -> grpc.ServerCredentials:
    check_tls(tls)
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    client_ca = None if tls.client_ca is None else tls.client_ca.read_bytes()
    return grpc.ssl_server_credentials([pair], client_ca, require_client_auth=client_ca is not None)
