"""One HTTP/2 connection of a server: bytes in, calls to a handler, bytes out. This file's public part is the contract.

**The driver's loop.** Make a `Connection` when a socket is accepted (for TLS: after ALPN chose `h2`). For each read
call `receive(data, now)`; the handler is called from inside it, synchronously, for each stream in wire order. Once per
pass of the event loop take `take_output()` and write it in one go, if the transport takes it; there is something when
`connection.output` is not empty. After each of these look at `finished`: once True, write what is left and close
the socket. When the socket is lost call `lost()`. Time is `time.monotonic()`, passed in; nothing here has a timer
(see "Facts for timers").

**Calls into the handler** never nest: a handler may call anything of the connection from inside, and gets no other
event before it returns, except by `close`, which tells it at once. It must not raise.

**Events of one stream**, as an expression: `request | (headers data* (trailers)?)`, then at most one `reset`, which
ends it. A request of `on_requests`, the fast path, is HEADERS and one DATA with END_STREAM that lay in one read; it
means exactly `on_headers` and `on_data(..., end_stream=True)`, and it is unspecified which form a request takes. Data
comes in pieces of any size, not in frames. After `on_reset`, and after the stream was ended or reset by the handler, no
event comes and every call that names the stream does nothing (or answers False), so the layer above needs no
bookkeeping for late answers.

**Views.** Data is `bytes` or a `memoryview` of the buffer that was given to `receive`, so it lives only as long as
the call: copy what is kept. `receive` takes any buffer and keeps none, so the driver may reuse its bytearray
(`BufferedProtocol`). The data of `on_requests` is always `bytes` and may be kept.

**Back-pressure in.** DATA takes from the windows of its stream and of the connection. The layer above gives them
back by `consumed(stream, n)`, when it has done with n bytes (it may say so at once). The data of `on_requests` is
given back by itself, when `on_requests` returns: what is in a read, for at most `concurrent_streams` of them. What a
stream had not given back when it ends goes back to the connection by itself.

**Back-pressure out.** `respond`, `send_headers`, `send_data` and `end` take what they are given, in order, whatever the
windows. `send_data` answers False when it had to queue: stop until `on_writable`. While the transport does not take
output (asyncio's `pause_writing`) the driver just does not call `take_output`: once `output_bytes` passes
`ConnectionSettings.output_bytes` data stays in the streams' queues, and `send_data` answers False.

**Header blocks out** are `HeaderBlock`s, which the caller makes once and reuses. **Header blocks in** become what
`interpret(headers)` made of them: `headers` is a list of `(name, value)` bytes that RFC 9113 section 8 allows, and the
result is cached by the block's bytes, so `interpret` is called once for many requests, its result is shared by them,
and it must depend on nothing but its argument. One field whose value is another for each call would spoil this: the
field called `ConnectionSettings.varying` is taken out of the list and handed over beside the head, as `varying`
(bytes, or None; the last one if it was sent twice).

**Faults of the peer** end a stream (RST_STREAM; the handler gets `on_reset`) or the connection (GOAWAY; every open
stream gets `on_reset`, then `on_closed` comes, and `finished` is True). No exception leaves `receive`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from struct import Struct
from typing import Generic, Protocol, TypeAlias, TypeVar

from penstock_server.http2.errors import ConnectionFault, ErrorCode, StreamFault
from penstock_server.http2.fields import Headers, malformed
from penstock_server.http2.flow import DEFAULT_WINDOW, MAX_WINDOW, Buffer, widened
from penstock_server.http2.frames import (
    FRAME_HEADER,
    HEADER_BYTES,
    HTTP1_ANSWER,
    MAX_DATA_FRAME_SIZE,
    MAX_FRAME_SIZE,
    MAX_MAX_FRAME_SIZE,
    MAX_STREAM_ID,
    MAX_WHOLE_FRAME_SIZE,
    PREFACE,
    SETTING,
    SETTINGS_ACK,
    STREAM_ID_MASK,
    UINT32,
    Flag,
    FrameType,
    Setting,
    goaway,
    ping,
    settings_frame,
    window_update,
)
from penstock_server.http2.headers import TABLE_BYTES, HeaderDecoder, Result
from penstock_server.http2.limits import Bucket, Limits
from penstock_server.http2.sending import LINGER, Sender
from penstock_server.http2.streams import TRANSITIONS, UNLISTED, Event, Inbox, State, Stream

_LARGE = 4096
"""DATA payloads above this are handed on as views, and in pieces."""
_CHUNK = 64 * 1024
_DRAINING = "the server is shutting down"
_DRAIN_PING = b"draining"
_REMEMBERED_GAPS = 100

_WINDOW_UPDATE_FRAME = Struct(">HBBBII")

# Constants of the hot path: looking up a member of an enum costs as much as a dict look-up.
_DATA, _HEADERS, _WINDOW_UPDATE = FrameType.DATA.value, FrameType.HEADERS.value, FrameType.WINDOW_UPDATE.value
_CONTINUATION = FrameType.CONTINUATION.value
_HALF_CLOSED_LOCAL = State.HALF_CLOSED_LOCAL
_OPEN, _HALF_CLOSED_REMOTE = State.OPEN, State.HALF_CLOSED_REMOTE
_END_HEADERS, _END_STREAM, _ACK = Flag.END_HEADERS.value, Flag.END_STREAM.value, Flag.ACK.value
_PADDED, _PRIORITY = Flag.PADDED.value, Flag.PRIORITY.value
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


Request: TypeAlias = tuple[Stream, Head, bytes | None, bytes]
"""A whole request: its stream, its head, what varies, and its data."""


class Handler(Protocol[HeadIn]):
    """The layer above. Called inside `receive` (all), `lost`, `close` (`on_reset`, `on_closed`) and `take_output`
    (`on_writable`); see the module's docstring for the order."""

    def on_requests(self, requests: Sequence[Request[HeadIn]]) -> None:
        """Whole requests, most likely all that were in a read. What holds them is used again."""
        ...

    def on_headers(self, stream: Stream, head: HeadIn, varying: bytes | None, end_stream: bool) -> None:
        """A request begins; `end_stream`: and is already over, without data."""
        ...

    def on_data(self, stream: Stream, data: Buffer, end_stream: bool) -> None:
        """More of a body; perhaps empty when `end_stream`."""
        ...

    def on_pieces(self, stream: Stream, pieces: Sequence[Buffer], end_stream: bool) -> None:
        """Means `on_data` for each of them, the last one with `end_stream`."""
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


_PREFACE, _SETTINGS, _CLOSED = Phase.PREFACE, Phase.SETTINGS, Phase.CLOSED


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """Counts since the connection began, and what it holds now."""

    requests: int
    requests_at_once: int
    """Those that came by `on_requests`."""
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


@dataclass(slots=True)
class _Block:
    """A header block that is not complete."""

    stream_id: int
    end_stream: bool
    parts: list[bytes]
    size: int


class Connection(Sender, Generic[Head]):
    """See the module's docstring. Sending is in `sending.Sender`; this class receives."""

    def __init__(
        self,
        handler: Handler[Head],
        interpret: Callable[[Headers], Head],
        settings: ConnectionSettings,
        now: float,
    ) -> None:
        super().__init__(handler, settings.connection_window, settings.output_bytes, now)
        self.settings = settings
        self.phase = Phase.PREFACE
        self.last_received = now
        """Facts for timers: when the peer last sent anything."""
        self.waiting_since: float | None = now
        """Facts for timers: since when the peer owes us the rest of something (its preface, its first SETTINGS, a
        frame, a header block); None when nothing is half-way. A driver closes a connection that leaves this for too
        long."""
        self.settings_acknowledged = False
        self.last_stream_id = 0
        """The highest that the peer has used."""
        self._handler = handler
        self._limits = settings.limits
        self._headers = HeaderDecoder(interpret, settings.varying, settings.limits)
        # What is half-way: a frame, a DATA frame that is handed on in pieces, a header block over several frames.
        self._partial = b""
        self._data_left = 0
        self._data_stream: Stream | None = None
        self._data_ends = False
        self._block: _Block | None = None
        self._skipped: list[range] = []
        """Stream ids that the peer left out: those it may not use any more."""
        self._next_plain_id: int = 0
        """The id that a new stream has next, or 0 while the next frame has to be looked at with more care."""
        self._serves_up_to = MAX_STREAM_ID
        self._goaway_sent = False
        self._header_hits = 0
        self._requests = 0
        self._requests_at_once = 0
        self._data_bytes = 0
        self._resets_received = 0
        self._refused = 0
        limits = settings.limits
        self._resets = Bucket("streams that end by a reset", limits.resets, self._so_far)
        self._settings = Bucket("SETTINGS", limits.settings, self._so_far)
        self._pings = Bucket("PING", limits.pings, self._so_far)
        self._window_updates = Bucket("WINDOW_UPDATE", limits.window_updates, self._so_far)
        self._empty_data = Bucket("DATA without data", limits.empty_data, self._so_far)
        self._ignored = Bucket("frames that say nothing", limits.ignored, self._so_far)
        self._receivers: dict[int, Callable[[int, int, bytes], None]] = {
            FrameType.HEADERS: self._receive_headers,
            FrameType.PRIORITY: self._receive_priority,
            FrameType.RST_STREAM: self._receive_reset,
            FrameType.SETTINGS: self._receive_settings,
            FrameType.PUSH_PROMISE: self._receive_push_promise,
            FrameType.PING: self._receive_ping,
            FrameType.GOAWAY: self._receive_goaway,
            FrameType.WINDOW_UPDATE: self._receive_window_update,
            FrameType.CONTINUATION: self._receive_continuation,
        }

    def __repr__(self) -> str:
        return f"<Connection {self.phase.value}: {len(self.streams)} streams, {self.held_bytes} bytes held>"

    # -- the calls of the driver ---------------------------------------------------------------------------------------

    def receive(self, data: Buffer | bytearray, now: float) -> None:
        """Take what was read. Calls the handler for everything that is complete in it."""
        if self.phase is _CLOSED:
            return
        self._now = self.last_received = now
        was_waiting = self.waiting_since
        self.waiting_since = None
        try:
            at = self._receive_preface(data) if self.phase is _PREFACE else 0
            progress = self._receive(data, at)
        except ConnectionFault as fault:
            self.close(fault.code, fault.reason)
            return
        if self._lingering:
            self._stop_lingering(now - LINGER)
        if self.phase is _PREFACE or self.phase is _SETTINGS:
            self.waiting_since = was_waiting
        elif self._partial or self._data_left or self._block is not None:
            self.waiting_since = now if progress or was_waiting is None else was_waiting

    def lost(self) -> None:
        """The socket is gone: `on_reset` for every open stream, then `on_closed`."""
        if self.phase is not _CLOSED:
            self._goaway_sent = True  # nobody would read it
            self.close(ErrorCode.CANCEL, "the connection was lost")

    def ping(self, opaque: bytes) -> None:
        """Send a PING with eight bytes; its answer comes by `on_pong`."""
        self.output.append(ping(opaque))

    def shutdown(self) -> None:
        """Drain: no new streams.

        The first call says so with the highest stream id, so that what is on its way is still served, and sends a PING;
        its answer, or a second call (the driver's timer), names the last stream that is served. After that later
        streams are ignored, and `finished` is True when the last one is over.
        """
        if self.phase is Phase.OPEN:
            self.phase = Phase.DRAINING
            self.output += goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR, _DRAINING), ping(_DRAIN_PING)
        elif self.phase is Phase.DRAINING:
            if self._serves_up_to == MAX_STREAM_ID:
                self._serves_up_to = self.last_stream_id
                self._next_plain_id = 0
                self._lingers = False
                self._stop_lingering(inf)
                self.output.append(goaway(self.last_stream_id, ErrorCode.NO_ERROR, _DRAINING))
        else:
            self.close()

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """End the connection with GOAWAY: `on_reset` for every open stream, then `on_closed`."""
        if self.phase is _CLOSED:
            return
        before_settings = self.phase is _PREFACE
        self.phase = Phase.CLOSED
        self.waiting_since = None
        self._partial, self._data_left, self._block = b"", 0, None
        self._next_plain_id = 0
        if not self._goaway_sent:
            if before_settings:
                # The first frame of a server is SETTINGS, even if it is the last but one.
                self.output.append(self._own_settings())
            self.output.append(goaway(min(self.last_stream_id, self._serves_up_to), code, reason))
        for stream in list(self.streams.values()):
            self._give_up(stream, ErrorCode.CANCEL)
        self._handler.on_closed(code, reason)

    @property
    def finished(self) -> bool:
        """Nothing more is to come or to be said: write the output, then close the socket."""
        drained = self._serves_up_to != MAX_STREAM_ID and not self.streams
        return self.phase is _CLOSED or drained

    def stalled(self, before: float) -> list[Stream]:
        """Facts for timers: streams whose request is not over and of which nothing came since `before`."""
        open_streams = (each for each in self.streams.values() if each.state is _OPEN)
        return [each for each in open_streams if each.inbox is not None and each.inbox.heard < before]

    def statistics(self) -> ConnectionStatistics:
        """A snapshot of the counters."""
        headers = self._headers
        return ConnectionStatistics(
            requests=self._requests + self._requests_at_once,
            requests_at_once=self._requests_at_once,
            responses_at_once=self._responses_at_once,
            data_bytes=self._data_bytes,
            resets_received=self._resets_received,
            resets_sent=self._resets_sent,
            refused=self._refused,
            header_hits=self._header_hits + headers.hits,
            header_template_hits=headers.template_hits,
            header_misses=headers.misses,
            streams=len(self.streams),
            held_bytes=self.held_bytes,
        )

    # -- the beginning -------------------------------------------------------------------------------------------------

    def _own_settings(self) -> bytes:
        limits = self.settings.limits
        values = {
            Setting.MAX_CONCURRENT_STREAMS: limits.concurrent_streams,
            Setting.INITIAL_WINDOW_SIZE: self.settings.stream_window,
            Setting.MAX_FRAME_SIZE: MAX_DATA_FRAME_SIZE,
            Setting.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
        }
        return settings_frame(values)

    def _receive_preface(self, data: Buffer | bytearray) -> int:
        """Where the frames begin in `data`; all of it when the preface is not complete, or is none."""
        before = len(self._partial)
        begun = self._partial + bytes(data[: len(PREFACE) - before])
        if not PREFACE.startswith(begun):
            wrong = next(byte for byte, right in zip(begun, PREFACE, strict=False) if byte != right)
            if chr(wrong).isalpha() and chr(wrong).isupper():
                self._answer_http1()
                return len(data)
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2: the connection preface is missing")
        if len(begun) < len(PREFACE):
            self._partial = begun
            return len(data)
        self._partial = b""
        self.phase = Phase.SETTINGS
        self.output.append(self._own_settings())
        more = self.settings.connection_window - DEFAULT_WINDOW
        if more:
            self.output.append(window_update(0, more))
        return len(PREFACE) - before

    def _answer_http1(self) -> None:
        self.output.append(HTTP1_ANSWER)
        self._goaway_sent = True
        self.close(ErrorCode.HTTP_1_1_REQUIRED, "the peer speaks HTTP/1")

    # -- frames --------------------------------------------------------------------------------------------------------

    def _receive(self, data: Buffer | bytearray, at: int) -> bool:
        """Handle what is complete from `at`, keep the rest. Whether anything was complete.

        The loop over frames, `_frames`, works on bytes, for which slices and dict look-ups are cheapest. So from other
        buffers it gets copies of up to `_CHUNK` bytes; only the payload of large DATA frames, which is what matters
        there, is handed on as a view of the buffer itself.
        """
        if type(data) is bytes and not self._partial and not self._data_left:
            done = self._frames(data, at)
            if done == len(data) or not self._data_left:
                self._partial = data[done:]
                return done > at
            progress, at = True, done
        else:
            progress = False
        view = memoryview(data)
        size = len(data)
        while at < size and self.phase is not _CLOSED:
            if self._data_left:
                left = self._data_left
                ends_at = at + left
                at = self._receive_pieces(view, at)
                # It has come to its end, although a later one may have begun, or went on by as much as a frame had.
                progress = progress or at >= ends_at or left // MAX_FRAME_SIZE > self._data_left // MAX_FRAME_SIZE
            elif not self._partial and self._begins_large_data(view, at):
                at += HEADER_BYTES
            else:
                kept = len(self._partial)
                chunk = self._partial + bytes(view[at : at + _CHUNK])
                self._partial = b""
                done = self._frames(chunk, 0)
                progress = progress or done > 0
                if self._data_left or len(chunk) - kept < size - at:
                    at += done - kept
                else:
                    self._partial = chunk[done:]
                    at = size
        return progress

    def _frames(self, data: bytes, at: int) -> int:  # noqa: C901 - one loop, for speed
        """Handle the frames that are complete in `data` from `at`; where the first one begins that is not.

        Of a large DATA frame only the header is taken, and no frame behind it; its payload is `_data_left`.

        Two branches are the hot path of the whole server. The first is HEADERS of the next stream, whole and plain, and
        the DATA that ends the request right behind. The second is such DATA that comes later in the same read, since
        some clients send the heads of many requests first. Requests are handed on together, and heads wait for their
        data, until there is any other frame or the read is over. Both branches assign the states that the table of
        `streams` would give.
        """
        unpack = FRAME_HEADER.unpack_from
        known = self._headers.blocks.get
        streams, inbound = self.streams, self._inbound
        most_streams = self._limits.concurrent_streams
        whole: list[Request[Head]] = []
        waiting: dict[int, tuple[Stream, Result[Head]]] = {}
        end = len(data)
        last = end - HEADER_BYTES
        while at <= last:
            high, low, kind, flags, stream_id = unpack(data, at)
            body = at + HEADER_BYTES
            after = body + (high << 8 | low)
            if after > end or after - body > MAX_WHOLE_FRAME_SIZE:
                self._hand_over(whole, waiting)
                if self.phase is _CLOSED:
                    return end
                return self._incomplete(data, at, after - body, kind, flags, stream_id & STREAM_ID_MASK)
            at = after
            if stream_id != self._next_plain_id or kind != _HEADERS or flags != _END_HEADERS:
                if kind == _DATA and flags == _END_STREAM and stream_id in waiting:
                    stream, (head, varying, content_length) = waiting[stream_id]
                    length = after - body
                    if length <= inbound.left and (content_length < 0 or content_length == length):
                        inbound.left -= length
                        inbound.credit += length
                        stream.state = _HALF_CLOSED_REMOTE
                        streams[stream_id] = stream
                        del waiting[stream_id]
                        whole.append((stream, head, varying, data[body:after]))
                        continue
                if whole or waiting:
                    self._hand_over(whole, waiting)
                if kind == _DATA and after - body > _LARGE and not flags & _PADDED and self.phase is not _CLOSED:
                    self._begin_data(after - body, flags, stream_id & STREAM_ID_MASK)
                    return body
                if self.phase is not _CLOSED:
                    at = self._frame(kind, flags, stream_id & STREAM_ID_MASK, data, body, after)
                if self.phase is _CLOSED:
                    return end
                continue
            block = data[body:after]
            result = known(block)
            if result is None:
                try:
                    result = self._decode_head(block)
                except ConnectionFault:
                    self._hand_over(whole, waiting)
                    raise
                except StreamFault as fault:
                    self._hand_over(whole, waiting)
                    if self.phase is _CLOSED:
                        return end
                    self._stream_fault(stream_id, fault)
            else:
                self._header_hits += 1
            self.last_stream_id = stream_id
            self._next_plain_id = stream_id + 2
            if result is None:
                continue
            if len(streams) + len(waiting) >= most_streams:
                self._hand_over(whole, waiting)
                if self.phase is _CLOSED:
                    return end
                if len(streams) >= most_streams and self._refuses(stream_id):
                    continue
            stream = Stream(stream_id, data[body - 4 : body], _OPEN, self._peer_window)
            if at <= last:
                high, low, kind, flags, next_id = unpack(data, at)
                if kind == _WINDOW_UPDATE and next_id == stream_id and self._widen_new(stream, data, at, last):
                    at += 13
                    high, low, kind, flags, next_id = unpack(data, at)
                length = high << 8 | low
                body = at + HEADER_BYTES
                after = body + length
                head, varying, content_length = result
                if (
                    flags == _END_STREAM
                    and kind == _DATA
                    and next_id == stream_id
                    and after <= end
                    and length <= MAX_FRAME_SIZE
                    and length <= inbound.left
                    and (content_length < 0 or content_length == length)
                ):
                    at = after
                    inbound.left -= length
                    inbound.credit += length
                    stream.state = _HALF_CLOSED_REMOTE
                    streams[stream_id] = stream
                    whole.append((stream, head, varying, data[body:after]))
                    continue
            waiting[stream_id] = stream, result
        self._hand_over(whole, waiting)
        return at

    def _hand_over(self, whole: list[Request[Head]], waiting: dict[int, tuple[Stream, Result[Head]]]) -> None:
        """Tell of the requests that are whole, and of the heads whose data comes later."""
        if whole:
            self._requests_at_once += len(whole)
            self._data_bytes += sum([len(data) for _, _, _, data in whole])
            self._handler.on_requests(whole)
            whole.clear()
            if self._inbound.credit * 2 >= self._inbound.size:
                self._give_back(0)
        for stream, (head, varying, content_length) in waiting.values():
            if self.phase is not _CLOSED:
                self._open(stream, head, varying, content_length, False)
        waiting.clear()

    def _incomplete(self, data: bytes, at: int, length: int, kind: int, flags: int, stream_id: int) -> int:
        """A frame that is not all there, or too long to ever be. Where to go on."""
        if length > MAX_DATA_FRAME_SIZE:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if kind == _DATA and length > _LARGE and not flags & _PADDED:
            self._begin_data(length, flags, stream_id)
            return at + HEADER_BYTES
        if length > MAX_WHOLE_FRAME_SIZE:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a frame of {length} bytes that is not plain DATA")
        return at

    def _frame(self, kind: int, flags: int, stream_id: int, data: bytes, body: int, after: int) -> int:
        """Handle any frame. `data[body:after]` is its payload. Where to go on."""
        if kind == _WINDOW_UPDATE and not stream_id and self._next_plain_id:
            self._receive_window_update(flags, 0, data[body:after])  # grpcio sends one a call
            return after
        if self._block is not None and (kind != _CONTINUATION or stream_id != self._block.stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        if self.phase is _SETTINGS and (kind != FrameType.SETTINGS or flags & _ACK):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        # No type of frame is looked up in its enum here: that costs as much as handling it.
        try:
            if kind == _DATA:
                after = self._receive_data(flags, stream_id, data, body, after)
            else:
                receiver = self._receivers.get(kind)
                if receiver is None:
                    self._ignored.take()
                else:
                    receiver(flags, stream_id, data[body:after])
        except StreamFault as fault:
            self._stream_fault(stream_id, fault)
        if self._control_in_output > self._limits.control_output_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers to control frames are not fetched")
        return after

    def _so_far(self) -> tuple[float, int]:
        """The time, and the work that gives tokens back: see `limits`."""
        return self._now, self._requests + self._requests_at_once + self._data_bytes // MAX_FRAME_SIZE

    def _stream_fault(self, stream_id: int, fault: StreamFault) -> None:
        # Whoever makes us reset streams costs as much as who resets them (CVE-2025-8671).
        self._resets.take()
        stream = self.streams.get(stream_id)
        self.send_reset(stream_id, fault.code)
        if stream is not None:
            self._give_up(stream, fault.code)

    def _give_up(self, stream: Stream, code: int) -> None:
        lingers = stream.state is _HALF_CLOSED_LOCAL
        self._over(stream)
        if not lingers:
            self._handler.on_reset(stream, code)

    def _widen_new(self, stream: Stream, data: bytes, at: int, last: int) -> bool:
        """grpcio sends a WINDOW_UPDATE between HEADERS and DATA. False: it is not a plain one before a whole header."""
        if at + 13 > last:
            return False
        high, low, _, _, _, increment = _WINDOW_UPDATE_FRAME.unpack_from(data, at)
        if high or low != 4 or not 0 < increment <= MAX_WINDOW - stream.send_window:
            return False
        self._window_updates.take()
        stream.send_window += increment
        return True

    # -- header blocks -------------------------------------------------------------------------------------------------

    def _receive_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        if flags & _PADDED:
            payload = _unpadded(payload)
        if flags & _PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
            payload = payload[5:]
        end_stream = bool(flags & _END_STREAM)
        if flags & _END_HEADERS:
            self._block_complete(stream_id, payload, end_stream)
        else:
            self._block = _Block(stream_id, end_stream, [payload], len(payload))
            self._next_plain_id = 0

    def _receive_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        block.parts.append(payload)
        block.size += len(payload)
        if len(block.parts) > 1 + self._limits.continuations or block.size > self._limits.header_block_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too long")
        if flags & _END_HEADERS:
            self._block = None
            self._go_on_plainly()
            self._block_complete(stream_id, b"".join(block.parts), block.end_stream)

    def _block_complete(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        """A header block is always decoded, whatever becomes of it: the next one builds on it."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            if Event.RECEIVE_HEADERS not in TRANSITIONS[stream.state]:
                self._skip_block(block)
                raise StreamFault(UNLISTED[stream.state], f"HEADERS on a stream that is {stream.state.name}")
            self._trailers(stream, self._headers.trailers(block), end_stream)
        elif stream_id <= self.last_stream_id:
            self._late_block(stream_id, block)
        else:
            self._new_stream(stream_id, block, end_stream)

    def _new_stream(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        expected = self.last_stream_id + 2 if self.last_stream_id else 1
        if stream_id > expected:
            self._skipped.append(range(expected, stream_id, 2))
            del self._skipped[:-_REMEMBERED_GAPS]
        self.last_stream_id = stream_id
        self._go_on_plainly()
        result = self._request_head(stream_id, block)
        if result is None:
            return
        if stream_id > self._serves_up_to:
            self._ignored.take()
        elif len(self.streams) < self._limits.concurrent_streams or not self._refuses(stream_id):
            head, varying, content_length = result
            stream = Stream(stream_id, UINT32.pack(stream_id), _OPEN, self._peer_window)
            self._open(stream, head, varying, content_length, end_stream)

    def _go_on_plainly(self) -> None:
        """The next stream may take the short path, unless it is one that is not served any more."""
        if self._serves_up_to == MAX_STREAM_ID:
            self._next_plain_id = self.last_stream_id + 2 if self.last_stream_id else 1

    def _late_block(self, stream_id: int, block: bytes) -> None:
        if stream_id not in self._reset_here and stream_id <= self._serves_up_to:
            if any(stream_id in gap for gap in self._skipped):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} comes after a higher one")
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which is over")
        self._ignored.take()
        self._skip_block(block)

    def _skip_block(self, block: bytes) -> None:
        try:
            self._headers.trailers(block)
        except StreamFault:
            pass  # the stream is over, or about to be

    def _request_head(self, stream_id: int, block: bytes) -> Result[Head] | None:
        """Decode; None if the stream has got its reset for it."""
        try:
            return self._decode_head(block)
        except StreamFault as fault:
            self._stream_fault(stream_id, fault)
            return None

    def _decode_head(self, block: bytes) -> Result[Head]:
        if len(block) > self._limits.header_block_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too long")
        return self._headers.request(block)

    def _refuses(self, stream_id: int) -> bool:
        """There are as many streams as may be. False: but for those that linger, which are over now."""
        self._stop_lingering(inf)
        if len(self.streams) < self._limits.concurrent_streams:
            return False
        self._resets.take()
        self._refused += 1
        self.send_reset(stream_id, ErrorCode.REFUSED_STREAM)
        return True

    def _open(self, stream: Stream, head: Head, varying: bytes | None, content_length: int, end_stream: bool) -> None:
        if end_stream and content_length > 0:
            raise malformed("the body is shorter than content-length says")
        self._requests += 1
        self.streams[stream.id] = stream
        if end_stream:
            stream.state = TRANSITIONS[stream.state][Event.RECEIVE_END]
        else:
            stream.inbox = Inbox(self.settings.stream_window, content_length, self._now)
        self._handler.on_headers(stream, head, varying, end_stream)

    def _trailers(self, stream: Stream, headers: Headers, end_stream: bool) -> None:
        if not end_stream:
            raise malformed("a second header block that does not end the stream")
        if stream.inbox is not None and stream.inbox.content_left > 0:
            raise malformed("the body is shorter than content-length says")
        if stream.state is _HALF_CLOSED_LOCAL:
            self._over(stream)
            return
        stream.state = TRANSITIONS[stream.state][Event.RECEIVE_END]
        self._handler.on_trailers(stream, headers)

    # -- DATA ----------------------------------------------------------------------------------------------------------

    def _receive_data(self, flags: int, stream_id: int, data: bytes, body: int, after: int) -> int:
        """A DATA frame that is all there, and those of its stream right behind: a stream's messages. Where to go on."""
        length, at = after - body, after
        padding = 0
        if flags & _PADDED:
            padding = _padding(length, data, body)
            body += 1
            after -= padding - 1
        end_stream = bool(flags & _END_STREAM)
        stream = self._data_target(stream_id, length, padding, end_stream)
        if stream is None:
            return at
        if length == padding and not end_stream:
            self._empty_data.take()
            return at
        pieces: list[Buffer] = [data[body:after]]
        if not end_stream and data[at + 5 : at + 9] == stream.wire_id:  # of the next frame, if there is one
            at = self._collect(stream, data, at, pieces)
            end_stream = self._data_ends and not self._data_left
        self._hand_on(stream, pieces[0] if len(pieces) == 1 else b"".join(pieces), end_stream)
        return at

    def _begins_large_data(self, view: memoryview, at: int) -> bool:
        """Whether a large DATA frame begins there; then its header is taken."""
        if len(view) - at < HEADER_BYTES or self._block is not None or self.phase is _SETTINGS:
            return False
        high, low, kind, flags, stream_id = FRAME_HEADER.unpack_from(view, at)
        length = high << 8 | low
        if kind != _DATA or not _LARGE < length <= MAX_DATA_FRAME_SIZE or flags & _PADDED:
            return False
        self._begin_data(length, flags, stream_id & STREAM_ID_MASK)
        return True

    def _begin_data(self, length: int, flags: int, stream_id: int) -> None:
        """Take the header of a DATA frame whose payload is handed on as it comes."""
        if self._block is not None or self.phase is _SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA where it may not be")
        self._data_left = length
        self._data_ends = bool(flags & _END_STREAM)
        self._data_stream = None
        try:
            self._data_stream = self._data_target(stream_id, length, 0, self._data_ends)
        except StreamFault as fault:
            self._stream_fault(stream_id, fault)

    def _receive_pieces(self, view: memoryview, at: int) -> int:
        """Hand on what is there of the payload of a large DATA frame, and of those behind it. Where to go on."""
        stream = self._data_stream
        after = min(at + self._data_left, len(view))
        self._data_left -= after - at
        if stream is None or stream.state is State.CLOSED:
            return after
        if self._data_left or self._data_ends:
            self._hand_on(stream, view[at:after], self._data_ends and not self._data_left)
            return after
        pieces: list[Buffer] = [view[at:after]]
        after = self._collect(stream, view, after, pieces)
        ends = self._data_ends and not self._data_left
        if len(pieces) == 1:
            self._hand_on(stream, pieces[0], ends)
        elif stream.state is _HALF_CLOSED_LOCAL:
            self._hand_on(stream, b"", ends)
        else:
            if stream.inbox is not None:
                stream.inbox.heard = self._now
            if ends:
                stream.state = _HALF_CLOSED_REMOTE
            self._handler.on_pieces(stream, pieces, ends)
        return after

    def _collect(self, stream: Stream, view: Buffer, at: int, pieces: list[Buffer]) -> int:
        """Take the DATA frames of a stream that follow each other from `at`, of the last one what is there.

        It accounts for them as `_data_target` does. A frame with which anything is wrong is left for that.
        """
        inbound, inbox, wire_id, size = self._inbound, stream.inbox, stream.id, len(view)
        if inbox is None:
            return at
        left, content_left, windows = 0, inbox.content_left, min(inbound.left, inbox.left)
        taken, ends = 0, False
        while at + HEADER_BYTES <= size and not ends:
            high, low, kind, flags, stream_id = FRAME_HEADER.unpack_from(view, at)
            length = high << 8 | low
            if kind != _DATA or stream_id != wire_id or flags & ~_END_STREAM or not 0 < length <= MAX_DATA_FRAME_SIZE:
                break
            ends = flags == _END_STREAM
            total = taken + length
            if total > windows or (content_left >= 0 and (total > content_left or (ends and total < content_left))):
                ends = False
                break
            taken = total
            body = at + HEADER_BYTES
            at = min(body + length, size)
            left = length - (at - body)
            if at > body:
                pieces.append(view[body:at])
        inbound.left -= taken
        inbound.unconsumed += taken
        inbox.left -= taken
        inbox.unconsumed += taken
        if content_left >= 0:
            inbox.content_left -= taken
        self._data_bytes += taken
        self._data_stream, self._data_left, self._data_ends = stream, left, ends
        return at

    def _data_target(self, stream_id: int, length: int, padding: int, end_stream: bool) -> Stream | None:
        """Account for a DATA frame. Its stream, or None if it is to be ignored."""
        inbound = self._inbound
        stream = self.streams.get(stream_id)
        if stream is None and (stream_id > self.last_stream_id or not stream_id & 1):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which was never opened")
        if not inbound.received(length):
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        self._data_bytes += length
        if stream is None:
            self._give_back(length)
            if stream_id not in self._reset_here and stream_id <= self._serves_up_to:
                raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"DATA on stream {stream_id}, which is over")
            self._ignored.take()
            return None
        inbox = stream.inbox
        if inbox is None or (stream.state is not _OPEN and Event.RECEIVE_DATA not in TRANSITIONS[stream.state]):
            self._give_back(length)
            raise StreamFault(UNLISTED[stream.state], f"DATA on a stream that is {stream.state.name}")
        if not inbox.received(length):
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window")
        if padding:
            self.consumed(stream, padding)
        if inbox.content_left >= 0:
            inbox.content_left -= length - padding
            if inbox.content_left < 0 or (end_stream and inbox.content_left):
                raise malformed("the body is not as long as content-length says")
        return stream

    def _hand_on(self, stream: Stream, payload: Buffer, end_stream: bool) -> None:
        if stream.state is _HALF_CLOSED_LOCAL:
            if end_stream:
                self._over(stream)
            return
        if stream.inbox is not None:
            stream.inbox.heard = self._now
        if end_stream:
            stream.state = TRANSITIONS[stream.state][Event.RECEIVE_END]
        self._handler.on_data(stream, payload, end_stream)

    # -- the other frames ----------------------------------------------------------------------------------------------

    def _receive_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._ignored.take()
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            fault = StreamFault if stream_id in self.streams else ConnectionFault
            raise fault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes long")

    def _receive_reset(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._expect_used(stream_id, "RST_STREAM")
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes long")
        self._resets.take()
        self._resets_received += 1
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._give_up(stream, UINT32.unpack(payload)[0])

    def _receive_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._settings.take()
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & _ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS with ACK is not empty")
            self.settings_acknowledged = True
            return
        if len(payload) % 6:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "the length of SETTINGS is no multiple of 6")
        for name, value in SETTING.iter_unpack(payload):
            self._apply(name, value)
        if self.phase is _SETTINGS:
            self.phase = Phase.OPEN
            self._next_plain_id = 1
        self._control(SETTINGS_ACK)
        self._pump()

    def _apply(self, name: int, value: int) -> None:
        """One of the peer's settings. Those that mean nothing to a server that pushes nothing are ignored."""
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE exceeds 2^31-1")
            self._set_peer_window(value)
        elif name == Setting.MAX_FRAME_SIZE:
            if not MAX_FRAME_SIZE <= value <= MAX_MAX_FRAME_SIZE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of its range")
            self._peer_frame_size = value
        elif name == Setting.ENABLE_PUSH:
            if value > 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is neither 0 nor 1")
        elif name == Setting.HEADER_TABLE_SIZE and value < TABLE_BYTES:
            # We use no table; the peer's decoder still has to be told that it may make its own smaller.
            self._owes_table_size_update = True

    def _receive_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "clients push nothing")

    def _receive_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._pings.take()
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes long")
        if not flags & _ACK:
            self._control(ping(payload, ack=True))
        elif payload == _DRAIN_PING and self.phase is Phase.DRAINING:
            self.shutdown()
        else:
            self._handler.on_pong(payload)

    def _receive_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._ignored.take()
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes")
        self._handler.on_goaway(UINT32.unpack_from(payload, 4)[0])

    def _receive_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._window_updates.take()
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes long")
        (increment,) = UINT32.unpack(payload)
        increment &= MAX_WINDOW
        stream = self.streams.get(stream_id)
        if stream is not None:
            if not increment:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            stream.send_window = widened(stream.send_window, increment, StreamFault)
            self._widened_stream(stream)
        elif stream_id:
            self._expect_used(stream_id, "WINDOW_UPDATE")
        elif increment:
            self._widen_connection(increment)
        else:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")

    def _expect_used(self, stream_id: int, kind: str) -> None:
        if not stream_id or stream_id > self.last_stream_id or not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{kind} on stream {stream_id}, which was never opened")


def _padding(length: int, data: bytes, body: int) -> int:
    """How many bytes of a padded frame's payload are padding, the length byte included."""
    if not length or data[body] >= length:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame is padded beyond its length")
    return data[body] + 1


def _unpadded(payload: bytes) -> bytes:
    return payload[1 : len(payload) + 1 - _padding(len(payload), payload, 0)]
