"""What can go wrong on a connection, with the code that the peer is told.

Two kinds, as in RFC 9113, section 5.4: a *connection* fault ends the connection with GOAWAY, a *stream* fault ends one
stream with RST_STREAM. They are raised anywhere inside and caught at one place, `Connection.receive`: no exception
leaves this package because of what a peer sent.
"""

from enum import IntEnum


class ErrorCode(IntEnum):
    """RFC 9113, section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Fault(Exception):
    """Base of the two kinds; not raised itself. The reason is plain English, written for the peer's log."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code = code
        self.reason = reason


class ConnectionFault(Fault):
    """The connection cannot go on."""


class StreamFault(Fault):
    """One stream cannot go on; the others do not notice."""
