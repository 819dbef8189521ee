"""The operators' port: `/metrics`, `/v2/health/live` and `/v2/health/ready` over HTTP.

It runs in threads of its own, from the standard library, and asks the loop for each answer. So a loop
that hangs is not live, which is what a liveness probe wants to know; and statistics are read where
they are written, never in between.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from socketserver import TCPServer
from threading import Thread
from typing import Protocol, cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from penstock_server.errors import BindError

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 2.0
"""A loop that takes longer to answer is not live."""

Answer = tuple[HTTPStatus, str, bytes]


class Health(Protocol):
    """Whose health is told: a server's state, or that of several processes together."""

    @property
    def live(self) -> bool: ...
    @property
    def ready(self) -> bool: ...


class MetricsServer:
    """Serves metrics and health until it is closed.

    `refresh` is awaited on the loop before each answer: for what has to be asked of others first.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        state: Health,
        host: str,
        port: int,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._routes: dict[str, Callable[[], Answer]] = {
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry)),
            "/v2/health/live": lambda: _health(state.live),
            "/v2/health/ready": lambda: _health(state.ready),
        }
        self._loop = loop
        self._refresh = refresh
        try:
            self._server = _Server((host, port), self._answer)
        except OSError as error:
            raise BindError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        self.port: int = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, args=(0.1,), name="penstock metrics", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<MetricsServer on port {self.port}>"

    async def close(self) -> None:
        """Stop listening. An answer that is under way may still be sent, or not."""
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._server.shutdown()
        self._thread.join()  # it lives on for a moment after it was told
        self._server.server_close()

    def _answer(self, path: str) -> Answer:
        """Called in a thread; the route runs on the loop."""
        route = self._routes.get(path.partition("?")[0])
        if route is None:
            return HTTPStatus.NOT_FOUND, "text/plain", b"there are /metrics, /v2/health/live and /v2/health/ready\n"

        async def on_loop() -> Answer:
            if self._refresh is not None:
                await self._refresh()
            return route()

        try:
            return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(_ANSWER_SECONDS)
        except TimeoutError:
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"the server does not respond\n"


def _health(good: bool) -> Answer:
    return HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        self._host = address[0]
        if ":" in address[0]:
            self.address_family = AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The library's own would ask the DNS for this machine's name, which nobody here wants to know.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self._host, self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        # The library would print a traceback. What gets here is a connection's end, which is the client's affair.
        _log.debug("metrics: a connection from %s broke", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = 5.0  # seconds for a request to arrive, so that idle connections do not pile up
    server_version = "penstock"
    sys_version = ""

    def do_GET(self) -> None:
        try:
            status, content_type, body = cast("_Server", self.server).answer(self.path)
        except Exception:
            _log.exception("the metrics port failed to answer %r", self.path)
            status, content_type, body = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", b""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        _log.debug("metrics: " + format, *args)
