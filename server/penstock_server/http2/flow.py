"""Flow control (RFC 9113, section 5.2): what may be received, what may be sent, and what waits.

Receiving: a window shrinks with every DATA frame and grows only when the layer above says that it has *consumed* bytes.
Credit is collected and announced when it comes to half of the window, so that a WINDOW_UPDATE stands for many frames.
`left + credit + unconsumed == size` always.

Sending: a window is a plain integer, since SETTINGS_INITIAL_WINDOW_SIZE may make it negative and the hot path compares
it; what did not fit waits in an `Outbox`, in order, and the end of the stream behind it.
"""

from collections import deque
from collections.abc import Iterable

from penstock_server.http2.errors import ErrorCode, Fault
from penstock_server.http2.headers import HeaderBlock

MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
"""Of a connection, and of a stream until SETTINGS say otherwise."""

Buffer = bytes | memoryview


def widened(window: int, increment: int, fault: type[Fault]) -> int:
    """A send window after a WINDOW_UPDATE. FLOW_CONTROL_ERROR as a `fault` if it would exceed 2^31-1."""
    window += increment
    if window > MAX_WINDOW:
        raise fault(ErrorCode.FLOW_CONTROL_ERROR, "the window would exceed 2^31-1")
    return window


class ReceiveWindow:
    """What the peer may still send us."""

    __slots__ = ("credit", "left", "size", "unconsumed")

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = size
        self.unconsumed = 0
        """Received, and still held by the layer above."""
        self.credit = 0
        """Consumed, and not announced yet."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.left} of {self.size} left, {self.unconsumed} unconsumed>"

    def received(self, size: int) -> bool:
        """Count a frame. False: the peer has sent more than it may."""
        self.left -= size
        self.unconsumed += size
        return self.left >= 0

    def consumed(self, size: int) -> int:
        """Count bytes that are needed no more. The increment to announce now, or 0."""
        if size > self.unconsumed:
            raise ValueError(f"{size} bytes consumed of {self.unconsumed} received")
        self.unconsumed -= size
        self.credit += size
        if self.credit * 2 < self.size:
            return 0
        increment, self.credit = self.credit, 0
        self.left += increment
        return increment


class Outbox:
    """What a stream could not send yet: data in order, then perhaps its end."""

    __slots__ = ("ended", "listed", "owes_writable", "parts", "size", "trailers")

    def __init__(self) -> None:
        self.parts: deque[Buffer] = deque()
        self.size = 0
        """Bytes in `parts`."""
        self.ended = False
        """The stream ends once the data has gone, with `trailers` if there are any."""
        self.trailers: HeaderBlock | None = None
        self.listed = False
        """In the connection's queue of streams that could send, were there room."""
        self.owes_writable = False
        """The layer above was told to wait."""

    def __repr__(self) -> str:
        return f"<Outbox: {self.size} bytes{', then the end' if self.ended else ''}>"

    def put(self, parts: Iterable[Buffer]) -> None:
        """Append data."""
        for part in parts:
            if len(part):
                self.parts.append(part)
                self.size += len(part)

    def take(self, limit: int) -> tuple[list[Buffer], int]:
        """At most `limit` bytes from the front, uncopied, and how many they are."""
        taken: list[Buffer] = []
        room = limit
        parts = self.parts
        while parts and room:
            part = parts.popleft()
            if len(part) > room:
                part = memoryview(part)
                parts.appendleft(part[room:])
                part = part[:room]
            taken.append(part)
            room -= len(part)
        size = limit - room
        self.size -= size
        return taken, size
