"""A client's side of an HTTP/2 connection that carries gRPC calls, without a socket.

Made for speed: what happens for every answer is a look at nine bytes of each frame's head, and a look-up of the header
block in a cache. A server's blocks repeat; one that is not known is decoded by the `hpack` library, and one that
changes the dynamic table empties the cache, since indices mean something else after it.

What a subclass learns: `_data` for the streams in `_collecting`, and `_ended` for every stream that ends. Both windows
for receiving are as large as they can be, and are given back when half of one is used. Sends keep to the server's:
data that finds no window waits in `_blocked`, the oldest first.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct

from hpack import Decoder
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

from penstock_bench.load import frames
from penstock_bench.load.channel import BACKLOG
from penstock_bench.load.headers import DEFAULT_TABLE
from penstock_bench.load.ledger import Ledger

_HEAD = Struct(">IBI")  # the length with the kind in its last byte, the flags, the stream
_CACHED_BLOCKS = 1024
_HALF_WINDOW = frames.LARGEST_WINDOW // 2
_PLAIN = frames.END_HEADERS  # of a HEADERS frame: whole, without padding and priority
_ODD = frames.PADDED | frames.PRIORITY

STATUSES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""By gRPC's numbers."""

_RESETS = {
    frames.REFUSED_STREAM: "UNAVAILABLE",
    frames.CANCEL: "CANCELLED",
    frames.ENHANCE_YOUR_CALM: "RESOURCE_EXHAUSTED",
}
_HTTP = {400: "INTERNAL", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "UNIMPLEMENTED"} | dict.fromkeys(
    (429, 502, 503, 504), "UNAVAILABLE"
)
"""What gRPC makes of statuses of HTTP."""

Verdict = tuple[str, str]
"""A status's name (empty: the block says none) and the server's words."""


class _WatchedTable(HeaderTable):
    """A header table that says whether it was changed."""

    changed = False

    def add(self, name: bytes, value: bytes) -> None:
        self.changed = True
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return super().maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.changed = True
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined]  # a property of the parent


@dataclass(slots=True, eq=False)
class _Waiting:
    """Data of a stream that found no window: `lead`, then `body`."""

    stream: int
    lead: bytes
    body: memoryview
    end: int
    """The flags of the last frame."""


class Http2Connection:
    """The part that unary calls and streams share. See `channel.Channel` for what it is to the engine."""

    def __init__(self, ledger: Ledger, limit: int) -> None:
        self.output: list[bytes | memoryview] = [
            frames.PREFACE,
            frames.settings({2: 0, frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW}),  # 2: no pushes
            frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW),
        ]
        self.backlog = 0
        self.ready = False
        self.closed = ""
        self.table_size = DEFAULT_TABLE
        """Of the header table that the server allows."""
        self._ledger = ledger
        self._limit = limit
        """Requests in flight at once."""
        self._streams_allowed = limit
        """The same by the server's settings."""
        self._next_stream = 1
        self._rest = b""
        self._decoder = Decoder()
        self._table = self._decoder.header_table = _WatchedTable()
        self._verdicts: dict[bytes, Verdict] = {}
        self._received = 0
        """Bytes of the connection's window since it was last given back."""
        self._collecting: dict[int, list[bytes]] = {}
        """The streams whose data matters."""
        self._window: int = frames.DEFAULT_WINDOW
        self._initial_window = frames.DEFAULT_WINDOW
        self._frame = frames.DEFAULT_FRAME
        self._windows: dict[int, int] = {}
        """What a stream may still send; streams that are not here have the initial window."""
        self._blocked: deque[_Waiting] = deque()
        self._fragments: tuple[int, int, bytes] | None = None
        """A header block that is not whole yet: its stream, its flags, its bytes."""

    # ── what a subclass does ─────────────────────────────────────────────────

    def _data(self, stream: int, payload: bytes, now: float) -> None:
        raise NotImplementedError

    def _ended(self, stream: int, status: str, words: str, now: float) -> None:
        raise NotImplementedError

    def _open_streams(self) -> Sequence[int]:
        raise NotImplementedError

    # ── receiving ────────────────────────────────────────────────────────────

    def receive(self, data: bytes, now: float) -> None:  # noqa: C901 - one loop, which pays for every call
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        unpack, verdicts, collecting = _HEAD.unpack_from, self._verdicts, self._collecting
        try:
            while position + 9 <= end:
                first, flags, stream = unpack(data, position)
                stop = position + 9 + (first >> 8)
                if stop > end:
                    break
                kind = first & 0xFF
                if kind == 1 and flags & _PLAIN and not flags & _ODD and self._fragments is None:
                    block = data[position + 9 : stop]
                    verdict = verdicts.get(block)
                    if verdict is None:
                        verdict = self._decode(block)
                    if flags & 1:
                        self._ended(stream, *verdict, now)
                elif kind == 0 and not flags & frames.PADDED:
                    self._received += stop - position - 9
                    if stream in collecting:
                        self._data(stream, data[position + 9 : stop], now)
                    if flags & 1:
                        self._ended(stream, "INTERNAL", "the answer ended without a status", now)
                else:
                    self._rare(kind, flags, stream, data[position + 9 : stop], now)
                position = stop
        except HPACKError as error:
            self.lose(now, f"the server's headers cannot be read: {error}")
            return
        if position == 0 and data[:5] == b"HTTP/":
            self.lose(now, "the server speaks HTTP/1.1, not HTTP/2")
            return
        self._rest = data[position:]
        if self._received > _HALF_WINDOW:
            self.output.append(frames.window_update(0, self._received))
            self._received = 0

    def _decode(self, block: bytes) -> Verdict:
        """What a block says that is not in the cache."""
        self._table.changed = False
        fields = dict(self._decoder.decode(block))
        verdict = _verdict({str(name): str(value) for name, value in fields.items()})
        if self._table.changed or len(self._verdicts) >= _CACHED_BLOCKS:
            self._verdicts.clear()
        if not self._table.changed:
            self._verdicts[block] = verdict
        return verdict

    def _rare(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:  # noqa: C901 - a table
        """All frames but those of which an ordinary answer is made."""
        match kind:
            case frames.DATA:  # padded
                self._received += len(payload)
                if stream in self._collecting:
                    self._data(stream, payload[1 : len(payload) - payload[0]], now)
                if flags & frames.END_STREAM:
                    self._ended(stream, "INTERNAL", "the answer ended without a status", now)
            case frames.HEADERS:
                if flags & frames.PADDED:
                    payload = payload[1 : len(payload) - payload[0]]
                self._gather(stream, flags, payload[5:] if flags & frames.PRIORITY else payload, now)
            case frames.CONTINUATION if self._fragments is not None:
                stream, first, gathered = self._fragments
                self._gather(stream, first | flags & frames.END_HEADERS, gathered + payload, now)
            case frames.SETTINGS if not flags & frames.ACK:
                self._settings(payload)
            case frames.PING if not flags & frames.ACK:
                self.output.append(frames.frame(frames.PING, frames.ACK, 0, payload))
            case frames.WINDOW_UPDATE:
                increment = int.from_bytes(payload, "big") & frames.LARGEST_WINDOW
                if stream:
                    if stream in self._windows:
                        self._windows[stream] += increment
                else:
                    self._window += increment
                self._unblock()
            case frames.RST_STREAM:
                code = int.from_bytes(payload, "big")
                self._ended(stream, _RESETS.get(code, "INTERNAL"), f"the stream was reset with code {code}", now)
            case frames.GOAWAY:
                self._going_away(payload, now)
            case _:  # PRIORITY, acknowledgements, and what is unknown
                pass

    def _gather(self, stream: int, flags: int, block: bytes, now: float) -> None:
        if not flags & frames.END_HEADERS:
            self._fragments = (stream, flags, block)
            return
        self._fragments = None
        verdict = self._verdicts.get(block) or self._decode(block)
        if flags & frames.END_STREAM:
            self._ended(stream, *verdict, now)

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            value = int.from_bytes(payload[at + 2 : at + 6], "big")
            match int.from_bytes(payload[at : at + 2], "big"):
                case frames.HEADER_TABLE_SIZE if not self.ready:  # later, the blocks are made
                    self.table_size = value
                case frames.MAX_CONCURRENT_STREAMS:
                    self._streams_allowed = value
                case frames.INITIAL_WINDOW_SIZE:
                    for stream in self._windows:
                        self._windows[stream] += value - self._initial_window
                    self._initial_window = value
                case frames.MAX_FRAME_SIZE:
                    self._frame = value
                case _:
                    pass
        self.output.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.ready = True
        self._unblock()

    def _going_away(self, payload: bytes, now: float) -> None:
        last = int.from_bytes(payload[:4], "big") & frames.LARGEST_WINDOW
        words = payload[8:].decode("utf-8", "replace")
        self.closed = f"the server is going away{': ' + words if words else ''}"
        for stream in [each for each in self._open_streams() if each > last]:
            self._ended(stream, "UNAVAILABLE", self.closed, now)

    def lose(self, now: float, reason: str) -> None:
        self.closed = reason
        for stream in list(self._open_streams()):
            self._ended(stream, "UNAVAILABLE", reason, now)

    # ── sending ──────────────────────────────────────────────────────────────

    def _has_way(self) -> bool:
        return self.ready and not self.closed and self.backlog < BACKLOG

    def _send_message(self, stream: int, lead: bytes, body: bytes, end: int) -> None:
        """A message that may be too large for one frame or for the windows."""
        self._windows.setdefault(stream, self._initial_window)
        self._blocked.append(_Waiting(stream, lead, memoryview(body), end))
        self._unblock()

    def _unblock(self) -> None:
        """Send what waits as far as the windows allow it."""
        still: deque[_Waiting] = deque()
        behind: set[int] = set()
        while self._blocked and self._window > 0:
            waiting = self._blocked.popleft()
            # Messages of one stream stay in order.
            if waiting.stream in behind or not self._send_part(waiting):
                behind.add(waiting.stream)
                still.append(waiting)
        still.extend(self._blocked)
        self._blocked = still

    def _send_part(self, waiting: _Waiting) -> bool:
        """Send as much of it as the windows allow. Whether it is through."""
        stream, output = waiting.stream, self.output
        while True:
            left = len(waiting.lead) + len(waiting.body)
            size = min(left, self._frame, self._window, self._windows.get(stream, 0))
            if size <= 0 < left:
                return False
            flags = waiting.end if size == left else 0
            output.append(frames.head(size, frames.DATA, flags) + stream.to_bytes(4, "big"))
            of_lead = min(size, len(waiting.lead))
            if of_lead:
                output.append(waiting.lead[:of_lead])
                waiting.lead = waiting.lead[of_lead:]
            output.append(waiting.body[: size - of_lead])
            waiting.body = waiting.body[size - of_lead :]
            self._window -= size
            self._windows[stream] -= size
            if size == left:
                return True

    def _forget(self, stream: int) -> None:
        """A stream is over: nothing more is sent on it."""
        if self._windows.pop(stream, None) is not None and self._blocked:
            self._blocked = deque(each for each in self._blocked if each.stream != stream)


def _verdict(fields: dict[str, str]) -> Verdict:
    """What gRPC makes of a header block."""
    status = fields.get("grpc-status")
    words = fields.get("grpc-message", "")
    if status is not None:
        return STATUSES[int(status)] if status.isdecimal() and int(status) < len(STATUSES) else "UNKNOWN", words
    http = fields.get(":status", "")
    if http in ("", "200"):
        return "", ""
    return _HTTP.get(int(http) if http.isdecimal() else 0, "UNKNOWN"), f"HTTP status {http}"
