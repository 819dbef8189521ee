"""Runs a server until a signal comes, or in a thread beside other work."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import uvloop

from penstock_server.app.memory import keep_freed_memory, spare_collections
from penstock_server.app.server import PenstockServer
from penstock_server.app.settings import ServerSettings
from penstock_server.errors import LoadError

_log = logging.getLogger(__name__)

_OVERTIME_SECONDS = 10.0
"""After the drain's own bound: closing models, joining threads. Then the process is ended the hard way."""
_LOADING_SECONDS = 1.0
"""How long a model that is being loaded may take to notice that nobody wants it any more."""


class NothingServed(LoadError):
    """There are models, and none of them can be served. The log has the reasons."""


def run_until_signal(settings: ServerSettings, on_started: Callable[[PenstockServer], None]) -> bool:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends it at once.

    False if the drain had to cut something off. Raises what `PenstockServer.start` raises, and NothingServed.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, on_started))


async def _serve(settings: ServerSettings, on_started: Callable[[PenstockServer], None]) -> bool:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, number, stop)
    return await serve_until(stop, PenstockServer(settings), on_started)


async def serve_until(
    stop: asyncio.Event, server: PenstockServer, on_started: Callable[[PenstockServer], None]
) -> bool:
    """Start the server, serve until the event, then drain. False if the drain had to cut something off.

    Ends the process if the drain does not end, or if a model is being loaded that does not come to an end.
    Raises what `PenstockServer.start` raises, and NothingServed.
    """
    starting = asyncio.ensure_future(server.start())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        await _abandon(starting)
        return True
    starting.result()
    if not any(server.models.versions()):
        await server.stop(0.0)
        raise NothingServed("none of the models can be served: the log above says why")
    spare_collections()
    keep_freed_memory()
    on_started(server)
    await stopping
    watchdog = _end_process_after(server.settings.drain_seconds + _OVERTIME_SECONDS)
    try:
        return await server.stop()
    finally:
        watchdog.cancel()


async def _abandon(starting: asyncio.Future[None]) -> None:
    """Stop what is only starting. No request was accepted yet, so ending early is no failure."""
    starting.cancel()
    await asyncio.wait((starting,))
    # The thread that loads a model cannot be stopped, and the interpreter would wait for it.
    threads = asyncio.ensure_future(asyncio.get_running_loop().shutdown_default_executor())
    ended, _ = await asyncio.wait((threads,), timeout=_LOADING_SECONDS)
    if not ended:
        _log.warning("a model is still being loaded: ending without it")
        os._exit(0)


def _on_signal(number: int, stop: asyncio.Event) -> None:
    if stop.is_set():
        _log.warning("second signal: ending at once")
        os._exit(1)
    _log.info("%s: draining", signal.Signals(number).name)
    stop.set()


def _end_process_after(seconds: float) -> threading.Timer:
    def end() -> None:
        _log.error("the drain did not come to an end: ending the process")
        os._exit(1)

    watchdog = threading.Timer(seconds, end)
    watchdog.daemon = True
    watchdog.start()
    return watchdog


class ServerThread:
    """A server in a thread of its own, with a loop of its own.

    >>> with ServerThread(settings) as server:
    ...     Client(f"127.0.0.1:{server.port}")

    For demonstrations and tests: whatever shares the process shares its interpreter lock.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.server = PenstockServer(settings)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="penstock server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.server.start(), self._loop).result()
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self.server.stop(), self._loop).result()
        finally:
            self._end_loop()

    @property
    def port(self) -> int:
        """The port of gRPC."""
        return self.server.port

    @property
    def metrics_port(self) -> int:
        return self.server.metrics_port

    def _end_loop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._loop.shutdown_default_executor(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
