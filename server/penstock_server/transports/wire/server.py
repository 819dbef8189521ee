"""Listens, and stops.

Stopping takes five steps, each bounded by the grace: methods refuse what still comes until nothing does; nobody new is
let in; every peer is told that no new calls are served (GOAWAY, twice: calls that were on their way when it came are
still served); calls end; connections close. What is left when the grace is over is cut off: its method is told, its
client gets UNAVAILABLE.
"""

import asyncio
import time

from penstock_server.service.seam import Methods, TransportStatistics
from penstock_server.transports.base import TransportSettings, become_quiet
from penstock_server.transports.wire.driver import Driver
from penstock_server.transports.wire.hub import Hub
from penstock_server.transports.wire.limits import WireLimits
from penstock_server.transports.wire.listen import BACKLOG, bind, tls_context

_FAREWELL_SECONDS = 0.25
"""For the last words to be read by peers that do not close their side."""


class WireTransport:
    """See `transports.base.Transport`."""

    def __init__(self, methods: Methods, settings: TransportSettings, limits: WireLimits | None = None) -> None:
        self._methods = methods
        self._settings = settings
        self._limits = limits or WireLimits()
        self._hub: Hub | None = None
        self._servers: list[asyncio.Server] = []
        self._port = 0

    def __repr__(self) -> str:
        s = self.statistics()
        return f"<WireTransport {self._settings.host}:{self._port}: {s.calls_in_flight} calls in flight>"

    async def start(self) -> int:
        tls = self._settings.tls
        context = None if tls is None else tls_context(tls)
        sockets = bind(self._settings.host, self._settings.port, reuse_port=self._settings.reuse_port)
        self._port = sockets[0].getsockname()[1]
        hub = self._hub = Hub(self._methods, self._settings, self._limits)
        loop = asyncio.get_running_loop()
        for listener in sockets:
            self._servers.append(
                await loop.create_server(
                    lambda: Driver(hub),
                    sock=listener,
                    backlog=BACKLOG,
                    ssl=context,
                    ssl_handshake_timeout=None if context is None else self._limits.half_frame,
                )
            )
        return self._port

    async def stop(self, grace: float) -> None:
        hub = self._hub
        if hub is None:
            return
        ends = time.monotonic() + grace
        await become_quiet(lambda: hub.calls, grace)
        hub.stopping = True
        for server in self._servers:
            server.close()
        if grace > 0:
            for member in hub.members:
                member.shutdown()
            if not await hub.empty(min(self._limits.goaway, ends - time.monotonic())):
                for member in hub.members:
                    member.shutdown()  # who has not answered by now has the same time as the others
                await hub.empty(ends - time.monotonic())
        for member in hub.members:
            member.stop()
        if not await hub.empty(_FAREWELL_SECONDS):
            for member in hub.members:
                member.abort()
            await hub.empty(_FAREWELL_SECONDS)
        hub.end()

    def statistics(self) -> TransportStatistics:
        return TransportStatistics(0, 0) if self._hub is None else self._hub.statistics()
