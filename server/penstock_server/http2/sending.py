"""The sending half of a connection: output, send windows, and what waits for them. `Connection` inherits it.

Invariants:
* `_room` is how much data may still be appended to `output` before it is taken: the smaller of the connection's send
  window and what `ConnectionSettings.output_bytes` leaves. It is the one number that the fast path compares and lowers;
  `_settle` works out from it what the window has become, and `_window_is_short` says which of the two it was.
* A stream with an outbox sends nothing past it. It is `listed` in `_ready` when only the connection holds it up, and
  not when its own window does: a slow reader of one stream takes no part in the turns of the others.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Protocol

from penstock_server.http2.errors import ConnectionFault, ErrorCode
from penstock_server.http2.flow import DEFAULT_WINDOW, MAX_WINDOW, Buffer, Outbox, ReceiveWindow, widened
from penstock_server.http2.frames import MAX_FRAME_SIZE, Flag, FrameType, frame, opening, rst_stream, window_update
from penstock_server.http2.headers import HeaderBlock
from penstock_server.http2.streams import TRANSITIONS, Event, State, Stream

_OPEN = State.OPEN
_HALF_CLOSED_REMOTE = State.HALF_CLOSED_REMOTE
_CLOSED = State.CLOSED

_SMALL = 1024
_DATA_OPENINGS = [opening(length, FrameType.DATA, 0) for length in range(_SMALL)]
_MOST_IN_A_FRAME = 64 * 1024
"""However large the peer's SETTINGS_MAX_FRAME_SIZE: a frame holds up its neighbours."""

_REMEMBERED_RESETS = 1000

LINGER = 1.0


class _Writable(Protocol):
    def on_writable(self, stream: Stream) -> None: ...


class Sender:
    """See the module's docstring."""

    def __init__(self, handler: _Writable, connection_window: int, output_bytes: int, now: float) -> None:
        self.output: list[Buffer] = []
        self.streams: dict[int, Stream] = {}
        self._on_writable = handler.on_writable
        self._inbound = ReceiveWindow(connection_window)
        self._window = DEFAULT_WINDOW
        self._budget = output_bytes
        self._data_in_output = 0
        self._room = self._room_given = 0
        self._window_is_short = False
        self._make_room()
        self._control_in_output = 0
        self._peer_window = DEFAULT_WINDOW
        self._peer_frame_size = MAX_FRAME_SIZE
        self._owes_table_size_update = False
        self._queued_bytes = 0
        self._ready: deque[Stream] = deque()
        self._lingering: deque[tuple[float, Stream]] = deque()
        self._lingers = True
        self._now = now
        self._reset_here: OrderedDict[int, None] = OrderedDict()
        self._responses_at_once = 0
        self._resets_sent = 0

    # -- the calls of the layer above ----------------------------------------------------------------------------------

    def respond(self, stream: Stream, head: HeaderBlock, parts: Sequence[Buffer], trailers: HeaderBlock) -> None:
        """A whole response: header block, one message's bytes, trailers. The fast path for unary calls."""
        size = 0
        for part in parts:
            size += len(part)
        if (
            size > self._room
            or size > stream.send_window
            or size > MAX_FRAME_SIZE
            or stream.state is not _HALF_CLOSED_REMOTE
            or stream.outbox is not None
            or self._owes_table_size_update
            or head.size > MAX_FRAME_SIZE
            or trailers.size > MAX_FRAME_SIZE
        ):
            self.send_headers(stream, head)
            self.send_data(stream, parts)
            self.end(stream, trailers)
            return
        wire_id = stream.wire_id
        start = _DATA_OPENINGS[size] if size < _SMALL else opening(size, FrameType.DATA, 0)
        # A list, since a tuple with a star would be made of one.
        ending = trailers.end_opening
        self.output += [head.opening, wire_id, head.block, start, wire_id, *parts, ending, wire_id, trailers.block]
        self._room -= size
        self._responses_at_once += 1
        if stream.inbox is None:
            stream.state = _CLOSED
            del self.streams[stream.id]
        else:
            self._over(stream)

    def send_headers(self, stream: Stream, head: HeaderBlock, *, end_stream: bool = False) -> None:
        """The response's header block; with `end_stream` it is all there is (trailers-only)."""
        if end_stream:
            self.end(stream, head)
        elif self._may_send(stream):
            self.output += self._with_update(head).parts(stream.wire_id, False)

    def send_data(self, stream: Stream, parts: Sequence[Buffer]) -> bool:
        """More of the body, uncopied. False: it was queued, wait for `on_writable` (or the stream is over)."""
        if not self._may_send(stream):
            return False
        size = 0
        for part in parts:
            size += len(part)
        if not size:
            return stream.outbox is None
        if stream.outbox is None and size <= self._room and size <= stream.send_window and size <= MAX_FRAME_SIZE:
            start = _DATA_OPENINGS[size] if size < _SMALL else opening(size, FrameType.DATA, 0)
            self.output += [start, stream.wire_id, *parts]
            self._room -= size
            stream.send_window -= size
            return True
        if stream.outbox is None:
            stream.outbox = Outbox()
        outbox = stream.outbox
        outbox.put(parts)
        self._queued_bytes += size
        self._list(stream, outbox)
        self._pump()
        outbox.owes_writable = bool(outbox.size)
        return not outbox.size

    def end(self, stream: Stream, trailers: HeaderBlock | None) -> None:
        """End the response behind what is queued, with trailers or with an empty DATA frame.

        If the request is not over yet the stream lingers: what comes is dropped, and after `LINGER` seconds the peer is
        asked to stop it (RST_STREAM with NO_ERROR, as RFC 9113, section 8.1 has it). Not at once, because a client may
        lose the status of a call whose stream is reset while it is sending; grpcio reports an internal error then.
        """
        if not self._may_send(stream):
            return
        if stream.outbox is None:
            self._end(stream, trailers)
        else:
            stream.outbox.ended = True
            stream.outbox.trailers = trailers

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Give the stream up, and drop what it has queued. No event follows."""
        if stream.state is not _CLOSED:
            self._reset(stream, code)

    def consumed(self, stream: Stream, size: int) -> None:
        """The layer above has done with as many bytes of `on_data`. ValueError if it never got them."""
        inbox = stream.inbox
        if inbox is None or not (stream.state is _OPEN or stream.state is _HALF_CLOSED_REMOTE):
            return
        increment = inbox.consumed(size)
        if increment and stream.state is _OPEN:
            self._control(window_update(stream.id, increment))
        self._give_back(size)

    def take_output(self) -> list[Buffer]:
        """What is to be written now, and move what was queued into the room that this makes.

        The parts are to be joined or written one after the other; they may be views of what `send_data` was given.
        """
        output, self.output = self.output, []
        self._control_in_output = 0
        sent = self._room_given - self._room
        if sent or self._data_in_output:
            self._window -= sent
            self._data_in_output = 0
            self._make_room()
        if self._ready:
            self._pump()
        return output

    @property
    def output_bytes(self) -> int:
        """Of data and control frames in `output`; headers are not counted."""
        return self._data_in_output + self._room_given - self._room + self._control_in_output

    @property
    def held_bytes(self) -> int:
        """Bytes that this connection makes us hold: received and not consumed, queued to send, and output."""
        return self._inbound.unconsumed + self._queued_bytes + self.output_bytes

    # -- inside --------------------------------------------------------------------------------------------------------

    @staticmethod
    def _may_send(stream: Stream) -> bool:
        open_here = stream.state is _HALF_CLOSED_REMOTE or stream.state is _OPEN
        return open_here and (stream.outbox is None or not stream.outbox.ended)

    def _with_update(self, block: HeaderBlock) -> HeaderBlock:
        if not self._owes_table_size_update:
            return block
        self._owes_table_size_update = False
        return block.with_table_size_update()

    def _control(self, frame_bytes: bytes) -> None:
        """Append a frame that the peer made us send; `Connection` looks whether they are ever fetched."""
        self.output.append(frame_bytes)
        self._control_in_output += len(frame_bytes)

    def _give_back(self, size: int) -> None:
        increment = self._inbound.consumed(size)
        if increment:
            self._control(window_update(0, increment))

    def _end(self, stream: Stream, trailers: HeaderBlock | None) -> None:
        if trailers is None:
            self.output.append(frame(FrameType.DATA, Flag.END_STREAM, stream.id))
        else:
            self.output += self._with_update(trailers).parts(stream.wire_id, True)
        stream.state = TRANSITIONS[stream.state][Event.SEND_END]
        if stream.state is _CLOSED:
            self._over(stream)
        elif self._lingers:
            self._lingering.append((self._now, stream))
        else:
            self._reset(stream, ErrorCode.NO_ERROR)

    def _reset(self, stream: Stream, code: int) -> None:
        self.send_reset(stream.id, code)
        self._over(stream)

    def _stop_lingering(self, until: float) -> None:
        """Reset the streams whose response ended before then, and whose request has not since."""
        lingering = self._lingering
        while lingering and lingering[0][0] <= until:
            stream = lingering.popleft()[1]
            if stream.state is not _CLOSED:
                self._reset(stream, ErrorCode.NO_ERROR)

    def send_reset(self, stream_id: int, code: int) -> None:
        """RST_STREAM, and remember it: what the peer has sent before it knew is ignored."""
        if len(self._reset_here) >= _REMEMBERED_RESETS:
            self._reset_here.popitem(last=False)
        self._reset_here[stream_id] = None
        self._resets_sent += 1
        self._control(rst_stream(stream_id, code))

    def _over(self, stream: Stream) -> None:
        """Forget a stream. All ends of streams come through here."""
        stream.state = _CLOSED
        del self.streams[stream.id]
        outbox, inbox = stream.outbox, stream.inbox
        if outbox is not None:
            self._queued_bytes -= outbox.size
            stream.outbox = None
        if inbox is not None and inbox.unconsumed:
            self._give_back(inbox.unconsumed)

    # -- windows -------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Take what was sent since the room was made out of the window."""
        sent = self._room_given - self._room
        self._window -= sent
        self._data_in_output += sent
        self._room = self._room_given

    def _make_room(self) -> None:
        """After `_settle` and a change: how much may go out now."""
        free = self._budget - self._data_in_output
        self._window_is_short = self._window < free
        self._room = self._room_given = max(0, self._window if self._window_is_short else free)

    def _widen_connection(self, increment: int) -> None:
        if self._window + increment <= MAX_WINDOW and not self._window_is_short:
            self._window += increment
            return
        self._settle()
        self._window = widened(self._window, increment, ConnectionFault)
        self._make_room()
        self._pump()

    def _widened_stream(self, stream: Stream) -> None:
        """After its window grew."""
        outbox = stream.outbox
        if outbox is not None:
            self._list(stream, outbox)
            self._pump()

    def _set_peer_window(self, size: int) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE applies to the streams there are, too: their windows may become negative."""
        difference = size - self._peer_window
        self._peer_window = size
        for stream in self.streams.values():
            stream.send_window = widened(stream.send_window, difference, ConnectionFault)
            if stream.outbox is not None:
                self._list(stream, stream.outbox)

    # -- what waits ----------------------------------------------------------------------------------------------------

    def _list(self, stream: Stream, outbox: Outbox) -> None:
        if not outbox.listed and stream.send_window > 0:
            outbox.listed = True
            self._ready.append(stream)

    def _pump(self) -> None:
        """Send what waits, a frame a turn, as long as there is room."""
        ready = self._ready
        while ready and self._room > 0:
            stream = ready.popleft()
            outbox = stream.outbox
            if outbox is None:
                continue  # it is over
            outbox.listed = False
            limit = min(self._room, stream.send_window, self._peer_frame_size, _MOST_IN_A_FRAME)
            if limit <= 0:
                continue  # its window has become smaller since
            parts, size = outbox.take(limit)
            self.output += opening(size, FrameType.DATA, 0), stream.wire_id, *parts
            self._room -= size
            self._queued_bytes -= size
            stream.send_window -= size
            if outbox.size:
                self._list(stream, outbox)
            else:
                self._emptied(stream, outbox)

    def _emptied(self, stream: Stream, outbox: Outbox) -> None:
        stream.outbox = None
        if outbox.ended:
            self._end(stream, outbox.trailers)
        elif outbox.owes_writable:
            self._on_writable(stream)
