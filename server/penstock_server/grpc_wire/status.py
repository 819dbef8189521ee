"""How calls end on the wire: `grpc-status`, `grpc-message`, and the fields around them.

Statuses are plain numbers here; penstock_server.status names them. Every end is a list of fields, which whoever knows
HTTP/2 makes a header block of, once.

A message is percent-encoded: what is no printable ASCII, and `%` itself, travels as `%` and two digits a byte of its
UTF-8. So do blanks at its ends, which gRPC would let be and HTTP/2 would not.
"""

from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]

DEADLINE_EXCEEDED: Final = 4
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13

CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
RESPONSE: Final[Fields] = ((b":status", b"200"), CONTENT_TYPE)
"""The head of every response that has one."""
OK: Final[Fields] = ((b"grpc-status", b"0"),)
"""The trailers of a response that ended well."""

_AS_IT_IS = "".join(chr(code) for code in range(0x20, 0x7F) if code != 0x25)


class Refusal(Exception):
    """The peer broke a rule of gRPC, or asks for more than it may: how its call ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def encode_message(text: str) -> bytes:
    """A `grpc-message`. Half characters become question marks."""
    encoded = quote(text.encode("utf-8", "replace"), safe=_AS_IT_IS)
    inner = encoded.strip(" ")
    if len(inner) != len(encoded):
        before = len(encoded) - len(encoded.lstrip(" "))
        after = len(encoded) - before - len(inner)
        encoded = "%20" * before + inner + "%20" * after
    return encoded.encode()


def trailers(status: int, message: str = "", metadata: Iterable[Field] = ()) -> Fields:
    """The fields that end a call whose head has been sent."""
    fields: Fields = ((b"grpc-status", b"%d" % status),)
    if message:
        fields = (*fields, (b"grpc-message", encode_message(message)))
    return (*fields, *metadata)


def trailers_only(status: int, message: str = "", metadata: Iterable[Field] = ()) -> Fields:
    """The fields of a response that is nothing but its end."""
    return (*RESPONSE, *trailers(status, message, metadata))


def http_refusal(http_status: int, status: int, message: str, more: Sequence[Field] = ()) -> Fields:
    """The answer to what is no gRPC request: an HTTP status for any client, and a gRPC one for those that speak it."""
    return ((b":status", b"%d" % http_status), CONTENT_TYPE, *more, *trailers(status, message))
