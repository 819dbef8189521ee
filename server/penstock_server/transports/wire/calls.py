"""The calls of a connection: what connects a stream of HTTP/2 with a method of the seam.

    Call ─┬─ UnaryCall ── ReceivingCall   (a unary call whose request did not come in one piece)
          └─ StreamCall

A call is *open* as long as it has its `stream`. Whatever ends it (an answer, the peer, its deadline, a limit, the
server's stop) takes the stream away first, so it ends once, and everything that comes later does nothing.

Rules:
* Methods and handlers are called from `_guarded` places only: what they raise ends their call and nothing else.
* A handler is never called from inside its own call of the sink: what that causes is put off to the end of the
  connection's turn (`Link.later`).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from penstock_server.errors import Failure, Trailers, failure_of
from penstock_server.grpc_wire.call import StreamRequest, UnaryRequest, whole_message
from penstock_server.grpc_wire.compression import Inflate
from penstock_server.grpc_wire.framing import PREFIX_BYTES, PREFIXES, SMALL
from penstock_server.grpc_wire.status import Refusal
from penstock_server.http2.connection import Connection
from penstock_server.http2.headers import HeaderBlock
from penstock_server.http2.streams import Stream as WireStream
from penstock_server.service.seam import (
    Buffer,
    Cancel,
    Parts,
    RequestHead,
    Stream,
    StreamHandler,
    Unary,
    nothing_to_cancel,
)
from penstock_server.status import Status
from penstock_server.transports.wire import ends
from penstock_server.transports.wire.limits import WireLimits

_log = logging.getLogger(__name__)


class Route:
    """What equal request heads have in common. Made once for each, and never changed."""

    __slots__ = ("head", "inflate", "refusal", "stream", "unary")

    def __init__(
        self, head: RequestHead, method: Unary | Stream | None, inflate: Inflate | None, refusal: HeaderBlock | None
    ) -> None:
        self.head = head
        """Without a deadline."""
        self.unary = method if isinstance(method, Unary) else None
        self.stream = method.open if isinstance(method, Stream) else None
        self.inflate = inflate
        self.refusal = refusal
        """The whole response, if the call is not served; a route without one has a method."""


def with_deadline(head: RequestHead, deadline: float) -> RequestHead:
    """A copy with a deadline."""
    return RequestHead(head.method, head.metadata, deadline, head.peer)


class Link(Protocol):
    """The connection, as its calls see it."""

    http2: "Connection[Route]"
    now: float
    turn: int
    """The number of the connection's turn."""
    limits: WireLimits
    max_message_bytes: int
    is_marked: bool
    """Its output will be written: `touch` would change nothing."""
    half: "set[ReceivingCall | StreamCall]"
    """Calls with a message of which the peer owes the rest."""

    def touch(self) -> None:
        """There is output."""
        ...

    def end(self, stream: WireStream, block: HeaderBlock) -> None:
        """End a call with its trailers, or with a response that is nothing else."""
        ...

    def later(self, work: Callable[[], None]) -> None:
        """Do this at the end of the connection's turn."""
        ...

    def call(self, method: Unary, head: RequestHead, call: "UnaryCall", message: Buffer) -> None:
        """Hand a whole message to its method."""
        ...

    def rest(self, call: "StreamCall") -> None:
        """Call its `rested` in the next turn."""
        ...

    def hold(self, size: int) -> bool:
        """Count as many bytes more that no window bounds. False: there are too many of them."""
        ...


class UnaryCall:
    """A unary call whose message has come. It is also its method's `Reply`."""

    __slots__ = ("cancel", "deadline", "link", "stream")

    def __init__(self, link: Link, stream: WireStream, deadline: float) -> None:
        self.link = link
        self.stream: WireStream | None = stream
        self.deadline = deadline
        self.cancel: Cancel = nothing_to_cancel

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.stream!r}>"

    def __call__(self, outcome: Parts | Failure, trailers: Trailers = (), /) -> None:
        stream = self.stream
        if stream is None:
            return
        self.stream = None
        self.cancel = nothing_to_cancel  # what it belongs to knows this call: together they would be garbage
        link = self.link
        if isinstance(outcome, Failure):
            link.end(stream, ends.badly(outcome, trailers, True))
        else:
            size = len(outcome[0]) if len(outcome) == 1 else sum(map(len, outcome))
            if size > link.max_message_bytes:
                block = ends.badly(ends.too_large(size, link.max_message_bytes), trailers, True)
                link.end(stream, block)
            else:
                end = ends.well(trailers) if trailers else ends.OK
                prefix = PREFIXES[size] if size < SMALL else size.to_bytes(PREFIX_BYTES, "big")
                link.http2.respond(stream, ends.RESPONSE, (prefix, *outcome), end)
        if not link.is_marked:
            link.touch()

    def gone(self) -> None:
        """The peer has given the call up."""
        if self.stream is not None:
            self.stream = None
            cancel, self.cancel = self.cancel, nothing_to_cancel
            _stop(cancel)

    def cut(self, failure: Failure) -> None:
        """End it from here."""
        if self.stream is not None:
            cancel = self.cancel
            self(failure)
            _stop(cancel)

    # A whole message has come: nothing more is to.

    def on_pieces(self, stream: WireStream, pieces: Sequence[Buffer], end_stream: bool) -> None:
        """More of the body, after the call has ended: its peer does not know yet."""
        self.link.http2.consumed(stream, sum(map(len, pieces)))

    def on_end(self) -> None: ...

    def on_writable(self) -> None: ...


def _stop(cancel: Cancel) -> None:
    try:
        cancel()
    except Exception as error:
        failure_of(error, during="the cancelling of a call")


class ReceivingCall(UnaryCall):
    """A unary call of which the message comes later than its head. What it holds is counted until the method gets it.

    Most messages are one frame that ends the request; only others need the machine that reads them in pieces.
    """

    __slots__ = ("_began", "_head", "_held", "_inflate", "_method", "_request", "_waits")

    def __init__(
        self,
        link: Link,
        stream: WireStream,
        inflate: Inflate | None,
        method: Unary,
        head: RequestHead,
    ) -> None:
        super().__init__(link, stream, head.deadline)
        self._waits = True  # for (the rest of) its message
        self._request: UnaryRequest | None = None  # once there is a piece of it
        self._inflate = inflate
        self._method = method
        self._head = head
        self._held = 0
        self._began = link.now
        link.half.add(self)

    def overdue(self, now: float) -> bool:
        """The message should have come by now."""
        limits = self.link.limits
        expected = 0 if self._request is None else self._request.expected
        return now - self._began > limits.message + expected / limits.message_rate

    def on_pieces(self, stream: WireStream, pieces: Sequence[Buffer], end_stream: bool) -> None:
        """More of the body."""
        size = sum(map(len, pieces))
        if self.stream is not None and self._waits:
            if end_stream and self._request is None and len(pieces) == 1:
                message = whole_message(bytes(pieces[0]), self.link.max_message_bytes)
                if message is not None:
                    self._let_go()
                    self.link.http2.consumed(stream, size)
                    self.link.call(self._method, self._head, self, message)
                    return
            self._feed(pieces, end_stream)
        if size:
            self.link.http2.consumed(stream, size)
        if end_stream:
            self.on_end()

    def _feed(self, pieces: Sequence[Buffer], end_stream: bool) -> None:
        link, request = self.link, self._request
        if request is None:
            request = self._request = UnaryRequest(link.max_message_bytes, self._inflate)
        try:
            request.feed(*pieces)
        except Refusal as refusal:
            self.cut(Failure(Status(refusal.status), refusal.message))
            return
        grown = request.held - self._held
        self._held += grown
        if not link.hold(grown) and not end_stream:
            self.cut(ends.OVER_MEMORY)

    def on_end(self) -> None:
        if self.stream is None or not self._waits:
            return
        request = self._request or UnaryRequest(self.link.max_message_bytes, self._inflate)
        self._let_go()
        try:
            message = request.end()
        except Refusal as refusal:
            self.cut(Failure(Status(refusal.status), refusal.message))
        else:
            self.link.call(self._method, self._head, self, message)

    def __call__(self, outcome: Parts | Failure, trailers: Trailers = (), /) -> None:
        self._let_go()
        super().__call__(outcome, trailers)

    def gone(self) -> None:
        self._let_go()
        super().gone()

    def _let_go(self) -> None:
        if self._waits:
            self._waits = False
            self._request = None
            self.link.half.discard(self)
            self.link.hold(-self._held)


class StreamCall:
    """A stream, and its handler's `StreamSink`."""

    __slots__ = (
        "_began",
        "_begun",
        "_delivering",
        "_end_told",
        "_handler",
        "_held",
        "_path",
        "_queued",
        "_request",
        "_responded",
        "_sent",
        "_turn",
        "deadline",
        "link",
        "stream",
    )

    def __init__(self, link: Link, stream: WireStream, deadline: float, inflate: Inflate | None) -> None:
        self.link = link
        self.stream: WireStream | None = stream
        self.deadline = deadline
        limits = link.limits
        self._request = StreamRequest(link.max_message_bytes, inflate, limits.window_messages, limits.stream_window)
        self._begun = -1  # the number of the message that is half there
        self._began = 0.0  # when
        self._handler: StreamHandler | None = None
        self._path = ""
        self._held = 0
        self._responded = False
        self._queued = False  # of what was sent, something waits for the peer's window
        self._turn = -1
        self._sent = 0  # messages, in that turn
        self._delivering = False
        self._end_told = False

    def __repr__(self) -> str:
        return f"<StreamCall {self._path} on {self.stream!r}: {self._request!r}>"

    def open(self, method: "Callable[[RequestHead, StreamCall], StreamHandler]", head: RequestHead) -> None:
        """Get the handler."""
        self._path = head.method
        try:
            self._handler = method(head, self)
        except (Exception, asyncio.CancelledError) as error:
            self.finish(failure_of(error, during=head.method))

    # The sink.

    def send(self, parts: Parts) -> bool:
        stream, link = self.stream, self.link
        if stream is None:
            return False
        size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        if size > link.max_message_bytes:
            self._fail(ends.too_large(size, link.max_message_bytes))
            return False
        if not self._responded:
            self._responded = True
            link.http2.send_headers(stream, ends.RESPONSE)
        if not link.http2.send_data(stream, (size.to_bytes(PREFIX_BYTES, "big"), *parts)):
            self._queued = True
        link.touch()
        if self._turn != link.turn:
            self._turn = link.turn
            self._sent = 0
        self._sent += 1
        most = link.limits.turn_messages
        if self._sent == most:
            link.rest(self)
        return not self._queued and self._sent < most

    def consumed(self, messages: int = 1) -> None:
        if self.stream is None:
            return
        try:
            back = self._request.consumed(messages)
        except ValueError as error:
            self._fail(failure_of(error, during=self._path))
            return
        if back:
            self.link.http2.consumed(self.stream, back)
            self.link.touch()
        if self._request.held_beyond != self._held:
            self._hold()
        if self._request.waits and not self._delivering:
            self.link.later(self._deliver)

    def finish(self, failure: Failure | None = None) -> None:
        stream, http2 = self.stream, self.link.http2
        if stream is None:
            return
        self._close()
        if failure is None:
            if not self._responded:
                http2.send_headers(stream, ends.RESPONSE)
            self.link.end(stream, ends.OK)
        else:
            self.link.end(stream, ends.badly(failure, (), not self._responded))
        self.link.touch()

    # The connection.

    def on_pieces(self, stream: WireStream, pieces: Sequence[Buffer], end_stream: bool) -> None:
        """More of the body."""
        for number, data in enumerate(pieces, 1):
            self.on_data(stream, data, end_stream and number == len(pieces))

    def on_data(self, stream: WireStream, data: Buffer, end_stream: bool) -> None:
        """A piece of the body."""
        if self.stream is None:
            self.link.http2.consumed(stream, len(data))
            return
        request = self._request
        if not end_stream and self._handler is not None and not self._delivering:
            message = request.whole(data)
            if message is not None:
                self._give(self._handler, message)
                return
        request.feed(data)
        if end_stream:
            request.end()
        self._deliver()
        back = request.settle()
        if back:
            self.link.http2.consumed(stream, back)
        if not self._hold():
            self._fail(ends.OVER_MEMORY)
        self._watch()

    def on_end(self) -> None:
        """The request is over."""
        if self.stream is not None:
            self._request.end()
            self._deliver()
            self._watch()

    def on_writable(self) -> None:
        """What was queued has gone."""
        self._queued = False
        self._tell_of_room()

    def rested(self) -> None:
        """Others had their turn."""
        self._sent = 0
        self._tell_of_room()

    def gone(self) -> None:
        """The peer has given the call up."""
        if self.stream is not None:
            self._close()
            self._cancel()

    def cut(self, failure: Failure) -> None:
        """End it from here."""
        self._fail(failure)

    # Inside.

    def _fail(self, failure: Failure) -> None:
        """End the stream with a failure that its handler does not know of."""
        if self.stream is not None:
            self.finish(failure)
            self._cancel()

    def _close(self) -> None:
        self.stream = None
        self.link.hold(-self._held)
        self._held = 0
        self.link.half.discard(self)

    def _cancel(self) -> None:
        if self._handler is None:
            return
        try:
            self._handler.on_cancel()
        except (Exception, asyncio.CancelledError) as error:
            failure_of(error, during=self._path)

    def _tell(self, what: Callable[[], None]) -> None:
        try:
            what()
        except (Exception, asyncio.CancelledError) as error:
            self.finish(failure_of(error, during=self._path))

    @property
    def _has_room(self) -> bool:
        return not self._queued and self._sent < self.link.limits.turn_messages

    def _tell_of_room(self) -> None:
        if self.stream is not None and self._handler is not None and self._has_room:
            self._tell(self._handler.on_writable)

    def _deliver(self) -> None:
        """Give the handler what there is, as far as it has room."""
        handler, request = self._handler, self._request
        if self._delivering or handler is None:
            return
        self._delivering = True
        try:
            while self.stream is not None:
                message = request.next()
                if message is None:
                    break
                try:  # as `_tell` does, without a call for each message
                    handler.on_message(message)
                except (Exception, asyncio.CancelledError) as error:
                    self.finish(failure_of(error, during=self._path))
            if self.stream is not None and request.over and not self._end_told:
                self._end_told = True
                self._tell(handler.on_end)
        except Refusal as refusal:
            self._fail(Failure(Status(refusal.status), refusal.message))
        finally:
            self._delivering = False

    def _give(self, handler: StreamHandler, message: Buffer) -> None:
        """Give the handler a message that has come alone."""
        self._delivering = True
        try:  # as `_tell` does, without a call for each message
            handler.on_message(message)
        except (Exception, asyncio.CancelledError) as error:
            self.finish(failure_of(error, during=self._path))
        finally:
            self._delivering = False

    def _hold(self) -> bool:
        """Count what no window bounds. False: there is too much of it."""
        if self.stream is None:
            return True
        grown = self._request.held_beyond - self._held
        self._held += grown
        return self.link.hold(grown) or grown <= 0

    def _watch(self) -> None:
        """See to it that a message that has begun comes to its end."""
        request = self._request
        if self.stream is None or not request.half:
            if self._begun >= 0:
                self._begun = -1
                self.link.half.discard(self)
        elif self._begun != request.messages:
            self._begun = request.messages
            self._began = self.link.now
            self.link.half.add(self)

    def overdue(self, now: float) -> bool:
        """The message that is half there should have come by now."""
        limits = self.link.limits
        return now - self._began > limits.message + self._request.expected / limits.message_rate


Call = UnaryCall | StreamCall


def open_calls(streams: Sequence[WireStream]) -> list[Call]:
    """The calls of these streams that have not ended."""
    return [each.context for each in streams if each.context is not None and each.context.stream is not None]
