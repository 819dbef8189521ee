"""What the HTTP/2 connection costs: microseconds of CPU a unary request, received and answered.

    python scripts/bench_http2.py [--rounds 5]

The handler answers at once with a fixed message, so everything but the connection is left out: no sockets, no gRPC.
Each case is a client's frames, cut into reads as a loaded or an idle server gets them; the figure is the best of the
rounds and counts everything from `receive` to `take_output` and the join of what it gave.
"""

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from penstock_server.http2.connection import Connection, ConnectionSettings
from penstock_server.http2.connection import Request as WholeRequest
from penstock_server.http2.errors import ErrorCode
from penstock_server.http2.fields import Headers
from penstock_server.http2.flow import Buffer
from penstock_server.http2.frames import PREFACE, Flag, FrameType, frame, settings_frame, window_update
from penstock_server.http2.headers import HeaderBlock
from penstock_server.http2.streams import Stream

REQUESTS = 8192
MESSAGE = b"\0\0\0\0\x78" + bytes(120)
HEAD = HeaderBlock([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = HeaderBlock([(b"grpc-status", b"0")])
PATH = b"/inference.GRPCInferenceService/ModelInfer"


class Answering:
    """Answers every request at once."""

    def __init__(self) -> None:
        self.connection: Connection[Headers] = Connection(
            self, lambda headers: headers, ConnectionSettings(varying=b"grpc-timeout"), 0.0
        )
        self.respond = self.connection.respond
        self.answered = 0

    def on_requests(self, requests: Sequence[WholeRequest[Headers]]) -> None:
        for stream, _, _, _ in requests:
            self.answered += 1
            self.respond(stream, HEAD, (MESSAGE,), TRAILERS)

    def on_headers(self, stream: Stream, head: Headers, varying: bytes | None, end_stream: bool) -> None: ...

    def on_data(self, stream: Stream, data: Buffer, end_stream: bool) -> None:
        self.connection.consumed(stream, len(data))
        if end_stream:
            self.on_requests([(stream, [], None, b"")])

    def on_pieces(self, stream: Stream, pieces: Sequence[Buffer], end_stream: bool) -> None:
        self.on_data(stream, b"".join(pieces), end_stream)

    def on_trailers(self, stream: Stream, headers: Headers) -> None: ...

    def on_reset(self, stream: Stream, code: int) -> None: ...

    def on_writable(self, stream: Stream) -> None: ...

    def on_goaway(self, code: int) -> None: ...

    def on_pong(self, opaque: bytes) -> None: ...

    def on_closed(self, code: ErrorCode, reason: str) -> None:
        raise AssertionError(reason)


class GrpcCore:
    """Encodes header blocks as grpcio 1.85 does: what is not in the table goes in, by its literal name."""

    def __init__(self) -> None:
        self._table: deque[tuple[bytes, bytes, int]] = deque()
        self._size = 0
        self._inserted = 0
        self._places: dict[tuple[bytes, bytes], int] = {}

    def block(self, timeout: bytes | None = None) -> bytes:
        """A call's header block."""
        fields = [
            self._field(b":path", PATH),
            self._field(b":authority", b"127.0.0.1:8001"),
            b"\x83\x86",
            self._field(b"content-type", b"application/grpc"),
            self._field(b"te", b"trailers"),
            self._field(b"grpc-accept-encoding", b"identity, deflate, gzip"),
        ]
        if timeout is not None:
            self._insert(b"grpc-timeout", timeout)
            fields.append(_literal(b"grpc-timeout", timeout))
        fields.append(self._field(b"user-agent", b"grpc-python/1.85.1 grpc-c/58.0.0 (linux; chttp2)"))
        return b"".join(fields)

    def _field(self, name: bytes, value: bytes) -> bytes:
        place = self._places.get((name, value))
        if place is None:
            self._insert(name, value)
            return _literal(name, value)
        index = 62 + self._inserted - place
        return bytes((0x80 | index,)) if index < 127 else bytes((0xFF, index - 127))

    def _insert(self, name: bytes, value: bytes) -> None:
        self._inserted += 1
        self._places[name, value] = self._inserted
        self._table.appendleft((name, value, self._inserted))
        self._size += 32 + len(name) + len(value)
        while self._size > 4096:
            old_name, old_value, place = self._table.pop()
            self._size -= 32 + len(old_name) + len(old_value)
            if self._places.get((old_name, old_value)) == place:
                del self._places[old_name, old_value]


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x40" + bytes((len(name),)) + name + bytes((len(value),)) + value


Request = Callable[[int, int], bytes]
"""The frames of a request, by its stream id and its number."""


def request(stream_id: int, block: bytes, between: bytes = b"") -> bytes:
    return (
        frame(FrameType.HEADERS, Flag.END_HEADERS, stream_id, block)
        + between
        + frame(FrameType.DATA, Flag.END_STREAM, stream_id, MESSAGE)
    )


def indexed() -> Request:
    encoder = GrpcCore()
    return lambda stream_id, number: request(stream_id, encoder.block())


def with_timeouts() -> Request:
    encoder = GrpcCore()
    return lambda stream_id, number: request(stream_id, encoder.block(b"%dm" % (30_000 - number % 5000)))


def with_window_updates() -> Request:
    encoder = GrpcCore()

    def make(stream_id: int, number: int) -> bytes:
        return request(stream_id, encoder.block(), window_update(stream_id, 5)) + window_update(0, 5)

    return make


def reads(make: Request, at_once: int) -> Iterator[bytes]:
    """The preface, then reads of that many requests, each with the window that the answers to them need."""
    yield PREFACE + settings_frame({})
    room = window_update(0, at_once * len(MESSAGE))
    for first in range(0, REQUESTS, at_once):
        numbers = range(first, min(first + at_once, REQUESTS))
        yield room + b"".join(make(2 * number + 1, number) for number in numbers)


def microseconds(make: Callable[[], Request], at_once: int, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        server = Answering()
        connection = server.connection
        packets = list(reads(make(), at_once))
        began = time.process_time()
        for packet in packets:
            connection.receive(packet, 0.0)
            while connection.output:
                b"".join(connection.take_output())
        best = min(best, time.process_time() - began)
        assert server.answered == REQUESTS, connection
    return best / REQUESTS * 1e6


CASES: dict[str, Callable[[], Request]] = {
    "indexed headers": indexed,
    "and grpcio's WINDOW_UPDATEs": with_window_updates,
    "a grpc-timeout that differs": with_timeouts,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="microseconds of CPU a unary request costs in http2/")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{'':32}{'256 in a read':>16}{'1 in a read':>16}")
    for name, make in CASES.items():
        print(f"{name:32}{microseconds(make, 256, rounds):13.2f} µs{microseconds(make, 1, rounds):13.2f} µs")


if __name__ == "__main__":
    main()
