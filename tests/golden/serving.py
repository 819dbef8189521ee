"""A whole Penstock in a thread, and a client that knows of the protocol no more than bytes.

The loop is not the tests', which can block. A client is a function of method path,
messages and metadata: the one seam between the suites here and the transports.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias, cast

import grpc
import uvloop

from penstock_server.app.server import PenstockServer
from penstock_server.app.settings import Compat, ServerSettings, TransportName
from penstock_server.transports.base import TransportSettings
from tests.golden.cases import Reply

_CALL_SECONDS = 60.0
_Method: TypeAlias = "grpc.StreamStreamMultiCallable[bytes, bytes]"


class Call(Protocol):
    """Calls a method on the server under test."""

    def __call__(
        self, path: str, messages: Sequence[bytes | float], metadata: Sequence[tuple[str, str]] = (), /
    ) -> Reply:
        """Send all messages, pausing for as many seconds as a number among them says, half-close, and wait."""
        ...


def settings_for(source: Path, transport: TransportName, compat: Compat) -> ServerSettings:
    """A server on any free port, without a metrics port."""
    return ServerSettings(
        source=source,
        transport=TransportSettings(port=0),
        transport_name=transport,
        metrics_port=None,
        compat=compat,
    )


@contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """A running loop. All servers of a module share one: grpc.aio has one poller for all loops of a process."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="servers under test")
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def running(settings: ServerSettings, loop: asyncio.AbstractEventLoop) -> Iterator[PenstockServer]:
    """A server on this loop, from its start to the end of its drain."""
    server = PenstockServer(settings)
    asyncio.run_coroutine_threadsafe(server.start(), loop).result()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result()


@contextmanager
def calling(port: int) -> Iterator[Call]:
    """A client of the server on this port.

    It calls every method as a bidirectional stream: on the wire a unary call is one with a single message.
    """
    options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:

        def call(path: str, messages: Sequence[bytes | float], metadata: Sequence[tuple[str, str]] = (), /) -> Reply:
            # Without serialisers messages are bytes, which the type stubs do not know.
            method = cast("_Method", channel.stream_stream(path))
            stream = method(_paced(messages), metadata=tuple(metadata), timeout=_CALL_SECONDS, wait_for_ready=True)
            responses: list[bytes] = []
            try:
                responses.extend(stream)
            except grpc.RpcError:
                pass  # it is `stream` itself, which knows how it ended
            return Reply(stream.code().name, stream.details() or "", tuple(responses))

        yield call


def _paced(messages: Sequence[bytes | float]) -> Iterator[bytes]:
    for message in messages:
        if isinstance(message, bytes):
            yield message
        else:
            time.sleep(message)
