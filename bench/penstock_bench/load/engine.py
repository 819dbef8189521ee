"""Sockets and the clock: the loop of one process.

Bare non-blocking sockets and one selector, no event loop: a pass reads what has come, lets each channel begin what has
room, and writes once for each connection. Waiting for the next request that is due is done with `select.select` on the
selector itself, since that takes microseconds where epoll takes milliseconds. uvloop would cost the same CPU where a
read has many answers (2.8 us a request), and a tenth less where it has one (14 of 16 us), but waits in milliseconds.
"""

import select
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from math import inf

from penstock_bench.load.channel import Channel, Variant
from penstock_bench.load.ledger import Ledger
from penstock_bench.load.pacing import ClosedPace, Pace
from penstock_bench.load.plan import LoadError, LoadPlan

_READ = 65_536
_CONNECT_SECONDS = 5.0
_TICK = 0.25
"""Seconds between two words of progress."""
_COARSE = 0.002
"""A wait shorter than this is timed in microseconds."""
_RECONNECT_SECONDS = 1.0
"""A connection that was lost again within this time stays lost."""


class _Wire:
    """A channel's socket."""

    __slots__ = ("channel", "left", "opened", "sock", "writing")

    def __init__(self, sock: socket.socket, channel: Channel, opened: float) -> None:
        self.sock = sock
        self.channel = channel
        self.opened = opened
        self.left = memoryview(b"")
        """What could not be written yet."""
        self.writing = False
        """Whether the selector waits for it to be writable."""


class Engine:
    """Drives channels to the end of the load."""

    def __init__(
        self,
        plan: LoadPlan,
        connections: int,
        make: Callable[[], Channel],
        requests: Iterator[tuple[Variant, bool]],
        ledger: Ledger,
    ) -> None:
        self._plan = plan
        self._make = make
        self._pace: Pace = ClosedPace()
        self._requests = requests
        self._ledger = ledger
        self._selector = selectors.DefaultSelector()
        self._wires: list[_Wire] = []
        self._touched: list[_Wire] = []
        """Those that may have room now, or something to write."""
        self._turn = 0
        self._stopped = False
        self._full = False
        """Whether some request that was due found no room."""
        self.lost = ""
        """Why a connection was lost for good; empty: none was."""
        self.lateness = 0.0
        """Seconds by which requests were sent after they were due though there was room, all together."""
        self.in_turn = 0
        """Their number."""
        for _ in range(connections):
            self._connect()
        self._begin()

    def __repr__(self) -> str:
        return f"<Engine: {len(self._wires)} connections, {self._pace!r}, {self._ledger!r}>"

    def watch(self, file: int, callback: Callable[[], bool]) -> None:
        """Call this when a file can be read; it says whether the load shall stop."""
        self._selector.register(file, selectors.EVENT_READ, callback)

    # ── connections ──────────────────────────────────────────────────────────

    def _connect(self) -> None:
        self._wires.append(wire := _Wire(connect(self._plan), self._make(), time.monotonic()))
        self._selector.register(wire.sock, selectors.EVENT_READ, wire)
        self._touched.append(wire)
        self._write()

    def _begin(self) -> None:
        """Wait until all servers have said their settings."""
        until = time.monotonic() + _CONNECT_SECONDS
        while not all(wire.channel.ready for wire in self._wires):
            now = time.monotonic()
            if now > until:
                raise LoadError(f"{self._plan.target} accepts connections and does not speak HTTP/2")
            self._pass(until - now)
            self._write()
            if self.lost:
                raise LoadError(f"{self._plan.target}: {self.lost}")

    def _replace(self, wire: _Wire, now: float) -> None:
        """A connection is over. Make another, unless the server is gone, or did the same a moment ago."""
        self._selector.unregister(wire.sock)
        wire.sock.close()
        self._wires.remove(wire)
        self._touched = [each for each in self._touched if each is not wire]
        if now >= self._ledger.end:
            return
        if not wire.channel.ready or now - wire.opened < _RECONNECT_SECONDS:
            self.lost = wire.channel.closed
            return
        try:
            self._connect()
        except LoadError:
            self.lost = wire.channel.closed

    # ── the loop ─────────────────────────────────────────────────────────────

    @property
    def stopped(self) -> bool:
        """Whether somebody ended the load."""
        return self._stopped

    @property
    def alive(self) -> bool:
        """Whether there is a connection left."""
        return bool(self._wires)

    def run(self, pace: Pace, start: float, tick: Callable[[float], None]) -> float:
        """Perform the load from this moment on. Returns the moment of its end.

        All of a schedule that finds room is sent, so a schedule has to end with the load.
        """
        self._pace = pace
        self._touched = list(self._wires)
        now = time.monotonic()
        while now < start and not self._stopped:
            self._pass(start - now)
            now = time.monotonic()
        next_tick = now
        while now < self._ledger.end and not self._stopped and self._wires:
            if now >= next_tick:
                tick(now)
                next_tick = now + _TICK
            self._fill(now)
            wait = min(self._pace.next_at(), next_tick, self._ledger.end) - time.monotonic()
            self._pass(wait)
            now = time.monotonic()
        if self._pace.spread and not self._stopped:
            self._fill(now)  # what was due until the end counts, however late this process is
        return now

    def drain(self, seconds: float) -> None:
        """Wait for the answers that are still out."""
        until = time.monotonic() + seconds
        for wire in self._wires:
            wire.channel.finish()
            self._flush(wire)
        while any(wire.channel.in_flight for wire in self._wires) and not self._stopped:
            now = time.monotonic()
            if now >= until:
                break
            self._pass(min(until - now, _TICK))
            self._write()
        for wire in self._wires:
            wire.sock.close()
        self._selector.close()

    def _fill(self, now: float) -> None:
        """Begin what is due."""
        if self._pace.spread:
            self._fill_in_turn(now)
        else:
            for wire in self._touched:
                if (room := wire.channel.room()) > 0:
                    start, requests = wire.channel.start, self._requests
                    for due in self._pace.take(now, room):
                        start(due, *next(requests))
        self._write()

    def _write(self) -> None:
        """Once for each connection that has something to say."""
        touched, self._touched = self._touched, []
        for wire in touched:
            if wire.channel.output:
                self._flush(wire)

    def _fill_in_turn(self, now: float) -> None:
        count, without, waited, self._full = len(self._wires), 0, self._full, True
        while without < count:
            self._turn = (self._turn + 1) % count
            wire = self._wires[self._turn]
            channel = wire.channel
            if channel.room() <= 0:
                without += 1
                continue
            due = self._pace.take(now, 1)
            if not due:
                self._full = False
                return
            without = 0
            channel.start(due[0], *next(self._requests))
            self._touched.append(wire)
            if not waited:
                self.lateness += now - due[0]
                self.in_turn += 1

    def _pass(self, wait: float) -> None:
        """Wait for something to happen, at most so long, and read and write."""
        if 0 < wait < _COARSE:
            ready = select.select([self._selector], [], [], wait)[0]
            wait = 0.0
            if not ready:
                return
        for key, events in self._selector.select(max(0.0, wait) if wait < inf else None):
            if isinstance(key.data, _Wire):
                if events & selectors.EVENT_WRITE:
                    self._flush(key.data)
                    self._touched.append(key.data)
                if events & selectors.EVENT_READ:
                    self._read(key.data)
            elif key.data():
                self._stopped = True

    def _read(self, wire: _Wire) -> None:
        channel = wire.channel
        while True:
            try:
                data = wire.sock.recv(_READ)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError as error:
                channel.lose(time.monotonic(), f"the connection broke ({error.strerror or error})")
                break
            if not data:
                channel.lose(time.monotonic(), channel.closed or "the server closed the connection")
                break
            channel.receive(data, time.monotonic())
            if not isinstance(wire.sock, ssl.SSLSocket) or not wire.sock.pending():
                break
        # A connection that takes nothing new still has answers to give.
        if channel.closed and not channel.in_flight:
            self._replace(wire, time.monotonic())
        else:
            self._touched.append(wire)

    def _flush(self, wire: _Wire) -> None:
        """Write what the channel has to say, or what the socket takes of it."""
        output = wire.channel.output
        if output:
            wire.channel.output = []
            if wire.left:
                output.insert(0, wire.left)
            wire.left = memoryview(b"".join(output))
        try:
            while wire.left:
                wire.left = wire.left[wire.sock.send(wire.left) :]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:  # reading will tell
            wire.left = memoryview(b"")
        wire.channel.backlog = len(wire.left)
        if bool(wire.left) != wire.writing:
            wire.writing = bool(wire.left)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wire.writing else 0)
            self._selector.modify(wire.sock, events, wire)


def connect(plan: LoadPlan) -> socket.socket:
    """A connection that does not block. Raises LoadError."""
    try:
        sock = socket.create_connection((plan.host, plan.port), timeout=_CONNECT_SECONDS)
    except OSError as error:
        raise LoadError(f"nobody answers at {plan.target}: {error.strerror or error}") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if plan.tls is not None:
        try:
            context = ssl.create_default_context(cafile=plan.tls.ca)
            context.set_alpn_protocols(["http/1.1" if plan.http is not None else "h2"])
            if plan.tls.cert is not None:
                context.load_cert_chain(plan.tls.cert, plan.tls.key)
            sock = context.wrap_socket(sock, server_hostname=plan.host)
        except OSError as error:  # ssl's errors are
            sock.close()
            raise LoadError(f"no TLS with {plan.target}: {error.strerror or error}") from None
    sock.setblocking(False)
    return sock
