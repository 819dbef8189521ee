"""The same raw requests on both transports: what a client gets, and what a method is told, must be the same.

Where they differ on purpose is told in docs/reference/limits.md, and not here.
"""

import gzip
from collections.abc import AsyncIterator

import pytest

from penstock_server.service.seam import Buffer, Cancel, Reply, RequestHead, Unary, nothing_to_cancel
from penstock_server.transports.base import Transport, TransportSettings
from tests.server.transports.conftest import TRANSPORTS
from tests.server.transports.peer import Peer, framed

CALL = "/test.Test/Call"
Fields = tuple[tuple[str, str], ...]

REQUESTS: dict[str, tuple[str, Fields, bytes]] = {
    "a message": (CALL, (), framed(b"x")),
    "an empty message": (CALL, (), framed(b"")),
    "an unknown method": ("/test.Test/Other", (), framed(b"x")),
    "a large message": (CALL, (), framed(bytes(1001))),
    "no message": (CALL, (), b""),
    "half a prefix": (CALL, (), b"\0\0"),
    "half a message": (CALL, (), framed(b"abc")[:-1]),
    "no timeout": (CALL, (("grpc-timeout", "soon"),), framed(b"x")),
    "no time": (CALL, (("grpc-timeout", "0n"),), framed(b"x")),
    "gzip": (CALL, (("grpc-encoding", "gzip"),), framed(gzip.compress(b"x"), 1)),
    "gzip, and a plain message": (CALL, (("grpc-encoding", "gzip"),), framed(b"x")),
    "gzip of too much": (CALL, (("grpc-encoding", "gzip"),), framed(gzip.compress(bytes(1001)), 1)),
    "no gzip": (CALL, (("grpc-encoding", "gzip"),), framed(b"x", 1)),
    "compressed by what": (CALL, (), framed(b"x", 1)),
    "compressed by identity": (CALL, (("grpc-encoding", "identity"),), framed(b"x", 1)),
    "no base64": (CALL, (("k-bin", "A!"),), framed(b"x")),
    "metadata": (
        CALL,
        (
            *(("user-agent", "ua"), ("a", "b"), ("a", "c"), ("x-bin", "AAE"), ("y-bin", "AAE="), ("empty", "")),
            *(("grpc-foo", "1"), ("host", "h"), ("grpc-accept-encoding", "gzip"), ("grpc-trace-bin", "AAE")),
            *(("grpc-previous-rpc-attempts", "1"), ("grpc-message-type", "x"), ("lb-token", "x"), ("text", "ä")),
        ),
        framed(b"x"),
    ),
}


@pytest.fixture
async def both() -> AsyncIterator[list[tuple[Peer, list[RequestHead]]]]:
    """A connection to each transport, and the heads that its method is told of."""
    pairs: list[tuple[Peer, list[RequestHead]]] = []
    transports: list[Transport] = []
    for make in TRANSPORTS.values():
        heads: list[RequestHead] = []

        def call(head: RequestHead, message: Buffer, reply: Reply, heads: list[RequestHead] = heads) -> Cancel:
            heads.append(head)
            reply([message])
            return nothing_to_cancel

        transports.append(make({CALL: Unary(call)}, TransportSettings(port=0, max_message_bytes=1000)))
        pairs.append((await Peer.to(await transports[-1].start()), heads))
    yield pairs
    for peer, _ in pairs:
        await peer.close()
    for transport in transports:
        await transport.stop(0)


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_same_request(both: list[tuple[Peer, list[RequestHead]]], name: str) -> None:
    """Status, text and answer; method, metadata and the form of the peer's name."""
    path, fields, body = REQUESTS[name]
    seen: list[object] = []
    for peer, heads in both:
        stream = peer.call(path, body, fields)
        end = await peer.end(stream)
        told = [(h.method, sorted((k, v) for k, v in h.metadata), h.peer.rpartition(":")[0]) for h in heads]
        seen.append((end, peer.body(stream), told))
    assert seen[0] == seen[1]
    assert len(both) == 2
