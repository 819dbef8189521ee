"""One connection: asyncio's protocol on one side, HTTP/2's handler on the other.

    loop ── buffer_updated ─▶ http2.receive ─▶ on_requests, ... ─▶ method(head, message, reply)
    loop ◀─ write ── flush ◀─ touch ◀─ reply ◀──────────────────────────────┘  (now, or from a batch later)

A *turn* is what happens between the loop and the loop: a read, or the flush after replies that came from elsewhere.
All output of a turn is written at its end, in one go. A read's turn ends with it; replies from elsewhere mark the
connection (`touch`), and all marked ones are flushed in the loop's next pass (`Hub`).
"""

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import cast
from urllib.parse import quote

from penstock_server.errors import failure_of
from penstock_server.grpc_wire.call import whole_message
from penstock_server.grpc_wire.head import interpret
from penstock_server.grpc_wire.status import Field
from penstock_server.grpc_wire.timeouts import parse_timeout
from penstock_server.http2.connection import Connection, Request
from penstock_server.http2.errors import ErrorCode
from penstock_server.http2.headers import HeaderBlock
from penstock_server.http2.streams import State
from penstock_server.http2.streams import Stream as WireStream
from penstock_server.service.seam import Buffer, RequestHead, Unary, nothing_to_cancel
from penstock_server.transports.wire import ends
from penstock_server.transports.wire.calls import (
    Call,
    ReceivingCall,
    Route,
    StreamCall,
    UnaryCall,
    with_deadline,
)
from penstock_server.transports.wire.hub import Hub

_log = logging.getLogger(__name__)

_JOINED_BYTES = 64 * 1024
"""Output up to this is joined before it is written: copying it costs less than telling the kernel of its pieces."""
_LARGE_READ = 8 * 1024
"""Reads from this on are counted at once in what the server holds, smaller ones when peers are looked at."""
_COPIED_READ = 64 * 1024
"""Reads up to this are handed on as bytes, of which slices are cheaper than of views."""
_FULL_READ = 128 * 1024
"""Reads from this on may have more behind them: loops read up to 256 KB at once."""
_LONG_TURN = 0.002
"""Seconds: a full read that takes longer is the connection's last in this pass."""
_PING = b"keepaliv"
_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing a socket drops what was not sent. Some MB would stay for minutes for a peer that does not read."""


class Driver(asyncio.BufferedProtocol):
    """See the module's docstring. Implements `http2.connection.Handler` and `calls.Link`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.limits = hub.limits
        self.max_message_bytes = hub.max_message_bytes
        self.half: set[ReceivingCall | StreamCall] = set()
        self.calls = 0
        self.peer = ""
        self.now = time.monotonic()
        self.next_deadline = inf
        """Before this no call's deadline passes."""
        self.http2: Connection[Route] = Connection(self, self._interpret, hub.settings, self.now)
        self._transport: asyncio.Transport | None = None
        self.is_marked = True  # for a flush; that of `connection_made` is the first
        self._paused_at = inf
        self._pinged_at = inf
        self._said_all_at = inf
        self.turn = 0
        self._later: list[Callable[[], None]] = []
        self._resting: list[StreamCall] = []
        # Ends that wait for those of their requests, by stream.
        self._early: dict[int, tuple[WireStream, HeaderBlock, asyncio.TimerHandle]] = {}
        self._held = 0  # of all this connection holds, as the hub knows it
        self._beyond = 0  # of that, what no window bounds

    def __repr__(self) -> str:
        return f"<Driver {self.peer}: {self.http2!r}>"

    # -- the loop ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.peer = peer_name(transport.get_extra_info("peername"))
        secure = transport.get_extra_info("ssl_object")
        if secure is not None and secure.selected_alpn_protocol() != "h2":
            _log.debug("%s did not choose h2 by ALPN", self.peer)
            self._transport.abort()
            return
        refused = self._hub.add(self)
        if refused:
            self.http2.close(ErrorCode.ENHANCE_YOUR_CALM, refused)
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        # One for all: what a read has brought is dealt with before the next.
        return self._hub.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.is_marked = True
        now = self.now = time.monotonic()
        data = self._hub.read_buffer[:nbytes]
        self.http2.receive(bytes(data) if nbytes <= _COPIED_READ else data, now)
        self.flush()
        if nbytes > _LARGE_READ:
            self.account()
            if nbytes > _FULL_READ and time.monotonic() - now > _LONG_TURN:
                self._give_way()

    def _give_way(self) -> None:
        """Read no more in this pass of the loop.

        uvloop goes on reading from a socket as long as it fills the buffer, up to 32 times: with requests that cost
        much, the neighbours would wait for seconds.
        """
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()
            self._hub.call_soon(self._go_on)

    def _go_on(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    def eof_received(self) -> bool:
        return False  # whoever stops sending is gone: HTTP/2 has no other use for it

    def pause_writing(self) -> None:
        self._paused_at = time.monotonic()

    def resume_writing(self) -> None:
        self._paused_at = inf
        self.touch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_marked = True
        self.http2.lost()
        # Nobody fetches it any more, and the connection and this object go with the collector only, which comes seldom.
        self.http2.output.clear()
        self._later.clear()
        self._resting.clear()
        for _, _, handle in self._early.values():
            handle.cancel()
        self._early.clear()
        self._hub.remove(self)
        self.account(lost=True)

    def flush(self) -> None:
        """End the turn: do what was put off, and write."""
        self.is_marked = True
        http2 = self.http2
        self.turn += 1
        if self._resting and self._paused_at == inf:
            resting, self._resting = self._resting, []
            for call in resting:
                call.rested()
        while self._later or (http2.output and self._paused_at == inf):
            if self._later:
                later, self._later = self._later, []
                for work in later:
                    work()
            else:
                self._write()
        if http2.finished and not http2.output:
            self._end()
        self.is_marked = False
        if self._resting and self._paused_at == inf:
            self.touch()

    def _write(self) -> None:
        transport = self._transport
        joined = self.http2.output_bytes <= _JOINED_BYTES
        parts = self.http2.take_output()
        if transport is None or transport.is_closing() or self._said_all_at != inf:
            return
        if joined:
            transport.write(b"".join(parts))
        else:
            transport.writelines(parts)

    def _end(self) -> None:
        """All was said. Close, but not before the peer has had time to read it: see `WireLimits.linger`."""
        transport = self._transport
        if self._said_all_at != inf or transport is None or transport.is_closing():
            return
        self._said_all_at = time.monotonic()
        if not transport.can_write_eof():  # TLS
            transport.close()
            return
        try:
            transport.write_eof()
        except OSError:  # the peer was faster
            transport.abort()

    # -- the calls' link -----------------------------------------------------------------------------------------------

    def touch(self) -> None:
        if not self.is_marked:
            self.is_marked = True
            self._hub.mark(self)

    def later(self, work: Callable[[], None]) -> None:
        self._later.append(work)
        self.touch()

    def end(self, stream: WireStream, block: HeaderBlock) -> None:
        if stream.state is State.OPEN:
            handle = self._hub.call_later(self.limits.early_end, lambda: self._end_early(stream.id))
            self._early[stream.id] = (stream, block, handle)
        else:
            self.http2.end(stream, block)

    def _end_early(self, stream_id: int) -> None:
        """The request is over now, or was waited for long enough."""
        if stream_id in self._early:
            stream, block, handle = self._early.pop(stream_id)
            handle.cancel()
            self.http2.end(stream, block)
            self.touch()

    def rest(self, call: StreamCall) -> None:
        self._resting.append(call)
        self.touch()

    def hold(self, size: int) -> bool:
        self._beyond += size
        return size <= 0 or self._hub.has_room(size)

    def account(self, *, lost: bool = False) -> None:
        """Tell the hub what this connection holds."""
        held = 0 if lost else self.http2.held_bytes + self._beyond
        self._hub.count(held - self._held)
        self._held = held

    @property
    def held(self) -> int:
        """Bytes, as far as they were counted."""
        return self._held

    # -- HTTP/2 --------------------------------------------------------------------------------------------------------

    def on_requests(self, requests: Sequence[Request[Route]]) -> None:
        limit = self.max_message_bytes
        together: list[tuple[RequestHead, Buffer, UnaryCall]] = []
        shared: Unary | None = None  # the method of those
        for stream, route, varying, data in requests:
            method = route.unary
            message = None if method is None or route.refusal is not None else whole_message(data, limit)
            if method is None or message is None:
                self.on_headers(stream, route, varying, False)
                self.on_data(stream, data, True)
                continue
            head = route.head
            deadline = inf
            if varying is not None:
                timely = self._deadline(stream, varying)
                if timely is None:
                    continue
                deadline = timely
                head = with_deadline(head, deadline)
            stream.context = call = UnaryCall(self, stream, deadline)
            if method.call_many is None or len(requests) == 1:
                self.call(method, head, call, message)
                continue
            if method is not shared and shared is not None:
                self._call_together(shared, together)
                together = []
            shared = method
            together.append((head, message, call))
        if shared is not None:
            self._call_together(shared, together)

    def on_headers(self, stream: WireStream, head: Route, varying: bytes | None, end_stream: bool) -> None:
        if head.refusal is not None:
            self.end(stream, head.refusal)
            return
        deadline = inf if varying is None else self._deadline(stream, varying)
        if deadline is None:
            return
        request = head.head if deadline == inf else with_deadline(head.head, deadline)
        call = self._begin(stream, head, request)
        self._watch_deadline(call)
        if end_stream:
            call.on_end()

    def _begin(self, stream: WireStream, route: Route, head: RequestHead) -> Call:
        if route.stream is not None:
            self.calls += 1
            call = StreamCall(self, stream, head.deadline, route.inflate)
            stream.context = call
            call.open(route.stream, head)
            return call
        method = route.unary
        assert method is not None
        stream.context = receiving = ReceivingCall(self, stream, route.inflate, method, head)
        return receiving

    def on_data(self, stream: WireStream, data: Buffer, end_stream: bool) -> None:
        call: Call | None = stream.context
        if end_stream or not isinstance(call, StreamCall):
            self.on_pieces(stream, (data,), end_stream)
        else:
            call.on_data(stream, data, False)

    def on_pieces(self, stream: WireStream, pieces: Sequence[Buffer], end_stream: bool) -> None:
        call: Call | None = stream.context
        if call is not None:
            call.on_pieces(stream, pieces, end_stream)
        else:
            self.http2.consumed(stream, sum(map(len, pieces)))
        if end_stream and self._early:
            self._end_early(stream.id)

    def on_trailers(self, stream: WireStream, headers: list[Field]) -> None:
        call: Call | None = stream.context
        if call is not None:
            call.on_end()
        if self._early:
            self._end_early(stream.id)

    def on_reset(self, stream: WireStream, code: int) -> None:
        call: Call | None = stream.context
        if call is not None:
            call.gone()

    def on_writable(self, stream: WireStream) -> None:
        call: Call | None = stream.context
        if call is not None:
            self.later(call.on_writable)

    def on_goaway(self, code: int) -> None: ...

    def on_pong(self, opaque: bytes) -> None: ...

    def on_closed(self, code: ErrorCode, reason: str) -> None:
        self._hub.closed(code)
        if code not in (ErrorCode.NO_ERROR, ErrorCode.CANCEL):
            _log.debug("closing the connection of %s: %s, %s", self.peer, code.name, reason)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _interpret(self, headers: list[Field]) -> Route:
        head = interpret(headers)
        method = self._hub.methods.get(head.path)
        request = RequestHead(head.path, head.metadata, inf, self.peer)
        if head.refusal is not None:
            return Route(request, method, head.inflate, HeaderBlock(head.refusal))
        if method is None:
            return Route(request, None, None, ends.METHOD_NOT_FOUND)
        return Route(request, method, head.inflate, None)

    def _deadline(self, stream: WireStream, timeout: bytes) -> float | None:
        """A call's deadline. None: the call has ended for want of one."""
        try:
            seconds = parse_timeout(timeout)
        except ValueError:
            self.end(stream, ends.badly(ends.BAD_TIMEOUT, (), True))
            return None
        if not seconds:
            self.end(stream, ends.badly(ends.DEADLINE_EXCEEDED, (), True))
            return None
        return self.now + seconds

    def call(self, method: Unary, head: RequestHead, call: UnaryCall, message: Buffer) -> None:
        self.calls += 1
        try:
            cancel = method.call(head, message, call)
        except (Exception, asyncio.CancelledError) as error:
            # Methods do not raise. If one does, the client must not see it.
            call(failure_of(error, during=head.method))
            return
        if call.stream is not None and cancel is not nothing_to_cancel:
            call.cancel = cancel
            self._watch_deadline(call)

    def _call_together(self, method: Unary, calls: Sequence[tuple[RequestHead, Buffer, UnaryCall]]) -> None:
        """The same for many."""
        assert method.call_many is not None
        self.calls += len(calls)
        try:
            cancels = method.call_many(calls)
        except (Exception, asyncio.CancelledError) as error:
            failure = failure_of(error, during=calls[0][0].method)
            for _, _, call in calls:
                call(failure)
            return
        for (_, _, call), cancel in zip(calls, cancels, strict=True):
            if call.stream is not None and cancel is not nothing_to_cancel:
                call.cancel = cancel
                if call.deadline < self.next_deadline:
                    self._watch_deadline(call)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _watch_deadline(self, call: Call) -> None:
        if call.deadline < self.next_deadline:
            self.next_deadline = call.deadline
            self._hub.wake_for(self, call.deadline)

    def expire(self, now: float) -> None:
        """Cut off the calls whose deadline has passed."""
        self.now = now
        self.next_deadline = inf
        for call in self.open_calls():
            if call.deadline <= now:
                call.cut(ends.DEADLINE_EXCEEDED)
        for call in self.open_calls():
            self._watch_deadline(call)

    def look(self, now: float) -> None:
        """See whether the peer keeps to the times it has."""
        self.now = now
        limits, http2 = self.limits, self.http2
        waiting_since = http2.waiting_since
        if now - self._said_all_at > limits.linger or now - self._paused_at > limits.blocked:
            self.abort()
        elif waiting_since is not None and now - waiting_since > limits.half_frame:
            http2.close(ErrorCode.ENHANCE_YOUR_CALM, "what has begun to come did not come whole in time")
        elif now - http2.last_received <= limits.silence:
            self._pinged_at = inf
        elif self._pinged_at == inf:
            self._pinged_at = now
            http2.ping(_PING)
        elif now - self._pinged_at > limits.pong:
            self.abort()
        for call in list(self.half):
            if call.overdue(now):
                call.cut(ends.TOO_SLOW)
        self.account()
        if http2.output or http2.finished:
            self.touch()

    # -- the end -------------------------------------------------------------------------------------------------------

    def open_calls(self) -> list[Call]:
        """Those that have not ended."""
        calls = [stream.context for stream in self.http2.streams.values()]
        return [call for call in calls if call is not None and call.stream is not None]

    def shutdown(self) -> None:
        """Take no new calls, after those that are on their way. A second time: really none."""
        self.http2.shutdown()
        self.touch()

    def stop(self) -> None:
        """End all calls, and the connection."""
        self.now = time.monotonic()
        for call in self.open_calls():
            call.cut(ends.STOPPED)
        for stream_id in list(self._early):
            self._end_early(stream_id)
        self.flush()
        self.http2.close(ErrorCode.NO_ERROR, "the server has stopped")
        self.flush()

    def shed(self) -> None:
        """End the connection, which holds too much."""
        self.http2.close(ErrorCode.ENHANCE_YOUR_CALM, "the server holds too much for this connection")
        self.touch()
        self.account()

    def abort(self) -> None:
        """Close without a word: nobody would read it. The kernel forgets what it still has for the peer, too."""
        transport = self._transport
        if transport is None:
            return
        try:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        except (AttributeError, OSError):  # it has none any more
            pass
        transport.abort()


def peer_name(address: object) -> str:
    """A socket's address as gRPC writes it: `ipv4:127.0.0.1:50051`, `ipv6:%5B::1%5D:50051`."""
    match address:
        case (str() as host, int() as port):
            return f"ipv4:{host}:{port}"
        case (str() as host, int() as port, int(), int()):
            return f"ipv6:{quote(f'[{host}]', safe=':')}:{port}"
        case _:
            return ""
