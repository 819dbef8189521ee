"""The states of a stream, as one literal table (RFC 9113, section 5.1, as a server without push sees it).

Rules: a transition that is not in the table does not exist, and `UNLISTED` says what the peer is told then. Our own
side cannot make an unlisted one: `Connection` asks for the state before it sends. The fast paths of `connection`
assign states directly; a test holds them against this table.

    IDLE --HEADERS--> OPEN --our END_STREAM--> HALF_CLOSED_LOCAL
      \\                 \\                              \\ END_STREAM
       HEADERS+END_STREAM  END_STREAM                     v
        \\--------------> HALF_CLOSED_REMOTE ----------> CLOSED   (and from everywhere by RST_STREAM)
"""

from enum import IntEnum
from typing import Any

from penstock_server.http2.errors import ErrorCode
from penstock_server.http2.flow import Outbox, ReceiveWindow


class State(IntEnum):
    """LOCAL is our side: HALF_CLOSED_REMOTE is a request that has come in whole."""

    IDLE = 0
    OPEN = 1
    HALF_CLOSED_REMOTE = 2
    HALF_CLOSED_LOCAL = 3
    CLOSED = 4


class Event(IntEnum):
    """What moves a stream. RECEIVE_END is END_STREAM, on HEADERS or DATA, after the frame itself counted."""

    RECEIVE_HEADERS = 0
    RECEIVE_DATA = 1
    RECEIVE_END = 2
    RECEIVE_RESET = 3
    RECEIVE_WINDOW_UPDATE = 4
    SEND_END = 5
    SEND_RESET = 6


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.IDLE: {
        Event.RECEIVE_HEADERS: State.OPEN,
    },
    State.OPEN: {
        Event.RECEIVE_HEADERS: State.OPEN,  # trailers
        Event.RECEIVE_DATA: State.OPEN,
        Event.RECEIVE_END: State.HALF_CLOSED_REMOTE,
        Event.RECEIVE_RESET: State.CLOSED,
        Event.RECEIVE_WINDOW_UPDATE: State.OPEN,
        Event.SEND_END: State.HALF_CLOSED_LOCAL,
        Event.SEND_RESET: State.CLOSED,
    },
    State.HALF_CLOSED_REMOTE: {
        Event.RECEIVE_RESET: State.CLOSED,
        Event.RECEIVE_WINDOW_UPDATE: State.HALF_CLOSED_REMOTE,
        Event.SEND_END: State.CLOSED,
        Event.SEND_RESET: State.CLOSED,
    },
    State.HALF_CLOSED_LOCAL: {
        Event.RECEIVE_HEADERS: State.HALF_CLOSED_LOCAL,
        Event.RECEIVE_DATA: State.HALF_CLOSED_LOCAL,
        Event.RECEIVE_END: State.CLOSED,
        Event.RECEIVE_RESET: State.CLOSED,
        Event.RECEIVE_WINDOW_UPDATE: State.HALF_CLOSED_LOCAL,
        Event.SEND_RESET: State.CLOSED,
    },
    State.CLOSED: {
        # Both may have been on their way when the stream ended, and mean nothing then.
        Event.RECEIVE_RESET: State.CLOSED,
        Event.RECEIVE_WINDOW_UPDATE: State.CLOSED,
    },
}

UNLISTED: dict[State, ErrorCode] = {
    State.IDLE: ErrorCode.PROTOCOL_ERROR,
    State.OPEN: ErrorCode.PROTOCOL_ERROR,
    State.HALF_CLOSED_REMOTE: ErrorCode.STREAM_CLOSED,
    State.HALF_CLOSED_LOCAL: ErrorCode.PROTOCOL_ERROR,
    State.CLOSED: ErrorCode.STREAM_CLOSED,
}
"""The code for what the table does not list. On an idle or closed stream it ends the connection, else the stream."""


class Inbox(ReceiveWindow):
    """The receiving half of a stream whose request did not come in one piece."""

    __slots__ = ("content_left", "heard")

    def __init__(self, size: int, content_left: int, now: float) -> None:
        super().__init__(size)
        self.content_left = content_left
        """Bytes of the body that are to come by `content-length`; -1 if the request named none."""
        self.heard = now
        """When the request last went on."""


class Stream:
    """One stream. Only its connection changes it; the layer above owns `context` and reads `id` and `state`.

    A unary call whose request comes in one read and whose response fits is served without the two boxes: making an
    object costs by the attribute.
    """

    __slots__ = ("context", "id", "inbox", "outbox", "send_window", "state", "wire_id")

    def __init__(self, stream_id: int, wire_id: bytes, state: State, send_window: int) -> None:
        self.id = stream_id
        self.wire_id = wire_id
        """The id as its four bytes in a frame."""
        self.state = state
        self.send_window = send_window
        """What the peer lets us send; negative after it made its initial window smaller."""
        self.context: Any = None
        """Nothing to this package: the call that belongs to the stream."""
        self.inbox: Inbox | None = None
        self.outbox: Outbox | None = None

    def __repr__(self) -> str:
        return f"<Stream {self.id} {self.state.name}>"
