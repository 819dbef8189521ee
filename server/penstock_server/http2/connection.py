"""One HTTP/2 connection of a server: bytes in, calls to a handler, bytes out. This file's public part is the contract.

**The driver's loop.** Make a `Connection` when a socket is accepted (for TLS: after ALPN chose `h2`). For each read call
`receive(data, now)`; the handler is called from inside it, synchronously, in wire order. Once per pass of the event loop
take `take_output()` and write it in one go, if the transport takes it; whether there is anything is `connection.output`
being non-empty. After each of these look at `finished`: once True, write what is left and close the socket. When the
socket is lost call `lost()`. Time is `time.monotonic()`, passed in; nothing here has a timer (see "Facts for timers").

**Calls into the handler** never nest: a handler may call anything of the connection from inside, and gets no other event
before it returns. It must not raise.

**Events of one stream**, as an expression: `request | (headers data* (trailers)?)`, then at most one `reset`, which ends it.
`on_request` is the fast path: HEADERS and one DATA with END_STREAM that lay in one read; it means exactly `on_headers` and
`on_data(..., end_stream=True)`, and it is unspecified which form a request takes. Data comes in pieces of any size, not in
frames. After `on_reset`, and after the stream was ended or reset by the handler, no event comes and every call that names
the stream does nothing (or answers False), so the layer above needs no bookkeeping for late answers.

**Views.** Data is `bytes` or a `memoryview` of the buffer that was given to `receive`, so it lives only as long as the call:
copy what is kept. `receive` takes any buffer and keeps none, so the driver may reuse its bytearray (`BufferedProtocol`).
The data of `on_request` is always `bytes` and may be kept.

**Back-pressure in.** DATA takes from the windows of its stream and of the connection. The layer above gives them back by
`consumed(stream, n)`, when it has done with n bytes (it may say so at once). The data of `on_request` is given back
by itself, when `on_request` returns: at most a frame each and `concurrent_streams` of them. What a stream had not given back
when it ends goes back to the connection by itself.

**Back-pressure out.** `respond`, `send_headers`, `send_data` and `end` take what they are given, in order, whatever the
windows. `send_data` answers False when it had to queue: stop until `on_writable`. While the transport does not take
output (asyncio's `pause_writing`) the driver just does not call `take_output`: once `output_bytes` passes
`ConnectionSettings.output_bytes` data stays in the streams' queues, and `send_data` answers False.

**Header blocks out** are `HeaderBlock`s, which the caller makes once and reuses. **Header blocks in** become what
`interpret(headers)` made of them: `headers` is a list of `(name, value)` bytes that RFC 9113 section 8 allows, and the
result is cached by the block's bytes, so `interpret` is called once for many requests, its result is shared by them, and it
must depend on nothing but its argument. One field whose value is another for each call would spoil this: the field called
`ConnectionSettings.varying` is taken out of the list and handed over beside the head, as `varying` (bytes, or None; the
last one if it was sent twice).

**Faults of the peer** end a stream (RST_STREAM; the handler gets `on_reset`) or the connection (GOAWAY; every open stream
gets `on_reset`, then `on_closed` comes, and `finished` is True). No exception leaves `receive`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar

from penstock_server.http2.errors import ErrorCode
from penstock_server.http2.flow import Buffer
from penstock_server.http2.headers import HeaderBlock, Headers
from penstock_server.http2.limits import Limits
from penstock_server.http2.streams import Stream

Head = TypeVar("Head")
HeadIn = TypeVar("HeadIn", contravariant=True)


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What we tell the peer, and what we hold it to. ValueError for sizes that HTTP/2 does not allow."""

    stream_window: int = 1024 * 1024
    """SETTINGS_INITIAL_WINDOW_SIZE: bytes of one stream that may be unconsumed; 65,535 at least."""
    connection_window: int = 4 * 1024 * 1024
    """The same over all streams; 65,535 at least."""
    output_bytes: int = 1024 * 1024
    """Output beyond which no data is added until it was taken."""
    varying: bytes = b""
    """The field that is handed over beside the head (lower case); empty: none."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for size in (self.stream_window, self.connection_window):
            if not 65_535 <= size <= 2**31 - 1:
                raise ValueError(f"a window is 65,535 to 2^31-1 bytes, not {size}")


class Handler(Protocol[HeadIn]):
    """The layer above. Called inside `receive` (all), `lost`, `close` (`on_reset`, `on_closed`) and `take_output`
    (`on_writable`); see the module's docstring for the order."""

    def on_request(self, stream: Stream, head: HeadIn, varying: bytes | None, data: bytes) -> None:
        """A whole request."""
        ...

    def on_headers(self, stream: Stream, head: HeadIn, varying: bytes | None, end_stream: bool) -> None:
        """A request begins; `end_stream`: and is already over, without data."""
        ...

    def on_data(self, stream: Stream, data: Buffer, end_stream: bool) -> None:
        """More of a body; perhaps empty when `end_stream`."""
        ...

    def on_trailers(self, stream: Stream, headers: Headers) -> None:
        """Trailers, which end the request."""
        ...

    def on_reset(self, stream: Stream, code: int) -> None:
        """The peer gave the stream up, broke its rules, or is gone (CANCEL). Unsent output was dropped."""
        ...

    def on_writable(self, stream: Stream) -> None:
        """All that `send_data` queued has gone out."""
        ...

    def on_goaway(self, code: int) -> None:
        """The peer opens no more streams; those there are go on."""
        ...

    def on_pong(self, opaque: bytes) -> None:
        """The answer to `ping`."""
        ...

    def on_closed(self, code: ErrorCode, reason: str) -> None:
        """The connection ended, after `on_reset` of its open streams. Once, and the last call."""
        ...


class Phase(Enum):
    """Where a connection is."""

    PREFACE = "waiting for the preface"
    SETTINGS = "waiting for the first SETTINGS"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """Counts since the connection began, and what it holds now."""

    requests: int
    requests_at_once: int
    """Those that came by `on_request`."""
    responses_at_once: int
    """Those that `respond` wrote without queueing."""
    data_bytes: int
    """Received."""
    resets_received: int
    resets_sent: int
    refused: int
    header_hits: int
    """Header blocks that were answered from the cache as they were."""
    header_template_hits: int
    """Those that were a known block but for the values of some literals."""
    header_misses: int
    """Those that the HPACK library decoded."""
    streams: int
    held_bytes: int


class Connection(Generic[Head]):
    """See the module's docstring."""

    output: list[Buffer]
    """What is to be written, in order. Read it to see whether there is anything; take it by `take_output`."""
    output_bytes: int
    phase: Phase
    streams: dict[int, Stream]
    """Those that are not over."""
    last_received: float
    """Facts for timers: when the peer last sent anything."""
    waiting_since: float | None
    """Facts for timers: since when the peer owes us the rest of something (its preface, its first SETTINGS, a frame, a
    header block, its SETTINGS ACK); None when nothing is half-way. A driver closes a connection that leaves this for too
    long by `close(ErrorCode.SETTINGS_TIMEOUT or ENHANCE_YOUR_CALM)`."""

    def __init__(
        self,
        handler: Handler[Head],
        interpret: Callable[[Headers], Head],
        settings: ConnectionSettings,
        now: float,
    ) -> None:
        raise NotImplementedError

    def receive(self, data: Buffer | bytearray, now: float) -> None:
        """Take what was read. Calls the handler for everything that is complete in it."""
        raise NotImplementedError

    def take_output(self) -> list[Buffer]:
        """What is to be written now, and move what was queued into the room that this makes.

        The parts are to be joined or written one after the other; they may be views of what `send_data` was given.
        """
        raise NotImplementedError

    def lost(self) -> None:
        """The socket is gone: `on_reset` for every open stream, then `on_closed`."""
        raise NotImplementedError

    def respond(self, stream: Stream, head: HeaderBlock, parts: Sequence[Buffer], trailers: HeaderBlock) -> None:
        """A whole response: header block, one message's bytes, trailers. The fast path for unary calls."""
        raise NotImplementedError

    def send_headers(self, stream: Stream, head: HeaderBlock, *, end_stream: bool = False) -> None:
        """The response's header block; with `end_stream` it is all there is (trailers-only)."""
        raise NotImplementedError

    def send_data(self, stream: Stream, parts: Sequence[Buffer]) -> bool:
        """More of the body, uncopied. False: it was queued, wait for `on_writable` (or the stream is over)."""
        raise NotImplementedError

    def end(self, stream: Stream, trailers: HeaderBlock | None) -> None:
        """End the response behind what is queued, with trailers or with an empty DATA frame.

        If the request is not over yet the peer is asked to stop it (RST_STREAM with NO_ERROR, as RFC 9113 section 8.1 has
        it) once the end is out.
        """
        raise NotImplementedError

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Give the stream up, and drop what it has queued. No event follows."""
        raise NotImplementedError

    def consumed(self, stream: Stream, size: int) -> None:
        """The layer above has done with as many bytes of `on_data`. ValueError if it never got them."""
        raise NotImplementedError

    def ping(self, opaque: bytes) -> None:
        """Send a PING with eight bytes; its answer comes by `on_pong`."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """Drain: no new streams. The first call says so with the highest stream id, so that what is on its way is still
        served, and sends a PING; its answer, or a second call (the driver's timer), names the last stream that is served.
        After that later streams are ignored, and `finished` is True when the last one is over and written.
        """
        raise NotImplementedError

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """End the connection with GOAWAY: `on_reset` for every open stream, then `on_closed`."""
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Nothing more is to come or to be said: write the output, then close the socket."""
        raise NotImplementedError

    @property
    def held_bytes(self) -> int:
        """Bytes that this connection makes us hold: received and not consumed, queued to send, and output."""
        raise NotImplementedError

    def stalled(self, before: float) -> list[Stream]:
        """Facts for timers: streams whose request is not over and of which nothing came since `before`."""
        raise NotImplementedError

    def statistics(self) -> ConnectionStatistics:
        """A snapshot of the counters."""
        raise NotImplementedError
