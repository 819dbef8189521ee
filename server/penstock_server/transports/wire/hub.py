"""What the connections of a transport share: what they serve, what they hold together, and the loop's timers.

One timer looks at all peers once a second, one waits for the next deadline of a call, and one call of the loop flushes
all connections that got replies since its last pass. None of them is for a single call.
"""

import asyncio
import heapq
import resource
import time
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from penstock_server.http2.connection import Connection, ConnectionSettings, ConnectionStatistics
from penstock_server.http2.errors import ErrorCode
from penstock_server.http2.limits import Limits
from penstock_server.service.seam import Methods, TransportStatistics
from penstock_server.transports.base import TransportSettings
from penstock_server.transports.wire.busy_poll import BusyPoll
from penstock_server.transports.wire.limits import WireLimits

_LOOKS = 8
"""Of them make one round over all peers."""
_SPARE_DEADLINES = 64
_READ_BYTES = 256 * 1024
_OTHER_FILES = 64
"""That a process has open beside its connections."""


class Member(Protocol):
    """A connection, as the hub sees it."""

    http2: Connection[Any]
    calls: int
    next_deadline: float

    @property
    def held(self) -> int: ...

    def open_calls(self) -> list[Any]: ...

    def flush(self) -> None: ...

    def expire(self, now: float) -> None: ...

    def look(self, now: float) -> None: ...

    def shutdown(self) -> None: ...

    def stop(self) -> None: ...

    def shed(self) -> None: ...

    def abort(self) -> None: ...


class Hub:
    """See the module's docstring. Lives on the loop that makes it."""

    def __init__(self, methods: Methods, settings: TransportSettings, limits: WireLimits) -> None:
        self.methods = methods
        self.limits = limits
        self.max_message_bytes = settings.max_message_bytes
        self.settings = ConnectionSettings(
            stream_window=limits.stream_window,
            connection_window=limits.connection_window,
            varying=b"grpc-timeout",
            limits=Limits(concurrent_streams=settings.max_streams),
        )
        self.read_buffer = memoryview(bytearray(_READ_BYTES))
        """What connections read into."""
        self.stopping = False
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_connections = min(settings.max_connections, max(1, files - _OTHER_FILES))
        self._max_held = settings.max_held_bytes
        self._room = settings.max_held_bytes * 3 // 4
        """What is held may grow up to this by messages that come in; the rest is for what cannot be refused."""
        self._loop = asyncio.get_running_loop()
        self._members: dict[Member, None] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._marked: list[Member] = []
        self._busy_poll = BusyPoll(self._loop, settings.busy_poll)
        self._held = 0
        self._shedding = False
        self._deadlines: list[tuple[float, int, Member]] = []
        self._pushed = 0
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._armed_for = inf
        self._unseen: list[Member] = []
        self._look_timer = self._loop.call_later(limits.look / _LOOKS, self._look)
        # What connections that are gone have left behind.
        self._calls = 0
        self._gone = Counter[str]()
        self._connections = 0
        self._refused = 0
        self._shed = 0
        # All that there are, with 0: of a series that begins with its first count no rate shows that count.
        self._closed = Counter[str]({code.name.lower(): 0 for code in ErrorCode})

    def __repr__(self) -> str:
        return f"<Hub: {len(self._members)} connections, {self._held} bytes held>"

    # -- connections ---------------------------------------------------------------------------------------------------

    def add(self, member: Member) -> str:
        """A new connection. Why it is refused, if it is."""
        self._connections += 1
        self._members[member] = None
        self._empty.clear()
        if self.stopping:
            return "the server is shutting down"
        if len(self._members) > self._max_connections:
            self._refused += 1
            return "the server has as many connections as it may"
        return ""

    def remove(self, member: Member) -> None:
        """A connection is gone, for whatever reason."""
        if member not in self._members:
            return
        del self._members[member]
        member.next_deadline = inf
        self._calls += member.calls
        for name, value in _counts(member.http2.statistics()).items():
            self._gone[name] += value
        if not self._members:
            self._empty.set()

    def closed(self, code: ErrorCode) -> None:
        """A connection has ended, and with which code."""
        self._closed[code.name.lower()] += 1

    @property
    def members(self) -> list[Member]:
        """The connections now."""
        return list(self._members)

    async def empty(self, seconds: float) -> bool:
        """Wait until there are no connections, at most so long. Whether there are none."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def end(self) -> None:
        """No timer is needed any more."""
        self._look_timer.cancel()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()

    @property
    def calls(self) -> int:
        """Since the start."""
        return self._calls + sum(member.calls for member in self._members)

    def statistics(self) -> TransportStatistics:
        counts = Counter(self._gone)
        for member in self._members:
            counts.update(_counts(member.http2.statistics()))
        return TransportStatistics(
            calls_in_flight=sum(len(member.open_calls()) for member in self._members),
            calls=self.calls,
            connections=len(self._members),
            connections_total=self._connections,
            connections_refused=self._refused,
            connections_shed=self._shed,
            connections_closed=dict(self._closed),
            held_bytes=self._held,
            received_bytes=counts["received_bytes"],
            header_hits=counts["header_hits"],
            header_misses=counts["header_misses"],
            resets=counts["resets"],
        )

    def call_later(self, seconds: float, work: Callable[[], None]) -> asyncio.TimerHandle:
        """A timer of the loop."""
        return self._loop.call_later(seconds, work)

    def call_soon(self, work: Callable[[], None]) -> None:
        """In the loop's next pass."""
        self._loop.call_soon(work)

    # -- writing -------------------------------------------------------------------------------------------------------

    def mark(self, member: Member) -> None:
        """Flush it in the loop's next pass."""
        if not self._marked:
            self._loop.call_soon(self._flush)
        self._marked.append(member)

    def _flush(self) -> None:
        marked, self._marked = self._marked, []
        for member in marked:
            member.flush()
        self._busy_poll.answered()

    # -- memory --------------------------------------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Messages that come in may make us hold as much more."""
        return self._held + size <= self._room

    def count(self, grown: int) -> None:
        """What all hold has grown by so much. Too much ends the connections that hold most."""
        self._held += grown
        if self._held > self._max_held and not self._shedding:
            self._shedding = True
            self._loop.call_soon(self._shed_most)

    def _shed_most(self) -> None:
        self._shedding = False
        while self._held > self._max_held and self._members:
            most = max(self._members, key=_held)
            before = self._held
            most.shed()
            self._shed += 1
            if self._held >= before:
                break

    # -- time ----------------------------------------------------------------------------------------------------------

    def wake_for(self, member: Member, deadline: float) -> None:
        """See to it that `expire` is called after the deadline, unless the member's next one has moved by then."""
        if len(self._deadlines) > _SPARE_DEADLINES + 4 * len(self._members):
            # Those that were overtaken stay in the heap, and connections that are gone with them.
            self._deadlines = [each for each in self._deadlines if each[0] == each[2].next_deadline]
            heapq.heapify(self._deadlines)
        self._pushed += 1
        heapq.heappush(self._deadlines, (deadline, self._pushed, member))
        if deadline < self._armed_for:
            self._arm(deadline)

    def _arm(self, deadline: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._armed_for = deadline
        delay = max(0.0, deadline - time.monotonic()) + self.limits.deadline_slack
        self._deadline_timer = self._loop.call_later(delay, self._expire)

    def _expire(self) -> None:
        self._deadline_timer = None
        self._armed_for = inf
        # Timers may fire early, by as much as the loop's clock is coarse.
        now = max(time.monotonic(), self._deadlines[0][0] if self._deadlines else 0.0)
        due: list[Member] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, _, member = heapq.heappop(self._deadlines)
            if member.next_deadline == deadline:
                due.append(member)
        for member in due:
            member.expire(now)
        if self._deadlines:
            self._arm(min(self._armed_for, self._deadlines[0][0]))

    def _look(self) -> None:
        """Look at some of the peers: all of them in `look` seconds, and never many at once."""
        self._look_timer = self._loop.call_later(self.limits.look / _LOOKS, self._look)
        if not self._unseen:
            self._unseen = self.members
        now = time.monotonic()
        some = -(-len(self._members) // _LOOKS)
        while some and self._unseen:
            member = self._unseen.pop()
            if member in self._members:  # those that are gone take nobody's turn
                member.look(now)
                some -= 1


def _held(member: Member) -> int:
    return member.held


def _counts(connection: ConnectionStatistics) -> dict[str, int]:
    return {
        "received_bytes": connection.data_bytes,
        "header_hits": connection.header_hits + connection.header_template_hits,
        "header_misses": connection.header_misses,
        "resets": connection.resets_received,
    }
