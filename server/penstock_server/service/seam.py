"""The contract between a transport and the services. No transport is known here, and no protobuf there.

A service is a table of methods by their full path, `/package.Service/Method`. A method is unary or a
stream (which covers server-, client- and bidirectional streaming). Everything happens on the event
loop's thread, and nothing here blocks, awaits or raises.

Unary: the transport calls `method(head, message, reply)` with a whole message. `reply` is called
exactly once, perhaps before the method returns, unless the transport has called the returned `Cancel`
before: then never. `Cancel` may be called at any time, more than once, and after the reply, when it
does nothing.

Streams: the transport calls `open(head, sink)` and gets a handler. It tells the handler what comes in
(`on_message`, `on_end`), that the peer or the connection is gone (`on_cancel`, after which nothing is
called any more, and which is told of as no end), and that there is room again (`on_writable`). The
handler sends with `sink.send`; when that answers False it has to stop until `on_writable`.
`sink.finish` is called at most once, after which the transport calls nothing any more. A transport
delivers at most a window of messages that the handler has not given back by `sink.consumed`, so a
handler that is slow slows its peer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from penstock_server.errors import Failure, Trailers

Buffer = bytes | memoryview
Parts = Sequence[Buffer]
"""One message in pieces, in order: joined, or written one after the other, but never copied before."""

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(slots=True, eq=False)
class RequestHead:
    """What is known of a call before its first message. Nobody changes it; it is not frozen because that costs.

    Calls with the same metadata had better bring the same object: what is looked up in it is looked up once then.
    """

    method: str
    metadata: Metadata = ()
    """Keys in lower case; values of `-bin` keys are bytes."""
    deadline: float = inf
    """On `time.monotonic()`; infinity if the client gave none."""
    peer: str = ""


Cancel = Callable[[], None]


class Reply(Protocol):
    """Ends a unary call. A failure's own trailers go before those given here."""

    def __call__(self, outcome: Parts | Failure, trailers: Trailers = (), /) -> None: ...


class StreamSink(Protocol):
    """The transport's side of a stream."""

    def send(self, parts: Parts) -> bool:
        """Send a message. False: it was taken, but wait for `on_writable` before the next."""
        ...

    def consumed(self, messages: int = 1) -> None:
        """Give back the receive window of as many messages."""
        ...

    def finish(self, failure: Failure | None = None) -> None:
        """End the stream with a failure, or well."""
        ...


class StreamHandler(Protocol):
    """The service's side of a stream."""

    def on_message(self, message: Buffer) -> None: ...

    def on_end(self) -> None:
        """The client has sent its last message. Who gives the call up before has not."""
        ...

    def on_cancel(self) -> None:
        """The client is gone or has had enough, or the deadline has passed."""
        ...

    def on_writable(self) -> None: ...


UnaryCall = tuple[RequestHead, Buffer, Reply]


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one request and one response."""

    call: Callable[[RequestHead, Buffer, Reply], Cancel]
    call_many: Callable[[Sequence[UnaryCall]], Sequence[Cancel]] | None = None
    """`call` for each of the calls that came in one read, where that costs less than one by one."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A method whose requests or responses are streams."""

    open: Callable[[RequestHead, StreamSink], StreamHandler]


Methods = Mapping[str, Unary | Stream]


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """A snapshot of what every transport counts."""

    calls_in_flight: int
    calls: int
    """Since the start."""
    restarts: int = 0
    """How often the transport had to listen anew, because what it stands on had ended."""
    connections: int = 0
    """Now. This and what follows stays 0 with a transport that does not know."""
    connections_total: int = 0
    connections_refused: int = 0
    """Because there were as many as may be."""
    connections_shed: int = 0
    """Closed because the server held too many bytes, and most of them for these."""
    connections_closed: Mapping[str, int] = field(default_factory=dict[str, int])
    """By HTTP/2's code, in lower case; `no_error` and `cancel` (the peer left) are the usual ones."""
    held_bytes: int = 0
    """What connections hold: messages that come in, what waits behind slow handlers, and what waits to be sent."""
    received_bytes: int = 0
    """Of messages."""
    header_hits: int = 0
    """Header blocks that were recognised, and not decoded."""
    header_misses: int = 0
    resets: int = 0
    """Calls that clients have reset."""


def nothing_to_cancel() -> None:
    """The `Cancel` of a call that was answered at once."""
