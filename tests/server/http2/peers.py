"""Both ends of a connection for the tests: a handler that writes down what it is told, and a client that may say
anything."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock_server.http2.connection import Connection, ConnectionSettings, Request
from penstock_server.http2.errors import ErrorCode
from penstock_server.http2.fields import Headers
from penstock_server.http2.flow import Buffer
from penstock_server.http2.frames import PREFACE, Flag, FrameType, frame, settings_frame
from penstock_server.http2.headers import HeaderBlock
from penstock_server.http2.streams import Stream

Fields = Sequence[tuple[bytes, bytes]]

REQUEST: Fields = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/package.Service/Method"),
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]
RESPONSE = HeaderBlock([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = HeaderBlock([(b"grpc-status", b"0")])
VARYING = b"grpc-timeout"


@dataclass
class Seen:
    """What a handler was told of one stream, whatever the pieces."""

    stream: Stream
    head: Headers
    varying: bytes | None = None
    data: bytearray = field(default_factory=bytearray)
    pieces: int = 0
    trailers: Headers | None = None
    ended: bool = False
    reset: int | None = None
    writable: int = 0

    def told(self) -> tuple[Any, ...]:
        return (self.head, self.varying, bytes(self.data), self.trailers, self.ended, self.reset)


class Recorder:
    """A handler that writes down what it is told, and consumes at once unless told otherwise.

    It also holds the connection to the order of events that its contract promises.
    """

    def __init__(self, settings: ConnectionSettings | None = None, *, consumes: bool = True, now: float = 0.0) -> None:
        self.streams: dict[int, Seen] = {}
        self.order: list[tuple[str, int]] = []
        self.at_once = 0
        self.goaways: list[int] = []
        self.pongs: list[bytes] = []
        self.closed: tuple[ErrorCode, str] | None = None
        self.consumes = consumes
        self.now = now
        self.interpreted = 0
        self.connection: Connection[Headers] = Connection(
            self, self._interpret, settings or ConnectionSettings(varying=VARYING), now
        )

    def _interpret(self, headers: Headers) -> Headers:
        self.interpreted += 1
        return headers

    def receive(self, *data: bytes) -> None:
        for each in data:
            self.connection.receive(each, self.now)

    def on_requests(self, requests: Sequence[Request[Headers]]) -> None:
        for stream, head, varying, data in requests:
            assert type(data) is bytes
            self.at_once += 1
            self.on_headers(stream, head, varying, False)
            self._data(stream, data, True)

    def on_headers(self, stream: Stream, head: Headers, varying: bytes | None, end_stream: bool) -> None:
        assert stream.id not in self.streams
        self.order.append(("headers", stream.id))
        self.streams[stream.id] = Seen(stream, head, varying, ended=end_stream)

    def on_data(self, stream: Stream, data: Buffer, end_stream: bool) -> None:
        self._data(stream, data, end_stream)
        if self.consumes:
            self.connection.consumed(stream, len(data))

    def on_pieces(self, stream: Stream, pieces: Sequence[Buffer], end_stream: bool) -> None:
        assert len(pieces) > 1
        for piece in pieces[:-1]:
            self.on_data(stream, piece, False)
        self.on_data(stream, pieces[-1], end_stream)

    def _data(self, stream: Stream, data: Buffer, end_stream: bool) -> None:
        seen = self._open(stream)
        assert len(data) or end_stream
        seen.data += data
        seen.pieces += 1
        seen.ended = end_stream
        if end_stream:
            self.order.append(("end", stream.id))

    def on_trailers(self, stream: Stream, headers: Headers) -> None:
        seen = self._open(stream)
        seen.trailers, seen.ended = headers, True
        self.order.append(("end", stream.id))

    def on_reset(self, stream: Stream, code: int) -> None:
        seen = self.streams[stream.id]
        assert seen.reset is None
        seen.reset = code
        self.order.append(("reset", stream.id))

    def on_writable(self, stream: Stream) -> None:
        self.streams[stream.id].writable += 1

    def on_goaway(self, code: int) -> None:
        self.goaways.append(code)

    def on_pong(self, opaque: bytes) -> None:
        self.pongs.append(opaque)

    def on_closed(self, code: ErrorCode, reason: str) -> None:
        assert self.closed is None
        self.closed = code, reason

    def _open(self, stream: Stream) -> Seen:
        seen = self.streams[stream.id]
        assert not seen.ended
        assert seen.reset is None
        assert self.closed is None
        return seen

    def told(self) -> Any:
        """All that was said, without how it was cut, and how the streams were mixed."""
        streams = {number: seen.told() for number, seen in self.streams.items()}
        order = {number: [what for what, of in self.order if of == number] for number in streams}
        return streams, order, self.goaways, self.pongs, self.closed

    def frames(self) -> list["Frame"]:
        """What the connection wants to send, taken."""
        return list(parsed(self.written()))

    def written(self) -> bytes:
        return b"".join(each for _ in range(100) if self.connection.output for each in self.connection.take_output())


@dataclass(frozen=True)
class Frame:
    """A frame that the connection sent."""

    kind: FrameType
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> ErrorCode:
        at = 4 if self.kind is FrameType.GOAWAY else 0
        return ErrorCode(int.from_bytes(self.payload[at : at + 4], "big"))


def parsed(data: bytes) -> Iterable[Frame]:
    while data:
        length = int.from_bytes(data[:3], "big")
        assert length <= 16_384
        assert len(data) >= 9 + length
        stream_id = int.from_bytes(data[5:9], "big")
        yield Frame(FrameType(data[3]), data[4], stream_id, data[9 : 9 + length])
        data = data[9 + length :]


def opened(settings: ConnectionSettings | None = None, *, consumes: bool = True, now: float = 0.0) -> Recorder:
    """A connection that has had its preface and SETTINGS, with the server's own taken away."""
    recorder = Recorder(settings, consumes=consumes, now=now)
    recorder.receive(PREFACE + settings_frame({}))
    recorder.written()
    return recorder


def literal(name: bytes, value: bytes, first: int = 0) -> bytes:
    """A field as a literal with its name: 0x00 without indexing, 0x40 with, 0x10 never."""
    return bytes((first,)) + _string(name) + _string(value)


def _string(value: bytes) -> bytes:
    if len(value) < 127:
        return bytes((len(value),)) + value
    length, more = len(value) - 127, b""
    while length >= 128:
        more += bytes((128 | length & 127,))
        length >>= 7
    return b"\x7f" + more + bytes((length,)) + value


def block(fields: Fields = REQUEST, first: int = 0) -> bytes:
    return b"".join(literal(name, value, first) for name, value in fields)


def headers(stream_id: int = 1, fields: Fields = REQUEST, *, end: bool = False, more: int = 0) -> bytes:
    return frame(FrameType.HEADERS, Flag.END_HEADERS | more | (Flag.END_STREAM if end else 0), stream_id, block(fields))


def data(stream_id: int = 1, payload: bytes = b"", *, end: bool = False, more: int = 0) -> bytes:
    return frame(FrameType.DATA, more | (Flag.END_STREAM if end else 0), stream_id, payload)


def reset(stream_id: int = 1, code: ErrorCode = ErrorCode.CANCEL) -> bytes:
    return frame(FrameType.RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def request(stream_id: int = 1, payload: bytes = b"abc", fields: Fields = REQUEST) -> bytes:
    return headers(stream_id, fields) + data(stream_id, payload, end=True)
