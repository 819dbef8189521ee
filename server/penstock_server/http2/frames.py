"""The wire format of HTTP/2 frames (RFC 9113, sections 4 and 6): numbers, and bytes of the frames that we send.

Reading is done by `connection` in its loop, where each call counts.
"""

from enum import IntEnum, IntFlag
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
MAX_FRAME_SIZE = 16_384
"""The smallest SETTINGS_MAX_FRAME_SIZE there is."""
MAX_DATA_FRAME_SIZE = 256 * 1024
"""The one we announce, for the sake of DATA: a large tensor comes with fewer headers to be read between its pieces. It
is as much as one read brings."""
MAX_WHOLE_FRAME_SIZE = 64 * 1024
"""Of all frames but DATA without padding: they are kept until they are whole. It is as much as a header block may have,
and nobody needs more of anything else, though RFC 9113, section 4.2, would have us take what we have announced."""
MAX_MAX_FRAME_SIZE = 2**24 - 1
STREAM_ID_MASK = MAX_STREAM_ID = 0x7FFF_FFFF

FRAME_HEADER = Struct(">HBBBI")
"""Length (high 16 bits, low 8), type, flags, reserved bit and stream id."""
UINT32 = Struct(">I")
SETTING = Struct(">HI")


class FrameType(IntEnum):
    """RFC 9113, section 6."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


class Flag(IntFlag):
    """Of several frame types; ACK and END_STREAM share a bit."""

    ACK = 0x1
    END_STREAM = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(IntEnum):
    """RFC 9113, section 6.5.2."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return opening(len(payload), kind, flags) + UINT32.pack(stream_id) + payload


def opening(length: int, kind: int, flags: int) -> bytes:
    """The first five bytes of a frame, all but the stream id."""
    return length.to_bytes(3, "big") + bytes((kind, flags))


def settings_frame(values: dict[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(SETTING.pack(name, value) for name, value in values.items())
    return frame(FrameType.SETTINGS, 0, 0, payload)


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream_id, UINT32.pack(increment))


def rst_stream(stream_id: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame(FrameType.RST_STREAM, 0, stream_id, UINT32.pack(code))


def goaway(last_stream_id: int, code: int, reason: str = "") -> bytes:
    """A GOAWAY frame; the reason is for the peer's log."""
    return frame(FrameType.GOAWAY, 0, 0, UINT32.pack(last_stream_id) + UINT32.pack(code) + reason.encode()[:256])


def ping(opaque: bytes, *, ack: bool = False) -> bytes:
    """A PING frame with its eight bytes."""
    return frame(FrameType.PING, Flag.ACK if ack else 0, 0, opaque)


SETTINGS_ACK = frame(FrameType.SETTINGS, Flag.ACK, 0)

_HTTP1_BODY = b"This port speaks gRPC, which is HTTP/2. Use a gRPC client, or curl --http2-prior-knowledge.\n"
HTTP1_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_HTTP1_BODY), _HTTP1_BODY)
)
"""What a client is told that speaks HTTP/1."""
