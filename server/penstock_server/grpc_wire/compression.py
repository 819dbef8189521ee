"""Decompression of messages, capped while it inflates: what would be too large is never made.

A message's flag says whether it is compressed, `grpc-encoding` how. Responses are not compressed: it would cost more
CPU than most models, and a secret beside what an attacker chooses could be guessed from the length (BREACH).
"""

import zlib
from collections.abc import Callable, Mapping

from penstock_server.grpc_wire.status import INTERNAL, RESOURCE_EXHAUSTED, Refusal

Buffer = bytes | memoryview
Inflate = Callable[[Buffer, int], bytes]
"""A compressed message and the largest size it may come to. Refusal if it is more, or no such data."""

ACCEPTED = b"identity, deflate, gzip"
"""The value of `grpc-accept-encoding`."""


def too_large(size: int, limit: int) -> Refusal:
    """The refusal of a message, in the words of gRPC's own servers."""
    return Refusal(RESOURCE_EXHAUSTED, f"SERVER: Received message larger than max ({size} vs. {limit})")


def inflate_gzip(data: Buffer, limit: int) -> bytes:
    """RFC 1952."""
    return _inflate(data, limit, zlib.MAX_WBITS | 16)


def inflate_deflate(data: Buffer, limit: int) -> bytes:
    """`deflate` in HTTP's sense, which is zlib's format: RFC 1950."""
    return _inflate(data, limit, zlib.MAX_WBITS)


INFLATES: Mapping[bytes, Inflate | None] = {
    b"": None,
    b"identity": None,
    b"gzip": inflate_gzip,
    b"deflate": inflate_deflate,
}
"""By the value of `grpc-encoding`."""


def _inflate(data: Buffer, limit: int, window_bits: int) -> bytes:
    inflating = zlib.decompressobj(window_bits)
    try:
        # One byte more than may be tells apart what just fits; what it would come to in the end nobody finds out.
        message = inflating.decompress(data, limit + 1)
    except zlib.error:
        message = None
    if message is not None and len(message) > limit:
        raise too_large(limit + 1, limit)
    if message is None or not inflating.eof or inflating.unused_data:
        raise Refusal(INTERNAL, "Decompression failed due to data error")
    return message
