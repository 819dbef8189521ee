"""Every way to break RFC 9113 that a server can see, each with the code that the peer is told.

A row is what a client sends after its preface and SETTINGS, and what comes of it. Section numbers are RFC 9113's.
"""

import pytest

from penstock_server.http2.errors import ErrorCode
from penstock_server.http2.frames import (
    PREFACE,
    Flag,
    FrameType,
    Setting,
    frame,
    goaway,
    ping,
    rst_stream,
    settings_frame,
    window_update,
)
from tests.server.http2.peers import REQUEST, Recorder, block, data, headers, literal, opened, request, reset

HALF = Flag.END_STREAM  # HEADERS that END_HEADERS does not end
BLOCK = block()


def fields(*extra: tuple[bytes, bytes], without: bytes = b"") -> list[tuple[bytes, bytes]]:
    return [*(each for each in REQUEST if each[0] != without), *extra]


LONG_BLOCK = block(fields((b"a", b"x" * 17_000)))


def priority(stream_id: int, payload: bytes = bytes(5)) -> bytes:
    return frame(FrameType.PRIORITY, 0, stream_id, payload)


CONNECTION_ERRORS: dict[str, tuple[bytes, ErrorCode]] = {
    # 4.2: frame size
    "a frame larger than SETTINGS_MAX_FRAME_SIZE": (data(1, bytes(262_145)), ErrorCode.FRAME_SIZE_ERROR),
    "only the header of such a frame": (data(1, bytes(262_145))[:9], ErrorCode.FRAME_SIZE_ERROR),
    "an unknown frame of such a size": (frame(99, 0, 0, bytes(262_145)), ErrorCode.FRAME_SIZE_ERROR),
    "a frame that is no DATA and larger than a header block may be": (
        frame(99, 0, 0, bytes(65_537))[:9],
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "DATA of such a size with padding": (
        headers(1) + data(1, bytes(65_537), more=Flag.PADDED),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    # 4.3: header blocks
    "a block that cannot be decoded": (frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "an index beyond the table": (frame(1, 4, 1, b"\xbe"), ErrorCode.COMPRESSION_ERROR),
    "index 0": (frame(1, 4, 1, b"\x80"), ErrorCode.COMPRESSION_ERROR),
    "a truncated literal": (frame(1, 4, 1, BLOCK[:-1]), ErrorCode.COMPRESSION_ERROR),
    "a table size update above the setting": (frame(1, 4, 1, b"\x3f\xe2\x1f" + BLOCK), ErrorCode.COMPRESSION_ERROR),
    "a table size update behind a field": (frame(1, 4, 1, BLOCK + b"\x20"), ErrorCode.COMPRESSION_ERROR),
    "Huffman padding that is not all ones": (
        frame(1, 4, 1, block(REQUEST[:3]) + b"\x01\x81\x00"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a block for a stream that is over that cannot be decoded": (
        headers(1) + reset(1) + frame(1, 4, 1, b"\xbe"),
        ErrorCode.STREAM_CLOSED,
    ),
    # 5.1: states
    "DATA on an idle stream": (data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (reset(1), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": (window_update(1, 1), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION on an idle stream": (frame(FrameType.CONTINUATION, 4, 1, BLOCK), ErrorCode.PROTOCOL_ERROR),
    "DATA on a stream that the peer reset": (headers(1) + reset(1) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
    "HEADERS on a stream that the peer reset": (headers(1) + reset(1) + headers(1), ErrorCode.STREAM_CLOSED),
    # 5.1.1: ids
    "an even stream id": (headers(2), ErrorCode.PROTOCOL_ERROR),
    "DATA on an even stream id": (headers(5) + data(4, b"x"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on stream 0": (headers(0), ErrorCode.PROTOCOL_ERROR),
    "a stream id below one that was used": (headers(5) + headers(3), ErrorCode.PROTOCOL_ERROR),
    # 6.1: DATA
    "DATA on stream 0": (data(0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA padded to its whole length": (headers(1) + data(1, b"\x04abc", more=Flag.PADDED), ErrorCode.PROTOCOL_ERROR),
    "DATA padded but empty": (headers(1) + data(1, b"", more=Flag.PADDED), ErrorCode.PROTOCOL_ERROR),
    # 6.2: HEADERS
    "HEADERS padded beyond its length": (
        frame(1, Flag.END_HEADERS | Flag.PADDED, 1, b"\xff" + BLOCK[:10]),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "HEADERS too short for its priority": (
        frame(1, Flag.END_HEADERS | Flag.PRIORITY, 1, bytes(4)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    # 6.3: PRIORITY
    "PRIORITY on stream 0": (priority(0), ErrorCode.PROTOCOL_ERROR),
    # 6.4: RST_STREAM
    "RST_STREAM on stream 0": (reset(0), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of 3 bytes": (headers(1) + frame(FrameType.RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "RST_STREAM of 5 bytes": (headers(1) + frame(FrameType.RST_STREAM, 0, 1, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    # 6.5: SETTINGS
    "SETTINGS on a stream": (frame(FrameType.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of 5 bytes": (frame(FrameType.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS with ACK and a payload": (
        frame(FrameType.SETTINGS, Flag.ACK, 0, bytes(6)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "ENABLE_PUSH of 2": (settings_frame({Setting.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE of 2^31": (settings_frame({Setting.INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
    "MAX_FRAME_SIZE of 16,383": (settings_frame({Setting.MAX_FRAME_SIZE: 16_383}), ErrorCode.PROTOCOL_ERROR),
    "MAX_FRAME_SIZE of 2^24": (settings_frame({Setting.MAX_FRAME_SIZE: 2**24}), ErrorCode.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE that makes a window overflow": (
        headers(1) + window_update(1, 2**31 - 1 - 65_535) + settings_frame({Setting.INITIAL_WINDOW_SIZE: 65_536}),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    # 6.6: PUSH_PROMISE
    "PUSH_PROMISE": (
        headers(1) + frame(FrameType.PUSH_PROMISE, 4, 1, bytes((0, 0, 0, 2)) + BLOCK),
        ErrorCode.PROTOCOL_ERROR,
    ),
    # 6.7: PING
    "PING on a stream": (frame(FrameType.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "PING of 7 bytes": (frame(FrameType.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "PING of 9 bytes": (frame(FrameType.PING, 0, 0, bytes(9)), ErrorCode.FRAME_SIZE_ERROR),
    # 6.8: GOAWAY
    "GOAWAY on a stream": (frame(FrameType.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "GOAWAY of 7 bytes": (frame(FrameType.GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    # 6.9: WINDOW_UPDATE
    "WINDOW_UPDATE of 3 bytes": (frame(FrameType.WINDOW_UPDATE, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE by 0": (window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE that makes the window overflow": (window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE on an even stream": (headers(3) + window_update(2, 1), ErrorCode.PROTOCOL_ERROR),
    # 6.10: CONTINUATION
    "CONTINUATION after the block's end": (
        headers(1) + frame(FrameType.CONTINUATION, 4, 1, BLOCK),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION on another stream": (
        frame(1, HALF, 1, BLOCK) + frame(FrameType.CONTINUATION, 4, 3),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION on stream 0": (frame(FrameType.CONTINUATION, 4, 0, BLOCK), ErrorCode.PROTOCOL_ERROR),
    "PING within a block": (frame(1, HALF, 1, BLOCK) + ping(bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "DATA within a block": (frame(1, HALF, 1, BLOCK) + data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "large DATA within a block": (frame(1, HALF, 1, BLOCK) + data(1, bytes(9000)), ErrorCode.PROTOCOL_ERROR),
    "HEADERS within a block": (frame(1, HALF, 1, BLOCK) + headers(3), ErrorCode.PROTOCOL_ERROR),
    "an unknown frame within a block": (frame(1, HALF, 1, BLOCK) + frame(99, 0, 1), ErrorCode.PROTOCOL_ERROR),
}

STREAM_ERRORS: dict[str, tuple[bytes, ErrorCode]] = {
    # 5.1: states
    "DATA on a half-closed stream": (request(1) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
    "HEADERS on a half-closed stream": (request(1) + headers(1, end=True), ErrorCode.STREAM_CLOSED),
    # 6.3
    "PRIORITY of 4 bytes on an open stream": (headers(1) + priority(1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    # 6.9
    "WINDOW_UPDATE by 0": (headers(1) + window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE by 0 between HEADERS and DATA": (
        headers(1) + window_update(1, 0) + data(1, b"abc", end=True),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "WINDOW_UPDATE that makes the window overflow": (
        headers(1) + window_update(1, 2**31 - 1),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    # 8.1: the form of a request
    "a second header block that does not end the stream": (headers(1) + headers(1), ErrorCode.PROTOCOL_ERROR),
    "pseudo-header fields in trailers": (headers(1) + headers(1, end=True), ErrorCode.PROTOCOL_ERROR),
    "trailers before the whole body": (
        headers(1, fields((b"content-length", b"3"))) + headers(1, [(b"x", b"y")], end=True),
        ErrorCode.PROTOCOL_ERROR,
    ),
    # 8.1.1: content-length
    "more data than content-length": (
        headers(1, fields((b"content-length", b"2"))) + data(1, b"abc"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "less data than content-length": (request(1, b"a", fields((b"content-length", b"2"))), ErrorCode.PROTOCOL_ERROR),
    "no data at all for a content-length": (
        headers(1, fields((b"content-length", b"2")), end=True),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "two different content-lengths": (
        headers(1, fields((b"content-length", b"2"), (b"content-length", b"3"))),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a content-length that is no number": (headers(1, fields((b"content-length", b"+2"))), ErrorCode.PROTOCOL_ERROR),
    # 8.2: fields
    "upper case in a name": (headers(1, fields((b"Name", b"x"))), ErrorCode.PROTOCOL_ERROR),
    "an empty name": (headers(1, fields((b"", b"x"))), ErrorCode.PROTOCOL_ERROR),
    "a space in a name": (headers(1, fields((b"a b", b"x"))), ErrorCode.PROTOCOL_ERROR),
    "a colon in a name": (headers(1, fields((b"a:b", b"x"))), ErrorCode.PROTOCOL_ERROR),
    "a byte above 127 in a name": (headers(1, fields((b"\xe9", b"x"))), ErrorCode.PROTOCOL_ERROR),
    "a line feed in a value": (headers(1, fields((b"a", b"x\ny"))), ErrorCode.PROTOCOL_ERROR),
    "a NUL in a value": (headers(1, fields((b"a", b"x\0"))), ErrorCode.PROTOCOL_ERROR),
    "a space before a value": (headers(1, fields((b"a", b" x"))), ErrorCode.PROTOCOL_ERROR),
    "a tab behind a value": (headers(1, fields((b"a", b"x\t"))), ErrorCode.PROTOCOL_ERROR),
    "a carriage return in the varying field": (
        headers(1, fields((b"grpc-timeout", b"1\rS"))),
        ErrorCode.PROTOCOL_ERROR,
    ),
    # 8.2.2
    "connection": (headers(1, fields((b"connection", b"close"))), ErrorCode.PROTOCOL_ERROR),
    "transfer-encoding": (headers(1, fields((b"transfer-encoding", b"chunked"))), ErrorCode.PROTOCOL_ERROR),
    "te that is not trailers": (headers(1, fields((b"te", b"gzip"), without=b"te")), ErrorCode.PROTOCOL_ERROR),
    # 8.3
    "an unknown pseudo-header field": (headers(1, [(b":what", b"x"), *REQUEST]), ErrorCode.PROTOCOL_ERROR),
    "one of a response": (headers(1, [(b":status", b"200"), *REQUEST]), ErrorCode.PROTOCOL_ERROR),
    "one behind a regular field": (
        headers(1, fields((b":authority", b"x"), without=b":authority")),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "one twice": (headers(1, [(b":path", b"/"), *REQUEST]), ErrorCode.PROTOCOL_ERROR),
    "no :method": (headers(1, fields(without=b":method")), ErrorCode.PROTOCOL_ERROR),
    "no :scheme": (headers(1, fields(without=b":scheme")), ErrorCode.PROTOCOL_ERROR),
    "no :path": (headers(1, fields(without=b":path")), ErrorCode.PROTOCOL_ERROR),
    "an empty :path": (headers(1, [(b":path", b""), *fields(without=b":path")]), ErrorCode.PROTOCOL_ERROR),
    "a :path without a slash": (headers(1, [(b":path", b"x"), *fields(without=b":path")]), ErrorCode.PROTOCOL_ERROR),
    "CONNECT with a :path": (
        headers(1, [(b":method", b"CONNECT"), *fields(without=b":method")]),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "an empty block": (frame(1, 4, 1), ErrorCode.PROTOCOL_ERROR),
    # 6.5.2
    "a header list above the limit": (
        frame(1, 0, 1, LONG_BLOCK[:16_000]) + frame(FrameType.CONTINUATION, 4, 1, LONG_BLOCK[16_000:]),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "a header list above the limit in one frame": (frame(1, 4, 1, LONG_BLOCK), ErrorCode.ENHANCE_YOUR_CALM),
}

ALLOWED: dict[str, bytes] = {
    "padded HEADERS and DATA": frame(1, Flag.END_HEADERS | Flag.PADDED, 1, b"\x03" + BLOCK + b"\1\2\3")
    + data(1, b"\x02abc\0\0", end=True, more=Flag.PADDED),
    "DATA that is all padding": headers(1) + data(1, b"\x03\0\0\0", more=Flag.PADDED) + data(1, b"abc", end=True),
    "a priority in HEADERS": frame(1, Flag.END_HEADERS | Flag.PRIORITY, 1, bytes(5) + BLOCK)
    + data(1, b"abc", end=True),
    "both": frame(1, Flag.END_HEADERS | Flag.PRIORITY | Flag.PADDED, 1, b"\x01" + bytes(5) + BLOCK + b"\0")
    + data(1, b"abc", end=True),
    "PRIORITY, for an idle stream too": priority(1) + priority(7) + request(1) + priority(1),
    "a block over three frames": frame(1, 0, 1, BLOCK[:7])
    + frame(FrameType.CONTINUATION, 0, 1)
    + frame(FrameType.CONTINUATION, 4, 1, BLOCK[7:])
    + data(1, b"abc", end=True),
    "unknown frames, flags, settings and error codes": frame(99, 0xFF, 7, b"?")
    + frame(FrameType.SETTINGS, 0, 0, b"\xab\xcd" + bytes(4))
    + frame(FrameType.PING, 0xFE, 0, bytes(8))
    + goaway(0, 12345)
    + headers(1)
    + data(1, b"abc", end=True, more=0xF6),
    "trailers": headers(1) + data(1, b"abc") + headers(1, [(b"checksum", b"1")], end=True),
    "a right content-length": request(1, b"abc", fields((b"content-length", b"3"))),
    "the reserved bit of the stream id": request(1).replace(b"\0\0\0\1", b"\x80\0\0\1"),
    "ids left out": request(1) + headers(9, end=True),
    "late frames on a stream that was reset": request(1) + headers(3) + reset(3) + reset(3) + window_update(3, 1),
    "an asterisk as path": headers(1, [(b":method", b"OPTIONS"), (b":scheme", b"http"), (b":path", b"*")])
    + data(1, b"abc", end=True),
    "a CONNECT": headers(1, [(b":method", b"CONNECT"), (b":authority", b"a:1")]) + data(1, b"abc", end=True),
    "empty values, and bytes above 127 in them": request(1, b"abc", fields((b"a", b""), (b"b", b"\xff"))),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_connection_error(name: str) -> None:
    """The connection ends with GOAWAY and this code; each open stream is told, and nothing more is read."""
    frames, code = CONNECTION_ERRORS[name]
    server = opened()
    server.receive(frames)
    last = server.frames()[-1]
    assert (last.kind, last.code) == (FrameType.GOAWAY, code)
    assert server.closed is not None
    assert server.closed[0] == code
    assert server.connection.finished
    assert not server.connection.streams
    assert all(seen.reset is not None for seen in server.streams.values())
    server.receive(ping(bytes(8)))
    assert not server.connection.output


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_stream_error(name: str) -> None:
    """One stream ends with RST_STREAM and this code, and the next request does not notice."""
    frames, code = STREAM_ERRORS[name]
    server = opened()
    server.receive(frames, request(3))
    (frame_sent,) = (each for each in server.frames() if each.kind is FrameType.RST_STREAM)
    assert (frame_sent.stream_id, frame_sent.code) == (1, code)
    assert 1 not in server.streams or server.streams[1].reset == code
    assert server.streams[3].data == b"abc"
    assert server.connection.streams.keys() == {3}
    assert server.closed is None


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name: str) -> None:
    """What looks odd and is allowed is served."""
    server = opened()
    server.receive(ALLOWED[name])
    assert server.closed is None
    assert server.streams[1].data == b"abc"
    assert server.streams[1].ended
    assert not [each for each in server.frames() if each.kind in (FrameType.RST_STREAM, FrameType.GOAWAY)]


@pytest.mark.parametrize(
    "frames",
    [ping(bytes(8)), headers(1), data(1, bytes(9000)), frame(FrameType.SETTINGS, Flag.ACK, 0), rst_stream(1, 0)],
    ids=["PING", "HEADERS", "large DATA", "SETTINGS ACK", "RST_STREAM"],
)
def test_settings_come_first(frames: bytes) -> None:
    """The first frame after the preface is SETTINGS (3.4)."""
    server = Recorder()
    server.receive(PREFACE + frames)
    assert next((each.kind, each.flags) for each in server.frames()) == (FrameType.SETTINGS, 0)
    assert server.closed is not None
    assert server.closed[0] == ErrorCode.PROTOCOL_ERROR


def test_a_malformed_field_that_is_indexed_is_found_each_time() -> None:
    """A malformed list may be in the dynamic table: it is refused again when it comes as an index."""
    server = opened()
    for stream_id in (1, 3, 5):
        malformed = literal(b"Upper", b"x", 0x40) if stream_id == 1 else b"\xbe"
        server.receive(frame(1, 5, stream_id, BLOCK + malformed))
    assert [each.code for each in server.frames()] == [ErrorCode.PROTOCOL_ERROR] * 3
