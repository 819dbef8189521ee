"""What a request's header list says: the method, its metadata and encoding, or why it is refused.

`grpc-timeout` is not read here: it differs from call to call, while everything else repeats, so whoever knows HTTP/2
hands it over by itself and caches the rest.

Lenient where gRPC's servers are: `te: trailers` may be missing (proxies drop it, and it only tells whether they pass
trailers on). Strict where a mistake would go unnoticed: another method than POST, another content type.
"""

from dataclasses import dataclass

from penstock_server.grpc_wire.compression import ACCEPTED, INFLATES, Inflate
from penstock_server.grpc_wire.metadata import Pair, decode_metadata
from penstock_server.grpc_wire.status import (
    INTERNAL,
    UNIMPLEMENTED,
    Field,
    Fields,
    Refusal,
    http_refusal,
    trailers_only,
)

_CONTENT_TYPE = b"application/grpc"


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head. Immutable, since equal header blocks share one."""

    path: str
    metadata: tuple[Pair, ...] = ()
    inflate: Inflate | None = None
    """How compressed messages are read; None: there must be none."""
    refusal: Fields | None = None
    """The response that the call gets instead of being served."""


def interpret(headers: list[Field]) -> Head:
    """Read a header list that HTTP/2 has found well formed. Never raises."""
    path = method = content_type = encoding = b""
    for name, value in headers:
        if name == b":path":
            path = value
        elif name == b":method":
            method = value
        elif name == b"content-type":
            content_type = value
        elif name == b"grpc-encoding":
            encoding = value
    # No method has such a path: what is no UTF-8 is only made printable.
    text = path.decode("utf-8", "replace")
    if method != b"POST":
        return Head(text, refusal=http_refusal(405, INTERNAL, "gRPC calls are POST requests", [(b"allow", b"POST")]))
    if not _is_grpc(content_type):
        return Head(text, refusal=http_refusal(415, INTERNAL, "the content-type of gRPC calls is application/grpc"))
    try:
        metadata = decode_metadata(headers)
    except Refusal as refused:
        return Head(text, refusal=trailers_only(refused.status, refused.message))
    if encoding not in INFLATES:
        shown = encoding.decode("latin-1")[:32]
        refusal = trailers_only(UNIMPLEMENTED, f"compression '{shown}' is not supported")
        return Head(text, metadata, refusal=(*refusal, (b"grpc-accept-encoding", ACCEPTED)))
    return Head(text, metadata, INFLATES[encoding])


def _is_grpc(content_type: bytes) -> bool:
    """`application/grpc`, perhaps with a serialisation (`+proto`) or a parameter."""
    content_type = content_type.lower()
    return content_type.startswith(_CONTENT_TYPE) and content_type[len(_CONTENT_TYPE) :][:1] in (b"", b"+", b";")
